//! The search for a worker: who is asked next, and when nobody is any more.
//! One per call, used again when its worker is lost ([`crate::guide::call_queue`], "Life of a
//! call", 1, 4, 5 and 7).
//!
//! In queue mode a job is pushed. Taken and not dialled within
//! `--claim-timeout`, it is pushed again as the next attempt. In push mode the
//! worker is dialled, again and again with growing pauses. A worker that has
//! stayed with the caller for [`STEADY`] clears the count of failures: only
//! calls that lose one worker after the other run out of attempts.

use std::time::{Duration, Instant};

use super::terms::{Attempt, Reason, SearchPolicy, WorkerRoute};

/// Pauses before a worker is dialled again, and before a job of a resumed call
/// is pushed again; the last repeats.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// A worker that stayed for so long was not brought down by this call.
pub const STEADY: Duration = Duration::from_secs(10);
/// A worker that is in the midst of its handshake when the claim's time is up
/// gets this much more.
const HANDSHAKE_GRACE: Duration = Duration::from_secs(1);

/// What to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing.
    Wait,
    /// Push this attempt's job.
    Push(Attempt),
    /// Dial the worker.
    Dial(Attempt),
    /// Nobody is asked any more.
    GiveUp(Reason),
    /// Nothing: the input is of an attempt that is over.
    Unexpected,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Idle,
    /// The job is on its way to Redis.
    Pushing,
    /// The job is in the queue.
    Queued,
    /// A worker has the job and has not dialled.
    Taken,
    /// The next attempt waits for a worker of the present one, which is in the
    /// midst of its handshake.
    Held,
    /// The worker is dialled.
    Dialling,
    /// Before the next push.
    BeforePush,
    /// Before the next dial.
    BeforeDial,
}

/// One call's search for a worker; pure, time is an argument.
#[derive(Debug)]
pub struct WorkerDispatch {
    policy: SearchPolicy,
    phase: Phase,
    has_begun: bool,
    attempt: u32,
    /// Jobs since there was a steady worker.
    jobs: u32,
    /// Failed dials, refused pushes and lost workers since there was a steady one.
    failures: usize,
    /// Why the present attempt is not the first.
    reason: Option<Reason>,
    resumed: bool,
    give_up_at: Option<Instant>,
    wake_at: Option<Instant>,
}

impl WorkerDispatch {
    /// A search that has not begun.
    #[must_use]
    pub fn new(policy: SearchPolicy) -> Self {
        Self {
            policy,
            phase: Phase::Idle,
            has_begun: false,
            attempt: 1,
            jobs: 0,
            failures: 0,
            reason: None,
            resumed: false,
            give_up_at: None,
            wake_at: None,
        }
    }

    /// Begins for a caller who had no worker yet.
    pub fn start(&mut self, now: Instant) -> Step {
        self.has_begun = true;
        self.give_up_at = Some(now + self.policy.worker_timeout);
        match self.policy.route {
            WorkerRoute::Queue | WorkerRoute::QueueThenDial => self.push(),
            WorkerRoute::Dial => self.dial(),
        }
    }

    /// Begins anew, for another stream of the same call and by other rules. Nothing is known of its worker; only
    /// the numbers of the attempts go on.
    pub fn restart(&mut self, now: Instant, policy: SearchPolicy) -> Step {
        let attempt = self.attempt + u32::from(self.has_begun);
        *self = Self {
            attempt,
            ..Self::new(policy)
        };
        self.start(now)
    }

    /// Begins again for a caller who lost his worker, which had stayed `held`.
    pub fn resume(&mut self, now: Instant, held: Duration) -> Step {
        if held >= STEADY || !self.resumed {
            // What it took to find the first worker says nothing about later ones.
            self.failures = 0;
        }
        if held >= STEADY {
            self.jobs = 0;
        }
        self.resumed = true;
        self.attempt += 1;
        self.reason = Some(Reason::WorkerLost);
        self.give_up_at = Some(now + self.policy.worker_timeout);
        match self.policy.route {
            WorkerRoute::Queue | WorkerRoute::QueueThenDial => self.push(),
            WorkerRoute::Dial => self.pause_dial(now),
        }
    }

    /// A worker attached, or the call needs none any more. Whether one was
    /// looked for: a job may be in the queue or in somebody's hands, a worker
    /// may be dialled.
    pub fn stop(&mut self) -> bool {
        let was_searching = self.phase != Phase::Idle;
        self.phase = Phase::Idle;
        self.give_up_at = None;
        self.wake_at = None;
        was_searching
    }

    /// Whether a job may be in the queue though nobody was told so.
    #[must_use]
    pub fn is_pushing(&self) -> bool {
        matches!(self.phase, Phase::Pushing | Phase::BeforePush)
    }

    /// The job is in the queue. Whether that is news.
    pub fn handle_pushed(&mut self) -> bool {
        let news = self.phase == Phase::Pushing;
        if news {
            self.phase = Phase::Queued;
        }
        news
    }

    /// The job could not be queued: Redis is away.
    pub fn handle_refused(&mut self, now: Instant) -> Step {
        if self.phase != Phase::Pushing {
            return Step::Unexpected;
        }
        match self.policy.route {
            WorkerRoute::QueueThenDial => self.dial(),
            // Somebody is in mid-conversation: Redis may be back in a moment.
            _ if self.resumed => {
                self.jobs -= 1;
                self.pause(now, Phase::BeforePush);
                Step::Wait
            }
            _ => Step::GiveUp(Reason::QueueAway),
        }
    }

    /// The connection to Redis broke while the job was on its way, or is being
    /// made again: it is pushed again in a moment.
    pub fn handle_interrupted(&mut self, now: Instant) -> Step {
        if self.phase != Phase::Pushing || self.policy.route == WorkerRoute::QueueThenDial {
            return self.handle_refused(now);
        }
        self.jobs -= 1;
        self.pause(now, Phase::BeforePush);
        Step::Wait
    }

    /// A worker took the job from the queue. Whether that is news.
    pub fn handle_taken(&mut self, now: Instant) -> bool {
        let news = self.phase == Phase::Queued;
        if news {
            self.phase = Phase::Taken;
            self.wake_at = Some(now + self.policy.claim_timeout);
        }
        news
    }

    /// The next attempt was asked for, but a worker of the present one is in
    /// the midst of its handshake. Whether an attempt was to be made at all.
    pub fn handle_claim_held(&mut self, now: Instant) -> bool {
        let is_expected = self.phase == Phase::Pushing;
        if is_expected {
            self.phase = Phase::Held;
            self.jobs -= 1;
            self.wake_at = Some(now + HANDSHAKE_GRACE);
        }
        is_expected
    }

    /// The worker could not be dialled.
    pub fn handle_dial_failed(&mut self, now: Instant) -> Step {
        if self.phase == Phase::Dialling {
            return self.pause_dial(now);
        }
        Step::Unexpected
    }

    /// When [`WorkerDispatch::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        [self.give_up_at, self.wake_at].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) -> Step {
        if self.give_up_at.is_some_and(|at| at <= now) {
            return Step::GiveUp(Reason::WorkerTimeout);
        }
        if self.wake_at.is_none_or(|at| at > now) {
            return Step::Wait;
        }
        self.wake_at = None;
        match self.phase {
            Phase::Taken => {
                self.attempt += 1;
                self.reason = Some(Reason::NotClaimed);
                self.push()
            }
            Phase::BeforePush | Phase::Held => self.push(),
            Phase::BeforeDial => self.dial(),
            _ => Step::Wait,
        }
    }

    /// Why the present attempt is not the first.
    #[must_use]
    pub fn reason(&self) -> Option<Reason> {
        self.reason
    }

    fn push(&mut self) -> Step {
        if self.jobs >= self.policy.max_attempts {
            return Step::GiveUp(Reason::MaxAttempts);
        }
        self.jobs += 1;
        self.phase = Phase::Pushing;
        Step::Push(self.present())
    }

    fn dial(&mut self) -> Step {
        self.phase = Phase::Dialling;
        Step::Dial(self.present())
    }

    /// A first worker is dialled until the worker timeout; one in mid-call as
    /// often as there are pauses.
    fn pause_dial(&mut self, now: Instant) -> Step {
        if self.resumed && self.failures >= PAUSES.len() {
            return Step::GiveUp(Reason::DialFailed);
        }
        self.pause(now, Phase::BeforeDial);
        Step::Wait
    }

    fn pause(&mut self, now: Instant, before: Phase) {
        self.wake_at = Some(now + PAUSES[self.failures.min(PAUSES.len() - 1)]);
        self.failures += 1;
        self.phase = before;
    }

    fn present(&self) -> Attempt {
        Attempt {
            number: self.attempt,
            resumed: self.resumed,
            until: self.give_up_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn search(route: WorkerRoute) -> (WorkerDispatch, Instant) {
        let policy = SearchPolicy {
            route,
            worker_timeout: 30 * SECOND,
            claim_timeout: 5 * SECOND,
            max_attempts: 3,
        };
        (WorkerDispatch::new(policy), Instant::now())
    }

    /// The numbers of what a step asks for.
    fn number(step: Step) -> Option<(u32, bool)> {
        match step {
            Step::Push(attempt) | Step::Dial(attempt) => Some((attempt.number, attempt.resumed)),
            Step::Wait | Step::GiveUp(_) | Step::Unexpected => None,
        }
    }

    fn taken(search: &mut WorkerDispatch, now: Instant) {
        assert!(search.handle_pushed());
        search.handle_taken(now);
    }

    #[test]
    fn a_taken_job_that_nobody_dials_is_pushed_again_until_the_attempts_are_used_up() {
        let (mut search, mut now) = search(WorkerRoute::Queue);
        assert_eq!(number(search.start(now)), Some((1, false)));
        for attempt in 2..=3 {
            taken(&mut search, now);
            assert_eq!(search.poll_timeout(), Some(now + 5 * SECOND));
            now += 5 * SECOND;
            assert_eq!(number(search.handle_timeout(now)), Some((attempt, false)));
            assert_eq!(search.reason(), Some(Reason::NotClaimed));
        }
        taken(&mut search, now);
        now += 5 * SECOND;
        assert_eq!(
            search.handle_timeout(now),
            Step::GiveUp(Reason::MaxAttempts)
        );
    }

    #[test]
    fn a_push_that_was_interrupted_is_tried_again_within_the_callers_patience() {
        let (mut search, mut now) = search(WorkerRoute::Queue);
        let end = now + 30 * SECOND;
        search.start(now);
        for _ in 0..10 {
            assert_eq!(search.handle_interrupted(now), Step::Wait);
            now = search.poll_timeout().expect("another try");
            // It is the same attempt: nobody had the job.
            assert_eq!(number(search.handle_timeout(now)), Some((1, false)));
        }
        assert!(now < end);
        assert_eq!(search.handle_interrupted(now), Step::Wait);
        let gave_up = search.handle_timeout(end);
        assert_eq!(gave_up, Step::GiveUp(Reason::WorkerTimeout));
        // Where there is another way it is taken at once.
        let (mut search, now) = self::search(WorkerRoute::QueueThenDial);
        search.start(now);
        assert!(matches!(search.handle_interrupted(now), Step::Dial(_)));
    }

    #[test]
    fn a_job_that_waits_in_the_queue_is_left_there_until_the_worker_timeout() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        search.handle_pushed();
        assert_eq!(search.handle_timeout(now + 29 * SECOND), Step::Wait);
        assert_eq!(
            search.handle_timeout(now + 30 * SECOND),
            Step::GiveUp(Reason::WorkerTimeout)
        );
    }

    #[test]
    fn a_handshake_under_way_is_not_overtaken() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        taken(&mut search, now);
        let now = now + 5 * SECOND;
        assert_eq!(number(search.handle_timeout(now)), Some((2, false)));
        search.handle_claim_held(now);
        assert_eq!(search.poll_timeout(), Some(now + HANDSHAKE_GRACE));
        let again = search.handle_timeout(now + HANDSHAKE_GRACE);
        assert_eq!(number(again), Some((2, false)));
    }

    #[test]
    fn an_attempt_that_waits_for_a_handshake_keeps_its_number() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        search.stop();
        assert_eq!(number(search.resume(now, STEADY)), Some((2, true)));
        // The answer to the push was lost; the job was not, and a worker dials.
        search.handle_refused(now);
        let mut at = search.poll_timeout().unwrap();
        for _ in 0..3 {
            assert_eq!(number(search.handle_timeout(at)), Some((2, true)));
            search.handle_claim_held(at);
            at += HANDSHAKE_GRACE;
        }
        assert_eq!(number(search.handle_timeout(at)), Some((2, true)));
    }

    #[test]
    fn whoever_is_looked_for_is_told_that_he_is_not_any_more() {
        let (mut search, now) = search(WorkerRoute::QueueThenDial);
        assert!(!search.stop(), "not begun");
        search.start(now);
        search.handle_refused(now);
        assert!(search.stop(), "a worker is dialled");
        assert!(!search.stop());
    }

    #[test]
    fn only_a_caller_who_loses_one_worker_after_the_other_runs_out_of_attempts() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        assert!(search.stop());
        for attempt in 2..=20 {
            assert_eq!(number(search.resume(now, STEADY)), Some((attempt, true)));
            search.stop();
        }
        assert_eq!(number(search.resume(now, SECOND)), Some((21, true)));
        search.stop();
        assert_eq!(number(search.resume(now, SECOND)), Some((22, true)));
        search.stop();
        assert_eq!(
            search.resume(now, SECOND),
            Step::GiveUp(Reason::MaxAttempts)
        );
    }

    #[test]
    fn a_resumed_call_outlasts_a_redis_that_is_away_for_a_moment() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        search.stop();
        search.resume(now, STEADY);
        let mut at = now;
        for pause in [250, 500, 1_000, 2_000, 2_000, 2_000] {
            assert_eq!(search.handle_refused(at), Step::Wait);
            at += Duration::from_millis(pause);
            assert_eq!(search.poll_timeout(), Some(at));
            assert_eq!(number(search.handle_timeout(at)), Some((2, true)));
        }
        search.handle_refused(at);
        assert_eq!(
            search.handle_timeout(now + 30 * SECOND),
            Step::GiveUp(Reason::WorkerTimeout)
        );
    }

    #[test]
    fn a_new_call_does_not_wait_for_redis() {
        let (mut search, now) = search(WorkerRoute::Queue);
        search.start(now);
        assert_eq!(search.handle_refused(now), Step::GiveUp(Reason::QueueAway));
        let (mut search, now) = self::search(WorkerRoute::QueueThenDial);
        search.start(now);
        assert_eq!(number(search.handle_refused(now)), Some((1, false)));
    }

    #[test]
    fn a_lost_worker_is_dialled_again_four_times() {
        let (mut search, now) = search(WorkerRoute::Dial);
        search.start(now);
        assert!(!search.is_pushing(), "no job");
        search.stop();
        let mut at = now;
        assert_eq!(search.resume(at, SECOND), Step::Wait);
        for pause in [250, 500, 1_000, 2_000] {
            at += Duration::from_millis(pause);
            assert_eq!(search.poll_timeout(), Some(at));
            assert_eq!(number(search.handle_timeout(at)), Some((2, true)));
            if pause < 2_000 {
                assert_eq!(search.handle_dial_failed(at), Step::Wait);
            }
        }
        assert_eq!(
            search.handle_dial_failed(at),
            Step::GiveUp(Reason::DialFailed)
        );
    }

    #[test]
    fn a_first_worker_is_dialled_until_the_worker_timeout() {
        let (mut search, now) = search(WorkerRoute::Dial);
        search.start(now);
        let mut at = now;
        let mut dials = 1;
        while let Step::Wait = search.handle_dial_failed(at) {
            at = search.poll_timeout().unwrap();
            match search.handle_timeout(at) {
                Step::Dial(_) => dials += 1,
                step => {
                    assert_eq!(step, Step::GiveUp(Reason::WorkerTimeout));
                    break;
                }
            }
        }
        assert_eq!((at, dials), (now + 30 * SECOND, 18));
    }
}
