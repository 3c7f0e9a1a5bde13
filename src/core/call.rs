//! The life of one call: who is asked for what, and when it is over.
//!
//! A pure state machine. Every input is listed here by its source; each has
//! one handler. What is to be done comes out of [`Call::poll_output`], the
//! next deadline out of [`Call::poll_timeout`].
//!
//! | source | inputs |
//! |---|---|
//! | the bridge | `handle_start`, `handle_shutdown`, `handle_timeout` |
//! | the queue | `handle_job_pushed`, `handle_job_refused` |
//! | the worker | `handle_attached`, `handle_dial_failed`, `handle_worker` |
//! | SIP | `handle_established`, `handle_media`, `handle_transfer`, `handle_leg_failed`, `handle_leg_ended` |
//! | media | `handle_rtp`, `handle_played_out` |
//!
//! Implements the life of a call of call-queue.md, steps 1 to 3, 6 and 7.
//! Redelivery and mid-call failover (steps 4 and 5) are not here yet: a lost
//! worker leads to the fallback.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

pub use super::call_terms::{
    AnswerMode, CallPolicy, Comfort, Output, Report, Route, Timer, WorkerInput,
};
use crate::core::link::Direction;
use crate::core::outcome::Outcome;
use crate::core::private::Private;

/// Pauses between attempts to dial a worker in push mode; the last repeats
/// until the worker timeout.
const REDIAL_PAUSES: [Duration; 4] = [
    Duration::from_millis(250),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
];
/// The longest queue (10 minutes and a half) played out, with some room.
const PLAY_OUT_LIMIT: Duration = Duration::from_secs(640);
/// Longest fallback announcement, and longest wait for the end of a transfer.
const FALLBACK_LIMIT: Duration = Duration::from_secs(30);
/// A BYE transaction gives up after 32 s (RFC 3261 timer F); past that the
/// leg counts as gone.
const ENDING_LIMIT: Duration = Duration::from_secs(35);

const TIMERS: [Timer; 7] = [
    Timer::Worker,
    Timer::Redial,
    Timer::Duration,
    Timer::Media,
    Timer::PlayOut,
    Timer::Fallback,
    Timer::Ending,
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Before `handle_start`.
    New,
    /// No worker yet.
    Waiting,
    /// A worker is attached.
    Streaming,
    /// The worker is done; its queued audio is played, then BYE.
    PlayingOut,
    /// The announcement is played.
    Announcing,
    /// REFER is sent as the last rung of the fallback.
    FallbackTransfer,
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
    answered: bool,
    /// The dialog stands (ACK seen).
    established: bool,
    /// A worker's socket is attached, also while playing out.
    worker_open: bool,
    /// A job of ours may be in the queue, or a worker may hold its token.
    job_out: bool,
    /// The job is known to have been in the queue.
    queued: bool,
    /// A REFER of the worker is under way.
    transferring: bool,
    last_rtp: Option<Instant>,
    dials: usize,
    /// Why we ended it, once we did.
    outcome: Option<Outcome>,
    deadlines: [Option<Instant>; TIMERS.len()],
    outputs: VecDeque<Output>,
}

impl Call {
    /// A call that has just come in.
    #[must_use]
    pub fn new(policy: CallPolicy) -> Self {
        Self {
            policy,
            phase: Phase::New,
            answered: false,
            established: false,
            worker_open: false,
            job_out: false,
            queued: false,
            transferring: false,
            last_rtp: None,
            dials: 0,
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
        self.phase = Phase::Waiting;
        self.report(Report::Ringing);
        self.arm(Timer::Worker, now + self.policy.worker_timeout);
        match self.policy.answer {
            AnswerMode::Immediate => self.answer(),
            AnswerMode::OnWorker => self.push(Output::Answer(180)),
        }
        self.push(Output::Comfort(Comfort::Waiting));
        match self.policy.route {
            Route::Queue | Route::QueueThenDial => {
                self.job_out = true;
                self.push(Output::PushJob);
            }
            Route::Dial => self.dial(),
        }
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
            Timer::Worker => self.fall_back(now, Outcome::NoWorker),
            Timer::Redial => self.dial(),
            Timer::Duration => self.hang_up(now, Outcome::DurationLimit),
            Timer::Media => self.check_media(now),
            Timer::PlayOut => self.hang_up(now, Outcome::WorkerHungUp),
            Timer::Fallback if self.phase == Phase::Announcing => self.next_rung(now),
            Timer::Fallback => self.hang_up(now, Outcome::NoWorker),
            Timer::Ending => self.finish(self.outcome.unwrap_or(Outcome::Failed)),
        }
    }

    // ---- the queue ----

    /// The job is in the queue.
    pub fn handle_job_pushed(&mut self) {
        if self.phase == Phase::Waiting {
            self.report_queued();
        }
    }

    /// The job could not be queued: Redis is away.
    pub fn handle_job_refused(&mut self, now: Instant) {
        self.job_out = false;
        if self.phase != Phase::Waiting {
            return;
        }
        match self.policy.route {
            Route::QueueThenDial => self.dial(),
            Route::Queue | Route::Dial => self.fall_back(now, Outcome::NoWorker),
        }
    }

    // ---- the worker ----

    /// A worker's socket is up. The answer is whether it is wanted; if not,
    /// the driver closes it.
    pub fn handle_attached(&mut self) -> bool {
        if self.phase != Phase::Waiting {
            return false;
        }
        if self.job_out {
            // The worker was faster than Redis' answer to the push.
            self.report_queued();
        }
        self.phase = Phase::Streaming;
        self.worker_open = true;
        self.job_out = false;
        self.disarm(Timer::Worker);
        self.disarm(Timer::Redial);
        self.answer();
        self.push(Output::Comfort(Comfort::Silence));
        self.push(Output::StartStream);
        self.report(Report::WorkerAttached);
        true
    }

    /// The worker could not be dialled; tried again until the worker timeout.
    pub fn handle_dial_failed(&mut self, now: Instant) {
        if self.phase != Phase::Waiting {
            return;
        }
        let pause = REDIAL_PAUSES[self.dials.saturating_sub(1).min(REDIAL_PAUSES.len() - 1)];
        self.arm(Timer::Redial, now + pause);
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
            WorkerInput::Transfer(destination) => self.transfer(destination),
        }
    }

    fn lose_worker(&mut self, now: Instant) {
        self.worker_open = false;
        if self.phase == Phase::Streaming {
            self.push(Output::StopStream);
            self.report(Report::WorkerLost);
            self.fall_back(now, Outcome::WorkerLost);
        }
    }

    fn transfer(&mut self, destination: Private) {
        if self.phase == Phase::Streaming && !self.transferring {
            self.transferring = true;
            self.push(Output::Transfer(destination));
        }
    }

    fn play_out(&mut self, now: Instant) {
        if self.phase == Phase::Streaming {
            self.phase = Phase::PlayingOut;
            self.arm(Timer::PlayOut, now + PLAY_OUT_LIMIT);
            self.push(Output::PlayOut);
        }
    }

    // ---- SIP ----

    /// The caller acknowledged our 200.
    pub fn handle_established(&mut self, now: Instant) {
        if self.established || self.phase == Phase::Over {
            return;
        }
        self.established = true;
        self.report(Report::Answered);
        if let Some(limit) = self.policy.max_duration {
            self.arm(Timer::Duration, now + limit);
        }
    }

    /// Media is up or changed its direction.
    pub fn handle_media(&mut self, now: Instant, direction: Direction) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        self.last_rtp = Some(now);
        match self.policy.media_timeout {
            Some(limit) if !direction.is_hold() => self.arm(Timer::Media, now + limit),
            _ => self.disarm(Timer::Media),
        }
    }

    /// Progress of a REFER.
    pub fn handle_transfer(&mut self, now: Instant, status: u16, last: bool) {
        let done = (200..300).contains(&status) && last;
        let refused = status >= 300 || (last && !done);
        match self.phase {
            Phase::FallbackTransfer if done || refused => self.hang_up(now, Outcome::NoWorker),
            Phase::Streaming | Phase::PlayingOut if self.transferring && done => {
                self.hang_up(now, Outcome::Transferred);
            }
            // The worker goes on with the caller; it may try another number.
            Phase::Streaming if refused => self.transferring = false,
            Phase::PlayingOut if refused => {
                self.transferring = false;
                self.push(Output::PlayOut);
            }
            _ => {}
        }
    }

    /// The leg is over. `remote`: the caller ended it.
    pub fn handle_leg_ended(&mut self, remote: bool) {
        let outcome = match (self.outcome, self.phase) {
            (_, Phase::Over) => return,
            (Some(decided), _) => decided,
            (None, Phase::PlayingOut) => Outcome::WorkerHungUp,
            (None, _) if self.transferring && remote => Outcome::Transferred,
            (None, _) if !remote => Outcome::Failed,
            (None, Phase::Streaming) => Outcome::CallerHungUp,
            (None, _) => Outcome::Abandoned,
        };
        self.finish(outcome);
    }

    /// SIP or media cannot go on: end the leg.
    pub fn handle_leg_failed(&mut self, now: Instant) {
        self.hang_up(now, Outcome::Failed);
    }

    // ---- media ----

    /// A packet came from the caller. Cheap: called 50 times a second.
    pub fn handle_rtp(&mut self, now: Instant) {
        self.last_rtp = Some(now);
    }

    /// What was asked for by [`Output::PlayOut`] has been heard.
    pub fn handle_played_out(&mut self, now: Instant) {
        match self.phase {
            // BYE before the answer to REFER would end the transfer too.
            Phase::PlayingOut if self.transferring => {
                self.arm(Timer::PlayOut, now + FALLBACK_LIMIT);
            }
            Phase::PlayingOut => self.hang_up(now, Outcome::WorkerHungUp),
            Phase::Announcing => self.next_rung(now),
            _ => {}
        }
    }

    fn check_media(&mut self, now: Instant) {
        let (Some(last), Some(limit)) = (self.last_rtp, self.policy.media_timeout) else {
            return;
        };
        let due = last + limit;
        if due > now {
            self.arm(Timer::Media, due);
        } else {
            self.hang_up(now, Outcome::MediaTimeout);
        }
    }

    // ---- steps ----

    fn answer(&mut self) {
        if !self.answered {
            self.answered = true;
            self.push(Output::Answer(200));
        }
    }

    fn dial(&mut self) {
        if self.phase == Phase::Waiting {
            self.dials += 1;
            self.push(Output::Dial);
        }
    }

    /// Nobody takes the call: announcement first.
    fn fall_back(&mut self, now: Instant, why: Outcome) {
        if !matches!(self.phase, Phase::Waiting | Phase::Streaming) {
            return;
        }
        self.withdraw();
        self.outcome = Some(why);
        self.phase = Phase::Announcing;
        self.report(Report::Fallback);
        self.answer();
        self.push(Output::Comfort(Comfort::Announcement));
        self.push(Output::PlayOut);
        self.arm(Timer::Fallback, now + FALLBACK_LIMIT);
    }

    /// The announcement has been heard: transfer, or the end.
    fn next_rung(&mut self, now: Instant) {
        let Some(number) = self.policy.fallback_number.clone() else {
            return self.hang_up(now, Outcome::NoWorker);
        };
        self.phase = Phase::FallbackTransfer;
        self.arm(Timer::Fallback, now + FALLBACK_LIMIT);
        self.push(Output::Comfort(Comfort::Ringback));
        self.push(Output::Transfer(number));
    }

    /// Ends the leg; an outcome that was settled before stays.
    fn hang_up(&mut self, now: Instant, why: Outcome) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        self.withdraw();
        self.outcome.get_or_insert(why);
        self.phase = Phase::Ending;
        self.deadlines = [None; TIMERS.len()];
        self.arm(Timer::Ending, now + ENDING_LIMIT);
        self.push(Output::Hangup(if self.answered { 200 } else { 480 }));
    }

    fn withdraw(&mut self) {
        self.disarm(Timer::Worker);
        self.disarm(Timer::Redial);
        if self.job_out {
            self.job_out = false;
            self.push(Output::WithdrawJob);
        }
    }

    fn finish(&mut self, outcome: Outcome) {
        if self.phase == Phase::Over {
            return;
        }
        self.withdraw();
        self.phase = Phase::Over;
        self.deadlines = [None; TIMERS.len()];
        if self.worker_open {
            self.worker_open = false;
            self.push(Output::StopStream);
        }
        self.push(Output::Finished(outcome));
    }

    fn report_queued(&mut self) {
        if !self.queued {
            self.queued = true;
            self.report(Report::Queued);
        }
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
