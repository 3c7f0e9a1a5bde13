//! When each line registers (RFC 3261 section 10): the first REGISTERs spread
//! out, failures retried with backoff and jitter, lost refreshes noticed.
//! Each registrar has a pace of its own (`register_pace`): one that is away
//! holds up nobody else's lines.
//! Pure: time is an argument, randomness comes from a seed.
//!
//! Leaves out the refresh before expiry, which the SIP engine does itself,
//! and unregistering, which needs no schedule.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;

use super::line::Line;
use super::register_pace::RegisterPace;
use super::register_queue::{TimerKey, TimerPhase};
use super::table::Fleet;
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

/// How many lines are in each state. Those that do not register are in none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistrationCounts {
    /// [`LineState::Registering`].
    pub registering: usize,
    /// [`LineState::Registered`].
    pub registered: usize,
    /// [`LineState::Failed`].
    pub failed: usize,
    /// Their passwords are being decrypted.
    pub decrypting: usize,
    /// The engine could not add them.
    pub refused: usize,
    /// Another bridge registers them, or none yet.
    pub elsewhere: usize,
}

/// What a result meant for a line, for one log line each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RegistrationChange {
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

/// Where a line that is held stands with its registrar.
#[derive(Debug)]
pub(super) enum RegistrationStage {
    /// The engine does not have it yet.
    NotAsked,
    /// It does not register (`--no-register`).
    Off,
    /// It registers once its password is decrypted.
    Decrypting,
    /// It registers, and stays registered.
    Scheduled(Scheduled),
    /// The engine could not add it; the engine will try again.
    Refused(EngineRefusal),
    /// Another bridge registers it, at this registrar.
    Elsewhere(Arc<str>),
}

/// A line that takes part in registering.
#[derive(Debug)]
pub(super) struct Scheduled {
    pub(super) registrar: Arc<str>,
    pub(super) state: LineState,
    pub(super) phase: TimerPhase,
    pub(super) failures: u32,
    pub(super) timer: TimerKey,
    /// Whether it has registered since it was added: what comes before is
    /// an answer to what the line was earlier.
    pub(super) asked: bool,
}

/// Why a line is not in the engine.
#[derive(Debug)]
pub(super) struct EngineRefusal {
    pub(super) reason: String,
    pub(super) next_try: Instant,
    pub(super) then: Then,
}

/// What becomes of a refused line once the engine has added it.
#[derive(Clone, Debug)]
pub(super) enum Then {
    NotAsked,
    Off,
    Decrypting,
    Register(Arc<str>),
}

impl RegistrationStage {
    pub(super) const fn scheduled(&self) -> Option<&Scheduled> {
        match self {
            Self::Scheduled(scheduled) => Some(scheduled),
            _ => None,
        }
    }
}

impl Fleet {
    /// Takes in what a REGISTER (or the engine's own refresh) came to.
    /// Returns what changed; `None` for a line that does not register.
    pub fn handle_result(
        &mut self,
        line: &LineId,
        result: RegisterResult,
        now: Instant,
    ) -> Option<RegistrationChange> {
        let entry = self.lines.get(line)?.scheduled()?;
        // The engine may report one failure twice: in a callback, and as the
        // answer to the command.
        let is_failure = matches!(result, RegisterResult::Failed { .. });
        if !entry.asked || (is_failure && entry.phase == TimerPhase::Due) {
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
    pub fn poll_register(&mut self, now: Instant) -> Option<LineId> {
        self.expire(now);
        let line = self.turns.take(now)?;
        let entry = self.set(&line, TimerPhase::AwaitingAnswer, now + ANSWER_TIMEOUT)?;
        entry.asked = true;
        // A failure stays to be seen until there is an answer.
        if matches!(entry.state, LineState::Registered { .. }) {
            entry.state = LineState::Registering;
        }
        Some(line)
    }

    /// When [`Fleet::poll_register`] has something to do next; `None` when no
    /// line registers.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.turns.next()
    }

    /// The state of one line that registers, and its registrar. A registration that is past its
    /// expiry and not yet heard of counts as registering.
    #[must_use]
    pub fn registration(&self, line: &LineId, now: Instant) -> Option<(LineState, &str)> {
        let scheduled = self.lines.get(line)?.scheduled()?;
        Some((scheduled.state_at(now), &scheduled.registrar))
    }

    /// How many lines are in each state.
    #[must_use]
    pub fn counts(&self, now: Instant) -> RegistrationCounts {
        let mut counts = RegistrationCounts::default();
        for held in self.held() {
            match &held.registration {
                RegistrationStage::Scheduled(scheduled) => match scheduled.state_at(now) {
                    LineState::Registering => counts.registering += 1,
                    LineState::Registered { .. } => counts.registered += 1,
                    LineState::Failed { .. } => counts.failed += 1,
                },
                RegistrationStage::Decrypting => counts.decrypting += 1,
                RegistrationStage::Refused(_) => counts.refused += 1,
                RegistrationStage::Elsewhere(_) => counts.elsewhere += 1,
                RegistrationStage::NotAsked | RegistrationStage::Off => {}
            }
        }
        counts
    }

    fn registered(
        &mut self,
        line: &LineId,
        expires: Duration,
        now: Instant,
    ) -> Option<RegistrationChange> {
        let until = now + expires;
        self.pace_of(line)?.succeeded();
        let entry = self.set(line, TimerPhase::AwaitingRefresh, until + REFRESH_GRACE)?;
        let was = matches!(entry.state, LineState::Registered { .. });
        entry.failures = 0;
        entry.state = LineState::Registered { until };
        Some(if was {
            RegistrationChange::Refreshed
        } else {
            RegistrationChange::Registered
        })
    }

    fn failed(
        &mut self,
        line: &LineId,
        status: u16,
        text: String,
        retry_after: Option<Duration>,
        now: Instant,
    ) -> Option<RegistrationChange> {
        if !only_people_can_mend(status) {
            self.pace_of(line)?.failed();
        }
        let failures = self
            .lines
            .get(line)?
            .scheduled()?
            .failures
            .saturating_add(1);
        let retry_in = self.retry_delay(status, failures, retry_after);
        let next_try = now + retry_in;
        let entry = self.set(line, TimerPhase::Due, next_try)?;
        entry.failures = failures;
        entry.state = LineState::Failed {
            status,
            text,
            next_try,
        };
        Some(RegistrationChange::Failed { failures, retry_in })
    }

    fn lost(&mut self, line: &LineId, now: Instant) -> Option<RegistrationChange> {
        let retry_in = self.jittered(RETRY_MIN);
        let entry = self.set(line, TimerPhase::Due, now + retry_in)?;
        entry.state = LineState::Registering;
        Some(RegistrationChange::Lost { retry_in })
    }

    /// Turns every wait that is over into a line that is due.
    fn expire(&mut self, now: Instant) {
        while let Some(line) = self.turns.over(now) {
            let scheduled = self.lines.get(&line).and_then(Line::scheduled);
            match scheduled.map(|scheduled| scheduled.phase) {
                Some(TimerPhase::AwaitingAnswer) => {
                    self.failed(&line, 408, "no answer to REGISTER".into(), None, now);
                }
                _ => {
                    if let Some(entry) = self.set(&line, TimerPhase::Due, now) {
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
        let scheduled = self.lines.get(line)?.scheduled()?;
        self.turns.pace(&scheduled.registrar)
    }

    /// Gives a line a new phase and moves its one timer.
    pub(super) fn set(
        &mut self,
        line: &LineId,
        phase: TimerPhase,
        at: Instant,
    ) -> Option<&mut Scheduled> {
        let RegistrationStage::Scheduled(entry) = self.lines.get_mut(line)?.registration_mut()?
        else {
            return None;
        };
        self.turns.stop(&entry.registrar, entry.phase, entry.timer);
        entry.timer = self.turns.start(line, &entry.registrar, phase, at);
        entry.phase = phase;
        Some(entry)
    }
}

impl Line {
    pub(super) fn scheduled(&self) -> Option<&Scheduled> {
        self.held.as_ref()?.registration.scheduled()
    }
}

impl Scheduled {
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
#[path = "registration_tests.rs"]
mod tests;
