//! What all calls share: the engine, the pacer, the queue, the workers'
//! door, the lines' profiles and the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::audio_metrics::AudioMetrics;
use super::call_store::CallStore;
use super::call_terms::CallTerms;
use super::dialling::Dialling;
pub use super::incoming::IncomingAsk;
use super::shutdown::Shutdown;
use crate::core::call::{AnswerMode, CallPolicy, IdleSound, Route, SearchPolicy};
use crate::core::g711::Gain;
use crate::core::ids::AccountSid;
use crate::core::media_link::{Codec, Direction, MediaFormat};
use crate::core::media_session::{MediaSession, SessionConfig, downlink};
use crate::core::opus::OpusError;
use crate::core::outward::Outward;
use crate::core::signature::Signer;
use crate::fleet::{CallLimiter, LineDirectory, LineProfile};
use crate::media::pacer::Pacer;
use crate::media::sounds::Sounds;
use crate::queue::Queue;
use crate::sip::engine::SharedEngine;
use crate::sip::header_names::HeaderNames;
use crate::store::CallLog;
use crate::worker::{AttachTable as Workers, Dialer, WorkerError};

/// What every call goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When to answer.
    pub answer: AnswerMode,
    /// How long a caller waits for a worker.
    pub worker_timeout: Duration,
    /// How long a taken job may go undialled.
    pub claim_timeout: Duration,
    /// Most jobs for a caller who has no steady worker.
    pub max_attempts: u32,
    /// Longest call.
    pub max_duration: Option<Duration>,
    /// How long the caller's RTP may stop; `None`: for ever.
    pub media_timeout: Option<Duration>,
    /// Whether a waiting caller hears ringback; silence otherwise.
    pub ringback: bool,
    /// Applied to the caller's audio.
    pub rx_gain: Gain,
    /// Applied to the worker's audio.
    pub tx_gain: Gain,
    /// `accountSid` of every `start` and `stop`.
    pub account_sid: AccountSid,
    /// Where workers reach the stream port: `ws://host:port`.
    pub stream_url: String,
    /// `--param`, for every call's `customParameters`.
    pub params: BTreeMap<String, String>,
    /// `--sip-headers`: those of an INVITE that go into them too.
    pub sip_headers: HeaderNames,
    /// `--trust-privacy`: whether a caller who wants privacy is `anonymous`.
    pub trust_privacy: bool,
}

/// What all calls share.
pub struct Context {
    /// See [`Settings`].
    pub settings: Settings,
    /// The SIP engine.
    pub engine: SharedEngine,
    /// The clock of outgoing audio.
    pub pacer: Pacer,
    /// Redis, in queue mode.
    pub queue: Option<Queue>,
    /// Takes the records of calls, where there is a database.
    pub call_log: Option<CallLog>,
    /// Dials `--ws-target`, where given.
    pub dialer: Option<Dialer>,
    /// Asked before a call is taken, where there is an incoming callback.
    pub ask: Option<Arc<dyn IncomingAsk>>,
    /// Signs the upgrades of calls with a worker of their own.
    pub signer: Option<Signer>,
    /// Where clients' own addresses may lead.
    pub outward: Arc<Outward>,
    /// Calls that wait for a worker to dial in.
    pub workers: Workers,
    /// Calls in progress.
    pub call_limiter: Arc<CallLimiter>,
    /// Audio in the calls.
    pub gauges: Arc<AudioMetrics>,
    /// The lines.
    pub lines: LineDirectory,
    /// The calls as the API sees them.
    pub calls: Arc<CallStore>,
    /// Ringback and announcement.
    pub sounds: Sounds,
    /// Whom the lines may call.
    pub dialling: Dialling,
    /// The signal that calls must end.
    pub shutdown: Shutdown,
}

impl Context {
    /// Dials a worker's address that a client of ours wrote.
    pub(super) fn foreign_dialer(&self, url: &str) -> Result<Dialer, WorkerError> {
        Dialer::new(url, None)?.guarded(self.outward.clone(), self.signer.as_ref())
    }

    /// What a call of this line may do.
    pub(super) fn policy(&self, line: &LineProfile, terms: &CallTerms) -> CallPolicy {
        CallPolicy {
            answer: self.settings.answer,
            search: SearchPolicy {
                route: match terms.dialer {
                    Some(_) => Route::Dial,
                    None => self.route(),
                },
                worker_timeout: self.settings.worker_timeout,
                claim_timeout: self.settings.claim_timeout,
                max_attempts: self.settings.max_attempts,
            },
            max_duration: self.settings.max_duration,
            media_timeout: self.settings.media_timeout,
            fallback_number: line.fallback_number.clone(),
        }
    }

    fn route(&self) -> Route {
        match (&self.queue, &self.dialer) {
            (Some(_), Some(_)) => Route::QueueThenDial,
            (None, Some(_)) => Route::Dial,
            (_, None) => Route::Queue,
        }
    }

    /// The sound of a new leg; RTP starts at random places (RFC 3550, 5.1).
    pub(super) fn new_session(&self, format: &MediaFormat) -> Result<MediaSession, OpusError> {
        MediaSession::new(SessionConfig {
            format: *format,
            rx_gain: self.settings.rx_gain.clone(),
            tx_gain: self.settings.tx_gain.clone(),
            sequence: rand::random(),
            timestamp: rand::random(),
            now: std::time::Instant::now(),
        })
    }

    /// What the caller hears now.
    pub(super) fn idle_audio(
        &self,
        idle_audio: IdleSound,
        line: &LineProfile,
    ) -> downlink::IdleAudio {
        if let (IdleSound::Waiting, Some(greeting)) = (idle_audio, &line.greeting) {
            return downlink::IdleAudio::Once(greeting.clone());
        }
        match idle_audio {
            IdleSound::Silence => downlink::IdleAudio::Silence,
            IdleSound::Hold => downlink::IdleAudio::Loop(self.sounds.hold.clone()),
            IdleSound::Announcement => {
                let own = line.announcement.as_ref();
                downlink::IdleAudio::Once(own.unwrap_or(&self.sounds.unavailable).clone())
            }
            IdleSound::Waiting | IdleSound::Ringback if self.settings.ringback => {
                downlink::IdleAudio::Loop(self.sounds.ringback.clone())
            }
            IdleSound::Waiting | IdleSound::Ringback => downlink::IdleAudio::Silence,
        }
    }
}

/// What a call goes by before its media is negotiated: the worker may be
/// there first, and its audio must be kept.
pub(super) fn provisional_format() -> MediaFormat {
    MediaFormat {
        codec: Codec::Pcmu,
        send_payload_type: 0,
        receive_payload_type: 0,
        send_event_type: None,
        receive_event_type: None,
        ssrc: 0,
        direction: Direction::SendRecv,
    }
}
