//! What a driver must survive: garbage, floods, a full leg channel, a media
//! transport that refuses.

use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::Message;

use super::harness::{Job, SOON, dial, sound, until, within};
use super::stage::{Setup, announcement};
use super::streaming::talking;

#[tokio::test(flavor = "multi_thread")]
async fn garbage_from_either_side_harms_nothing() {
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    for _ in 0..2_000 {
        let mut bytes = vec![0; random.random_range(0..400)];
        random.fill(&mut bytes[..]);
        // Never a source that could be taken for the caller's.
        bytes.iter_mut().take(1).for_each(|first| *first &= 0x3f);
        caller.send_rtp(&bytes, Instant::now());
    }
    for text in [
        "",
        "{",
        "[]",
        "null",
        r#"{"event":1}"#,
        r#"{"event":"media"}"#,
    ] {
        worker.send_raw(Message::text(text));
    }
    worker.send_raw(Message::binary(vec![0; 10_000]));
    worker.send(&json!({"event": "media", "streamSid": "MZ0", "media": {"payload": "AAAA"}}));
    worker.send(&json!({"event": "media", "streamSid": worker.stream_sid,
        "media": {"payload": "no base64!"}}));
    until("the queue has room", async || {
        caller.say_one(&sound::numbered_frame(0))
    })
    .await;
    // Once it is heard, all that came before it is out of the way.
    worker.hears(&sound::numbered_frame(0), SOON).await;
    let words = sound::numbered(1, 50);
    caller.say(&words);
    worker.hears(&words.concat(), SOON).await;
    worker.media(&words.concat());
    caller.hears("the reply", &words.concat()).await;
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_flood_of_rtp_starves_neither_the_worker_nor_the_clock() {
    let limit = Duration::from_secs(1);
    let stage = Setup::queue().with(|settings| settings.max_duration = Some(limit));
    let stage = stage.start().await;
    let (caller, mut worker) = talking(&stage).await;
    let flooded = caller.flood();
    let (caller, sent) = within(SOON, "the call is over", flooded).await.unwrap();
    println!("{sent} packets sent");
    worker.listen_to_end().await;
    assert!(worker.all("media").len() > 1_000, "the worker was served");
    drop(worker);
    assert!(sent > 10_000, "no flood: {sent} packets");
    assert_eq!(caller.local_end().unwrap().status, 200);
    let outcomes = stage.finish().await;
    // The worker may be too slow for it, and count as stalled.
    assert!(["duration-limit", "worker-lost"].contains(&outcomes[0].as_str()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_floods_starves_neither_the_caller_nor_the_clock() {
    let limit = Duration::from_secs(1);
    let stage = Setup::queue().with(|settings| settings.max_duration = Some(limit));
    let stage = stage.start().await;
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    let mut socket = dial(job.url()).await.unwrap();
    caller.answered().await;
    let text = format!(r#"{{"event":"nonsense{}"}}"#, "x".repeat(3_000));
    // Frames of RFC 6455, 5.2, with a mask of zeros, thousands in one write.
    let [high, low] = (text.len() as u16).to_be_bytes();
    let frame = [&[0x81, 0x80 | 126, high, low, 0, 0, 0, 0], text.as_bytes()].concat();
    let flood = frame.repeat(1_000);
    let MaybeTlsStream::Plain(stream) = socket.get_mut() else {
        unreachable!("ws://");
    };
    let flooding = async { while stream.write_all(&flood).await.is_ok() {} };
    tokio::select! {
        () = flooding => {}
        () = caller.over() => {}
    }
    drop(socket);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    assert_eq!(stage.finish().await, ["duration-limit"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_floods_its_events_is_ended_and_nothing_is_left() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    for _ in 0..200_000 {
        caller.digit('1');
    }
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    let outcomes = stage.finish().await;
    assert!(["failed", "caller-hung-up"].contains(&outcomes[0].as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn packets_that_the_transport_refuses_are_not_the_end() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    caller.refuse_sends(Some(70_011));
    worker.media(&sound::numbered(0, 10).concat());
    worker.mark("played to nobody");
    worker.next_of("mark").await;
    caller.refuse_sends(None);
    let words = sound::numbered(100, 10).concat();
    worker.media(&words);
    until("audio again", async || {
        sound::contains(&caller.payloads(), &words)
    })
    .await;
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_never_reads_is_told_so_and_lost() {
    use futures_util::StreamExt;
    let setup = Setup::queue().with(|settings| settings.max_attempts = 1);
    let stage = setup.start().await;
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    let mut socket = dial(job.url()).await.unwrap();
    caller.answered().await;
    // A megabyte and more waits: it counts as stalled.
    let mut said = 0;
    until("the worker is lost", async || {
        for _ in 0..1_000 {
            said += u32::from(caller.say_one(&sound::numbered_frame(said)));
        }
        caller.local_end().is_some() || sound::contains(&caller.audio(), &announcement())
    })
    .await;
    caller.over().await;
    let mut last = None;
    while let Some(Ok(message)) = socket.next().await {
        last = Some(message);
    }
    drop(socket);
    let Some(Message::Close(Some(frame))) = last else {
        panic!("no close frame: {last:?}");
    };
    assert_eq!(u16::from(frame.code), 1008);
    assert_eq!(stage.finish().await, ["worker-lost"]);
}
