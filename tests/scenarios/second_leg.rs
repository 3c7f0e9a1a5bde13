//! The fallback number where the trunk refuses REFER: called, and joined with
//! the caller.

use std::time::Duration;

use crate::sim::SimCallee;
use sipbridge::core::media_link::{Codec, Direction};
use sipbridge::sip::engine::CallRefused;

use super::caller::Caller;
use super::harness::{sound, until};
use super::stage::{Setup, Stage, announcement};

const NUMBER: &str = "+33144556677";

/// A caller whose fallback has come to the REFER.
async fn referring() -> (Stage, Caller) {
    let setup =
        Setup::queue().with(|settings| settings.worker_timeout = Duration::from_millis(200));
    let stage = setup.fallback_number(NUMBER).start().await;
    let caller = stage.call();
    caller.say(&sound::numbered(5_000, 20));
    caller.hears("the announcement", &announcement()).await;
    until("REFER", async || !caller.transfers().is_empty()).await;
    (stage, caller)
}

/// A caller whose trunk has refused REFER, and the call to the number.
async fn calling_out() -> (Stage, Caller, SimCallee) {
    let (stage, caller) = referring().await;
    caller.transfer_progress(405, true);
    let mut callees = Vec::new();
    until("a call to the number", async || {
        callees.extend(stage.sim.take_outgoing());
        !callees.is_empty()
    })
    .await;
    let callee = callees.remove(0);
    assert_eq!(callee.destination().expose(), NUMBER);
    (stage, caller, callee)
}

/// Says frames as a phone does.
async fn speak(caller: &Caller, frames: &[Vec<u8>]) {
    let mut clock = tokio::time::interval(Duration::from_millis(20));
    for frame in frames {
        clock.tick().await;
        caller.say_one(frame);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn they_hear_each_other_and_whoever_hangs_up_ends_both() {
    for caller_leaves in [true, false] {
        let (stage, caller, callee) = calling_out().await;
        callee.ring();
        let ringback = sound::numbered(800_000, 3).concat();
        caller.hears("ringback", &ringback).await;
        callee.answer();
        let callee = Caller::new(callee.into_call());
        until("media of the callee", async || !callee.packets().is_empty()).await;
        let (question, answer) = (sound::numbered(0, 60), sound::numbered(1_000, 60));
        tokio::join!(speak(&caller, &question), speak(&callee, &answer));
        // A loaded machine may cost a frame at the edges.
        callee.hears("the caller", &question[20..30].concat()).await;
        caller.hears("the callee", &answer[20..30].concat()).await;
        let old = sound::numbered_frame(5_010);
        assert!(!sound::contains(&callee.audio(), &old), "from before");
        if caller_leaves {
            caller.hang_up();
            callee.ended_by_bridge().await;
        } else {
            callee.hang_up();
            assert_eq!(caller.ended_by_bridge().await.status, 200);
        }
        let events = stage.events().await;
        let rungs = events.iter().filter(|event| event.name == "call.fallback");
        let rungs: Vec<_> = rungs.filter_map(|event| event.field("rung")).collect();
        assert_eq!(rungs, ["announcement", "transfer", "bridge"]);
        assert_eq!(stage.finish().await, ["no-worker"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_side_keeps_its_codec_and_its_hold() {
    let (stage, caller, callee) = calling_out().await;
    callee.answer();
    let callee = Caller::new(callee.into_call());
    callee.media(|format| {
        format.codec = Codec::Pcma;
        format.send_payload_type = 8;
    });
    callee.direction(Direction::Inactive);
    speak(&caller, &sound::numbered(0, 10)).await;
    callee.direction(Direction::SendRecv);
    until("PCMA", async || {
        speak(&caller, &sound::numbered(10, 5)).await;
        callee.packets().iter().any(|packet| packet[1] & 0x7f == 8)
    })
    .await;
    caller.hang_up();
    callee.ended_by_bridge().await;
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_that_does_not_answer_is_followed_by_bye() {
    let (stage, caller, callee) = calling_out().await;
    callee.ring();
    callee.refuse(486);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    let events = stage.events().await;
    let last = events.iter().rfind(|event| event.name == "call.fallback");
    let last = last.unwrap();
    assert_eq!(last.field("reason"), Some("fallback-unanswered"));
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_while_it_rings_ends_the_second_call() {
    let (stage, caller, callee) = calling_out().await;
    callee.ring();
    caller.hang_up();
    let callee = Caller::new(callee.into_call());
    callee.ended_by_bridge().await;
    assert_eq!(stage.finish().await, ["no-worker"]);
}

/// On one thread, so that the driver finds both events before it hears that the
/// call was placed.
#[tokio::test]
async fn a_caller_who_leaves_while_the_number_is_dialled_ends_the_second_call() {
    let (stage, caller) = referring().await;
    caller.transfer_progress(405, true);
    caller.hang_up();
    caller.over().await;
    until("a call to the number", async || {
        !stage.sim.take_outgoing().is_empty()
    })
    .await;
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_room_for_a_second_leg_is_followed_by_bye() {
    let setup = Setup::redis_away().fallback_number(NUMBER);
    let stage = setup.start().await;
    stage.sim.refuse_calls(Some(CallRefused::Full));
    let caller = stage.call();
    until("REFER", async || !caller.transfers().is_empty()).await;
    caller.transfer_progress(603, true);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    stage.finish().await;
}
