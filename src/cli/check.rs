//! `sipbridge check`: validates everything it was given and says what is
//! wrong, without starting. Each thing looked at is one line of the report.
//!
//! Leaves out whether a registrar takes a line: that would register it.

use std::fmt::{self, Display};
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;

use super::EXIT_FAILURE;
use super::callers;
use crate::api::ApiTls;
use crate::api::nodes::TrustFiles;
use crate::app::database;
use crate::config::{self, Checked, Config, Database, Dispatch, QueueSettings, RawArgs};
use crate::core::address::Transport;
use crate::core::private::Secret;
use crate::fleet::forms::dial_line;
use crate::fleet::snapshot::{self, LineSnapshot, Skipped, StoredLines, snapshot};
use crate::fleet::sounds::SoundLoader;
use crate::lines::credentials::Credential;
use crate::lines::{PhoneLine, ReadyLine};
use crate::media::sounds::Sounds;
use crate::queue::{self, Queue, QueueError, RedisFailure};
use crate::sip::pjsip::check_bind;
use crate::sip::tls_roots::{self, TlsRoots};
use crate::store::{Store, StoreError};

/// How one thing looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Level {
    Ok,
    Warning,
    Error,
}

impl Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        })
    }
}

/// What was looked at.
#[derive(Default)]
struct Report {
    findings: Vec<(Level, String)>,
}

impl Report {
    fn ok(&mut self, text: impl Display) {
        self.findings.push((Level::Ok, text.to_string()));
    }

    fn warn(&mut self, text: impl Display) {
        self.findings.push((Level::Warning, text.to_string()));
    }

    fn error(&mut self, text: impl Display) {
        self.findings.push((Level::Error, text.to_string()));
    }

    fn count(&self, level: Level) -> usize {
        self.findings.iter().filter(|(l, _)| *l == level).count()
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (level, text) in &self.findings {
            writeln!(f, "{level:<8} {text}")?;
        }
        let (errors, warnings) = (self.count(Level::Error), self.count(Level::Warning));
        match errors {
            0 => write!(f, "usable, with {warnings} warning(s)"),
            _ => write!(f, "not usable: {errors} error(s), {warnings} warning(s)"),
        }
    }
}

/// Runs the subcommand; returns the exit code of the process.
pub fn main(given: RawArgs) -> ExitCode {
    let mut report = Report::default();
    let Checked {
        config,
        mistakes,
        warnings,
    } = config::validate(given);
    warnings.iter().for_each(|warning| report.warn(warning));
    mistakes.iter().for_each(|mistake| report.error(mistake));
    if mistakes.is_empty() {
        report.ok("settings: all flags and variables are valid");
    }
    check_lines(&config, &mut report);
    check_tls_roots(&config, &mut report);
    check_api_tls(&config, &mut report);
    check_ports(&config, &mut report);
    check_workers(&config, &mut report);
    println!("{report}");
    match report.count(Level::Error) {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::from(EXIT_FAILURE),
    }
}

fn check_lines(config: &Config, report: &mut Report) {
    let file = match database::lines_file(config) {
        Ok(file) => file,
        Err(error) => return report.error(error),
    };
    let stored = config
        .database
        .as_ref()
        .and_then(|database| check_database(database, report));
    let LineSnapshot {
        loaded,
        file_mistakes,
        file_warnings,
        stored_mistakes,
        left_out,
        twilio: of_twilio,
        ..
    } = snapshot(config, file, stored);
    let count = |why| left_out.iter().filter(|(_, found)| *found == why).count();
    let (inactive, twilio) = (count(Skipped::Inactive), count(Skipped::Twilio));
    let without_url = count(Skipped::NoPublicUrl);
    if without_url > 0 {
        report.warn(format_args!(
            "lines of provider twilio that take no calls: {without_url}; their webhook needs --public-url"
        ));
    }
    check_twilio(config, &of_twilio, report);
    let is_any_configured =
        config.database.is_none() && (config.lines_file.is_some() || config.flags_line.is_some());
    if loaded.ready.is_empty() && of_twilio.is_empty() && is_any_configured {
        report.error("no phone line is left to start");
    }
    let mut sounds = SoundLoader::new(Sounds::built_in());
    for ready in &loaded.ready {
        report_ready(ready, report);
        let problems = sounds.load(&ready.line).problems;
        problems.iter().for_each(|problem| report.error(problem));
    }
    for (line, why) in callers::unheard(config, &loaded.ready) {
        report.warn(format_args!("line {:?}: {why}", line.as_str()));
    }
    check_transfers(config, &loaded.ready, report);
    if inactive + twilio > 0 {
        report.ok(format_args!(
            "lines left out: {inactive} inactive, {twilio} of provider twilio"
        ));
    }
    file_warnings
        .iter()
        .for_each(|warning| report.warn(warning));
    loaded
        .warnings
        .iter()
        .for_each(|warning| report.warn(warning));
    file_mistakes
        .iter()
        .for_each(|mistake| report.error(mistake));
    stored_mistakes
        .iter()
        .for_each(|mistake| report.error(mistake));
    loaded.unusable.iter().for_each(|line| report.error(line));
}

/// Lines that are Twilio's: whether their tokens can be used.
fn check_twilio(config: &Config, lines: &[PhoneLine], report: &mut Report) {
    for line in lines {
        let id = line.id.as_str();
        let key = config.encryption_key.as_ref();
        match Credential::open(key, id, line.stored_twilio_token.as_ref()) {
            Ok(_) => report.ok(format_args!(
                "line {id:?}: Twilio's, its webhook is /webhooks/voice/{id} below --public-url"
            )),
            Err(error) => {
                report.error(format_args!(
                    "line {id:?}: field \"twilioAuthToken\": {error}"
                ));
            }
        }
    }
}

/// Lines whose workers could transfer to nobody: whom they may dial hangs on the
/// country of the line, and that is not known.
fn check_transfers(config: &Config, ready: &[ReadyLine], report: &mut Report) {
    let dialling = &config.dialling;
    if !dialling.judges_workers || !dialling.policy.needs_country() {
        return;
    }
    let lines = ready.iter();
    let mut without = lines.filter(|line| dial_line(config, line).country.is_none());
    let Some(first) = without.next() else { return };
    let first = first.line.id.as_str();
    let more = match without.count() {
        0 => String::new(),
        more => format!(" (and {more} more)"),
    };
    report.warn(format_args!(
        "line {first:?}{more}: its country is not known, so that transfers by workers and calls by \
         the API would be refused: write its phoneNumber in E.164 (+33…), set --country, permit \
         destinations by --allow-dial, or trust workers by --trust-worker-transfers"
    ));
}

/// By which roots SIP servers are verified; said where it matters or is wrong.
fn check_tls_roots(config: &Config, report: &mut Report) {
    let given = config.sip.tls_ca.as_ref();
    let given = given.map(|file| file.display().to_string());
    let is_used = config.sip.transport == Transport::Tls || given.is_some();
    match tls_roots::find(given.as_deref(), config.sip.tls_insecure) {
        Ok(TlsRoots::Unverified) => {
            report.warn("--tls-insecure: SIP servers over TLS are not verified");
        }
        Ok(TlsRoots::File(file)) if is_used => {
            report.ok(format_args!("TLS: SIP servers are verified by {file}"));
        }
        Ok(TlsRoots::File(_)) => {}
        Err(error) if is_used => report.error(error),
        Err(error) => report.warn(error),
    }
}

/// Whether the API can speak HTTPS, and ask other bridges by it.
fn check_api_tls(config: &Config, report: &mut Report) {
    if let Some((certificate, key)) = &config.api_tls {
        match ApiTls::read(certificate, key) {
            Ok(_) => report.ok("TLS: the API speaks HTTPS by --api-tls-cert"),
            Err(error) => report.error(error),
        }
    }
    if config.api_ca.is_some() {
        match TrustFiles::of(config).client_config() {
            Ok(_) => report.ok("TLS: other bridges' APIs are verified by --api-ca"),
            Err(error) => report.error(error),
        }
    }
}

/// Changes nothing: what the start would do is only said.
fn check_database(database: &Database, report: &mut Report) -> Option<StoredLines> {
    let shown = database::location(database).shown();
    match look_into(database) {
        Err(error) => report.error(error),
        Ok((None, _)) => match can_be_created(database) {
            Ok(()) => report.ok(format_args!("database {shown}: will be created")),
            Err(error) => report.error(format_args!("database {shown}: {error}")),
        },
        Ok((stored, 0)) => {
            report.ok(format_args!("database {shown}: opens"));
            return stored;
        }
        Ok((stored, pending)) => {
            report.ok(format_args!(
                "database {shown}: opens; the start will run {pending} migration(s) on it"
            ));
            return stored;
        }
    }
    None
}

/// What the database holds, and how many migrations it has not had; nothing
/// where there is no file yet.
///
/// # Errors
/// When it cannot be opened or read.
pub(super) fn look_into(database: &Database) -> Result<(Option<StoredLines>, usize), StoreError> {
    let location = database::location(database);
    let looking = async {
        let Some(store) = Store::look(&location).await? else {
            return Ok((None, 0));
        };
        let pending = store.pending().await?;
        let stored = snapshot::read(&store).await?;
        store.close().await;
        Ok((Some(stored), pending))
    };
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| StoreError::Open {
            shown: location.shown(),
            reason: error.to_string(),
        })?
        .block_on(looking)
}

/// Whether the folder of an SQLite file is there.
fn can_be_created(database: &Database) -> Result<(), String> {
    let folder = match database {
        Database::Sqlite(path) => path.parent(),
        // It is created, in a folder that is there.
        Database::DataDir(folder) if folder.is_dir() => Some(folder.as_path()),
        Database::DataDir(folder) => folder.parent(),
        Database::Postgres(_) => return Ok(()),
    };
    let folder = folder.filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(std::path::Path::new("."));
    let found = std::fs::metadata(folder)
        .map_err(|error| format!("its folder {}: {error}", folder.display()))?;
    if !found.is_dir() {
        return Err(format!("{} is not a folder", folder.display()));
    }
    rustix::fs::access(folder, rustix::fs::Access::WRITE_OK)
        .map_err(|error| format!("its folder {} cannot be written: {error}", folder.display()))
}

fn report_ready(ready: &ReadyLine, report: &mut Report) {
    let server = ready.route.server.as_ref().unwrap_or(&ready.route.domain);
    let password = match ready.password {
        Some(_) => "password usable",
        None => "no password",
    };
    report.ok(format_args!(
        "line {:?}: at {server} by {}, {password}",
        ready.line.id.as_str(),
        ready.route.transport
    ));
}

fn check_ports(config: &Config, report: &mut Report) {
    let bind = config.network.bind;
    if let Err(error) = check_bind(bind) {
        report.error(error);
    }
    let sip = (bind, config.sip.port);
    match config.sip.transport {
        Transport::Udp => port_is_free("sip-port", "UDP", sip, UdpSocket::bind, report),
        Transport::Tcp | Transport::Tls => {
            port_is_free("sip-port", "TCP", sip, TcpListener::bind, report);
        }
    }
    let is_queued = config.worker.dispatch == Dispatch::Queue;
    if let Some(queue) = config.queue.as_ref().filter(|_| is_queued) {
        let stream = (bind, queue.stream_port);
        port_is_free("stream-port", "TCP", stream, TcpListener::bind, report);
    }
    let api = (config.api_bind, config.api_port);
    port_is_free("api-port", "TCP", api, TcpListener::bind, report);
}

fn port_is_free<T>(
    flag: &str,
    protocol: &str,
    (ip, port): (IpAddr, u16),
    bind: impl Fn(SocketAddr) -> io::Result<T>,
    report: &mut Report,
) {
    let address = SocketAddr::new(ip, port);
    match bind(address) {
        Ok(_) => report.ok(format_args!("--{flag}: {address} {protocol} is free")),
        Err(error) => report.error(format_args!(
            "--{flag}: {address} {protocol} cannot be bound: {}",
            bind_problem(&error)
        )),
    }
}

fn bind_problem(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            "another program (or a running bridge) has it: stop that, or choose another port".into()
        }
        io::ErrorKind::AddrNotAvailable => {
            "this machine does not have that address: see --bind and --api-bind".into()
        }
        io::ErrorKind::PermissionDenied => {
            "ports below 1024 need the right to bind them: choose a higher one".into()
        }
        _ => error.to_string(),
    }
}

fn check_workers(config: &Config, report: &mut Report) {
    if let Some(queue) = &config.queue {
        let url = &queue.redis_url;
        let shares_lines = config.cluster.is_some();
        match probe_redis(queue, &config.node_id, shares_lines) {
            Ok(()) => report.ok(format_args!("--redis-url: {url} answers, and takes jobs")),
            Err(error) => report.error(format_args!("--redis-url: {url}: {error}")),
        }
    }
    if let Some(url) = &config.worker.ws_target {
        report.ok(format_args!(
            "--ws-target: {url} is a valid address; not dialled"
        ));
    }
    if let Some(voice) = &config.voice {
        let url = &voice.webhook.url;
        report.ok(format_args!(
            "--voice-url: {url} is a valid address; not asked"
        ));
    }
}

/// Connects to Redis and proves that jobs can be pushed.
///
/// With `shares_lines` also that lines can be shared with other bridges.
///
/// # Errors
/// Why not, and what to do, without the password.
pub fn probe_redis(queue: &QueueSettings, node_id: &str, shares_lines: bool) -> Result<(), String> {
    // TLS needs a process-wide provider; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let config = queue::QueueConfig {
        url: Secret::new(queue.redis_url.expose().to_owned()),
        queue: queue.queue.clone(),
        node_id: node_id.to_owned(),
        stream_url_base: None,
        ca_file: queue.redis_ca.clone(),
        dead_after: queue::dead_after(queue::LEASE_TTL),
        lease_ttl: queue::LEASE_TTL,
        shares_lines,
    };
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    let probed = runtime.block_on(Queue::probe(&config));
    probed.map_err(|error| redis_problem(&error))
}

fn redis_problem(error: &QueueError) -> String {
    let (failure, text) = match error {
        QueueError::Failed { failure, text } => (*failure, text.as_str()),
        QueueError::TimedOut { .. } => (RedisFailure::TimedOut, ""),
        other => return format!("no job can be pushed: {other}"),
    };
    let what = match failure {
        RedisFailure::TimedOut => "it does not answer: is it Redis, and can it be reached?",
        RedisFailure::Unreachable => {
            "it cannot be reached: check host, port and network, and whether Redis runs there"
        }
        RedisFailure::Denied => "user or password refused",
        RedisFailure::ReadOnly => {
            "it is a replica that takes no writes: give the address of its master"
        }
        RedisFailure::NotReady => {
            "it is not ready: it loads its data, or its master or cluster is down"
        }
        RedisFailure::NoWrites => {
            "it takes no writes: its memory (maxmemory with noeviction) or disk is full, or too few replicas follow"
        }
        _ => {
            "it refuses a command: the user needs the right for it, on the queue, bridge:*, call:*, stats:* and stream:call_events"
        }
    };
    match text {
        "" => format!("no job can be pushed: {what}"),
        text => format!("no job can be pushed: {what} ({text})"),
    }
}
