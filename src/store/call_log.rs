//! Writes records of calls without ever holding up a call: a bounded queue,
//! and a task that empties it.
//!
//! While the database is away, what waits in the queue waits; what finds the
//! queue full is dropped and counted. A record that the database refuses for
//! its own sake is dropped and counted too, so that it holds up no other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Connection;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use super::calls::{CallRecord, write};
use super::connection::Store;
use super::error::StoreError;

/// Records that may wait: two of each of 1,000 calls, four times over.
pub const QUEUE_RECORDS: usize = 8_192;
/// Records written in one transaction.
const BATCH: usize = 64;
/// Pause after a failure, doubled up to the other.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What became of the records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallLogStats {
    /// Written.
    pub written: u64,
    /// Lost: the queue was full, or the database refused them.
    pub dropped: u64,
}

#[derive(Debug, Default)]
struct Counters {
    written: AtomicU64,
    dropped: AtomicU64,
}

/// Where calls leave their records. Clones share the queue.
#[derive(Clone, Debug)]
pub struct CallLog {
    queue: mpsc::Sender<CallRecord>,
    counters: Arc<Counters>,
    node: Arc<str>,
    stopping: watch::Sender<bool>,
}

/// The task behind a [`CallLog`].
#[derive(Debug)]
pub struct CallLogTask {
    task: JoinHandle<()>,
    stopping: watch::Sender<bool>,
    counters: Arc<Counters>,
}

impl CallLog {
    /// Starts the task that writes.
    #[must_use]
    pub fn start(store: Store, node: &str) -> (Self, CallLogTask) {
        Self::with_room(store, node, QUEUE_RECORDS)
    }

    /// As [`CallLog::start`], with room for so many records.
    #[must_use]
    pub fn with_room(store: Store, node: &str, records: usize) -> (Self, CallLogTask) {
        let (queue, received) = mpsc::channel(records);
        let (stopping, stopped) = watch::channel(false);
        let log = Self {
            queue,
            counters: Arc::default(),
            node: node.into(),
            stopping: stopping.clone(),
        };
        let writer = Writer {
            store,
            counters: log.counters.clone(),
        };
        let task = CallLogTask {
            task: tokio::spawn(writer.run(received, stopped)),
            stopping,
            counters: log.counters.clone(),
        };
        (log, task)
    }

    /// This bridge's name, for [`CallRecord::node`].
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// Leaves a record to be written. Never waits.
    pub fn record(&self, record: CallRecord) {
        let is_full = self.queue.try_send(record).is_err() || *self.stopping.borrow();
        if is_full {
            drop_one(&self.counters, "too many wait, or the bridge goes down");
        }
    }

    /// What became of the records so far.
    #[must_use]
    pub fn stats(&self) -> CallLogStats {
        self.counters.read()
    }
}

impl Counters {
    fn read(&self) -> CallLogStats {
        CallLogStats {
            written: self.written.load(Ordering::Relaxed),
            dropped: self.dropped.load(Ordering::Relaxed),
        }
    }
}

/// The log sees the 1st, 10th, 100th …
fn drop_one(counters: &Counters, why: &str) {
    let dropped = counters.dropped.fetch_add(1, Ordering::Relaxed) + 1;
    if 10_u64.pow(dropped.ilog10()) == dropped {
        warn!(dropped, why, "record of a call dropped");
    }
}

impl CallLogTask {
    /// Writes what waits, for so long at most. For the end, when no call is left.
    pub async fn stop(mut self, limit: Duration) {
        let _ = self.stopping.send(true);
        if timeout(limit, &mut self.task).await.is_err() {
            self.task.abort();
            warn!("the database did not take the last records of calls in time");
        }
        let CallLogStats { written, dropped } = self.counters.read();
        info!(written, dropped, "records of calls");
    }
}

struct Writer {
    store: Store,
    counters: Arc<Counters>,
}

impl Writer {
    async fn run(
        self,
        mut received: mpsc::Receiver<CallRecord>,
        mut stopped: watch::Receiver<bool>,
    ) {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                biased;
                count = received.recv_many(&mut batch, BATCH) => {
                    if count == 0 {
                        return;
                    }
                    self.write_all(&mut batch).await;
                }
                // Closed, the queue still gives out what is in it.
                _ = stopped.changed(), if !received.is_closed() => {
                    received.close();
                }
            }
        }
    }

    /// Returns when the batch is written or given up.
    async fn write_all(&self, batch: &mut Vec<CallRecord>) {
        if self.write_patiently(batch).await.is_err() {
            // One of them is at fault: the others are written.
            for record in &*batch {
                let written = self.write_patiently(std::slice::from_ref(record)).await;
                if let Err(error) = written {
                    drop_one(&self.counters, &error.to_string());
                }
            }
        }
        batch.clear();
    }

    /// Tries until they are written or refused; the error is the refusal.
    async fn write_patiently(&self, records: &[CallRecord]) -> Result<(), StoreError> {
        let mut pause = RETRY_MIN;
        while let Err(error) = self.write(records).await {
            if !error.is_transient() {
                return Err(error);
            }
            warn!(%error, "records of calls wait for the database");
            sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
        let written = u64::try_from(records.len()).unwrap_or_default();
        self.counters.written.fetch_add(written, Ordering::Relaxed);
        Ok(())
    }

    async fn write(&self, batch: &[CallRecord]) -> Result<(), StoreError> {
        const WHAT: &str = "writing records of calls";
        let mut connection = self.store.acquire(WHAT).await?;
        let begun = connection.begin().await;
        let mut transaction = begun.map_err(StoreError::query(WHAT))?;
        for record in batch {
            let written = write(&mut transaction, record).await;
            written.map_err(StoreError::query(WHAT))?;
        }
        transaction.commit().await.map_err(StoreError::query(WHAT))
    }
}
