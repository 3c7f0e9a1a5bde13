//! What a bridge is composed of: the engine, the pacer, the queue, the
//! workers' door, the lines' profiles and the settings.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use super::audio_metrics::AudioMetrics;
pub use super::call::incoming::IncomingAsk;
pub use super::call::voice_fetch::{VoiceHttp, Waited};
use super::call_store::CallStore;
use super::dialling::Dialling;
use super::shutdown::Shutdown;
use crate::agents::AgentDirectory;
use crate::core::call::AnswerMode;
use crate::core::g711::Gain;
use crate::core::ids::AccountSid;
use crate::core::media_link::{Codec, Direction, MediaFormat};
use crate::core::outward::Outward;
use crate::core::signature::Signer;
use crate::core::voice::VoiceLine;
use crate::fleet::{CallLimiter, LineDirectory};
use crate::media::pacer::Pacer;
use crate::media::sounds::Sounds;
use crate::queue::Queue;
use crate::sip::engine::SharedEngine;
use crate::sip::header_names::HeaderNames;
use crate::store::CallLog;
use crate::worker::{AttachTable as Workers, Dialer};

/// How long calls ring at a bridge that is cut off: longer than a worker takes to answer
/// at the bridge that has its lines now.
pub const RING_WHILE_CUT_OFF: Duration = Duration::from_secs(4);

/// What every call goes by.
#[derive(Clone, Debug)]
pub struct Settings {
    /// When to answer.
    pub answer: AnswerMode,
    /// Whether calls become jobs in Redis; else their worker is dialled.
    pub pushes_jobs: bool,
    /// How long a caller waits for a worker.
    pub worker_timeout: Duration,
    /// How long a call that comes while the bridge is cut off from its cluster rings
    /// before it is served by the fallback.
    pub ring_while_cut_off: Duration,
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
    /// `--voice-url` and what belongs to it, for lines without their own.
    pub voice: Option<VoiceLine>,
    /// `--trust-privacy`: whether a caller who wants privacy is `anonymous`.
    pub trust_privacy: bool,
}

/// The handles of a running bridge, for whoever composes it: each part and the
/// API are made with the few that they need.
pub struct Context {
    /// See [`Settings`].
    pub settings: Settings,
    /// The SIP engine.
    pub engine: SharedEngine,
    /// The clock of outgoing audio.
    pub pacer: Arc<Pacer>,
    /// Redis, in queue mode.
    pub queue: Option<Queue>,
    /// Takes the records of calls, where there is a database.
    pub call_log: Option<CallLog>,
    /// Dials `--ws-target`, where given.
    pub dialer: Option<Dialer>,
    /// The agents of tenants, where `--agents` is on.
    pub agents: Option<AgentDirectory>,
    /// Asked before a call is taken, where there is an incoming callback.
    pub ask: Option<Arc<dyn IncomingAsk>>,
    /// Asks voice webhooks.
    pub voice_http: Arc<dyn VoiceHttp>,
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
    pub dialling: Arc<Dialling>,
    /// The signal that calls must end.
    pub shutdown: Arc<Shutdown>,
    /// Whether the bridge is cut off from its cluster: others may have taken its lines
    /// over, and the same calls ring there.
    pub cut_off: Arc<AtomicBool>,
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
