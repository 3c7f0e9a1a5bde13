//! The timers of one call: at most one of each kind runs.

use std::time::Instant;

use super::terms::Timer;

/// All of them, in the order in which those that are due at once fire.
pub(super) const ALL: [Timer; 9] = [
    Timer::Ring,
    Timer::Hold,
    Timer::WorkerDispatch,
    Timer::Duration,
    Timer::Media,
    Timer::PlayOut,
    Timer::Fallback,
    Timer::Transfer,
    Timer::Ending,
];

/// The timers of one call, at most one of each kind.
#[derive(Debug, Default)]
pub(super) struct Timers {
    deadlines: [Option<Instant>; ALL.len()],
}

impl Timers {
    /// Starts or moves a timer; `None` stops it.
    pub(super) fn set(&mut self, timer: Timer, at: Option<Instant>) {
        self.deadlines[timer as usize] = at;
    }

    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    /// The next deadline.
    pub(super) fn next(&self) -> Option<(Instant, Timer)> {
        let running = ALL
            .iter()
            .filter_map(|timer| self.deadlines[*timer as usize].map(|at| (at, *timer)));
        running.min_by_key(|(at, _)| *at)
    }

    /// Whether a timer is due; then it is stopped.
    pub(super) fn take_due(&mut self, timer: Timer, now: Instant) -> bool {
        let is_due = self.deadlines[timer as usize].is_some_and(|at| at <= now);
        if is_due {
            self.set(timer, None);
        }
        is_due
    }
}
