//! The background task: connects with backoff, writes heartbeat, state and
//! events, removes jobs, and starts over when the connection breaks. It ends
//! only when it is stopped.
//!
//! Connected means that writing works: the state is written before the
//! connection is given out.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};
use serde::Deserialize;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tracing::{info, warn};

use super::error::RedisFailure;
use super::event::CallEvent;
use super::shared::{Failed, Shared};
use super::state::{HEARTBEAT_INTERVAL, NodeState};

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
                let path = leftover.audio_stream_url.strip_prefix(base.as_str());
                leftover.bridge_node_id == self.shared.keys.node
                    && path.is_some_and(|path| path.starts_with('/'))
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

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could stop us, nor use us.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
