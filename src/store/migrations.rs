//! The migrations, as they are checked in under `migrations/`: run in order,
//! each once and in a transaction. One that has been released is never
//! edited; the database knows its checksum.

use std::borrow::Cow;

use sqlx::migrate::{Migration, MigrationSource, MigrationType, Migrator};

/// Which database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// SQLite 3.
    Sqlite,
    /// PostgreSQL.
    Postgres,
}

macro_rules! sql {
    ($dialect:literal, $name:literal) => {
        include_str!(concat!("migrations/", $dialect, "/", $name, ".sql"))
    };
}

/// Version, description, SQLite, PostgreSQL.
const ALL: [(i64, &str, &str, &str); 4] = [
    (
        1,
        "lines servers calls",
        sql!("sqlite", "0001_lines_servers_calls"),
        sql!("postgres", "0001_lines_servers_calls"),
    ),
    (
        2,
        "columns of ours",
        sql!("sqlite", "0002_columns_of_ours"),
        sql!("postgres", "0002_columns_of_ours"),
    ),
    (
        3,
        "callbacks",
        sql!("sqlite", "0003_callbacks"),
        sql!("postgres", "0003_callbacks"),
    ),
    (
        4,
        "changes are told",
        sql!("sqlite", "0004_changes_are_told"),
        sql!("postgres", "0004_changes_are_told"),
    ),
];

/// How many there are.
pub const COUNT: usize = ALL.len();

/// What runs them.
pub(super) async fn migrator(dialect: Dialect) -> Result<Migrator, sqlx::migrate::MigrateError> {
    Migrator::new(Embedded(dialect)).await
}

#[derive(Debug)]
struct Embedded(Dialect);

type Resolved = Result<Vec<Migration>, sqlx::error::BoxDynError>;

impl MigrationSource<'static> for Embedded {
    fn resolve(self) -> std::pin::Pin<Box<dyn Future<Output = Resolved> + Send + 'static>> {
        let migration = |&(version, description, sqlite, postgres): &(i64, &'static str, _, _)| {
            let sql = match self.0 {
                Dialect::Sqlite => sqlite,
                Dialect::Postgres => postgres,
            };
            let (description, sql) = (Cow::Borrowed(description), Cow::Borrowed(sql));
            Migration::new(version, description, MigrationType::Simple, sql, false)
        };
        let all: Vec<Migration> = ALL.iter().map(migration).collect();
        Box::pin(std::future::ready(Ok(all)))
    }
}
