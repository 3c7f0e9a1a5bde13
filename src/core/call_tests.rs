//! The call's state machine, in virtual time.

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn policy() -> CallPolicy {
    CallPolicy {
        answer: AnswerMode::Immediate,
        route: Route::Queue,
        worker_timeout: 30 * SECOND,
        max_duration: None,
        media_timeout: Some(20 * SECOND),
        fallback_number: None,
    }
}

fn outputs(call: &mut Call) -> Vec<Output> {
    std::iter::from_fn(|| call.poll_output()).collect()
}

fn started(policy: CallPolicy) -> (Call, Instant) {
    let now = Instant::now();
    let mut call = Call::new(policy);
    call.handle_start(now);
    (call, now)
}

fn streaming(policy: CallPolicy) -> (Call, Instant) {
    let (mut call, now) = started(policy);
    call.handle_job_pushed();
    call.handle_established(now);
    call.handle_media(now, Direction::SendRecv);
    assert!(call.handle_attached());
    outputs(&mut call);
    (call, now)
}

#[test]
fn an_immediate_call_is_answered_before_the_job_is_pushed() {
    let (mut call, _) = started(policy());
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Ringing),
            Output::Answer(200),
            Output::Comfort(Comfort::Waiting),
            Output::PushJob,
        ]
    );
}

#[test]
fn an_on_worker_call_rings_until_the_worker_is_there() {
    let (mut call, _) = started(CallPolicy {
        answer: AnswerMode::OnWorker,
        ..policy()
    });
    assert_eq!(outputs(&mut call)[1], Output::Answer(180));
    assert!(call.handle_attached());
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Queued),
            Output::Answer(200),
            Output::Comfort(Comfort::Silence),
            Output::StartStream,
            Output::Report(Report::WorkerAttached),
        ]
    );
}

#[test]
fn a_worker_faster_than_the_push_is_still_preceded_by_queued() {
    let (mut call, _) = started(policy());
    outputs(&mut call);
    assert!(call.handle_attached());
    assert_eq!(outputs(&mut call)[0], Output::Report(Report::Queued));
    call.handle_job_pushed();
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn a_caller_who_gives_up_takes_the_job_with_him() {
    let (mut call, _) = started(policy());
    call.handle_job_pushed();
    outputs(&mut call);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [Output::WithdrawJob, Output::Finished(Outcome::Abandoned)]
    );
    assert!(!call.handle_attached(), "a late worker is not wanted");
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
    outputs(&mut call);
    assert_eq!(
        call.poll_timeout(),
        Some((now + 30 * SECOND, Timer::Worker))
    );
    call.handle_timeout(now + 30 * SECOND);
    assert_eq!(
        outputs(&mut call),
        [
            Output::WithdrawJob,
            Output::Report(Report::Fallback),
            Output::Comfort(Comfort::Announcement),
            Output::PlayOut,
        ]
    );
    let now = now + 33 * SECOND;
    call.handle_played_out(now);
    assert_eq!(
        outputs(&mut call),
        [Output::Comfort(Comfort::Ringback), Output::Transfer(number)]
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
    let (mut call, now) = started(CallPolicy {
        route: Route::QueueThenDial,
        ..policy()
    });
    outputs(&mut call);
    call.handle_job_refused(now);
    assert_eq!(outputs(&mut call), [Output::Dial]);

    let (mut call, now) = started(policy());
    outputs(&mut call);
    call.handle_job_refused(now);
    assert_eq!(outputs(&mut call)[0], Output::Report(Report::Fallback));
}

#[test]
fn a_worker_that_cannot_be_dialled_is_tried_again_with_growing_pauses() {
    let (mut call, mut now) = started(CallPolicy {
        route: Route::Dial,
        ..policy()
    });
    outputs(&mut call);
    for pause_ms in [250, 500, 1_000, 2_000, 2_000] {
        call.handle_dial_failed(now);
        let due = now + Duration::from_millis(pause_ms);
        assert_eq!(call.poll_timeout(), Some((due, Timer::Redial)));
        call.handle_timeout(due);
        assert_eq!(outputs(&mut call), [Output::Dial]);
        now = due;
    }
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
fn a_lost_worker_is_not_the_end_of_the_call() {
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Lost);
    let todo = outputs(&mut call);
    assert_eq!(
        todo[..2],
        [Output::StopStream, Output::Report(Report::WorkerLost)]
    );
    assert!(todo.contains(&Output::Comfort(Comfort::Announcement)));
    call.handle_played_out(now);
    call.handle_leg_ended(false);
    assert_eq!(
        outputs(&mut call),
        [Output::Hangup(200), Output::Finished(Outcome::WorkerLost)]
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
    assert_eq!(outputs(&mut call), []);
    assert!(call.is_streaming());
    call.handle_worker(now, WorkerInput::Transfer(to.clone()));
    assert_eq!(outputs(&mut call), [Output::Transfer(to)]);
    call.handle_transfer(now, 200, true);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Hangup(200),
            Output::StopStream,
            Output::Finished(Outcome::Transferred)
        ]
    );
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
        assert_eq!(outputs(&mut call), [], "{status}");
        call.handle_transfer(now, status, true);
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
fn audio_left_by_a_lost_worker_does_not_cost_the_transfer() {
    let number = Private::new("+33123456789");
    let (mut call, now) = streaming(CallPolicy {
        media_timeout: None,
        fallback_number: Some(number.clone()),
        ..policy()
    });
    call.handle_worker(now, WorkerInput::Lost);
    outputs(&mut call);
    // A minute is still queued before the announcement.
    call.handle_timeout(now + FALLBACK_LIMIT);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Comfort(Comfort::Ringback),
            Output::Transfer(number.clone())
        ]
    );
    call.handle_timeout(now + 2 * FALLBACK_LIMIT);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
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
            route: [Route::Queue, Route::Dial, Route::QueueThenDial][random.random_range(0..3)],
            max_duration: random.random::<bool>().then_some(60 * SECOND),
            fallback_number: random.random::<bool>().then(|| Private::new("1")),
            ..policy()
        });
        call.handle_start(now);
        let mut seen = outputs(&mut call);
        for _ in 0..random.random_range(0..12) {
            now += Duration::from_millis(random.random_range(0..20_000));
            random_input(&mut call, now, random.random_range(0..13));
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
        2 => drop(call.handle_attached()),
        3 => call.handle_dial_failed(now),
        4 => call.handle_worker(now, WorkerInput::Hangup),
        5 => call.handle_worker(now, WorkerInput::Closed),
        6 => call.handle_worker(now, WorkerInput::Lost),
        7 => call.handle_worker(now, WorkerInput::Transfer(Private::new("2"))),
        8 => call.handle_established(now),
        9 => call.handle_media(now, Direction::SendRecv),
        10 => call.handle_transfer(now, 200, true),
        11 => call.handle_played_out(now),
        _ => call.handle_timeout(now),
    }
}
