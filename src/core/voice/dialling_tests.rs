//! `<Dial>` in virtual time: who is called, who is joined, what its action is told.

use std::time::Duration;

use super::FETCHES_IN_ROW_MAX;
use super::stage_tests::{SECOND, Stage, call_id};
use super::terms::{DialLegEnd, DialLegEvent};

/// An answered call that runs this `<Dial>` and then says `next`.
fn dialling(dial: &str) -> Stage {
    let mut stage = Stage::ringing()
        .answers("/voice", &format!("{dial}<Say>next</Say>"))
        .answers("/after", "<Say>after</Say>");
    stage.begin();
    let told = stage.established();
    assert!(told[0].starts_with("dial"), "{told:?}");
    stage
}

const ONE: &str = "<Dial action='/after'>+331</Dial>";
const THREE: &str =
    "<Dial action='/after'><Number>+331</Number><Number>+332</Number><Sip>sip:a@b</Sip></Dial>";
const SID: &str = "DialCallSid=CA0123456789abcdef0123456789abcdef";

fn ended(end: DialLegEnd) -> DialLegEvent {
    DialLegEvent::Ended(end)
}

#[test]
fn who_answers_is_joined_and_the_action_is_told_how_long_they_talked() {
    let mut stage = dialling(ONE);
    assert_eq!(stage.leg(0, DialLegEvent::Placed(call_id())), [""; 0]);
    stage.now += 10 * SECOND;
    assert_eq!(stage.leg(0, DialLegEvent::Answered), ["join 0"]);
    stage.now += Duration::from_millis(62_900);
    let told = stage.leg(0, ended(DialLegEnd::HungUp));
    let fetch = format!("fetch /after DialCallStatus=completed {SID} DialCallDuration=62");
    assert_eq!(told, [fetch.as_str(), "say after"]);
}

#[test]
fn without_an_action_the_next_verb_follows() {
    for end in [DialLegEnd::Busy, DialLegEnd::Failed] {
        let mut stage = dialling("<Dial>+331</Dial>");
        assert_eq!(stage.leg(0, ended(end)), ["say next"]);
    }
}

#[test]
fn the_first_of_several_to_answer_wins() {
    let mut stage = dialling(THREE);
    stage.leg(1, DialLegEvent::Placed(call_id()));
    assert_eq!(stage.leg(0, ended(DialLegEnd::Busy)), [""; 0]);
    assert_eq!(
        stage.leg(1, DialLegEvent::Answered),
        ["end leg 2", "join 1"]
    );
    // Another one's answer has crossed its end.
    assert_eq!(stage.leg(2, DialLegEvent::Answered), ["end leg 2"]);
    assert_eq!(stage.leg(2, ended(DialLegEnd::HungUp)), [""; 0]);
    let told = stage.leg(1, ended(DialLegEnd::HungUp));
    assert!(told[0].contains("completed"), "{told:?}");
}

#[test]
fn what_a_dial_comes_to_has_twilios_names() {
    use DialLegEnd::{Busy, Failed, NoAnswer};
    for (ends, status) in [
        ([Failed, Failed, Failed], "failed"),
        ([Failed, NoAnswer, Failed], "no-answer"),
        ([NoAnswer, Failed, Busy], "busy"),
    ] {
        let mut stage = dialling(THREE);
        assert_eq!(stage.leg(0, ended(ends[0])), [""; 0]);
        assert_eq!(stage.leg(1, ended(ends[1])), [""; 0]);
        let told = stage.leg(2, ended(ends[2]));
        assert_eq!(told[0], format!("fetch /after DialCallStatus={status}"));
    }
    // Nobody who can be called at all.
    let mut stage = Stage::ringing()
        .answers("/voice", "<Dial action='/after'><Sip>nobody</Sip></Dial>")
        .answers("/after", "<Hangup/>");
    stage.begin();
    let told = stage.established();
    assert_eq!(told, ["fetch /after DialCallStatus=failed", "hang up"]);
}

#[test]
fn it_rings_for_as_long_as_it_may_and_they_talk_for_as_long_as_they_may() {
    let mut stage = dialling("<Dial timeout='20' action='/after'>+331</Dial>");
    let told = stage.deadline(20 * SECOND);
    assert_eq!(
        told,
        [
            "end leg 0",
            "fetch /after DialCallStatus=no-answer",
            "say after"
        ]
    );
    let mut stage = dialling("<Dial timeLimit='60'>+331</Dial>");
    stage.leg(0, DialLegEvent::Answered);
    assert_eq!(stage.deadline(60 * SECOND), ["end leg 0", "say next"]);
}

#[test]
fn a_star_ends_the_second_leg_where_the_dial_says_so() {
    let mut stage = dialling("<Dial hangupOnStar='true'>+331</Dial>");
    assert_eq!(stage.digits("*"), [""; 0], "it rings");
    stage.leg(0, DialLegEvent::Answered);
    assert_eq!(stage.digits("12#"), [""; 0]);
    assert_eq!(stage.digits("*"), ["end leg 0", "say next"]);
    let mut stage = dialling("<Dial>+331</Dial>");
    stage.leg(0, DialLegEvent::Answered);
    assert_eq!(stage.digits("*"), [""; 0]);
}

#[test]
fn a_caller_who_is_answered_on_bridge_hears_that_it_rings_until_then() {
    let inner = "<Dial answerOnBridge='true'>+331</Dial><Reject reason='busy'/>";
    let mut stage = Stage::ringing().answers("/voice", inner);
    assert_eq!(stage.begin(), ["fetch /voice", "dial 1"]);
    assert_eq!(stage.leg(0, DialLegEvent::Answered), ["answer", "join 0"]);
    assert_eq!(stage.established(), [""; 0]);
    assert_eq!(stage.leg(0, ended(DialLegEnd::HungUp)), ["hang up"]);
    // Nobody answers: it can still be refused.
    let mut stage = Stage::ringing().answers("/voice", inner);
    stage.begin();
    assert_eq!(stage.leg(0, ended(DialLegEnd::Busy)), ["refuse 486"]);
}

#[test]
fn a_callee_hears_his_document_and_gets_his_digits_before_he_is_joined() {
    let mut stage = dialling(
        "<Dial action='/after'><Number url='/whisper' sendDigits='w12w3'>+331</Number><Number>+332</Number></Dial>",
    );
    let dial = stage.awaited().unwrap();
    let told = stage.leg(0, DialLegEvent::Answered);
    assert_eq!(told, ["end leg 1", "leg 0 runs /whisper"]);
    let ms = Duration::from_millis;
    assert_eq!(stage.leg(0, DialLegEvent::DocumentOver), [""; 0]);
    assert_eq!(stage.deadline(ms(500)), ["send 12 to leg 0"]);
    assert_eq!(stage.played(ms(440)), [""; 0]);
    assert_eq!(stage.deadline(ms(500)), ["send 3 to leg 0"]);
    assert_eq!(stage.played(ms(220)), ["join 0"]);
    assert_eq!(stage.leg_of(dial, 0, DialLegEvent::DocumentOver), [""; 0]);
    let told = stage.leg_of(dial, 0, ended(DialLegEnd::HungUp));
    assert_eq!(
        told[0],
        "fetch /after DialCallStatus=completed DialCallDuration=0"
    );
}

#[test]
fn a_callee_who_hangs_up_before_he_is_joined_did_not_answer() {
    let number = "<Dial action='/after'><Number url='/whisper'>+331</Number></Dial>";
    let mut stage = dialling(number);
    stage.leg(0, DialLegEvent::Answered);
    let told = stage.leg(0, ended(DialLegEnd::HungUp));
    assert_eq!(told[0], "fetch /after DialCallStatus=no-answer");
}

#[test]
fn a_caller_who_hangs_up_ends_the_legs_and_the_action_is_told() {
    let mut stage = dialling(THREE);
    stage.leg(0, ended(DialLegEnd::Busy));
    let told = stage.ended();
    assert_eq!(
        told,
        [
            "notify /after DialCallStatus=canceled",
            "end leg 1",
            "end leg 2"
        ]
    );
    let mut stage = dialling(ONE);
    stage.leg(0, DialLegEvent::Placed(call_id()));
    stage.leg(0, DialLegEvent::Answered);
    stage.now += 7 * SECOND;
    let notice = format!("notify /after DialCallStatus=completed {SID} DialCallDuration=7");
    assert_eq!(stage.ended(), [notice.as_str(), "end leg 0"]);
    let mut stage = dialling("<Dial>+331</Dial>");
    assert_eq!(stage.ended(), ["end leg 0"]);
}

#[test]
fn legs_of_a_dial_that_is_over_change_nothing() {
    let mut stage = dialling(THREE);
    let dial = stage.awaited().unwrap();
    stage.replace("<Dial><Number>+339</Number></Dial>");
    for event in [DialLegEvent::Answered, ended(DialLegEnd::Failed)] {
        assert_eq!(stage.leg_of(dial, 0, event), [""; 0]);
    }
    // One that is none of its legs.
    assert_eq!(stage.leg(7, DialLegEvent::Answered), [""; 0]);
    assert_eq!(stage.leg(0, DialLegEvent::Answered), ["join 0"]);
}

#[test]
fn a_caller_who_is_not_answered_hears_what_the_dial_came_to() {
    use DialLegEnd::{Busy, Failed, NoAnswer};
    let dial = "<Dial answerOnBridge='true'>+331</Dial>";
    for (end, expected) in [
        (Busy, "hang up or 486"),
        (NoAnswer, "hang up or 480"),
        (Failed, "hang up"),
    ] {
        let mut stage = Stage::ringing().answers("/voice", dial);
        stage.begin();
        assert_eq!(stage.leg(0, ended(end)), [expected]);
    }
    // The action has nothing more to say.
    let with_action = "<Dial answerOnBridge='true' action='/after'>+331</Dial>";
    let mut stage = Stage::ringing()
        .answers("/voice", with_action)
        .answers("/after", "");
    stage.begin();
    let told = stage.leg(0, ended(Busy));
    assert_eq!(told[1..], ["hang up or 486"]);
    // The last of two counts, and nothing of it once the REST API says otherwise.
    let mut stage = Stage::ringing().answers("/voice", &dial.repeat(2));
    stage.begin();
    assert_eq!(stage.leg(0, ended(Busy)), ["dial 1"]);
    assert_eq!(stage.leg(0, ended(NoAnswer)), ["hang up or 480"]);
    let mut stage = Stage::ringing().answers("/voice", &dial.repeat(2));
    stage.begin();
    stage.leg(0, ended(Busy));
    let (_, told) = stage.replace("");
    assert_eq!(told, ["end leg 0", "hang up"]);
}

#[test]
fn a_hunt_through_many_numbers_is_no_loop_of_documents() {
    let hunt = "<Dial action='/voice'>+331</Dial>";
    let mut stage = Stage::ringing().answers("/voice", hunt);
    stage.begin();
    assert_eq!(stage.established(), ["dial 1"]);
    for _ in 0..100 {
        stage.leg(0, DialLegEvent::Placed(call_id()));
        let told = stage.leg(0, ended(DialLegEnd::Busy));
        assert_eq!(told[1..], ["dial 1"]);
    }
    // Numbers that may not be called at all are one.
    for _ in 1..FETCHES_IN_ROW_MAX {
        stage.leg(0, ended(DialLegEnd::Failed));
    }
    let told = stage.leg(0, ended(DialLegEnd::Failed));
    assert_eq!(told.last().map(String::as_str), Some("fall back"));
}
