//! Noticing that lines, servers or the fallback server are other than before,
//! whoever wrote them, and reading them all at once.

use sqlx::Connection;
use sqlx::postgres::PgListener;

use super::connection::Store;
use super::error::StoreError;
use super::migrations::Dialect;
use crate::lines::Row;

/// What the triggers of migration 4 notify.
const CHANNEL: &str = "sipbridge_lines";

/// Stands for what the tables hold: another one means another content, or that
/// somebody wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseMark(String);

/// The lines, the servers and the fallback server, of one moment.
#[derive(Debug)]
pub struct Snapshot {
    /// `phone_lines`.
    pub lines: Vec<Row>,
    /// `sip_servers`.
    pub servers: Vec<Row>,
    /// Id of the global fallback server.
    pub fallback: Option<String>,
}

impl Store {
    /// Tells whether something has changed, at little cost. SQLite counts the
    /// transactions of other connections: this one's own writes are not seen.
    /// PostgreSQL adds up a hash of every row, and only the sum is sent.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn mark(&self) -> Result<DatabaseMark, StoreError> {
        const POSTGRES: &str = "SELECT \
             (SELECT COUNT(*) || ':' || COALESCE(SUM(hashtextextended(CAST(t AS TEXT), 0)), 0) \
              FROM phone_lines t) || '/' || \
             (SELECT COUNT(*) || ':' || COALESCE(SUM(hashtextextended(CAST(t AS TEXT), 0)), 0) \
              FROM sip_servers t) || '/' || \
             (SELECT COUNT(*) || ':' || COALESCE(SUM(hashtextextended(CAST(t AS TEXT), 0)), 0) \
              FROM settings t)";
        let what = "looking for changes";
        let mut connection = self.acquire(what).await?;
        let mark = match self.dialect {
            Dialect::Sqlite => sqlx::query_scalar::<_, i64>("PRAGMA data_version")
                .fetch_one(&mut *connection)
                .await
                .map(|version| version.to_string()),
            Dialect::Postgres => {
                sqlx::query_scalar(POSTGRES)
                    .fetch_one(&mut *connection)
                    .await
            }
        };
        mark.map(DatabaseMark).map_err(StoreError::query(what))
    }

    /// Reads all of it as it was at one moment.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn snapshot(&self) -> Result<Snapshot, StoreError> {
        const WHAT: &str = "reading lines and servers";
        // A database that is only looked at may not have been migrated.
        let has_settings = self.has_table("settings").await?;
        let mut connection = self.acquire(WHAT).await?;
        let begun = connection.begin().await;
        let mut transaction = begun.map_err(StoreError::query(WHAT))?;
        if self.dialect == Dialect::Postgres {
            sqlx::query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
                .execute(&mut *transaction)
                .await
                .map_err(StoreError::query(WHAT))?;
        }
        let snapshot = Snapshot {
            lines: self.lines.select(&mut transaction, None).await?,
            servers: self.servers.select(&mut transaction, None).await?,
            fallback: match has_settings {
                true => Self::fallback_in(&mut transaction).await?,
                false => None,
            },
        };
        transaction
            .commit()
            .await
            .map_err(StoreError::query(WHAT))?;
        Ok(snapshot)
    }

    /// Whether the database tells of changes by itself.
    #[must_use]
    pub fn tells(&self) -> bool {
        self.listen_url.is_some()
    }

    /// Listens for changes; `None` for SQLite, which tells nobody.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub async fn listen(&self) -> Result<Option<Listener>, StoreError> {
        let Some(url) = &self.listen_url else {
            return Ok(None);
        };
        let what = "listening for changes";
        let listener = PgListener::connect(url.expose()).await;
        let mut listener = listener.map_err(StoreError::query(what))?;
        let listening = listener.listen(CHANNEL).await;
        listening.map_err(StoreError::query(what))?;
        Ok(Some(Listener(listener)))
    }
}

/// A connection on which PostgreSQL tells of changes.
#[derive(Debug)]
pub struct Listener(PgListener);

impl Listener {
    /// Returns when there was a change, or may have been one: a connection
    /// that was lost is made again by itself.
    ///
    /// # Errors
    /// When it is lost and cannot be made again now.
    pub async fn changed(&mut self) -> Result<(), StoreError> {
        let told = self.0.try_recv().await;
        told.map(drop)
            .map_err(StoreError::query("listening for changes"))
    }
}
