//! A worker 20 ms away: every packet of the link is held back by
//! `tests/real/delayed_link.py`, below TCP. With Nagle's algorithm on, small
//! messages would wait for the acknowledgement of the one before.
//!
//! The outer test starts this test program again inside the private network;
//! the ignored tests are its two ends and mean nothing alone.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::process::Command;
use std::time::Duration;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::pacing::delays_ms;
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

/// `tests/real/delayed_link.py` in a network namespace: root makes one without
/// further ado (also in a chroot), anybody else within a user namespace.
fn delayed_link() -> Command {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    let mut command = Command::new("unshare");
    if !is_root {
        command.arg("--map-root-user");
    }
    command.args(["--net", "/usr/bin/python3"]);
    command.arg(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/tests/real/delayed_link.py"
    ));
    command.arg(LINK_MS.to_string());
    command
}

#[test]
fn over_a_link_of_20_ms_nothing_waits_for_acknowledgements() {
    let possible = delayed_link().arg("true").output().unwrap();
    if !possible.status.success() {
        // Past libtest's capture: tests/run.sh shows it.
        let reason = String::from_utf8_lossy(&possible.stderr);
        let reason = reason.lines().last().unwrap_or_default();
        let words = format!("not run: the delayed link, no network namespace here ({reason})\n");
        std::io::stderr().write_all(words.as_bytes()).unwrap();
        return;
    }
    let output = delayed_link().args(this_test("near_end")).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
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
    // There and back over the link, and at most one turn of the pacer. The best
    // tenth: on a busy machine an echo may fall behind, and stays there for
    // a while by the rule of core::latency_recovery.
    let delays = delays_ms(&sent, &heard, 20..200);
    let round_trip = delays[delays.len() / 10];
    let link = u128::from(2 * LINK_MS);
    assert!(
        (link..link + 60).contains(&round_trip),
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
