//! Callbacks that are not delivered yet, and what is owed to the receivers of
//! calls in progress should the bridge die.
//!
//! An address of a call's own is kept as it was given, with what it holds; the
//! one of the flags is not written.

use std::time::SystemTime;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, Connection, Row as _};

use super::calls::{at, millis};
use super::connection::Store;
use super::error::StoreError;
use crate::core::callback::{CallChange, CallEnd, CallbackEvent, Kept, Owed, WebhookEvent};
use crate::core::ids::CallId;
use crate::core::outcome::Outcome;
use crate::core::private::Secret;

impl Store {
    /// What this bridge kept, `most` of each kind at most: the oldest. For the
    /// start only, once calls that the bridge had when it died are marked.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn callbacks(&self, node: &str, most: usize) -> Result<Kept, StoreError> {
        let ours = self.is_ours();
        let waiting = format!(
            "SELECT call_id, sequence, event, url, body FROM callbacks \
             WHERE {ours} ORDER BY made_at, call_id, sequence LIMIT {most}"
        );
        // A record is written apart from its call's last callback, and so may
        // have an end where that callback was lost.
        let owed = format!(
            "SELECT call_id, sequence, event, url, body, \
             answered_at, ended_at, outcome, sip_status FROM \
             (SELECT * FROM callbacks_owed WHERE {ours}) AS owed \
             LEFT JOIN calls USING (call_id) ORDER BY call_id LIMIT {most}"
        );
        Ok(Kept {
            waiting: self.kept(&waiting, node, notice).await?,
            owed: self.kept(&owed, node, owed_of).await?,
        })
    }

    async fn kept<T>(
        &self,
        sql: &str,
        node: &str,
        read: impl Fn(&AnyRow) -> Result<Option<T>, sqlx::Error>,
    ) -> Result<Vec<T>, StoreError> {
        const WHAT: &str = "reading callbacks";
        let rows = sqlx::query(sql)
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
    pub async fn change_callbacks(
        &self,
        node: &str,
        changes: &[CallChange],
    ) -> Result<(), StoreError> {
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
    change: &CallChange,
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
        CallChange::Insert(notice) => {
            put(connection, INSERT, node, notice).await?;
            match notice.event {
                CallbackEvent::Completed => settle(connection, &notice.call).await,
                // It is none of the call's status: its last is owed as before.
                CallbackEvent::MachineDetected => Ok(()),
                _ => put(connection, OWE, node, notice).await,
            }
        }
        CallChange::Delete(call, sequence) => {
            sqlx::query("DELETE FROM callbacks WHERE call_id = $1 AND sequence = $2")
                .bind(call.as_str().to_owned())
                .bind(i64::from(*sequence))
                .execute(connection)
                .await
                .map(drop)
        }
        CallChange::Settle(call) => settle(connection, call).await,
    }
}

async fn settle(connection: &mut AnyConnection, call: &CallId) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM callbacks_owed WHERE call_id = $1")
        .bind(call.as_str().to_owned())
        .execute(connection)
        .await
        .map(drop)
}

async fn put(
    connection: &mut AnyConnection,
    sql: &'static str,
    node: &str,
    notice: &WebhookEvent,
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
fn notice(row: &AnyRow) -> Result<Option<WebhookEvent>, sqlx::Error> {
    let text = |name: &str| row.try_get::<String, _>(name);
    let url: Option<String> = row.try_get("url")?;
    let (call, event) = (text("call_id")?, text("event")?);
    let sequence: i64 = row.try_get("sequence")?;
    let known = (
        CallId::parse(&call),
        CallbackEvent::parse_kept(&event),
        u32::try_from(sequence),
    );
    let (Some(call), Some(event), Ok(sequence)) = known else {
        return Ok(None);
    };
    Ok(Some(WebhookEvent {
        call,
        sequence,
        event,
        url: url.map(Secret::new),
        body: text("body")?,
    }))
}

fn owed_of(row: &AnyRow) -> Result<Option<Owed>, sqlx::Error> {
    let Some(last) = notice(row)? else {
        return Ok(None);
    };
    let time = |name: &str| Ok::<_, sqlx::Error>(row.try_get::<Option<i64>, _>(name)?.map(at));
    let outcome: Option<String> = row.try_get("outcome")?;
    let outcome = outcome.as_deref().and_then(Outcome::parse);
    let sip_status: Option<i64> = row.try_get("sip_status")?;
    let sip_status = sip_status.and_then(|status| u16::try_from(status).ok());
    let answered = time("answered_at")?;
    let end = time("ended_at")?.zip(outcome);
    let end = end.map(|(ended, outcome)| CallEnd {
        answered,
        ended,
        outcome,
        sip_status: sip_status.unwrap_or_default(),
    });
    Ok(Some(Owed { last, end }))
}
