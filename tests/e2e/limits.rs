//! Who is refused when there are more calls than may come in, with what, and
//! that nobody else notices.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::UdpSocket;

use crate::harness::bridge::{NUMBER, Setup, line};
use crate::harness::pacing::delays_ms;
use crate::harness::peers::local;
use crate::harness::sdp::Offer;
use crate::harness::sip::Message;
use crate::harness::{Bridge, Call, Caller, Redis, SOON, Worker, sound, until};

/// The second line's number.
const OTHER: &str = "+33144556688";

/// A bridge of two lines.
async fn two_lines(redis: &Redis, args: &[&str]) -> Bridge {
    let other = line("line-2", "trunkuser2", OTHER);
    Setup::queue(redis).line(other).args(args).start().await
}

/// Calls, and gives the call with the final response.
async fn try_call(bridge: &Bridge, number: &str) -> (Call, Message) {
    let mut call = Caller::invite(bridge.sip(), number, Offer::usual()).await;
    let response = call.final_response().await;
    (call, response)
}

fn retry_after_s(response: &Message) -> Option<u64> {
    response.header("Retry-After")?.trim().parse().ok()
}

/// Refused so often, by the name of the reason in `/health`.
async fn refused(bridge: &Bridge, reason: &str) -> u64 {
    let health = bridge.health().await.json();
    health["calls"]["refused"][reason].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_line_gets_486_and_the_other_line_is_open() {
    let redis = Redis::start();
    let other = line("line-2", "trunkuser2", OTHER);
    let bridge = Setup::queue(&redis)
        .line(other)
        .line_field("maxConcurrentCalls", json!(1))
        .start()
        .await;
    let mut first = Caller::connect(bridge.sip(), NUMBER).await;
    let (_, busy) = try_call(&bridge, NUMBER).await;
    assert_eq!(busy.status(), Some(486), "{}", busy.start);
    assert_eq!(retry_after_s(&busy), None, "the bridge itself is not busy");
    let _other = Caller::connect(bridge.sip(), OTHER).await;
    assert_eq!(refused(&bridge, "lineBusy").await, 1);
    first.bye().await;
    until(SOON, "the line is free again", async || {
        try_call(&bridge, NUMBER).await.1.status() == Some(200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flooded_line_leaves_room_for_the_other() {
    let redis = Redis::start();
    let bridge = two_lines(&redis, &["--max-concurrent-calls", "9"]).await;
    let mut calls = Vec::new();
    for _ in 0..6 {
        calls.push(Caller::connect(bridge.sip(), NUMBER).await);
    }
    for _ in 0..3 {
        let (_, refusal) = try_call(&bridge, NUMBER).await;
        assert_eq!(refusal.status(), Some(486), "two thirds and no more");
    }
    calls.push(Caller::connect(bridge.sip(), OTHER).await);
    calls.push(Caller::connect(bridge.sip(), OTHER).await);
    assert_eq!(refused(&bridge, "lineShare").await, 3);
    let health = bridge.health().await;
    assert_eq!(health.status, 200, "{}", health.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_calls_a_second_get_503_with_retry_after() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--max-calls-per-second", "2"])
        .start()
        .await;
    let mut calls = Vec::new();
    for _ in 0..12 {
        calls.push(Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await);
    }
    let (mut taken, mut waits_s) = (0, Vec::new());
    for call in &mut calls {
        let response = call.final_response().await;
        match response.status() {
            Some(200) => taken += 1,
            Some(503) => waits_s.push(retry_after_s(&response).expect("Retry-After")),
            other => panic!("{other:?}"),
        }
    }
    // A slow machine may take more than a second to send twelve.
    assert!((2..=6).contains(&taken), "{taken} taken");
    assert!(
        waits_s.iter().all(|wait| (1..=2).contains(wait)),
        "{waits_s:?}"
    );
    assert_eq!(refused(&bridge, "bridgeRate").await, 12 - taken);
    // What they were told is true.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let (_, response) = try_call(&bridge, NUMBER).await;
    assert_eq!(response.status(), Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_line_brings_half_of_the_calls_a_second_at_most() {
    let redis = Redis::start();
    let bridge = two_lines(&redis, &["--max-calls-per-second", "8"]).await;
    let mut calls = Vec::new();
    for _ in 0..20 {
        calls.push(Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await);
    }
    let mut other = Caller::invite(bridge.sip(), OTHER, Offer::usual()).await;
    assert_eq!(other.final_response().await.status(), Some(200));
    let mut statuses = Vec::new();
    for call in &mut calls {
        statuses.push(call.final_response().await.status().unwrap());
    }
    assert_eq!(statuses[..4], [200; 4], "{statuses:?}");
    assert!(statuses[4..].contains(&486), "{statuses:?}");
    assert!(
        !statuses.contains(&503),
        "the bridge is not busy: {statuses:?}"
    );
}

/// Sends INVITEs as fast as asked for, from one socket, and reads no answer
/// but to count it.
struct Flood {
    sent: u32,
    refused: u32,
}

impl Flood {
    async fn run(bridge: &Bridge, number: &str, per_second: u32, duration: Duration) -> Self {
        let socket = UdpSocket::bind(local(0)).await.unwrap();
        let here = socket.local_addr().unwrap();
        let peer = bridge.sip();
        let mut flood = Self {
            sent: 0,
            refused: 0,
        };
        let mut clock = tokio::time::interval(Duration::from_secs(1) / per_second);
        let end = Instant::now() + duration;
        let mut buffer = [0; 2_048];
        while Instant::now() < end {
            clock.tick().await;
            let id = flood.sent;
            let sdp = Offer::usual().write(local(40_000));
            let invite = format!(
                "INVITE sip:{number}@{peer} SIP/2.0\r\n\
                 Via: SIP/2.0/UDP {here};branch=z9hG4bK-flood-{id}\r\n\
                 From: <sip:flood@{here}>;tag=f{id}\r\nTo: <sip:{number}@{peer}>\r\n\
                 Call-ID: flood-{id}@{here}\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n\
                 Contact: <sip:flood@{here}>\r\nContent-Type: application/sdp\r\n\
                 Content-Length: {}\r\n\r\n{sdp}",
                sdp.len()
            );
            socket.send_to(invite.as_bytes(), peer).await.unwrap();
            flood.sent += 1;
            while let Ok((count, _)) = socket.try_recv_from(&mut buffer) {
                let status = Message::parse(&buffer[..count]).and_then(|m| m.status());
                flood.refused += u32::from(status == Some(503));
            }
        }
        flood
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_invites_does_no_harm_to_a_call() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--max-calls-per-second", "1"])
        .env("RUST_LOG", "info")
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let mut player = call.player();
    let frames = sound::numbered(0, 200);
    let reply = sound::numbered(1_000, 200).concat();
    worker.media(&reply);
    let playing = {
        let frames = frames.clone();
        tokio::spawn(async move { player.play(&frames).await })
    };
    let flood = Flood::run(&bridge, NUMBER, 500, Duration::from_secs(3)).await;
    let sent = playing.await.unwrap();
    assert!(flood.sent > 300, "{} INVITEs", flood.sent);
    assert!(flood.refused > flood.sent / 2, "{} refused", flood.refused);

    // Both ways whole, in order, and in time.
    worker.hears(&frames.concat(), SOON).await;
    worker.assert_numbered();
    call.rtp.hears(&reply, SOON).await;
    for pair in call.rtp.heard().windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
    }
    let heard: Vec<(u32, Instant)> = worker
        .all("media")
        .iter()
        .filter_map(|heard| {
            let audio = crate::harness::worker::payload(&heard.json);
            sound::number_of(&audio).map(|number| (number, heard.at))
        })
        .collect();
    let mut delays = delays_ms(&sent, &heard, 0..200);
    delays.sort_unstable();
    assert!(delays[180] <= 20, "nine of ten within a frame: {delays:?}");
    let health = bridge.health().await.json();
    assert!(health["calls"]["taken"].as_u64().unwrap() <= 8, "{health}");
}
