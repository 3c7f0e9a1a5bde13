//! Calls that the bridge places: answered and streamed like one that came in,
//! and every way in which they come to nothing. The call store and Redis
//! say the same.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::sim::SimCallee;
use serde_json::json;
use sipbridge::bridge::call_store::{CallRequest, RequestError};
use sipbridge::bridge::place::{NewCall, PlaceError};
use sipbridge::core::call_object::{CallDirection, CallObject, CallStatus};
use sipbridge::core::ids::{CallId, LineId};
use sipbridge::core::private::Private;
use sipbridge::core::rtp::RtpHeader;
use sipbridge::sip::engine::{CallRefused, SubmitError};
use tokio::net::TcpListener;

use super::caller::Caller;
use super::harness::{Job, SOON, Worker, sound, until};
use super::stage::{LINE, Setup, Stage, hold};

const CALLEE: &str = "+33612345678";

pub fn new_call() -> NewCall {
    NewCall {
        line: LineId::new(LINE),
        to: Private::new(CALLEE),
        custom_params: BTreeMap::from([
            ("orderId".into(), "42".into()),
            // What the contract promises is not the client's to say.
            ("direction".into(), "sideways".into()),
        ]),
        ws_target: None,
        callback_url: None,
        voice: None,
        time_limit: None,
        caller_id: None,
        ring_timeout: Duration::from_secs(20),
    }
}

/// A placed call, and its callee, who has not rung yet.
async fn placed(stage: &Stage, call: NewCall) -> (CallObject, SimCallee) {
    let object = stage.place(call).await.unwrap();
    let callee = stage.sim.take_outgoing().pop().unwrap();
    (object, callee)
}

/// An answered call with a worker.
pub async fn talking(stage: &Stage) -> (CallId, Caller, Worker) {
    let (object, callee) = placed(stage, new_call()).await;
    callee.ring();
    callee.answer();
    let worker = Worker::serve(stage.redis()).await;
    stage.shows(&object.facts.id, CallStatus::Active).await;
    (
        object.facts.id.clone(),
        Caller::new(callee.into_call()),
        worker,
    )
}

async fn names(stage: &Stage) -> Vec<String> {
    let events = stage.events().await;
    events.into_iter().map(|event| event.name).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answered_call_is_streamed_like_one_that_came_in() {
    let stage = Setup::queue().start().await;
    let (object, callee) = placed(&stage, new_call()).await;
    assert_eq!(callee.destination().expose(), CALLEE);
    assert_eq!(object.state.status, CallStatus::Initiated);
    assert_eq!(object.facts.direction, CallDirection::Outbound);
    assert_eq!(
        object.facts.from.expose(),
        "+33972360682",
        "the line's number"
    );
    assert_eq!(object.facts.to.expose(), CALLEE);
    callee.ring();
    stage.shows(&object.facts.id, CallStatus::Ringing).await;
    assert_eq!(stage.jobs().await, 0, "no worker before the answer");
    // Early media is for nobody.
    callee.progress(183);
    for (number, frame) in (0..).zip(sound::numbered(9_000, 20)) {
        let header = RtpHeader {
            payload_type: 0,
            sequence: number,
            timestamp: u32::from(number) * 160,
            ssrc: 1,
            marker: false,
        };
        let packet = [&header.to_bytes()[..], &frame].concat();
        assert!(callee.send_rtp(&packet, Instant::now()));
    }
    callee.answer();
    stage.shows(&object.facts.id, CallStatus::Answered).await;
    let callee = Caller::new(callee.into_call());
    let words = sound::numbered(0, 50);
    callee.say(&words);

    let job = Job::take(stage.redis()).await;
    assert_eq!(job.text("direction"), "outbound");
    assert_eq!((job.text("from"), job.text("to")), ("+33972360682", CALLEE));
    let mut worker = Worker::attach(&job).await;
    assert_eq!(worker.call_sid, object.facts.id.as_str());
    assert_eq!(
        worker.start()["start"]["customParameters"],
        json!({
            "callerPhone": "+33972360682", "to": CALLEE, "direction": "outbound",
            "phoneLineId": LINE, "restaurantId": "resto-7", "orderId": "42",
        })
    );
    stage.shows(&object.facts.id, CallStatus::Active).await;
    worker.hears(&words.concat(), SOON).await;
    let early = sound::numbered_frame(9_010);
    assert!(!sound::contains(&worker.audio(), &early));
    let reply = sound::numbered(1_000, 30).concat();
    worker.media(&reply);
    worker.mark("said");
    callee.hears("the worker", &reply).await;
    assert_eq!(worker.next_of("mark").await.json["mark"]["playedMs"], 600);
    let audio = callee.audio();
    let begin = sound::position(&audio, &reply).unwrap();
    assert!(
        sound::is_silence(&audio[..begin]),
        "silence before the worker: no ringback, no greeting"
    );
    callee.hang_up();
    worker.listen_to_end().await;
    worker.assert_numbered();
    drop(worker);
    let shown = stage.shows(&object.facts.id, CallStatus::Completed).await;
    assert_eq!(shown.state.sip_status, 200);
    assert!(shown.state.answered.is_some() && shown.state.ended.is_some());
    let events = [
        "call.initiated",
        "call.ringing",
        "call.answered",
        "call.queued",
        "worker.attached",
        "call.ended",
    ];
    until("all events", async || names(&stage).await == events).await;
    let told = stage.events().await;
    assert!(
        told.iter()
            .all(|event| event.field("direction") == Some("outbound"))
    );
    assert_eq!(stage.finish().await, ["callee-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_callee_that_does_not_answer_is_cancelled_after_the_ring_timeout() {
    let stage = Setup::queue().start().await;
    let call = NewCall {
        ring_timeout: Duration::from_millis(300),
        ..new_call()
    };
    let (object, callee) = placed(&stage, call).await;
    callee.ring();
    let callee = Caller::new(callee.into_call());
    assert_eq!(callee.ended_by_bridge().await.status, 487);
    stage.shows(&object.facts.id, CallStatus::NoAnswer).await;
    assert_eq!(stage.finish().await, ["no-answer"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_shows_as_what_it_is() {
    let stage = Setup::queue().start().await;
    for (status, shown) in [
        (486, CallStatus::Busy),
        (603, CallStatus::Busy),
        (480, CallStatus::NoAnswer),
        (404, CallStatus::Failed),
    ] {
        let (object, callee) = placed(&stage, new_call()).await;
        callee.refuse(status);
        let ended = stage.shows(&object.facts.id, shown).await;
        assert_eq!(ended.state.sip_status, status);
        assert_eq!(ended.state.outcome.map(|o| o.as_str()), Some("refused"));
    }
    let (object, callee) = placed(&stage, new_call()).await;
    callee.time_out();
    stage.shows(&object.facts.id, CallStatus::NoAnswer).await;
    let mut outcomes = ["refused"; 5];
    outcomes[4] = "failed";
    assert_eq!(stage.finish().await, outcomes);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_callee_is_let_go_and_not_handed_on() {
    let setup = Setup::queue().with(|s| s.worker_timeout = Duration::from_millis(300));
    let stage = setup.fallback_number("+33144556677").start().await;
    let (object, callee) = placed(&stage, new_call()).await;
    callee.answer();
    let callee = Caller::new(callee.into_call());
    assert_eq!(callee.ended_by_bridge().await.status, 200);
    assert!(callee.transfers().is_empty() && stage.sim.take_outgoing().is_empty());
    assert!(sound::is_silence(&callee.audio()), "no announcement");
    stage.shows(&object.facts.id, CallStatus::Completed).await;
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced_and_the_call_stays_active() {
    let stage = Setup::queue().start().await;
    let (sid, callee, worker) = talking(&stage).await;
    drop(worker);
    callee.hears("hold audio", &hold()[..1_600]).await;
    assert_eq!(
        stage.context.calls.get(&sid).unwrap().state.status,
        CallStatus::Active
    );
    let job = Job::take(stage.redis()).await;
    assert_eq!(
        (&job.json["resumed"], &job.json["attempt"]),
        (&json!(true), &json!(2))
    );
    let worker = Worker::attach(&job).await;
    let reply = sound::numbered(0, 20).concat();
    worker.media(&reply);
    callee.hears("the second worker", &reply).await;
    worker.close();
    assert_eq!(callee.ended_by_bridge().await.status, 200);
    drop(worker);
    stage.shows(&sid, CallStatus::Completed).await;
    assert_eq!(stage.finish().await, ["worker-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_with_a_worker_of_its_own_goes_to_no_queue() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Setup::queue().start().await;
    let address = listener.local_addr().unwrap();
    let call = NewCall {
        ws_target: Some(format!("ws://{address}/own")),
        ..new_call()
    };
    let (object, callee) = placed(&stage, call).await;
    callee.answer();
    let mut worker = Worker::accept(&listener).await;
    assert_eq!(worker.call_sid, object.facts.id.as_str());
    assert_eq!(stage.pushes().await, 0);
    callee.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    let bad = NewCall {
        ws_target: Some("http://example.com/".into()),
        ..new_call()
    };
    let refused = stage.placer.place(bad).await.unwrap_err();
    assert!(matches!(refused, PlaceError::BadTarget(_)), "{refused}");
    assert_eq!(stage.finish().await, ["callee-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_placed_is_said_and_leaves_nothing() {
    let stage = Setup::queue().start().await;
    let place = async |call| stage.placer.place(call).await.unwrap_err();
    let unknown = NewCall {
        line: LineId::new("nobody"),
        ..new_call()
    };
    assert_eq!(place(unknown).await, PlaceError::UnknownLine);
    stage.sim.refuse_calls(Some(CallRefused::Full));
    assert_eq!(place(new_call()).await, PlaceError::Sip(CallRefused::Full));
    stage.sim.refuse_commands(Some(SubmitError::Closed));
    assert_eq!(place(new_call()).await, PlaceError::Closed);
    stage.sim.refuse_commands(None);
    stage.context.call_limiter.set_overloaded(true);
    assert!(
        matches!(place(new_call()).await, PlaceError::Refused(refusal) if refusal.status == 503)
    );
    stage.context.call_limiter.set_overloaded(false);
    stage.context.call_limiter.drain();
    assert!(matches!(place(new_call()).await, PlaceError::Refused(_)));
    assert!(stage.context.calls.list().is_empty());
    assert_eq!(stage.context.call_limiter.active(), 0);
    stage.taken_in_vain(2);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hangup_from_outside_cancels_or_ends_the_call() {
    let stage = Setup::queue().start().await;
    let (object, callee) = placed(&stage, new_call()).await;
    callee.ring();
    let ask = async |sid: &CallId, request| stage.context.calls.ask(sid, request).await;
    let digits = ask(&object.facts.id, CallRequest::Dtmf("1".into())).await;
    assert!(matches!(digits, Err(RequestError::NotNow(_))), "{digits:?}");
    assert_eq!(ask(&object.facts.id, CallRequest::Hangup).await, Ok(()));
    let callee = Caller::new(callee.into_call());
    assert_eq!(callee.ended_by_bridge().await.status, 487);
    stage.shows(&object.facts.id, CallStatus::Cancelled).await;
    let again = ask(&object.facts.id, CallRequest::Hangup).await;
    assert_eq!(again, Err(RequestError::Over));

    let (sid, callee, mut worker) = talking(&stage).await;
    assert_eq!(ask(&sid, CallRequest::Hangup).await, Ok(()));
    assert_eq!(callee.ended_by_bridge().await.status, 200);
    worker.listen_to_end().await;
    drop(worker);
    stage.shows(&sid, CallStatus::Completed).await;
    assert_eq!(stage.finish().await, ["cancelled", "api-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_and_a_transfer_from_outside() {
    let stage = Setup::queue().start().await;
    let (sid, callee, worker) = talking(&stage).await;
    let ask = async |request| stage.context.calls.ask(&sid, request).await;
    for bad in ["", "12x", "1 2"] {
        let refused = ask(CallRequest::Dtmf(bad.into())).await;
        assert!(matches!(refused, Err(RequestError::Invalid(_))), "{bad}");
    }
    assert_eq!(ask(CallRequest::Dtmf("5".into())).await, Ok(()));
    until("the digit", async || {
        let event = |packet: &Vec<u8>| packet[1] & 0x7f == 101 && packet[12] == 5;
        callee.packets().iter().any(event)
    })
    .await;

    let to = Private::new("+33144556677");
    assert_eq!(ask(CallRequest::Transfer(to.clone())).await, Ok(()));
    let second = ask(CallRequest::Transfer(to.clone())).await;
    assert!(matches!(second, Err(RequestError::NotNow(_))));
    until("REFER", async || callee.transfers() == [to.clone()]).await;
    callee.transfer_progress(100, false);
    callee.transfer_progress(180, false);
    callee.transfer_progress(200, true);
    assert_eq!(callee.ended_by_bridge().await.status, 200);
    drop(worker);
    stage.shows(&sid, CallStatus::Transferred).await;
    let transfers = async || {
        let events = stage.events().await;
        let told = events.iter().filter(|event| event.name == "call.transfer");
        let statuses = told.map(|event| event.field("status").unwrap().to_owned());
        statuses.collect::<Vec<_>>()
    };
    until("its progress", async || {
        transfers().await == ["100", "180", "200"]
    })
    .await;
    assert_eq!(stage.finish().await, ["transferred"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_book_follows_a_call_that_came_in() {
    let stage = Setup::queue().start().await;
    let caller = stage.call();
    until("its entry", async || !stage.context.calls.list().is_empty()).await;
    let sid = stage.context.calls.list()[0].facts.id.clone();
    let shown = stage.shows(&sid, CallStatus::Answered).await;
    assert_eq!(shown.facts.direction, CallDirection::Inbound);
    assert_eq!(shown.state.custom_params["direction"], "inbound");
    let worker = Worker::serve(stage.redis()).await;
    stage.shows(&sid, CallStatus::Active).await;
    caller.hang_up();
    let shown = stage.shows(&sid, CallStatus::Completed).await;
    assert_eq!(
        shown.state.outcome.map(|o| o.as_str()),
        Some("caller-hung-up")
    );
    drop(worker);

    let caller = stage.call();
    until("its entry", async || stage.context.calls.list().len() == 2).await;
    let sid = stage.context.calls.list()[0].facts.id.clone();
    let asked = stage.context.calls.ask(&sid, CallRequest::Hangup).await;
    assert_eq!(asked, Ok(()));
    caller.ended_by_bridge().await;
    stage.shows(&sid, CallStatus::Completed).await;
    assert_eq!(stage.finish().await, ["caller-hung-up", "api-hung-up"]);
}
