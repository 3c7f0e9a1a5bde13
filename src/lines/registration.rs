//! When each line registers (RFC 3261 section 10): the first REGISTERs spread
//! out, failures retried with backoff and jitter, lost refreshes noticed.
//! Each registrar has a pace of its own ([`super::register_pace`]): one that is away
//! holds up nobody else's lines.
//! Pure: time is an argument, randomness comes from a seed.
//!
//! Inputs: [`Scheduler::add`], [`Scheduler::remove`] and
//! [`Scheduler::handle_result`] (what a REGISTER came to, told by the SIP
//! engine). Outputs: [`Scheduler::poll`] (the line to register now) and
//! [`Scheduler::poll_timeout`] (when to ask again).
//!
//! Leaves out the refresh before expiry, which the SIP engine does itself,
//! and unregistering, which needs no schedule.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::register_pace::RegisterPace;
pub use super::register_pace::{REGISTERS_PER_SECOND, REGISTERS_PER_SECOND_MAX};
use super::register_queue::{Phase, RegisterQueue, TimerKey};
use crate::core::ids::LineId;

/// How long one REGISTER may go unanswered by the engine: its transaction
/// ends after 32 s (64 * T1), and digest takes two of them.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(70);
/// How long after its expiry a registration may be refreshed unheard.
pub const REFRESH_GRACE: Duration = Duration::from_secs(35);
/// First delay after a failure that may pass by itself.
pub const RETRY_MIN: Duration = Duration::from_secs(2);
/// First delay after a refusal that only people can mend (401, 403, 404 …):
/// registrars ban who keeps trying.
pub const REFUSED_RETRY_MIN: Duration = Duration::from_secs(60);
/// Longest delay of the backoff.
pub const RETRY_MAX: Duration = Duration::from_secs(300);
/// Longest Retry-After that is obeyed; a line is not lost for a day.
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(3_600);

/// What a REGISTER came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RegisterResult {
    /// 200 OK: valid for so long. Also for each refresh.
    Registered {
        /// Until it expires.
        expires: Duration,
    },
    /// Refused, or not answered (408, 503).
    Failed {
        /// SIP status.
        status: u16,
        /// Its text.
        text: String,
        /// Retry-After, where the answer had one.
        retry_after: Option<Duration>,
    },
    /// The binding is gone.
    Unregistered,
}

/// What is known of a line's registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineState {
    /// Waiting for its turn or for an answer.
    Registering,
    /// The registrar sends its calls here.
    Registered {
        /// When that ends unless refreshed.
        until: Instant,
    },
    /// Refused or unanswered.
    Failed {
        /// SIP status; 408 stands for no answer.
        status: u16,
        /// Its text.
        text: String,
        /// When it is tried again.
        next_try: Instant,
    },
}

/// A line and its state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineStatus {
    /// The line.
    pub line: LineId,
    /// Its state.
    pub state: LineState,
}

/// How many lines are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LineCounts {
    /// [`LineState::Registering`].
    pub registering: usize,
    /// [`LineState::Registered`].
    pub registered: usize,
    /// [`LineState::Failed`].
    pub failed: usize,
}

/// What a result meant for a line, for one log line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// It was not registered and now is.
    Registered,
    /// It was registered and still is.
    Refreshed,
    /// It failed `failures` times in a row; the next try is `retry_in` away.
    Failed {
        /// How often in a row.
        failures: u32,
        /// Until the next try.
        retry_in: Duration,
    },
    /// Its binding is gone; it registers anew after `retry_in`.
    Lost {
        /// Until the next try.
        retry_in: Duration,
    },
}

/// Decides when lines register.
#[derive(Debug)]
pub struct Scheduler {
    lines: HashMap<LineId, Entry>,
    turns: RegisterQueue,
    random: StdRng,
}

#[derive(Debug)]
struct Entry {
    registrar: Arc<str>,
    state: LineState,
    phase: Phase,
    failures: u32,
    timer: TimerKey,
    /// Whether it has registered since it was added: what comes before is
    /// an answer to what the line was earlier.
    asked: bool,
}

impl Scheduler {
    /// An empty schedule. The seed makes the jitter.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            lines: HashMap::new(),
            turns: RegisterQueue::default(),
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// Adds a line, to register at this registrar as soon as its turn comes.
    /// Adding a line that is there starts it anew.
    pub fn add(&mut self, line: LineId, registrar: &str, now: Instant) {
        self.remove(&line);
        let registrar = self.turns.join(registrar);
        let timer = self.turns.start(&line, &registrar, Phase::Due, now);
        let entry = Entry {
            registrar,
            state: LineState::Registering,
            phase: Phase::Due,
            failures: 0,
            timer,
            asked: false,
        };
        self.lines.insert(line, entry);
    }

    /// Forgets a line. Returns whether it was there.
    pub fn remove(&mut self, line: &LineId) -> bool {
        let Some(entry) = self.lines.remove(line) else {
            return false;
        };
        self.turns.stop(&entry.registrar, entry.phase, entry.timer);
        self.turns.leave(&entry.registrar);
        true
    }

    /// Registers a line as soon as its turn comes, whatever it waits for, and
    /// forgets how often it failed. False when there is no such line.
    pub fn register_now(&mut self, line: &LineId, now: Instant) -> bool {
        let Some(entry) = self.lines.get_mut(line) else {
            return false;
        };
        entry.failures = 0;
        if entry.phase != Phase::AwaitingAnswer {
            self.set(line, Phase::Due, now);
        }
        true
    }

    /// All lines, in the order of their ids.
    #[must_use]
    pub fn lines(&self) -> Vec<LineId> {
        let mut lines: Vec<LineId> = self.lines.keys().cloned().collect();
        lines.sort_unstable();
        lines
    }

    /// The registrar of a line.
    #[must_use]
    pub fn registrar(&self, line: &LineId) -> Option<&str> {
        self.lines.get(line).map(|entry| &*entry.registrar)
    }

    /// Takes in what a REGISTER (or the engine's own refresh) came to.
    /// Returns what changed; `None` for a line that is not there.
    pub fn handle_result(
        &mut self,
        line: &LineId,
        result: RegisterResult,
        now: Instant,
    ) -> Option<Change> {
        let entry = self.lines.get(line)?;
        // The engine may tell of one failure twice: in a callback, and as the
        // answer to the command.
        let is_failure = matches!(result, RegisterResult::Failed { .. });
        if !entry.asked || (is_failure && entry.phase == Phase::Due) {
            return None;
        }
        match result {
            RegisterResult::Registered { expires } => self.registered(line, expires, now),
            RegisterResult::Failed {
                status,
                text,
                retry_after,
            } => self.failed(line, status, text, retry_after, now),
            RegisterResult::Unregistered => self.lost(line, now),
        }
    }

    /// The line to send REGISTER for now, if there is one. Ask until `None`.
    pub fn poll(&mut self, now: Instant) -> Option<LineId> {
        self.expire(now);
        let line = self.turns.take(now)?;
        let entry = self.set(&line, Phase::AwaitingAnswer, now + ANSWER_TIMEOUT)?;
        entry.asked = true;
        // A failure stays to be seen until there is an answer.
        if matches!(entry.state, LineState::Registered { .. }) {
            entry.state = LineState::Registering;
        }
        Some(line)
    }

    /// When [`Scheduler::poll`] has something to do next; `None` when there
    /// are no lines.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.turns.next()
    }

    /// The state of one line. A registration that is past its expiry and not
    /// yet heard of counts as registering.
    #[must_use]
    pub fn state(&self, line: &LineId, now: Instant) -> Option<LineState> {
        self.lines.get(line).map(|entry| entry.state_at(now))
    }

    /// The state of every line, in the order of their ids.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> Vec<LineStatus> {
        let status = |(line, entry): (&LineId, &Entry)| LineStatus {
            line: line.clone(),
            state: entry.state_at(now),
        };
        let mut all: Vec<_> = self.lines.iter().map(status).collect();
        all.sort_unstable_by(|a, b| a.line.cmp(&b.line));
        all
    }

    /// How many lines are in each state.
    #[must_use]
    pub fn counts(&self, now: Instant) -> LineCounts {
        let mut counts = LineCounts::default();
        for entry in self.lines.values() {
            match entry.state_at(now) {
                LineState::Registering => counts.registering += 1,
                LineState::Registered { .. } => counts.registered += 1,
                LineState::Failed { .. } => counts.failed += 1,
            }
        }
        counts
    }

    fn registered(&mut self, line: &LineId, expires: Duration, now: Instant) -> Option<Change> {
        let until = now + expires;
        self.pace_of(line)?.succeeded();
        let entry = self.set(line, Phase::AwaitingRefresh, until + REFRESH_GRACE)?;
        let was = matches!(entry.state, LineState::Registered { .. });
        entry.failures = 0;
        entry.state = LineState::Registered { until };
        Some(if was {
            Change::Refreshed
        } else {
            Change::Registered
        })
    }

    fn failed(
        &mut self,
        line: &LineId,
        status: u16,
        text: String,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<Change> {
        if !only_people_can_mend(status) {
            self.pace_of(line)?.failed();
        }
        let failures = self.lines.get(line)?.failures.saturating_add(1);
        let retry_in = self.retry_delay(status, failures, retry_after);
        let next_try = now + retry_in;
        let entry = self.set(line, Phase::Due, next_try)?;
        entry.failures = failures;
        entry.state = LineState::Failed {
            status,
            text,
            next_try,
        };
        Some(Change::Failed { failures, retry_in })
    }

    fn lost(&mut self, line: &LineId, now: Instant) -> Option<Change> {
        let retry_in = self.jittered(RETRY_MIN);
        let entry = self.set(line, Phase::Due, now + retry_in)?;
        entry.state = LineState::Registering;
        Some(Change::Lost { retry_in })
    }

    /// Turns every wait that is over into a line that is due.
    fn expire(&mut self, now: Instant) {
        while let Some(line) = self.turns.over(now) {
            match self.lines.get(&line).map(|entry| entry.phase) {
                Some(Phase::AwaitingAnswer) => {
                    self.failed(&line, 408, "no answer to REGISTER".into(), None, now);
                }
                _ => {
                    if let Some(entry) = self.set(&line, Phase::Due, now) {
                        entry.state = LineState::Registering;
                    }
                }
            }
        }
    }

    fn retry_delay(
        &mut self,
        status: u16,
        failures: u32,
        retry_after: Option<Duration>,
    ) -> Duration {
        let first = if only_people_can_mend(status) {
            REFUSED_RETRY_MIN
        } else {
            RETRY_MIN
        };
        // Past 2^16 every first delay is over the cap.
        let doubled = first.saturating_mul(1 << failures.saturating_sub(1).min(16));
        let backoff = self.jittered(doubled.min(RETRY_MAX));
        let Some(asked) = retry_after else {
            return backoff;
        };
        let asked = asked.min(RETRY_AFTER_MAX);
        // Never earlier than asked, and not all lines at the same moment.
        backoff.max(asked + asked.mul_f64(self.random.random_range(0.0..0.1)))
    }

    /// Between half of a delay and all of it.
    fn jittered(&mut self, delay: Duration) -> Duration {
        delay.mul_f64(self.random.random_range(0.5..=1.0))
    }

    fn pace_of(&mut self, line: &LineId) -> Option<&mut RegisterPace> {
        self.turns.pace(&self.lines.get(line)?.registrar)
    }

    /// Gives a line a new phase and moves its one timer.
    fn set(&mut self, line: &LineId, phase: Phase, at: Instant) -> Option<&mut Entry> {
        let entry = self.lines.get_mut(line)?;
        self.turns.stop(&entry.registrar, entry.phase, entry.timer);
        entry.timer = self.turns.start(line, &entry.registrar, phase, at);
        entry.phase = phase;
        Some(entry)
    }
}

impl Entry {
    fn state_at(&self, now: Instant) -> LineState {
        match &self.state {
            LineState::Registered { until } if *until <= now => LineState::Registering,
            state => state.clone(),
        }
    }
}

/// Statuses that the same REGISTER will meet again: a wrong password, a user
/// that is not there. Busy, overload and silence are not among them.
const fn only_people_can_mend(status: u16) -> bool {
    match status {
        408 | 423 | 429 | 480 | 486 | 491 => false,
        400..=499 | 600..=699 => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn ok(seconds: u64) -> RegisterResult {
        RegisterResult::Registered {
            expires: Duration::from_secs(seconds),
        }
    }

    fn failure() -> RegisterResult {
        RegisterResult::Failed {
            status: 503,
            text: "text".into(),
            retry_after: None,
        }
    }

    /// Random operations: the schedule stays whole and never spins.
    #[test]
    fn any_order_of_events_keeps_one_timer_per_line() {
        let mut random = StdRng::seed_from_u64(SEED);
        let (mut scheduler, mut now) = (Scheduler::new(SEED), Instant::now());
        for step in 0..20_000 {
            let line = LineId::new(random.random_range(0..20).to_string());
            match random.random_range(0..8) {
                0 => scheduler.add(line, &random.random_range(0..3).to_string(), now),
                1 => drop(scheduler.remove(&line)),
                2 => drop(scheduler.handle_result(&line, ok(random.random_range(0..90)), now)),
                3 => drop(scheduler.handle_result(&line, failure(), now)),
                4 => drop(scheduler.handle_result(&line, RegisterResult::Unregistered, now)),
                5 => now += Duration::from_millis(random.random_range(0..9_000)),
                6 => drop(scheduler.register_now(&line, now)),
                _ => {
                    while scheduler.poll(now).is_some() {}
                    let later = scheduler.poll_timeout().is_none_or(|at| at > now);
                    assert!(later, "seed {SEED} step {step}: spins");
                }
            }
            assert_eq!(
                scheduler.lines.len(),
                scheduler.turns.timers(),
                "seed {SEED} step {step}"
            );
        }
    }
}
