//! The settings of a bridge, validated and typed. `Debug` shows no secrets.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::agents::AgentsConfig;
use super::callbacks::CallbacksConfig;
use super::callers::CallersConfig;
use super::dialling::DiallingConfig;
use super::speech::SpeechConfig;
use super::twilio::TwilioConfig;
use super::url::ServiceUrl;
use crate::core::address::{HostPort, Transport};
pub use crate::core::call::AnswerMode;
use crate::core::ids::AccountSid;
use crate::core::key::MasterKey;
use crate::core::private::{Private, Secret};
use crate::core::voice::VoiceLine;
use crate::sip::header_names::HeaderNames;
use crate::sip::source::Latch;

/// Everything the program was told.
#[derive(Clone, Debug)]
pub struct Config {
    /// SIP signalling.
    pub sip: SipConfig,
    /// The line that the flags describe, where they do.
    pub flags_line: Option<FlagsLine>,
    /// `--lines`.
    pub lines_file: Option<PathBuf>,
    /// `--database-url`, or the file of `--data-dir`; none without either.
    pub database: Option<Database>,
    /// `--keep-records`: how long after its end the record of a call is
    /// deleted; `None` for never.
    pub keep_records: Option<Duration>,
    /// `--encryption-key`.
    pub encryption_key: Option<MasterKey>,
    /// Sockets and NAT.
    pub network: NetworkConfig,
    /// Audio.
    pub audio: AudioConfig,
    /// Limits of calls.
    pub calls: CallsConfig,
    /// Whom the lines may call.
    pub dialling: DiallingConfig,
    /// How workers get their calls.
    pub worker: WorkerConfig,
    /// The bot that answers TwiML, where `--voice-url` is given.
    pub voice: Option<VoiceLine>,
    /// The service that speaks the texts of `<Say>`, where `--say-url` is given.
    pub speech: Option<SpeechConfig>,
    /// Redis, where `--redis-url` is given.
    pub queue: Option<QueueSettings>,
    /// Lines that are Twilio's, where `--public-url` is given.
    pub twilio: Option<TwilioConfig>,
    /// How lines are shared with other bridges; `None` for not at all.
    pub cluster: Option<ClusterConfig>,
    /// Callbacks over HTTP.
    pub callbacks: CallbacksConfig,
    /// Agents per tenant; `None` without `--agents`. There is a database where they are.
    pub agents: Option<AgentsConfig>,
    /// `--node-id`, or the host's name.
    pub node_id: String,
    /// `--account-sid`, or what is derived.
    pub account_sid: AccountSid,
    /// `--api-bind`.
    pub api_bind: IpAddr,
    /// `--api-port`.
    pub api_port: u16,
    /// `--api-token`; always there when `--api-bind` is not loopback.
    pub api_token: Option<Secret>,
    /// `--api-tls-cert` and `--api-tls-key`.
    pub api_tls: Option<(PathBuf, PathBuf)>,
    /// `--api-ca`: trusted of other bridges' APIs instead of the public roots.
    pub api_ca: Option<PathBuf>,
    /// `--drain-timeout`.
    pub drain_timeout: Duration,
    /// `--shutdown-timeout`; begins when draining is over.
    pub shutdown_timeout: Duration,
    /// `--log-format`.
    pub log_format: LogFormat,
    /// `--log-level`: a filter of `tracing_subscriber::EnvFilter`.
    pub log_filter: String,
}

/// Where lines, servers and call records are kept.
#[derive(Clone, Debug)]
pub enum Database {
    /// A file.
    Sqlite(PathBuf),
    /// The file that `--data-dir` implies; the folder is created when absent.
    DataDir(PathBuf),
    /// A PostgreSQL server.
    Postgres(ServiceUrl),
}

/// SIP signalling.
#[derive(Clone, Debug)]
pub struct SipConfig {
    /// `--sip-domain`: also of lines that name no domain or server.
    pub domain: Option<HostPort>,
    /// `--sip-port`; 0 lets the system choose.
    pub port: u16,
    /// `--sip-transport`.
    pub transport: Transport,
    /// `--sip-reg-timeout`: expiry asked for in REGISTER.
    pub expires: Duration,
    /// False with `--no-register`.
    pub register: bool,
    /// `--trust-privacy`: whether a caller who withholds his number is told as
    /// `anonymous`.
    pub trust_privacy: bool,
    /// From whom calls are taken.
    pub callers: CallersConfig,
    /// `--tls-cert` and `--tls-key`.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
    /// `--tls-ca`.
    pub tls_ca: Option<PathBuf>,
    /// `--tls-insecure`.
    pub tls_insecure: bool,
}

/// The line of `--sip-domain`, `--sip-username`, `--sip-password`.
#[derive(Clone, Debug)]
pub struct FlagsLine {
    /// `--sip-domain`.
    pub domain: HostPort,
    /// `--sip-username`.
    pub username: Private,
    /// `--sip-password`, in clear.
    pub password: Option<Secret>,
}

/// Sockets and NAT.
#[derive(Clone, Debug)]
pub struct NetworkConfig {
    /// `--bind`: local address of SIP, RTP and the workers' port.
    pub bind: IpAddr,
    /// `--resolv-conf`.
    pub resolv_conf: PathBuf,
    /// `--public-address`.
    pub public_address: Option<IpAddr>,
    /// `--rtp-ports`: first and last, both included; the first is even.
    pub rtp_ports: (u16, u16),
    /// `--rtp-latch`: whose RTP a call takes beside the address of its SDP.
    pub rtp_latch: Latch,
    /// `--stun-server`.
    pub stun_server: Option<HostPort>,
    /// `--turn-server` and its credential.
    pub turn_server: Option<TurnServer>,
    /// Whether ICE is used: with a STUN or TURN server, without `--no-ice`.
    /// Trunks on public addresses do not speak ICE, and it costs each call
    /// sockets, memory and time to answer.
    pub ice: bool,
}

/// A TURN server.
#[derive(Clone, Debug)]
pub struct TurnServer {
    /// `--turn-server`.
    pub address: HostPort,
    /// `--turn-username`.
    pub username: String,
    /// `--turn-password`.
    pub password: Secret,
}

/// Audio.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AudioConfig {
    /// `--rx-gain`: factor from caller to worker; 1.0 leaves it untouched.
    pub rx_gain: f32,
    /// `--tx-gain`: factor from worker to caller.
    pub tx_gain: f32,
    /// `--ringback`: played to an answered caller until a worker is there.
    pub ringback: bool,
}

/// Limits of calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallsConfig {
    /// `--max-concurrent-calls`, or what `--rtp-ports` has room for.
    pub max_calls: u32,
    /// `--max-calls-per-second`; 0 for any number.
    pub max_per_second: u32,
    /// `--max-late-ms`: later audio is an overload; `None` for never.
    pub max_late: Option<Duration>,
    /// `--max-call-duration`.
    pub max_duration: Option<Duration>,
    /// `--rtp-timeout`: how long a caller may send no RTP, unless on hold.
    pub rtp_timeout: Option<Duration>,
    /// `--answer`.
    pub answer: AnswerMode,
}

/// How bridges share their lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClusterConfig {
    /// `--lease-ttl`: how long the lines of a bridge stay its own after its last heartbeat.
    pub lease_ttl: Duration,
    /// `--handover-timeout`: how long a bridge that ends waits for others to take its lines.
    pub handover_timeout: Duration,
}

/// How a call finds its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dispatch {
    /// As a job in Redis.
    Queue,
    /// The worker is dialled.
    Push,
}

/// How workers get their calls.
#[derive(Clone, Debug)]
pub struct WorkerConfig {
    /// `--dispatch`, or what there is.
    pub dispatch: Dispatch,
    /// `--ws-target`: the worker to dial.
    pub ws_target: Option<ServiceUrl>,
    /// `--worker-timeout`.
    pub timeout: Duration,
    /// `--claim-timeout`.
    pub claim_timeout: Duration,
    /// `--max-attempts`.
    pub max_attempts: u32,
    /// `--param`.
    pub params: BTreeMap<String, String>,
    /// `--sip-headers`: headers of an INVITE that workers get.
    pub sip_headers: HeaderNames,
}

/// Redis and the workers that take jobs from it.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// `--redis-url`.
    pub redis_url: ServiceUrl,
    /// `--redis-ca`: trusted for `rediss://` instead of the public roots.
    pub redis_ca: Option<PathBuf>,
    /// `--queue`.
    pub queue: String,
    /// `--stream-port`, on `NetworkConfig::bind`.
    pub stream_port: u16,
    /// `--stream-url`, without a slash at its end.
    pub stream_url: Option<String>,
}

/// Form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}
