//! The background task: connects with backoff, writes heartbeat, state and
//! events, removes jobs, and starts over when the connection breaks. It ends
//! only when it is stopped.
//!
//! Connected means that writing works, and soon enough for a waiting caller:
//! the state is written before the connection is given out. By then Redis has
//! been brought up to date too, whatever it has lost or kept too long.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use rand::RngExt;
use redis::RedisResult;
use redis::aio::MultiplexedConnection;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tracing::{info, warn};

use super::calls::{Closing, OpenCalls};
use super::client::PUSH_TIMEOUT;
use super::connection::{COMMAND_TIMEOUT, bounded, connect, run, run_all};
use super::error::RedisFailure;
use super::event::CallEvent;
use super::line_places;
use super::membership;
use super::removals::KeyRemoval;
use super::shared::{Failed, Shared};
use super::stale_jobs;
use super::state::NodeState;
use crate::core::log_limiter::LogLimiter;
use crate::core::outcome::Outcome;

/// First and longest pause between two attempts to connect. A bridge that takes longer than its leases last, once Redis is back,
/// loses its lines to those that were faster.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));
/// How soon a change of state is written, and a taken job noticed.
const TICK: Duration = Duration::from_millis(250);
/// How often statistics are recomputed, which also proves the connection.
const STATISTICS_INTERVAL: Duration = Duration::from_secs(1);
/// How often leftovers are looked for.
const TIDY_INTERVAL: Duration = Duration::from_secs(5);
/// Events written at once.
const EVENT_BATCH: usize = 64;
/// At most one warning about a Redis that lacks a command in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(600);
/// How long a Redis that answers may take. Slower than this is away: each new
/// call would wait and then be refused.
const PROOF_TIMEOUT: Duration = PUSH_TIMEOUT;

/// The background task.
pub(super) struct Link {
    shared: Arc<Shared>,
    events: mpsc::Receiver<(u64, CallEvent)>,
    /// Events taken from the channel and not written yet.
    batch: Vec<(u64, CallEvent)>,
    /// What this connection has written of the node's state, and when.
    written: Option<(NodeState, Instant)>,
    statistics_at: Instant,
    /// What Redis knows of the calls in progress.
    open_calls: OpenCalls,
    /// When leftovers were last looked for.
    tidied_at: Instant,
    connected_at: Instant,
    /// Redis refuses to say which jobs are taken.
    cannot_say: LogLimiter,
}

impl Link {
    pub(super) fn new(shared: Arc<Shared>, events: mpsc::Receiver<(u64, CallEvent)>) -> Self {
        Self {
            shared,
            events,
            batch: Vec::with_capacity(EVENT_BATCH),
            written: None,
            statistics_at: Instant::now(),
            open_calls: OpenCalls::default(),
            tidied_at: Instant::now(),
            connected_at: Instant::now(),
            cannot_say: LogLimiter::new(WARN_INTERVAL),
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

    /// Connects, proves that writing works, brings Redis up to date, and puts
    /// the connection into use.
    async fn open(&mut self) -> Result<MultiplexedConnection, Failed> {
        let shared = Arc::clone(&self.shared);
        let mut connection = connect(&shared.client).await?;
        self.written = None;
        // Before anything is written or removed in the node's name.
        membership::join(&shared, &mut connection).await?;
        // Next, because it works even where there is no room for anything new.
        self.remove_jobs(&mut connection).await?;
        // Alone, because a transaction would hide why it is refused.
        let proof = shared.keys.announce();
        bounded(PROOF_TIMEOUT, proof.exec_async(&mut connection)).await?;
        self.sweep(&mut connection).await?;
        self.settle_calls(&mut connection).await?;
        self.read_today(&mut connection).await?;
        self.write_state(&mut connection).await?;
        (self.connected_at, self.tidied_at) = (Instant::now(), Instant::now());
        shared.set_connected(connection.clone());
        // Removals of the time without a connection.
        shared.wake.notify_one();
        Ok(connection)
    }

    /// Removes jobs with our name that are none of ours.
    async fn sweep(&self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let Some(base) = &self.shared.stream_url_base else {
            return Ok(());
        };
        let knows = |job: &str| self.shared.jobs().knows(job);
        stale_jobs::sweep(&self.shared.keys, base, knows, connection).await
    }

    /// Closes the calls that Redis has as ours and that are not: those of an
    /// earlier life, and those whose end Redis has lost. Writes again what it
    /// has lost of those in progress. Before the state is written, because the
    /// age of the old state tells when the earlier life ended.
    async fn settle_calls(&self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let closing = Closing {
            node: &self.shared.keys.node,
            unless_alive: false,
            outcome: Outcome::BridgeLost,
        };
        // The batch may have been written without our hearing of it.
        let waits = |id: &str| {
            let mut batch = self.batch.iter();
            batch.any(|(_, event)| event.facts.id.as_str() == id)
        };
        let is_gone = |id: &str| !self.open_calls.contains(id) && !waits(id);
        let closed = closing.run(is_gone, connection).await?;
        let restored = self.open_calls.restore(&self.shared.keys, connection);
        let restored = restored.await?;
        if closed + restored > 0 {
            info!(
                closed,
                restored, "brought the calls in Redis up to date after a crash"
            );
        }
        Ok(())
    }

    async fn read_today(&self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let unread = self
            .shared
            .today()
            .unread(&self.shared.keys, SystemTime::now());
        if let Some(command) = unread {
            let before: Option<u64> = run(&command, connection).await?;
            self.shared.today().set_before(before.unwrap_or_default());
        }
        Ok(())
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
                () = shared.wake.notified() => self.remove(connection).await,
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
                let text = if failure == RedisFailure::Conflict {
                    membership::conflict(&shared).to_string()
                } else {
                    "a call found it".into()
                };
                return ControlFlow::Continue((failure, text));
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
                at.elapsed() >= self.shared.heartbeat_interval()
                    || *self.shared.state.borrow() != *written
            }
            None => true,
        };
        if due {
            self.write_state(connection).await?;
        }
        line_places::keep(&self.shared).await;
        self.look_for_watched(connection).await?;
        let changed = self.shared.queue_changed.swap(false, Ordering::Relaxed);
        if changed || self.statistics_at.elapsed() >= STATISTICS_INTERVAL {
            self.shared.removals().look_again();
            self.remove_jobs(connection).await?;
            self.write_statistics(false, connection).await?;
        }
        self.tidy(connection).await
    }

    /// Looks for leftovers now and then.
    async fn tidy(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let dead_after = self.shared.dead_after;
        if self.tidied_at.elapsed() < TIDY_INTERVAL.min(dead_after) {
            return Ok(());
        }
        self.tidied_at = Instant::now();
        self.sweep(connection).await?;
        if self.connected_at.elapsed() >= dead_after {
            stale_jobs::reap(&self.shared.keys, dead_after, connection).await?;
        }
        Ok(())
    }

    /// Asks for the watched jobs; see `jobs` for what the answer means.
    async fn look_for_watched(
        &mut self,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Failed> {
        let round = self.shared.jobs().round();
        if round.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (_, job) in &round {
            // From the end that workers take from.
            let command = pipeline.cmd("LPOS").arg(&self.shared.keys.queue);
            command.arg(&**job).arg("RANK").arg(-1);
        }
        let positions: Vec<Option<u64>> = match run_all(&pipeline, connection).await {
            Err((RedisFailure::Refused, reason)) => {
                if self.cannot_say.count(Instant::now().into_std()).is_some() {
                    warn!(
                        reason,
                        "Redis does not say which jobs are taken (LPOS, Redis 6.0.6): one whose worker never dials is not pushed again"
                    );
                }
                return Ok(());
            }
            positions => positions?,
        };
        let mut jobs = self.shared.jobs();
        for ((watch, _), position) in round.iter().zip(positions) {
            if position.is_none() {
                jobs.taken(*watch);
            }
        }
        Ok(())
    }

    async fn write_state(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let state = self.shared.state.borrow().clone();
        let written = self.written.as_ref().map(|(written, _)| written);
        // Else the heartbeat is written by who shares the lines.
        let heartbeat = self.shared.instance.is_none().then(SystemTime::now);
        let kept = self.shared.lease_ttl;
        let pipeline = self.shared.keys.write(&state, written, heartbeat, kept);
        bounded(COMMAND_TIMEOUT, pipeline.exec_async(connection)).await?;
        self.written = Some((state, Instant::now()));
        self.shared.today().set_written(None);
        self.write_statistics(true, connection).await
    }

    async fn write_statistics(
        &mut self,
        all: bool,
        connection: &mut MultiplexedConnection,
    ) -> Result<(), Failed> {
        let now = SystemTime::now();
        let (shared, mut pipeline) = (&self.shared, redis::pipe());
        let count = shared.today().write(&shared.keys, now, &mut pipeline);
        pipeline.add_command(shared.keys.statistics(now, all));
        self.statistics_at = Instant::now();
        bounded(PROOF_TIMEOUT, pipeline.exec_async(connection)).await?;
        shared.today().set_written(count);
        Ok(())
    }

    /// Writes the batch. What Redis refuses for good is dropped; the rest is
    /// kept for the next connection when this one fails.
    async fn write_events(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let mut pipeline = redis::pipe();
        for (number, event) in &self.batch {
            pipeline.add_command(event.command(&self.shared.keys, *number));
        }
        // With the events, so that a crash loses no call of the day.
        let (now, keys) = (SystemTime::now(), &self.shared.keys);
        self.shared.today().write(keys, now, &mut pipeline);
        pipeline.ignore_errors();
        let results: Vec<RedisResult<u64>> = run_all(&pipeline, connection).await?;
        let mut failed = None;
        let mut results = results.into_iter();
        let (shared, open_calls) = (&self.shared, &mut self.open_calls);
        self.batch.retain(|(number, event)| match results.next() {
            Some(Ok(_)) => {
                open_calls.written(&shared.keys.node, *number, event);
                false
            }
            Some(Err(error)) => match RedisFailure::of(&error) {
                RedisFailure::Refused => {
                    warn!(reason = %error, "Redis refused a call event; dropped");
                    shared.event_dropped(1);
                    false
                }
                failure => {
                    failed = Some((failure, error.to_string()));
                    true
                }
            },
            None => true,
        });
        failed.map_or(Ok(()), Err)
    }

    /// Takes out of Redis what waits for that.
    async fn remove(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        line_places::keep(&self.shared).await;
        self.remove_jobs(connection).await
    }

    async fn remove_jobs(&mut self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        loop {
            let batch = self.shared.removals().batch(SystemTime::now());
            if batch.is_empty() {
                return Ok(());
            }
            let mut pipeline = redis::pipe();
            for removal in &batch {
                let command = pipeline.cmd("LREM").arg(&self.shared.keys.queue);
                command.arg(0).arg(&removal.payload);
            }
            pipeline.ignore_errors();
            let results = run_all::<Vec<RedisResult<u64>>>(&pipeline, connection).await;
            let results = match results {
                Ok(results) => results,
                Err(failed) => {
                    self.shared.removals().failed(batch);
                    return Err(failed);
                }
            };
            self.note_removals(batch, results)?;
        }
    }

    fn note_removals(
        &self,
        batch: Vec<KeyRemoval>,
        results: Vec<RedisResult<u64>>,
    ) -> Result<(), Failed> {
        let mut failed = None;
        let mut unanswered = Vec::new();
        let mut removals = self.shared.removals();
        for (removal, result) in batch.into_iter().zip(results) {
            match result.map_err(|error| (RedisFailure::of(&error), error.to_string())) {
                Ok(0) => removals.not_found(removal),
                Ok(_) => {}
                Err((RedisFailure::Refused, text)) => {
                    warn!(
                        reason = text,
                        "Redis refused to remove a job; it will expire"
                    );
                }
                Err(failure) => {
                    failed = Some(failure);
                    unanswered.push(removal);
                }
            }
        }
        removals.failed(unanswered);
        failed.map_or(Ok(()), Err)
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
        if !membership::leave(&self.shared, connection).await? {
            return Ok(());
        }
        // Calls that were given up, or whose end found no room.
        let closing = Closing {
            node: &self.shared.keys.node,
            unless_alive: false,
            outcome: Outcome::Shutdown,
        };
        closing.run(|_| true, connection).await?;
        let erase = self.shared.keys.erase();
        bounded(COMMAND_TIMEOUT, erase.exec_async(connection)).await?;
        self.write_statistics(true, connection).await
    }
}

async fn stopped(stopping: &mut watch::Receiver<bool>) {
    // An error means that nobody is left who could stop us, nor use us.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}
