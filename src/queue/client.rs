//! The handle to Redis. Calls never wait for a connection: a job is pushed
//! within a second or refused, everything else is done in the background.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, TlsCertificates};
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::error::QueueError;
use super::event::CallEvent;
use super::job::Job;
use super::jobs::Taken;
use super::leases::LeaseStore;
use super::link::Link;
use super::probe;
use super::shared::{RedisState, Shared};
use crate::core::ids::LineId;
use crate::core::private::Secret;
use crate::files;

/// How long a call waits for Redis at most.
pub const PUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a connection that broke may take to come back before calls go to the
/// fallback: some attempts to connect, less than a caller's patience.
const INTERRUPTION: Duration = Duration::from_secs(3);
/// How long a graceful stop may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a heartbeat is good for, `--lease-ttl`, unless told otherwise.
pub const LEASE_TTL: Duration = Duration::from_secs(10);
/// How long a bridge needs at most to be connected again to a Redis that can be
/// reached: the longest pause between two attempts, and the attempt.
const RECONNECTED_WITHIN: Duration = Duration::from_secs(10);
/// Events that wait for Redis; more are dropped and counted. Some minutes at
/// 5 calls a second, about 2 MB.
const EVENTS_MAX: usize = 4_096;
/// Room kept for `call.ended`, without which a call would stay open for others.
const EVENTS_KEPT_FOR_ENDS: usize = 1_024;

/// Takes the old job out and puts the new one in. A script, because a
/// transaction would hide why it is refused.
///
/// KEYS: the queue. ARGV: old job, new job.
const REPLACE: &str = r"
redis.call('LREM', KEYS[1], 0, ARGV[1])
return redis.call('RPUSH', KEYS[1], ARGV[2])";

/// What a [`Queue`] is started with.
#[derive(Clone, Debug)]
pub struct QueueConfig {
    /// `--redis-url`: `redis://` or `rediss://`, user, password and db in it.
    pub url: Secret,
    /// `--queue`: the list that workers take from.
    pub queue: String,
    /// `--node-id`: this bridge's name in jobs and state keys.
    pub node_id: String,
    /// How the addresses in our jobs begin (`ws://host:port`). With it, jobs
    /// that an earlier life of this node left behind are removed at start.
    pub stream_url_base: Option<String>,
    /// PEM certificates trusted for `rediss://` instead of the public roots.
    pub ca_file: Option<PathBuf>,
    /// How long another node must be silent, and Redis connected to us, before
    /// its calls count as lost; [`dead_after`] but in tests.
    pub dead_after: Duration,
    /// `--lease-ttl`: how long a heartbeat, and what lives with it, is good for;
    /// written every third of that.
    pub lease_ttl: Duration,
    /// Whether bridges share lines. The heartbeat is then written by
    /// [`LeaseStore::beat`], and only one bridge at a time can have the name.
    pub shares_lines: bool,
}

/// How long a silent node is waited for: twice a heartbeat's expiry, by when its lines
/// have been taken over, and longer than anybody needs to reconnect.
#[must_use]
pub fn dead_after(lease_ttl: Duration) -> Duration {
    (lease_ttl * 2).max(RECONNECTED_WITHIN)
}

/// Counters of a [`Queue`], each only rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Events that found too many waiting, or that Redis refused.
    pub dropped_events: u64,
    /// Jobs that may have stayed in the queue though their calls were over.
    pub forgotten_removals: u64,
    /// Jobs that were no longer told apart from leftovers, for want of room.
    pub forgotten_jobs: u64,
}

/// The handle. Cheap to clone; when the last one is dropped the task stops.
#[derive(Clone)]
pub struct Queue {
    pub(super) shared: Arc<Shared>,
    events: mpsc::Sender<(u64, CallEvent)>,
    done: watch::Receiver<bool>,
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue")
            .field("keys", &self.shared.keys)
            .field("status", &self.status())
            .finish_non_exhaustive()
    }
}

impl Queue {
    /// Starts the background task on the current runtime. Returns before
    /// Redis is connected, and does so where Redis is away.
    ///
    /// # Errors
    /// When the URL is unusable.
    pub fn start(config: &QueueConfig) -> Result<Self, QueueError> {
        let (events, waiting_events) = mpsc::channel(EVENTS_MAX);
        let (finished, done) = watch::channel(false);
        let shared = Arc::new(Shared::new(
            open(&config.url, config.ca_file.as_deref())?,
            config,
        ));
        let link = Link::new(Arc::clone(&shared), waiting_events);
        tokio::spawn(async move {
            link.run().await;
            finished.send_replace(true);
        });
        Ok(Self {
            shared,
            events,
            done,
        })
    }

    /// Connects once and proves that jobs can be pushed, and lines shared where that is
    /// asked for; leaves nothing behind.
    ///
    /// # Errors
    /// When they cannot, with the reason.
    pub async fn probe(config: &QueueConfig) -> Result<(), QueueError> {
        let client = open(&config.url, config.ca_file.as_deref())?;
        let (queue, node) = (&config.queue, &config.node_id);
        probe::run(&client, queue, node, config.shares_lines).await
    }

    /// Pushes a job behind those that wait. Fails at once when Redis is known
    /// to be away, else within [`PUSH_TIMEOUT`]. A job whose fate is unknown
    /// is removed in the background. After dropping this future half-way,
    /// call [`Self::remove`].
    ///
    /// # Errors
    /// When the job is not in the queue.
    pub async fn push(&self, job: &Job) -> Result<(), QueueError> {
        let payload = job.payload(&self.shared.keys.node);
        let mut command = redis::cmd("LPUSH");
        command.arg(&self.shared.keys.queue).arg(&payload);
        self.insert(command, payload, job.expires).await
    }

    /// Whether a push that failed so met a connection that broke a moment ago,
    /// and that may be up again at once: worth another try, not the fallback. A
    /// job that arrived all the same is removed before that.
    #[must_use]
    pub fn is_interrupted(&self, error: &QueueError) -> bool {
        let failure = match error {
            QueueError::Disconnected { failure } | QueueError::Failed { failure, .. } => *failure,
            _ => return false,
        };
        failure.may_pass_at_once() && self.shared.was_lost_within(INTERRUPTION)
    }

    /// Puts a job in the place of an older one of the same call, before those
    /// that wait: the next `BRPOP` takes it. The older one leaves the queue in
    /// the same step, if it is there, so that a call never has two. Times and
    /// failures as with [`Self::push`]; the older job is removed in any case,
    /// if need be in the background.
    ///
    /// # Errors
    /// When the new job is not in the queue.
    pub async fn replace(&self, old: &Job, job: &Job) -> Result<(), QueueError> {
        let old_payload = old.payload(&self.shared.keys.node);
        let payload = job.payload(&self.shared.keys.node);
        let was_pushed = self.shared.jobs().forget(&old_payload);
        let mut command = redis::cmd("EVAL");
        command.arg(REPLACE).arg(1).arg(&self.shared.keys.queue);
        command.arg(&old_payload).arg(&payload);
        let result = self.insert(command, payload, job.expires).await;
        if result.is_err() || !was_pushed {
            self.shared.remove(old_payload, old.expires, !was_pushed);
        }
        result
    }

    /// Sends the command that puts `payload` into the queue.
    async fn insert(
        &self,
        command: redis::Cmd,
        payload: String,
        expires: SystemTime,
    ) -> Result<(), QueueError> {
        self.shared
            .jobs()
            .insert(&payload, expires, SystemTime::now());
        let result = self.shared.query::<()>(&command).await;
        self.shared.queue_changed();
        match &result {
            Ok(()) => self.shared.jobs().acknowledge(&payload),
            Err(QueueError::TimedOut { .. } | QueueError::Failed { .. }) => {
                self.shared.remove(payload, expires, true);
            }
            Err(_) => drop(self.shared.jobs().forget(&payload)),
        }
        result
    }

    /// Removes a job, now or when Redis is back. To be called once the job is
    /// of no more use, also when a worker took it: Redis may be brought back
    /// from a state in which it still waits.
    pub fn remove(&self, job: &Job) {
        let payload = job.payload(&self.shared.keys.node);
        self.shared.remove(payload, job.expires, false);
    }

    /// Resolves when the job is seen to be out of the queue though this bridge
    /// did not take it out: a worker has it, or Redis lost it (restarted empty,
    /// or failed over to a replica that never got it). Seen within half a
    /// second, a few seconds with hundreds of watched jobs.
    ///
    /// Never resolves while Redis cannot say, before the push of the job is
    /// acknowledged, after it failed, and after [`Self::remove`] or
    /// [`Self::replace`] of the job. One watch for each job: a newer one ends
    /// the older. Dropping it ends the watch.
    pub fn taken(&self, job: &Job) -> Taken {
        Taken::new(&self.shared, &job.payload(&self.shared.keys.node))
    }

    /// Records what happened to a call, some time soon. Dropped and counted
    /// when too much waits; the end of a call comes last to that.
    pub fn record(&self, event: CallEvent) {
        if event.is_first() {
            self.shared.today().count(event.at);
        }
        let number = self.shared.next_event_number();
        let has_room = event.is_last() || self.events.capacity() > EVENTS_KEPT_FOR_ENDS;
        if !has_room || self.events.try_send((number, event)).is_err() {
            self.shared.event_dropped(1);
        }
    }

    /// What has been given up for want of room.
    #[must_use]
    pub fn stats(&self) -> QueueStats {
        self.shared.stats()
    }

    /// Adds a line to this node's registered lines, or takes it out.
    pub fn set_registered(&self, line: &LineId, registered: bool) {
        self.shared.state.send_if_modified(|state| {
            if registered {
                state.registered.insert(line.clone())
            } else {
                state.registered.remove(line)
            }
        });
    }

    /// Replaces this node's registered lines.
    pub fn set_registrations(&self, lines: BTreeSet<LineId>) {
        self.shared
            .state
            .send_modify(|state| state.registered = lines);
    }

    /// Sets how many calls this node has.
    pub fn set_active_calls(&self, calls: usize) {
        self.shared.state.send_if_modified(|state| {
            let before = std::mem::replace(&mut state.active_calls, calls);
            before != calls
        });
    }

    /// Lets others see that this node takes no new calls:
    /// `bridge:{nodeId}:state` holds `draining` from now on.
    pub fn set_draining(&self) {
        self.shared
            .state
            .send_if_modified(|state| !std::mem::replace(&mut state.draining, true));
    }

    /// Whether Redis can be used now.
    #[must_use]
    pub fn status(&self) -> RedisState {
        self.shared.status.borrow().clone()
    }

    /// The same, to wait for a change.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<RedisState> {
        self.shared.status.subscribe()
    }

    /// Writes what is left, removes this node's keys, and disconnects; within
    /// [`STOP_TIMEOUT`].
    pub async fn stop(&self) {
        self.shared.stopping.send_replace(true);
        let mut done = self.done.clone();
        let _ = timeout(STOP_TIMEOUT, done.wait_for(|done| *done)).await;
    }

    /// The leases and nodes of the bridges that share lines; `None` unless
    /// [`QueueConfig::shares_lines`]. It uses the connection of this handle.
    #[must_use]
    pub fn lease_store(&self) -> Option<LeaseStore> {
        LeaseStore::new(&self.shared)
    }
}

pub(super) async fn query<T: FromRedisValue>(
    command: &redis::Cmd,
    connection: &mut MultiplexedConnection,
) -> Result<T, QueueError> {
    match timeout(PUSH_TIMEOUT, command.query_async(connection)).await {
        Ok(result) => result.map_err(|error| QueueError::failed(&error)),
        Err(_) => Err(QueueError::TimedOut {
            after: PUSH_TIMEOUT,
        }),
    }
}

/// A client for `--redis-url`, which connects nothing yet.
///
/// # Errors
/// When the URL or the CA file is unusable.
pub fn open(url: &Secret, ca_file: Option<&Path>) -> Result<Client, QueueError> {
    let info = url.expose().into_connection_info();
    // The library leaves Nagle's algorithm on.
    let info = info.map(|info| info.set_tcp_settings(TcpSettings::default().set_nodelay(true)));
    let info = info.map_err(|_| QueueError::BadUrl)?;
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let Some(path) = ca_file.filter(|_| tls) else {
        return Client::open(info).map_err(|_| QueueError::BadUrl);
    };
    let unusable = |reason: String| QueueError::CaFile {
        path: path.to_owned(),
        reason,
    };
    let root_cert = roots(path).map_err(unusable)?;
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(root_cert),
    };
    Client::build_with_tls(info, certificates).map_err(|error| unusable(error.to_string()))
}

/// Largest file of certificates; all public roots together have 250 kB.
const CA_FILE_MAX_BYTES: u64 = 4 << 20;

/// The PEM certificates of a file. The library takes any file for one, and
/// then trusts nobody.
fn roots(path: &Path) -> Result<Vec<u8>, String> {
    let text = files::read(path, CA_FILE_MAX_BYTES).map_err(|error| error.to_string())?;
    let mut certificates = CertificateDer::pem_slice_iter(&text);
    match certificates.next() {
        Some(Ok(_)) => {}
        Some(Err(error)) => return Err(error.to_string()),
        None => return Err("it holds no certificate".into()),
    }
    match certificates.find_map(Result::err) {
        Some(error) => Err(error.to_string()),
        None => Ok(text.to_vec()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_url_is_refused_without_being_shown() {
        for url in ["", "http://h/", "redis://:s3cret@h:port/"] {
            let error = open(&Secret::new(url.into()), None).unwrap_err();
            assert_eq!(error, QueueError::BadUrl, "{url}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
