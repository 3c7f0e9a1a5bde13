//! The import of a lines file: each line inserted or updated by its id. A line
//! that the database does not take keeps no other back.

use std::collections::HashMap;

use sqlx::{AnyConnection, Connection};

use super::connection::Store;
use super::error::StoreError;
use super::migrations::Dialect;
use crate::lines::Row;
use crate::lines::row::LINE_COLUMNS;

const WHAT: &str = "importing the lines file";

/// What an import did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Ids of lines that were not there.
    pub inserted: Vec<String>,
    /// Ids of lines that were there and had other values.
    pub updated: Vec<String>,
    /// How many were there as they are in the file.
    pub unchanged: usize,
    /// Lines that the database does not take; what it had before, it has still.
    pub refused: Vec<RefusedRow>,
}

/// A line that the database does not take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Which of the rows, from 0.
    pub place: usize,
    /// Why, in the database's words, without values.
    pub reason: String,
}

/// What became of one row.
enum Done {
    Unchanged,
    Updated,
    Inserted,
}

impl Store {
    /// Writes the lines of a file into the database: inserted, or by their ids
    /// updated in the columns that the file names. What the database does not
    /// take is in the answer.
    ///
    /// # Errors
    /// When the database fails; nothing is changed then.
    pub async fn import(&self, rows: &[Row]) -> Result<Imported, StoreError> {
        let stored = self.lines().await?.into_iter();
        let mut stored: HashMap<String, Row> = stored
            .filter_map(|row| Some((row.id()?.to_owned(), row)))
            .collect();
        let mut imported = Imported::default();
        let mut connection = self.acquire(WHAT).await?;
        let begun = connection.begin().await;
        let mut transaction = begun.map_err(StoreError::query(WHAT))?;
        if self.dialect == Dialect::Postgres {
            // A constraint that waits for the commit would not say which row it was.
            sqlx::query("SET CONSTRAINTS ALL IMMEDIATE")
                .execute(&mut *transaction)
                .await
                .map_err(StoreError::query(WHAT))?;
        }
        let mut left: Vec<usize> = (0..rows.len()).collect();
        loop {
            let tried = left.len();
            imported.refused.clear();
            for place in left {
                let row = &rows[place];
                match self.import_one(&mut transaction, &mut stored, row).await {
                    Ok((_, Done::Unchanged)) => imported.unchanged += 1,
                    Ok((id, Done::Updated)) => imported.updated.push(id),
                    Ok((id, Done::Inserted)) => imported.inserted.push(id),
                    Err(error) => imported.refused.push(RefusedRow {
                        place,
                        reason: error.of_one_row()?,
                    }),
                }
            }
            // A number that moves to another line is free once the first has a new one.
            if imported.refused.is_empty() || imported.refused.len() == tried {
                break;
            }
            left = imported.refused.iter().map(|row| row.place).collect();
        }
        let committed = transaction.commit().await;
        committed.map_err(StoreError::query(WHAT))?;
        Ok(imported)
    }

    /// Writes one row, or undoes what became of it. The answer has its id as
    /// the database writes it.
    async fn import_one(
        &self,
        transaction: &mut AnyConnection,
        stored: &mut HashMap<String, Row>,
        row: &Row,
    ) -> Result<(String, Done), StoreError> {
        // Entries without an id are mistakes of the file, and no rows.
        let given = row.id().unwrap_or_default();
        // At most starts nothing has changed: that costs no query.
        if stored
            .get(given)
            .is_some_and(|old| !old.clone().overlay(row))
        {
            stored.remove(given);
            return Ok((given.to_owned(), Done::Unchanged));
        }
        // A savepoint: after an error PostgreSQL takes nothing more without one.
        let begun = transaction.begin().await;
        let mut savepoint = begun.map_err(StoreError::query(WHAT))?;
        let id = match stored.contains_key(given) {
            true => given.to_owned(),
            false => self.lines.canonical_id(&mut savepoint, given).await?,
        };
        let mut row = row.clone();
        row.set(LINE_COLUMNS[0], Some(id.clone()));
        let is_changed = stored.get(&id).map(|old| old.clone().overlay(&row));
        let done = match is_changed {
            Some(false) => Done::Unchanged,
            Some(true) => {
                self.lines.update(&mut savepoint, &id, &row).await?;
                Done::Updated
            }
            None => {
                self.lines.insert(&mut savepoint, &row).await?;
                Done::Inserted
            }
        };
        let kept = savepoint.commit().await;
        kept.map_err(StoreError::query(WHAT))?;
        // A second line with this id is refused.
        stored.remove(&id);
        Ok((id, done))
    }
}
