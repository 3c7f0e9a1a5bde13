//! The log as an output: whoever reads it may stop, and whoever sends us
//! something may want to write into it.

use std::io::{BufRead, BufReader, pipe};
use std::net::UdpSocket;
use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::{Bridge, Caller, Exit, Redis, SOON, Worker, http, until, within};

/// The watchdog ends the process when a thread has hung for 10 s.
const LONGER_THAN_THE_WATCHDOG: Duration = Duration::from_secs(13);

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_nobody_reads_stops_nothing() {
    let redis = Redis::start();
    let (reader, writer) = pipe().unwrap();
    let mut bridge = Setup::queue(&redis)
        .env("RUST_LOG", "trace")
        .spawn_saying(Some(writer.into()));
    comes_up(&bridge).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    until(Duration::from_secs(90), "lines are dropped", async || {
        for _ in 0..200 {
            let _ = socket.send_to(options().as_bytes(), bridge.sip());
        }
        dropped_lines(&bridge).await > 0
    })
    .await;
    let full_since = Instant::now();
    while full_since.elapsed() < LONGER_THAN_THE_WATCHDOG {
        let mut call = Caller::connect(bridge.sip(), NUMBER).await;
        let mut worker = Worker::serve(&redis).await;
        call.bye().await;
        worker.listen_to_end().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    assert_eq!(bridge.health().await.status, 200);

    // The reader is back for a while, and is told.
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
        let told = lines.find(|line| line.contains("log lines were dropped"));
        (told, lines)
    });
    let limit = Duration::from_secs(30);
    let (told, _unread) = within(limit, "told of the dropped", reading).await.unwrap();
    assert!(told.is_some_and(|line| line.contains("dropped=")));

    // And stops again, for good.
    for _ in 0..2_000 {
        let _ = socket.send_to(options().as_bytes(), bridge.sip());
    }
    bridge.process.signal("TERM");
    let exit = bridge.exit(Duration::from_secs(15)).await;
    assert_eq!(exit, Exit { code: Some(0) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hard_exit_waits_for_no_reader() {
    let redis = Redis::start();
    let (_reader, writer) = pipe().unwrap();
    let mut bridge = Setup::queue(&redis)
        .env("RUST_LOG", "trace")
        .args(&["--drain-timeout", "60"])
        .spawn_saying(Some(writer.into()));
    comes_up(&bridge).await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for _ in 0..2_000 {
        let _ = socket.send_to(options().as_bytes(), bridge.sip());
    }
    let _call = Caller::connect(bridge.sip(), NUMBER).await;
    bridge.process.signal("TERM");
    tokio::time::sleep(Duration::from_millis(300)).await;
    bridge.process.signal("TERM");
    let exit = bridge.exit(Duration::from_secs(3)).await;
    assert_eq!(exit, Exit { code: Some(143) });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_writes_no_line_of_his_own_and_not_many() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).env("RUST_LOG", "info").start().await;
    let before = bridge.output().len();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    for n in 0..5_000 {
        let _ = socket.send_to(&forging(n), bridge.sip());
        if n % 100 == 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    tokio::time::sleep(Duration::from_millis(11_000)).await;
    let _ = socket.send_to(&forging(5_000), bridge.sip());
    until(SOON, "the rest is told as a number", async || {
        bridge.output().contains("more of this kind")
    })
    .await;
    let output = bridge.output();
    let written = output.len() - before;
    assert!(written < 20_000, "{written} bytes for 5,000 datagrams");
    let steers = |c: char| c.is_control() && c != '\n' || c == '\u{202e}';
    assert!(!output.contains(steers), "something steers the terminal");
    for line in output.lines() {
        let is_ours = line.starts_with("20") || line.starts_with("sipbridge:");
        assert!(is_ours && !line.starts_with("2000-"), "forged: {line}");
    }
}

/// A message that is no SIP, with lines that look like the log's own.
fn forging(n: usize) -> Vec<u8> {
    let forged = "2000-01-01T00:00:00.000000Z  INFO sipbridge::audit: who=token what=\"deleted\"";
    format!(
        "INVITE sip:{NUMBER}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP \u{1b}[2Jx;;branch={n}\r\n\
         From: \u{202e}<sip:{n}\r\n{forged}\r\n{forged}\n\u{1b}]0;owned\u{7}\r\n\r\n"
    )
    .into_bytes()
}

async fn comes_up(bridge: &Bridge) {
    until(SOON, "it is up", async || {
        let health = http::get(bridge.api_port, "/health").await;
        health.is_some_and(|health| health.status == 200)
    })
    .await;
}

async fn dropped_lines(bridge: &Bridge) -> u64 {
    let metrics = http::get(bridge.api_port, "/metrics").await.unwrap();
    let lines = metrics.body.lines();
    let counter = "sipbridge_log_lines_dropped_total ";
    let mut counters = lines.filter_map(|line| line.strip_prefix(counter));
    counters.next().unwrap().parse().unwrap()
}

fn options() -> String {
    let (branch, call): (u64, u64) = (rand::random(), rand::random());
    format!(
        "OPTIONS sip:{NUMBER}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP 127.0.0.1:9;branch=z9hG4bK{branch:x}\r\n\
         From: <sip:a@127.0.0.1>;tag=1\r\nTo: <sip:{NUMBER}@127.0.0.1>\r\nCall-ID: {call:x}\r\n\
         CSeq: 1 OPTIONS\r\nContent-Length: 0\r\n\r\n"
    )
}
