//! What is kept of callbacks over a restart: each from when it is made until
//! it is delivered or given up, and for each call in progress what is owed if
//! the bridge dies before the last one is kept.
//!
//! Changes are written in order by a task of their own: deliveries never wait
//! for the database. While it is away changes wait, up to a bound; what has no
//! room is counted. A lost insertion is a callback that a crash would lose, a
//! lost deletion one that a restart sends again.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::warn;

use super::stats::{Counters, count, is_told};
use crate::core::callback::{CallChange, Kept};

/// Changes that may wait: each callback has two.
const QUEUE: usize = 32_768;
/// Changes written in one go.
const BATCH: usize = 64;
/// Pause after a failure, doubled up to the other.
const RETRY_MIN: Duration = Duration::from_millis(250);
const RETRY_MAX: Duration = Duration::from_secs(5);

/// What a store gives back later.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, SpoolError>> + Send>>;

/// Why something was not kept.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub struct SpoolError {
    /// Why, for the log.
    pub reason: String,
    /// Whether the same may well succeed later.
    pub transient: bool,
}

/// Where callbacks are kept.
pub trait OutboxStore: Send + Sync {
    /// What this bridge kept before its start, `most` of each kind at most.
    fn kept(&self, most: usize) -> Answer<Kept>;
    /// Carries out changes in order, all or none.
    fn apply(&self, changes: Vec<CallChange>) -> Answer<()>;
}

/// Takes changes to the task that writes them.
#[derive(Clone)]
pub(super) struct OutboxWriter {
    queue: Option<mpsc::Sender<CallChange>>,
    counters: Arc<Counters>,
}

impl OutboxWriter {
    /// Starts the task; it ends once every clone is dropped and all is written.
    pub(super) fn start(
        store: Option<Arc<dyn OutboxStore>>,
        counters: Arc<Counters>,
    ) -> (Self, Option<JoinHandle<()>>) {
        let Some(store) = store else {
            let queue = None;
            return (Self { queue, counters }, None);
        };
        let (queue, received) = mpsc::channel(QUEUE);
        let task = tokio::spawn(write(store, received, counters.clone()));
        let queue = Some(queue);
        (Self { queue, counters }, Some(task))
    }

    /// Leaves a change to be written. Never waits.
    pub(super) fn leave(&self, change: CallChange) {
        if let Some(queue) = &self.queue {
            if queue.try_send(change).is_err() {
                lose(&self.counters, "too many changes wait for the database");
            }
        }
    }
}

fn lose(counters: &Counters, why: &str) {
    let unkept = count(&counters.unkept);
    if is_told(unkept) {
        warn!(unkept, why, "a callback is not kept for a restart");
    }
}

async fn write(
    store: Arc<dyn OutboxStore>,
    mut received: mpsc::Receiver<CallChange>,
    counters: Arc<Counters>,
) {
    let mut batch = Vec::with_capacity(BATCH);
    while received.recv_many(&mut batch, BATCH).await > 0 {
        if write_patiently(&*store, &batch).await.is_err() {
            // One of them is at fault: the others are written.
            for change in &batch {
                if let Err(error) = write_patiently(&*store, std::slice::from_ref(change)).await {
                    lose(&counters, &error.to_string());
                }
            }
        }
        batch.clear();
    }
}

/// Tries until they are written or refused; the error is the refusal.
async fn write_patiently(
    store: &dyn OutboxStore,
    changes: &[CallChange],
) -> Result<(), SpoolError> {
    let mut pause = RETRY_MIN;
    while let Err(error) = store.apply(changes.to_vec()).await {
        if !error.transient {
            return Err(error);
        }
        warn!(%error, "callbacks wait for the database to be kept");
        sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
    Ok(())
}
