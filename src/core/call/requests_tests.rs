//! What others ask of a call, in virtual time.

use super::super::tests::{SECOND, outputs, policy, started, streaming};
use super::*;
use crate::core::call::{AnswerMode, CallPolicy, Output, Report, WorkerInput};

fn number() -> Private {
    Private::new("+33100000000")
}

/// The outcome once the engine has ended the leg.
fn outcome(call: &mut Call) -> Option<Output> {
    call.handle_leg_ended(false);
    outputs(call).pop()
}

#[test]
fn a_hangup_is_cancel_refusal_or_bye() {
    let now = Instant::now();
    let mut placed = Call::new(policy());
    placed.handle_placed(now, 20 * SECOND);
    let (ringing, _) = started(CallPolicy {
        answer: AnswerMode::OnWorker,
        ..policy()
    });
    let (talking, _) = streaming(policy());
    for (mut call, status, ended) in [
        (placed, 487, Outcome::Cancelled),
        (ringing, 603, Outcome::ApiHungUp),
        (talking, 200, Outcome::ApiHungUp),
    ] {
        assert_eq!(call.handle_hangup_request(now), Ok(()));
        assert_eq!(outputs(&mut call).pop(), Some(Output::Hangup(status)));
        assert_eq!(call.handle_hangup_request(now), Err(Denied::Over));
        assert_eq!(call.check_digits(), Err(Denied::Over));
        assert_eq!(outcome(&mut call), Some(Output::Finished(ended)));
    }
}

#[test]
fn a_transfer_is_told_step_by_step_and_one_at_a_time() {
    let (mut call, now) = streaming(policy());
    assert_eq!(call.handle_transfer_request(now, number()), Ok(()));
    assert_eq!(outputs(&mut call), [Output::Transfer(number())]);
    let again = call.handle_transfer_request(now, number());
    assert_eq!(again, Err(Denied::Transferring));
    call.handle_transfer(now, 100, false);
    call.handle_transfer(now, 180, false);
    call.handle_transfer(now, 486, true);
    let told: Vec<_> = [100, 180, 486].map(Report::Transfer).into();
    let told: Vec<_> = told.into_iter().map(Output::Report).collect();
    assert_eq!(outputs(&mut call), told);
    // Refused: the worker goes on, and it may be tried again.
    assert!(call.is_streaming());
    assert_eq!(call.handle_transfer_request(now, number()), Ok(()));
    outputs(&mut call);
    call.handle_transfer(now, 200, true);
    assert_eq!(
        outputs(&mut call),
        [Output::Report(Report::Transfer(200)), Output::Hangup(200)]
    );
    let ended = outcome(&mut call);
    assert_eq!(ended, Some(Output::Finished(Outcome::Transferred)));
}

#[test]
fn a_target_may_ring_for_long_after_the_workers_last_words() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Transfer(number()));
    call.handle_worker(now, WorkerInput::Hangup);
    call.handle_played_out(now + SECOND);
    outputs(&mut call);
    for after in [20, 70, 120] {
        call.handle_transfer(now + after * SECOND, 180, false);
        call.handle_rtp(now + (after + 40) * SECOND);
        call.handle_timeout(now + (after + 40) * SECOND);
        let told = [Output::Report(Report::Transfer(180))];
        assert_eq!(outputs(&mut call), told, "after {after} s");
    }
    // Nothing more of it: the worker has hung up, and that is what it comes to.
    while outputs(&mut call) != [Output::Hangup(200)] {
        let (at, _) = call.poll_timeout().expect("a deadline");
        assert!(at <= now + 180 * SECOND);
        call.handle_timeout(at);
    }
}

#[test]
fn a_trunk_that_is_silent_for_long_may_still_succeed() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Transfer(number()));
    call.handle_transfer(now, 100, false);
    call.handle_rtp(now + 61 * SECOND);
    call.handle_timeout(now + 61 * SECOND);
    outputs(&mut call);
    call.handle_transfer(now + 70 * SECOND, 200, true);
    let told = [Output::Report(Report::Transfer(200)), Output::Hangup(200)];
    assert_eq!(outputs(&mut call), told);
    let ended = outcome(&mut call);
    assert_eq!(ended, Some(Output::Finished(Outcome::Transferred)));
}

#[test]
fn a_worker_that_is_faster_than_the_ack_has_its_transfer_after_it() {
    let on_worker = || CallPolicy {
        answer: AnswerMode::OnWorker,
        ..policy()
    };
    let asked = || {
        let (mut call, now) = started(on_worker());
        call.handle_job_pushed();
        assert!(call.handle_attached(now));
        assert_eq!(call.check_worker_transfer(), Ok(()));
        call.handle_worker(now, WorkerInput::Transfer(number()));
        assert_eq!(call.check_worker_transfer(), Err(Denied::Transferring));
        let early = outputs(&mut call);
        assert!(!early.contains(&Output::Transfer(number())), "{early:?}");
        (call, now)
    };
    let (mut call, now) = asked();
    call.handle_worker(now, WorkerInput::Hangup);
    outputs(&mut call);
    call.handle_established(now);
    let told = [Output::Report(Report::Answered), Output::Transfer(number())];
    assert_eq!(outputs(&mut call), told);
    // A caller who gave up before the ACK was transferred to nobody.
    let (mut call, _) = asked();
    call.handle_leg_ended(true);
    let ended = outputs(&mut call).pop();
    assert_eq!(ended, Some(Output::Finished(Outcome::CallerHungUp)));
}

#[test]
fn the_trunks_bye_completes_a_transfer_whatever_was_settled_before() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Transfer(number()));
    call.handle_worker(now, WorkerInput::Hangup);
    call.handle_transfer(now, 100, false);
    call.handle_leg_ended(true);
    let ended = outputs(&mut call).pop();
    assert_eq!(ended, Some(Output::Finished(Outcome::Transferred)));
}

#[test]
fn an_answer_that_is_not_acknowledged_is_taken_back_by_a_refusal() {
    let (mut call, now) = started(policy());
    assert!(outputs(&mut call).contains(&Output::Answer(200)));
    assert_eq!(call.handle_hangup_request(now), Ok(()));
    assert_eq!(outputs(&mut call).pop(), Some(Output::Hangup(603)));
}

#[test]
fn nobody_is_transferred_before_the_answer_or_from_the_fallback() {
    let (mut call, now) = started(policy());
    let early = call.handle_transfer_request(now, number());
    assert_eq!(early, Err(Denied::NotAnswered));
    assert_eq!(call.check_digits(), Err(Denied::NotAnswered));
    call.handle_established(now);
    assert_eq!(call.check_digits(), Ok(()));
    call.handle_job_pushed();
    call.handle_timeout(now + 30 * SECOND);
    let late = call.handle_transfer_request(now + 30 * SECOND, number());
    assert_eq!(late, Err(Denied::Leaving));
}

#[test]
fn a_transfer_without_a_worker_works_while_one_is_looked_for() {
    let (mut call, now) = started(policy());
    call.handle_established(now);
    call.handle_job_pushed();
    assert_eq!(call.handle_transfer_request(now, number()), Ok(()));
    outputs(&mut call);
    call.handle_transfer(now, 200, true);
    let asked = outputs(&mut call);
    assert!(asked.contains(&Output::StopSearch));
    let ended = outcome(&mut call);
    assert_eq!(ended, Some(Output::Finished(Outcome::Transferred)));
}
