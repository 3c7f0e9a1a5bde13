//! The handle to Redis. Calls never wait for a connection: a job is pushed
//! within a second or refused, everything else is done in the background.

use std::collections::BTreeSet;
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::TcpSettings;
use redis::{Client, ConnectionAddr, FromRedisValue, IntoConnectionInfo, TlsCertificates};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::error::{QueueError, RedisFailure};
use super::event::CallEvent;
use super::job::Job;
use super::link::{self, Link};
use super::shared::{RedisState, Shared};
use super::state::Keys;
use crate::core::ids::LineId;
use crate::core::private::Secret;

/// How long a call waits for Redis at most.
pub const PUSH_TIMEOUT: Duration = Duration::from_secs(1);
/// How long a graceful stop may take.
pub const STOP_TIMEOUT: Duration = Duration::from_secs(2);
/// Events that wait for Redis; more are dropped and counted. Some minutes at
/// 10 calls a second, about 2 MB.
const EVENTS_MAX: usize = 4_096;

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
}

/// Counters of a [`Queue`], each only rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct QueueStats {
    /// Events that found too many waiting, or that Redis refused.
    pub dropped_events: u64,
    /// Jobs that may have stayed in the queue though their calls were over.
    pub forgotten_removals: u64,
}

/// The handle. Cheap to clone; when the last one is dropped the task stops.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
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
            open(config)?,
            Keys {
                node: config.node_id.clone(),
                queue: config.queue.clone(),
            },
            config
                .stream_url_base
                .as_ref()
                .map(|base| base.trim_end_matches('/').to_owned()),
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

    /// Connects once and checks that the queue can be used.
    ///
    /// # Errors
    /// When it cannot, with the reason.
    pub async fn probe(config: &QueueConfig) -> Result<(), QueueError> {
        let client = open(config)?;
        let mut connection = link::connect(&client)
            .await
            .map_err(|(failure, text)| QueueError::Failed { failure, text })?;
        let mut command = redis::cmd("TYPE");
        let kind: String = query(command.arg(&config.queue), &mut connection).await?;
        if kind != "list" && kind != "none" {
            return Err(QueueError::NotAList {
                queue: config.queue.clone(),
                kind,
            });
        }
        Ok(())
    }

    /// Pushes a job behind those that wait. Fails at once when Redis is known
    /// to be away, else within [`PUSH_TIMEOUT`]. A job whose fate is unknown
    /// is removed in the background. After dropping this future half-way,
    /// call [`Self::remove`].
    ///
    /// # Errors
    /// When the job is not in the queue.
    pub async fn push(&self, job: &Job) -> Result<(), QueueError> {
        self.insert("LPUSH", job).await
    }

    /// Pushes a job before those that wait: the next `BRPOP` takes it.
    ///
    /// # Errors
    /// As [`Self::push`].
    pub async fn push_head(&self, job: &Job) -> Result<(), QueueError> {
        self.insert("RPUSH", job).await
    }

    async fn insert(&self, verb: &str, job: &Job) -> Result<(), QueueError> {
        let payload = job.payload(&self.shared.keys.node);
        let mut command = redis::cmd(verb);
        command.arg(&self.shared.keys.queue).arg(&payload);
        let result = self.query::<()>(&command).await;
        self.shared.queue_changed();
        if let Err(QueueError::TimedOut { .. } | QueueError::Failed { .. }) = result {
            self.shared.remove(payload, job.expires, true);
        }
        result
    }

    /// Removes a job, now or when Redis is back.
    pub fn remove(&self, job: &Job) {
        let payload = job.payload(&self.shared.keys.node);
        self.shared.remove(payload, job.expires, false);
    }

    /// Whether the job still waits in the queue: no worker has taken it.
    ///
    /// # Errors
    /// When Redis cannot say.
    pub async fn is_pending(&self, job: &Job) -> Result<bool, QueueError> {
        let mut command = redis::cmd("LPOS");
        command
            .arg(&self.shared.keys.queue)
            .arg(job.payload(&self.shared.keys.node));
        let position: Option<u64> = self.query(&command).await?;
        Ok(position.is_some())
    }

    /// Records what happened to a call, some time soon. Dropped and counted
    /// when too much waits.
    pub fn record(&self, event: CallEvent) {
        let number = self.shared.next_event_number();
        if self.events.try_send((number, event)).is_err() {
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

    /// Runs one command on the present connection.
    async fn query<T: FromRedisValue>(&self, command: &redis::Cmd) -> Result<T, QueueError> {
        let (mut connection, generation) = self.shared.connection()?;
        let result = query(command, &mut connection).await;
        match &result {
            Err(QueueError::TimedOut { .. }) => {
                self.shared.broken(generation, RedisFailure::TimedOut);
            }
            Err(QueueError::Failed { failure, .. }) if failure.breaks_connection() => {
                self.shared.broken(generation, *failure);
            }
            _ => {}
        }
        result
    }
}

async fn query<T: FromRedisValue>(
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

fn open(config: &QueueConfig) -> Result<Client, QueueError> {
    let info = config.url.expose().into_connection_info();
    // The library leaves Nagle's algorithm on.
    let info = info.map(|info| info.set_tcp_settings(TcpSettings::default().set_nodelay(true)));
    let info = info.map_err(|_| QueueError::BadUrl)?;
    let tls = matches!(info.addr(), ConnectionAddr::TcpTls { .. });
    let Some(path) = config.ca_file.as_ref().filter(|_| tls) else {
        return Client::open(info).map_err(|_| QueueError::BadUrl);
    };
    let unusable = |reason: String| QueueError::CaFile {
        path: path.clone(),
        reason,
    };
    let root_cert = std::fs::read(path).map_err(|error| unusable(error.to_string()))?;
    let certificates = TlsCertificates {
        client_tls: None,
        root_cert: Some(root_cert),
    };
    Client::build_with_tls(info, certificates).map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unusable_url_is_refused_without_being_shown() {
        for url in ["", "http://h/", "redis://:s3cret@h:port/"] {
            let config = QueueConfig {
                url: Secret::new(url.into()),
                queue: "q".into(),
                node_id: "n".into(),
                stream_url_base: None,
                ca_file: None,
            };
            let error = open(&config).unwrap_err();
            assert_eq!(error, QueueError::BadUrl, "{url}");
            assert!(!error.to_string().contains("s3cret"));
        }
    }
}
