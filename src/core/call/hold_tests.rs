//! Hold and resume, in virtual time.

use super::super::tests::{SECOND, outputs, policy, started, streaming};
use super::*;
use crate::core::call::{IdleSound, WorkerInput};
use crate::core::media_link::Direction;

fn held(on: bool) -> Output {
    Output::Held(on)
}

fn reinvite(hold: bool) -> Output {
    Output::Reinvite { hold }
}

fn ask(call: &mut Call, now: Instant, on: bool) -> Vec<Output> {
    assert_eq!(call.handle_hold_request(now, on), Ok(()));
    outputs(call)
}

#[test]
fn a_held_call_outlives_its_silence_and_is_watched_again_afterwards() {
    let (mut call, now) = streaming(policy());
    assert_eq!(ask(&mut call, now, true), [held(true), reinvite(true)]);
    assert_eq!(ask(&mut call, now, true), [], "once is enough");
    // A trunk that ignores the direction may stop sending all the same.
    call.handle_media(now, Direction::SendRecv);
    call.handle_held(now, 200);
    call.handle_media(now, Direction::SendOnly);
    assert_eq!(call.poll_timeout(), None);
    let later = now + 600 * SECOND;
    assert_eq!(ask(&mut call, later, false), [held(false), reinvite(false)]);
    assert_eq!(ask(&mut call, later, false), []);
    call.handle_held(later, 200);
    call.handle_media(later, Direction::SendRecv);
    let media = Some((later + 20 * SECOND, Timer::Media));
    assert_eq!(call.poll_timeout(), media);
}

#[test]
fn a_refused_reinvite_leaves_the_call_as_it_was() {
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    call.handle_held(now, 488);
    assert_eq!(outputs(&mut call), [held(false)]);
    let media = Some((now + 20 * SECOND, Timer::Media));
    assert_eq!(call.poll_timeout(), media, "watched as before");
    ask(&mut call, now, true);
    call.handle_held(now, 200);
    call.handle_media(now, Direction::SendOnly);
    ask(&mut call, now, false);
    call.handle_held(now, 491);
    assert_eq!(outputs(&mut call), [held(true)], "still held");
    assert_eq!(ask(&mut call, now, false), [held(false), reinvite(false)]);
}

#[test]
fn a_reinvite_that_nobody_answers_counts_as_refused() {
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    assert_eq!(call.poll_timeout(), Some((now + ANSWER_LIMIT, Timer::Hold)));
    call.handle_timeout(now + ANSWER_LIMIT);
    assert_eq!(outputs(&mut call), [held(false)]);
    call.handle_held(now + ANSWER_LIMIT, 200);
    assert_eq!(outputs(&mut call), [], "too late");
}

#[test]
fn whoever_changes_his_mind_waits_for_the_answer() {
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    assert_eq!(ask(&mut call, now, false), [held(false)]);
    call.handle_held(now, 200);
    assert_eq!(outputs(&mut call), [reinvite(false)]);
    call.handle_held(now, 200);
    assert_eq!(outputs(&mut call), []);
    // Refused is what he wants by now.
    ask(&mut call, now, true);
    ask(&mut call, now, false);
    call.handle_held(now, 488);
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn nobody_is_held_before_the_answer_or_past_his_worker() {
    let (mut call, now) = started(policy());
    let early = call.handle_hold_request(now, true);
    assert_eq!(early, Err(Denied::NotAnswered));
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    call.handle_held(now, 200);
    call.handle_worker(now, WorkerInput::Closed);
    let last = [held(false), reinvite(false), Output::PlayOut];
    assert_eq!(outputs(&mut call), last, "its last words are heard");
    let late = call.handle_hold_request(now, true);
    assert_eq!(late, Err(Denied::Leaving));
    call.handle_held(now, 488);
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn a_held_caller_whose_worker_is_lost_stays_held_until_the_fallback() {
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    call.handle_held(now, 200);
    call.handle_worker(now, WorkerInput::Lost);
    assert!(call.is_held());
    outputs(&mut call);
    call.handle_timeout(now + 30 * SECOND);
    let fallback = outputs(&mut call);
    assert!(fallback.contains(&held(false)) && fallback.contains(&reinvite(false)));
    assert!(fallback.contains(&Output::IdleSound(IdleSound::Announcement)));
}

#[test]
fn a_held_caller_who_is_not_there_any_more_ends_the_call() {
    let (mut call, now) = streaming(policy());
    ask(&mut call, now, true);
    call.handle_held(now, 200);
    call.handle_media(now, Direction::SendOnly);
    ask(&mut call, now, false);
    call.handle_held(now, 408);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_leg_ended(false);
    let finished = outputs(&mut call);
    assert!(finished.contains(&Output::Finished(Outcome::MediaTimeout)));
}
