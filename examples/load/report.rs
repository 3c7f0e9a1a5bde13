//! Draws the conclusions of a run: one table for people, one JSON object for
//! programs. Loss is counted over the whole run; times, gaps, CPU and memory
//! over its steady part, when all calls are up.

use std::collections::BTreeMap;
use std::ops::Range;

use serde_json::{Value, json};

use crate::echo::Worker;
use crate::engine::Notes;
use crate::leg::{Arrival, Content, Leg};
use crate::process::Usage;

/// What the SIP side knows.
#[derive(Default)]
pub struct Signalling {
    pub calls: usize,
    pub up: usize,
    /// Reason of each failure, and how often.
    pub failures: BTreeMap<String, u64>,
    /// Calls that the bridge ended before we did.
    pub ended_early: u64,
    /// What the bridge did against the rules of SIP.
    pub faults: Vec<String>,
}

/// Readings around the steady part.
#[derive(Clone, Copy, Debug, Default)]
pub struct Readings {
    /// The steady part, in ns of the run's clock.
    pub from_ns: u64,
    pub until_ns: u64,
    /// The bridge before any call, and at both ends of the steady part.
    pub bridge: Option<[Usage; 3]>,
    /// The generator at both ends.
    pub generator: [Usage; 2],
    /// Share of the machine's time that nobody used.
    pub machine_idle: f64,
}

/// A set of durations.
pub struct Durations(Vec<u64>);

impl Durations {
    fn new(mut ns: Vec<u64>) -> Self {
        ns.sort_unstable();
        Self(ns)
    }

    /// The value that this share of all values does not pass, in ms.
    fn quantile_ms(&self, share: f64) -> Option<f64> {
        let last = self.0.len().checked_sub(1)?;
        let rank = (share * self.0.len() as f64).ceil() as usize;
        Some(self.0[rank.saturating_sub(1).min(last)] as f64 / 1e6)
    }

    fn json(&self) -> Value {
        let at = |share| self.quantile_ms(share).map(|ms| (ms * 1e3).round() / 1e3);
        json!({ "count": self.0.len(), "p50": at(0.5), "p95": at(0.95), "p99": at(0.99), "max": at(1.0) })
    }
}

/// Everything that a run found, ready to print.
pub struct Report(pub Value);

impl Report {
    /// Evaluates the notes of a run.
    pub fn new(label: &str, sip: &Signalling, notes: &Notes, readings: &Readings) -> Self {
        let legs: Vec<&Leg> = notes.legs.iter().flatten().collect();
        let window = readings.from_ns..readings.until_ns;
        let frames = legs.iter().flat_map(|leg| &leg.frames);
        let sent = frames.clone().count();
        let lost_in = frames.clone().filter(|f| f.worker_in_ns == 0).count();
        let echoed = frames.clone().filter(|f| f.worker_out_ns != 0).count();
        let lost_out = frames
            .clone()
            .filter(|f| f.worker_out_ns != 0 && f.back_ns == 0)
            .count();
        let steady = frames.filter(|f| window.contains(&f.sent_ns));
        let between = |from: fn(&crate::leg::Frame) -> u64, to: fn(&crate::leg::Frame) -> u64| {
            let both = steady.clone().filter(|f| from(f) != 0 && to(f) != 0);
            Durations::new(both.map(|f| to(f).saturating_sub(from(f))).collect()).json()
        };
        let since_invite = |to: fn(&Leg) -> u64| {
            let known = legs.iter().filter(|leg| to(leg) != 0);
            Durations::new(
                known
                    .map(|leg| to(leg).saturating_sub(leg.invited_ns))
                    .collect(),
            )
            .json()
        };
        let sum = |count: fn(&Leg) -> u64| legs.iter().map(|leg| count(leg)).sum::<u64>();
        let workers = |count: fn(&Worker) -> u64| notes.workers.iter().map(count).sum::<u64>();
        Self(json!({
            "label": label,
            "seconds": (readings.until_ns - readings.from_ns) as f64 / 1e9,
            "calls": {
                "asked": sip.calls,
                "up": sip.up,
                "failed": sip.failures,
                "endedEarly": sip.ended_early,
                "withoutWorker": legs.iter().filter(|leg| leg.worker_started_ns == 0).count(),
            },
            "setupMs": { "answer": since_invite(|leg| leg.answered_ns), "workerStart": since_invite(|leg| leg.worker_started_ns) },
            "frames": { "sent": sent, "lostToWorker": lost_in, "echoed": echoed, "lostToCaller": lost_out },
            "latencyMs": {
                "rtpToWebSocket": between(|f| f.sent_ns, |f| f.worker_in_ns),
                "webSocketToRtp": between(|f| f.worker_out_ns, |f| f.back_ns),
                "roundTrip": between(|f| f.sent_ns, |f| f.back_ns),
            },
            "rtpGapMs": Durations::new(gaps(&legs, &window)).json(),
            "rtpPacketsPerSecond": packets_per_second(&legs, &window),
            "silencePercent": silence_percent(&legs, &notes.workers, &window),
            "clearMs": clear_times(notes),
            "faults": {
                "altered": sum(|leg| leg.faults.altered) + workers(|worker| worker.altered),
                "alteredFirst": legs.iter().find_map(|leg| first_altered(leg, readings)),
                "crossed": sum(|leg| leg.faults.crossed) + workers(|worker| worker.foreign),
                "duplicates": sum(|leg| leg.faults.duplicates),
                "reordered": sum(|leg| leg.faults.reordered),
                "sequenceGaps": sum(|leg| leg.faults.sequence_gaps),
                "timestampJumps": sum(|leg| leg.faults.timestamp_jumps),
                "foreignPackets": sum(|leg| leg.faults.foreign_packets),
                "fillersToWorker": notes.fillers,
                "webSocket": workers(|worker| worker.errors),
                "numbering": workers(|worker| worker.numbering_faults),
                "sip": sip.faults.len(),
                "sipFirst": sip.faults.first(),
            },
            "bridge": readings.bridge.map(|usage| bridge(usage, sip.up, readings)),
            "generator": {
                "cpuMsPerCallSecond": per_call_second(readings.generator[1].cpu_ms - readings.generator[0].cpu_ms, sip.up, readings),
                "lateMs": Durations::new(notes.lateness_ns.clone()).json(),
            },
            "machineIdlePercent": (readings.machine_idle * 1e3).round() / 10.0,
        }))
    }

    /// The table.
    pub fn print(&self) {
        let report = &self.0;
        println!("== {} ==", text(&report["label"]));
        for (name, path) in ROWS {
            println!("{name:<34} {}", cell(report, path));
        }
        if let Some(failed) = report["calls"]["failed"].as_object() {
            for (reason, count) in failed {
                println!("  failed: {count} x {reason}");
            }
        }
        for (name, count) in report["faults"].as_object().into_iter().flatten() {
            if count.as_u64().is_some_and(|count| count > 0) {
                println!("  faults: {count} x {name}");
            }
        }
        if !report["faults"]["sipFirst"].is_null() {
            println!("  first SIP fault: {}", text(&report["faults"]["sipFirst"]));
        }
    }
}

/// Rows of the table: name and where the value stands.
const ROWS: [(&str, &str); 24] = [
    ("calls asked", "/calls/asked"),
    ("calls up", "/calls/up"),
    ("calls ended early", "/calls/endedEarly"),
    ("calls without worker", "/calls/withoutWorker"),
    ("INVITE to 200, ms", "/setupMs/answer"),
    ("INVITE to worker's start, ms", "/setupMs/workerStart"),
    ("frames sent", "/frames/sent"),
    ("frames lost to the worker", "/frames/lostToWorker"),
    ("frames lost to the caller", "/frames/lostToCaller"),
    ("RTP in to WebSocket out, ms", "/latencyMs/rtpToWebSocket"),
    ("WebSocket in to RTP out, ms", "/latencyMs/webSocketToRtp"),
    ("round trip, ms", "/latencyMs/roundTrip"),
    ("gap between RTP packets, ms", "/rtpGapMs"),
    ("RTP packets a second and call", "/rtpPacketsPerSecond"),
    ("silence among the echo, %", "/silencePercent"),
    ("clear to last old packet, ms", "/clearMs/lastOldPacket"),
    ("clear to mark back, ms", "/clearMs/markBack"),
    (
        "bridge CPU-ms per call-second",
        "/bridge/cpuMsPerCallSecond",
    ),
    ("bridge RSS without, with calls, MB", "/bridge/rss"),
    ("bridge RSS per call, MB", "/bridge/rssPerCallMb"),
    ("bridge threads", "/bridge/threads"),
    (
        "generator CPU-ms per call-second",
        "/generator/cpuMsPerCallSecond",
    ),
    ("generator late, ms", "/generator/lateMs"),
    ("machine idle, %", "/machineIdlePercent"),
];

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn cell(report: &Value, path: &str) -> String {
    let value = report.pointer(path).unwrap_or(&Value::Null);
    match value {
        Value::Null => "-".into(),
        Value::Object(quantiles) => ["p50", "p95", "p99", "max"]
            .map(|name| match quantiles.get(name).and_then(Value::as_f64) {
                Some(ms) => format!("{name} {ms:.2}"),
                None => format!("{name} -"),
            })
            .join("  "),
        Value::Array(pair) => pair
            .iter()
            .map(Value::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        other => other.to_string(),
    }
}

fn gaps(legs: &[&Leg], window: &Range<u64>) -> Vec<u64> {
    legs.iter()
        .flat_map(|leg| leg.arrivals.windows(2))
        .filter(|pair| pair.iter().all(|arrival| window.contains(&arrival.at_ns)))
        .map(|pair| pair[1].at_ns - pair[0].at_ns)
        .collect()
}

fn steady<'a>(leg: &'a Leg, window: &'a Range<u64>) -> impl Iterator<Item = &'a Arrival> {
    leg.arrivals
        .iter()
        .filter(|arrival| window.contains(&arrival.at_ns))
}

/// Mean over the calls, from the first to the last packet of the steady part.
fn packets_per_second(legs: &[&Leg], window: &Range<u64>) -> Option<f64> {
    let (mut packets, mut ns) = (0, 0);
    for leg in legs {
        let times: Vec<u64> = steady(leg, window).map(|arrival| arrival.at_ns).collect();
        if let (Some(first), Some(last)) = (times.first(), times.last()) {
            packets += times.len() - 1;
            ns += last - first;
        }
    }
    (ns > 0).then(|| (packets as f64 * 1e13 / ns as f64).round() / 1e4)
}

/// Share of silence in what the callers got, in calls without `clear` test:
/// the worker echoes all the time, so each is a frame that came too late.
fn silence_percent(legs: &[&Leg], workers: &[Worker], window: &Range<u64>) -> Option<f64> {
    let tested = |leg: &Leg| {
        workers
            .iter()
            .any(|worker| worker.call == Some(leg.index) && !worker.rounds.is_empty())
    };
    let (mut silent, mut all) = (0_u64, 0_u64);
    for leg in legs.iter().filter(|leg| !tested(leg)) {
        for arrival in steady(leg, window) {
            all += 1;
            silent += u64::from(arrival.content == Content::Silence);
        }
    }
    (all > 0).then(|| (silent as f64 * 1e5 / all as f64).round() / 1e3)
}

/// Call, ms since the steady part began, and the bytes.
fn first_altered(leg: &Leg, readings: &Readings) -> Option<Value> {
    let (at_ns, payload) = leg.first_altered.as_ref()?;
    let at_ms = (*at_ns as f64 - readings.from_ns as f64) / 1e6;
    let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
    Some(json!({ "call": leg.index, "atMs": at_ms, "payload": hex }))
}

fn clear_times(notes: &Notes) -> Value {
    let (mut last_old, mut marks, mut unheard, mut no_mark) = (Vec::new(), Vec::new(), 0, 0);
    for worker in &notes.workers {
        let leg = worker
            .call
            .and_then(|call| notes.legs.get(usize::from(call))?.as_ref());
        let Some(leg) = leg else {
            continue;
        };
        for (number, round) in worker.rounds.iter().enumerate() {
            let pattern = Content::Pattern(number as u16);
            match leg
                .arrivals
                .iter()
                .rfind(|arrival| arrival.content == pattern)
            {
                Some(arrival) => last_old.push(arrival.at_ns.saturating_sub(round.cleared_ns)),
                None => unheard += 1,
            }
            match round.mark_back_ns.checked_sub(round.cleared_ns) {
                Some(ns) => marks.push(ns),
                None => no_mark += 1,
            }
        }
    }
    json!({
        "lastOldPacket": Durations::new(last_old).json(),
        "markBack": Durations::new(marks).json(),
        "patternNeverHeard": unheard,
        "markBeforeClearOrNever": no_mark,
    })
}

fn per_call_second(cpu_ms: f64, calls: usize, readings: &Readings) -> Option<f64> {
    let seconds = (readings.until_ns - readings.from_ns) as f64 / 1e9;
    (calls > 0).then(|| (cpu_ms / (calls as f64 * seconds) * 1e3).round() / 1e3)
}

fn bridge([idle, from, until]: [Usage; 3], calls: usize, readings: &Readings) -> Value {
    let mb = |kb: u64| (kb as f64 / 102.4).round() / 10.0;
    let grown_kb = until.rss_kb.saturating_sub(idle.rss_kb);
    json!({
        "cpuMsPerCallSecond": per_call_second(until.cpu_ms - from.cpu_ms, calls, readings),
        "rss": [mb(idle.rss_kb), mb(until.rss_kb)],
        "rssPerCallMb": (calls > 0).then(|| (grown_kb as f64 / 1.024 / calls as f64).round() / 1e3),
        "threads": until.threads,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_were_seen() {
        let durations = Durations::new((1..=100).map(|ms| ms * 1_000_000).collect());
        assert_eq!(durations.quantile_ms(0.5), Some(50.0));
        assert_eq!(durations.quantile_ms(0.99), Some(99.0));
        assert_eq!(durations.quantile_ms(1.0), Some(100.0));
        assert_eq!(Durations::new(Vec::new()).quantile_ms(0.5), None);
    }
}
