//! `GET /metrics`: what the bridge does, for Prometheus. Needs no token and
//! tells nothing private: no number, no line, no address.
//!
//! Names begin with `sipbridge_`, but for the facts of the process, whose names
//! are Prometheus' own. Everything is counted where it happens and only read
//! here; what is in the calls is at most a second old.

use std::time::Duration;

use axum::extract::State;
use axum::http::header;
use axum::response::{IntoResponse, Response};

use super::access;
use super::control::HealthSource;
use super::exposition::Exposition;
use super::health::Health;
use super::process::Process;
use crate::bridge::call_counters::TallyStats;
use crate::core::access::REASONS;
use crate::store::CallLogStats;

const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What only metrics tell, gathered with the rest. All zero by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MetricCounters {
    /// Calls in progress that came in.
    pub inbound: u64,
    /// Calls in progress that we placed.
    pub outbound: u64,
    /// What became of calls and searches.
    pub counters: TallyStats,
    /// Dials of the API that were let through.
    pub dials: u64,
    /// Dials of the API that were refused, by reason.
    pub dials_refused: Vec<(&'static str, u64)>,
    /// Registrations that failed or were lost.
    pub registration_failures: u64,
    /// Records of calls, where there is a database.
    pub records: Option<CallLogStats>,
    /// Callbacks, where there are any.
    pub callbacks: Option<CallbackTotals>,
    /// Lines that the reader of the log did not take.
    pub log_lines_dropped: u64,
    /// Beats of the threads that the watchdog watches.
    pub beats: Vec<(&'static str, u64)>,
}

/// Status callbacks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallbackTotals {
    /// Not delivered yet.
    pub pending: u64,
    /// Delivered.
    pub delivered: u64,
    /// Tries that failed and are made again.
    pub retried: u64,
    /// Given up or lost.
    pub dropped: u64,
}

/// Numbers for Prometheus, in its text format. Needs no token.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "health",
    operation_id = "metrics",
    security(()),
    responses((status = 200, description = "All metrics.", body = String, content_type = "text/plain; version=0.0.4; charset=utf-8")),
)]
pub(super) async fn answer(State(source): State<HealthSource>) -> Response {
    let process = tokio::task::spawn_blocking(Process::read).await;
    let text = write(&source.health(), &process.unwrap_or_default());
    let headers = [
        (header::CONTENT_TYPE, CONTENT_TYPE),
        (header::CACHE_CONTROL, "no-store"),
    ];
    (headers, text).into_response()
}

/// All families.
fn write(health: &Health, process: &Process) -> String {
    let mut text = Exposition::default();
    bridge(&mut text, health);
    calls(&mut text, health);
    workers(&mut text, health);
    lines(&mut text, health);
    sip(&mut text, health);
    audio(&mut text, health);
    stores(&mut text, health);
    process_facts(&mut text, process);
    text.into_text()
}

fn bridge(text: &mut Exposition, health: &Health) {
    let name = "sipbridge_build_info";
    text.family(name, "gauge", "1; the labels say which program this is.");
    let version = env!("CARGO_PKG_VERSION");
    let labels = [("version", version), ("node", health.node_id.as_str())];
    text.sample(name, &labels, 1);
    let help = "Time since the start.";
    text.gauge("sipbridge_uptime_seconds", help, seconds(health.uptime));
    let help = "Whether new calls are taken, as /health answers.";
    text.gauge(
        "sipbridge_takes_calls",
        help,
        u8::from(health.takes_calls()),
    );
    let help = "Whether a shutdown has begun.";
    text.gauge("sipbridge_draining", help, u8::from(health.draining));
    let help = "Whether new calls are refused because audio is late.";
    text.gauge("sipbridge_overloaded", help, u8::from(health.overloaded));
    let help =
        "Signs of life of the threads that the watchdog watches; one that stands still is hung.";
    let beats = health.counters.beats.iter().copied();
    text.counters("sipbridge_thread_beats_total", help, "thread", beats);
    let help = "Requests to the API with a token that is not its own.";
    let wrong = access::wrong_tokens();
    text.counter("sipbridge_api_wrong_tokens_total", help, wrong);
    let help = "Log lines dropped because whoever reads standard error had stopped reading.";
    let dropped = health.counters.log_lines_dropped;
    text.counter("sipbridge_log_lines_dropped_total", help, dropped);
    let help = "Panics caught in callbacks of the SIP stack.";
    text.counter("sipbridge_sip_panics_total", help, health.engine.panics);
}

fn calls(text: &mut Exposition, health: &Health) {
    let counters = &health.counters;
    let active = [
        ("inbound", counters.inbound),
        ("outbound", counters.outbound),
    ];
    let help = "Calls in progress.";
    text.gauges("sipbridge_calls_in_progress", help, "direction", active);
    let help = "Most calls at once.";
    text.gauge("sipbridge_calls_max", help, health.calls_max);
    let help = "Call legs of the SIP stack; a call joined with its fallback number has two.";
    text.gauge("sipbridge_sip_legs", help, health.engine.legs);
    let help = "Calls taken or placed.";
    text.counter("sipbridge_calls_started_total", help, health.totals.taken);
    let name = "sipbridge_calls_ended_total";
    text.family(name, "counter", "Calls that ended, by outcome.");
    for (direction, outcome, count) in &counters.counters.ended {
        let labels = [
            ("direction", direction.as_str()),
            ("outcome", outcome.as_str()),
        ];
        text.sample(name, &labels, count);
    }
    let refused = health.totals.refused;
    let help = "Calls refused before they were taken.";
    let reasons = [
        ("draining", refused.draining),
        ("overloaded", refused.overloaded),
        ("bridge_full", refused.bridge_full),
        ("bridge_rate", refused.bridge_rate),
        ("line_busy", refused.line_busy),
        ("line_share", refused.line_share),
        ("line_rate", refused.line_rate),
        ("unknown_line", health.engine.unknown_line),
    ];
    text.counters("sipbridge_calls_refused_total", help, "reason", reasons);
    let help = "SIP bodies that were refused or ignored: session descriptions, mostly.";
    let refused = health.engine.bodies_refused.iter().copied();
    text.counters(
        "sipbridge_sip_bodies_refused_total",
        help,
        "reason",
        refused,
    );
    let help = "SIP of strangers that was dropped, and calls refused for their source.";
    let names = REASONS.iter().map(|reason| reason.as_str());
    let strangers = names.zip(health.engine.strangers);
    text.counters("sipbridge_strangers_total", help, "reason", strangers);
    let help = "Calls and transfers of the API that the dial policy let through.";
    text.counter("sipbridge_dials_total", help, counters.dials);
    let help = "Calls and transfers of the API that the dial policy refused.";
    let refused = counters.dials_refused.iter().copied();
    text.counters("sipbridge_dials_refused_total", help, "reason", refused);
}

fn workers(text: &mut Exposition, health: &Health) {
    let counters = &health.counters.counters;
    for (name, help, count) in [
        (
            "sipbridge_worker_searches_total",
            "Calls for which a worker was looked for.",
            counters.searches,
        ),
        (
            "sipbridge_worker_attempts_total",
            "Tries to reach a worker: jobs pushed and dials.",
            counters.attempts,
        ),
        (
            "sipbridge_workers_attached_total",
            "Workers that came to a call.",
            counters.attached,
        ),
        (
            "sipbridge_worker_failovers_total",
            "Workers lost during a call.",
            counters.lost,
        ),
        (
            "sipbridge_unexpected_call_inputs_total",
            "Inputs of a call that came when it had no use for them any more, such as a worker that attached too late.",
            counters.unexpected_inputs,
        ),
        (
            "sipbridge_twiml_warnings_total",
            "What of TwiML was left out, failed or could not be had; the log says what.",
            counters.voice_warnings,
        ),
        (
            "sipbridge_worker_messages_ignored_total",
            "Messages of workers that were ignored; the log says why.",
            counters.ignored,
        ),
        (
            "sipbridge_worker_audio_odd_base64_total",
            "Messages with audio in base64 with line feeds, blanks or the URL-safe alphabet: played like any other.",
            counters.odd_audio,
        ),
    ] {
        text.counter(name, help, count);
    }
    let help = "Calls that came to each step of the fallback, for want of a worker.";
    let rungs = counters.fallbacks.iter();
    let rungs = rungs.map(|(step, count)| (step.as_str(), *count));
    text.counters("sipbridge_fallbacks_total", help, "rung", rungs);
    let Some(redis) = &health.redis else { return };
    let help = "Whether Redis is there.";
    text.gauge("sipbridge_redis_connected", help, u8::from(redis.connected));
    let help = "Call events that Redis never got.";
    let lost = redis.lost;
    text.counter("sipbridge_events_dropped_total", help, lost.dropped_events);
    let help = "Jobs that may have stayed in the queue though their calls were over.";
    let name = "sipbridge_job_removals_forgotten_total";
    text.counter(name, help, lost.forgotten_removals);
    let help = "Jobs no longer told apart from leftovers.";
    text.counter("sipbridge_jobs_forgotten_total", help, lost.forgotten_jobs);
}

fn lines(text: &mut Exposition, health: &Health) {
    let count = |lines: usize| u64::try_from(lines).unwrap_or(u64::MAX);
    let lines = health.lines;
    let states = [
        ("registered", count(lines.registered)),
        ("registering", count(lines.registering)),
        ("decrypting", count(lines.decrypting)),
        ("elsewhere", count(lines.elsewhere)),
        ("failed", count(lines.failed)),
        ("unregistered", count(lines.unregistered)),
        ("unusable", count(lines.unusable)),
    ];
    text.gauges("sipbridge_lines", "Phone lines by state.", "state", states);
    if let Some(cluster) = &health.cluster {
        let help = "Lines of this bridge that no living bridge is registered for.";
        let name = "sipbridge_lines_without_holder";
        text.gauge(name, help, count(cluster.lines_without_holder));
        let help = "Whether others may have taken the lines over, since Redis does not answer.";
        text.gauge(
            "sipbridge_cluster_cut_off",
            help,
            u8::from(cluster.is_cut_off),
        );
        let help = "Lines that are registered at each bridge that is alive.";
        let nodes = cluster.nodes.iter();
        let nodes = nodes.map(|node| (node.id.as_str(), u64::from(node.lines)));
        text.gauges("sipbridge_node_lines", help, "node", nodes);
    }
    let name = "sipbridge_registration_failures_total";
    let failures = health.counters.registration_failures;
    text.counter(name, "Registrations that failed or were lost.", failures);
}

fn sip(text: &mut Exposition, health: &Health) {
    let engine = &health.engine;
    let name = "sipbridge_sip_challenges_refused_total";
    let help =
        "Challenges (401, 407) that got no digest: they were not of the line's own SIP server.";
    text.counter(name, help, engine.challenges_refused);
    let name = "sipbridge_sip_lines_refused_total";
    let help = "Times that the SIP stack could not add a line; each is tried again.";
    text.counter(name, help, engine.lines_refused);
    let name = "sipbridge_sip_hangups_refused_total";
    let help =
        "Hang-ups that the SIP stack refused at first; each is tried again until its call is gone.";
    text.counter(name, help, engine.hangups_refused);
    let name = "sipbridge_sip_hangups_pending";
    let help = "Calls that the SIP stack still refuses to hang up.";
    text.gauge(name, help, engine.hangups_pending);
}

fn audio(text: &mut Exposition, health: &Health) {
    let readings = &health.readings;
    let audio = &readings.audio;
    let help = "RTP packets of all calls.";
    let packets = [("in", audio.rtp_in), ("out", audio.rtp_out)];
    text.counters("sipbridge_rtp_packets_total", help, "direction", packets);
    let help = "RTP packets that never came, or too late.";
    text.counter("sipbridge_rtp_packets_lost_total", help, audio.rtp_lost);
    let help = "RTP packets dropped: the call's queue was full, they came from another source, there were more than 200 a second of one caller, or they could not be sent.";
    let dropped = [
        ("overflow", health.engine.rtp_overflow),
        ("foreign", health.engine.rtp_foreign),
        ("thinned", health.engine.rtp_thinned),
        ("unsent", audio.rtp_unsent),
    ];
    text.counters(
        "sipbridge_rtp_packets_dropped_total",
        help,
        "reason",
        dropped,
    );
    for (name, help, duration) in [
        (
            "sipbridge_audio_to_workers_max_seconds",
            "Longest time that something waits for one worker.",
            audio.to_workers_max,
        ),
        (
            "sipbridge_audio_to_callers_max_seconds",
            "Longest queue of audio for one caller.",
            audio.to_callers_max,
        ),
        (
            "sipbridge_audio_to_callers_seconds",
            "Audio queued for all callers.",
            audio.to_callers_sum,
        ),
        (
            "sipbridge_pacer_late_max_seconds",
            "The latest tick of the pacer in five seconds.",
            readings.lateness.pacer,
        ),
        (
            "sipbridge_runtime_late_max_seconds",
            "The latest task of the runtime in five seconds.",
            readings.lateness.runtime,
        ),
    ] {
        text.gauge(name, help, seconds(duration));
    }
    for (name, help, count) in [
        (
            "sipbridge_pacer_rounds_skipped_total",
            "Rounds of 20 ms that the pacer gave up.",
            readings.rounds_skipped,
        ),
        (
            "sipbridge_worker_messages_dropped_total",
            "Messages to workers dropped because too many waited.",
            audio.messages_dropped,
        ),
        (
            "sipbridge_frames_trimmed_total",
            "Frames to callers dropped after a stall.",
            audio.frames_trimmed,
        ),
        (
            "sipbridge_marks_refused_total",
            "Marks refused because too many waited.",
            audio.marks_refused,
        ),
    ] {
        text.counter(name, help, count);
    }
    for (name, help, count) in audio.counters.iter() {
        text.counter(&format!("sipbridge_{name}_total"), help, count);
    }
}

fn stores(text: &mut Exposition, health: &Health) {
    if let Some(records) = health.counters.records {
        let help = "Records of calls written to the database.";
        let name = "sipbridge_call_records_written_total";
        text.counter(name, help, records.written);
        let help = "Records of calls that the database never got.";
        let name = "sipbridge_call_records_dropped_total";
        text.counter(name, help, records.dropped);
    }
    if let Some(callbacks) = health.counters.callbacks {
        let help = "Status callbacks not delivered yet.";
        text.gauge("sipbridge_callbacks_pending", help, callbacks.pending);
        let help = "Status callbacks delivered.";
        let name = "sipbridge_callbacks_delivered_total";
        text.counter(name, help, callbacks.delivered);
        let help = "Tries of status callbacks that failed and are made again.";
        let name = "sipbridge_callbacks_retried_total";
        text.counter(name, help, callbacks.retried);
        let help = "Status callbacks given up or lost.";
        let name = "sipbridge_callbacks_dropped_total";
        text.counter(name, help, callbacks.dropped);
    }
}

fn process_facts(text: &mut Exposition, process: &Process) {
    if let Some(seconds) = process.cpu_seconds {
        let help = "CPU time, user and system.";
        text.counter("process_cpu_seconds_total", help, seconds);
    }
    for (name, help, value) in [
        (
            "process_resident_memory_bytes",
            "Memory in use.",
            process.resident_bytes,
        ),
        ("process_threads", "Threads.", process.threads),
        (
            "process_open_fds",
            "File descriptors in use.",
            process.open_fds,
        ),
        ("process_max_fds", "Most file descriptors.", process.max_fds),
    ] {
        if let Some(value) = value {
            text.gauge(name, help, value);
        }
    }
}

fn seconds(duration: Duration) -> f64 {
    duration.as_secs_f64()
}
