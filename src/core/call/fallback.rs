//! What a caller gets when no worker takes the call, rung by rung: the
//! announcement, then a blind transfer to the line's fallback number, then,
//! where the trunk refuses that, a call to the number that is joined with the
//! caller's, then BYE (call-queue.md, "Life of a call", 6).

use std::time::{Duration, Instant};

use super::{
    Call, CalleeInput, Comfort, FALLBACK_LIMIT, Output, PLAY_OUT_LIMIT, Phase, Reason, Report,
    Rung, Timer,
};
use crate::core::outcome::Outcome;

/// How often a worker's transfer that outlived it is looked at.
const TRANSFER_LOOK: Duration = Duration::from_secs(1);

impl Call {
    /// Nobody takes the call: announcement first.
    pub(super) fn fall_back(&mut self, now: Instant, reason: Reason) {
        if self.phase != Phase::Seeking {
            return;
        }
        if self.is_ours {
            return self.let_callee_go(now, reason);
        }
        self.stop_search();
        let lost = self.attached_at.is_some();
        self.outcome = Some(if lost {
            Outcome::WorkerLost
        } else {
            Outcome::NoWorker
        });
        self.fallback_reason = Some(reason);
        self.answer();
        self.climb_down(now, Phase::Announcing, Rung::Announcement, reason);
        self.release_hold(now);
        // The longest file that is taken, with room.
        self.arm(Timer::Fallback, now + PLAY_OUT_LIMIT);
        self.push(Output::Comfort(Comfort::Announcement));
        self.push(Output::PlayOut);
    }

    /// The announcement has been heard.
    pub(super) fn announced(&mut self, now: Instant) {
        if self.transferring {
            // BYE or another REFER would end the one under way: looked at again soon.
            return self.arm(Timer::Fallback, now + TRANSFER_LOOK);
        }
        let Some(number) = self.policy.fallback_number.clone() else {
            return self.give_up(now, Reason::NoFallbackNumber);
        };
        let why = self.fallback_reason.unwrap_or(Reason::WorkerTimeout);
        self.climb_down(now, Phase::Referring, Rung::Transfer, why);
        self.push(Output::Comfort(Comfort::Ringback));
        self.push(Output::Transfer(number));
    }

    /// Progress of the fallback's REFER.
    pub(super) fn fallback_transfer(
        &mut self,
        now: Instant,
        status: u16,
        done: bool,
        refused: bool,
    ) {
        self.target_rings |= (180..200).contains(&status);
        if done {
            self.hang_up(now, Outcome::NoWorker);
        } else if refused && self.target_rings {
            // The trunk can transfer; the number rang and did not take the call.
            self.give_up(now, Reason::FallbackUnanswered);
        } else if refused {
            self.call_out(now);
        }
    }

    /// The leg to the fallback number was answered, or is over.
    pub fn handle_callee(&mut self, now: Instant, input: CalleeInput) {
        match (self.phase, input) {
            (Phase::CallingOut, CalleeInput::Answered) => {
                self.phase = Phase::Joined;
                self.disarm(Timer::Fallback);
                self.push(Output::Comfort(Comfort::Silence));
                self.push(Output::Join);
            }
            (Phase::CallingOut, CalleeInput::Ended) => {
                self.give_up(now, Reason::FallbackUnanswered);
            }
            (Phase::Joined, CalleeInput::Ended) => self.hang_up(now, Outcome::NoWorker),
            _ => {}
        }
    }

    /// The present rung took too long.
    pub(super) fn fallback_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Announcing => self.announced(now),
            // Accepted, and nothing heard since: the caller is still ours.
            Phase::Referring if !self.target_rings => self.call_out(now),
            _ => self.give_up(now, Reason::FallbackUnanswered),
        }
    }

    /// The leg to the fallback number goes with the call.
    pub(super) fn drop_callee(&mut self) {
        if matches!(self.phase, Phase::CallingOut | Phase::Joined) {
            self.push(Output::DropCallee);
        }
    }

    fn call_out(&mut self, now: Instant) {
        let Some(number) = self.policy.fallback_number.clone() else {
            return self.give_up(now, Reason::NoFallbackNumber);
        };
        let why = Reason::TransferRefused;
        self.climb_down(now, Phase::CallingOut, Rung::Bridge, why);
        self.push(Output::CallOut(number));
    }

    fn give_up(&mut self, now: Instant, reason: Reason) {
        self.report(Report::Fallback(Rung::Hangup, reason));
        self.hang_up(now, Outcome::NoWorker);
    }

    fn climb_down(&mut self, now: Instant, phase: Phase, rung: Rung, reason: Reason) {
        self.phase = phase;
        self.report(Report::Fallback(rung, reason));
        self.arm(Timer::Fallback, now + FALLBACK_LIMIT);
    }
}

#[cfg(test)]
#[path = "fallback_tests.rs"]
mod tests;
