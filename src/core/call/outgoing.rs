//! A call that we placed, up to its answer: nobody is looked for before the
//! callee is there. From then on it is a call like any other, but that there is
//! no fallback: whoever was called by nobody is not handed on.

use std::time::{Duration, Instant};

use super::{Call, Comfort, Output, Phase, Reason, Report, Rung, Timer};
use crate::core::outcome::Outcome;

impl Call {
    /// The INVITE is out. The callee may ring for so long.
    pub fn handle_placed(&mut self, now: Instant, ring_timeout: Duration) {
        if self.phase != Phase::New {
            return;
        }
        self.is_ours = true;
        self.phase = Phase::Dialling;
        self.arm(Timer::Ring, now + ring_timeout);
        self.report(Report::Initiated);
    }

    /// A provisional response of the callee.
    pub fn handle_progress(&mut self, status: u16) {
        let rings = (180..200).contains(&status);
        if self.phase == Phase::Dialling && rings && !self.rang {
            self.rang = true;
            self.report(Report::Ringing);
        }
    }

    /// The callee took the call: now a worker is looked for, in silence.
    pub(super) fn callee_answered(&mut self, now: Instant) {
        if self.phase != Phase::Dialling {
            return;
        }
        self.disarm(Timer::Ring);
        self.answered = true;
        self.phase = Phase::Seeking;
        self.push(Output::ForgetEarly);
        self.push(Output::Comfort(Comfort::Silence));
        self.watch_media(now);
        let step = self.search.start(now);
        self.take_step(now, step);
    }

    /// No worker takes the call that we placed.
    pub(super) fn let_callee_go(&mut self, now: Instant, reason: Reason) {
        let lost = self.attached_at.is_some();
        let outcome = if lost {
            Outcome::WorkerLost
        } else {
            Outcome::NoWorker
        };
        self.report(Report::Fallback(Rung::Hangup, reason));
        if self.transferring {
            self.stop_search();
            self.outcome = Some(outcome);
            self.phase = Phase::PlayingOut;
            return self.wait_for_transfer(now);
        }
        self.hang_up(now, outcome);
    }

    /// How a leg that we placed came to its end by itself.
    pub(super) const fn end_of_ours(&self, remote: bool) -> Outcome {
        match (remote, self.answered) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::Refused,
            (true, true) => Outcome::CalleeHungUp,
        }
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
