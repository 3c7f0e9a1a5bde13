//! Calls of a bridge that is cut off from its queue, in virtual time.

use super::tests::{SECOND, outputs, policy, started};
use super::*;

fn cut_off(answer: AnswerMode) -> CallPolicy {
    CallPolicy {
        answer,
        ring_before_fallback: Some(4 * SECOND),
        ..policy()
    }
}

#[test]
fn it_rings_and_gets_the_fallback_only_then() {
    for answer in [AnswerMode::Immediate, AnswerMode::OnWorker] {
        let (mut call, now) = started(cut_off(answer));
        let ringing = [Output::Report(Report::Ringing), Output::Answer(180)];
        assert_eq!(outputs(&mut call), ringing);
        let (at, timer) = call.poll_timeout().expect("its end");
        assert_eq!((at, timer), (now + 4 * SECOND, Timer::Ring));
        call.handle_timeout(at);
        let mut done = outputs(&mut call);
        if answer == AnswerMode::Immediate {
            assert_eq!(done[0], Output::Answer(200));
            call.handle_established(at);
            done.extend(outputs(&mut call));
        }
        assert!(matches!(done.last(), Some(Output::PushJob(_))), "{done:?}");
        assert!(!done.contains(&Output::Answer(180)), "once");
        call.handle_job_refused(at);
        let fallback = Report::Fallback(FallbackStep::Announcement, Reason::QueueAway);
        assert!(outputs(&mut call).contains(&Output::Report(fallback)));
    }
}

#[test]
fn where_the_queue_is_back_by_then_it_is_a_call_like_any_other() {
    let (mut call, now) = started(cut_off(AnswerMode::Immediate));
    let at = now + 4 * SECOND;
    call.handle_timeout(at);
    call.handle_established(at);
    call.handle_job_pushed();
    outputs(&mut call);
    assert!(call.handle_attached(at));
    assert!(call.is_streaming());
    assert!(call.poll_timeout().is_none());
}

#[test]
fn a_caller_whom_the_other_bridge_took_leaves_nothing_behind() {
    let (mut call, now) = started(cut_off(AnswerMode::Immediate));
    outputs(&mut call);
    call.handle_leg_ended(true);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Abandoned)]);
    call.handle_timeout(now + 10 * SECOND);
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn the_bridges_end_and_a_hang_up_end_it_while_it_rings() {
    let (mut call, now) = started(cut_off(AnswerMode::OnWorker));
    outputs(&mut call);
    call.handle_shutdown(now + SECOND);
    assert_eq!(outputs(&mut call), [Output::Hangup(480)]);
    let (mut call, now) = started(cut_off(AnswerMode::OnWorker));
    outputs(&mut call);
    assert_eq!(call.handle_hangup_request(now), Ok(()));
    assert_eq!(outputs(&mut call), [Output::Hangup(603)]);
}

#[test]
fn a_call_whose_worker_is_dialled_does_not_wait() {
    for route in [WorkerRoute::Dial, WorkerRoute::QueueThenDial] {
        let mut policy = cut_off(AnswerMode::Immediate);
        policy.search.route = route;
        let (mut call, _) = started(policy);
        assert!(outputs(&mut call).contains(&Output::Answer(200)));
    }
}
