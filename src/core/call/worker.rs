//! The worker of a call: looked for, attached, lost, done.

use std::time::Instant;

use super::dispatch::Step;
use super::{
    AnswerMode, Call, Dialog, IdleSound, Output, PLAY_OUT_LIMIT, Phase, PlayedOut, Report, Timer,
    WorkerInput, WorkerRoute,
};

impl Call {
    // ---- the queue ----

    /// The job is in the queue.
    pub fn handle_job_pushed(&mut self) {
        if !self.search.handle_pushed() {
            return self.note_unexpected("job pushed");
        }
        self.report(Report::Queued(self.search.reason()));
    }

    /// The job is not in the queue any more: a worker has taken it.
    pub fn handle_job_taken(&mut self, now: Instant) {
        if !self.search.handle_taken(now) {
            return self.note_unexpected("job taken");
        }
        self.arm_search();
    }

    /// The job could not be queued: Redis is away.
    pub fn handle_job_refused(&mut self, now: Instant) {
        let step = self.search.handle_refused(now);
        self.take_step(now, "job refused", step);
    }

    /// The connection to Redis broke in the moment of the push, and is being made
    /// again.
    pub fn handle_job_interrupted(&mut self, now: Instant) {
        let step = self.search.handle_interrupted(now);
        self.take_step(now, "job interrupted", step);
    }

    /// [`Output::PushJob`] cannot be done: a worker of the attempt before it is
    /// in the midst of its handshake.
    pub fn handle_claim_held(&mut self, now: Instant) {
        if !self.search.handle_claim_held(now) {
            return self.note_unexpected("claim held");
        }
        self.arm_search();
    }

    // ---- the worker ----

    /// A worker's socket is up. The answer is whether it is wanted; if not,
    /// the driver closes it.
    pub fn handle_attached(&mut self, now: Instant) -> bool {
        if self.phase != Phase::Seeking {
            self.note_unexpected("attached");
            return false;
        }
        if self.search.is_pushing() {
            // The worker was faster than Redis' answer to the push.
            self.report(Report::Queued(self.search.reason()));
        }
        self.search.stop();
        self.arm_search();
        self.phase = Phase::Streaming { since: now };
        self.is_worker_open = true;
        self.had_worker = true;
        self.answer();
        self.push(Output::IdleSound(IdleSound::Silence));
        self.push(Output::StartStream);
        self.report(Report::WorkerAttached);
        true
    }

    /// The worker could not be dialled; tried again while the search lasts.
    pub fn handle_dial_failed(&mut self, now: Instant) {
        let step = self.search.handle_dial_failed(now);
        self.take_step(now, "dial failed", step);
    }

    /// Something came from the worker, or its socket went.
    pub fn handle_worker(&mut self, now: Instant, input: WorkerInput) {
        let was_open = self.is_worker_open;
        if matches!(input, WorkerInput::Closed | WorkerInput::Lost) {
            self.is_worker_open = false;
        }
        let Phase::Streaming { since } = self.phase else {
            // While the last audio is played, the worker may close or be lost.
            if !was_open {
                self.note_unexpected("worker");
            }
            return;
        };
        match input {
            WorkerInput::Closed if self.script.has_call => self.play_out(now, PlayedOut::Script),
            WorkerInput::Hangup | WorkerInput::Closed => self.play_out(now, PlayedOut::Bye),
            WorkerInput::Lost => self.lose_worker(now, since),
            WorkerInput::Transfer(destination) => self.transfer_for_worker(now, destination),
        }
    }

    fn lose_worker(&mut self, now: Instant, since: Instant) {
        self.phase = Phase::Seeking;
        self.push(Output::DropStream);
        self.push(Output::IdleSound(IdleSound::Hold));
        self.report(Report::WorkerLost);
        let step = self.search.resume(now, now.duration_since(since));
        self.take_step(now, "worker lost", step);
    }

    fn play_out(&mut self, now: Instant, then: PlayedOut) {
        self.phase = Phase::PlayingOut {
            settled: None,
            then,
            waits_for_transfer: false,
        };
        self.release_hold(now);
        self.arm(Timer::PlayOut, now + PLAY_OUT_LIMIT);
        self.push(Output::PlayOut);
    }

    // ---- the search ----

    /// The call is taken: ring or answer, and ask for a worker. Where it is
    /// answered at once, nobody is asked before the caller has acknowledged
    /// that: an INVITE alone, whose sender may be anybody, makes no job.
    pub(super) fn begin(&mut self, now: Instant) {
        let ring_for = self.policy.ring_before_fallback;
        if let (Some(ring_for), WorkerRoute::Queue) = (ring_for, self.policy.search.route) {
            self.phase = Phase::Yielding;
            self.push(Output::Answer(180));
            return self.arm(Timer::Ring, now + ring_for);
        }
        if self.policy.answer == AnswerMode::OnWorker {
            self.push(Output::Answer(180));
        }
        self.take_caller(now);
    }

    /// The caller is ours: nobody else took the call, or nobody else could.
    pub(super) fn take_caller(&mut self, now: Instant) {
        if self.policy.answer == AnswerMode::Immediate {
            self.answer();
        }
        self.push(Output::IdleSound(IdleSound::Waiting));
        if self.dialog == Dialog::Answered {
            self.phase = Phase::AwaitingAck;
        } else {
            self.start_search(now);
        }
    }

    pub(super) fn start_search(&mut self, now: Instant) {
        self.phase = Phase::Seeking;
        let step = self.search.start(now);
        self.take_step(now, "start of the search", step);
    }

    /// Does what the search for a worker asks for after an input.
    pub(super) fn take_step(&mut self, now: Instant, input: &'static str, step: Step) {
        match step {
            Step::Wait => {}
            Step::Push(attempt) => self.push(Output::PushJob(attempt)),
            Step::Dial(attempt) => self.push(Output::Dial(attempt)),
            Step::GiveUp(reason) => self.fall_back(now, reason),
            Step::Unexpected => self.note_unexpected(input),
        }
        self.arm_search();
    }

    /// Nobody is looked for any more.
    pub(super) fn stop_search(&mut self) {
        if self.search.stop() {
            self.push(Output::StopSearch);
        }
        self.arm_search();
    }

    fn arm_search(&mut self) {
        self.timers
            .set(Timer::WorkerDispatch, self.search.poll_timeout());
    }
}
