//! The life of one call: who is asked for what, and when it is over.
//!
//! A pure state machine. Every input is listed here by its source; each has
//! one handler. What is to be done comes out of [`Call::poll_output`], the
//! next deadline out of [`Call::poll_timeout`].
//!
//! | source | inputs |
//! |---|---|
//! | the bridge | `handle_start`, `handle_placed`, `handle_question` or `handle_voice_start`, then `handle_shutdown`, `handle_timeout` |
//! | the incoming callback | `handle_decision` |
//! | TwiML | `handle_voice_start`, `handle_voice_takeover`, then `handle_voice_answer`, `handle_voice_refusal`, `handle_voice_stream`, `handle_voice_stream_closed`, `handle_voice_end`, `handle_voice_fall_back`; of a leg of `<Dial>` `handle_dial_over` |
//! | the API | `handle_hangup_request`, `handle_transfer_request`, `handle_hold_request`, `check_digits` |
//! | the queue | `handle_job_pushed`, `handle_job_taken`, `handle_job_refused`, `handle_job_interrupted`, `handle_claim_held` |
//! | the worker | `handle_attached`, `handle_dial_failed`, `handle_worker` |
//! | SIP | `handle_progress`, `handle_established`, `handle_media`, `handle_transfer`, `handle_held`, `handle_leg_failed`, `handle_leg_ended` |
//! | media | `handle_rtp`, `handle_played_out` |
//! | SIP, the leg to the fallback number | `handle_callee` |
//!
//! Implements the life of a call of [`crate::guide::call_queue`]. The phase holds
//! what is known only in it; what outlives a phase is in [`Call`]. An input that the phase has
//! no use for changes nothing and comes out of [`Call::take_unexpected`].
//!
//! | file | what it holds |
//! |---|---|
//! | `phase` | the phases, and how far the INVITE has got |
//! | `decision` | what is asked before a call is taken |
//! | `outgoing` | a call that we place, up to its answer |
//! | `worker`, `dispatch` | the worker; which one is asked next |
//! | `fallback` | what the caller gets when there is none |
//! | `requests`, `hold`, `transfer` | what others may ask of a call |
//! | `scripted` | a call that TwiML has |
//! | `media` | what is heard, and when nothing is |
//! | `terms`, `timers` | the words of it; its deadlines |

mod decision;
mod dispatch;
mod fallback;
mod hold;
mod media;
mod outgoing;
mod phase;
mod requests;
mod scripted;
mod terms;
mod timers;
mod transfer;
mod worker;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use self::decision::{Accepted, CallDecision};
use self::dispatch::WorkerDispatch;
use self::hold::Hold;
use self::media::MediaWatch;
pub use self::phase::Unexpected;
use self::phase::{Dialog, Phase, PlayedOut};
pub use self::requests::Denied;
use self::scripted::Script;
pub use self::terms::{
    AnswerMode, Attempt, CallPolicy, CalleeInput, FallbackStep, IdleSound, Output, Reason, Report,
    SearchPolicy, Timer, WorkerInput, WorkerRoute,
};
use self::timers::Timers;
use self::transfer::Transfer;
use crate::core::outcome::Outcome;

/// The longest queue (10 minutes and a half) played out, with some room.
const PLAY_OUT_LIMIT: Duration = Duration::from_secs(640);
/// Longest silence of a trunk about a worker's transfer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the end of a transfer, and for the fallback number to answer.
const FALLBACK_LIMIT: Duration = Duration::from_secs(30);
/// A BYE transaction gives up after 32 s (RFC 3261 timer F); past that the
/// leg counts as gone.
const ENDING_LIMIT: Duration = Duration::from_secs(35);

/// One call.
#[derive(Debug)]
pub struct Call {
    policy: CallPolicy,
    phase: Phase,
    /// We placed it.
    is_outbound: bool,
    dialog: Dialog,
    /// The search for a worker; it outlives each worker, whose loss resumes it.
    search: WorkerDispatch,
    /// A worker has been attached, now or before.
    had_worker: bool,
    /// A worker's socket is up, also while its last audio is played.
    is_worker_open: bool,
    /// A REFER that is none of the fallback.
    transfer: Transfer,
    script: Script,
    media: MediaWatch,
    hold: Hold,
    timers: Timers,
    outputs: VecDeque<Output>,
    unexpected: Option<Unexpected>,
}

impl Call {
    /// A call that has just come in, or is about to be placed.
    #[must_use]
    pub fn new(policy: CallPolicy) -> Self {
        Self {
            search: WorkerDispatch::new(policy.search),
            policy,
            phase: Phase::New,
            is_outbound: false,
            dialog: Dialog::Early,
            had_worker: false,
            is_worker_open: false,
            transfer: Transfer::default(),
            script: Script::default(),
            media: MediaWatch::default(),
            hold: Hold::default(),
            timers: Timers::default(),
            outputs: VecDeque::with_capacity(8),
            unexpected: None,
        }
    }

    /// Next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Next deadline, and which timer it belongs to.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        self.timers.next()
    }

    /// The last input that the call had no use for, once: to be counted.
    pub fn take_unexpected(&mut self) -> Option<Unexpected> {
        self.unexpected.take()
    }

    /// Whether messages of the worker still count.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        matches!(self.phase, Phase::Streaming { .. })
    }

    /// Whether our 200 is out, or the callee's is here.
    #[must_use]
    pub const fn is_answered(&self) -> bool {
        self.dialog.is_answered()
    }

    /// Whether the call is over, or told to end.
    #[must_use]
    pub const fn is_ending(&self) -> bool {
        self.phase.is_ending()
    }

    /// Whether the call is over.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    // ---- the bridge ----

    /// The INVITE was admitted: ring or answer, and ask for a worker.
    pub fn handle_start(&mut self, now: Instant) {
        if self.phase != Phase::New {
            return self.note_unexpected("start");
        }
        self.report(Report::Ringing);
        self.begin(now);
    }

    /// The bridge goes down and has waited long enough.
    pub fn handle_shutdown(&mut self, now: Instant) {
        self.hang_up(now, Outcome::Shutdown);
    }

    /// The deadline of [`Call::poll_timeout`] is here.
    pub fn handle_timeout(&mut self, now: Instant) {
        for timer in timers::ALL {
            if self.timers.take_due(timer, now) {
                self.fire(now, timer);
            }
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::WorkerDispatch => {
                let step = self.search.handle_timeout(now);
                self.take_step(now, "search timeout", step);
            }
            Timer::Duration => self.hang_up(now, Outcome::DurationLimit),
            Timer::Media => self.check_media(now),
            Timer::PlayOut => self.end_play_out(now),
            Timer::Fallback => self.fallback_timeout(now),
            Timer::Transfer => self.transfer_timeout(),
            Timer::Hold => self.handle_held(now, 408),
            Timer::Ring if self.phase == Phase::Yielding => self.take_caller(now),
            Timer::Ring => self.hang_up(now, Outcome::NoAnswer),
            Timer::Ending => self.finish(self.settled().unwrap_or(Outcome::Failed)),
        }
    }

    // ---- SIP ----

    /// The caller acknowledged our 200, or we the callee's.
    pub fn handle_established(&mut self, now: Instant) {
        if self.dialog.is_confirmed() || self.phase == Phase::Over {
            return self.note_unexpected("established");
        }
        self.dialog = Dialog::Confirmed;
        self.report(Report::Answered);
        if let Some(limit) = self.policy.max_duration {
            self.arm(Timer::Duration, now + limit);
        }
        match self.phase {
            Phase::AwaitingAck => self.start_search(now),
            Phase::Dialling { .. } => self.callee_answered(now),
            Phase::Scripted => self.script_established(now),
            _ => {}
        }
        self.send_early_transfer(now);
    }

    /// The leg is over. `remote`: the other side ended it.
    pub fn handle_leg_ended(&mut self, remote: bool) {
        if self.phase == Phase::Over {
            return self.note_unexpected("leg ended");
        }
        let is_transferred = remote && self.transfer.is_sent();
        let outcome = match (self.settled(), self.phase) {
            // The trunk's BYE completes the transfer, whatever was settled before.
            (_, Phase::PlayingOut { .. } | Phase::Announcing { .. }) if is_transferred => {
                Outcome::Transferred
            }
            (Some(settled), _) => settled,
            (None, Phase::PlayingOut { .. }) if !self.returns_to_script() => Outcome::WorkerHungUp,
            (None, _) if is_transferred => Outcome::Transferred,
            (None, _) if self.is_outbound => self.end_of_outbound(remote),
            (None, _) if !remote => Outcome::Failed,
            (None, _) if self.had_worker || self.is_served() => Outcome::CallerHungUp,
            (None, _) => Outcome::Abandoned,
        };
        self.finish(outcome);
    }

    /// SIP or media cannot go on: end the leg.
    pub fn handle_leg_failed(&mut self, now: Instant) {
        self.hang_up(now, Outcome::Failed);
    }

    // ---- steps ----

    fn answer(&mut self) {
        if !self.dialog.is_answered() {
            self.dialog = Dialog::Answered;
            self.push(Output::Answer(200));
        }
    }

    /// Whether TwiML has talked to the caller.
    const fn is_served(&self) -> bool {
        self.script.has_call && self.dialog.is_answered()
    }

    /// The outcome, where the phase knows it whatever ends the leg.
    fn settled(&self) -> Option<Outcome> {
        match self.phase {
            Phase::PlayingOut { settled, .. } => settled,
            Phase::Announcing { .. }
            | Phase::Referring { .. }
            | Phase::CallingOut
            | Phase::Joined => Some(self.outcome_without_worker()),
            Phase::Ending(outcome) => Some(outcome),
            _ => None,
        }
    }

    /// Ends the leg; an outcome that was settled before stays.
    fn hang_up(&mut self, now: Instant, why: Outcome) {
        // 200 may wait for ICE: until its ACK the caller can still be refused.
        let status = match (self.dialog.is_confirmed(), why) {
            (true, _) => 200,
            (false, _) if self.is_outbound => 487,
            (false, Outcome::ApiHungUp) => 603,
            (false, _) => 480,
        };
        self.end(now, self.settled().unwrap_or(why), status);
    }

    /// Ends the leg, by this status where the INVITE has no final answer yet.
    fn end(&mut self, now: Instant, outcome: Outcome, status: u16) {
        if self.phase.is_ending() {
            return;
        }
        self.stop_search();
        self.drop_callee();
        self.phase = Phase::Ending(outcome);
        self.timers.stop_all();
        self.arm(Timer::Ending, now + ENDING_LIMIT);
        self.push(Output::Hangup(status));
    }

    fn finish(&mut self, outcome: Outcome) {
        self.stop_search();
        self.drop_callee();
        self.phase = Phase::Over;
        self.timers.stop_all();
        if std::mem::take(&mut self.is_worker_open) {
            self.push(Output::StopStream);
        }
        self.push(Output::Finished(outcome));
    }

    fn note_unexpected(&mut self, input: &'static str) {
        let phase = self.phase.as_str();
        self.unexpected = Some(Unexpected { input, phase });
    }

    fn report(&mut self, report: Report) {
        self.push(Output::Report(report));
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn arm(&mut self, timer: Timer, at: Instant) {
        self.timers.set(timer, Some(at));
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "scripted_tests.rs"]
mod scripted_tests;

#[cfg(test)]
#[path = "yielding_tests.rs"]
mod yielding_tests;
