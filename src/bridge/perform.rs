//! Does what the call's state machine asks for, and brings back the results
//! of what takes time: the job's push, the dialling, the attachment.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::driver::Driver;
use super::worker_side::WorkerEvent;
use crate::core::call::{Comfort, Output, Report, WorkerInput};
use crate::core::ids::Token;
use crate::core::media_streams::{MessageWriter, WorkerMessage};
use crate::queue::{Job, QueueError};
use crate::sip::engine::Command;
use crate::worker::{CloseReason, Ticket, WorkerError, WorkerSocket};

/// How long one attempt to dial a worker may take.
const DIAL_LIMIT: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a call waits for besides SIP, RTP and its worker.
#[derive(Default)]
pub(super) struct Pending {
    push: Option<Boxed<Result<(), QueueError>>>,
    /// Whether Redis may have heard of the push.
    push_begun: bool,
    dial: Option<Boxed<Result<WorkerSocket, WorkerError>>>,
    ticket: Option<Ticket>,
    job: Option<Job>,
    pub(super) waits_for_play_out: bool,
}

/// What came of it.
pub(super) enum Done {
    Pushed(Result<(), QueueError>),
    Dialled(Result<Box<WorkerSocket>, WorkerError>),
    Attached(Box<WorkerSocket>),
}

impl Pending {
    /// The next result; never, while nothing is pending. Cancel-safe.
    pub(super) async fn next(&mut self) -> Done {
        self.push_begun |= self.push.is_some();
        let done = tokio::select! {
            biased;
            result = or_never(&mut self.push) => Done::Pushed(result),
            result = or_never(&mut self.dial) => Done::Dialled(result.map(Box::new)),
            socket = attached(&mut self.ticket) => Done::Attached(Box::new(socket)),
        };
        match &done {
            Done::Pushed(_) => self.push = None,
            Done::Dialled(_) => self.dial = None,
            Done::Attached(_) => {}
        }
        done
    }
}

async fn or_never<T>(future: &mut Option<Boxed<T>>) -> T {
    match future {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

async fn attached(ticket: &mut Option<Ticket>) -> WorkerSocket {
    match ticket {
        Some(ticket) => ticket.attached().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    /// Does one thing. Nothing here waits.
    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Answer(status) => self.command(Command::Answer {
                leg: self.leg,
                status,
            }),
            Output::Hangup(status) => self.command(Command::Hangup {
                leg: self.leg,
                status,
            }),
            Output::Transfer(destination) => {
                self.command(Command::Transfer {
                    leg: self.leg,
                    destination,
                });
            }
            Output::PushJob => self.push_job(),
            Output::WithdrawJob => self.withdraw_job(),
            Output::Dial => self.dial(),
            Output::StartStream => self.start_stream(),
            Output::StopStream => self.stop_stream(),
            Output::Comfort(comfort) => self.set_comfort(comfort),
            Output::PlayOut => self.play_out(),
            Output::Report(report) => self.report(report),
            Output::Finished(outcome) => self.finished = Some(outcome),
        }
    }

    fn command(&mut self, command: Command) {
        if let Err(error) = self.context.engine.submit(command) {
            warn!(%error, "SIP command not taken, the call is given up");
            self.call.handle_leg_ended(false);
        }
    }

    // ---- reaching a worker ----

    fn push_job(&mut self) {
        let Some(queue) = self.context.queue.clone() else {
            return self.call.handle_job_refused(std::time::Instant::now());
        };
        let token = Token::random();
        self.pending.ticket = Some(
            self.context
                .workers
                .expect(self.record.call_id.clone(), token.clone()),
        );
        let job = self.record.job(&self.context, &token);
        self.pending.job = Some(job.clone());
        self.pending.push_begun = false;
        self.pending.push = Some(Box::pin(async move { queue.push(&job).await }));
    }

    /// No worker may take or attach any more. A push under way is waited for
    /// first: a removal that overtakes it would leave a dead job behind.
    fn withdraw_job(&mut self) {
        self.pending.ticket = None;
        self.pending.dial = None;
        let push = self.pending.push.take();
        let (Some(queue), Some(job)) = (self.context.queue.clone(), self.pending.job.take()) else {
            return;
        };
        match push {
            None => queue.remove(&job),
            // Dropped, so that no worker ever sees the dead call.
            Some(_) if !self.pending.push_begun => {}
            Some(push) => drop(tokio::spawn(async move {
                // Whether it was pushed or not: afterwards it is not there.
                let _ = push.await;
                queue.remove(&job);
            })),
        }
    }

    fn dial(&mut self) {
        let context = self.context.clone();
        self.pending.dial = Some(Box::pin(async move {
            match &context.dialer {
                Some(dialer) => dialer.dial(DIAL_LIMIT).await,
                None => Err(WorkerError::BadTarget("none is given")),
            }
        }));
    }

    pub(super) fn handle_done(&mut self, now: Instant, done: Done) {
        match done {
            Done::Pushed(Ok(())) => self.call.handle_job_pushed(),
            Done::Pushed(Err(error)) => {
                warn!(%error, "the job was not queued");
                self.pending.ticket = None;
                self.pending.job = None;
                self.call.handle_job_refused(now.into_std());
            }
            Done::Dialled(Ok(socket)) | Done::Attached(socket) => self.attach(*socket),
            Done::Dialled(Err(error)) => {
                warn!(%error, "the worker cannot be dialled");
                self.call.handle_dial_failed(now.into_std());
            }
        }
    }

    fn attach(&mut self, socket: WorkerSocket) {
        if self.call.handle_attached() {
            self.worker.attach(socket, self.record.stream_id.clone());
        } else {
            tokio::spawn(socket.close(CloseReason::CallOver));
        }
    }

    // ---- the stream ----

    fn start_stream(&mut self) {
        let record = &self.record;
        let account = &self.context.settings.account_sid;
        let mut writer = MessageWriter::new(&record.stream_id, &record.call_id, account);
        let (mut connected, mut start) = (Vec::new(), Vec::new());
        writer.write_connected(&mut connected);
        writer.write_start(&record.custom_parameters, &mut start);
        {
            let mut state = self.port.lock();
            state.post(connected);
            state.post(start);
            state.uplink.attach(writer);
            state.lane = self.worker.lane();
        }
        self.forward();
    }

    fn stop_stream(&mut self) {
        self.end_stream();
        self.worker.close(CloseReason::CallOver);
    }

    fn set_comfort(&mut self, comfort: Comfort) {
        let comfort = self.context.comfort(comfort, &self.record.line);
        self.stream.downlink().set_comfort(comfort);
    }

    fn play_out(&mut self) {
        self.pending.waits_for_play_out = true;
        self.stream.downlink().notify_drained();
    }

    /// Sends back the marks whose audio has been heard.
    pub(super) fn send_echoes(&mut self) {
        self.stream.downlink().drain_echoes(&mut self.echoes);
        let mut state = self.port.lock();
        // What is ready takes its numbers before the echoes do.
        state.send();
        for echo in self.echoes.drain(..) {
            let mut message = Vec::with_capacity(192);
            if let Some(writer) = state.uplink.writer() {
                writer.write_mark(&echo, &mut message);
                state.post(message);
            }
        }
        drop(state);
        self.forward();
    }

    /// Sends `stop` as the last message of the stream.
    fn end_stream(&mut self) {
        {
            let mut state = self.port.lock();
            state.send();
            if let Some(mut writer) = state.uplink.detach() {
                let mut stop = Vec::new();
                writer.write_stop(&mut stop);
                state.post(stop);
            }
        }
        self.forward();
        self.port.lock().lane = None;
    }

    /// The worker's socket is gone: what waits for it is of no use.
    fn lose_worker(&mut self) {
        let mut state = self.port.lock();
        state.lane = None;
        state.uplink.detach();
        state.waiting();
    }

    // ---- what the worker says ----

    pub(super) fn handle_worker(&mut self, now: Instant, event: WorkerEvent) {
        match event {
            WorkerEvent::Message(message) => self.handle_message(now, message),
            WorkerEvent::Ignored(why) => self.worker.note_ignored(&why),
            WorkerEvent::Closed => {
                info!("the worker closed its socket");
                self.lose_worker();
                self.call.handle_worker(now.into_std(), WorkerInput::Closed);
            }
            WorkerEvent::Lost(reason) => {
                warn!(reason, "worker lost");
                self.lose_worker();
                self.call.handle_worker(now.into_std(), WorkerInput::Lost);
            }
        }
    }

    fn handle_message(&mut self, now: Instant, message: WorkerMessage) {
        if !self.call.is_streaming() && !matches!(message, WorkerMessage::Clear) {
            return self
                .worker
                .note_ignored("the worker has ended the call already");
        }
        match message {
            WorkerMessage::Media(audio) => self.queue_audio(audio),
            WorkerMessage::Mark(name) => {
                let _ = self.stream.downlink().mark(name);
                self.send_echoes();
            }
            WorkerMessage::Clear => {
                // Freed here, after the pacer's lock is released.
                let cleared = self.stream.downlink().clear();
                debug!(bytes = cleared.bytes, marks = cleared.marks, "clear");
                drop(cleared);
                self.send_echoes();
            }
            WorkerMessage::Dtmf(digits) => {
                let sent = self.stream.downlink().send_digits(&digits);
                if let Err(refused) = sent {
                    self.worker.note_ignored(&refused.to_string());
                }
            }
            WorkerMessage::Hangup | WorkerMessage::Stop => {
                self.call.handle_worker(now.into_std(), WorkerInput::Hangup);
            }
            WorkerMessage::Transfer(destination) => {
                self.call
                    .handle_worker(now.into_std(), WorkerInput::Transfer(destination));
            }
        }
    }

    fn queue_audio(&mut self, audio: bytes::Bytes) {
        let pushed = self.stream.downlink().push(audio);
        if pushed.first_drop {
            warn!("the playout queue is full (10 minutes); audio of the worker is dropped");
        }
    }

    fn report(&mut self, report: Report) {
        self.record.report(&self.context, report);
    }
}
