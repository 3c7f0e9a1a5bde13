//! Records of calls from the newest to the oldest, by who, whom and when.

use std::time::SystemTime;

use super::calls::{COLUMNS, CallRecord, PAGE_MAX, millis, read};
use super::connection::Store;
use super::error::StoreError;
use crate::core::ids::CallId;
use crate::core::private::Private;

/// Which records, newest first.
#[derive(Clone, Debug, Default)]
pub struct CallSearch {
    /// Who called, as it is kept.
    pub from: Option<Private>,
    /// Who was called, as it is kept.
    pub to: Option<Private>,
    /// Calls that began at this time or later.
    pub since: Option<SystemTime>,
    /// Calls that began at this time or before.
    pub until: Option<SystemTime>,
    /// Only what began before this call, which began then.
    pub before: Option<(SystemTime, CallId)>,
    /// Most records, 1 to [`PAGE_MAX`].
    pub limit: u32,
}

impl Store {
    /// The newest records that are searched for.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn search_calls(&self, search: &CallSearch) -> Result<Vec<CallRecord>, StoreError> {
        const WHAT: &str = "searching call records";
        let mut wheres = vec!["started_at >= $1".to_owned(), "started_at <= $2".to_owned()];
        let mut texts = Vec::new();
        let mut add = |column: &str, value: Option<&Private>| {
            if let Some(value) = value {
                texts.push(value.expose().to_owned());
                wheres.push(format!("{column} = ${}", texts.len() + 2));
            }
        };
        add("from_number", search.from.as_ref());
        add("to_number", search.to.as_ref());
        let next = texts.len() + 3;
        if search.before.is_some() {
            wheres.push(format!("(started_at, call_id) < (${next}, ${})", next + 1));
        }
        let sql = format!(
            "SELECT {} FROM calls WHERE {} ORDER BY started_at DESC, call_id DESC LIMIT {}",
            COLUMNS.join(", "),
            wheres.join(" AND "),
            search.limit.clamp(1, PAGE_MAX)
        );
        let mut select = sqlx::query(&sql)
            .bind(search.since.map_or(i64::MIN, millis))
            .bind(search.until.map_or(i64::MAX, millis));
        for text in texts {
            select = select.bind(text);
        }
        if let Some((time, call)) = &search.before {
            select = select.bind(millis(*time)).bind(call.as_str().to_owned());
        }
        let rows = select.fetch_all(&self.pool).await;
        let rows = rows.map_err(StoreError::query(WHAT))?;
        let records: Result<Vec<_>, _> = rows.iter().map(read).collect();
        records.map_err(StoreError::query(WHAT))
    }

    /// Deletes the record of a call that is over; the answer is whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_call(&self, id: &CallId) -> Result<bool, StoreError> {
        let delete = "DELETE FROM calls WHERE call_id = $1 AND ended_at IS NOT NULL";
        let done = sqlx::query(delete)
            .bind(id.as_str().to_owned())
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("deleting a call record"))?;
        Ok(done.rows_affected() > 0)
    }
}
