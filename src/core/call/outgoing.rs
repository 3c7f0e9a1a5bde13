//! A call that we placed, up to its answer: nobody is looked for before the
//! callee is there. From then on it is a call like any other, but that there is
//! no fallback: whoever was called by nobody is not handed on.

use std::time::{Duration, Instant};

use super::{Call, FallbackStep, IdleSound, Output, Phase, PlayedOut, Reason, Report, Timer};
use crate::core::outcome::Outcome;

impl Call {
    /// The INVITE is out. The callee may ring for so long.
    pub fn handle_placed(&mut self, now: Instant, ring_timeout: Duration) {
        if self.phase != Phase::New {
            return self.note_unexpected("placed");
        }
        self.is_outbound = true;
        self.phase = Phase::Dialling { rang: false };
        self.arm(Timer::Ring, now + ring_timeout);
        self.report(Report::Initiated);
    }

    /// A provisional response of the callee.
    pub fn handle_progress(&mut self, status: u16) {
        match &mut self.phase {
            Phase::Dialling { rang } if (180..200).contains(&status) => {
                if !std::mem::replace(rang, true) {
                    self.report(Report::Ringing);
                }
            }
            Phase::Dialling { .. } => {}
            _ => self.note_unexpected("progress"),
        }
    }

    /// The callee took the call: now a worker is looked for, in silence, or TwiML gets it.
    pub(super) fn callee_answered(&mut self, now: Instant) {
        self.timers.set(Timer::Ring, None);
        self.phase = Phase::Scripted;
        self.push(Output::ForgetEarly);
        self.push(Output::IdleSound(IdleSound::Silence));
        if self.script.has_call {
            return self.script_established(now);
        }
        self.watch_media(now);
        self.start_search(now);
    }

    /// No worker takes the call that we placed.
    pub(super) fn let_callee_go(&mut self, now: Instant, reason: Reason) {
        let outcome = self.outcome_without_worker();
        self.report(Report::Fallback(FallbackStep::Hangup, reason));
        if self.transfer.is_under_way() {
            self.stop_search();
            return self.wait_for_transfer(now, Some(outcome), PlayedOut::Bye);
        }
        self.hang_up(now, outcome);
    }

    /// How a leg that we placed came to its end by itself.
    pub(super) const fn end_of_outbound(&self, remote: bool) -> Outcome {
        match (remote, self.dialog.is_answered()) {
            (false, _) => Outcome::Failed,
            (true, false) => Outcome::Refused,
            (true, true) => Outcome::CalleeHungUp,
        }
    }
}

#[cfg(test)]
#[path = "outgoing_tests.rs"]
mod tests;
