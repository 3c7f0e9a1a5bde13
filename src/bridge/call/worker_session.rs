//! The stream between one call and its worker: what goes out on the worker's
//! socket, in order, and what the worker's messages do to the caller's audio.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::worker_side::{WorkerEvent, WorkerSide};
use crate::bridge::audio_metrics::AudioMetrics;
use crate::bridge::leg::leg_media::LegMedia;
use crate::bridge::leg::outbound_audio::OutboundAudio;
use crate::core::call::WorkerInput;
use crate::core::ids::{AccountSid, CallId, StreamId};
use crate::core::media_session::playout::MarkEcho;
use crate::core::media_session::replay_buffer::HISTORY_MS;
use crate::core::media_streams::{MessageWriter, WorkerMessage};
use crate::worker::{CloseReason, WorkerSocket};

/// Messages of a worker after which the other calls of the thread have their turn.
const MESSAGES_PER_POLL: usize = 32;

/// The stream of one call; it is open while a worker is attached.
pub(in crate::bridge) struct WorkerSession {
    side: WorkerSide,
    account: AccountSid,
    gauges: Arc<AudioMetrics>,
    /// Marks on their way back; empty between two uses.
    echoes: Vec<MarkEcho>,
}

/// What the `start` of a stream says.
pub(in crate::bridge) struct StreamStart<'a> {
    pub(in crate::bridge) call: &'a CallId,
    pub(in crate::bridge) stream: &'a StreamId,
    pub(in crate::bridge) parameters: &'a BTreeMap<String, String>,
    /// An earlier worker of the call was lost: the last seconds come first.
    pub(in crate::bridge) resumed: bool,
}

impl WorkerSession {
    /// A call without a worker.
    pub(in crate::bridge) fn new(account: AccountSid, gauges: Arc<AudioMetrics>) -> Self {
        Self {
            side: WorkerSide::new(),
            account,
            gauges,
            echoes: Vec::new(),
        }
    }

    /// Takes the socket of a worker, for this stream.
    pub(in crate::bridge) fn attach(&mut self, socket: WorkerSocket, stream: StreamId) {
        self.side.attach(socket, stream);
    }

    /// What the worker says next, but for audio, which is played at once where `plays` says so. Pending for ever
    /// while no worker is attached.
    pub(in crate::bridge) fn poll_event(
        &mut self,
        cx: &mut Context<'_>,
        stream: &OutboundAudio,
        plays: bool,
    ) -> Poll<WorkerEvent> {
        for _ in 0..MESSAGES_PER_POLL {
            match self.side.poll_next(cx) {
                Poll::Ready(WorkerEvent::Message(WorkerMessage::Media(audio))) if plays => {
                    play(stream, audio);
                }
                other => return other,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Pings the worker, and notices one that is dead on TCP.
    pub(in crate::bridge) fn handle_time(&mut self, now: Instant) {
        self.side.handle_time(now);
    }

    /// When [`WorkerSession::handle_time`] wants to be called.
    pub(in crate::bridge) fn poll_timeout(&self) -> Option<Instant> {
        self.side.poll_timeout()
    }

    // ---- the stream ----

    /// Sends `connected` and `start`, then the kept audio; live audio follows.
    pub(in crate::bridge) fn start(&mut self, media: &LegMedia, start: &StreamStart<'_>) {
        let mut writer = MessageWriter::new(start.stream, start.call, &self.account);
        let (mut connected, mut first) = (Vec::new(), Vec::new());
        writer.write_connected(&mut connected);
        writer.write_start(start.parameters, &mut first);
        {
            let mut state = media.port.lock();
            state.post(connected);
            state.post(first);
            if start.resumed {
                state.uplink.resume(writer, HISTORY_MS);
            } else {
                state.uplink.attach(writer);
            }
            state.writer = self.side.writer();
            state.catch_up();
        }
        self.forward(media);
    }

    /// Sends `stop` as the last message of the stream and closes the socket.
    pub(in crate::bridge) fn stop(&mut self, media: &LegMedia, reason: CloseReason) {
        self.end_stream(media);
        self.side.close(reason);
    }

    fn end_stream(&mut self, media: &LegMedia) {
        loop {
            self.forward(media);
            let mut state = media.port.lock();
            state.send();
            if state.is_catching_up() {
                // What came meanwhile is more than is sent under one lock.
                continue;
            }
            if let Some(mut writer) = state.uplink.detach() {
                let mut stop = Vec::new();
                writer.write_stop(&mut stop);
                state.post(stop);
            }
            break;
        }
        self.forward(media);
        media.port.lock().writer = None;
    }

    /// Closes the socket once what is queued has been sent.
    pub(in crate::bridge) fn close(&mut self, reason: CloseReason) {
        self.side.close(reason);
    }

    /// Gives the worker what waits for it in the port, a slice at a time: the
    /// media thread of many calls must not wait while half a minute of audio is
    /// encoded. The direct writer stays shut until the last slice is in the socket, so
    /// that nothing overtakes.
    pub(in crate::bridge) fn forward(&mut self, media: &LegMedia) {
        let mut slice = Vec::new();
        loop {
            media.port.lock().take_slice(&mut slice);
            if slice.is_empty() {
                return;
            }
            for message in slice.drain(..) {
                self.side.queue(message);
            }
        }
    }

    /// Sends back the marks whose audio has been heard.
    pub(in crate::bridge) fn send_echoes(&mut self, media: &LegMedia) {
        media.stream.downlink().drain_echoes(&mut self.echoes);
        let mut state = media.port.lock();
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
        self.forward(media);
    }

    /// The worker's socket is gone: what waits for it is of no use.
    pub(in crate::bridge) fn forget_unsent(&mut self, media: &LegMedia) {
        let mut state = media.port.lock();
        state.writer = None;
        state.uplink.detach();
        let forgotten = state.forget_waiting();
        drop(state);
        drop(forgotten);
    }

    /// Nothing of the lost worker is heard or echoed any more.
    pub(in crate::bridge) fn drop_audio(&mut self, media: &LegMedia) {
        // Freed here, after the pacer's lock is released.
        let abandoned = media.stream.downlink().abandon();
        debug!(bytes = abandoned.bytes, "audio of the lost worker dropped");
        self.echoes.clear();
    }

    // ---- what the worker says ----

    /// Does what a message says to the audio; what it asks of the call is given back.
    pub(in crate::bridge) fn handle_message(
        &mut self,
        media: &LegMedia,
        message: WorkerMessage,
    ) -> Option<WorkerInput> {
        match message {
            WorkerMessage::Media(audio) => play(&media.stream, audio),
            WorkerMessage::OddMedia(audio) => {
                self.gauges.counters.odd_audio();
                self.side.note_odd_audio();
                play(&media.stream, audio);
            }
            WorkerMessage::Mark(name) => {
                let _ = media.stream.downlink().mark(name);
                self.send_echoes(media);
            }
            WorkerMessage::Clear => {
                // Freed here, after the pacer's lock is released.
                let cleared = media.stream.downlink().clear();
                debug!(bytes = cleared.bytes, marks = cleared.marks, "clear");
                drop(cleared);
                self.send_echoes(media);
            }
            WorkerMessage::Dtmf(digits) => {
                let sent = media.stream.downlink().send_digits(&digits);
                if let Err(refused) = sent {
                    self.ignore(&refused.to_string());
                }
            }
            WorkerMessage::Hangup | WorkerMessage::Stop => return Some(WorkerInput::Hangup),
            WorkerMessage::Transfer(destination) => {
                return Some(WorkerInput::Transfer(destination));
            }
        }
        None
    }

    /// Counts a message that does nothing.
    pub(in crate::bridge) fn ignore(&mut self, why: &str) {
        self.gauges.counters.ignored();
        self.side.note_ignored(why);
    }
}

fn play(stream: &OutboundAudio, audio: Vec<u8>) {
    let pushed = stream.push(&audio);
    if pushed.first_drop {
        warn!("the playout queue is full (10 minutes); audio of the worker is dropped");
    }
}
