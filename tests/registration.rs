//! When lines register, in virtual time: spread, backoff, refreshes that are
//! not heard of. Seeded; the seed is in every message.

#![expect(clippy::panic, reason = "a test that cannot go on fails there")]
#![expect(clippy::expect_used, reason = "a test that cannot go on fails there")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use sipbridge::core::address::{HostPort, Transport};
use sipbridge::core::ids::LineId;
use sipbridge::core::private::Private;
use sipbridge::fleet::registration::{
    ANSWER_TIMEOUT, LineState, REFRESH_GRACE, REFUSED_RETRY_MIN, RETRY_MIN, RegisterResult,
    RegistrationChange as Change, RegistrationCounts,
};
use sipbridge::fleet::table::Fleet;
use sipbridge::fleet::{Limits, LineProfile};
use sipbridge::lines::ReadyLine;

const SEED: u64 = 7;
const SLOT: Duration = Duration::from_millis(20);

fn line(number: usize) -> LineId {
    LineId::new(format!("line-{number:04}"))
}

fn ok(seconds: u64) -> RegisterResult {
    RegisterResult::Registered {
        expires: Duration::from_secs(seconds),
    }
}

fn failure(status: u16, retry_after: Option<Duration>) -> RegisterResult {
    RegisterResult::Failed {
        status,
        text: "text".into(),
        retry_after,
    }
}

/// The table, of which these tests use what concerns registering.
struct Scheduler(Fleet);

impl Scheduler {
    fn new(seed: u64) -> Self {
        Self(Fleet::new(Limits::default(), seed))
    }

    fn add(&mut self, line: LineId, registrar: &str, now: Instant) {
        let username = Private::new("user");
        let domain = HostPort::parse("sip.example").expect("a host");
        let ready = ReadyLine::bare(line.clone(), &domain, Transport::Udp, username);
        let profile = LineProfile::bare(line.clone());
        self.0.hold(ready, Arc::new(profile));
        self.0.register(&line, registrar, now);
    }

    fn remove(&mut self, line: &LineId) -> bool {
        self.0.remove(line)
    }

    fn register_now(&mut self, line: &LineId, now: Instant) -> bool {
        self.0.register_now(line, now)
    }

    fn handle_result(
        &mut self,
        line: &LineId,
        result: RegisterResult,
        now: Instant,
    ) -> Option<Change> {
        self.0.handle_result(line, result, now)
    }

    fn poll(&mut self, now: Instant) -> Option<LineId> {
        self.0.poll_register(now)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn state(&self, line: &LineId, now: Instant) -> Option<LineState> {
        self.0.registration(line, now).map(|(state, _)| state)
    }

    fn counts(&self, now: Instant) -> RegistrationCounts {
        self.0.counts(now)
    }
}

/// Runs virtual time to the next REGISTER, within a bound of steps.
fn next(scheduler: &mut Scheduler, now: &mut Instant) -> LineId {
    for _ in 0..10 {
        if let Some(line) = scheduler.poll(*now) {
            return line;
        }
        let timeout = scheduler.poll_timeout().expect("a line is there");
        assert!(timeout > *now, "poll_timeout must move on");
        *now = timeout;
    }
    panic!("seed {SEED}: no line came due");
}

fn retry_in(change: Option<Change>) -> Duration {
    match change {
        Some(Change::Failed { retry_in, .. }) => retry_in,
        other => panic!("seed {SEED}: {other:?}"),
    }
}

#[test]
fn five_thousand_lines_register_in_order_and_faster_while_they_are_answered() {
    let start = Instant::now();
    let (mut scheduler, mut now) = (Scheduler::new(SEED), start);
    (0..5_000).for_each(|number| scheduler.add(line(number), "sip.example", start));
    for number in 0..5_000 {
        let before = now;
        assert_eq!(next(&mut scheduler, &mut now), line(number));
        assert!(
            number == 0 || now - before >= SLOT / 2,
            "at most 100 a second"
        );
        scheduler.handle_result(&line(number), ok(3_600), now);
        if number == 999 {
            assert!(now - start < Duration::from_secs(15));
        }
    }
    assert!(now - start < Duration::from_secs(60));
    assert_eq!(scheduler.counts(now).registered, 5_000);
}

#[test]
fn a_registrar_that_is_away_holds_nobody_elses_lines_up() {
    let start = Instant::now();
    let (mut scheduler, mut now) = (Scheduler::new(SEED), start);
    for number in 0..500 {
        scheduler.add(line(number), "away.example", start);
        scheduler.add(line(1_000 + number), "sip.example", start);
    }
    let mut registered = 0;
    while registered < 500 {
        let due = next(&mut scheduler, &mut now);
        if due >= line(1_000) {
            scheduler.handle_result(&due, ok(3_600), now);
            registered += 1;
        } else {
            scheduler.handle_result(&due, failure(503, None), now);
        }
    }
    assert!(now - start < Duration::from_secs(10), "{:?}", now - start);
    // The one that is away got ever fewer: at last ten a second.
    let counts = scheduler.counts(now);
    assert!(counts.failed < 150, "seed {SEED}: {counts:?}");
}

#[test]
fn an_answer_to_what_a_line_was_before_is_not_its_own() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    next(&mut scheduler, &mut now);
    scheduler.add(line(1), "sip.example", now);
    assert_eq!(
        scheduler.handle_result(&line(1), failure(403, None), now),
        None
    );
    assert_eq!(next(&mut scheduler, &mut now), line(1));
}

#[test]
fn a_failure_that_is_told_twice_counts_once() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    next(&mut scheduler, &mut now);
    let first = scheduler.handle_result(&line(1), failure(502, None), now);
    assert!(matches!(first, Some(Change::Failed { failures: 1, .. })));
    let again = scheduler.handle_result(&line(1), failure(503, None), now);
    assert_eq!(again, None);
    assert!(matches!(
        scheduler.state(&line(1), now),
        Some(LineState::Failed { status: 502, .. })
    ));
}

#[test]
fn a_line_that_is_told_to_registers_now_and_backs_off_anew() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    assert!(!scheduler.register_now(&line(1), now));
    scheduler.add(line(1), "sip.example", now);
    for _ in 0..6 {
        next(&mut scheduler, &mut now);
        scheduler.handle_result(&line(1), failure(503, None), now);
    }
    assert!(scheduler.register_now(&line(1), now));
    let asked = now;
    next(&mut scheduler, &mut now);
    assert!(now - asked <= Duration::from_millis(100));
    let change = scheduler.handle_result(&line(1), failure(503, None), now);
    assert!(retry_in(change) <= RETRY_MIN, "seed {SEED}");
    // One that is registered asks again at once, too.
    next(&mut scheduler, &mut now);
    scheduler.handle_result(&line(1), ok(3_600), now);
    assert!(scheduler.register_now(&line(1), now));
    let asked = now;
    next(&mut scheduler, &mut now);
    assert!(now - asked <= Duration::from_millis(100));
}

#[test]
fn failures_back_off_from_2_s_to_5_min_with_jitter() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    for most_s in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
        assert_eq!(next(&mut scheduler, &mut now), line(1));
        let change = scheduler.handle_result(&line(1), failure(503, None), now);
        let (delay, most) = (retry_in(change), Duration::from_secs(most_s));
        assert!(delay >= most / 2 && delay <= most, "seed {SEED}: {delay:?}");
        let due = now + delay;
        assert_eq!(scheduler.poll_timeout(), Some(due));
        assert_eq!(scheduler.poll(due - Duration::from_millis(1)), None);
    }
    next(&mut scheduler, &mut now);
    assert_eq!(
        scheduler.handle_result(&line(1), ok(300), now),
        Some(Change::Registered)
    );
    let change = scheduler.handle_result(&line(1), failure(503, None), now);
    assert!(retry_in(change) <= RETRY_MIN, "success resets the backoff");
}

#[test]
fn wrong_passwords_are_not_hammered() {
    for status in [401, 403, 404, 407, 603] {
        let (mut scheduler, now) = (Scheduler::new(SEED), Instant::now());
        scheduler.add(line(1), "sip.example", now);
        assert_eq!(scheduler.poll(now), Some(line(1)));
        let change = scheduler.handle_result(&line(1), failure(status, None), now);
        assert!(retry_in(change) >= REFUSED_RETRY_MIN / 2, "{status}");
        assert!(matches!(
            scheduler.state(&line(1), now),
            Some(LineState::Failed { status: s, next_try, .. }) if s == status && next_try > now
        ));
    }
}

#[test]
fn retry_after_is_obeyed_within_an_hour() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    for (asked_s, least_s, most_s) in [(120, 120, 132), (999_999, 3_600, 3_960), (0, 0, 16)] {
        next(&mut scheduler, &mut now);
        let asked = Some(Duration::from_secs(asked_s));
        let change = scheduler.handle_result(&line(1), failure(503, asked), now);
        let delay = retry_in(change).as_secs_f64();
        assert!(
            (least_s as f64..=most_s as f64).contains(&delay),
            "seed {SEED}: {delay}"
        );
    }
}

#[test]
fn lines_that_failed_together_come_back_spread_out() {
    let start = Instant::now();
    let (mut scheduler, mut now) = (Scheduler::new(SEED), start);
    (0..200).for_each(|number| scheduler.add(line(number), "sip.example", start));
    (0..200).for_each(|_| drop(next(&mut scheduler, &mut now)));
    for number in 0..200 {
        scheduler.handle_result(&line(number), failure(408, None), now);
    }
    let mut last = None;
    for _ in 0..200 {
        next(&mut scheduler, &mut now);
        assert!(
            last.is_none_or(|last| now - last >= SLOT / 2),
            "seed {SEED}"
        );
        last = Some(now);
    }
}

#[test]
fn a_refresh_that_is_not_heard_of_is_made_up_for() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    next(&mut scheduler, &mut now);
    scheduler.handle_result(&line(1), ok(60), now);
    let half = now + Duration::from_secs(30);
    assert_eq!(
        scheduler.handle_result(&line(1), ok(60), half),
        Some(Change::Refreshed)
    );
    let until = half + Duration::from_secs(60);
    assert_eq!(
        scheduler.state(&line(1), half),
        Some(LineState::Registered { until })
    );
    assert_eq!(scheduler.counts(until).registering, 1);
    now = half;
    assert_eq!(next(&mut scheduler, &mut now), line(1));
    assert_eq!(now, until + REFRESH_GRACE);
}

#[test]
fn an_engine_that_never_answers_counts_as_408() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    next(&mut scheduler, &mut now);
    let silent = now + ANSWER_TIMEOUT;
    assert_eq!(scheduler.poll(silent), None);
    assert!(matches!(
        scheduler.state(&line(1), silent),
        Some(LineState::Failed { status: 408, .. })
    ));
    now = silent;
    assert_eq!(next(&mut scheduler, &mut now), line(1));
}

#[test]
fn a_waiting_failure_is_shown_until_the_next_answer() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    for _ in 0..2 {
        next(&mut scheduler, &mut now);
        scheduler.handle_result(&line(1), failure(503, None), now);
    }
    next(&mut scheduler, &mut now);
    assert_eq!(scheduler.counts(now).failed, 1);
}

#[test]
fn removed_and_unknown_lines_are_left_alone() {
    let (mut scheduler, now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    scheduler.add(line(1), "sip.example", now);
    assert!(scheduler.remove(&line(1)) && !scheduler.remove(&line(1)));
    assert_eq!(scheduler.handle_result(&line(1), ok(60), now), None);
    assert_eq!(
        (scheduler.poll(now), scheduler.poll_timeout()),
        (None, None)
    );
    assert_eq!(scheduler.counts(now), RegistrationCounts::default());
}

#[test]
fn a_lost_binding_registers_anew() {
    let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
    scheduler.add(line(1), "sip.example", now);
    next(&mut scheduler, &mut now);
    scheduler.handle_result(&line(1), ok(60), now);
    let change = scheduler.handle_result(&line(1), RegisterResult::Unregistered, now);
    assert!(matches!(change, Some(Change::Lost { retry_in }) if retry_in <= RETRY_MIN));
    let lost = now;
    assert_eq!(next(&mut scheduler, &mut now), line(1));
    assert!(now - lost <= RETRY_MIN);
}
