//! Callbacks that are not delivered yet, and what is owed to the receivers of
//! calls in progress should the bridge die.
//!
//! An address of a call's own is kept as it was given, with what it holds; the
//! one of the flags is not written.

use std::time::SystemTime;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection, Row as _};

use super::calls::millis;
use super::connection::Store;
use super::error::StoreError;
use crate::core::callback::{CallbackEvent, Change, Kept, Notice};
use crate::core::ids::CallId;
use crate::core::outcome::Outcome;
use crate::core::private::Secret;

impl Store {
    /// What a bridge kept, `most` of each kind at most: the oldest.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn callbacks(&self, node: &str, most: usize) -> Result<Kept, StoreError> {
        const WAITING: &str = "SELECT call_id, sequence, event, url, body FROM callbacks \
             WHERE node_id = $1 ORDER BY made_at, call_id, sequence";
        const OWED: &str = "SELECT call_id, sequence, event, url, body FROM callbacks_owed \
             WHERE node_id = $1 ORDER BY call_id";
        self.forget_settled(node).await?;
        Ok(Kept {
            waiting: self.notices(WAITING, node, most).await?,
            owed: self.notices(OWED, node, most).await?,
        })
    }

    /// A call whose record says that it ended with its bridge alive owes nothing:
    /// that its last callback was left was lost.
    async fn forget_settled(&self, node: &str) -> Result<(), StoreError> {
        const SQL: &str = "DELETE FROM callbacks_owed WHERE node_id = $1 AND EXISTS \
             (SELECT 1 FROM calls WHERE calls.call_id = callbacks_owed.call_id \
             AND calls.ended_at IS NOT NULL AND calls.outcome <> $2)";
        sqlx::query(SQL)
            .bind(node.to_owned())
            .bind(Outcome::BridgeLost.as_str())
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(StoreError::query("settling callbacks"))
    }

    async fn notices(
        &self,
        select: &'static str,
        node: &str,
        most: usize,
    ) -> Result<Vec<Notice>, StoreError> {
        const WHAT: &str = "reading callbacks";
        let sql = format!("{select} LIMIT {most}");
        let rows = sqlx::query(&sql)
            .bind(node.to_owned())
            .fetch_all(&self.pool)
            .await;
        let rows = rows.map_err(StoreError::query(WHAT))?;
        let read: Result<Vec<_>, _> = rows.iter().map(read).collect();
        let read = read.map_err(StoreError::query(WHAT))?;
        Ok(read.into_iter().flatten().collect())
    }

    /// Carries out changes of a bridge's callbacks in order, all or none.
    ///
    /// # Errors
    /// When the database fails; nothing is changed then.
    pub async fn change_callbacks(&self, node: &str, changes: &[Change]) -> Result<(), StoreError> {
        const WHAT: &str = "keeping callbacks";
        let mut connection = self.acquire(WHAT).await?;
        let begun = connection.begin().await;
        let mut transaction = begun.map_err(StoreError::query(WHAT))?;
        for change in changes {
            let done = apply(&mut transaction, node, change).await;
            done.map_err(StoreError::query(WHAT))?;
        }
        transaction.commit().await.map_err(StoreError::query(WHAT))
    }
}

async fn apply(
    connection: &mut AnyConnection,
    node: &str,
    change: &Change,
) -> Result<(), sqlx::Error> {
    const INSERT: &str = "INSERT INTO callbacks \
         (call_id, sequence, event, url, body, node_id, made_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (call_id, sequence) DO NOTHING";
    const OWE: &str = "INSERT INTO callbacks_owed \
         (call_id, sequence, event, url, body, node_id, made_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (call_id) DO UPDATE SET \
         sequence = excluded.sequence, event = excluded.event, url = excluded.url, \
         body = excluded.body, node_id = excluded.node_id, made_at = excluded.made_at";
    match change {
        Change::Insert(notice) => put(connection, INSERT, node, notice).await,
        Change::Owe(notice) => put(connection, OWE, node, notice).await,
        Change::Delete(call, sequence) => {
            sqlx::query("DELETE FROM callbacks WHERE call_id = $1 AND sequence = $2")
                .bind(call.as_str().to_owned())
                .bind(i64::from(*sequence))
                .execute(connection)
                .await
                .map(drop)
        }
        Change::Settle(call) => sqlx::query("DELETE FROM callbacks_owed WHERE call_id = $1")
            .bind(call.as_str().to_owned())
            .execute(connection)
            .await
            .map(drop),
    }
}

async fn put(
    connection: &mut AnyConnection,
    sql: &'static str,
    node: &str,
    notice: &Notice,
) -> Result<(), sqlx::Error> {
    let url = notice.url.as_ref().map(|url| url.expose().to_owned());
    sqlx::query(sql)
        .bind(notice.call.as_str().to_owned())
        .bind(i64::from(notice.sequence))
        .bind(notice.event.as_str().to_owned())
        .bind(url)
        .bind(notice.body.clone())
        .bind(node.to_owned())
        .bind(millis(SystemTime::now()))
        .execute(connection)
        .await
        .map(drop)
}

/// `None` for a row that no version of this program wrote.
fn read(row: &AnyRow) -> Result<Option<Notice>, sqlx::Error> {
    let text = |name: &str| row.try_get::<String, _>(name);
    let url: Option<String> = row.try_get("url")?;
    let (call, event) = (text("call_id")?, text("event")?);
    let sequence: i64 = row.try_get("sequence")?;
    let known = (
        CallId::parse(&call),
        CallbackEvent::parse(&event),
        u32::try_from(sequence),
    );
    let (Some(call), Some(event), Ok(sequence)) = known else {
        return Ok(None);
    };
    Ok(Some(Notice {
        call,
        sequence,
        event,
        url: url.map(Secret::new),
        body: text("body")?,
    }))
}
