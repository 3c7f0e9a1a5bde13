//! Every flag of the command line, in one table: its name, environment
//! variable, default and help. Drives clap, the reading of the environment,
//! and the tests that hold `.env.example` to it.
//!
//! Values are texts here; what they mean is in `validate`.

use clap::{Arg, ArgAction, Command};

/// How a flag is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FlagKind {
    /// `--flag VALUE`.
    Value(&'static str),
    /// `--flag`, or `--flag=no`; the variable holds 1, true, yes or on.
    Switch,
    /// `--flag VALUE`, repeated; the variable holds them with commas between.
    Many(&'static str),
}

/// One flag.
#[derive(Clone, Copy, Debug)]
pub struct Flag {
    /// Without the two dashes.
    pub name: &'static str,
    /// Its environment variable.
    pub env: &'static str,
    /// How it is written.
    pub kind: FlagKind,
    /// The value it has when absent, where that is a fixed one.
    pub default: Option<&'static str>,
    /// One or two sentences, with the unit.
    pub help: &'static str,
    /// Which group of `--help` it stands in.
    pub heading: &'static str,
}

const fn value(name: &'static str, env: &'static str, shown: &'static str) -> Flag {
    Flag {
        name,
        env,
        kind: FlagKind::Value(shown),
        default: None,
        help: "",
        heading: "",
    }
}

const fn switch(name: &'static str, env: &'static str) -> Flag {
    Flag {
        kind: FlagKind::Switch,
        ..value(name, env, "")
    }
}

impl Flag {
    const fn or(self, default: &'static str) -> Self {
        Self {
            default: Some(default),
            ..self
        }
    }

    /// The variable that names a file with the value, for secrets: what
    /// Docker and Kubernetes hand out.
    #[must_use]
    pub fn file_env(&self) -> Option<String> {
        let is_secret = SECRET_FLAGS.contains(&self.name);
        is_secret.then(|| format!("{}_FILE", self.env))
    }

    const fn help(self, heading: &'static str, help: &'static str) -> Self {
        Self {
            heading,
            help,
            ..self
        }
    }
}

const SIP: &str = "SIP";
const LINES: &str = "Phone lines";
const NET: &str = "Network";
const AUDIO: &str = "Audio";
const CALLS: &str = "Calls";
const WORKER: &str = "Workers";
const CALLBACKS: &str = "Callbacks";
const AGENTS: &str = "Agents";
const RUN: &str = "Running";
const OLD: &str = "Kept from the program this one replaces";

/// All flags. Variables have the flag's name, but for a few whose plain name
/// other programs set for themselves (shells set LINES).
pub const FLAGS: &[Flag] = &[
    value("sip-domain", "SIP_DOMAIN", "HOST[:PORT]")
        .help(SIP, "Registrar's domain, for the line of --sip-username and for lines without a sipDomain"),
    value("sip-username", "SIP_USERNAME", "USER")
        .help(SIP, "User name of a line given by flags; its id is \"default\""),
    value("sip-password", "SIP_PASSWORD", "PASSWORD")
        .help(SIP, "Its password, in clear. Other users see command lines: prefer the variable"),
    value("sip-port", "SIP_PORT", "PORT")
        .help(SIP, "Local SIP port; 0 lets the system choose [default: 5060, with tls 5061]"),
    value("sip-transport", "SIP_TRANSPORT", "udp|tcp|tls").or("udp")
        .help(SIP, "Transport towards registrars, and of the local SIP port"),
    value("sip-reg-timeout", "SIP_REG_TIMEOUT", "SECONDS").or("300")
        .help(SIP, "Expiry asked for in REGISTER, 10 or more"),
    value("trust-privacy", "TRUST_PRIVACY", "yes|no").or("yes")
        .help(SIP, "A caller who withholds his number (From anonymous, Privacy, Remote-Party-ID) is told as anonymous everywhere; with no, workers are told what the line's own server asserts all the same"),
    switch("no-register", "NO_REGISTER")
        .help(SIP, "Do not register: the lines belong to an IP trunk that knows our address"),
    value("accept", "ACCEPT", "trunks|any").or("trunks")
        .help(SIP, "From whom calls are taken. trunks: the addresses of the lines' servers, --allow-from, and whoever knows the secret part of a line's Contact, as its registrar does; others hear nothing. any: from everybody, few calls at once from unknown sources"),
    Flag { kind: FlagKind::Many("CIDR"), ..value("allow-from", "ALLOW_FROM", "") }
        .help(SIP, "Address or network, such as 192.0.2.0/24, that calls for any line may come from beside the lines' servers; may be repeated, or with commas between"),
    value("tls-cert", "TLS_CERT", "FILE")
        .help(SIP, "PEM certificate of our SIP TLS port; needs --tls-key"),
    value("tls-key", "TLS_KEY", "FILE")
        .help(SIP, "PEM key of our SIP TLS port; needs --tls-cert"),
    value("tls-ca", "TLS_CA", "FILE")
        .help(SIP, "PEM roots that SIP servers' certificates must come from and name the server [default: the system's, such as /etc/ssl/certs/ca-certificates.crt; without any, lines over TLS are refused]"),
    switch("tls-insecure", "TLS_INSECURE")
        .help(SIP, "Take any certificate of a SIP server: whoever is on the way can read and place calls"),
    value("lines", "LINES_FILE", "FILE")
        .help(LINES, "JSON array of phone lines. With a database: imported into it at every start"),
    value("database-url", "DATABASE_URL", "URL")
        .help(LINES, "Database of lines, SIP servers and call records: sqlite:///path/file.db or postgres://user:password@host/name; created and migrated at the start. Prefer the variable [default: with --data-dir the file sipbridge.db in it, else none]"),
    value("data-dir", "DATA_DIR", "FOLDER")
        .help(LINES, "Where the database is kept when no --database-url is given; created when absent"),
    value("keep-records", "KEEP_RECORDS", "DAYS").or("0")
        .help(LINES, "Delete the record of a call so many days after its end; 0 for never"),
    value("country", "COUNTRY", "CODE")
        .help(LINES, "Country of the lines whose phoneNumber is not in E.164 (+33…), two letters such as FR; numbers are told in E.164 where the line's country is known"),
    value("encryption-key", "ENCRYPTION_KEY", "HEX")
        .help(LINES, "Master key of encrypted passwords, 64 hex digits. Prefer the variable"),
    value("bind", "BIND_ADDRESS", "IP").or("0.0.0.0")
        .help(NET, "Local address of SIP, RTP and the workers' port"),
    value("resolv-conf", "RESOLV_CONF", "FILE").or("/etc/resolv.conf")
        .help(NET, "Name servers and search domains by which SIP servers are found, read again when it changes; nameserver may have a port, as in 127.0.0.1:5353"),
    value("public-address", "PUBLIC_ADDRESS", "IP")
        .help(NET, "Address that SIP and SDP announce instead of the local one, behind a static NAT"),
    value("rtp-ports", "RTP_PORTS", "FIRST-LAST").or("10000-20000")
        .help(NET, "UDP ports of RTP, two for each call"),
    value("rtp-latch", "RTP_LATCH", "peer|any").or("peer")
        .help(NET, "Whose RTP a call takes. peer: of the address in the caller's SDP, or of the one that its SIP messages come from (NAT). any: of whoever sends first, for proxies that pass on private addresses; a stranger who guesses the port may then hear the bot and speak to it until the caller does"),
    value("stun-server", "STUN_SERVER", "HOST[:PORT]")
        .help(NET, "STUN server; turns ICE on"),
    value("turn-server", "TURN_SERVER", "HOST[:PORT]")
        .help(NET, "TURN server; turns ICE on"),
    value("turn-username", "TURN_USERNAME", "USER")
        .help(NET, "User name at the TURN server"),
    value("turn-password", "TURN_PASSWORD", "PASSWORD")
        .help(NET, "Password at the TURN server. Prefer the variable"),
    switch("no-ice", "NO_ICE")
        .help(NET, "Use the STUN or TURN server without ICE"),
    value("rx-gain", "RX_GAIN", "FACTOR").or("1.0")
        .help(AUDIO, "Gain from caller to worker, 0 to 10; 1 leaves the audio untouched"),
    value("tx-gain", "TX_GAIN", "FACTOR").or("1.0")
        .help(AUDIO, "Gain from worker to caller, 0 to 10; 1 leaves the audio untouched"),
    value("ringback", "RINGBACK", "on|off").or("on")
        .help(AUDIO, "Play ringback to an answered caller until a worker is there"),
    value("max-concurrent-calls", "MAX_CONCURRENT_CALLS", "N").or("1000")
        .help(CALLS, "Most calls at once, 1 to 1024; fewer when --rtp-ports has no room for them. Of several lines, one without maxConcurrentCalls gets at most two thirds, so that others have room"),
    value("max-calls-per-second", "MAX_CALLS_PER_SECOND", "N").or("100")
        .help(CALLS, "Most new calls in a second; 0 for any number. Of several lines, one gets at most half"),
    value("max-late-ms", "MAX_LATE_MS", "MS").or("40")
        .help(CALLS, "Refuse new calls (503) while audio is later than this in 3 of 5 seconds, until 5 calm ones; 0 for never"),
    value("max-call-duration", "MAX_CALL_DURATION", "SECONDS").or("14400")
        .help(CALLS, "Longest call; 0 for no limit"),
    value("rtp-timeout", "RTP_TIMEOUT", "SECONDS").or("120")
        .help(CALLS, "End a call whose caller sends no RTP for so long, unless on hold; 0 for never. Phones that suppress silence send none while they listen"),
    Flag { kind: FlagKind::Many("PATTERN"), ..value("allow-dial", "ALLOW_DIAL", "") }
        .help(CALLS, "What calls and transfers of the API, and transfers of workers, may dial; may be repeated, or with commas between: own-country or a country (BE), without premium-rate and shared-cost numbers; +33* or +33612345678, whatever it costs; 3639 or 36* for short numbers and extensions; * for any number; sip:*@pbx.example.com; none [default: own-country]"),
    value("max-dials-per-hour", "MAX_DIALS_PER_HOUR", "N").or("60")
        .help(CALLS, "Most calls and transfers that the API and workers may dial over one line in any hour; 0 for any number"),
    switch("trust-worker-transfers", "TRUST_WORKER_TRANSFERS")
        .help(CALLS, "Let workers transfer to anybody: without it their transfers are judged like those of the API, since a caller may talk a bot into calling a premium-rate number"),
    value("answer", "ANSWER_MODE", "immediate|on-worker").or("immediate")
        .help(CALLS, "Answer at once, or let it ring until a worker is there"),
    value("redis-url", "REDIS_URL", "URL")
        .help(WORKER, "Redis that gets a job for each call: redis:// or rediss://. Prefer the variable when it holds a password"),
    value("redis-ca", "REDIS_CA", "FILE")
        .help(WORKER, "PEM roots that the certificate of a rediss:// server must come from [default: the public ones]"),
    value("queue", "QUEUE_NAME", "KEY").or("queue:incoming_calls")
        .help(WORKER, "Redis list of jobs"),
    value("ws-target", "WS_TARGET", "URL")
        .help(WORKER, "Worker to dial for each call, ws:// or wss://; with --redis-url, while Redis is away"),
    value("voice-url", "VOICE_URL", "URL")
        .help(WORKER, "Bot that is asked by HTTP what to do with each call, and answers TwiML as Twilio's voice webhooks do; http:// or https://. Instead of the queue and --ws-target"),
    value("voice-method", "VOICE_METHOD", "POST|GET").or("POST")
        .help(WORKER, "POST sends the call's fields to --voice-url as a form, GET in the query"),
    value("voice-fallback-url", "VOICE_FALLBACK_URL", "URL")
        .help(WORKER, "Asked where --voice-url, or an address that its documents name, gives no TwiML; then the line's fallback"),
    value("voice-fallback-method", "VOICE_FALLBACK_METHOD", "POST|GET").or("POST")
        .help(WORKER, "As --voice-method, for --voice-fallback-url"),
    value("say-url", "SAY_URL", "URL")
        .help(WORKER, "Service that speaks the texts of <Say>: base address of an API like OpenAI's, whose /v1/audio/speech is asked; without it <Say> is left out"),
    value("say-key", "SAY_KEY", "KEY")
        .help(WORKER, "Sent to --say-url as a bearer token. Prefer the variable"),
    value("say-model", "SAY_MODEL", "NAME").or("tts-1")
        .help(WORKER, "Model that --say-url is asked for"),
    value("say-voice", "SAY_VOICE", "NAME").or("alloy")
        .help(WORKER, "Voice of texts that name none, or one of Twilio's (alice, Polly.Joanna)"),
    value("say-cache", "SAY_CACHE", "FOLDER")
        .help(WORKER, "Folder where spoken texts are kept, up to 1 GB [default: with --data-dir the folder say in it, else none]"),
    value("dispatch", "DISPATCH", "queue|push")
        .help(WORKER, "How a call finds its worker: as a job in Redis, or by dialling --ws-target or asking --voice-url; with push, --redis-url gets events and state, and no jobs [default: queue with --redis-url, with --voice-url and else push]"),
    value("stream-port", "STREAM_PORT", "PORT").or("8081")
        .help(WORKER, "Port where workers of the queue dial in"),
    value("stream-url", "STREAM_URL", "URL")
        .help(WORKER, "How workers reach that port, for example wss://bridge.example.com [default: ws://, our address towards Redis, --stream-port]"),
    value("public-url", "PUBLIC_URL", "URL")
        .help(WORKER, "Where Twilio reaches --api-port, for example https://bridge.example.com: turns on POST /webhooks/voice for lines whose provider is twilio, whose signatures are over it; needs --stream-url"),
    value("twilio-api-url", "TWILIO_API_URL", "URL").or("https://api.twilio.com")
        .help(WORKER, "Where Twilio's REST API is asked to end and transfer calls of those lines"),
    value("worker-timeout", "WORKER_TIMEOUT", "SECONDS").or("30")
        .help(WORKER, "How long a caller waits for a worker before the line's fallback; the last 35 s of what he says are kept for it"),
    value("claim-timeout", "CLAIM_TIMEOUT", "SECONDS").or("5")
        .help(WORKER, "How long a taken job may go undialled before it is pushed again"),
    value("max-attempts", "MAX_ATTEMPTS", "N").or("3")
        .help(WORKER, "Most jobs for a call, 1 to 100, before the line's fallback; counted anew when a worker has stayed with the call for 10 s"),
    Flag { kind: FlagKind::Many("KEY=VALUE"), ..value("param", "PARAMS", "") }
        .help(WORKER, "Put into customParameters of every call; may be repeated"),
    Flag { kind: FlagKind::Many("NAME"), ..value("sip-headers", "SIP_HEADERS", "") }
        .help(WORKER, "Headers of an INVITE to put into customParameters under the name given here; may be repeated, or with commas between: X-Trunk-Id, X-Acme-*, X-*, User-to-User, Diversion, History-Info, P-Asserted-Identity, P-Called-Party-ID [default: none]"),
    value("status-callback-url", "STATUS_CALLBACK_URL", "URL")
        .help(CALLBACKS, "Told of every call by HTTP: initiated, ringing, answered, completed; http:// or https://, user:password as basic authentication. A call's own address goes before it"),
    value("incoming-callback-url", "INCOMING_CALLBACK_URL", "URL")
        .help(CALLBACKS, "Asked before a call is answered or queued: accept, reject or ignore. Slow or broken: the call is taken"),
    value("callback-method", "CALLBACK_METHOD", "POST|GET").or("POST")
        .help(CALLBACKS, "POST sends the call object as JSON, GET as query parameters"),
    value("callback-timeout", "CALLBACK_TIMEOUT", "SECONDS").or("5")
        .help(CALLBACKS, "How long a receiver may take to answer, 0.1 to 60; seconds, as in the program this one replaces"),
    value("auth-token", "AUTH_TOKEN", "TOKEN")
        .help(CALLBACKS, "Signs callbacks, voice webhooks, and the WebSocket upgrades of --ws-target and of their streams, with X-Twilio-Signature; with 17 characters or more it also opens Twilio's REST API at --api-port to who knows it and --account-sid; a client's own callbackUrl or wsTarget only at a host of these flags, or of --sign-host. Prefer the variable"),
    value("account-sid", "ACCOUNT_SID", "SID")
        .help(CALLBACKS, "AccountSid that workers and bots are told, AC and 32 hex digits; the same for all bridges that share lines [default: derived from --encryption-key, else from --node-id]"),
    Flag { kind: FlagKind::Many("CIDR"), ..value("allow-callback", "ALLOW_CALLBACK", "") }
        .help(CALLBACKS, "Network that a client's own callbackUrl and wsTarget may lead to though it is not public (loopback, private, link-local); may be repeated, or with commas between: 10.1.0.0/16. The flags' own URLs may lead anywhere"),
    Flag { kind: FlagKind::Many("HOST"), ..value("sign-host", "SIGN_HOST", "") }
        .help(CALLBACKS, "Host at which a client's own callbackUrl and wsTarget are signed as well, beside those of the flags' URLs; may be repeated, or with commas between"),
    switch("agents", "AGENTS")
        .help(AGENTS, "Keep an agent per tenant (/api/v1/omnichannel), and hand it to the workers of its lines' calls; needs a database"),
    value("elevenlabs-api-key", "ELEVENLABS_API_KEY", "KEY")
        .help(AGENTS, "Key by which ElevenLabs is asked for the voices and models that agents may have. Prefer the variable"),
    value("elevenlabs-url", "ELEVENLABS_URL", "URL").or("https://api.elevenlabs.io")
        .help(AGENTS, "Where ElevenLabs is asked: the address above /v1"),
    value("node-id", "NODE_ID", "NAME")
        .help(RUN, "This bridge's name in Redis and the database: unique among bridges, and the same after a restart, which the host's name of a container may not be [default: the host's name]"),
    value("cluster", "CLUSTER", "on|off").or("on")
        .help(RUN, "Share the lines with the other bridges on the same Redis: each line is registered by one of them, and by another within seconds when that one dies; off: register all lines, whoever else does"),
    value("lease-ttl", "LEASE_TTL", "SECONDS").or("10")
        .help(RUN, "How long the lines of a bridge stay its own after its last heartbeat to Redis, 2 to 300; the same for all bridges"),
    value("handover-timeout", "HANDOVER_TIMEOUT", "SECONDS").or("15")
        .help(RUN, "How long a bridge that was told to stop waits for others to take its lines, and takes calls meanwhile"),
    value("api-port", "API_PORT", "PORT").or("8080")
        .help(RUN, "Port of the HTTP API and GET /health"),
    value("api-bind", "API_BIND", "IP").or("127.0.0.1")
        .help(RUN, "Local address of that port; other than loopback only with --api-token"),
    value("api-token", "API_TOKEN", "TOKEN")
        .help(RUN, "Bearer token that the API demands, 17 characters or more; without it every program on this machine may use the API. GET /health, /metrics and /api/openapi.json need none. Prefer the variable"),
    value("api-tls-cert", "API_TLS_CERT", "FILE")
        .help(RUN, "PEM certificate, with what leads to its root, by which that port speaks HTTPS; needs --api-tls-key"),
    value("api-tls-key", "API_TLS_KEY", "FILE")
        .help(RUN, "PEM key of that certificate; needs --api-tls-cert"),
    value("api-ca", "API_CA", "FILE")
        .help(RUN, "PEM roots that the certificates of other bridges' APIs must come from, unless they have the certificate of this one [default: public authorities]"),
    value("drain-timeout", "DRAIN_TIMEOUT", "SECONDS").or("300")
        .help(RUN, "How long calls go on undisturbed after SIGTERM, while no new ones are taken; 0 for not at all"),
    value("shutdown-timeout", "SHUTDOWN_TIMEOUT", "SECONDS").or("10")
        .help(RUN, "How long calls may still go on once --drain-timeout is over, before they are hung up"),
    value("log-format", "LOG_FORMAT", "text|json").or("text")
        .help(RUN, "Form of the log on standard error"),
    value("log-level", "RUST_LOG", "FILTER").or("info")
        .help(RUN, "error, warn, info, debug or trace, or a list such as info,sipbridge::sip=debug"),
    switch("judge-transfers", "JUDGE_TRANSFERS")
        .help(OLD, "Accepted, and the default now: see --trust-worker-transfers"),
    switch("no-ec", "NO_EC")
        .help(OLD, "Ignored with a warning: a bridge without a sound device has no echo to cancel"),
    value("ec-tail-ms", "EC_TAIL_MS", "MS")
        .help(OLD, "Ignored with a warning, as --no-ec"),
    switch("vad", "VAD")
        .help(OLD, "Refused: RTP flows without pause, as NATs and trunks want it"),
    switch("no-auto-answer", "NO_AUTO_ANSWER")
        .help(OLD, "Not built yet: calls are answered as --answer says"),
];

/// Flags whose values are shown nowhere, not even in part.
pub const SECRET_FLAGS: [&str; 15] = [
    "api-token",
    "database-url",
    "sip-password",
    "turn-password",
    "encryption-key",
    "redis-url",
    "ws-target",
    "voice-url",
    "voice-fallback-url",
    "say-url",
    "say-key",
    "status-callback-url",
    "incoming-callback-url",
    "auth-token",
    "elevenlabs-api-key",
];

/// The flag of this name.
#[must_use]
pub fn flag(name: &str) -> Option<&'static Flag> {
    FLAGS.iter().find(|flag| flag.name == name)
}

/// The command line as clap sees it: the flags, `check` and `lines` with the
/// same flags, and `encrypt`.
#[must_use]
pub fn command() -> Command {
    let check = Command::new("check")
        .about("Validates everything it was given, and says what is wrong, without starting")
        .long_about(
            "Validates everything it was given without starting: the flags and variables, the key, \
             each line's credential and sounds, the database, the ports, and Redis where they are given. Exits with 0 when all \
             of it is usable, 1 when not.",
        )
        .args(FLAGS.iter().map(arg));
    let encrypt = Command::new("encrypt")
        .about("Reads a password from standard input and prints the form to store")
        .arg(
            Arg::new("line-id")
                .long("line-id")
                .value_name("ID")
                .required(true)
                .help("Id of the line (or SIP server) that the password belongs to"),
        )
        .args(flag("encryption-key").map(arg));
    let lines = Command::new("lines")
        .about("Prints each phone line: its server, by which rule, and whether it is usable")
        .long_about(
            "Prints each phone line of the database, the lines file and the flags: its number (masked), \
             the server it uses, by which rule, and why not where it is unusable; and what became of it \
             at the bridge that runs with these settings, asked over its API (--api-bind, --api-port, \
             --api-token). Changes nothing: a lines file is shown as it would be imported. Exits with 1 when a line is unusable.",
        )
        .args(FLAGS.iter().map(arg));
    let nodes = Command::new("nodes")
        .about("Prints the bridges that share lines: state, version, lines, calls, heartbeat")
        .long_about(
            "Prints the bridges that share lines, as the bridge that runs with these settings sees them; it is asked over its API \
             (--api-bind, --api-port, --api-token), and has a star. Changes nothing. Exits with 1 when no bridge answers.",
        )
        .args(FLAGS.iter().map(arg));
    Command::new("sipbridge")
        .version(env!("CARGO_PKG_VERSION"))
        .about("Turns SIP phone lines into Twilio Media Streams calls for AI workers")
        .after_help(
            "Every flag has an environment variable, shown in brackets; the flag wins. An empty \
             variable counts as absent.\n\nExit codes: 0 ended in order, 1 failed, 2 wrong usage or \
             settings, 70 hung while shutting down, 71 a SIP or media thread stopped.",
        )
        .args(FLAGS.iter().map(arg))
        .subcommand(check)
        .subcommand(encrypt)
        .subcommand(lines)
        .subcommand(nodes)
}

fn arg(flag: &Flag) -> Arg {
    let default = flag
        .default
        .map(|default| format!(" [default: {default}]"))
        .unwrap_or_default();
    let file = flag.file_env();
    let file = file.map(|file| format!(" [or a file: {file}]"));
    let file = file.unwrap_or_default();
    let arg = Arg::new(flag.name)
        .long(flag.name)
        .help_heading(flag.heading)
        .help(format!("{}{default} [env: {}]{file}", flag.help, flag.env));
    match flag.kind {
        FlagKind::Value(shown) => arg
            .value_name(shown)
            .allow_negative_numbers(true)
            .action(ArgAction::Set),
        FlagKind::Many(shown) => arg.value_name(shown).action(ArgAction::Append),
        // `=` is required, or `--no-ice check` would take the subcommand.
        FlagKind::Switch => arg
            .value_name("yes|no")
            .num_args(0..=1)
            .require_equals(true)
            .default_missing_value("yes")
            .action(ArgAction::Set),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn the_command_line_is_sound() {
        command().debug_assert();
    }

    #[test]
    fn names_and_variables_are_unique_and_every_flag_is_explained() {
        let names: BTreeSet<_> = FLAGS.iter().map(|flag| flag.name).collect();
        let variables: BTreeSet<_> = FLAGS.iter().map(|flag| flag.env).collect();
        assert_eq!((names.len(), variables.len()), (FLAGS.len(), FLAGS.len()));
        assert!(FLAGS.iter().all(|flag| !flag.help.is_empty()));
        assert!(SECRET_FLAGS.iter().all(|name| flag(name).is_some()));
    }

    #[test]
    fn env_example_documents_every_variable_and_no_other() {
        let example = include_str!("../../.env.example");
        let documented: BTreeSet<_> = example
            .lines()
            .filter_map(|line| line.trim_start_matches('#').trim().split_once('='))
            .map(|(name, _)| name)
            .filter(|name| name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_'))
            .collect();
        let files: Vec<String> = FLAGS.iter().filter_map(Flag::file_env).collect();
        let variables = FLAGS.iter().map(|flag| flag.env);
        let variables: BTreeSet<_> = variables.chain(files.iter().map(String::as_str)).collect();
        assert_eq!(documented, variables);
    }
}
