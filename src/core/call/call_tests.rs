//! The call's state machine, in virtual time.

use super::*;
use crate::core::media_link::Direction;
use crate::core::private::Private;

pub(super) const SECOND: Duration = Duration::from_secs(1);

pub(super) fn policy() -> CallPolicy {
    CallPolicy {
        answer: AnswerMode::Immediate,
        search: search(WorkerRoute::Queue),
        max_duration: None,
        media_timeout: Some(20 * SECOND),
        fallback_number: None,
        ring_before_fallback: None,
    }
}

fn search(route: WorkerRoute) -> SearchPolicy {
    SearchPolicy {
        route,
        worker_timeout: 30 * SECOND,
        claim_timeout: 5 * SECOND,
        max_attempts: 3,
    }
}

fn by(route: WorkerRoute) -> CallPolicy {
    CallPolicy {
        search: search(route),
        ..policy()
    }
}

/// The attempt that began at `now`.
fn attempt(number: u32, now: Instant) -> Attempt {
    Attempt {
        number,
        resumed: number > 1,
        until: Some(now + 30 * SECOND),
    }
}

/// What the trunk said of a transfer.
fn said(status: u16) -> Output {
    Output::Report(Report::Transfer(status))
}

pub(super) fn outputs(call: &mut Call) -> Vec<Output> {
    std::iter::from_fn(|| call.poll_output()).collect()
}

pub(super) fn started(policy: CallPolicy) -> (Call, Instant) {
    let now = Instant::now();
    let mut call = Call::new(policy);
    call.handle_start(now);
    (call, now)
}

/// Started, and where it was answered, acknowledged.
fn connected(policy: CallPolicy) -> (Call, Instant) {
    let (mut call, now) = started(policy);
    call.handle_established(now);
    (call, now)
}

pub(super) fn streaming(policy: CallPolicy) -> (Call, Instant) {
    let (mut call, now) = connected(policy);
    call.handle_job_pushed();
    call.handle_media(now, Direction::SendRecv);
    assert!(call.handle_attached(now));
    outputs(&mut call);
    (call, now)
}

#[test]
fn an_immediate_call_is_answered_and_acknowledged_before_the_job_is_pushed() {
    let (mut call, now) = started(policy());
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Ringing),
            Output::Answer(200),
            Output::IdleSound(IdleSound::Waiting),
        ]
    );
    assert_eq!(call.poll_timeout(), None, "no worker is looked for");
    let now = now + SECOND;
    call.handle_established(now);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Answered),
            Output::PushJob(attempt(1, now)),
        ]
    );
    call.handle_established(now + SECOND);
    assert_eq!(outputs(&mut call), [], "asked once");
}

#[test]
fn a_call_that_is_never_acknowledged_makes_no_job() {
    let (mut call, now) = started(policy());
    outputs(&mut call);
    call.handle_timeout(now + 32 * SECOND);
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Failed)]);
    // An ACK that comes too late.
    call.handle_established(now + 33 * SECOND);
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn an_on_worker_call_rings_until_the_worker_is_there() {
    let (mut call, now) = started(CallPolicy {
        answer: AnswerMode::OnWorker,
        ..policy()
    });
    assert_eq!(outputs(&mut call)[1], Output::Answer(180));
    assert!(call.handle_attached(now));
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Queued(None)),
            Output::Answer(200),
            Output::IdleSound(IdleSound::Silence),
            Output::StartStream,
            Output::Report(Report::WorkerAttached),
        ]
    );
}

#[test]
fn a_worker_faster_than_the_push_is_still_preceded_by_queued() {
    let (mut call, now) = connected(policy());
    outputs(&mut call);
    assert!(call.handle_attached(now));
    assert_eq!(outputs(&mut call)[0], Output::Report(Report::Queued(None)));
    call.handle_job_pushed();
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn a_caller_who_gives_up_takes_the_job_with_him() {
    let (mut call, now) = connected(policy());
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [Output::StopSearch, Output::Finished(Outcome::Abandoned)]
    );
    assert!(!call.handle_attached(now), "a late worker is not wanted");
    assert_eq!(call.poll_timeout(), None);
}

#[test]
fn without_a_worker_comes_the_announcement_then_the_transfer_then_bye() {
    let number = Private::new("+33100000000");
    let (mut call, now) = started(CallPolicy {
        fallback_number: Some(number.clone()),
        ..policy()
    });
    call.handle_job_pushed();
    call.handle_established(now);
    outputs(&mut call);
    assert_eq!(
        call.poll_timeout(),
        Some((now + 30 * SECOND, Timer::WorkerDispatch))
    );
    call.handle_timeout(now + 30 * SECOND);
    assert_eq!(
        outputs(&mut call),
        [
            Output::StopSearch,
            Output::Report(Report::Fallback(
                FallbackStep::Announcement,
                Reason::WorkerTimeout
            )),
            Output::IdleSound(IdleSound::Announcement),
            Output::PlayOut,
        ]
    );
    let now = now + 33 * SECOND;
    call.handle_played_out(now);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Fallback(
                FallbackStep::Transfer,
                Reason::WorkerTimeout
            )),
            Output::IdleSound(IdleSound::Ringback),
            Output::Transfer(number)
        ]
    );
    call.handle_transfer(now, 100, false);
    assert_eq!(outputs(&mut call), []);
    call.handle_transfer(now, 200, true);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::NoWorker)]);
}

#[test]
fn redis_away_goes_to_the_target_or_to_the_fallback_at_once() {
    let (mut call, now) = connected(by(WorkerRoute::QueueThenDial));
    outputs(&mut call);
    call.handle_job_refused(now);
    assert_eq!(outputs(&mut call), [Output::Dial(attempt(1, now))]);

    let (mut call, now) = connected(policy());
    outputs(&mut call);
    call.handle_job_refused(now);
    assert_eq!(
        outputs(&mut call)[..2],
        [
            // A push whose answer was lost may have brought it there.
            Output::StopSearch,
            Output::Report(Report::Fallback(
                FallbackStep::Announcement,
                Reason::QueueAway
            ))
        ]
    );
}

#[test]
fn hangup_and_close_play_out_before_bye() {
    for input in [WorkerInput::Hangup, WorkerInput::Closed] {
        let stays_open = input == WorkerInput::Hangup;
        let (mut call, now) = streaming(policy());
        call.handle_worker(now, input);
        assert_eq!(outputs(&mut call), [Output::PlayOut]);
        call.handle_played_out(now + SECOND);
        assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
        call.handle_leg_ended(false);
        let mut expected = vec![Output::Finished(Outcome::WorkerHungUp)];
        if stays_open {
            expected.insert(0, Output::StopStream);
        }
        assert_eq!(outputs(&mut call), expected);
    }
}

#[test]
fn a_caller_who_hangs_up_stops_the_stream() {
    let (mut call, _) = streaming(policy());
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [Output::StopStream, Output::Finished(Outcome::CallerHungUp)]
    );
}

#[test]
fn a_taken_job_that_nobody_dials_is_pushed_again() {
    let (mut call, now) = connected(policy());
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_job_taken(now + SECOND);
    assert_eq!(
        call.poll_timeout(),
        Some((now + 6 * SECOND, Timer::WorkerDispatch))
    );
    call.handle_timeout(now + 6 * SECOND);
    let again = Attempt {
        resumed: false,
        ..attempt(2, now)
    };
    assert_eq!(outputs(&mut call), [Output::PushJob(again)]);
    call.handle_job_pushed();
    assert_eq!(
        outputs(&mut call),
        [Output::Report(Report::Queued(Some(Reason::NotClaimed)))]
    );
}

#[test]
fn a_worker_in_its_handshake_when_the_claim_is_over_was_queued_once() {
    let (mut call, now) = connected(policy());
    call.handle_job_pushed();
    call.handle_job_taken(now);
    let now = now + 5 * SECOND;
    call.handle_timeout(now);
    outputs(&mut call);
    call.handle_claim_held(now);
    assert!(call.handle_attached(now));
    assert_eq!(
        outputs(&mut call),
        [
            Output::IdleSound(IdleSound::Silence),
            Output::StartStream,
            Output::Report(Report::WorkerAttached),
        ]
    );
}

#[test]
fn a_transfer_that_outlives_its_worker_ends_the_fallback() {
    let (mut call, now) = streaming(by(WorkerRoute::Dial));
    let to = Private::new("+33123456789");
    call.handle_worker(now, WorkerInput::Transfer(to));
    call.handle_worker(now, WorkerInput::Lost);
    call.handle_rtp(now + 29 * SECOND);
    call.handle_timeout(now + 30 * SECOND);
    assert!(outputs(&mut call).contains(&Output::PlayOut));
    call.handle_transfer(now, 200, true);
    assert_eq!(outputs(&mut call), [said(200), Output::Hangup(200)]);
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Transferred)]);
}

#[test]
fn a_lost_worker_is_replaced_while_the_caller_hears_hold_audio() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Lost);
    assert_eq!(
        outputs(&mut call),
        [
            Output::DropStream,
            Output::IdleSound(IdleSound::Hold),
            Output::Report(Report::WorkerLost),
            Output::PushJob(attempt(2, now)),
        ]
    );
    call.handle_job_pushed();
    assert!(call.handle_attached(now));
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Queued(Some(Reason::WorkerLost))),
            Output::IdleSound(IdleSound::Silence),
            Output::StartStream,
            Output::Report(Report::WorkerAttached),
        ]
    );
}

#[test]
fn a_lost_worker_whom_nobody_replaces_leads_to_the_fallback() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Lost);
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_media(now, Direction::Inactive);
    call.handle_timeout(now + 30 * SECOND);
    let todo = outputs(&mut call);
    assert_eq!(todo[0], Output::StopSearch);
    assert!(todo.contains(&Output::IdleSound(IdleSound::Announcement)));
    call.handle_played_out(now);
    call.handle_leg_ended(false);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Fallback(
                FallbackStep::Hangup,
                Reason::NoFallbackNumber
            )),
            Output::Hangup(200),
            Output::Finished(Outcome::WorkerLost)
        ]
    );
}

#[test]
fn a_caller_who_leaves_during_hold_audio_hung_up() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Lost);
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [Output::StopSearch, Output::Finished(Outcome::CallerHungUp)]
    );
}

#[test]
fn silence_of_the_caller_ends_the_call_but_not_on_hold() {
    let (mut call, now) = streaming(policy());
    call.handle_rtp(now + 15 * SECOND);
    call.handle_timeout(now + 20 * SECOND);
    assert_eq!(call.poll_timeout(), Some((now + 35 * SECOND, Timer::Media)));
    call.handle_media(now + 21 * SECOND, Direction::Inactive);
    assert_eq!(call.poll_timeout(), None, "no watch on hold");
    call.handle_media(now + 600 * SECOND, Direction::SendRecv);
    call.handle_timeout(now + 620 * SECOND);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_leg_ended(false);
    assert_eq!(
        outputs(&mut call),
        [Output::StopStream, Output::Finished(Outcome::MediaTimeout)]
    );
}

#[test]
fn a_refused_transfer_leaves_the_worker_with_the_caller() {
    let (mut call, now) = streaming(policy());
    let to = Private::new("+33123456789");
    call.handle_worker(now, WorkerInput::Transfer(to.clone()));
    assert_eq!(outputs(&mut call), [Output::Transfer(to.clone())]);
    call.handle_transfer(now, 603, true);
    assert_eq!(outputs(&mut call), [said(603)]);
    assert!(call.is_streaming());
    call.handle_worker(now, WorkerInput::Transfer(to.clone()));
    assert_eq!(outputs(&mut call), [Output::Transfer(to)]);
    call.handle_transfer(now, 200, true);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [
            said(200),
            Output::Hangup(200),
            Output::StopStream,
            Output::Finished(Outcome::Transferred)
        ]
    );
}

#[test]
fn a_transfer_of_which_nothing_is_heard_may_be_tried_again() {
    let (mut call, now) = streaming(CallPolicy {
        media_timeout: None,
        ..policy()
    });
    let to = Private::new("+33123456789");
    call.handle_worker(now, WorkerInput::Transfer(to.clone()));
    call.handle_transfer(now + 50 * SECOND, 180, false);
    outputs(&mut call);
    let later = now + 50 * SECOND + TRANSFER_LIMIT;
    assert_eq!(call.poll_timeout(), Some((later, Timer::Transfer)));
    call.handle_worker(now, WorkerInput::Transfer(to.clone()));
    assert_eq!(outputs(&mut call), [], "it is under way");
    call.handle_timeout(later);
    call.handle_worker(later, WorkerInput::Transfer(to.clone()));
    assert_eq!(outputs(&mut call), [Output::Transfer(to)]);
}

#[test]
fn a_transfer_whose_worker_leaves_is_waited_for_and_then_ended() {
    let transfer = WorkerInput::Transfer(Private::new("+33123456789"));
    for (status, outcome) in [
        (200, Outcome::Transferred),
        // The subscription ends without a result.
        (100, Outcome::WorkerHungUp),
        (603, Outcome::WorkerHungUp),
    ] {
        let (mut call, now) = streaming(policy());
        call.handle_worker(now, transfer.clone());
        call.handle_worker(now, WorkerInput::Closed);
        outputs(&mut call);
        call.handle_played_out(now);
        call.handle_transfer(now, 100, false);
        assert_eq!(outputs(&mut call), [said(100)], "{status}");
        call.handle_transfer(now, status, true);
        assert_eq!(call.poll_output(), Some(said(status)));
        if status != 200 {
            assert_eq!(outputs(&mut call), [Output::PlayOut], "{status}");
            call.handle_played_out(now);
        }
        assert_eq!(outputs(&mut call), [Output::Hangup(200)], "{status}");
        call.handle_leg_ended(false);
        assert_eq!(outputs(&mut call), [Output::Finished(outcome)], "{status}");
    }
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, transfer);
    call.handle_worker(now, WorkerInput::Hangup);
    call.handle_played_out(now);
    outputs(&mut call);
    call.handle_timeout(now + FALLBACK_LIMIT);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)], "no answer ever");
}

#[test]
fn the_longest_call_is_bounded_and_a_stuck_leg_is_given_up() {
    let (mut call, now) = streaming(CallPolicy {
        max_duration: Some(60 * SECOND),
        ..policy()
    });
    call.handle_rtp(now + 59 * SECOND);
    call.handle_timeout(now + 60 * SECOND);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_timeout(now + 60 * SECOND + ENDING_LIMIT);
    assert_eq!(
        outputs(&mut call),
        [Output::StopStream, Output::Finished(Outcome::DurationLimit)]
    );
    assert!(call.is_over());
}

#[test]
fn an_input_that_its_phase_has_no_use_for_changes_nothing_and_is_told() {
    let (mut call, now) = connected(policy());
    outputs(&mut call);
    assert_eq!(call.take_unexpected(), None);
    let mut unexpected_by = |input: &dyn Fn(&mut Call)| {
        input(&mut call);
        assert_eq!(outputs(&mut call), []);
        let told = call.take_unexpected();
        assert_eq!(call.take_unexpected(), None, "told once");
        told.map(|it| (it.input, it.phase))
    };
    let told = unexpected_by(&|call| call.handle_job_taken(now));
    assert_eq!(told, Some(("job taken", "seeking")));
    let told = unexpected_by(&|call| call.handle_worker(now, WorkerInput::Hangup));
    assert_eq!(told, Some(("worker", "seeking")));
    let told = unexpected_by(&|call| call.handle_transfer(now, 200, false));
    assert_eq!(told, Some(("transfer", "seeking")));
    let told = unexpected_by(&|call| call.handle_callee(now, CalleeInput::Answered));
    assert_eq!(told, Some(("callee", "seeking")));
    assert_eq!(unexpected_by(&|call| call.handle_rtp(now)), None);
}

/// Whatever comes in whatever order: exactly one `Finished`, and it is last.
#[test]
fn every_order_of_inputs_ends_once() {
    use rand::{RngExt, SeedableRng};
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut random = rand::rngs::SmallRng::seed_from_u64(seed);
    for _ in 0..2_000 {
        let mut now = Instant::now();
        let mut call = Call::new(CallPolicy {
            answer: if random.random() {
                AnswerMode::Immediate
            } else {
                AnswerMode::OnWorker
            },
            max_duration: random.random::<bool>().then_some(60 * SECOND),
            ring_before_fallback: random.random::<bool>().then_some(4 * SECOND),
            fallback_number: random.random::<bool>().then(|| Private::new("1")),
            ..by([
                WorkerRoute::Queue,
                WorkerRoute::Dial,
                WorkerRoute::QueueThenDial,
            ][random.random_range(0..3)])
        });
        if random.random() {
            call.handle_start(now);
        } else {
            call.handle_placed(now, 30 * SECOND);
        }
        let mut seen = outputs(&mut call);
        for _ in 0..random.random_range(0..20) {
            now += Duration::from_millis(random.random_range(0..20_000));
            random_input(&mut call, now, random.random_range(0..24));
            seen.extend(outputs(&mut call));
        }
        call.handle_shutdown(now);
        call.handle_leg_ended(false);
        seen.extend(outputs(&mut call));
        let finished = seen
            .iter()
            .filter(|o| matches!(o, Output::Finished(_)))
            .count();
        assert_eq!(finished, 1, "seed {seed}: {seen:?}");
        assert!(
            matches!(seen.last(), Some(Output::Finished(_))),
            "seed {seed}: {seen:?}"
        );
        assert_eq!(call.poll_timeout(), None);
    }
}

fn random_input(call: &mut Call, now: Instant, which: u32) {
    match which {
        0 => call.handle_job_pushed(),
        1 => call.handle_job_refused(now),
        2 => drop(call.handle_attached(now)),
        3 => call.handle_dial_failed(now),
        4 => call.handle_worker(now, WorkerInput::Hangup),
        5 => call.handle_worker(now, WorkerInput::Closed),
        6 => call.handle_worker(now, WorkerInput::Lost),
        7 => call.handle_worker(now, WorkerInput::Transfer(Private::new("2"))),
        8 => call.handle_established(now),
        9 => call.handle_media(now, Direction::SendRecv),
        10 => call.handle_transfer(now, 200, true),
        11 => call.handle_played_out(now),
        12 => call.handle_job_taken(now),
        13 => call.handle_claim_held(now),
        14 => call.handle_transfer(now, 603, true),
        15 => call.handle_callee(now, CalleeInput::Answered),
        16 => call.handle_callee(now, CalleeInput::Ended),
        17 => call.handle_progress(180),
        18 => drop(call.handle_transfer_request(now, Private::new("3"))),
        20 => drop(call.handle_hold_request(now, true)),
        21 => drop(call.handle_hold_request(now, false)),
        22 => call.handle_held(now, if now.elapsed().is_zero() { 200 } else { 488 }),
        19 => drop(call.handle_hangup_request(now)),
        _ => call.handle_timeout(now),
    }
}

#[test]
fn a_transfer_under_way_is_not_cut_off_by_the_fallback() {
    let mut policy = by(WorkerRoute::Dial);
    policy.fallback_number = Some(Private::new("+33911111111"));
    let (mut call, now) = streaming(policy);
    call.handle_worker(now, WorkerInput::Transfer(Private::new("+33123456789")));
    call.handle_worker(now, WorkerInput::Lost);
    call.handle_rtp(now + 29 * SECOND);
    call.handle_timeout(now + 30 * SECOND);
    outputs(&mut call);
    let heard = now + 35 * SECOND;
    call.handle_rtp(heard);
    call.handle_played_out(heard);
    assert_eq!(outputs(&mut call), [], "one REFER at a time");
    call.handle_transfer(heard, 486, true);
    call.handle_timeout(heard + SECOND);
    let then = outputs(&mut call);
    let refer = Output::Transfer(Private::new("+33911111111"));
    assert!(then.contains(&refer), "{then:?}");
}
