//! Does what the call's state machine asks for. Reaching a worker has a file
//! of its own, `reach`; the fallback's second leg too, `callee`.

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::call_store::RequestError;
use super::driver::Driver;
use super::worker_side::WorkerEvent;
use crate::core::call::{IdleSound, Output, WorkerInput};
use crate::core::media_streams::{MessageWriter, WorkerMessage};
use crate::core::private::Private;
use crate::core::replay_buffer::HISTORY_MS;
use crate::sip::engine::Command;

impl Driver {
    /// Does one thing. Nothing here waits.
    pub(super) fn perform(&mut self, output: Output) {
        match output {
            Output::Answer(status) => {
                if status < 200 {
                    self.publisher.ringing();
                }
                let leg = self.leg;
                self.command(Command::Answer { leg, status });
            }
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
            Output::AskIncoming => self.ask_incoming(),
            Output::PushJob(attempt) => self.push_job(attempt),
            Output::StopSearch => self.stop_search(),
            Output::Dial(attempt) => self.dial(attempt),
            Output::StartStream => self.start_stream(),
            Output::StopStream => self.stop_stream(),
            Output::DropStream => self.drop_stream(),
            Output::CallOut(number) => self.call_out(number),
            Output::Join => self.join(),
            Output::DropCallee => self.drop_callee(),
            Output::ForgetEarly => self.media.port.lock().uplink.go_live(),
            Output::IdleSound(idle_audio) => self.set_idle_audio(idle_audio),
            Output::Held(on) => self.set_held(on),
            Output::Reinvite { hold: on } => {
                let leg = self.leg;
                self.command(Command::Hold { leg, on });
            }
            Output::PlayOut => self.play_out(),
            Output::Report(report) => self.publisher.report(report),
            Output::Finished(outcome) => self.finished = Some(outcome),
        }
    }

    fn command(&mut self, command: Command) {
        if let Err(error) = self.context.engine.submit(command) {
            warn!(%error, "SIP command not taken, the call is given up");
            self.call.handle_leg_ended(false);
        }
    }

    // ---- the stream ----

    fn start_stream(&mut self) {
        let publisher = &self.publisher;
        let account = &self.context.settings.account_sid;
        let mut writer = MessageWriter::new(publisher.stream(), &publisher.facts().id, account);
        let (mut connected, mut start) = (Vec::new(), Vec::new());
        writer.write_connected(&mut connected);
        writer.write_start(&publisher.parameters(), &mut start);
        {
            let mut state = self.media.port.lock();
            state.post(connected);
            state.post(start);
            if publisher.is_resumed() {
                state.uplink.resume(writer, HISTORY_MS);
            } else {
                state.uplink.attach(writer);
            }
            state.writer = self.worker.writer();
            state.catch_up();
        }
        self.forward();
    }

    fn stop_stream(&mut self) {
        self.end_stream();
        self.worker.close(self.close_reason());
    }

    /// Nothing of the lost worker is heard or echoed any more.
    fn drop_stream(&mut self) {
        // Freed here, after the pacer's lock is released.
        let abandoned = self.media.stream.downlink().abandon();
        debug!(bytes = abandoned.bytes, "audio of the lost worker dropped");
        self.echoes.clear();
    }

    fn set_idle_audio(&mut self, idle_audio: IdleSound) {
        let idle_audio = self.context.idle_audio(idle_audio, &self.line);
        self.media.stream.downlink().set_idle_audio(idle_audio);
    }

    fn set_held(&mut self, held: bool) {
        info!(held, "hold");
        let audio = held.then(|| self.context.sounds.hold.clone());
        self.media.stream.downlink().set_hold(audio);
        self.media.port.lock().uplink.set_muted(held);
        self.publisher.held(held);
    }

    fn play_out(&mut self) {
        self.pending.waits_for_play_out = true;
        self.media.stream.downlink().notify_drained();
    }

    /// Sends back the marks whose audio has been heard.
    pub(super) fn send_echoes(&mut self) {
        self.media.stream.downlink().drain_echoes(&mut self.echoes);
        let mut state = self.media.port.lock();
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
            let mut state = self.media.port.lock();
            state.send();
            if let Some(mut writer) = state.uplink.detach() {
                let mut stop = Vec::new();
                writer.write_stop(&mut stop);
                state.post(stop);
            }
        }
        self.forward();
        self.media.port.lock().writer = None;
    }

    /// The worker's socket is gone: what waits for it is of no use.
    fn lose_worker(&mut self) {
        let mut state = self.media.port.lock();
        state.writer = None;
        state.uplink.detach();
        state.forget_waiting();
    }

    // ---- what the worker says ----

    pub(super) fn handle_worker(&mut self, now: Instant, event: WorkerEvent) {
        match event {
            WorkerEvent::Message(message) => self.handle_message(now, message),
            WorkerEvent::Ignored(why) => self.ignore(&why),
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

    /// Counts a message that does nothing.
    fn ignore(&mut self, why: &str) {
        self.context.gauges.counters.ignored();
        self.worker.note_ignored(why);
    }

    fn handle_message(&mut self, now: Instant, message: WorkerMessage) {
        if !self.call.is_streaming() && !matches!(message, WorkerMessage::Clear) {
            return self.ignore("the worker has ended the call already");
        }
        match message {
            WorkerMessage::Media(audio) => self.queue_audio(audio),
            WorkerMessage::OddMedia(audio) => {
                self.context.gauges.counters.odd_audio();
                self.worker.note_odd_audio();
                self.queue_audio(audio);
            }
            WorkerMessage::Mark(name) => {
                let _ = self.media.stream.downlink().mark(name);
                self.send_echoes();
            }
            WorkerMessage::Clear => {
                // Freed here, after the pacer's lock is released.
                let cleared = self.media.stream.downlink().clear();
                debug!(bytes = cleared.bytes, marks = cleared.marks, "clear");
                drop(cleared);
                self.send_echoes();
            }
            WorkerMessage::Dtmf(digits) => {
                let sent = self.media.stream.downlink().send_digits(&digits);
                if let Err(refused) = sent {
                    self.ignore(&refused.to_string());
                }
            }
            WorkerMessage::Hangup | WorkerMessage::Stop => {
                self.call.handle_worker(now.into_std(), WorkerInput::Hangup);
            }
            WorkerMessage::Transfer(destination) => self.transfer_for_worker(now, destination),
        }
    }

    /// A worker may transfer to whom the API may dial: its caller may talk it
    /// into much. One that the operator chose may be trusted by
    /// `--trust-worker-transfers`.
    fn transfer_for_worker(&mut self, now: Instant, mut destination: Private) {
        if self.context.dialling.judges(self.is_worker_foreign) {
            let checked = self
                .call
                .check_worker_transfer()
                .map_err(RequestError::from);
            let line = &self.line;
            let judged =
                checked.and_then(|()| Ok(self.context.dialling.allow(line, &destination)?));
            match judged {
                Ok(judged) => destination = judged,
                Err(why) => return self.ignore(&why.to_string()),
            }
        }
        self.call
            .handle_worker(now.into_std(), WorkerInput::Transfer(destination));
    }

    fn queue_audio(&mut self, audio: bytes::Bytes) {
        let pushed = self.media.stream.downlink().push(audio);
        if pushed.first_drop {
            warn!("the playout queue is full (10 minutes); audio of the worker is dropped");
        }
    }
}
