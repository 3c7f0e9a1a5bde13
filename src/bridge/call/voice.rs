//! One call that TwiML has, or may get: its [`VoiceCall`], what that waits for, and what all such
//! calls share. What the verbs ask of the SIP leg and the worker is done by the driver (`perform_voice`).

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::warn;

use super::voice_copy::VoiceCopies;
use super::voice_detection::{PlacedDetection, Verdict, VoiceDetection};
use super::voice_fetch::{Pending, VoiceHttp};
use super::voice_sound::{Sound, VoiceSound};
use super::voice_stream::{StreamDialers, VoiceStream};
use crate::bridge::audio_metrics::AudioMetrics;
use crate::core::call_object::CallStatus;
use crate::core::log_limiter::SeldomKinds;
use crate::core::twiml::dial_string::DialString;
use crate::core::twiml::document::{StatusCallback, Webhook};
use crate::core::twiml::{Document, VoiceUrl};
use crate::core::voice::webhook::VoiceFacts;
use crate::core::voice::{
    CommandId, FetchFailure, FetchRequest, Instructions, VoiceCall, VoiceLine, VoicePolicy,
    VoiceRole, VoiceWarning,
};

/// How often the log tells of one kind of warning.
const TELL_EVERY: Duration = Duration::from_secs(10);
/// Kinds of warnings that are told apart; there are fewer.
const KINDS_MAX: usize = 32;

/// What TwiML does with a call that we place, once it is answered.
#[derive(Clone, Debug)]
pub struct PlacedVoice {
    /// What it begins with.
    pub first: Instructions,
    /// Asked where a document cannot be had.
    pub fallback: Option<Webhook>,
    /// Sent before anything else.
    pub digits: Option<DialString>,
    /// Told how the call goes on.
    pub status_callback: Option<StatusCallback>,
    /// How it is found out who answers.
    pub detection: Option<PlacedDetection>,
}

/// What all calls that TwiML has share.
pub(in crate::bridge) struct VoiceTools {
    pub(in crate::bridge) http: Arc<dyn VoiceHttp>,
    pub(in crate::bridge) dialers: StreamDialers,
    gauges: Arc<AudioMetrics>,
    warnings: Mutex<SeldomKinds>,
}

impl VoiceTools {
    pub(in crate::bridge) fn new(
        http: Arc<dyn VoiceHttp>,
        dialers: StreamDialers,
        gauges: Arc<AudioMetrics>,
    ) -> Arc<Self> {
        Arc::new(Self {
            http,
            dialers,
            gauges,
            warnings: Mutex::new(SeldomKinds::new(TELL_EVERY, KINDS_MAX)),
        })
    }

    /// Counts a warning; the log hears of each kind now and then.
    pub(in crate::bridge) fn warn(&self, warning: &VoiceWarning) {
        self.tell(kind(warning), &warning.to_string());
    }

    /// The same for a one-way copy that could not be begun, or broke.
    pub(in crate::bridge) fn copy_lost(&self, why: &str) {
        let text = format!("a <Stream> of <Start> ends: {why}");
        self.tell("copy-lost", &text);
    }

    fn tell(&self, kind: &'static str, text: &str) {
        self.gauges.counters.voice_warning();
        self.explain(kind, text);
    }

    /// Tells the log, now and then, why something did not go as TwiML says; the warning that follows is counted.
    pub(in crate::bridge) fn explain(&self, kind: &'static str, text: &str) {
        let mut warnings = self.warnings.lock().unwrap_or_else(PoisonError::into_inner);
        let told = warnings.count(Instant::now(), kind);
        drop(warnings);
        if let Some(times) = told {
            warn!(kind, times, "TwiML: {text}");
        }
    }
}

/// What the log and the limit of it call a warning.
const fn kind(warning: &VoiceWarning) -> &'static str {
    match warning {
        VoiceWarning::Document(_) => "document",
        VoiceWarning::FetchFailed { .. } => "fetch-failed",
        VoiceWarning::TooManyFetches => "too-many-fetches",
        VoiceWarning::CannotSay => "cannot-say",
        VoiceWarning::SoundFailed => "sound-failed",
        VoiceWarning::StreamLost => "stream-lost",
        VoiceWarning::TooManyCopies | VoiceWarning::CopyNameTaken | VoiceWarning::NoSuchCopy => {
            "copies"
        }
        VoiceWarning::NotForLegs => "not-for-legs",
    }
}

/// What TwiML does with one call.
pub(in crate::bridge) struct VoiceSide {
    pub(in crate::bridge) tools: Arc<VoiceTools>,
    pub(in crate::bridge) facts: VoiceFacts,
    line: Option<VoiceLine>,
    /// What TwiML begins with, where that is not the line's webhook.
    first: Option<Instructions>,
    /// Asked where a document cannot be had, where that is not the line's.
    fallback: Option<Webhook>,
    /// Sent before what TwiML begins with.
    digits: Option<DialString>,
    /// Where TwiML has the call, or has had it.
    pub(in crate::bridge) call: Option<VoiceCall>,
    /// Where the last document was asked for.
    asked: Option<VoiceUrl>,
    fetch: Pending<Result<Document, FetchFailure>>,
    pub(in crate::bridge) sound: VoiceSound,
    pub(in crate::bridge) stream: Option<VoiceStream>,
    pub(in crate::bridge) copies: VoiceCopies,
    pub(in crate::bridge) detection: VoiceDetection,
}

/// What a call waited for.
pub(in crate::bridge) enum VoiceEvent {
    /// A webhook's answer.
    Fetched(CommandId, Box<Result<Document, FetchFailure>>),
    /// A file that is to be heard now.
    Sound(CommandId, Sound),
    /// A one-way copy that ended by itself.
    CopyEnded(CommandId),
    /// It is known who answered.
    Detected(Verdict),
}

impl VoiceSide {
    /// A call that TwiML does not have; `line` is its line's webhook.
    pub(in crate::bridge) fn new(
        tools: Arc<VoiceTools>,
        facts: VoiceFacts,
        line: Option<VoiceLine>,
    ) -> Self {
        Self {
            tools,
            facts,
            line,
            first: None,
            fallback: None,
            digits: None,
            call: None,
            asked: None,
            fetch: Pending::nothing(),
            sound: VoiceSound::nothing(),
            stream: None,
            copies: VoiceCopies::default(),
            detection: VoiceDetection::default(),
        }
    }

    /// A call that we place, and that is TwiML's.
    pub(in crate::bridge) fn placed(
        tools: Arc<VoiceTools>,
        facts: VoiceFacts,
        voice: PlacedVoice,
    ) -> Self {
        Self {
            first: Some(voice.first),
            fallback: voice.fallback,
            digits: voice.digits,
            detection: VoiceDetection::new(voice.detection),
            ..Self::new(tools, facts, None)
        }
    }

    /// Whether TwiML gets the call from its beginning.
    pub(in crate::bridge) const fn begins(&self) -> bool {
        self.line.is_some() || self.first.is_some()
    }

    /// TwiML begins with this once it has the call.
    pub(in crate::bridge) fn begin_with(&mut self, first: Instructions) {
        self.first = Some(first);
    }

    /// TwiML has the call: the line's webhook is asked, unless it begins with something else.
    pub(in crate::bridge) fn begin(&mut self, now: Instant, role: VoiceRole) {
        let line = self.line.as_ref();
        let of_line = line.map(|line| Instructions::Webhook(line.webhook.clone()));
        if let Some(first) = self.first.take().or(of_line) {
            self.instruct(now, first, role, false);
        }
    }

    /// What is to be done with the call from now on. False where TwiML has done with it.
    pub(in crate::bridge) fn instruct(
        &mut self,
        now: Instant,
        instructions: Instructions,
        role: VoiceRole,
        is_answered: bool,
    ) -> bool {
        let of_line = self.line.as_ref().and_then(|line| line.fallback.clone());
        let fallback = self.fallback.clone().or(of_line);
        let first_digits = self.digits.take();
        let can_say = self.tools.http.can_speak();
        let call = self.call.get_or_insert_with(|| {
            VoiceCall::new(VoicePolicy {
                fallback,
                role,
                is_answered,
                can_say,
                first_digits,
            })
        });
        call.handle_instructions(now, instructions)
    }

    /// Whether keys that the caller presses are TwiML's: a worker that is there, or looked for, gets them else.
    pub(in crate::bridge) fn listens(&self) -> bool {
        self.stream.is_none() && self.call.as_ref().is_some_and(|call| !call.is_over())
    }

    // ---- what is waited for ----

    /// The next answer; never, while nothing is waited for. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> VoiceEvent {
        tokio::select! {
            biased;
            (id, answer) = self.fetch.next() => VoiceEvent::Fetched(id, Box::new(answer)),
            (id, sound) = self.sound.loaded() => VoiceEvent::Sound(id, sound),
            id = self.copies.next() => VoiceEvent::CopyEnded(id),
            verdict = self.detection.next() => VoiceEvent::Detected(verdict),
        }
    }

    /// When [`VoiceSide::handle_timeout`] wants to be called.
    pub(in crate::bridge) fn poll_timeout(&self) -> Option<Instant> {
        let call = self.call.as_ref().and_then(VoiceCall::poll_timeout);
        [call, self.sound.poll_timeout()]
            .into_iter()
            .flatten()
            .min()
    }

    /// The time of [`VoiceSide::poll_timeout`] is here.
    pub(in crate::bridge) fn handle_timeout(&mut self, now: Instant) {
        let late = self.sound.take_late(now);
        let Some(call) = &mut self.call else { return };
        if let Some(id) = late {
            call.handle_played(now, id, false);
        }
        call.handle_timeout(now);
    }

    /// The call is over, or in other hands: nothing more is done with it, and who wants to know is told.
    pub(in crate::bridge) fn end(&mut self, now: Instant) {
        if let Some(call) = &mut self.call {
            call.handle_call_ended(now);
        }
        self.fetch.forget();
        self.sound.stop();
    }

    // ---- requests ----

    /// Asks a webhook. One that was asked before is for nobody any more.
    pub(in crate::bridge) fn fetch(
        &mut self,
        id: CommandId,
        request: FetchRequest,
        status: CallStatus,
    ) {
        let FetchRequest { webhook, fields } = request;
        let mut all = self.facts.fields(status);
        all.extend(&fields);
        self.asked = Some(webhook.url.clone());
        let answer = self.tools.http.fetch(webhook, all);
        self.fetch.wait_for(id, answer);
    }

    /// Tells a webhook.
    pub(in crate::bridge) fn notify(&self, request: FetchRequest, status: CallStatus) {
        let FetchRequest { webhook, fields } = request;
        let mut all = self.facts.fields(status);
        all.extend(&fields);
        self.tools.http.notify(webhook, all);
    }

    /// Where the present document was asked for; for one that came by itself, the line's webhook.
    pub(in crate::bridge) fn asked(&self) -> Option<&VoiceUrl> {
        let of_line = self.line.as_ref().map(|line| &line.webhook.url);
        self.asked.as_ref().or(of_line)
    }
}
