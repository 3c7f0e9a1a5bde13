//! The background task: connects with backoff, writes heartbeat, state and
//! events, removes jobs, and starts over when the connection breaks. It ends
//! only when it is stopped.
//!
//! Connected means that writing works: the state is written before the
//! connection is given out.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};
use serde::Deserialize;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{debug, info, warn};

use super::client::QueueStats;
use super::error::{QueueError, RedisFailure};
use super::event::CallEvent;
use super::removals::Removals;
use super::state::{HEARTBEAT_INTERVAL, Keys, NodeState};

/// First and longest pause between two attempts to connect.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one command of this task may take.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);
/// How soon a change of state is written.
const TICK: Duration = Duration::from_millis(250);
/// How often statistics are recomputed, which also proves the connection.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// Events written at once.
const EVENT_BATCH: usize = 64;
/// How many jobs are looked at for those of an earlier life.
const SWEEP_MAX: isize = 10_000;

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
    client: Client,
    pub(super) keys: Keys,
    stream_url_base: Option<String>,
    slot: Mutex<Slot>,
    removals: Mutex<Removals>,
    /// A removal waits, or the connection was found broken.
    wake: Notify,
    queue_changed: AtomicBool,
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
}

impl Shared {
    pub(super) fn new(client: Client, keys: Keys, stream_url_base: Option<String>) -> Self {
        let failure = RedisFailure::Connecting;
        Self {
            client,
            keys,
            stream_url_base,
            slot: Mutex::new(Slot {
                generation: 0,
                connection: Err(failure),
            }),
            removals: Mutex::default(),
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
            Err(failure) => Err(QueueError::Disconnected { failure: *failure }),
        }
    }

    /// Takes a connection out of use. Later commands fail at once.
    pub(super) fn broken(&self, generation: u64, failure: RedisFailure) {
        let mut slot = self.slot();
        if slot.generation == generation && slot.connection.is_ok() {
            slot.connection = Err(failure);
            drop(slot);
            self.wake.notify_one();
        }
    }

    pub(super) fn remove(&self, payload: String, expires: SystemTime, uncertain: bool) {
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
        }
    }

    /// Why the connection in use was found broken; `None` while it is good.
    fn failure(&self) -> Option<RedisFailure> {
        self.slot().connection.as_ref().err().copied()
    }

    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.slot.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn removals(&self) -> MutexGuard<'_, Removals> {
        self.removals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_connected(&self, connection: MultiplexedConnection) {
        let mut slot = self.slot();
        slot.generation += 1;
        slot.connection = Ok(connection);
        drop(slot);
        self.status.send_replace(RedisState::Connected {
            since: SystemTime::now(),
        });
        info!("Redis is connected");
    }

    fn set_stopped(&self) {
        let failure = RedisFailure::Stopped;
        self.slot().connection = Err(failure);
        self.status.send_replace(RedisState::Disconnected {
            since: SystemTime::now(),
            failure,
        });
    }

    fn set_disconnected(&self, (failure, text): &Failed) {
        self.slot().connection = Err(*failure);
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

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could stop us, nor use us.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// Connects, bounded in time.
pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, Failed> {
    // Time limits are ours, per command.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    bounded(CONNECT_TIMEOUT, connecting).await
}

async fn bounded<T>(
    limit: Duration,
    command: impl Future<Output = RedisResult<T>>,
) -> Result<T, Failed> {
    match timeout(limit, command).await {
        Ok(result) => result.map_err(|error| (RedisFailure::of(&error), error.to_string())),
        Err(_) => Err((RedisFailure::TimedOut, "no answer".into())),
    }
}

/// The background task.
pub(super) struct Link {
    shared: Arc<Shared>,
    events: mpsc::Receiver<(u64, CallEvent)>,
    /// Events taken from the channel and not written yet.
    batch: Vec<(u64, CallEvent)>,
    /// What this connection has written of the node's state, and when.
    written: Option<(NodeState, Instant)>,
    statistics_at: Instant,
    swept: bool,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Receiver<(u64, CallEvent)>) -> Self {
        Self {
            shared,
            events,
            batch: Vec::with_capacity(EVENT_BATCH),
            written: None,
            statistics_at: Instant::now(),
            swept: false,
        }
    }

    /// Runs until stopped.
    pub(super) async fn run(mut self) {
        let mut stopping = self.shared.stopping.subscribe();
        let mut pause = BACKOFF.0;
        while !*stopping.borrow() {
            let failed = match self.open().await {
                Ok(mut connection) => {
                    pause = BACKOFF.0;
                    match self.serve(&mut connection).await {
                        ControlFlow::Continue(failed) => failed,
                        ControlFlow::Break(()) => break,
                    }
                }
                Err(failed) => failed,
            };
            self.shared.set_disconnected(&failed);
            let jittered = pause.mul_f64(rand::rng().random_range(0.5..1.0));
            tokio::select! {
                () = sleep(jittered) => {}
                () = stopped(&mut stopping) => {}
            }
            pause = (pause * 2).min(BACKOFF.1);
        }
        self.shared.set_stopped();
    }

    /// Connects, proves that writing works, and puts the connection into use.
    async fn open(&mut self) -> Result<MultiplexedConnection, Failed> {
        let mut connection = connect(&self.shared.client).await?;
        self.written = None;
        // Alone, because a transaction would hide why it is refused.
        bounded(
            COMMAND_TIMEOUT,
            self.shared.keys.announce().exec_async(&mut connection),
        )
        .await?;
        if !self.swept {
            self.sweep(&mut connection).await?;
            self.swept = true;
        }
        self.write_state(&mut connection).await?;
        self.shared.set_connected(connection.clone());
        // Removals of the time without a connection.
        self.shared.wake.notify_one();
        Ok(connection)
    }

    /// Works until the connection breaks (`Continue`) or the task is stopped.
    async fn serve(&mut self, connection: &mut MultiplexedConnection) -> ControlFlow<(), Failed> {
        let shared = Arc::clone(&self.shared);
        let mut stopping = shared.stopping.subscribe();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let done = tokio::select! {
                () = stopped(&mut stopping) => {
                    if let Err((failure, text)) = self.finish(connection).await {
                        warn!(%failure, reason = text, "Redis still shows this node; its keys will expire");
                    }
                    return ControlFlow::Break(());
                }
                _ = tick.tick() => self.upkeep(connection).await,
                () = shared.wake.notified() => self.remove_jobs(connection).await,
                count = self.events.recv_many(&mut self.batch, EVENT_BATCH), if self.batch.is_empty() => {
                    if count == 0 {
                        // The last handle is gone.
                        shared.stopping.send_replace(true);
                    }
                    self.write_events(connection).await
                }
            };
            if let Err(failed) = done {
                return ControlFlow::Continue(failed);
            }
            if let Some(failure) = shared.failure() {
                return ControlFlow::Continue((failure, "a call found it".into()));
            }
        }
    }

    /// Writes what is due.
    async fn upkeep(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        if !self.batch.is_empty() {
            self.write_events(connection).await?;
        }
        let due = match &self.written {
            Some((written, at)) => {
                at.elapsed() >= HEARTBEAT_INTERVAL || *self.shared.state.borrow() != *written
            }
            None => true,
        };
        if due {
            return self.write_state(connection).await;
        }
        let changed = self.shared.queue_changed.swap(false, Ordering::Relaxed);
        if changed || self.statistics_at.elapsed() >= STATISTICS_INTERVAL {
            self.shared.removals().look_again();
            self.remove_jobs(connection).await?;
            self.write_statistics(connection).await?;
        }
        Ok(())
    }

    async fn write_state(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let state = self.shared.state.borrow().clone();
        let written = self.written.as_ref().map(|(written, _)| written);
        let pipeline = self.shared.keys.write(&state, written, SystemTime::now());
        bounded(COMMAND_TIMEOUT, pipeline.exec_async(connection)).await?;
        self.written = Some((state, Instant::now()));
        self.write_statistics(connection).await
    }

    async fn write_statistics(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Failed> {
        let command = self.shared.keys.statistics(SystemTime::now());
        self.statistics_at = Instant::now();
        bounded(COMMAND_TIMEOUT, command.exec_async(connection)).await
    }

    /// Writes the batch. Kept for the next connection when this one breaks;
    /// dropped when Redis refuses it.
    async fn write_events(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (number, event) in &self.batch {
            pipeline.add_command(event.command(&self.shared.keys.node, *number));
        }
        match bounded(COMMAND_TIMEOUT, pipeline.exec_async(connection)).await {
            Err((RedisFailure::Refused, text)) => {
                warn!(
                    reason = text,
                    count = self.batch.len(),
                    "Redis refused call events; dropped"
                );
                self.shared.event_dropped(self.batch.len());
            }
            Err(failed) => return Err(failed),
            Ok(()) => {}
        }
        self.batch.clear();
        Ok(())
    }

    async fn remove_jobs(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        loop {
            let Some(removal) = self.shared.removals().next(SystemTime::now()) else {
                return Ok(());
            };
            match self.remove_job(connection, &removal.payload).await {
                Ok(0) => self.shared.removals().not_found(removal),
                Ok(_) => {}
                Err((RedisFailure::Refused, text)) => {
                    warn!(
                        reason = text,
                        "Redis refused to remove a job; it will expire"
                    );
                }
                Err(failed) => {
                    self.shared.removals().failed(removal);
                    return Err(failed);
                }
            }
        }
    }

    async fn remove_job(
        &self,
        connection: &mut MultiplexedConnection,
        payload: &str,
    ) -> Result<u64, Failed> {
        let mut command = redis::cmd("LREM");
        command.arg(&self.shared.keys.queue).arg(0).arg(payload);
        run(&command, connection).await
    }

    /// Removes the jobs that an earlier life of this node left behind: their
    /// calls died with it. They carry our name and our address, which nobody
    /// else can have while we listen on it.
    async fn sweep(&self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Leftover {
            bridge_node_id: String,
            audio_stream_url: String,
        }
        let Some(base) = &self.shared.stream_url_base else {
            return Ok(());
        };
        let mut command = redis::cmd("LRANGE");
        command.arg(&self.shared.keys.queue).arg(-SWEEP_MAX).arg(-1);
        let jobs: Vec<Vec<u8>> = run(&command, connection).await?;
        let mut removed = 0;
        for job in jobs.iter().filter_map(|job| std::str::from_utf8(job).ok()) {
            let ours = serde_json::from_str::<Leftover>(job).is_ok_and(|leftover| {
                leftover.bridge_node_id == self.shared.keys.node
                    && leftover.audio_stream_url.starts_with(base.as_str())
            });
            if ours {
                removed += self.remove_job(connection, job).await?;
            }
        }
        if removed > 0 {
            info!(removed, "removed the jobs of calls that a crash had ended");
        }
        Ok(())
    }

    /// Writes all that waits and takes the node out of Redis.
    async fn finish(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        self.events.close();
        loop {
            while self.batch.len() < EVENT_BATCH {
                let Ok(event) = self.events.try_recv() else {
                    break;
                };
                self.batch.push(event);
            }
            if self.batch.is_empty() {
                break;
            }
            self.write_events(connection).await?;
        }
        self.remove_jobs(connection).await?;
        let erase = self.shared.keys.erase();
        bounded(COMMAND_TIMEOUT, erase.exec_async(connection)).await?;
        self.write_statistics(connection).await
    }
}

async fn run<T: FromRedisValue>(
    command: &redis::Cmd,
    connection: &mut MultiplexedConnection,
) -> Result<T, Failed> {
    bounded(COMMAND_TIMEOUT, command.query_async(connection)).await
}
