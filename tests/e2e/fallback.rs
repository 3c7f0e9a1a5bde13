//! What a caller gets when no worker takes the call, rung by rung, from the real
//! program: announcement, REFER, a call that is joined, BYE.

use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::peers::{Process, free_port, free_udp_range};
use crate::harness::worker::QUEUE;
use crate::harness::{Caller, Redis, SOON, sound, until};

/// SIPp as the phone of the fallback number: answers, and echoes what it hears.
fn echoing_phone(port: u16, log: &std::path::Path) -> Process {
    let media = free_udp_range(6).to_string();
    let mut command = Command::new("sipp");
    command
        .args(["-sn", "uas", "-rtp_echo", "-i", "127.0.0.1", "-nostdin"])
        .args(["-p", &port.to_string(), "-mp", &media])
        .env("TERM", "dumb");
    Process::start("sipp", command, log)
}

#[tokio::test(flavor = "multi_thread")]
async fn where_refer_is_refused_the_fallback_number_is_called_and_joined() {
    let redis = Redis::start();
    let folder = tempfile::tempdir().unwrap();
    let port = free_port();
    let mut phone = echoing_phone(port, &folder.path().join("sipp.log"));
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "1"])
        .line_field("sipDomain", json!(format!("127.0.0.1:{port}")))
        .line_field("fallbackNumber", json!("+33144556677"))
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.refuse_refer();
    let mut player = call.player();
    let mut number = 0;
    until(
        Duration::from_secs(30),
        "an echo of the phone",
        async || {
            player.play(&sound::numbered(number, 25)).await;
            number += 25;
            sound::contains(
                &call.rtp.audio(),
                &sound::numbered(number.saturating_sub(40), 5).concat(),
            )
        },
    )
    .await;
    assert_eq!(call.requests("REFER").len(), 1);
    call.bye().await;
    until(SOON, "both legs are over", async || {
        bridge.health().await.json()["calls"]["active"] == 0
    })
    .await;
    let told: Vec<Vec<String>> = redis
        .query::<Vec<(String, Vec<String>)>>(&["XRANGE", "stream:call_events", "-", "+"])
        .await
        .into_iter()
        .map(|(_, fields)| fields)
        .filter(|fields| fields.contains(&"call.fallback".to_owned()))
        .collect();
    let field = |fields: &[String], name: &str| {
        let at = fields.iter().position(|field| field == name).unwrap();
        fields[at + 1].clone()
    };
    let rungs: Vec<_> = told.iter().map(|fields| field(fields, "rung")).collect();
    assert_eq!(rungs, ["announcement", "transfer", "bridge"]);
    assert_eq!(field(&told[2], "reason"), "transfer-refused");
    phone.stop();
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_worker_in_time_means_the_fallback_and_no_job_left() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "2"])
        .start()
        .await;
    let called = Instant::now();
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let ended = call.ended_by_bridge(Duration::from_secs(20)).await;
    assert!(
        ended - called > Duration::from_millis(1_800),
        "not before the time"
    );
    assert!(
        !sound::is_silence(&call.rtp.audio()),
        "the caller hears something"
    );
    assert_eq!(redis.query::<i64>(&["LLEN", QUEUE]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_line_speaks_its_own_announcement() {
    const TONES_HZ: [f64; 2] = [620.0, 1_430.0];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("sorry.wav");
    sound::write_tones(&path, 16_000, &TONES_HZ);
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "1", "--ringback", "off"])
        .line_field("announcement", json!(path))
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    call.ended_by_bridge(Duration::from_secs(20)).await;
    let heard = call.rtp.audio();
    let first = heard.iter().position(|byte| !sound::is_silence(&[*byte]));
    let spoken = &heard[first.expect("the caller hears something")..];
    // One second of each tone, then BYE: nothing is cut, nothing follows.
    assert!(
        (15_900..17_600).contains(&spoken.len()),
        "{} bytes heard",
        spoken.len()
    );
    for (second, hz) in spoken.chunks(8_000).zip(TONES_HZ) {
        let share = sound::share_of_tone(&second[100..7_900], hz);
        assert!(share > 0.97, "{hz} Hz is {share} of what was heard");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announcement_that_cannot_be_read_gives_way_to_the_built_in_one() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "1", "--ringback", "off"])
        .line_field("announcement", json!("/no/sorry.wav"))
        .start()
        .await;
    let told = bridge.output();
    assert!(
        told.contains("line \"line-1\": field \"announcement\": /no/sorry.wav: "),
        "{told}"
    );
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    call.ended_by_bridge(Duration::from_secs(30)).await;
    let built_in = sipbridge::media::sounds::Sounds::built_in().unavailable;
    assert!(sound::contains(&call.rtp.audio(), &built_in));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_number_gets_the_call_by_refer() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "1"])
        .line_field("fallbackNumber", json!("+33144556677"))
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    until(Duration::from_secs(20), "REFER", async || {
        !call.requests("REFER").is_empty()
    })
    .await;
    let refer = &call.requests("REFER")[0];
    assert!(refer.header("Refer-To").unwrap().contains("+33144556677"));
}
