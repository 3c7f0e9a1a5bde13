//! A worker 20 ms away: every packet of the link is held back by
//! `tests/real/delayed_link.py`, below TCP. With Nagle's algorithm on, small
//! messages would wait for the acknowledgement of the one before.
//!
//! The outer test starts this test program again inside the private network;
//! the ignored tests are its two ends and mean nothing alone.

use std::process::Command;
use std::time::Duration;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::pacing::delay_ms;
use crate::harness::worker::payload;
use crate::harness::{Caller, Job, Redis, SOON, Worker, sound, until};

/// One-way delay of the link.
const LINK_MS: u32 = 20;
/// Where the bridge is reached from the far end.
const NEAR: &str = "10.77.0.1";

fn this_test(name: &str) -> [String; 6] {
    let program = std::env::current_exe().unwrap();
    [
        program.display().to_string(),
        "--ignored".into(),
        "--exact".into(),
        "--nocapture".into(),
        "--test-threads=1".into(),
        format!("delayed::{name}"),
    ]
}

#[test]
fn over_a_link_of_20_ms_nothing_waits_for_acknowledgements() {
    let output = Command::new("unshare")
        .args(["--map-root-user", "--net", "/usr/bin/python3"])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/real/delayed_link.py"
        ))
        .arg(LINK_MS.to_string())
        .args(this_test("near_end"))
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}\n(namespaces need root or unprivileged user namespaces, and /dev/net/tun)"
    );
}

#[ignore = "one end of the test above"]
#[tokio::test(flavor = "multi_thread")]
async fn near_end() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).args(&["--bind", NEAR]).start().await;
    let peer = format!("{NEAR}:{}", bridge.sip_port).parse().unwrap();
    let mut call = Caller::connect(peer, NUMBER).await;
    let job = Job::take(&redis).await;
    assert!(job.url().contains(NEAR), "{}", job.url());
    let far = this_test("far_end");
    let mut worker = Command::new("nsenter")
        .args(["--net", "-t", &std::env::var("FAR_PID").unwrap()])
        .args(&far)
        .env("FAR_URL", job.url())
        .spawn()
        .unwrap();
    // Nobody speaks before the worker is there: kept words would come in one
    // burst, and so would their echo.
    let record = format!("call:{}", job.text("callId"));
    until(SOON, "the worker is attached", async || {
        let at: Option<String> = redis.query(&["HGET", &record, "workerAttachedAt"]).await;
        at.is_some()
    })
    .await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let sent = call.player().play(&sound::numbered(0, 200)).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    call.bye().await;
    let heard = call.rtp.numbers();
    assert!(
        worker.wait().unwrap().success(),
        "the far end saw every frame"
    );
    // There and back over the link, and at most one turn of the pacer.
    let round_trip = delay_ms(&sent, &heard, 50..200);
    let link = u128::from(2 * LINK_MS);
    assert!(
        (link..link + 35).contains(&round_trip),
        "an echo takes {round_trip} ms over a link of {LINK_MS} ms"
    );
}

#[ignore = "one end of the test above"]
#[tokio::test(flavor = "multi_thread")]
async fn far_end() {
    let url = std::env::var("FAR_URL").unwrap();
    let mut worker = Worker::dial(&url).await;
    loop {
        let heard = worker.next().await;
        match heard.json["event"].as_str() {
            Some("media") => worker.media(&payload(&heard.json)),
            Some("stop") => break,
            _ => {}
        }
    }
    // Audio comes one frame at a time, every 20 ms, not two every 40.
    let mut gaps: Vec<u128> = worker
        .all("media")
        .windows(2)
        .map(|pair| (pair[1].at - pair[0].at).as_millis())
        .skip(20)
        .collect();
    gaps.sort_unstable();
    let p90 = gaps[gaps.len() * 9 / 10];
    assert!(
        gaps.len() > 150 && p90 < 32,
        "gaps: p90 {p90} ms of {}",
        gaps.len()
    );
}
