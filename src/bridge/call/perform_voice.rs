//! Gives what TwiML asks for to the part that can do it, and what comes of it back to
//! [`crate::core::voice`]. The SIP leg, the worker and the ladder stay with the call's own state machine.

use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, info};

use super::super::parent::{LegNews, LegOrder};
use super::super::voice::VoiceEvent;
use super::super::voice_stream::VoiceStream;
use super::{Awaited, Driver};
use crate::core::call_object::CallStatus;
use crate::core::media_session::downlink::IdleAudio;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::document::MediaStream;
use crate::core::voice::{CommandId, PromptSound, StreamEnd, VoiceCommand};

impl Driver {
    /// Does the next thing that TwiML asks for; false when there is none.
    pub(super) fn perform_voice(&mut self) -> bool {
        let Some(voice) = &mut self.parts.voice.call else {
            return false;
        };
        if self.call.is_ending() && !voice.is_over() {
            self.parts.voice.end(std::time::Instant::now());
            return true;
        }
        let Some(command) = voice.poll_command() else {
            return false;
        };
        self.obey(command);
        true
    }

    /// Does one thing. Nothing here waits.
    fn obey(&mut self, command: VoiceCommand) {
        let now = std::time::Instant::now();
        match command {
            VoiceCommand::Fetch { id, request } => {
                let status = self.parts.publisher.call().state.status;
                self.parts.voice.fetch(id, request, status);
            }
            VoiceCommand::Notify(request) => {
                let status = self.final_status();
                self.parts.voice.notify(request, status);
            }
            VoiceCommand::Refuse(status) => {
                info!(status, "TwiML rejects the call");
                self.call.handle_voice_refusal(now, status);
            }
            VoiceCommand::Answer => self.call.handle_voice_answer(),
            VoiceCommand::Play { id, sound } => self.play(id, sound),
            VoiceCommand::SendDigits { id, leg, digits } => {
                self.send_voice_digits(id, leg, &digits)
            }
            VoiceCommand::StopSound => self.stop_sound(),
            VoiceCommand::OpenStream { id, stream } => self.open_stream(id, stream),
            VoiceCommand::CloseStream => self.close_stream(),
            VoiceCommand::StartCopy { id, stream } => self.start_copy(id, stream),
            VoiceCommand::StopCopy(id) => self.stop_copy(id),
            VoiceCommand::Dial { id, dial } => self.dial(id, *dial),
            VoiceCommand::RunLegDocument { leg, webhook } => {
                let order = LegOrder::RunDocument(webhook);
                self.parts.dialled.order(leg, order);
            }
            VoiceCommand::JoinLeg(leg) => self.join_leg(leg),
            VoiceCommand::EndLeg(leg) => self.end_leg(leg),
            VoiceCommand::Finished => self.leg_document_over(),
            VoiceCommand::HangUp { unanswered } => self.call.handle_voice_end(now, unanswered),
            VoiceCommand::FallBack => self.call.handle_voice_fall_back(now),
            VoiceCommand::Warn(warning) => self.parts.voice.tools.warn(&warning),
        }
    }

    /// A call that is TwiML's once it is answered: its document is asked for then.
    pub(super) fn begin_placed(&mut self, now: std::time::Instant, ring_timeout: Duration) {
        self.call.handle_placed(now, ring_timeout);
        if self.parts.voice.begins() {
            // One that has just been placed is not over.
            let _ = self.call.handle_voice_takeover(now);
        }
    }

    /// The dialog stands: what TwiML waits for with its first verb. It gets a call that we placed only now.
    pub(super) fn voice_established(&mut self, now: std::time::Instant) {
        self.tell_parent(LegNews::Answered);
        let voice = &mut self.parts.voice;
        match &mut voice.call {
            Some(call) => call.handle_established(now),
            None if self.call.is_scripted() => self.begin_answered(now),
            None => {}
        }
    }

    /// What came of what TwiML has waited for.
    pub(super) fn handle_voice(&mut self, now: Instant, event: VoiceEvent) {
        let now = now.into_std();
        match event {
            VoiceEvent::Fetched(id, answer) => {
                self.with_voice(|voice| voice.handle_fetched(now, id, *answer));
            }
            VoiceEvent::Sound(id, Ok(sound)) => self.hear(id, IdleAudio::Once(sound)),
            VoiceEvent::Sound(id, Err(reason)) => {
                let text = format!("what is to be heard cannot be: {reason}");
                self.parts.voice.tools.explain("sound", &text);
                self.with_voice(|voice| voice.handle_played(now, id, false));
            }
            VoiceEvent::CopyEnded(id) => self.copy_ended(id),
            VoiceEvent::Detected(verdict) => self.detected(now, verdict),
        }
    }

    pub(super) fn with_voice(&mut self, does: impl FnOnce(&mut crate::core::voice::VoiceCall)) {
        if let Some(voice) = &mut self.parts.voice.call {
            does(voice);
        }
    }

    /// The status with which the call will have ended, as far as that is known.
    fn final_status(&self) -> CallStatus {
        let status = self.parts.publisher.call().state.status;
        match status {
            status if status.is_final() => status,
            _ if self.call.is_answered() => CallStatus::Completed,
            _ => CallStatus::Cancelled,
        }
    }

    // ---- what is heard ----

    fn play(&mut self, id: CommandId, sound: PromptSound) {
        let voice = &mut self.parts.voice;
        voice.sound.load(id, sound, &*voice.tools.http);
    }

    fn hear(&mut self, id: CommandId, audio: IdleAudio) {
        self.parts.media.stream.downlink().set_idle_audio(audio);
        self.await_end(id);
    }

    fn send_voice_digits(&mut self, id: CommandId, leg: Option<usize>, digits: &Private) {
        if let Some(leg) = leg {
            let order = LegOrder::SendDigits(id, digits.clone());
            if !self.parts.dialled.order(leg, order) {
                self.not_played(id);
            }
            return;
        }
        let sent = self
            .parts
            .media
            .stream
            .downlink()
            .send_digits(digits.expose());
        match sent {
            Ok(()) => self.await_end(id),
            Err(refused) => {
                let text = format!("the digits of <Play> are not sent: {refused}");
                self.parts.voice.tools.explain("digits", &text);
                self.not_played(id);
            }
        }
    }

    fn not_played(&mut self, id: CommandId) {
        let now = std::time::Instant::now();
        self.with_voice(|voice| voice.handle_played(now, id, false));
    }

    /// The command is answered once all is heard.
    fn await_end(&mut self, id: CommandId) {
        self.parts.voice.sound.begin(id, std::time::Instant::now());
        self.awaited = Awaited::VoiceSound;
        self.parts.media.stream.downlink().notify_drained();
    }

    /// All that TwiML plays has been heard.
    pub(super) fn sound_ended(&mut self, now: std::time::Instant) {
        if let Some(id) = self.parts.voice.sound.end() {
            self.with_voice(|voice| voice.handle_played(now, id, true));
        }
    }

    fn stop_sound(&mut self) {
        if self.parts.voice.sound.stop() {
            let mut downlink = self.parts.media.stream.downlink();
            downlink.set_idle_audio(IdleAudio::Silence);
            downlink.drop_digits();
        }
        if self.awaited == Awaited::VoiceSound {
            self.awaited = Awaited::Nothing;
        }
    }

    /// What the caller has pressed since the last time, where TwiML listens.
    pub(super) fn take_digits(&mut self, now: Instant) {
        let listens = self.parts.voice.listens();
        let mut digits = Vec::new();
        {
            let mut state = self.parts.media.port.lock();
            state.wakes_for_digits = listens;
            while listens && let Some(digit) = state.poll_digit() {
                digits.push(digit);
            }
        }
        for digit in digits {
            self.with_voice(|voice| voice.handle_digit(now.into_std(), digit));
        }
    }

    // ---- the worker's stream ----

    fn open_stream(&mut self, id: CommandId, stream: Box<MediaStream>) {
        let now = std::time::Instant::now();
        let parts = &mut self.parts;
        let dialer = parts
            .voice
            .tools
            .dialers
            .dialer(&stream, parts.voice.asked());
        let parameters = stream.parameters.clone();
        let is_foreign = stream.written_by == WrittenBy::Client;
        parts.voice.stream = Some(VoiceStream::new(id, stream));
        match dialer {
            Ok(dialer) => {
                parts.destinations.worker_changes(is_foreign);
                parts.publisher.stream_parameters(parameters);
                parts.search.dial_instead(dialer);
                self.call.handle_voice_stream(now);
            }
            Err(error) => {
                let text = format!("the worker of a <Stream> cannot be dialled: {error}");
                self.parts.voice.tools.explain("stream", &text);
                self.stream_over(StreamEnd::Lost);
            }
        }
    }

    /// The stream ended by itself.
    pub(super) fn stream_over(&mut self, end: StreamEnd) {
        let now = std::time::Instant::now();
        if let Some(id) = self.forget_stream(end) {
            debug!(?end, "the stream of TwiML is over");
            self.with_voice(|voice| voice.handle_stream_ended(now, id, end));
        }
    }

    fn close_stream(&mut self) {
        self.forget_stream(StreamEnd::Closed);
        if !self.call.is_ending() {
            self.awaited = Awaited::Nothing;
            let now = std::time::Instant::now();
            self.call.handle_voice_stream_closed(now);
        }
    }

    /// Whose stream it was.
    fn forget_stream(&mut self, end: StreamEnd) -> Option<CommandId> {
        let parts = &mut self.parts;
        let stream = parts.voice.stream.take()?;
        let (last, voice) = (parts.publisher.stream(), &parts.voice);
        stream.ended(end, last, &voice.facts, &*voice.tools.http);
        Some(stream.id)
    }

    /// A worker is attached: who wants to know of the stream is told.
    pub(super) fn stream_started(&mut self) {
        let parts = &mut self.parts;
        if let Some(stream) = &mut parts.voice.stream {
            let (facts, http) = (&parts.voice.facts, &*parts.voice.tools.http);
            stream.attached(parts.publisher.stream(), facts, http);
        }
    }
}
