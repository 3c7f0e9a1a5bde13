//! The steps of the fallback, in virtual time.

use super::super::tests::{outputs, policy, started};
use super::super::{CallPolicy, FALLBACK_LIMIT};
use super::*;
use crate::core::private::Private;

/// A call whose fallback has come to the REFER.
fn referring() -> (Call, Instant) {
    let (mut call, now) = started(CallPolicy {
        fallback_number: Some(Private::new("+33123456789")),
        ..policy()
    });
    call.handle_established(now);
    call.handle_job_refused(now);
    call.handle_played_out(now);
    outputs(&mut call);
    (call, now)
}

fn bridged() -> [Output; 2] {
    [
        Output::Report(Report::Fallback(
            FallbackStep::Bridge,
            Reason::TransferRefused,
        )),
        Output::CallOut(Private::new("+33123456789")),
    ]
}

#[test]
fn a_trunk_that_refuses_refer_gets_a_call_that_is_joined() {
    let (mut call, now) = referring();
    call.handle_transfer(now, 405, true);
    assert_eq!(outputs(&mut call), bridged());
    call.handle_callee(now, CalleeInput::Answered);
    assert_eq!(
        outputs(&mut call),
        [Output::IdleSound(IdleSound::Silence), Output::Join]
    );
    assert_eq!(call.poll_timeout(), None, "they may talk");
    call.handle_callee(now, CalleeInput::Ended);
    assert_eq!(
        outputs(&mut call),
        [Output::DropCallee, Output::Hangup(200)]
    );
}

#[test]
fn a_caller_who_leaves_takes_the_second_leg_with_him() {
    for answered in [false, true] {
        let (mut call, now) = referring();
        call.handle_transfer(now, 603, true);
        if answered {
            call.handle_callee(now, CalleeInput::Answered);
        }
        outputs(&mut call);
        call.handle_leg_ended(true);
        assert_eq!(
            outputs(&mut call),
            [Output::DropCallee, Output::Finished(Outcome::NoWorker)]
        );
    }
}

#[test]
fn a_transfer_that_says_nothing_is_followed_by_a_call_and_one_that_rang_is_not() {
    let (mut call, now) = referring();
    call.handle_transfer(now, 202, false);
    call.handle_timeout(now + FALLBACK_LIMIT);
    assert_eq!(outputs(&mut call), bridged());
    call.handle_timeout(now + 2 * FALLBACK_LIMIT);
    let unanswered = Report::Fallback(FallbackStep::Hangup, Reason::FallbackUnanswered);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(unanswered),
            Output::DropCallee,
            Output::Hangup(200)
        ]
    );
    for end in [Some((486, true)), None] {
        let (mut call, now) = referring();
        call.handle_transfer(now, 180, false);
        match end {
            Some((status, last)) => call.handle_transfer(now, status, last),
            None => call.handle_timeout(now + FALLBACK_LIMIT),
        }
        assert_eq!(
            outputs(&mut call),
            [Output::Report(unanswered), Output::Hangup(200)]
        );
    }
}
