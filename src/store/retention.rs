//! Deleting records of calls that are older than the operator wants to keep.

use std::time::SystemTime;

use super::calls::millis;
use super::connection::Store;
use super::error::StoreError;
use super::migrations::Dialect;

impl Store {
    /// Deletes records of calls that ended before this time, `most` at most;
    /// the answer is how many. Calls without an end are in progress, at this
    /// bridge or at another.
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
             WHERE started_at < $1 AND ended_at < $1 \
             ORDER BY started_at, call_id LIMIT {most}{unlocked})"
        );
        let done = sqlx::query(&sql)
            .bind(millis(before))
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("deleting old records of calls"))?;
        Ok(done.rows_affected())
    }
}
