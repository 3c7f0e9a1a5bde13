//! Phone lines, SIP servers and the fallback server: read and changed.

use std::sync::Arc;

use sqlx::{AnyConnection, Transaction};

use super::connection::Store;
use super::error::StoreError;
use super::table::Table;
use crate::core::private::Secret;
use crate::lines::Row;

/// The setting that names the global fallback server.
const FALLBACK: &str = "fallback_sip_server_id";

/// What became of a server that was to be removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Done,
    /// There was none.
    Missing,
    /// It is in use, and stays.
    InUse {
        /// Ids of the lines that name it.
        lines: Vec<String>,
        /// Whether it is the fallback server.
        fallback: bool,
    },
}

/// A row whose id the database has counted, seen by nobody yet. Dropped, it
/// is as if it had never been.
#[derive(Debug)]
pub struct Begun {
    transaction: Transaction<'static, sqlx::Any>,
    table: Arc<Table>,
    id: String,
}

impl Begun {
    /// Its id.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Sets the columns that had to wait for the id, and lets it be seen. The
    /// answer is the id.
    ///
    /// # Errors
    /// When the database fails, or does not take them.
    pub async fn finish(mut self, row: &Row) -> Result<String, StoreError> {
        self.table
            .update(&mut self.transaction, &self.id, row)
            .await?;
        let committed = self.transaction.commit().await;
        committed.map_err(StoreError::query("inserting a line or server"))?;
        Ok(self.id)
    }
}

impl Store {
    async fn begin(&self, table: &Arc<Table>, row: &Row) -> Result<Begun, StoreError> {
        let begun = self.pool.begin().await;
        let mut transaction = begun.map_err(StoreError::query("inserting a line or server"))?;
        let id = table.insert(&mut transaction, row).await?;
        let table = table.clone();
        Ok(Begun {
            transaction,
            table,
            id,
        })
    }

    /// Begins to insert a line whose id the database counts.
    ///
    /// # Errors
    /// When the database fails, or does not take it.
    pub async fn begin_line(&self, row: &Row) -> Result<Begun, StoreError> {
        self.begin(&self.lines, row).await
    }

    /// Begins to insert a server; as [`Store::begin_line`].
    ///
    /// # Errors
    /// As there.
    pub async fn begin_server(&self, row: &Row) -> Result<Begun, StoreError> {
        self.begin(&self.servers, row).await
    }

    /// All lines, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lines(&self) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.acquire("reading lines").await?;
        self.lines.select(&mut connection, None).await
    }

    /// At most `limit` lines, those after an id, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lines_page(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.acquire("reading lines").await?;
        self.lines.page(&mut connection, after, limit).await
    }

    /// An id for a new line; `None` where ids are numbers, which the database
    /// counts.
    #[must_use]
    pub fn fresh_line_id(&self) -> Option<String> {
        self.lines.fresh_id()
    }

    /// The id of a line as the database will give it back: seal a password
    /// for this one.
    ///
    /// # Errors
    /// When it is no id for this database, or the database fails.
    pub async fn canonical_line_id(&self, id: &str) -> Result<String, StoreError> {
        let mut connection = self.acquire("reading an id").await?;
        self.lines.canonical_id(&mut connection, id).await
    }

    /// One line.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn line(&self, id: &str) -> Result<Option<Row>, StoreError> {
        let mut connection = self.acquire("reading a line").await?;
        Ok(self.lines.select(&mut connection, Some(id)).await?.pop())
    }

    /// Inserts a line; the answer is its id, which is made up where the row
    /// has none. An encrypted password needs the id beforehand: it is the salt.
    ///
    /// # Errors
    /// When the id is taken, or the database fails.
    pub async fn insert_line(&self, row: &Row) -> Result<String, StoreError> {
        let mut connection = self.acquire("inserting a line").await?;
        self.lines.insert_alone(&mut connection, row).await
    }

    /// Sets the columns of a line that the row has, and no others; false when
    /// there is no such line.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_line(&self, id: &str, row: &Row) -> Result<bool, StoreError> {
        let mut connection = self.acquire("changing a line").await?;
        self.lines.update(&mut connection, id, row).await
    }

    /// As [`Store::update_line`]; where the row has parameters or the headers
    /// that are made of them, false as well when the line's are not those of
    /// `before` any more: they were merged with those, and another change
    /// would be undone.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn merge_line(&self, id: &str, row: &Row, before: &Row) -> Result<bool, StoreError> {
        const MERGED: [&str; 2] = ["custom_parameters", "sip_headers"];
        let still = MERGED.into_iter().filter(|name| row.has(name));
        let still: Vec<_> = still.map(|name| (name, before.get(name))).collect();
        let mut connection = self.acquire("changing a line").await?;
        self.lines.update_if(&mut connection, id, row, &still).await
    }

    /// Removes a line; false when there is none.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_line(&self, id: &str) -> Result<bool, StoreError> {
        let mut connection = self.acquire("removing a line").await?;
        self.lines.delete(&mut connection, id, "").await
    }

    /// All servers, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn servers(&self) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.acquire("reading servers").await?;
        self.servers.select(&mut connection, None).await
    }

    /// At most `limit` servers, those after an id, in the order of their ids.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn servers_page(
        &self,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        let mut connection = self.acquire("reading servers").await?;
        self.servers.page(&mut connection, after, limit).await
    }

    /// An id for a new server; as [`Store::fresh_line_id`].
    #[must_use]
    pub fn fresh_server_id(&self) -> Option<String> {
        self.servers.fresh_id()
    }

    /// The id of a server; as [`Store::canonical_line_id`].
    ///
    /// # Errors
    /// As there.
    pub async fn canonical_server_id(&self, id: &str) -> Result<String, StoreError> {
        let mut connection = self.acquire("reading an id").await?;
        self.servers.canonical_id(&mut connection, id).await
    }

    /// One server.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn server(&self, id: &str) -> Result<Option<Row>, StoreError> {
        let mut connection = self.acquire("reading a server").await?;
        Ok(self.servers.select(&mut connection, Some(id)).await?.pop())
    }

    /// Inserts a server; as [`Store::insert_line`].
    ///
    /// # Errors
    /// When the id is taken, or the database fails.
    pub async fn insert_server(&self, row: &Row) -> Result<String, StoreError> {
        let mut connection = self.acquire("inserting a server").await?;
        self.servers.insert_alone(&mut connection, row).await
    }

    /// Sets columns of a server; as [`Store::update_line`].
    ///
    /// # Errors
    /// When the database fails.
    pub async fn update_server(&self, id: &str, row: &Row) -> Result<bool, StoreError> {
        let mut connection = self.acquire("changing a server").await?;
        self.servers.update(&mut connection, id, row).await
    }

    /// Removes a server that no line names and that is not the fallback.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_server(&self, id: &str) -> Result<Removal, StoreError> {
        const UNLESS: &str = "AND NOT EXISTS (SELECT 1 FROM phone_lines \
             WHERE CAST(sip_server_id AS TEXT) = $1) \
             AND NOT EXISTS (SELECT 1 FROM settings \
             WHERE name = 'fallback_sip_server_id' AND value = $1)";
        let mut connection = self.acquire("removing a server").await?;
        if self.servers.delete(&mut connection, id, UNLESS).await? {
            return Ok(Removal::Done);
        }
        drop(connection);
        if self.server(id).await?.is_none() {
            return Ok(Removal::Missing);
        }
        Ok(Removal::InUse {
            lines: self.lines_of_server(id).await?,
            fallback: self.fallback().await?.as_deref() == Some(id),
        })
    }

    /// Ids of the lines that name a server.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn lines_of_server(&self, id: &str) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT CAST(id AS TEXT) FROM phone_lines \
                   WHERE CAST(sip_server_id AS TEXT) = $1 ORDER BY 1";
        sqlx::query_scalar(sql)
            .bind(id.to_owned())
            .fetch_all(&self.pool)
            .await
            .map_err(StoreError::query("reading the lines of a server"))
    }

    /// Id of the global fallback server.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn fallback(&self) -> Result<Option<String>, StoreError> {
        if !self.has_table("settings").await? {
            return Ok(None);
        }
        let mut connection = self.acquire("reading the fallback server").await?;
        Self::fallback_in(&mut connection).await
    }

    pub(super) async fn fallback_in(
        connection: &mut AnyConnection,
    ) -> Result<Option<String>, StoreError> {
        let found: Option<Option<String>> =
            sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
                .bind(FALLBACK)
                .fetch_optional(connection)
                .await
                .map_err(StoreError::query("reading the fallback server"))?;
        Ok(found.flatten().filter(|id| !id.is_empty()))
    }

    /// A secret that is kept in the database, as text: `fresh` where there was
    /// none. `None` where the database has no settings of ours.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn kept_secret(&self, name: &str, fresh: &str) -> Result<Option<Secret>, StoreError> {
        if !self.has_table("settings").await? {
            return Ok(None);
        }
        // Another bridge may do the same at this moment: the first one counts.
        let sql =
            "INSERT INTO settings (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING";
        sqlx::query(sql)
            .bind(name.to_owned())
            .bind(fresh.to_owned())
            .execute(&self.pool)
            .await
            .map_err(StoreError::query("keeping a secret"))?;
        let found: Option<Option<String>> =
            sqlx::query_scalar("SELECT value FROM settings WHERE name = $1")
                .bind(name.to_owned())
                .fetch_optional(&self.pool)
                .await
                .map_err(StoreError::query("reading a secret"))?;
        Ok(found.flatten().map(Secret::new))
    }

    /// Names the global fallback server, or none. That there is such a server
    /// is for the caller to see to: a line that falls back to one that is not
    /// there is reported and not registered.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn set_fallback(&self, id: Option<&str>) -> Result<(), StoreError> {
        let sql = "INSERT INTO settings (name, value) VALUES ($1, $2) \
                   ON CONFLICT (name) DO UPDATE SET value = excluded.value";
        sqlx::query(sql)
            .bind(FALLBACK)
            .bind(id.map(str::to_owned))
            .execute(&self.pool)
            .await
            .map(drop)
            .map_err(StoreError::query("setting the fallback server"))
    }
}
