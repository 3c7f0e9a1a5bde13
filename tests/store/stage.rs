//! A database of either kind for a test, and rows to put into it.

use std::time::{Duration, Instant};

use serde_json::Value;
use sipbridge::core::private::Secret;
use sipbridge::lines::Row;
use sipbridge::lines::row::{LINE_COLUMNS, SERVER_COLUMNS};
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

use crate::postgres::Postgres;

/// Where a test's database is.
pub enum Stage {
    Sqlite(TempDir),
    Postgres(Postgres),
}

impl Stage {
    pub fn sqlite() -> Self {
        Self::Sqlite(TempDir::new().unwrap())
    }

    pub fn postgres() -> Self {
        Self::Postgres(Postgres::start())
    }

    /// One of each.
    pub fn both() -> [Self; 2] {
        [Self::sqlite(), Self::postgres()]
    }

    pub fn location(&self) -> Location {
        match self {
            // A name with everything that a URL would trip over.
            Self::Sqlite(folder) => Location::Sqlite(folder.path().join("a b?c#d%é.db")),
            Self::Postgres(postgres) => Location::Postgres {
                url: Secret::new(postgres.url()),
                shown: "postgres://***@localhost/***".into(),
            },
        }
    }

    pub async fn open(&self) -> Store {
        Store::open(&self.location()).await.unwrap()
    }

    /// Runs SQL behind the program's back; the answer is what it prints.
    pub fn sql(&self, sql: &str) -> String {
        match self {
            Self::Postgres(postgres) => postgres.sql(sql),
            Self::Sqlite(_) => {
                let Location::Sqlite(path) = self.location() else {
                    unreachable!("a file")
                };
                let output = std::process::Command::new("sqlite3")
                    .arg("-bail")
                    .arg(path)
                    .arg(sql)
                    .output()
                    .expect("sqlite3 must be installed; tests/run.sh installs it");
                let error = String::from_utf8_lossy(&output.stderr).into_owned();
                assert!(output.status.success(), "{sql}: {error}");
                String::from_utf8(output.stdout).unwrap().trim().to_owned()
            }
        }
    }
}

pub fn line(value: Value) -> Row {
    Row::from_object(LINE_COLUMNS, value.as_object().unwrap())
}

pub fn server(value: Value) -> Row {
    Row::from_object(SERVER_COLUMNS, value.as_object().unwrap())
}

/// The row as JSON, without what the database fills in.
pub fn shown(row: &Row) -> Value {
    let mut object = row.to_object(LINE_COLUMNS);
    object.remove("createdAt");
    Value::Object(object)
}

/// Polls until the condition holds.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(30);
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
