//! Deletes records of calls that are older than `--keep-records`: at the start
//! and then each day, a few at a time, so that nothing else waits for it.

use std::time::{Duration, SystemTime};

use tokio::time::sleep;
use tracing::{info, warn};

use crate::store::{Store, StoreError};

/// Records deleted in one go: a few milliseconds, in which SQLite can do
/// nothing else.
const BATCH: u32 = 200;
/// Between two of them.
const PAUSE: Duration = Duration::from_millis(100);
const DAY: Duration = Duration::from_secs(86_400);
/// When it is tried again after a failure.
const RETRY: Duration = Duration::from_secs(600);

/// Runs until it is aborted.
pub async fn run(store: Store, keep: Duration) {
    loop {
        let next = match forget(&store, keep).await {
            Ok(0) => DAY,
            Ok(records) => {
                info!(records, "old records of calls deleted");
                DAY
            }
            Err(error) => {
                warn!(%error, "old records of calls stay for now");
                RETRY
            }
        };
        sleep(next).await;
    }
}

async fn forget(store: &Store, keep: Duration) -> Result<u64, StoreError> {
    let Some(before) = SystemTime::now().checked_sub(keep) else {
        return Ok(0);
    };
    let mut deleted = 0;
    loop {
        let records = store.forget_calls(before, BATCH).await?;
        deleted += records;
        if records < u64::from(BATCH) {
            return Ok(deleted);
        }
        sleep(PAUSE).await;
    }
}
