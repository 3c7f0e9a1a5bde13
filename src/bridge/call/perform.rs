//! Gives what the call's state machine asks for to the part that can do it,
//! and what comes of it back to the state machine.

use tokio::time::Instant;
use tracing::{info, warn};

use super::super::incoming::Settled;
use super::super::worker_search::{NoToken, SearchEvent};
use super::super::worker_session::StreamStart;
use super::super::worker_side::WorkerEvent;
use super::{Awaited, Deferred, Driver};
use crate::bridge::call_store::RequestError;
use crate::core::call::{Attempt, CalleeInput, Output, WorkerInput};
use crate::core::media_streams::WorkerMessage;
use crate::core::private::Private;
use crate::sip::engine::SubmitError;
use crate::worker::{CloseReason, WorkerSocket};

impl Driver {
    /// Does all that the state machine asks for, and TwiML, where it has the call: what one asks for may
    /// be an input of the other.
    pub(in crate::bridge) fn perform_outputs(&mut self) {
        loop {
            while let Some(output) = self.call.poll_output() {
                self.perform(output);
            }
            if !self.perform_voice() {
                return;
            }
        }
    }

    /// Does one thing. Nothing here waits.
    fn perform(&mut self, output: Output) {
        let parts = &mut self.parts;
        match output {
            Output::Answer(status) => {
                if status < 200 {
                    parts.publisher.ringing();
                }
                let submitted = parts.leg.answer(status);
                self.check_command(submitted);
            }
            Output::Hangup(status) => {
                let submitted = parts.leg.hang_up(status);
                self.check_command(submitted);
            }
            Output::Transfer(destination) => {
                let submitted = parts.leg.transfer(destination);
                self.check_command(submitted);
            }
            Output::Reinvite { hold } => {
                let submitted = parts.leg.hold(hold);
                self.check_command(submitted);
            }
            Output::AskIncoming => parts.question.put(parts.publisher.call()),
            Output::PushJob(attempt) => self.push_job(attempt),
            Output::StopSearch => parts.search.stop(),
            Output::Dial(attempt) => {
                parts.publisher.begin(attempt);
                parts.search.dial();
            }
            Output::StartStream => self.start_stream(),
            Output::StopStream => {
                let reason = self.close_reason();
                let parts = &mut self.parts;
                parts.session.stop(&parts.media, reason);
            }
            Output::DropStream => parts.session.drop_audio(&parts.media),
            Output::CallOut(number) => self.call_out(number),
            Output::Join => parts.fallback.join(&parts.media),
            Output::DropCallee => parts.fallback.end(&parts.media),
            Output::ForgetEarly => parts.media.port.lock().uplink.go_live(),
            Output::IdleSound(sound) => {
                let audio = parts.sounds.audio(sound, &parts.line);
                parts.media.stream.downlink().set_idle_audio(audio);
            }
            Output::Held(on) => self.set_held(on),
            Output::PlayOut => {
                self.awaited = Awaited::PlayOut;
                parts.media.stream.downlink().notify_drained();
            }
            Output::StreamOver(end) => self.stream_over(end),
            Output::Report(report) => parts.publisher.report(report),
            Output::Finished(outcome) => self.finished = Some(outcome),
        }
    }

    fn check_command(&mut self, submitted: Result<(), SubmitError>) {
        if let Err(error) = submitted {
            warn!(%error, "SIP command not taken, the call is given up");
            self.call.handle_leg_ended(false);
        }
    }

    fn set_held(&mut self, held: bool) {
        info!(held, "hold");
        let parts = &mut self.parts;
        let audio = held.then(|| parts.sounds.hold());
        parts.media.stream.downlink().set_hold(audio);
        parts.media.port.lock().uplink.set_muted(held);
        parts.publisher.held(held);
    }

    fn call_out(&mut self, number: Private) {
        if !self.parts.fallback.call(&self.parts.line.id, number) {
            let now = std::time::Instant::now();
            self.call.handle_callee(now, CalleeInput::Ended);
        }
    }

    // ---- what was to be heard ----

    pub(super) fn handle_woken(&mut self, now: Instant) {
        let media = &self.parts.media;
        if media.stream.has_failed() {
            return self.call.handle_leg_failed(now.into_std());
        }
        self.parts.session.send_echoes(media);
        if self.awaited == Awaited::Nothing {
            return;
        }
        let mut downlink = media.stream.downlink();
        let drained = downlink.is_drained();
        if !drained {
            // Digits came between the wake-up and this look.
            downlink.notify_drained();
        }
        drop(downlink);
        if drained {
            self.end_awaited(now.into_std());
        }
    }

    /// All that was waited for has been heard.
    fn end_awaited(&mut self, now: std::time::Instant) {
        match std::mem::replace(&mut self.awaited, Awaited::Nothing) {
            Awaited::Nothing => {}
            Awaited::PlayOut => self.call.handle_played_out(now),
            Awaited::VoiceSound => self.sound_ended(now),
            Awaited::LegDigits(id) => self.leg_digits_sent(id, true),
        }
    }

    // ---- the question ----

    pub(in crate::bridge) fn handle_answer(&mut self, now: Instant, settled: Settled) {
        if let Some(dialer) = settled.dialer {
            self.parts.search.dial_instead(dialer);
        }
        let publisher = &mut self.parts.publisher;
        publisher.settled(&settled.parameters, settled.receiver);
        self.call.handle_decision(now.into_std(), &settled.decision);
    }

    // ---- the search for a worker ----

    fn push_job(&mut self, attempt: Attempt) {
        let now = std::time::Instant::now();
        let parts = &mut self.parts;
        match parts.search.token() {
            Ok(token) => {
                parts.publisher.begin(attempt);
                parts.search.push(parts.publisher.job(&token));
            }
            Err(NoToken::NoQueue) => self.call.handle_job_refused(now),
            Err(NoToken::ClaimHeld) => self.call.handle_claim_held(now),
        }
    }

    pub(in crate::bridge) fn handle_search(&mut self, now: Instant, event: SearchEvent) {
        let now = now.into_std();
        match event {
            SearchEvent::Pushed => self.call.handle_job_pushed(),
            SearchEvent::PushInterrupted => self.call.handle_job_interrupted(now),
            SearchEvent::PushRefused => self.call.handle_job_refused(now),
            SearchEvent::Taken => self.call.handle_job_taken(now),
            SearchEvent::DialFailed => self.call.handle_dial_failed(now),
            SearchEvent::Found(socket, worker) => self.attach(now, *socket, worker),
        }
    }

    fn attach(&mut self, now: std::time::Instant, socket: WorkerSocket, worker: String) {
        if !self.call.handle_attached(now) {
            tokio::spawn(socket.close(CloseReason::CallOver));
            return;
        }
        let parts = &mut self.parts;
        parts.publisher.attached(worker);
        parts.search.settle();
        let stream = parts.publisher.stream().clone();
        parts.session.attach(socket, stream);
    }

    fn start_stream(&mut self) {
        let parts = &mut self.parts;
        let publisher = &parts.publisher;
        let start = StreamStart {
            call: &publisher.facts().id,
            stream: publisher.stream(),
            parameters: &publisher.parameters(),
            resumed: publisher.is_resumed(),
        };
        parts.session.start(&parts.media, &start);
        self.stream_started();
    }

    // ---- what the worker says ----

    pub(in crate::bridge) fn handle_worker(&mut self, now: Instant, event: WorkerEvent) {
        let session = &mut self.parts.session;
        match event {
            WorkerEvent::Message(message) => self.handle_message(now, message),
            WorkerEvent::Ignored(why) => session.ignore(&why),
            WorkerEvent::Closed => {
                info!("the worker closed its socket");
                session.forget_unsent(&self.parts.media);
                self.call.handle_worker(now.into_std(), WorkerInput::Closed);
            }
            WorkerEvent::Lost(reason) => {
                warn!(reason, "worker lost");
                session.forget_unsent(&self.parts.media);
                self.call.handle_worker(now.into_std(), WorkerInput::Lost);
            }
        }
    }

    fn handle_message(&mut self, now: Instant, message: WorkerMessage) {
        let parts = &mut self.parts;
        if !self.call.is_streaming() && !matches!(message, WorkerMessage::Clear) {
            let why = "the worker has ended the call already";
            return parts.session.ignore(why);
        }
        match parts.session.handle_message(&parts.media, message) {
            None => {}
            Some(WorkerInput::Transfer(destination)) => {
                self.deferred = Some(Deferred::WorkerTransfer(destination));
            }
            Some(input) => self.call.handle_worker(now.into_std(), input),
        }
    }

    /// A worker may transfer to whom the API may dial: its caller may talk it
    /// into much. One that the operator chose may be trusted by
    /// `--trust-worker-transfers`.
    pub(in crate::bridge) async fn transfer_for_worker(
        &mut self,
        now: Instant,
        mut destination: Private,
    ) {
        if self.parts.destinations.judges_workers() {
            let checked = self
                .call
                .check_worker_transfer()
                .map_err(RequestError::from);
            let judged = match checked {
                Ok(()) => self.parts.destinations.allow(&destination).await,
                Err(denied) => return self.parts.session.ignore(&denied.to_string()),
            };
            match judged {
                Ok(judged) => destination = judged,
                Err(why) => return self.parts.session.ignore(&why.to_string()),
            }
        }
        self.call
            .handle_worker(now.into_std(), WorkerInput::Transfer(destination));
    }
}
