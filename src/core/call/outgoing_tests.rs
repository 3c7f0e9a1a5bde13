//! Calls that we place, in virtual time.

use super::super::tests::{SECOND, outputs, policy};
use super::*;
use crate::core::call::{CallPolicy, WorkerInput};
use crate::core::media_link::Direction;
use crate::core::private::Private;

fn placed() -> (Call, Instant) {
    let now = Instant::now();
    let mut call = Call::new(CallPolicy {
        // A line has one; whom we called is not sent there.
        fallback_number: Some(Private::new("+33100000000")),
        ..policy()
    });
    call.handle_placed(now, 20 * SECOND);
    assert_eq!(outputs(&mut call), [Output::Report(Report::Initiated)]);
    (call, now)
}

fn answered() -> (Call, Instant) {
    let (mut call, now) = placed();
    call.handle_progress(180);
    call.handle_media(now, Direction::SendRecv);
    call.handle_established(now);
    outputs(&mut call);
    (call, now)
}

#[test]
fn nobody_is_looked_for_before_the_callee_is_there() {
    let (mut call, now) = placed();
    call.handle_progress(100);
    assert_eq!(outputs(&mut call), []);
    call.handle_progress(180);
    call.handle_progress(183);
    assert_eq!(outputs(&mut call), [Output::Report(Report::Ringing)]);
    assert!(!call.handle_attached(now), "nobody was asked");
    call.handle_media(now, Direction::SendRecv);
    call.handle_established(now + SECOND);
    let asked = outputs(&mut call);
    assert_eq!(
        asked[..3],
        [
            Output::Report(Report::Answered),
            Output::ForgetEarly,
            Output::IdleSound(IdleSound::Silence),
        ]
    );
    assert!(matches!(asked[3..], [Output::PushJob(attempt)] if attempt.number == 1));
    call.handle_job_pushed();
    assert!(call.handle_attached(now + 2 * SECOND));
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Queued(None)),
            Output::IdleSound(IdleSound::Silence),
            Output::StartStream,
            Output::Report(Report::WorkerAttached),
        ],
        "no answer of ours"
    );
}

#[test]
fn a_callee_that_rings_too_long_is_cancelled() {
    let (mut call, now) = placed();
    call.handle_progress(180);
    // Early media that stops is no reason to end it.
    call.handle_media(now, Direction::SendRecv);
    let (at, timer) = call.poll_timeout().unwrap();
    assert_eq!((at, timer), (now + 20 * SECOND, Timer::Ring));
    outputs(&mut call);
    call.handle_timeout(at);
    assert_eq!(outputs(&mut call), [Output::Hangup(487)]);
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::NoAnswer)]);
}

#[test]
fn the_end_of_a_call_of_ours_says_who_ended_it_and_when() {
    for (is_answered, remote, outcome) in [
        (false, true, Outcome::Refused),
        (false, false, Outcome::Failed),
        (true, true, Outcome::CalleeHungUp),
        (true, false, Outcome::Failed),
    ] {
        let (mut call, _) = if is_answered { answered() } else { placed() };
        call.handle_leg_ended(remote);
        let last = outputs(&mut call).pop();
        assert_eq!(last, Some(Output::Finished(outcome)));
    }
}

#[test]
fn a_callee_for_whom_there_is_no_worker_is_let_go_without_a_transfer() {
    let (mut call, now) = answered();
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_timeout(now + 30 * SECOND);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Fallback(
                FallbackStep::Hangup,
                Reason::WorkerTimeout
            )),
            Output::StopSearch,
            Output::Hangup(200),
        ]
    );
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::NoWorker)]);
}

#[test]
fn a_worker_that_is_lost_is_replaced_or_the_callee_let_go() {
    let (mut call, now) = answered();
    assert!(call.handle_attached(now));
    outputs(&mut call);
    call.handle_worker(now + SECOND, WorkerInput::Lost);
    let after = outputs(&mut call);
    assert!(after.contains(&Output::IdleSound(IdleSound::Hold)));
    assert!(
        after
            .iter()
            .any(|output| matches!(output, Output::PushJob(job) if job.resumed))
    );
    call.handle_timeout(now + 31 * SECOND);
    call.handle_leg_ended(false);
    let last = outputs(&mut call).pop();
    assert_eq!(last, Some(Output::Finished(Outcome::WorkerLost)));
}

#[test]
fn silence_of_the_callee_counts_from_the_answer() {
    let (mut call, now) = placed();
    call.handle_media(now, Direction::SendRecv);
    let answered_at = now + 15 * SECOND;
    call.handle_established(answered_at);
    assert!(call.handle_attached(answered_at));
    outputs(&mut call);
    call.handle_timeout(answered_at + 19 * SECOND);
    assert_eq!(outputs(&mut call), []);
    call.handle_timeout(answered_at + 20 * SECOND);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_leg_ended(false);
    let last = outputs(&mut call).pop();
    assert_eq!(last, Some(Output::Finished(Outcome::MediaTimeout)));
}
