//! Who ends a call, and how: the worker by every way it has, the limits, the
//! bridge itself.

use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use sipbridge::bridge::call_store::StatusListener;
use sipbridge::core::call::AnswerMode;
use sipbridge::core::call_object::CallObject;
use sipbridge::core::callback::{CallbackReceiver, WebhookEvent};
use sipbridge::core::private::Private;
use sipbridge::sip::engine::SubmitError;

use super::harness::{Job, SOON, Worker, dial, sound, until};
use super::stage::{Setup, announcement};
use super::streaming::talking;

#[tokio::test(flavor = "multi_thread")]
async fn a_normal_close_plays_out_bit_for_bit_before_bye() {
    let stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    // The last frame is a partial one.
    let mut words = sound::numbered(0, 60).concat();
    words.truncate(59 * sound::FRAME + 41);
    worker.media(&words);
    worker.close();
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    let audio = caller.audio();
    let from = sound::position(&audio, &words).expect("every word");
    assert!(
        sound::is_silence(&audio[from + words.len()..]),
        "then silence"
    );
    drop(worker);
    assert_eq!(stage.finish().await, ["worker-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn hangup_and_stop_play_out_and_still_echo_marks() {
    for event in ["hangup", "stop"] {
        let stage = Setup::queue().start().await;
        let (caller, mut worker) = talking(&stage).await;
        let words = sound::numbered(0, 30).concat();
        worker.media(&words);
        worker.mark("last");
        worker.send(&json!({"event": event, "streamSid": worker.stream_sid}));
        worker.media(&sound::numbered(500, 5).concat());
        assert_eq!(worker.next_of("mark").await.json["mark"]["playedMs"], 600);
        worker.listen_to_end().await;
        assert_eq!(worker.heard.last().unwrap().json["event"], "stop");
        let audio = caller.audio();
        assert!(sound::contains(&audio, &words));
        assert!(!sound::contains(&audio, &sound::numbered_frame(500)));
        drop(worker);
        assert_eq!(stage.finish().await, ["worker-hung-up"], "{event}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn clear_after_hangup_ends_the_call_at_once() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    worker.media(&sound::numbered(0, 3_000).concat());
    worker.send(&json!({"event": "hangup", "streamSid": worker.stream_sid}));
    worker.clear();
    caller.over().await;
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["worker-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_ends_the_call_before_media_is_up_is_played_out_all_the_same() {
    let setup = Setup::queue().with(|settings| settings.answer = AnswerMode::OnWorker);
    let stage = setup.start().await;
    let caller = stage.call();
    let job = Job::take(stage.redis()).await;
    // The 200 is not taken: no media, until the test says so.
    let worker = Worker::attach(&job).await;
    worker.close();
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(worker);
    assert_eq!(stage.finish().await, ["worker-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_nobody_replaces_is_followed_by_the_announcement_and_the_transfer() {
    let setup = Setup::queue().with(|settings| settings.max_attempts = 1);
    let stage = setup.fallback_number("+33144556677").start().await;
    let (caller, worker) = talking(&stage).await;
    let words = sound::numbered(0, 10).concat();
    worker.media(&words);
    caller.hears("the worker", &words).await;
    drop(worker);
    caller.hears("the announcement", &announcement()).await;
    until("REFER", async || !caller.transfers().is_empty()).await;
    assert_eq!(caller.transfers(), [Private::new("+33144556677")]);
    caller.transfer_progress(180, false);
    caller.transfer_progress(486, true);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    assert_eq!(stage.finish().await, ["worker-lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_nobody_replaces_is_followed_by_bye_without_a_fallback_number() {
    let setup = Setup::queue().with(|settings| settings.max_attempts = 1);
    let stage = setup.start().await;
    let (caller, worker) = talking(&stage).await;
    let job = format!(
        "{}/media-stream/{}?token=x",
        stage.context.settings.stream_url, worker.call_sid
    );
    drop(worker);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    assert!(sound::contains(&caller.audio(), &announcement()));
    until("the call is over", async || {
        stage.context.call_limiter.active() == 0
    })
    .await;
    assert_eq!(dial(&job).await.err(), Some(410));
    assert_eq!(stage.finish().await, ["worker-lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_transfer_leaves_the_worker_who_may_try_again() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    let transfer = |to: &str| {
        json!({"event": "transfer", "streamSid": worker.stream_sid,
            "transfer": {"destination": to}})
    };
    let (one, two, three) = (transfer("+331"), transfer("+332"), transfer("+333"));
    worker.send(&one);
    until("REFER", async || caller.transfers().len() == 1).await;
    caller.transfer_progress(100, false);
    caller.transfer_progress(603, true);
    let words = sound::numbered(0, 10);
    caller.say(&words);
    worker.hears(&words.concat(), SOON).await;
    worker.send(&two);
    until("the second REFER", async || caller.transfers().len() == 2).await;
    // Its subscription ends without a word about the result.
    caller.transfer_progress(100, true);
    until("the third REFER", async || {
        worker.send(&three);
        caller.transfers().len() == 3
    })
    .await;
    caller.transfer_progress(200, true);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["transferred"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_after_a_transfer_does_not_cut_it_short() {
    let stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    worker.send(&json!({"event": "transfer", "streamSid": worker.stream_sid,
        "transfer": {"destination": "+331"}}));
    worker.media(&sound::numbered(0, 5).concat());
    worker.close();
    caller
        .hears("the last words", &sound::numbered(0, 5).concat())
        .await;
    // Played out; yet BYE before the answer to REFER would end the transfer.
    let packets = caller.packets().len();
    until("ten more packets", async || {
        caller.packets().len() > packets + 10
    })
    .await;
    assert_eq!(caller.local_end(), None);
    caller.transfer_progress(200, true);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(worker);
    assert_eq!(stage.finish().await, ["transferred"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_call_and_the_longest_silence_are_bounded() {
    let limit = Some(Duration::from_millis(300));
    let stage = Setup::queue().with(|settings| settings.max_duration = limit);
    let stage = stage.start().await;
    let (caller, mut worker) = talking(&stage).await;
    worker.listen_to_end().await;
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(worker);
    assert_eq!(stage.finish().await, ["duration-limit"]);

    let stage = Setup::queue().with(|settings| settings.media_timeout = limit);
    let stage = stage.start().await;
    let (caller, mut worker) = talking(&stage).await;
    worker.listen_to_end().await;
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(worker);
    assert_eq!(stage.finish().await, ["media-timeout"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn shutdown_ends_calls_in_every_phase() {
    let setup = Setup::queue().with(|settings| settings.answer = AnswerMode::OnWorker);
    let stage = setup.start().await;
    let (talker, mut worker) = talking(&stage).await;
    let (player, leaver) = talking(&stage).await;
    leaver.media(&sound::numbered(0, 3_000).concat());
    leaver.close();
    player.hears("the leaver", &sound::numbered_frame(0)).await;
    let waiter = stage.call();
    until("180", async || waiter.statuses() == [180]).await;
    stage.context.call_limiter.drain();
    stage.context.shutdown.end_calls();
    let ends = [
        talker.ended_by_bridge().await.status,
        player.ended_by_bridge().await.status,
        waiter.ended_by_bridge().await.status,
    ];
    assert_eq!(ends, [200, 200, 480]);
    worker.listen_to_end().await;
    assert_eq!(worker.heard.last().unwrap().json["event"], "stop");
    drop((worker, leaver));
    assert_eq!(stage.finish().await, ["shutdown"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leg_that_fails_by_itself_ends_the_call() {
    let stage = Setup::queue().start().await;
    let (caller, mut worker) = talking(&stage).await;
    caller.fail(408);
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["failed"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_takes_no_command_loses_the_call_and_nothing_else() {
    for error in [SubmitError::Full, SubmitError::Closed] {
        let stage = Setup::queue().start().await;
        let (caller, mut worker) = talking(&stage).await;
        stage.sim.refuse_commands(Some(error));
        let waiter = stage.call();
        worker.send(&json!({"event": "hangup", "streamSid": worker.stream_sid}));
        worker.listen_to_end().await;
        until("both are given up", async || {
            stage.context.call_limiter.active() == 0
        })
        .await;
        assert_eq!(stage.pushes().await, 1, "no job of a call that never was");
        stage.sim.refuse_commands(None);
        // The engine finds that nobody listens, as soon as the leg says anything.
        for caller in [&caller, &waiter] {
            caller.digit('1');
            caller.over().await;
        }
        drop(worker);
        let mut outcomes = stage.finish().await;
        outcomes.sort();
        assert_eq!(outcomes, ["failed", "worker-hung-up"]);
    }
}

/// Panics in the driver's task as soon as the call is answered.
struct Bomb;

impl StatusListener for Bomb {
    fn changed(&self, call: &CallObject, _: Option<&CallbackReceiver>) {
        assert!(
            call.state.status.is_final() || call.state.answered.is_none(),
            "injected"
        );
    }

    fn tell(&self, event: WebhookEvent) {
        panic!("{event:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_driver_that_panics_leaves_no_open_record_and_no_job() {
    let mut setup = Setup::queue();
    setup.listener = Some(Arc::new(Bomb));
    let stage = setup.start().await;
    let caller = stage.call();
    until("it is told as over", async || {
        let events = stage.events().await;
        let mut ends = events.iter().filter(|event| event.name == "call.ended");
        ends.any(|event| event.outcome.as_deref() == Some("failed"))
    })
    .await;
    caller.ended_by_bridge().await;
    let calls: Vec<String> = stage.redis().query(&["KEYS", "call:CA*"]).await;
    let state: String = stage.redis().query(&["HGET", &calls[0], "state"]).await;
    assert_eq!(state, "ended");
    assert_eq!(stage.finish().await, ["failed"]);
}
