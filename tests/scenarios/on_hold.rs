//! Calls that somebody holds through the API: what either side hears, what
//! waits, and what a refused re-INVITE leaves.

use std::time::Duration;

use serde_json::json;
use sipbridge::bridge::call_store::{CallRequest, RequestError};
use sipbridge::core::ids::CallId;
use sipbridge::core::private::Private;

use super::caller::Caller;
use super::harness::{Job, SOON, Worker, sound, until};
use super::placed;
use super::stage::{Setup, Stage, announcement, hold};
use super::streaming;

async fn ask(stage: &Stage, sid: &CallId, request: CallRequest) {
    let answer = stage.context.calls.ask(sid, request).await;
    assert_eq!(answer, Ok(()));
}

async fn held(stage: &Stage, sid: &CallId, on: bool) {
    let shown = || stage.context.calls.get(sid).unwrap().state.on_hold;
    until("onHold", async || shown() == on).await;
}

fn setup() -> Setup {
    // Shorter than any hold here.
    Setup::queue().with(|settings| settings.media_timeout = Some(Duration::from_millis(700)))
}

/// A second that is spent on hold.
async fn a_while() {
    tokio::time::sleep(Duration::from_millis(1_200)).await;
}

/// Speaks as a phone does, so that the call is not taken for dead.
async fn speak(caller: &Caller, frames: &[Vec<u8>]) {
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for frame in frames {
        clock.tick().await;
        caller.say_one(frame);
    }
}

/// Holds and resumes a call that a worker has.
async fn hold_and_resume(stage: &Stage, sid: &CallId, caller: &Caller, worker: &mut Worker) {
    let before = sound::numbered(0, 20);
    caller.say(&before);
    worker.hears(&before.concat(), SOON).await;
    for _ in 0..2 {
        ask(stage, sid, CallRequest::Hold).await;
    }
    held(stage, sid, true).await;
    assert_eq!(caller.holds(), [true], "once");
    caller.hears("hold audio", &hold()[..4_800]).await;
    let reply = sound::numbered(1_000, 30).concat();
    worker.media(&reply);
    worker.mark("said");
    // A phone that goes on sending, and digits of it, are not heard.
    caller.say(&sound::numbered(500, 20));
    caller.digit('7');
    a_while().await;
    worker.listen(Duration::from_millis(50)).await;
    assert!(worker.all("mark").is_empty() && worker.all("dtmf").is_empty());
    assert!(!sound::contains(
        &worker.audio(),
        &sound::numbered_frame(510)
    ));
    let silence = vec![0xff; 8 * 400];
    worker.hears(&silence, SOON).await;
    assert!(!sound::contains(
        &caller.audio(),
        &sound::numbered_frame(1_001)
    ));
    assert!(caller.is_up(), "a hold is no dead line");

    for _ in 0..2 {
        ask(stage, sid, CallRequest::Resume).await;
    }
    held(stage, sid, false).await;
    assert_eq!(caller.holds(), [true, false]);
    let after = sound::numbered(200, 40);
    speak(caller, &after).await;
    worker.hears(&after[..30].concat(), SOON).await;
    caller.hears("what waited", &reply).await;
    if worker.all("mark").is_empty() {
        worker.next_of("mark").await;
    }
    let mark = &worker.all("mark")[0].json["mark"];
    assert_eq!(
        mark,
        &json!({"name": "said", "playedMs": 600, "cleared": false})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_callee_hears_hold_audio_and_what_waited_afterwards() {
    let stage = setup().start().await;
    let (sid, callee, mut worker) = placed::talking(&stage).await;
    hold_and_resume(&stage, &sid, &callee, &mut worker).await;
    callee.hang_up();
    worker.listen_to_end().await;
    worker.assert_numbered();
    drop(worker);
    assert_eq!(stage.finish().await, ["callee-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_caller_hears_hold_audio_and_what_waited_afterwards() {
    let stage = setup().start().await;
    let (caller, mut worker) = streaming::talking(&stage).await;
    let sid = stage.context.calls.list()[0].facts.id.clone();
    hold_and_resume(&stage, &sid, &caller, &mut worker).await;
    caller.hang_up();
    worker.listen_to_end().await;
    worker.assert_numbered();
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_hold_leaves_the_call_as_it_was() {
    let stage = Setup::queue().start().await;
    let (sid, callee, mut worker) = placed::talking(&stage).await;
    callee.refuse_holds(Some(488));
    ask(&stage, &sid, CallRequest::Hold).await;
    until("the re-INVITE", async || callee.holds() == [true]).await;
    held(&stage, &sid, false).await;
    let reply = sound::numbered(1_000, 20).concat();
    worker.media(&reply);
    callee.hears("the worker", &reply).await;
    let words = sound::numbered(0, 20);
    callee.say(&words);
    worker.hears(&words.concat(), SOON).await;
    // A refused resume leaves it held, and it may be tried again.
    callee.refuse_holds(None);
    ask(&stage, &sid, CallRequest::Hold).await;
    until("the second hold", async || callee.holds() == [true, true]).await;
    callee.refuse_holds(Some(491));
    ask(&stage, &sid, CallRequest::Resume).await;
    until("it is asked", async || callee.holds().len() == 3).await;
    held(&stage, &sid, true).await;
    callee.refuse_holds(None);
    ask(&stage, &sid, CallRequest::Resume).await;
    held(&stage, &sid, false).await;
    callee.hang_up();
    drop(worker);
    assert_eq!(stage.finish().await, ["callee-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_call_can_be_transferred_and_its_worker_replaced() {
    let stage = setup().start().await;
    let (sid, callee, worker) = placed::talking(&stage).await;
    ask(&stage, &sid, CallRequest::Hold).await;
    drop(worker);
    let worker = Worker::attach(&Job::take(stage.redis()).await).await;
    worker.media(&sound::numbered(1_000, 20).concat());
    a_while().await;
    held(&stage, &sid, true).await;
    let heard = sound::contains(&callee.audio(), &sound::numbered_frame(1_001));
    assert!(!heard, "still held");
    let to = Private::new("+33144556677");
    ask(&stage, &sid, CallRequest::Transfer(to.clone())).await;
    until("REFER", async || callee.transfers() == [to.clone()]).await;
    callee.transfer_progress(200, true);
    callee.ended_by_bridge().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["transferred"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_and_the_announcement_end_a_hold() {
    let stage = setup().start().await;
    let (sid, callee, worker) = placed::talking(&stage).await;
    ask(&stage, &sid, CallRequest::Hold).await;
    let words = sound::numbered(0, 30).concat();
    worker.media(&words);
    callee.hears("hold audio", &hold()[..1_600]).await;
    worker.close();
    assert_eq!(callee.ended_by_bridge().await.status, 200);
    assert!(sound::contains(&callee.audio(), &words));
    assert_eq!(callee.holds(), [true, false]);
    drop(worker);
    stage.finish().await;

    let stage = setup()
        .with(|settings| settings.max_attempts = 1)
        .start()
        .await;
    let (caller, worker) = streaming::talking(&stage).await;
    let sid = stage.context.calls.list()[0].facts.id.clone();
    ask(&stage, &sid, CallRequest::Hold).await;
    held(&stage, &sid, true).await;
    drop(worker);
    caller.hears("the announcement", &announcement()).await;
    let late = stage.context.calls.ask(&sid, CallRequest::Hold).await;
    assert!(matches!(
        late,
        Err(RequestError::NotNow(_) | RequestError::Over)
    ));
    caller.over().await;
    assert_eq!(stage.finish().await, ["worker-lost"]);
}
