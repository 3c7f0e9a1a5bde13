//! From what was given to the settings, with every mistake and warning. Reads
//! files' readability and the host's name, binds and connects nothing.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::time::Duration;

use super::access;
use super::agents;
use super::callbacks::callbacks;
use super::callers;
use super::cluster;
use super::config_error::{ConfigError, FlagProblem, Warning};
use super::dialling::dialling;
use super::flags::FLAGS;
use super::log_filter::log_filter;
use super::raw_args::RawArgs;
use super::reader::Reader;
use super::records;
use super::settings::{
    AnswerMode, AudioConfig, CallsConfig, Config, Database, Dispatch, FlagsLine, LogFormat,
    NetworkConfig, SipConfig, TurnServer,
};
use super::speech;
use super::twilio;
use super::voice;
use super::workers::{queue, worker};
use crate::core::address::Transport;
use crate::core::cluster::NodeId;
use crate::core::ids::AccountSid;
use crate::core::key::MasterKey;
use crate::core::private::{Private, Secret};
use crate::sip::source::Latch;

/// Flags that are listed and not built: refused when given.
const NOT_BUILT: [(&str, &str); 1] = [("no-auto-answer", "Calls are answered as --answer says")];
const VAD: &str = "RTP flows without pause, as NATs and trunks want it";
const NO_EC: &str = "has no effect: a bridge without a sound device has no echo to cancel";
const DATABASE_EXAMPLE: &str =
    "sqlite:///var/lib/sipbridge/sipbridge.db or postgres://user:password@host/name";
/// Most calls of the SIP engine.
const CALLS_MAX: u64 = 1_024;
/// Nobody means more than this.
const CALLS_PER_SECOND_MAX: u64 = 10_000;
const LATE_MS_MAX: u64 = 10_000;

/// Settings with everything that is wrong with them.
#[derive(Debug)]
pub struct Checked {
    /// The settings; where there are mistakes, defaults stand in.
    pub config: Config,
    /// What keeps the bridge from starting.
    pub mistakes: Vec<ConfigError>,
    /// What has no effect.
    pub warnings: Vec<Warning>,
}

/// Validates what was given.
#[must_use]
pub fn validate(given: RawArgs) -> Checked {
    let mut reader = Reader::new(given);
    refuse_not_built(&mut reader);
    let config = config(&mut reader);
    check_together(&config, &mut reader);
    // In the order of --help, whatever order they were found in.
    reader
        .mistakes
        .sort_by_key(|mistake| FLAGS.iter().position(|flag| flag.name == mistake.flag));
    Checked {
        config,
        mistakes: reader.mistakes,
        warnings: reader.warnings,
    }
}

/// The key alone, for `encrypt`.
///
/// # Errors
/// When it is missing or malformed.
pub fn encryption_key(given: RawArgs) -> Result<MasterKey, Vec<ConfigError>> {
    let mut reader = Reader::new(given);
    let key = key(&mut reader);
    // Other variables are not this subcommand's business.
    let mut mistakes = reader.mistakes;
    mistakes.retain(|mistake| mistake.flag == "encryption-key");
    if key.is_none() && mistakes.is_empty() {
        let problem = FlagProblem::Missing("make one with `openssl rand -hex 32`, and keep it");
        mistakes.push(ConfigError::new("encryption-key", problem));
    }
    key.ok_or(mistakes)
}

fn refuse_not_built(reader: &mut Reader) {
    for (name, instead) in NOT_BUILT {
        if reader.switch(name) {
            reader.mistake(name, FlagProblem::NotBuilt(instead));
        }
    }
    if reader.switch("vad") {
        reader.mistake("vad", FlagProblem::NotBuilt(VAD));
    }
    if reader.switch("no-ec") {
        reader.warn("no-ec", NO_EC);
    }
    if reader.given.explicit("ec-tail-ms").is_some() {
        reader.warn("ec-tail-ms", NO_EC);
    }
}

fn config(reader: &mut Reader) -> Config {
    let network = network(reader);
    let ws_target = reader.url("ws-target", &["ws", "wss"], "ws://127.0.0.1:9000/media");
    let (encryption_key, node_id) = (key(reader), node_id(reader));
    let voice = voice::voice(reader);
    let database = database(reader);
    Config {
        agents: agents::agents(reader, database.is_some()),
        callbacks: callbacks(reader, ws_target.as_ref(), voice.as_ref()),
        voice,
        speech: speech::speech(reader),
        sip: sip(reader),
        flags_line: flags_line(reader),
        lines_file: reader.file("lines"),
        database,
        keep_records: records::keep_records(reader),
        account_sid: account_sid(reader, encryption_key.as_ref(), &node_id),
        encryption_key,
        calls: calls(reader, network.rtp_ports),
        dialling: dialling(reader),
        network,
        audio: AudioConfig {
            rx_gain: reader.gain("rx-gain"),
            tx_gain: reader.gain("tx-gain"),
            ringback: reader.choice("ringback", "on or off", [true, false]),
        },
        worker: worker(reader, ws_target),
        queue: queue(reader),
        twilio: twilio::twilio(reader),
        cluster: cluster::cluster(reader),
        node_id,
        api_bind: reader
            .address("api-bind")
            .unwrap_or(Ipv4Addr::LOCALHOST.into()),
        api_port: reader.port("api-port").unwrap_or_default(),
        api_token: access::token(reader),
        api_tls: identity(reader, "api-tls-cert", "api-tls-key"),
        api_ca: reader.file("api-ca"),
        drain_timeout: reader.seconds("drain-timeout", 0.0),
        shutdown_timeout: reader.seconds("shutdown-timeout", 0.0),
        log_format: reader.choice(
            "log-format",
            "text or json",
            [LogFormat::Text, LogFormat::Json],
        ),
        log_filter: log_filter(reader),
    }
}

fn sip(reader: &mut Reader) -> SipConfig {
    let transport = transport(reader);
    SipConfig {
        domain: reader.host("sip-domain"),
        port: reader.port("sip-port").unwrap_or(transport.default_port()),
        transport,
        expires: reader.seconds("sip-reg-timeout", 10.0),
        register: !reader.switch("no-register"),
        trust_privacy: reader.choice("trust-privacy", "yes or no", [true, false]),
        callers: callers::callers(reader),
        tls_identity: identity(reader, "tls-cert", "tls-key"),
        tls_ca: reader.file("tls-ca"),
        tls_insecure: reader.switch("tls-insecure"),
    }
}

fn transport(reader: &mut Reader) -> Transport {
    let text = reader.text("sip-transport").unwrap_or_default();
    let all = [Transport::Udp, Transport::Tcp, Transport::Tls];
    let known = all
        .into_iter()
        .find(|transport| transport.as_str().eq_ignore_ascii_case(&text));
    if known.is_none() && !text.is_empty() {
        reader.mistake("sip-transport", FlagProblem::OneOf("udp, tcp or tls"));
    }
    known.unwrap_or(Transport::Udp)
}

/// A certificate and its key: both, or neither.
fn identity(
    reader: &mut Reader,
    cert: &'static str,
    key: &'static str,
) -> Option<(PathBuf, PathBuf)> {
    let given = |reader: &Reader, name| reader.given.explicit(name).is_some();
    match (given(reader, cert), given(reader, key)) {
        (true, false) => reader.mistake(cert, FlagProblem::Needs(key)),
        (false, true) => reader.mistake(key, FlagProblem::Needs(cert)),
        _ => {}
    }
    reader.file(cert).zip(reader.file(key))
}

/// The line of the flags. `--sip-domain` alone serves the lines of a file.
fn flags_line(reader: &mut Reader) -> Option<FlagsLine> {
    let domain = reader.given.explicit("sip-domain").is_some();
    let username = reader.text("sip-username");
    let password = reader.secret("sip-password");
    let Some(username) = username else {
        if password.is_some() {
            reader.mistake("sip-password", FlagProblem::Needs("sip-username"));
        }
        return None;
    };
    let breaks =
        |c: char| c.is_whitespace() || c.is_control() || matches!(c, '@' | '<' | '>' | '"' | '\\');
    if username.contains(breaks) {
        reader.mistake("sip-username", FlagProblem::UserName);
    }
    if !domain {
        reader.mistake("sip-username", FlagProblem::Needs("sip-domain"));
    }
    let domain = reader.given.explicit("sip-domain")?;
    Some(FlagsLine {
        // What is wrong with it is reported where the domain itself is read.
        domain: crate::core::address::HostPort::parse(domain).ok()?,
        username: Private::new(username),
        password,
    })
}

fn key(reader: &mut Reader) -> Option<MasterKey> {
    let text = reader.secret("encryption-key")?;
    match MasterKey::parse(text.expose()) {
        Ok(key) => Some(key),
        Err(error) => {
            reader.mistake("encryption-key", error.into());
            None
        }
    }
}

/// The key is the same for all bridges that share lines, a node's name is not.
fn account_sid(reader: &mut Reader, key: Option<&MasterKey>, node_id: &str) -> AccountSid {
    let derived = || key.map_or_else(|| AccountSid::of_node(node_id), AccountSid::of_key);
    let Some(given) = reader.text("account-sid") else {
        return derived();
    };
    AccountSid::parse(&given).unwrap_or_else(|| {
        reader.mistake("account-sid", FlagProblem::AccountSid);
        derived()
    })
}

/// `sqlite:///path` or `postgres://…`, else the file of `--data-dir`.
fn database(reader: &mut Reader) -> Option<Database> {
    let folder = reader.text("data-dir");
    let text = reader.given.explicit("database-url").map(str::to_owned);
    let Some(text) = text.map(Secret::new) else {
        return folder.map(|folder| Database::DataDir(folder.into()));
    };
    if folder.is_some() {
        reader.warn("data-dir", "has no effect beside --database-url");
    }
    if let Some(path) = text.expose().strip_prefix("sqlite://") {
        if !path.starts_with('/') || path.ends_with('/') || path.contains(['?', '#', '\0']) {
            reader.mistake("database-url", FlagProblem::SqliteUrl);
            return None;
        }
        return Some(Database::Sqlite(path.into()));
    }
    reader
        .url(
            "database-url",
            &["postgres", "postgresql"],
            DATABASE_EXAMPLE,
        )
        .map(Database::Postgres)
}

fn network(reader: &mut Reader) -> NetworkConfig {
    let stun_server = reader.host("stun-server");
    let turn_server = turn_server(reader);
    let public_address = reader.address("public-address");
    if public_address.is_some_and(|address| address.is_unspecified()) {
        reader.mistake("public-address", FlagProblem::Unspecified);
    }
    let servers = stun_server.is_some() || turn_server.is_some();
    let no_ice = reader.switch("no-ice");
    NetworkConfig {
        bind: reader
            .address("bind")
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)),
        resolv_conf: resolv_conf(reader),
        public_address,
        rtp_ports: rtp_ports(reader),
        rtp_latch: reader.choice("rtp-latch", "peer or any", [Latch::Peer, Latch::Any]),
        ice: servers && !no_ice,
        stun_server,
        turn_server,
    }
}

/// The system's own file may be missing; one that is asked for may not.
fn resolv_conf(reader: &mut Reader) -> PathBuf {
    let asked = match reader.given.explicit("resolv-conf") {
        Some(_) => reader.file("resolv-conf"),
        None => None,
    };
    asked.unwrap_or_else(|| PathBuf::from("/etc/resolv.conf"))
}

fn turn_server(reader: &mut Reader) -> Option<TurnServer> {
    let address = reader.host("turn-server");
    let username = reader.text("turn-username");
    let password = reader.secret("turn-password");
    let is_given = reader.given.explicit("turn-server").is_some();
    match (is_given, &username, &password) {
        (true, None, _) => reader.mistake("turn-server", FlagProblem::Needs("turn-username")),
        (true, _, None) => reader.mistake("turn-server", FlagProblem::Needs("turn-password")),
        (false, Some(_), _) => reader.mistake("turn-username", FlagProblem::Needs("turn-server")),
        (false, _, Some(_)) => reader.mistake("turn-password", FlagProblem::Needs("turn-server")),
        _ => {}
    }
    Some(TurnServer {
        address: address?,
        username: username?,
        password: password?,
    })
}

/// RTP takes an even port and RTCP the one after it (RFC 3550 section 11).
fn rtp_ports(reader: &mut Reader) -> (u16, u16) {
    const DEFAULT: (u16, u16) = (10_000, 20_000);
    let Some(text) = reader.text("rtp-ports") else {
        return DEFAULT;
    };
    let range = text.split_once('-').and_then(|(first, last)| {
        let first: u16 = first.trim().parse().ok()?;
        let last: u16 = last.trim().parse().ok()?;
        (first > 0 && first <= last).then_some((first, last))
    });
    let Some((first, last)) = range else {
        reader.mistake("rtp-ports", FlagProblem::PortRange);
        return DEFAULT;
    };
    let even = first.saturating_add(first % 2);
    if even >= last {
        reader.mistake("rtp-ports", FlagProblem::NoPorts);
        return DEFAULT;
    }
    (even, last)
}

fn calls(reader: &mut Reader, rtp_ports: (u16, u16)) -> CallsConfig {
    let limit = |duration: Duration| Some(duration).filter(|duration| !duration.is_zero());
    CallsConfig {
        max_calls: max_calls(reader, rtp_ports),
        max_per_second: reader
            .whole("max-calls-per-second", 0, CALLS_PER_SECOND_MAX)
            .and_then(|calls| u32::try_from(calls).ok())
            .unwrap_or_default(),
        max_late: reader
            .whole("max-late-ms", 0, LATE_MS_MAX)
            .map(Duration::from_millis)
            .and_then(limit),
        max_duration: limit(reader.seconds("max-call-duration", 0.0)),
        rtp_timeout: limit(reader.seconds("rtp-timeout", 0.0)),
        answer: reader.choice(
            "answer",
            "immediate or on-worker",
            [AnswerMode::Immediate, AnswerMode::OnWorker],
        ),
    }
}

/// More calls than there are ports would be accepted and then fail.
fn max_calls(reader: &mut Reader, (first, last): (u16, u16)) -> u32 {
    let room = u32::from(last - first).div_ceil(2);
    let calls = reader.whole("max-concurrent-calls", 1, CALLS_MAX);
    let calls = calls.and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
    if calls > room && reader.given.explicit("max-concurrent-calls").is_some() {
        reader.mistake("max-concurrent-calls", FlagProblem::NoRoom { calls, room });
    }
    calls.min(room)
}

/// The host's name keeps a restarted bridge under its own keys in Redis.
fn node_id(reader: &mut Reader) -> String {
    let is_name = |name: &str| NodeId::parse(name).is_some();
    let given = reader.text("node-id");
    if given.as_ref().is_some_and(|name| !is_name(name)) {
        reader.mistake("node-id", FlagProblem::Name);
    }
    given
        .or_else(|| std::fs::read_to_string("/proc/sys/kernel/hostname").ok())
        .map(|name| name.trim().to_owned())
        .filter(|name| is_name(name))
        .unwrap_or_else(|| "sipbridge".to_owned())
}

/// Mistakes that lie between flags.
fn check_together(config: &Config, reader: &mut Reader) {
    let is_given = |name: &str| reader.given.explicit(name).is_some();
    let ways = ["redis-url", "ws-target", "voice-url"];
    let no_worker = !ways.into_iter().any(is_given);
    let no_line = !is_given("sip-username") && !is_given("lines") && config.database.is_none();
    let no_line = no_line && !is_given("database-url");
    let no_redis = !is_given("redis-url");
    if no_worker {
        let why = "no call could ever reach a worker. Give --redis-url (REDIS_URL) for workers \
                   that take jobs, --ws-target (WS_TARGET) for a worker to dial, or --voice-url (VOICE_URL) \
                   for a bot that answers TwiML";
        reader.mistake("redis-url", FlagProblem::Missing(why));
    }
    if no_line {
        let why = "there is no phone line. Give --sip-domain and --sip-username (SIP_DOMAIN, \
                   SIP_USERNAME) for one, or --lines (LINES_FILE) or --database-url (DATABASE_URL) for many";
        reader.mistake("sip-username", FlagProblem::Missing(why));
    }
    for name in ["stream-url", "stream-port", "queue", "redis-ca"] {
        if no_redis && !no_worker && reader.given.explicit(name).is_some() {
            reader.warn(name, "has no effect without --redis-url");
        }
    }
    for name in ["stream-url", "stream-port", "queue"] {
        let is_pushed = config.worker.dispatch == Dispatch::Push;
        if !no_redis && is_pushed && reader.given.explicit(name).is_some() {
            reader.warn(
                name,
                "has no effect with --dispatch push: there are no jobs",
            );
        }
    }
    voice::check_dispatch(config.worker.dispatch, reader);
    access::check(config.api_bind, reader);
    twilio::check(config, reader);
    records::check(config.database.is_some(), reader);
    check_ports(config, reader);
}

fn check_ports(config: &Config, reader: &mut Reader) {
    let is_queued = config.worker.dispatch == Dispatch::Queue;
    let stream = config.queue.as_ref().filter(|_| is_queued);
    let stream = stream.map(|queue| queue.stream_port);
    let is_tcp = config.sip.transport != Transport::Udp;
    let (sip, api) = (config.sip.port, config.api_port);
    if api != 0 && stream == Some(api) {
        reader.mistake("stream-port", FlagProblem::SamePort("api-port"));
    }
    if is_tcp && sip != 0 && sip == api {
        reader.mistake("sip-port", FlagProblem::SamePort("api-port"));
    }
    if is_tcp && sip != 0 && stream == Some(sip) {
        reader.mistake("sip-port", FlagProblem::SamePort("stream-port"));
    }
    let (first, last) = config.network.rtp_ports;
    if !is_tcp && (first..=last).contains(&sip) {
        reader.mistake("sip-port", FlagProblem::InRtpPorts);
    }
}
