//! Deleting records of calls that are older than the operator wants to keep.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::calls::millis;
use super::connection::Store;
use super::error::StoreError;
use super::migrations::Dialect;

/// A record without an end that is older lost its end, or its bridge.
const NO_CALL_LASTS: Duration = Duration::from_secs(7 * 86_400);

impl Store {
    /// Deletes records of calls that ended before this time, `most` at most;
    /// the answer is how many. Calls without an end may be in progress, at this
    /// bridge or at another, unless they began a week before that.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn forget_calls(&self, before: SystemTime, most: u32) -> Result<u64, StoreError> {
        // What another bridge deletes at this moment is not waited for.
        let unlocked = match self.dialect {
            Dialect::Sqlite => "",
            Dialect::Postgres => " FOR UPDATE SKIP LOCKED",
        };
        // The first condition finds them by the index.
        let sql = format!(
            "DELETE FROM calls WHERE call_id IN (SELECT call_id FROM calls \
             WHERE started_at < $1 AND (ended_at < $1 OR (ended_at IS NULL AND started_at < $2)) \
             ORDER BY started_at, call_id LIMIT {most}{unlocked})"
        );
        let done = sqlx::query(&sql)
            .bind(millis(before))
            .bind(millis(
                before.checked_sub(NO_CALL_LASTS).unwrap_or(UNIX_EPOCH),
            ))
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("deleting old records of calls"))?;
        Ok(done.rows_affected())
    }
}
