//! The two contracts, field by field: the job in Redis (`sipbridge::guide::call_queue`) and the
//! messages on the WebSocket (`sipbridge::guide::media_streams`).

use serde_json::{Value, json};

use crate::harness::bridge::{LINE, NUMBER, RESTAURANT, Setup, USERNAME};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::worker::QUEUE;
use crate::harness::{Caller, Job, Redis, SOON, Worker, http, sound, until};

fn is_sid(value: &Value, prefix: &str) -> bool {
    value.as_str().is_some_and(|text| {
        text.strip_prefix(prefix).is_some_and(|hex| {
            hex.len() == 32
                && hex
                    .bytes()
                    .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
        })
    })
}

/// `2026-01-15T14:30:00.123Z`, as milliseconds since midnight.
fn iso_ms(value: &Value) -> i64 {
    let text = value.as_str().unwrap();
    assert_eq!(text.len(), 24, "ISO 8601 with milliseconds, UTC: {text}");
    assert!(text.ends_with('Z') && &text[10..11] == "T", "{text}");
    let part = |range: std::ops::Range<usize>| text[range].parse::<i64>().unwrap();
    ((part(11..13) * 60 + part(14..16)) * 60 + part(17..19)) * 1_000 + part(20..23)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_job_has_every_field_of_the_contract() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .line_field("customParameters", json!({"menu": "lunch"}))
        .args(&["--param", "tenant=alpha", "--worker-timeout", "30"])
        .start()
        .await;
    let _call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await.json;

    assert_eq!(job["version"], 1, "{job}");
    assert!(is_sid(&job["callId"], "CA"), "{job}");
    assert!(is_sid(&job["streamSid"], "MZ"), "{job}");
    assert_eq!(job["phoneLineId"], LINE);
    assert_eq!(job["restaurantId"], RESTAURANT);
    assert_eq!(job["bridgeNodeId"], "node-e2e");
    assert_eq!(job["from"], CALLER_NUMBER);
    assert_eq!(job["to"], NUMBER);
    assert_eq!(job["direction"], "inbound");
    assert_eq!(job["attempt"], 1);
    assert_eq!(job["resumed"], false);
    let lifetime_ms = iso_ms(&job["expiresAt"]) - iso_ms(&job["timestamp"]);
    let lifetime_ms = lifetime_ms.rem_euclid(86_400_000);
    // The worker timeout runs from the answer; the job is written a moment later.
    assert!((29_000..=30_000).contains(&lifetime_ms), "{lifetime_ms} ms");

    let url = job["audioStreamUrl"].as_str().unwrap();
    assert_eq!(job["audioStreamWsUrl"], url);
    assert_eq!(job["audioWsUrl"], url);
    let call = job["callId"].as_str().unwrap();
    let start = format!(
        "ws://127.0.0.1:{}/media-stream/{call}?token=",
        bridge.stream_port
    );
    let token = url.strip_prefix(&start).unwrap_or_else(|| panic!("{url}"));
    assert!(is_sid(&json!(token), ""), "128 bits in hex: {token}");

    let parameters = job["customParameters"].as_object().unwrap();
    assert_eq!(parameters["restaurantId"], RESTAURANT);
    assert_eq!(parameters["menu"], "lunch");
    assert_eq!(parameters["tenant"], "alpha");
    for (name, value) in job.as_object().unwrap() {
        assert!(!value.is_null(), "{name}: unknown values are absent");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn connected_and_start_have_every_field() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--param", "tenant=alpha"])
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let mut worker = Worker::attach(&job).await;

    assert_eq!(
        worker.heard[0].json,
        json!({"event": "connected", "protocol": "Call", "version": "1.0.0"})
    );
    let start = worker.start().clone();
    assert_eq!(start["sequenceNumber"], "1");
    assert_eq!(start["streamSid"], job.json["streamSid"]);
    let inner = &start["start"];
    assert_eq!(inner["streamSid"], job.json["streamSid"]);
    assert_eq!(inner["callSid"], job.json["callId"]);
    assert!(is_sid(&inner["accountSid"], "AC"), "{start}");
    assert_eq!(inner["tracks"], json!(["inbound"]));
    assert_eq!(
        inner["mediaFormat"],
        json!({"encoding": "audio/x-mulaw", "sampleRate": 8_000, "channels": 1})
    );
    let parameters = &inner["customParameters"];
    assert_eq!(parameters["callerPhone"], CALLER_NUMBER);
    assert_eq!(parameters["to"], NUMBER);
    assert_eq!(parameters["direction"], "inbound");
    assert_eq!(parameters["phoneLineId"], LINE);
    assert_eq!(parameters["restaurantId"], RESTAURANT);
    assert_eq!(parameters["tenant"], "alpha");

    call.player().play(&sound::numbered(0, 10)).await;
    call.bye().await;
    worker.listen_to_end().await;
    worker.assert_numbered();
    let media = worker.all("media")[0].json.clone();
    assert_eq!(media["media"]["chunk"], "1");
    assert!(media["media"]["timestamp"].is_string(), "{media}");
    let stop = &worker.heard.last().unwrap().json;
    assert_eq!(stop["event"], "stop", "stop is the last message");
    assert_eq!(stop["stop"]["accountSid"], inner["accountSid"]);
    assert_eq!(stop["stop"]["callSid"], inner["callSid"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn dtmf_comes_as_a_message_by_rfc_4733_and_by_info() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 5)).await;
    player.press(7, 101).await;
    player.play(&sound::numbered(5, 5)).await;
    player.press(11, 101).await;
    for (kind, body) in [
        ("application/dtmf-relay", "Signal=5\r\nDuration=160\r\n"),
        ("application/dtmf", "3"),
    ] {
        let headers = format!("Content-Type: {kind}\r\n");
        let response = call.request("INFO", &headers, body).await;
        assert_eq!(response.status(), Some(200), "{kind}");
    }
    player.play(&sound::numbered(10, 5)).await;
    call.bye().await;
    worker.listen_to_end().await;

    let digits: Vec<&str> = worker
        .all("dtmf")
        .iter()
        .map(|heard| {
            assert_eq!(heard.json["dtmf"]["track"], "inbound_track");
            heard.json["dtmf"]["digit"].as_str().unwrap()
        })
        .collect();
    assert_eq!(digits, ["7", "#", "5", "3"], "each digit once, in order");
    worker.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_opens_its_call_once() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let path = format!("/media-stream/{}", job.text("callId"));
    let good = format!("{path}?token={}", job.token());
    let ask = async |path: &str| {
        let answer = http::upgrade(bridge.stream_port, path).await.unwrap();
        answer.status
    };

    let wrong = format!("{path}?token={}", "0".repeat(32));
    assert_eq!(ask(&wrong).await, 401, "wrong token");
    assert_eq!(ask(&path).await, 401, "no token");
    let unknown = format!("/media-stream/CA{}?token={}", "0".repeat(32), job.token());
    assert_eq!(ask(&unknown).await, 404, "unknown call");

    let mut worker = Worker::attach(&job).await;
    assert_eq!(ask(&good).await, 409, "already attached");
    call.bye().await;
    worker.listen_to_end().await;
    until(SOON, "the call is over", async || ask(&good).await == 410).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_state_keys_tell_what_goes_on() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let node = async |key: &str| -> Option<String> {
        redis
            .query(&["GET", &format!("bridge:node-e2e:{key}")])
            .await
    };
    until(SOON, "heartbeat", async || {
        node("heartbeat").await.is_some()
    })
    .await;
    let expiry: i64 = redis.query(&["TTL", "bridge:node-e2e:heartbeat"]).await;
    assert!(
        (1..=10).contains(&expiry),
        "the heartbeat expires: {expiry}"
    );
    iso_ms(&json!(node("heartbeat").await.unwrap()));

    let mut call = Caller::connect(bridge.sip(), USERNAME).await;
    let job = Job::take(&redis).await;
    let mut worker = Worker::attach(&job).await;
    until(SOON, "one active call", async || {
        node("active_calls").await.as_deref() == Some("1")
            && redis
                .query::<Option<String>>(&["GET", "stats:active_calls"])
                .await
                .as_deref()
                == Some("1")
    })
    .await;
    let record = format!("call:{}", job.text("callId"));
    let line: Option<String> = redis.query(&["HGET", &record, "line"]).await;
    assert_eq!(line.as_deref(), Some(LINE));

    call.bye().await;
    worker.listen_to_end().await;
    until(SOON, "no active call", async || {
        node("active_calls").await.as_deref() == Some("0")
    })
    .await;
    until(SOON, "the record has its outcome", async || {
        let outcome: Option<String> = redis.query(&["HGET", &record, "outcome"]).await;
        outcome.as_deref() == Some("caller-hung-up")
    })
    .await;
    let expiry: i64 = redis.query(&["TTL", &record]).await;
    assert!((3_000..=3_600).contains(&expiry), "one hour: {expiry}");

    let events: Vec<(String, Vec<(String, String)>)> = redis
        .query(&["XRANGE", "stream:call_events", "-", "+"])
        .await;
    let names: Vec<&str> = events
        .iter()
        .flat_map(|(_, fields)| fields)
        .map(|(_, value)| value.as_str())
        .filter(|value| value.starts_with("call.") || value.starts_with("worker."))
        .collect();
    for name in [
        "call.ringing",
        "call.queued",
        "worker.attached",
        "call.answered",
        "call.ended",
    ] {
        assert_eq!(
            names.iter().filter(|seen| **seen == name).count(),
            1,
            "{name} once in {names:?}"
        );
    }
    assert_eq!(names.last(), Some(&"call.ended"));
    let queued: i64 = redis.query(&["LLEN", QUEUE]).await;
    assert_eq!(queued, 0);
}
