//! RTP that is not as it should be: from elsewhere, of the wrong type, lost,
//! reordered, on hold, stopped.

use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::rtp::Rtp;
use crate::harness::{Bridge, Call, Caller, Redis, SOON, Worker, sound};

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
