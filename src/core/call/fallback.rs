//! What a caller gets when no worker takes the call, step by step: the
//! announcement, then a blind transfer to the line's fallback number, then,
//! where the trunk refuses that, a call to the number that is joined with the
//! caller's, then BYE ([`crate::guide::call_queue`],
//! "When nobody takes the call").

use std::time::{Duration, Instant};

use super::transfer::{TransferProgress, TransferResult};
use super::{
    Call, CalleeInput, FALLBACK_LIMIT, FallbackStep, IdleSound, Output, PLAY_OUT_LIMIT, Phase,
    Reason, Report, Timer,
};
use crate::core::outcome::Outcome;
use crate::core::voice::StreamEnd;

/// How often a worker's transfer that outlived it is looked at.
const TRANSFER_LOOK: Duration = Duration::from_secs(1);

impl Call {
    /// Nobody takes the call: announcement first. Where it was the worker of a stream of TwiML, that goes on.
    pub(super) fn fall_back(&mut self, now: Instant, reason: Reason) {
        if self.script.has_call && self.phase == Phase::Seeking {
            return self.stream_over(now, StreamEnd::Lost);
        }
        if !matches!(self.phase, Phase::Seeking | Phase::Scripted) {
            return self.note_unexpected("end of the search");
        }
        if self.is_outbound {
            return self.let_callee_go(now, reason);
        }
        self.stop_search();
        self.answer();
        self.step_down(
            now,
            Phase::Announcing { reason },
            FallbackStep::Announcement,
            reason,
        );
        self.release_hold(now);
        // The longest file that is taken, with room.
        self.arm(Timer::Fallback, now + PLAY_OUT_LIMIT);
        self.push(Output::IdleSound(IdleSound::Announcement));
        self.push(Output::PlayOut);
    }

    /// What a call comes to for which no worker was found.
    pub(super) const fn outcome_without_worker(&self) -> Outcome {
        if self.had_worker {
            Outcome::WorkerLost
        } else {
            Outcome::NoWorker
        }
    }

    /// The announcement has been heard.
    pub(super) fn announced(&mut self, now: Instant, reason: Reason) {
        if self.transfer.is_under_way() {
            // BYE or another REFER would end the one under way: looked at again soon.
            return self.arm(Timer::Fallback, now + TRANSFER_LOOK);
        }
        let Some(number) = self.policy.fallback_number.clone() else {
            return self.give_up(now, Reason::NoFallbackNumber);
        };
        self.step_down(
            now,
            Phase::Referring { rings: false },
            FallbackStep::Transfer,
            reason,
        );
        self.push(Output::IdleSound(IdleSound::Ringback));
        self.push(Output::Transfer(number));
    }

    /// Progress of the fallback's REFER.
    pub(super) fn fallback_transfer(
        &mut self,
        now: Instant,
        progress: TransferProgress,
        rings: bool,
    ) {
        let rings = rings || progress.rings();
        self.phase = Phase::Referring { rings };
        match progress.result() {
            Some(TransferResult::Done) => self.hang_up(now, Outcome::NoWorker),
            // The trunk can transfer; the number rang and did not take the call.
            Some(TransferResult::Refused) if rings => {
                self.give_up(now, Reason::FallbackUnanswered);
            }
            Some(TransferResult::Refused) => self.call_out(now),
            None => {}
        }
    }

    /// The leg to the fallback number was answered, or is over.
    pub fn handle_callee(&mut self, now: Instant, input: CalleeInput) {
        match (self.phase, input) {
            (Phase::CallingOut, CalleeInput::Answered) => {
                self.phase = Phase::Joined;
                self.timers.set(Timer::Fallback, None);
                self.push(Output::IdleSound(IdleSound::Silence));
                self.push(Output::Join);
            }
            (Phase::CallingOut, CalleeInput::Ended) => {
                self.give_up(now, Reason::FallbackUnanswered);
            }
            (Phase::Joined, CalleeInput::Ended) => self.hang_up(now, Outcome::NoWorker),
            _ => self.note_unexpected("callee"),
        }
    }

    /// The present step took too long.
    pub(super) fn fallback_timeout(&mut self, now: Instant) {
        match self.phase {
            Phase::Announcing { reason } => self.announced(now, reason),
            // Accepted, and nothing heard since: the caller is still ours.
            Phase::Referring { rings: false } => self.call_out(now),
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
        self.step_down(now, Phase::CallingOut, FallbackStep::Bridge, why);
        self.push(Output::CallOut(number));
    }

    fn give_up(&mut self, now: Instant, reason: Reason) {
        self.report(Report::Fallback(FallbackStep::Hangup, reason));
        self.hang_up(now, Outcome::NoWorker);
    }

    fn step_down(&mut self, now: Instant, phase: Phase, step: FallbackStep, reason: Reason) {
        self.phase = phase;
        self.report(Report::Fallback(step, reason));
        self.arm(Timer::Fallback, now + FALLBACK_LIMIT);
    }
}

#[cfg(test)]
#[path = "fallback_tests.rs"]
mod tests;
