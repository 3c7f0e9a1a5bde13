//! A table whose column types are not known beforehand: read by casts to
//! text, written by casts to what the column is.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::SystemTime;

use sqlx::any::AnyRow;
use sqlx::{AnyConnection, AnyPool, Row as _};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::error::StoreError;
use super::migrations::Dialect;
use crate::lines::Row;
use crate::lines::row::{Column, ColumnKind, LINE_COLUMNS, SERVER_COLUMNS};

/// What a column is in this database.
#[derive(Clone, Debug)]
struct Actual {
    /// As the database names it; quoted where it must be.
    type_name: String,
    has_default: bool,
}

/// `phone_lines` or `sip_servers`, as it is in this database.
#[derive(Clone, Debug)]
pub struct Table {
    name: &'static str,
    dialect: Dialect,
    columns: &'static [Column],
    /// Of those columns, the ones that are there.
    actual: BTreeMap<&'static str, Actual>,
}

/// `phone_lines`.
pub(super) async fn lines_table(pool: &AnyPool, dialect: Dialect) -> Result<Table, StoreError> {
    Table::of(pool, dialect, "phone_lines", LINE_COLUMNS).await
}

/// `sip_servers`.
pub(super) async fn servers_table(pool: &AnyPool, dialect: Dialect) -> Result<Table, StoreError> {
    Table::of(pool, dialect, "sip_servers", SERVER_COLUMNS).await
}

const SQLITE_COLUMNS: &str = "SELECT CAST(name AS TEXT), CAST(type AS TEXT), \
     CAST(dflt_value IS NOT NULL AS TEXT) FROM pragma_table_info($1)";
/// With -1 instead of NULL a `char(n)` is called `bpchar`: a cast to `character`
/// would cut the text to one character. With its length a text that is too long
/// would be cut as well, where it is to be refused.
const POSTGRES_COLUMNS: &str = "SELECT CAST(attname AS TEXT), format_type(atttypid, -1), \
     CASE WHEN atthasdef OR attidentity <> '' THEN '1' ELSE '0' END \
     FROM pg_attribute WHERE attrelid = to_regclass($1) AND attnum > 0 AND NOT attisdropped";

impl Table {
    async fn of(
        pool: &AnyPool,
        dialect: Dialect,
        name: &'static str,
        columns: &'static [Column],
    ) -> Result<Self, StoreError> {
        let sql = match dialect {
            Dialect::Sqlite => SQLITE_COLUMNS,
            Dialect::Postgres => POSTGRES_COLUMNS,
        };
        let found: Vec<(String, String, String)> = sqlx::query_as(sql)
            .bind(name)
            .fetch_all(pool)
            .await
            .map_err(StoreError::query("reading the columns of its tables"))?;
        let known = |(found, type_name, default): (String, String, String)| {
            let column = columns.iter().find(|column| column.name == found)?;
            let actual = Actual {
                type_name,
                has_default: default == "1",
            };
            Some((column.name, actual))
        };
        Ok(Self {
            name,
            dialect,
            columns,
            actual: found.into_iter().filter_map(known).collect(),
        })
    }

    /// Whether the table is there at all.
    pub(super) fn exists(&self) -> bool {
        !self.actual.is_empty()
    }

    fn present(&self) -> impl Iterator<Item = &Column> {
        let actual = &self.actual;
        self.columns
            .iter()
            .filter(|column| actual.contains_key(column.name))
    }

    /// All rows, or that with the id, in the order of their ids.
    pub(super) async fn select(
        &self,
        connection: &mut AnyConnection,
        id: Option<&str>,
    ) -> Result<Vec<Row>, StoreError> {
        let which = match id {
            Some(_) => "WHERE CAST(id AS TEXT) = $1 ORDER BY 1",
            None => "ORDER BY 1",
        };
        self.query(connection, which, id).await
    }

    /// At most `limit` rows, those after an id, in the order of their ids.
    pub(super) async fn page(
        &self,
        connection: &mut AnyConnection,
        after: Option<&str>,
        limit: u32,
    ) -> Result<Vec<Row>, StoreError> {
        let which = match after {
            Some(_) => "WHERE CAST(id AS TEXT) > $1",
            None => "",
        };
        let which = format!("{which} ORDER BY 1 LIMIT {limit}");
        self.query(connection, &which, after).await
    }

    async fn query(
        &self,
        connection: &mut AnyConnection,
        which: &str,
        id: Option<&str>,
    ) -> Result<Vec<Row>, StoreError> {
        if !self.exists() {
            return Ok(Vec::new());
        }
        let columns: Vec<String> = self
            .present()
            .map(|column| format!("CAST({0} AS TEXT) AS {0}", column.name))
            .collect();
        let sql = format!("SELECT {} FROM {} {which}", columns.join(", "), self.name);
        let mut query = sqlx::query(&sql);
        if let Some(id) = id {
            query = query.bind(id.to_owned());
        }
        let rows = query.fetch_all(connection).await;
        let rows = rows.map_err(StoreError::query("reading lines or servers"))?;
        rows.iter()
            .map(|row| self.read(row))
            .collect::<Result<_, _>>()
            .map_err(StoreError::query("reading lines or servers"))
    }

    /// An id for a new row; `None` where ids are numbers, which the database
    /// counts.
    pub(super) fn fresh_id(&self) -> Option<String> {
        let is_number = self
            .actual
            .get("id")
            .is_some_and(|actual| actual.type_name.to_lowercase().contains("int"));
        (!is_number).then(random_uuid)
    }

    /// An id as the database will give it back: numbers lose their zeros in
    /// front, UUIDs their capitals. It is the salt of the row's password.
    pub(super) async fn canonical_id(
        &self,
        connection: &mut AnyConnection,
        id: &str,
    ) -> Result<String, StoreError> {
        let type_name = self.actual.get("id").map(|actual| &actual.type_name);
        let type_name = type_name.map_or("text", String::as_str);
        let sql = match self.dialect {
            Dialect::Sqlite if is_kept(type_name) => return Ok(id.to_owned()),
            Dialect::Postgres if ["text", "character varying"].contains(&type_name) => {
                return Ok(id.to_owned());
            }
            // What is no number stays what it is.
            Dialect::Sqlite => "SELECT CASE WHEN CAST($1 AS NUMERIC) = $1 \
                 THEN CAST(CAST($1 AS NUMERIC) AS TEXT) ELSE $1 END"
                .to_owned(),
            Dialect::Postgres => {
                format!("SELECT CAST(CAST(CAST($1 AS TEXT) AS {type_name}) AS TEXT)")
            }
        };
        sqlx::query_scalar(&sql)
            .bind(id.to_owned())
            .fetch_one(connection)
            .await
            .map_err(StoreError::query("reading an id"))
    }

    fn read(&self, found: &AnyRow) -> Result<Row, sqlx::Error> {
        let mut row = Row::default();
        for column in self.present() {
            row.set(*column, found.try_get(column.name)?);
        }
        Ok(row)
    }

    /// The columns of `row`, each with the text to bind.
    fn values(&self, row: &Row) -> Result<Vec<(Column, Option<String>)>, StoreError> {
        let mut values = Vec::new();
        for name in row.names() {
            let known = self.present().find(|column| column.name == name);
            let column = known.ok_or(StoreError::NoColumn {
                table: self.name,
                column: name,
            })?;
            let text = row.get(name).map(|text| self.written(*column, text));
            values.push((*column, text));
        }
        Ok(values)
    }

    fn type_of(&self, column: Column) -> &str {
        let actual = self.actual.get(column.name);
        actual.map_or("text", |actual| actual.type_name.as_str())
    }

    /// A flag in the words that the column's type takes: integers do not take
    /// `true`, and texts are read by people.
    fn written(&self, column: Column, text: &str) -> String {
        let type_name = self.type_of(column).to_lowercase();
        let is_text = ["char", "text", "clob"]
            .iter()
            .any(|part| type_name.contains(part));
        match (column.kind, text) {
            (ColumnKind::Flag, "true") if !is_text => "1".into(),
            (ColumnKind::Flag, "false") if !is_text => "0".into(),
            _ => text.to_owned(),
        }
    }

    /// `$n`, cast to the column's type where the database does not do so itself.
    fn placeholder(&self, column: Column, number: usize) -> String {
        match self.dialect {
            Dialect::Sqlite => format!("${number}"),
            Dialect::Postgres => {
                format!("CAST(CAST(${number} AS TEXT) AS {})", self.type_of(column))
            }
        }
    }

    /// Inserts a row; the answer is its id. Without an id it gets a UUID, or
    /// the next number where ids are numbers.
    pub(super) async fn insert(
        &self,
        connection: &mut AnyConnection,
        row: &Row,
    ) -> Result<String, StoreError> {
        let mut row = row.clone();
        self.complete(&mut row);
        let mut values = self.values(&row)?;
        // A null is what an absent column gets anyway, unless it has a default.
        values.retain(|(_, text)| text.is_some());
        let (mut names, mut places) = (String::new(), String::new());
        for (index, (column, _)) in values.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(names, "{comma}{}", column.name);
            let _ = write!(places, "{comma}{}", self.placeholder(*column, index + 1));
        }
        let sql = format!(
            "INSERT INTO {} ({names}) VALUES ({places}) RETURNING CAST(id AS TEXT)",
            self.name
        );
        let mut query = sqlx::query_scalar(&sql);
        for (_, text) in values {
            query = query.bind(text);
        }
        let inserted = query.fetch_one(connection).await;
        inserted.map_err(StoreError::query("inserting a line or server"))
    }

    /// As [`Table::insert`], where no transaction is open: an id that is there
    /// already is told apart from what else the database does not take.
    pub(super) async fn insert_alone(
        &self,
        connection: &mut AnyConnection,
        row: &Row,
    ) -> Result<String, StoreError> {
        let inserted = self.insert(connection, row).await;
        if let (Err(StoreError::Values { .. }), Some(id)) = (&inserted, row.id()) {
            if !self.select(connection, Some(id)).await?.is_empty() {
                return Err(StoreError::Taken(id.to_owned()));
            }
        }
        inserted
    }

    /// What the database does not fill in by itself.
    fn complete(&self, row: &mut Row) {
        for column in self.present() {
            let Some(actual) = self.actual.get(column.name) else {
                continue;
            };
            let type_name = actual.type_name.to_lowercase();
            let is_number = type_name.contains("int");
            match column.name {
                "id" if row.id().is_none() && !is_number && !actual.has_default => {
                    row.set(*column, Some(random_uuid()));
                }
                "created_at" if row.get("created_at").is_none() && !actual.has_default => {
                    row.set(*column, Some(now(is_number)));
                }
                _ => {}
            }
        }
    }

    /// Sets the columns that `row` has; false when there is no such row.
    pub(super) async fn update(
        &self,
        connection: &mut AnyConnection,
        id: &str,
        row: &Row,
    ) -> Result<bool, StoreError> {
        self.update_if(connection, id, row, &[]).await
    }

    /// As [`Table::update`]; false as well when one of these columns does not
    /// hold this text, or null, any more.
    pub(super) async fn update_if(
        &self,
        connection: &mut AnyConnection,
        id: &str,
        row: &Row,
        still: &[(&'static str, Option<&str>)],
    ) -> Result<bool, StoreError> {
        let mut values = self.values(row)?;
        values.retain(|(column, _)| column.name != "id");
        if values.is_empty() {
            return Ok(!self.select(connection, Some(id)).await?.is_empty());
        }
        let set: Vec<String> = values
            .iter()
            .enumerate()
            .map(|(index, (column, _))| {
                format!("{} = {}", column.name, self.placeholder(*column, index + 1))
            })
            .collect();
        let number = values.len() + 1;
        let conditions = still.iter().zip(number + 1..).map(|((name, _), number)| {
            format!(" AND CAST({name} AS TEXT) IS NOT DISTINCT FROM CAST(${number} AS TEXT)")
        });
        let conditions: String = conditions.collect();
        let sql = format!(
            "UPDATE {} SET {} WHERE CAST(id AS TEXT) = ${number}{conditions}",
            self.name,
            set.join(", "),
        );
        let mut query = sqlx::query(&sql);
        for (_, text) in values {
            query = query.bind(text);
        }
        query = query.bind(id.to_owned());
        for (_, text) in still {
            query = query.bind(text.map(str::to_owned));
        }
        let done = query.execute(connection).await;
        let done = done.map_err(StoreError::query("changing a line or server"))?;
        Ok(done.rows_affected() > 0)
    }

    /// Removes a row; false when there is none. `unless` is more of the
    /// condition, with `$1` for the id.
    pub(super) async fn delete(
        &self,
        connection: &mut AnyConnection,
        id: &str,
        unless: &str,
    ) -> Result<bool, StoreError> {
        let sql = format!(
            "DELETE FROM {} WHERE CAST(id AS TEXT) = $1 {unless}",
            self.name
        );
        let done = sqlx::query(&sql)
            .bind(id.to_owned())
            .execute(connection)
            .await;
        match done.map_err(StoreError::query("removing a line or server")) {
            // Nothing is written here: the fault is with what refers to it.
            Err(StoreError::Values { reason, .. }) => Err(StoreError::Referenced(reason)),
            done => Ok(done?.rows_affected() > 0),
        }
    }
}

/// Whether SQLite keeps a text in a column of this type as it is (its rules of
/// affinity).
fn is_kept(type_name: &str) -> bool {
    let type_name = type_name.to_lowercase();
    let kept = ["char", "clob", "text", "blob"]
        .iter()
        .any(|part| type_name.contains(part));
    !type_name.contains("int") && (kept || type_name.is_empty())
}

/// RFC 9562, version 4.
fn random_uuid() -> String {
    let random: u128 = rand::random();
    let bits = (random & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ]
    .join("-")
}

fn now(as_number: bool) -> String {
    let now = OffsetDateTime::from(SystemTime::now());
    if as_number {
        return now.unix_timestamp().to_string();
    }
    // The format has no part that could fail.
    now.format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_have_their_version_and_variant() {
        let uuid = random_uuid();
        let lengths: Vec<usize> = uuid.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12]);
        assert_eq!(uuid.as_bytes()[14], b'4', "{uuid}");
        assert!(b"89ab".contains(&uuid.as_bytes()[19]), "{uuid}");
        assert_ne!(uuid, random_uuid());
    }
}
