//! A worker and a caller talk: audio, marks, clear, hold, digits.

use base64::Engine;
use serde_json::json;
use sipbridge::core::media_link::Direction;
use sipbridge::core::rtp::RtpHeader;

use super::caller::Caller;
use super::harness::{SOON, Worker, sound, until};
use super::stage::{Setup, Stage};

/// A call with a worker.
pub async fn talking(stage: &Stage) -> (Caller, Worker) {
    let caller = stage.call();
    let worker = Worker::serve(stage.redis()).await;
    caller.answered().await;
    (caller, worker)
}

/// The caller hangs up, the worker is told, and nothing is left.
async fn hang_up(stage: Stage, caller: Caller, mut worker: Worker) {
    caller.hang_up();
    worker.listen_to_end().await;
    assert_eq!(worker.heard.last().unwrap().json["event"], "stop");
    worker.assert_numbered();
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_passes_bit_for_bit_both_ways_whatever_its_pieces() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    let question = sound::numbered(0, 100);
    caller.say(&question);
    let reply = sound::numbered(1_000, 60).concat();
    for piece in reply.chunks(333) {
        worker.media(piece);
    }
    worker.hears(&question.concat(), SOON).await;
    caller.hears("the reply", &reply).await;
    hang_up(stage, caller, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_callers_last_words_before_bye_reach_the_worker() {
    let stage = Setup::queue().start().await;
    for _ in 0..20 {
        let (caller, mut worker) = talking(&stage).await;
        let words = sound::numbered(0, 100);
        caller.say(&words);
        caller.hang_up();
        worker.listen_to_end().await;
        assert!(
            sound::contains(&worker.audio(), &words.concat()),
            "{} of {} bytes",
            worker.audio().len(),
            words.len() * sound::FRAME
        );
        assert_eq!(worker.heard.last().unwrap().json["event"], "stop");
        worker.assert_numbered();
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn marks_come_back_in_order_and_clear_sends_them_at_once() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    worker.mark("nothing queued");
    assert_eq!(worker.next_of("mark").await.json["mark"]["cleared"], false);
    let heard = sound::numbered(0, 10).concat();
    worker.media(&heard);
    worker.mark("heard");
    worker.media(&sound::numbered(100, 3_000).concat());
    for name in ["cut 1", "cut 2"] {
        worker.mark(name);
    }
    let mark = worker.next_of("mark").await.json["mark"].clone();
    assert_eq!(
        mark,
        json!({"name": "heard", "playedMs": 200, "cleared": false})
    );
    assert!(sound::contains(&caller.audio(), &heard));
    worker.clear();
    for name in ["cut 1", "cut 2"] {
        let mark = worker.next_of("mark").await.json["mark"].clone();
        assert_eq!(
            (&mark["name"], &mark["cleared"]),
            (&json!(name), &json!(true))
        );
    }
    let after = sound::numbered(5_000, 10).concat();
    worker.media(&after);
    worker.mark("after");
    let mark = worker.next_of("mark").await.json["mark"].clone();
    assert_eq!(
        mark,
        json!({"name": "after", "playedMs": 200, "cleared": false})
    );
    let audio = caller.audio();
    assert!(sound::contains(&audio, &after));
    assert!(
        !sound::contains(&audio, &sound::numbered_frame(2_500)),
        "what was cleared is not heard"
    );
    hang_up(stage, caller, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn hold_and_resume_keep_the_stream() {
    let stage = Setup::queue().with(|settings| {
        settings.media_timeout = Some(std::time::Duration::from_millis(800));
    });
    let stage = stage.start().await;
    let (caller, mut worker) = talking(&stage).await;
    let before = sound::numbered(0, 20);
    caller.say(&before);
    worker.hears(&before.concat(), SOON).await;

    caller.direction(Direction::Inactive);
    // Time goes on for the worker: silence, and marks of what is not sent.
    worker.media(&sound::numbered(100, 30).concat());
    worker.mark("played on hold");
    worker.next_of("mark").await;
    let silence = vec![0xff; 8 * 1_000];
    worker.hears(&silence, SOON).await;
    assert!(!sound::contains(
        &caller.audio(),
        &sound::numbered_frame(120)
    ));

    caller.direction(Direction::SendRecv);
    let after = sound::numbered(200, 20);
    caller.say(&after);
    worker.media(&after.concat());
    worker.hears(&after.concat(), SOON).await;
    caller.hears("audio after the hold", &after.concat()).await;
    assert_eq!(worker.all("start").len(), 1);
    hang_up(stage, caller, worker).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_pass_both_ways() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    for digit in "1#".chars() {
        caller.digit(digit);
        let heard = worker.next_of("dtmf").await.json["dtmf"].clone();
        assert_eq!(
            heard,
            json!({"track": "inbound_track", "digit": digit.to_string()})
        );
    }
    worker.send(&json!({"event": "dtmf", "streamSid": worker.stream_sid,
        "dtmf": {"digits": "12#"}}));
    until("three events", async || events(&caller).len() == 3).await;
    assert_eq!(events(&caller), [1, 2, 11]);
    hang_up(stage, caller, worker).await;
}

/// The telephone events heard, by their begin and end.
fn events(caller: &Caller) -> Vec<u8> {
    let mut events: Vec<(u32, u8)> = Vec::new();
    for packet in caller.packets() {
        let (header, payload) = RtpHeader::parse(&packet).unwrap();
        let ends = header.payload_type == 101 && payload[1] & 0x80 != 0;
        if ends && events.last().is_none_or(|last| last.0 != header.timestamp) {
            events.push((header.timestamp, payload[0]));
        }
    }
    events.into_iter().map(|(_, event)| event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_in_odd_base64_is_played_like_any_other() {
    let stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    let reply = sound::numbered(2_000, 40).concat();
    let (safe, joined) = reply.split_at(reply.len() / 2);
    let url_safe = base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(safe);
    let standard = base64::engine::general_purpose::STANDARD.encode(joined);
    let lines: Vec<_> = standard
        .as_bytes()
        .chunks(76)
        .map(String::from_utf8_lossy)
        .collect();
    for payload in [url_safe, lines.join("\r\n")] {
        worker.send(&json!({"event": "media", "streamSid": worker.stream_sid,
            "media": {"payload": payload}}));
    }
    caller.hears("all of it", &reply).await;
    hang_up(stage, caller, worker).await;
}
