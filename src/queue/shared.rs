//! What the handle and the background task share: the connection in use, the
//! state to write, the removals, and the counters.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use redis::aio::MultiplexedConnection;
use redis::{Client, FromRedisValue, RedisError, RedisResult};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::client::{PUSH_TIMEOUT, QueueConfig, QueueStats};
use super::error::{QueueError, RedisFailure};
use super::jobs::Jobs;
use super::line_places::Places;
use super::membership::{self, Membership};
use super::removals::Removals;
use super::state::{Keys, NodeState, Today};

/// Whether Redis can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RedisState {
    /// It takes jobs.
    Connected {
        /// Since when.
        since: SystemTime,
    },
    /// It does not; the bridge keeps trying.
    Disconnected {
        /// Since when.
        since: SystemTime,
        /// Why, as the last attempt found.
        failure: RedisFailure,
    },
}

/// What failed, and the words for the log.
pub(super) type Failed = (RedisFailure, String);

/// What the handle and the task share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) keys: Keys,
    /// Without a slash at its end.
    pub(super) stream_url_base: Option<String>,
    /// How long a node must be silent before it counts as dead.
    pub(super) dead_after: Duration,
    /// How long a heartbeat is good for.
    pub(super) lease_ttl: Duration,
    /// Of this life of the node; `None` where bridges share no lines.
    pub(super) instance: Option<Arc<str>>,
    /// Whether this node listens to its channel: only then does it prove anything that nobody does.
    pub(super) listens: AtomicBool,
    /// Whether the node's name is this instance's.
    pub(super) membership: watch::Sender<Membership>,
    slot: Mutex<Slot>,
    removals: Mutex<Removals>,
    jobs: Mutex<Jobs>,
    today: Mutex<Today>,
    /// Of calls on lines with a limit.
    pub(super) places: Places,
    /// A removal waits, or the connection was found broken.
    pub(super) wake: Notify,
    pub(super) queue_changed: AtomicBool,
    event_number: AtomicU64,
    dropped_events: AtomicU64,
    pub(super) state: watch::Sender<NodeState>,
    pub(super) status: watch::Sender<RedisState>,
    pub(super) stopping: watch::Sender<bool>,
}

/// The connection that commands use, or why there is none.
struct Slot {
    generation: u64,
    connection: Result<MultiplexedConnection, RedisFailure>,
    /// When a connection was lost last.
    lost: Option<Instant>,
}

impl Slot {
    /// Takes the connection out of use, where there is one.
    fn fail(&mut self, failure: RedisFailure) {
        if self.connection.is_ok() {
            self.lost = Some(Instant::now());
        }
        self.connection = Err(failure);
    }
}

impl Shared {
    pub(super) fn new(client: Client, config: &QueueConfig) -> Self {
        let base = config.stream_url_base.as_deref();
        let failure = RedisFailure::Connecting;
        let instance = config.shares_lines.then(random_instance);
        Self {
            client,
            keys: Keys {
                node: config.node_id.clone(),
                queue: config.queue.clone(),
            },
            stream_url_base: base.map(|base| base.trim_end_matches('/').to_owned()),
            dead_after: config.dead_after,
            lease_ttl: config.lease_ttl,
            listens: AtomicBool::new(false),
            membership: watch::Sender::default(),
            slot: Mutex::new(Slot {
                generation: 0,
                connection: Err(failure),
                lost: None,
            }),
            removals: Mutex::default(),
            jobs: Mutex::default(),
            today: Mutex::default(),
            places: Places::new(instance.as_deref()),
            instance,
            wake: Notify::new(),
            queue_changed: AtomicBool::new(false),
            event_number: AtomicU64::new(1),
            dropped_events: AtomicU64::new(0),
            state: watch::Sender::default(),
            status: watch::Sender::new(RedisState::Disconnected {
                since: SystemTime::now(),
                failure,
            }),
            stopping: watch::Sender::new(false),
        }
    }

    pub(super) fn connection(&self) -> Result<(MultiplexedConnection, u64), QueueError> {
        let slot = self.slot();
        match &slot.connection {
            Ok(connection) => Ok((connection.clone(), slot.generation)),
            Err(RedisFailure::Conflict) => Err(membership::conflict(self)),
            Err(failure) => Err(QueueError::Disconnected { failure: *failure }),
        }
    }

    /// Runs one command on the present connection, within [`PUSH_TIMEOUT`].
    pub(super) async fn query<T: FromRedisValue>(
        &self,
        command: &redis::Cmd,
    ) -> Result<T, QueueError> {
        let attempt =
            async |connection: &mut MultiplexedConnection| command.query_async(connection).await;
        let answer = self.attempt(attempt).await?;
        answer.map_err(|error| QueueError::failed(&error))
    }

    /// Makes use of the present connection within [`PUSH_TIMEOUT`], and takes it out of
    /// use when it is found broken. The inner result is what Redis or the connection
    /// answered.
    pub(super) async fn attempt<T>(
        &self,
        command: impl AsyncFnOnce(&mut MultiplexedConnection) -> RedisResult<T>,
    ) -> Result<Result<T, RedisError>, QueueError> {
        let (mut connection, generation) = self.connection()?;
        let Ok(answer) = timeout(PUSH_TIMEOUT, command(&mut connection)).await else {
            self.broken(generation, RedisFailure::TimedOut);
            return Err(QueueError::TimedOut {
                after: PUSH_TIMEOUT,
            });
        };
        if let Err(error) = &answer {
            let failure = RedisFailure::of(error);
            if failure.breaks_connection() {
                self.broken(generation, failure);
            }
        }
        Ok(answer)
    }

    /// Another instance has the node's name: nothing more may be written under it.
    pub(super) fn set_conflict(&self) {
        self.membership.send_replace(Membership::Conflict);
        let mut slot = self.slot();
        if slot.connection.is_ok() {
            slot.fail(RedisFailure::Conflict);
            drop(slot);
            self.wake.notify_one();
        }
    }

    /// Time between two heartbeats.
    pub(super) fn heartbeat_interval(&self) -> Duration {
        self.lease_ttl / 3
    }

    /// Takes a connection out of use. Later commands fail at once.
    pub(super) fn broken(&self, generation: u64, failure: RedisFailure) {
        let mut slot = self.slot();
        if slot.generation == generation && slot.connection.is_ok() {
            slot.fail(failure);
            drop(slot);
            self.wake.notify_one();
        }
    }

    /// Whether there is a connection, or was one so long ago at most.
    pub(super) fn was_lost_within(&self, time: Duration) -> bool {
        let slot = self.slot();
        slot.connection.is_ok() || slot.lost.is_some_and(|lost| lost.elapsed() <= time)
    }

    /// Removes a job in the background, which nobody watches from here on.
    /// `uncertain`: its push failed in a way that may still bring it.
    pub(super) fn remove(&self, payload: String, expires: SystemTime, uncertain: bool) {
        let acknowledged = self.jobs().forget(&payload);
        let uncertain = uncertain || !acknowledged;
        self.removals().add(payload, expires, uncertain);
        self.queue_changed();
        self.wake.notify_one();
    }

    pub(super) fn queue_changed(&self) {
        self.queue_changed.store(true, Ordering::Relaxed);
    }

    pub(super) fn next_event_number(&self) -> u64 {
        self.event_number.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn event_dropped(&self, count: usize) {
        self.dropped_events
            .fetch_add(count as u64, Ordering::Relaxed);
    }

    pub(super) fn stats(&self) -> QueueStats {
        QueueStats {
            dropped_events: self.dropped_events.load(Ordering::Relaxed),
            forgotten_removals: self.removals().forgotten(),
            forgotten_jobs: self.jobs().forgotten(),
        }
    }

    /// Why the connection in use was found broken; `None` while it is good.
    pub(super) fn failure(&self) -> Option<RedisFailure> {
        self.slot().connection.as_ref().err().copied()
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn jobs(&self) -> MutexGuard<'_, Jobs> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn today(&self) -> MutexGuard<'_, Today> {
        self.today.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_connected(&self, connection: MultiplexedConnection) {
        let mut slot = self.slot();
        slot.generation += 1;
        slot.connection = Ok(connection);
        drop(slot);
        self.places.renew_now();
        self.status.send_replace(RedisState::Connected {
            since: SystemTime::now(),
        });
        info!("Redis is connected");
    }

    pub(super) fn set_stopped(&self) {
        let failure = RedisFailure::Stopped;
        self.slot().connection = Err(failure);
        self.status.send_replace(RedisState::Disconnected {
            since: SystemTime::now(),
            failure,
        });
    }

    pub(super) fn set_disconnected(&self, (failure, text): &Failed) {
        self.slot().fail(*failure);
        let mut newly = false;
        self.status.send_if_modified(|state| match state {
            RedisState::Disconnected { failure: known, .. } => {
                newly = *known != *failure;
                *known = *failure;
                newly
            }
            RedisState::Connected { .. } => {
                newly = true;
                *state = RedisState::Disconnected {
                    since: SystemTime::now(),
                    failure: *failure,
                };
                true
            }
        });
        if newly {
            warn!(%failure, reason = text, "Redis is away: new calls get --ws-target or the fallback; reconnecting");
        } else {
            debug!(%failure, reason = text, "Redis is still away");
        }
    }
}

/// A name for this life of the node that no other has.
fn random_instance() -> Arc<str> {
    format!("{:032x}", rand::random::<u128>()).into()
}
