//! RTP that is not as it should be: from elsewhere, of the wrong type, lost,
//! reordered, on hold, stopped.

use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::rtp::{Player, Rtp};
use crate::harness::{Api, Bridge, Call, Caller, Redis, SOON, Worker, sound};

async fn talk(args: &[&str]) -> (Redis, Bridge, Call, Worker) {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).args(args).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let worker = Worker::serve(&redis).await;
    (redis, bridge, call, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn rtp_from_elsewhere_is_ignored() {
    let (_redis, _bridge, call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 10)).await;
    // A stranger who knows the port, and even SSRC, sequence and time.
    let elsewhere = Rtp::open().await;
    let mut stranger = elsewhere.player(call.answer().media, 0);
    stranger.ssrc = player.ssrc;
    stranger.sequence = player.sequence;
    stranger.timestamp = player.timestamp;
    for (mine, theirs) in sound::numbered(10, 30)
        .iter()
        .zip(sound::numbered(70_000, 30))
    {
        stranger.send(&theirs).await;
        player.play(std::slice::from_ref(mine)).await;
        tokio::time::sleep(Duration::from_millis(18)).await;
    }
    worker.hears(&sound::numbered(0, 40).concat(), SOON).await;
    let audio = worker.audio();
    assert!(
        !sound::contains(&audio, &sound::numbered_frame(70_000)),
        "foreign audio got in"
    );
    assert!(elsewhere.heard().is_empty(), "audio was sent to a stranger");
    assert!(call.rtp.heard().len() > 30, "the caller still hears");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_payload_types_and_broken_packets_do_no_harm() {
    let (_redis, bridge, call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    let strange = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    for (index, frame) in sound::numbered(0, 30).iter().enumerate() {
        let time = player.timestamp;
        match index % 5 {
            0 => player.send_as(13, false, time, &[0x40]).await, // comfort noise
            1 => player.send_as(96, false, time, &[1; 300]).await, // never negotiated
            2 => player.send_as(0, false, time, &[]).await,
            3 => player.send_as(101, true, time, &[5]).await, // event cut short
            _ => {
                strange.send_to(&[0x80], call.answer().media).await.unwrap();
                strange
                    .send_to(&[0xff; 1_400], call.answer().media)
                    .await
                    .unwrap();
            }
        }
        player.sequence = player.sequence.wrapping_add(1);
        player.play(std::slice::from_ref(frame)).await;
        tokio::time::sleep(Duration::from_millis(18)).await;
    }
    worker.listen(Duration::from_millis(500)).await;
    let audio = worker.audio();
    for frame in sound::numbered(0, 30) {
        assert!(sound::contains(&audio, &frame), "a good frame was lost");
    }
    assert!(
        worker.all("dtmf").is_empty(),
        "no digit out of a broken event"
    );
    worker.assert_numbered();
    assert_eq!(bridge.health().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn loss_and_reordering_never_shift_what_follows() {
    let (_redis, _bridge, call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    let frames = sound::numbered(0, 60);
    let first = (player.sequence, player.timestamp);
    let at = |index: u16| {
        (
            first.0.wrapping_add(index),
            first.1.wrapping_add(160 * u32::from(index)),
        )
    };
    // 20 and 21 swap places; 30, 31, 32 are lost; 40 comes twice.
    let order = (0..20)
        .chain([21, 20])
        .chain(22..30)
        .chain(33..41)
        .chain(40..60);
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for index in order {
        clock.tick().await;
        (player.sequence, player.timestamp) = at(index);
        player.send(&frames[usize::from(index)]).await;
    }
    worker.hears(&frames[59], SOON).await;
    worker.assert_numbered();
    let audio = worker.audio();
    let place = |index: usize| sound::position(&audio, &frames[index]).unwrap();
    let start = place(0);
    for index in (0..30).chain(33..60) {
        assert_eq!(
            place(index) - start,
            index * 160,
            "frame {index} is in its place"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_and_resume_keep_the_stream_and_its_time() {
    let (_redis, _bridge, mut call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 25)).await;
    worker.hears(&sound::numbered(0, 25).concat(), SOON).await;

    let answer = call.reinvite("sendonly").await;
    assert_eq!(answer.direction, "recvonly");
    let answer = call.reinvite("inactive").await;
    assert_eq!(answer.direction, "inactive");
    tokio::time::sleep(Duration::from_millis(200)).await;
    let (held, before) = (Instant::now(), call.rtp.heard().len());
    worker.listen(Duration::from_millis(1_500)).await;
    assert_eq!(call.rtp.heard().len(), before, "no RTP to a caller on hold");
    let answer = call.reinvite("sendrecv").await;
    assert_eq!(answer.direction, "sendrecv");

    let held_ms = held.elapsed().as_millis();
    let mut player = {
        let mut resumed = call.player();
        resumed.ssrc = player.ssrc;
        resumed.sequence = player.sequence;
        let held_samples = u32::try_from(held_ms * 8 / 160 * 160).unwrap();
        resumed.timestamp = player.timestamp.wrapping_add(held_samples);
        resumed
    };
    player.play(&sound::numbered(100, 25)).await;
    worker.hears(&sound::numbered(100, 25).concat(), SOON).await;

    assert_eq!(worker.all("start").len(), 1, "the stream was not restarted");
    worker.assert_numbered();
    let audio = worker.audio();
    let start = sound::position(&audio, &sound::numbered_frame(0)).unwrap();
    let resumed = sound::position(&audio, &sound::numbered_frame(100)).unwrap();
    let gap_ms = u128::try_from((resumed - start) / 8 - 500).unwrap();
    assert!(
        gap_ms.abs_diff(held_ms) < 600,
        "{gap_ms} ms of stream for {held_ms} ms of hold"
    );
    let heard = call.rtp.heard().len();
    assert!(heard > before + 20, "the caller hears again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whose_rtp_stops_is_ended_but_not_on_hold() {
    let (_redis, bridge, call, mut worker) = talk(&["--rtp-timeout", "2"]).await;
    let mut held = Caller::connect(bridge.sip(), NUMBER).await;
    let mut held_worker = Worker::serve(&_redis).await;
    held.player().play(&sound::numbered(0, 10)).await;
    held.reinvite("inactive").await;

    call.player().play(&sound::numbered(0, 25)).await;
    let stopped = Instant::now();
    let ended = call.ended_by_bridge(SOON).await;
    let after = ended.saturating_duration_since(stopped);
    assert!(
        (Duration::from_millis(1_500)..Duration::from_millis(4_000)).contains(&after),
        "ended {after:?} after the last packet"
    );
    worker.listen_to_end().await;
    assert_eq!(worker.all("stop").len(), 1);
    held_worker.listen(Duration::from_millis(2_000)).await;
    assert!(
        held.ended_at().is_none(),
        "a held call outlives the media timeout"
    );
    held.bye().await;
}

/// Sends event packets of one key, 20 ms apart: (timestamp, duration, end).
async fn press(player: &mut Player, event: u8, packets: &[(u32, u16, bool)]) {
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for (at, duration, end) in packets {
        clock.tick().await;
        let [high, low] = duration.to_be_bytes();
        let payload = [event, u8::from(*end) << 7 | 10, high, low];
        player.send_as(101, false, *at, &payload).await;
        player.sequence = player.sequence.wrapping_add(1);
    }
    let (last, duration, _) = packets[packets.len() - 1];
    player.timestamp = last.wrapping_add(u32::from(duration));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_press_of_a_key_is_one_digit_in_whatever_form_it_comes() {
    let (_redis, _bridge, call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 10)).await;
    // Longer than the duration field holds: two segments, each on its own timestamp.
    let start = player.timestamp;
    let second = start.wrapping_add(u32::from(u16::MAX));
    let segments = [
        (start, 160, false),
        (start, 65_360, false),
        (start, u16::MAX, false),
        (second, 160, false),
        (second, 320, false),
        (second, 320, true),
        (second, 320, true),
        (second, 320, true),
    ];
    press(&mut player, 7, &segments).await;
    player.play(&sound::numbered(10, 10)).await;
    // Each packet on a timestamp of its own, without a pause.
    let start = player.timestamp;
    let rising: Vec<_> = (0..8_u16)
        .map(|at| (start.wrapping_add(160 * u32::from(at)), 160, at > 4))
        .collect();
    press(&mut player, 3, &rising).await;
    player.play(&sound::numbered(20, 10)).await;
    // Two real presses, 40 ms apart.
    for _ in 0..2 {
        let start = player.timestamp;
        let quick = [(start, 160, false), (start, 320, true), (start, 320, true)];
        press(&mut player, 9, &quick).await;
        player.timestamp = player.timestamp.wrapping_add(320);
    }
    player.play(&sound::numbered(30, 10)).await;
    worker.hears(&sound::numbered_frame(39), SOON).await;
    let digits: Vec<_> = worker
        .all("dtmf")
        .iter()
        .map(|message| message.json["dtmf"]["digit"].clone())
        .collect();
    assert_eq!(digits, ["7", "3", "9", "9"]);
    worker.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_speaks_the_other_offered_codec_is_heard_at_once() {
    let (_redis, _bridge, call, mut worker) = talk(&[]).await;
    let mut player = call.player();
    assert_eq!(player.payload_type, 0, "PCMU was answered");
    player.payload_type = 8;
    let frames: Vec<Vec<u8>> = (0..20_u8).map(|at| vec![0x55 ^ (at * 8); 160]).collect();
    player.play(&frames).await;
    worker.listen(Duration::from_millis(400)).await;
    let (audio, sent) = (worker.audio(), frames.concat());
    let is_close = |(heard, sent): (&u8, &u8)| {
        let (heard, sent) = (sound::ulaw_to_linear(*heard), sound::alaw_to_linear(*sent));
        (heard - sent).abs() <= sound::step_at(sent)
    };
    let found = audio
        .windows(sent.len())
        .any(|window| window.iter().zip(&sent).all(is_close));
    assert!(found, "all of it is heard, from the first packet");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_who_is_first_is_neither_heard_nor_spoken_to() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let elsewhere = Rtp::on(tokio::net::UdpSocket::bind("127.0.0.66:0").await.unwrap());
    let mut stranger = elsewhere.player(call.answer().media, 0);
    stranger.play(&sound::numbered(70_000, 10)).await;
    let mut worker = Worker::serve(&redis).await;
    stranger.play(&sound::numbered(70_010, 10)).await;
    let mut player = call.player();
    player.play(&sound::numbered(0, 20)).await;
    worker.hears(&sound::numbered(0, 20).concat(), SOON).await;
    for number in [70_000, 70_009, 70_010, 70_019] {
        let frame = sound::numbered_frame(number);
        assert!(
            !sound::contains(&worker.audio(), &frame),
            "a stranger is heard"
        );
    }
    assert!(elsewhere.heard().is_empty(), "audio was sent to a stranger");
    let metrics = Api::of(&bridge).get("/metrics").await.body;
    let dropped = r#"sipbridge_rtp_packets_dropped_total{reason="foreign"} 20"#;
    assert!(metrics.contains(dropped), "{metrics}");
}
