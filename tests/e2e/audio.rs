//! What the caller says and hears: bit-exact mu-law both ways, A-law by table,
//! marks, `clear`, the last partial frame, playout before BYE.

use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::sdp::Offer;
use crate::harness::worker::Worker;
use crate::harness::{Bridge, Call, Caller, Redis, SOON, sound};

/// A call with its worker.
async fn talk(offer: Offer) -> (Redis, Bridge, Call, Worker) {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let call = Caller::connect_with(bridge.sip(), NUMBER, offer).await;
    let worker = Worker::serve(&redis).await;
    (redis, bridge, call, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn pcmu_passes_bit_for_bit_both_ways() {
    let (_redis, _bridge, mut call, mut worker) = talk(Offer::usual()).await;
    assert_eq!(call.answer().formats[0], 0, "PCMU first");
    let question = sound::numbered(100, 75);
    let reply = sound::numbered(5_000, 75).concat();
    worker.media(&reply);
    let mut player = call.player();
    player.play(&question).await;

    worker.hears(&question.concat(), SOON).await;
    call.rtp.hears(&reply, SOON).await;
    call.bye().await;
    worker.listen_to_end().await;
    worker.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn pcma_goes_through_tables_both_ways() {
    let (_redis, _bridge, call, mut worker) = talk(Offer::of(&[8])).await;
    assert_eq!(call.answer().formats[0], 8);
    // Every code of either law, and a unique frame to find them by.
    let all_codes: Vec<u8> = (0..=255).chain(0..64).collect();
    let frames: Vec<Vec<u8>> = all_codes.chunks(160).map(<[u8]>::to_vec).collect();
    let mut player = call.player();
    let mut marked = vec![vec![0x2a; 160]; 3];
    marked.extend(frames);
    marked.extend(vec![vec![0x2a; 160]; 3]);
    player.play(&marked).await;
    worker.media(&all_codes);

    worker.listen(Duration::from_millis(400)).await;
    assert_law(
        &worker.audio(),
        &all_codes,
        sound::ulaw_to_linear,
        sound::alaw_to_linear,
    );
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert_law(
        &call.rtp.audio(),
        &all_codes,
        sound::alaw_to_linear,
        sound::ulaw_to_linear,
    );
}

/// Somewhere in `heard` stands `sent` in the other law, each sample within the
/// step between two codes.
fn assert_law(heard: &[u8], sent: &[u8], hear: fn(u8) -> i32, say: fn(u8) -> i32) {
    let is_close = |(heard, sent): (&u8, &u8)| {
        let (heard, sent) = (hear(*heard), say(*sent));
        (heard - sent).abs() <= sound::step_at(sent)
    };
    let found = heard
        .windows(sent.len())
        .any(|window| window.iter().zip(sent).all(is_close));
    assert!(found, "no such audio in {} bytes heard", heard.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn any_size_and_burst_is_played_in_order_to_the_last_byte() {
    let (_redis, _bridge, call, worker) = talk(Offer::usual()).await;
    // 2 s and 37 bytes in odd pieces, all at once.
    let mut audio = sound::numbered(0, 100).concat();
    audio.extend(&sound::numbered_frame(999)[..37]);
    for piece in audio.chunks(1_013) {
        worker.media(piece);
    }
    call.rtp.hears(&audio, SOON).await;
    let heard = call.rtp.audio();
    let end = sound::position(&heard, &audio).unwrap() + audio.len();
    let padding = &heard[end..end + 160 - 37];
    assert!(sound::is_silence(padding), "the last frame is padded");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_returns_when_its_audio_was_played() {
    let (_redis, _bridge, call, mut worker) = talk(Offer::usual()).await;
    let sent = Instant::now();
    worker.mark("nothing before me");
    let echo = worker.next_of("mark").await;
    assert_eq!(echo.json["mark"]["name"], "nothing before me");
    assert!(echo.at - sent < Duration::from_millis(150), "at once");

    let sent = Instant::now();
    worker.media(&sound::numbered(0, 50).concat());
    worker.mark("one second");
    worker.media(&sound::numbered(50, 25).concat());
    worker.mark("one and a half");
    for (name, due_ms) in [("one second", 1_000), ("one and a half", 1_500)] {
        let echo = worker.next_of("mark").await;
        assert_eq!(echo.json["mark"]["name"], name);
        let after_ms = (echo.at - sent).as_millis();
        assert!(
            (due_ms - 40..due_ms + 150).contains(&after_ms),
            "{name} came after {after_ms} ms"
        );
        assert_ne!(echo.json["mark"]["cleared"], true, "it was played");
    }
    call.rtp.hears(&sound::numbered(0, 75).concat(), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_silences_at_once_and_returns_every_mark() {
    let (_redis, _bridge, call, mut worker) = talk(Offer::usual()).await;
    let long = sound::numbered(0, 500);
    worker.media(&long.concat());
    worker.mark("never reached");
    worker.mark("nor this");
    call.rtp.hears(&long[..25].concat(), SOON).await;

    let cleared = Instant::now();
    worker.clear();
    let names: Vec<String> = {
        let first = worker.next_of("mark").await;
        let second = worker.next_of("mark").await;
        assert_ne!(first.json["mark"]["cleared"], false, "it was not played");
        assert!(second.at - cleared < Duration::from_millis(150), "at once");
        [first, second]
            .map(|echo| echo.json["mark"]["name"].as_str().unwrap().to_owned())
            .into()
    };
    assert_eq!(names, ["never reached", "nor this"]);
    let fresh = sound::numbered(9_000, 20);
    worker.media(&fresh.concat());
    worker.mark("after");
    assert_eq!(worker.next_of("mark").await.json["mark"]["name"], "after");

    call.rtp.hears(&fresh.concat(), SOON).await;
    let last_old = call
        .rtp
        .heard()
        .into_iter()
        .filter(|packet| sound::number_of(&packet.payload).is_some_and(|n| n < 500))
        .map(|packet| packet.at)
        .max()
        .unwrap();
    let late = last_old.saturating_duration_since(cleared);
    assert!(
        late < Duration::from_millis(60),
        "old audio {late:?} after clear"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_queued_is_played_before_bye() {
    for ending in ["close", "stop", "hangup"] {
        let (_redis, _bridge, call, worker) = talk(Offer::usual()).await;
        let goodbye = sound::numbered(0, 60).concat();
        worker.media(&goodbye);
        match ending {
            "close" => worker.close(),
            event => worker.send(&serde_json::json!({
                "event": event, "streamSid": worker.stream_sid,
            })),
        }
        let bye = call.ended_by_bridge(SOON).await;
        assert!(
            sound::contains(&call.rtp.audio(), &goodbye),
            "{ending}: the goodbye was cut"
        );
        let last = call
            .rtp
            .heard()
            .into_iter()
            .filter(|packet| sound::number_of(&packet.payload) == Some(59))
            .map(|packet| packet.at)
            .next_back()
            .unwrap();
        let idle = bye.saturating_duration_since(last);
        assert!(
            idle < Duration::from_millis(300),
            "{ending}: BYE {idle:?} later"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_words_are_kept_for_the_worker() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    // The caller speaks for a second before any worker is there.
    let words = sound::numbered(0, 50);
    let mut player = call.player();
    player.play(&words).await;
    let mut worker = Worker::serve(&redis).await;
    player.play(&sound::numbered(50, 10)).await;

    worker.hears(&sound::numbered(0, 60).concat(), SOON).await;
    worker.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn gain_is_applied_by_table() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--rx-gain", "2.0", "--tx-gain", "0.5", "--ringback", "off"])
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    // A level in the middle of the range, so that neither way clips.
    let byte = 0x30;
    let level = sound::ulaw_to_linear(byte);
    call.player().play(&vec![vec![byte; 160]; 10]).await;
    worker.media(&vec![byte; 1_600]);
    worker.listen(Duration::from_millis(500)).await;

    let loudest = |audio: &[u8]| {
        let levels = audio.iter().map(|byte| sound::ulaw_to_linear(*byte));
        levels.min_by_key(|level| -level.abs()).unwrap()
    };
    for (name, heard, wanted) in [
        ("rx-gain", loudest(&worker.audio()), level * 2),
        ("tx-gain", loudest(&call.rtp.audio()), level / 2),
    ] {
        assert!(
            (heard - wanted).abs() <= 2 * sound::step_at(wanted),
            "{name}: {heard}, not {wanted}"
        );
    }
}
