//! The life of one call: who is asked for what, and when it is over.
//!
//! A pure state machine. Every input is listed here by its source; each has
//! one handler. What is to be done comes out of [`Call::poll_output`], the
//! next deadline out of [`Call::poll_timeout`].
//!
//! | source | inputs |
//! |---|---|
//! | the bridge | `handle_start`, `handle_placed` or `handle_question`, then `handle_shutdown`, `handle_timeout` |
//! | the incoming callback | `handle_verdict` |
//! | the API | `handle_hangup_request`, `handle_transfer_request`, `handle_hold_request`, `check_digits` |
//! | the queue | `handle_job_pushed`, `handle_job_taken`, `handle_job_refused`, `handle_job_interrupted`, `handle_claim_held` |
//! | the worker | `handle_attached`, `handle_dial_failed`, `handle_worker` |
//! | SIP | `handle_progress`, `handle_established`, `handle_media`, `handle_transfer`, `handle_held`, `handle_leg_failed`, `handle_leg_ended` |
//! | media | `handle_rtp`, `handle_played_out` |
//! | SIP, the leg to the fallback number | `handle_callee` |
//!
//! Implements the life of a call of call-queue.md. Some parts have files of
//! their own: `search` decides which worker is asked next, `fallback` what the
//! caller gets when there is none, `outgoing` how a call that we place gets to
//! its answer, `requests` and `hold` what others may ask of it, `asking` what is
//! asked before a call is taken, `media` what is heard, and when nothing is.

mod asking;
mod fallback;
mod hold;
mod media;
mod outgoing;
mod requests;
mod search;
mod terms;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use self::asking::{Accepted, Verdict};
use self::hold::Hold;
pub use self::requests::Denied;
use self::search::{Search, Step};
pub use self::terms::{
    AnswerMode, Attempt, CallPolicy, CalleeInput, Comfort, Output, Reason, Report, Route, Rung,
    SearchPolicy, Timer, WorkerInput,
};
use crate::core::link::Direction;
use crate::core::outcome::Outcome;
use crate::core::private::Private;

/// The longest queue (10 minutes and a half) played out, with some room.
const PLAY_OUT_LIMIT: Duration = Duration::from_secs(640);
/// Longest silence of a trunk about a worker's transfer.
const TRANSFER_LIMIT: Duration = Duration::from_secs(60);
/// Longest wait for the end of a transfer, and for the fallback number to answer.
const FALLBACK_LIMIT: Duration = Duration::from_secs(30);
/// A BYE transaction gives up after 32 s (RFC 3261 timer F); past that the
/// leg counts as gone.
const ENDING_LIMIT: Duration = Duration::from_secs(35);

const TIMERS: [Timer; 9] = [
    Timer::Ring,
    Timer::Hold,
    Timer::Search,
    Timer::Duration,
    Timer::Media,
    Timer::PlayOut,
    Timer::Fallback,
    Timer::Transfer,
    Timer::Ending,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before `handle_start`.
    New,
    /// Somebody is asked whether the call is taken.
    Asking,
    /// It is not taken, and not refused.
    Ignored,
    /// We placed the call; it is not answered.
    Dialling,
    /// No worker: one is looked for.
    Seeking,
    /// A worker is attached.
    Streaming,
    /// The worker is done; its queued audio is played, then BYE.
    PlayingOut,
    /// The announcement is played.
    Announcing,
    /// REFER is sent as a rung of the fallback.
    Referring,
    /// The fallback number is called.
    CallingOut,
    /// The caller talks with the fallback number.
    Joined,
    /// BYE or a final status is sent.
    Ending,
    /// Nothing more happens.
    Over,
}

/// One call.
#[derive(Debug)]
pub struct Call {
    policy: CallPolicy,
    phase: Phase,
    /// We placed it.
    is_ours: bool,
    /// The callee rings, or has.
    rang: bool,
    answered: bool,
    /// The dialog stands (ACK seen).
    established: bool,
    /// The search for a worker begins with the ACK.
    waits_for_ack: bool,
    /// A worker's socket is attached, also while playing out.
    worker_open: bool,
    /// The search for a worker, while there is none.
    search: Search,
    /// When the present worker, or the last one, attached.
    attached_at: Option<Instant>,
    /// A REFER that is none of the fallback is under way.
    transferring: bool,
    /// Where to, while the dialog does not stand yet.
    early_transfer: Option<Private>,
    /// The worker's last words were heard: only its transfer is waited for.
    waits_for_transfer: bool,
    /// The target of the fallback's REFER rings.
    target_rings: bool,
    /// Why the caller gets no worker, once that is so.
    fallback_reason: Option<Reason>,
    last_rtp: Option<Instant>,
    /// Which way audio may flow, once media is up.
    direction: Option<Direction>,
    hold: Hold,
    /// Why we ended it, once we did.
    outcome: Option<Outcome>,
    deadlines: [Option<Instant>; TIMERS.len()],
    outputs: VecDeque<Output>,
}

impl Call {
    /// A call that has just come in, or is about to be placed.
    #[must_use]
    pub fn new(policy: CallPolicy) -> Self {
        Self {
            search: Search::new(policy.search),
            policy,
            phase: Phase::New,
            is_ours: false,
            rang: false,
            answered: false,
            established: false,
            waits_for_ack: false,
            worker_open: false,
            attached_at: None,
            transferring: false,
            early_transfer: None,
            waits_for_transfer: false,
            target_rings: false,
            fallback_reason: None,
            last_rtp: None,
            direction: None,
            hold: Hold::default(),
            outcome: None,
            deadlines: [None; TIMERS.len()],
            outputs: VecDeque::with_capacity(8),
        }
    }

    /// Next thing to do.
    pub fn poll_output(&mut self) -> Option<Output> {
        self.outputs.pop_front()
    }

    /// Next deadline, and which timer it belongs to.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, Timer)> {
        let pending = TIMERS
            .iter()
            .filter_map(|timer| self.deadlines[*timer as usize].map(|at| (at, *timer)));
        pending.min_by_key(|(at, _)| *at)
    }

    /// Whether messages of the worker still count.
    #[must_use]
    pub fn is_streaming(&self) -> bool {
        self.phase == Phase::Streaming
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
            return;
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
        for timer in TIMERS {
            if self.deadlines[timer as usize].is_some_and(|at| at <= now) {
                self.deadlines[timer as usize] = None;
                self.fire(now, timer);
            }
        }
    }

    fn fire(&mut self, now: Instant, timer: Timer) {
        match timer {
            Timer::Search => {
                let step = self.search.handle_timeout(now);
                self.take_step(now, step);
            }
            Timer::Duration => self.hang_up(now, Outcome::DurationLimit),
            Timer::Media => self.check_media(now),
            Timer::PlayOut => self.hang_up(now, Outcome::WorkerHungUp),
            Timer::Fallback => self.fallback_timeout(now),
            Timer::Transfer => self.transfer_timeout(),
            Timer::Hold => self.handle_held(now, 408),
            Timer::Ring => self.hang_up(now, Outcome::NoAnswer),
            Timer::Ending => self.finish(self.outcome.unwrap_or(Outcome::Failed)),
        }
    }

    // ---- the queue ----

    /// The job is in the queue.
    pub fn handle_job_pushed(&mut self) {
        if self.search.handle_pushed() {
            self.report(Report::Queued(self.search.reason()));
        }
    }

    /// The job is not in the queue any more: a worker has taken it.
    pub fn handle_job_taken(&mut self, now: Instant) {
        self.search.handle_taken(now);
        self.arm_search();
    }

    /// The job could not be queued: Redis is away.
    pub fn handle_job_refused(&mut self, now: Instant) {
        let step = self.search.handle_refused(now);
        self.take_step(now, step);
    }

    /// The connection to Redis broke in the moment of the push, and is being made
    /// again.
    pub fn handle_job_interrupted(&mut self, now: Instant) {
        let step = self.search.handle_interrupted(now);
        self.take_step(now, step);
    }

    /// [`Output::PushJob`] cannot be done: a worker of the attempt before it is
    /// in the midst of its handshake.
    pub fn handle_claim_held(&mut self, now: Instant) {
        self.search.handle_claim_held(now);
        self.arm_search();
    }

    // ---- the worker ----

    /// A worker's socket is up. The answer is whether it is wanted; if not,
    /// the driver closes it.
    pub fn handle_attached(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Seeking {
            return false;
        }
        if self.search.is_pushing() {
            // The worker was faster than Redis' answer to the push.
            self.report(Report::Queued(self.search.reason()));
        }
        self.search.stop();
        self.arm_search();
        self.phase = Phase::Streaming;
        self.worker_open = true;
        self.attached_at = Some(now);
        self.answer();
        self.push(Output::Comfort(Comfort::Silence));
        self.push(Output::StartStream);
        self.report(Report::WorkerAttached);
        true
    }

    /// The worker could not be dialled; tried again while the search lasts.
    pub fn handle_dial_failed(&mut self, now: Instant) {
        let step = self.search.handle_dial_failed(now);
        self.take_step(now, step);
    }

    /// Something came from the worker, or its socket went.
    pub fn handle_worker(&mut self, now: Instant, input: WorkerInput) {
        match input {
            WorkerInput::Hangup => self.play_out(now),
            WorkerInput::Closed => {
                self.worker_open = false;
                self.play_out(now);
            }
            WorkerInput::Lost => self.lose_worker(now),
            WorkerInput::Transfer(destination) => self.transfer(now, destination),
        }
    }

    fn lose_worker(&mut self, now: Instant) {
        self.worker_open = false;
        if self.phase != Phase::Streaming {
            return;
        }
        self.phase = Phase::Seeking;
        self.push(Output::DropStream);
        self.push(Output::Comfort(Comfort::Hold));
        self.report(Report::WorkerLost);
        let held = self.attached_at.map(|at| now.duration_since(at));
        let step = self.search.resume(now, held.unwrap_or_default());
        self.take_step(now, step);
    }

    fn play_out(&mut self, now: Instant) {
        if self.phase == Phase::Streaming {
            self.phase = Phase::PlayingOut;
            self.release_hold(now);
            self.arm(Timer::PlayOut, now + PLAY_OUT_LIMIT);
            self.push(Output::PlayOut);
        }
    }

    // ---- SIP ----

    /// The caller acknowledged our 200, or we the callee's.
    pub fn handle_established(&mut self, now: Instant) {
        if self.established || self.phase == Phase::Over {
            return;
        }
        self.established = true;
        self.report(Report::Answered);
        if let Some(limit) = self.policy.max_duration {
            self.arm(Timer::Duration, now + limit);
        }
        self.acknowledged(now);
        self.callee_answered(now);
        self.transfer_at_last(now);
    }

    /// The leg is over. `remote`: the other side ended it.
    pub fn handle_leg_ended(&mut self, remote: bool) {
        let outcome = match (self.outcome, self.phase) {
            (_, Phase::Over) => return,
            // The trunk's BYE completes the transfer, whatever was settled before.
            (_, Phase::PlayingOut | Phase::Announcing) if remote && self.is_referred() => {
                Outcome::Transferred
            }
            (Some(decided), _) => decided,
            (None, Phase::PlayingOut) => Outcome::WorkerHungUp,
            (None, _) if remote && self.is_referred() => Outcome::Transferred,
            (None, _) if self.is_ours => self.end_of_ours(remote),
            (None, _) if !remote => Outcome::Failed,
            (None, _) if self.attached_at.is_some() => Outcome::CallerHungUp,
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
        if !self.answered {
            self.answered = true;
            self.push(Output::Answer(200));
        }
    }

    /// Does what the search for a worker asks for.
    fn take_step(&mut self, now: Instant, step: Step) {
        match step {
            Step::Wait => {}
            Step::Push(attempt) => self.push(Output::PushJob(attempt)),
            Step::Dial(attempt) => self.push(Output::Dial(attempt)),
            Step::GiveUp(reason) => self.fall_back(now, reason),
        }
        self.arm_search();
    }

    fn arm_search(&mut self) {
        self.deadlines[Timer::Search as usize] = self.search.poll_timeout();
    }

    /// Ends the leg; an outcome that was settled before stays.
    fn hang_up(&mut self, now: Instant, why: Outcome) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        self.stop_search();
        self.drop_callee();
        self.outcome.get_or_insert(why);
        self.phase = Phase::Ending;
        self.deadlines = [None; TIMERS.len()];
        self.arm(Timer::Ending, now + ENDING_LIMIT);
        // 200 may wait for ICE: until its ACK the caller can still be refused.
        self.push(Output::Hangup(match (self.established, why) {
            (true, _) => 200,
            (false, _) if self.is_ours => 487,
            (false, Outcome::ApiHungUp) => 603,
            (false, _) => 480,
        }));
    }

    /// Nobody is looked for any more.
    fn stop_search(&mut self) {
        if self.search.stop() {
            self.push(Output::StopSearch);
        }
        self.arm_search();
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.phase == Phase::Over {
            return;
        }
        self.stop_search();
        self.drop_callee();
        self.phase = Phase::Over;
        self.deadlines = [None; TIMERS.len()];
        if self.worker_open {
            self.worker_open = false;
            self.push(Output::StopStream);
        }
        self.push(Output::Finished(outcome));
    }

    fn report(&mut self, report: Report) {
        self.push(Output::Report(report));
    }

    fn push(&mut self, output: Output) {
        self.outputs.push_back(output);
    }

    fn arm(&mut self, timer: Timer, at: Instant) {
        self.deadlines[timer as usize] = Some(at);
    }

    fn disarm(&mut self, timer: Timer) {
        self.deadlines[timer as usize] = None;
    }
}

#[cfg(test)]
#[path = "call_tests.rs"]
mod tests;
