//! Time: exactly 50 packets a second from one pacer, no delay left behind by a
//! stall, no Nagle on a delayed link.

use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::pacing::delay_ms;
use crate::harness::{Bridge, Call, Caller, Redis, Worker, sound};

async fn talk() -> (Redis, Bridge, Call, Worker) {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let worker = Worker::serve(&redis).await;
    (redis, bridge, call, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_packets_a_second_from_answer_to_bye() {
    let (_redis, _bridge, mut call, worker) = talk().await;
    // Speech with pauses: silence must fill them without a slip.
    for part in 0..4 {
        worker.media(&sound::numbered(part * 100, 30).concat());
        tokio::time::sleep(Duration::from_millis(1_000)).await;
    }
    call.bye().await;
    let heard = call.rtp.heard();
    assert!(
        heard.len() > 200,
        "RTP flows from the start: {}",
        heard.len()
    );
    for pair in heard.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        assert_eq!(pair[1].timestamp, pair[0].timestamp.wrapping_add(160));
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
        assert_eq!(pair[1].payload.len(), 160);
    }
    let span = heard.last().unwrap().at - heard[0].at;
    let due = span.as_secs_f64() * 50.0 + 1.0;
    let drift = (heard.len() as f64 - due).abs();
    assert!(drift <= 2.0, "{} packets in {span:?}", heard.len());
    // Speech of 600 ms went out as 30 packets in a row, 20 ms each.
    let speech = sound::numbered(100, 30).concat();
    assert!(
        sound::contains(&call.rtp.audio(), &speech),
        "no silence slipped in"
    );
}

/// Stops the process for 500 ms.
async fn stall(bridge: &Bridge) {
    bridge.process.signal("STOP");
    tokio::time::sleep(Duration::from_millis(500)).await;
    bridge.process.signal("CONT");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_leaves_no_delay_towards_the_worker() {
    let (_redis, bridge, call, mut worker) = talk().await;
    let mut player = call.player();
    let playing = tokio::spawn(async move { player.play(&sound::numbered(0, 200)).await });
    tokio::time::sleep(Duration::from_millis(1_500)).await;
    stall(&bridge).await;
    let sent = playing.await.unwrap();
    worker.listen(Duration::from_millis(500)).await;

    let heard: Vec<(u32, Instant)> = worker
        .all("media")
        .iter()
        .filter_map(|heard| {
            let audio = crate::harness::worker::payload(&heard.json);
            sound::number_of(&audio).map(|number| (number, heard.at))
        })
        .collect();
    let (before, after) = (
        delay_ms(&sent, &heard, 10..60),
        delay_ms(&sent, &heard, 140..200),
    );
    assert!(
        after <= before + 10,
        "{before} ms before, {after} ms after the stall"
    );
    let numbers: Vec<u32> = heard.iter().map(|(number, _)| *number).collect();
    assert_eq!(numbers, (0..200).collect::<Vec<_>>(), "nothing was lost");
    worker.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stall_leaves_no_delay_towards_the_caller() {
    let (_redis, bridge, call, worker) = talk().await;
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    let mut sent = Vec::new();
    for number in 0..200 {
        clock.tick().await;
        sent.push(Instant::now());
        worker.media(&sound::numbered_frame(number));
        if number == 75 {
            bridge.process.signal("STOP");
        } else if number == 100 {
            bridge.process.signal("CONT");
        }
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let heard = call.rtp.numbers();
    let (before, after) = (
        delay_ms(&sent, &heard, 10..70),
        delay_ms(&sent, &heard, 150..200),
    );
    assert!(
        after <= before + 40,
        "{before} ms before, {after} ms after the stall"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_echo_is_no_later_after_a_stall() {
    let (_redis, bridge, call, mut worker) = talk().await;
    let mut player = call.player();
    let playing = tokio::spawn(async move { player.play(&sound::numbered(0, 200)).await });
    let echoing = async {
        loop {
            let heard = worker.next_of("media").await;
            worker.media(&crate::harness::worker::payload(&heard.json));
        }
    };
    let stalling = async {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        stall(&bridge).await;
        tokio::time::sleep(Duration::from_millis(2_300)).await;
    };
    tokio::select! {
        () = echoing => {}
        () = stalling => {}
    }
    let sent = playing.await.unwrap();
    let heard = call.rtp.numbers();
    let (before, after) = (
        delay_ms(&sent, &heard, 10..60),
        delay_ms(&sent, &heard, 150..200),
    );
    assert!(
        after <= before + 60,
        "{before} ms before, {after} ms after the stall"
    );
}
