//! `GET /metrics`: the text is what Prometheus reads, to the letter, and the
//! numbers move with real calls.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::{Api, Bridge, Caller, Redis, SOON, Worker, sound, until};

/// Samples by name and labels as they are written.
type Samples = BTreeMap<String, f64>;

/// Reads a text as strictly as promtool judges one; what is wrong, by line.
fn parse(text: &str) -> Result<Samples, String> {
    if !text.ends_with('\n') {
        return Err("does not end with a line feed".into());
    }
    let (mut samples, mut families) = (Samples::new(), BTreeSet::new());
    let mut family: Option<(String, Option<String>)> = None;
    for line in text.lines() {
        let wrong = |what: &str| Err(format!("{what}: {line}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else {
                return wrong("no help");
            };
            if !is_name(name) || help.is_empty() || help.contains('\\') {
                return wrong("bad name or help");
            }
            if !families.insert(name.to_owned()) {
                return wrong("a family comes twice");
            }
            family = Some((name.to_owned(), None));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            match (rest.split_once(' '), &mut family) {
                (Some((name, kind @ ("counter" | "gauge"))), Some((of, known @ None)))
                    if name == of =>
                {
                    if name.ends_with("_total") != (kind == "counter") {
                        return wrong("counters and only counters end with _total");
                    }
                    *known = Some(kind.to_owned());
                }
                _ => return wrong("TYPE out of place"),
            }
        } else {
            let Some((name, Some(kind))) = &family else {
                return wrong("a sample without HELP and TYPE");
            };
            let Some((series, value)) = line.rsplit_once(' ') else {
                return wrong("no value");
            };
            if series.split('{').next() != Some(name) || !labels_are_sound(&series[name.len()..]) {
                return wrong("another family, or bad labels");
            }
            let value: f64 = match value.parse() {
                Ok(value) if f64::is_finite(value) => value,
                _ => return wrong("no number"),
            };
            if kind == "counter" && value < 0.0 {
                return wrong("a counter below zero");
            }
            if samples.insert(series.to_owned(), value).is_some() {
                return wrong("a series comes twice");
            }
        }
    }
    Ok(samples)
}

fn is_name(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_lowercase());
    first && bytes.all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
}

/// Nothing, or `{a="b",c="d"}` with each name once.
fn labels_are_sound(text: &str) -> bool {
    if text.is_empty() {
        return true;
    }
    let inner = text.strip_prefix('{').and_then(|it| it.strip_suffix('}'));
    let Some(mut rest) = inner else { return false };
    let mut names = BTreeSet::new();
    loop {
        let Some((name, value)) = rest.split_once("=\"") else {
            return false;
        };
        let Some(end) = value.find('"') else {
            return false;
        };
        let is_plain = !value[..end].contains(['\\', '\n']);
        if !is_name(name) || name.starts_with("__") || !names.insert(name) || !is_plain {
            return false;
        }
        match value[end + 1..].strip_prefix(',') {
            Some(more) => rest = more,
            None => return value[end + 1..].is_empty(),
        }
    }
}

async fn scrape(bridge: &Bridge) -> Samples {
    let answer = Api::of(bridge).get("/metrics").await;
    assert_eq!(answer.status, 200);
    let kind = &answer.headers["content-type"];
    assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
    parse(&answer.body).unwrap_or_else(|error| panic!("{error}"))
}

/// Waits until a series has this value.
async fn becomes(bridge: &Bridge, series: &str, value: f64) {
    let found = async || scrape(bridge).await.get(series).copied();
    until(SOON, series, async || found().await == Some(value)).await;
}

#[test]
fn the_parser_refuses_what_prometheus_would() {
    let good = "# HELP a_total x\n# TYPE a_total counter\na_total{b=\"c\",d=\"e\"} 1\n";
    assert!(parse(good).is_ok());
    for (from, to) in [
        ("# HELP a_total x\n", ""),
        ("# TYPE a_total counter\n", ""),
        ("counter", "gauge"),
        ("counter", "thing"),
        ("} 1", "} one"),
        ("} 1", "}"),
        ("} 1", "} -1"),
        ("} 1\n", "} 1"),
        ("b=\"c\"", "b=c"),
        ("d=\"e\"", "b=\"e\""),
        ("d=\"e\"", "d=\"e\\\""),
        ("a_total{", "b_total{"),
        ("a_total{", "A_total{"),
        ("a_total{b", "a_total{B"),
    ] {
        let bad = good.replacen(from, to, 1);
        assert_ne!(bad, good);
        assert!(parse(&bad).is_err(), "{bad}");
    }
    assert!(parse(&good.repeat(2)).is_err());
    let twice = good.to_owned() + "a_total{b=\"c\",d=\"e\"} 2\n";
    assert!(parse(&twice).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_numbers_move_with_calls() {
    let (redis, folder) = (Redis::start(), TempDir::new().unwrap());
    let data = folder.path().display().to_string();
    let setup = Setup::queue(&redis).args(&["--data-dir", &data]);
    let bridge = setup.start().await;
    let before = scrape(&bridge).await;
    for (series, value) in [
        ("sipbridge_calls_in_progress{direction=\"inbound\"}", 0.0),
        ("sipbridge_lines{state=\"unregistered\"}", 1.0),
        ("sipbridge_takes_calls", 1.0),
        ("sipbridge_calls_max", 60.0),
        ("sipbridge_rtp_packets_total{direction=\"in\"}", 0.0),
    ] {
        assert_eq!(before.get(series), Some(&value), "{series}");
    }
    becomes(&bridge, "sipbridge_redis_connected", 1.0).await;

    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let speech = sound::numbered(0, 60);
    call.player().play(&speech).await;
    worker.hears(&speech.concat(), SOON).await;
    // Python's base64.encodebytes, and JavaScript's base64url; then no base64 at all.
    let reply = sound::numbered(1, 20).concat();
    for payload in [
        STANDARD.encode(&reply[..1_600]) + "\n",
        URL_SAFE_NO_PAD.encode(&reply[1_600..]),
        "not base64!".into(),
    ] {
        let stream = &worker.stream_sid;
        worker.send(&serde_json::json!({"event": "media", "streamSid": stream,
            "media": {"payload": payload}}));
    }
    call.rtp.hears(&reply, SOON).await;
    becomes(&bridge, "sipbridge_worker_audio_odd_base64_total", 2.0).await;
    becomes(&bridge, "sipbridge_worker_messages_ignored_total", 1.0).await;
    becomes(
        &bridge,
        "sipbridge_calls_in_progress{direction=\"inbound\"}",
        1.0,
    )
    .await;
    becomes(
        &bridge,
        "sipbridge_rtp_packets_total{direction=\"in\"}",
        60.0,
    )
    .await;
    call.bye().await;
    worker.listen_to_end().await;
    let ended = "sipbridge_calls_ended_total{direction=\"inbound\",outcome=\"caller-hung-up\"}";
    becomes(&bridge, ended, 1.0).await;
    becomes(&bridge, "sipbridge_call_records_written_total", 2.0).await;

    // A number that no line has, and a dial that is not permitted.
    let offer = crate::harness::sdp::Offer::usual();
    let mut stranger = Caller::invite(bridge.sip(), "+33100000000", offer).await;
    assert_eq!(stranger.final_response().await.status(), Some(404));
    let order = serde_json::json!({ "to": "+33892123456" });
    let refused = Api::of(&bridge).post("/api/calls", &order).await;
    refused.problem(403, "not-allowed");

    let after = scrape(&bridge).await;
    for (series, value) in [
        ("sipbridge_calls_in_progress{direction=\"inbound\"}", 0.0),
        ("sipbridge_calls_started_total", 1.0),
        (
            "sipbridge_calls_refused_total{reason=\"unknown_line\"}",
            1.0,
        ),
        (
            "sipbridge_dials_refused_total{reason=\"premium_rate\"}",
            1.0,
        ),
        ("sipbridge_dials_total", 0.0),
        ("sipbridge_worker_searches_total", 1.0),
        ("sipbridge_worker_attempts_total", 1.0),
        ("sipbridge_workers_attached_total", 1.0),
        ("sipbridge_worker_failovers_total", 0.0),
        ("sipbridge_events_dropped_total", 0.0),
        ("sipbridge_sip_panics_total", 0.0),
    ] {
        assert_eq!(after.get(series), Some(&value), "{series}");
    }
    let rises = [
        "sipbridge_uptime_seconds",
        "sipbridge_thread_beats_total{thread=\"media pacer thread\"}",
        "sipbridge_thread_beats_total{thread=\"pjsip media thread\"}",
        "sipbridge_rtp_packets_total{direction=\"out\"}",
        "process_cpu_seconds_total",
    ];
    for series in rises {
        assert!(after[series] > before[series], "{series}");
    }
    assert!(after["process_resident_memory_bytes"] > 1e6);
    assert!(after["process_open_fds"] > 5.0 && after["process_threads"] > 3.0);
    // A counter never falls, and no series goes away.
    for (series, value) in &before {
        let now = after.get(series).unwrap_or_else(|| panic!("{series}"));
        assert!(!series.contains("_total") || now >= value, "{series}");
    }
    let health = bridge.health().await.json();
    assert_eq!(health["records"]["written"], 2);
    assert_eq!(health["records"]["dropped"], 0);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dials_in_vain_and_the_rungs_of_the_fallback_are_counted() {
    let nobody = format!("ws://127.0.0.1:{}/", crate::harness::peers::free_port());
    let setup = Setup::new().args(&["--ws-target", &nobody, "--worker-timeout", "1"]);
    let bridge = setup.start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    call.ended_by_bridge(Duration::from_secs(40)).await;
    let after = scrape(&bridge).await;
    for (series, value) in [
        ("sipbridge_worker_searches_total", 1.0),
        ("sipbridge_workers_attached_total", 0.0),
        ("sipbridge_fallbacks_total{rung=\"announcement\"}", 1.0),
        ("sipbridge_fallbacks_total{rung=\"transfer\"}", 0.0),
        ("sipbridge_fallbacks_total{rung=\"hangup\"}", 1.0),
    ] {
        assert_eq!(after.get(series), Some(&value), "{series}");
    }
    assert!(after["sipbridge_worker_attempts_total"] > 1.0);
    bridge.shut_down().await;
}
