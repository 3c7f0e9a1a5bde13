//! The migrations, as they are checked in under `migrations/`: run in order,
//! each once and in a transaction. One that has been released is never
//! edited; the database knows its checksum.

use std::borrow::Cow;

use sqlx::AnyPool;
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
const ALL: [(i64, &str, &str, &str); 11] = [
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
    (
        5,
        "allow from",
        sql!("sqlite", "0005_allow_from"),
        sql!("postgres", "0005_allow_from"),
    ),
    (
        6,
        "audio counters",
        sql!("sqlite", "0006_audio_counters"),
        sql!("postgres", "0006_audio_counters"),
    ),
    (
        7,
        "agents",
        sql!("sqlite", "0007_agents"),
        sql!("postgres", "0007_agents"),
    ),
    (
        8,
        "ways of lines",
        sql!("sqlite", "0008_ways_of_lines"),
        sql!("postgres", "0008_ways_of_lines"),
    ),
    (
        9,
        "parent calls",
        sql!("sqlite", "0009_parent_calls"),
        sql!("postgres", "0009_parent_calls"),
    ),
    (
        10,
        "answered by",
        sql!("sqlite", "0010_answered_by"),
        sql!("postgres", "0010_answered_by"),
    ),
    (
        11,
        "twilio lines",
        sql!("sqlite", "0011_twilio_lines"),
        sql!("postgres", "0011_twilio_lines"),
    ),
];

/// How many there are.
pub const COUNT: usize = ALL.len();

/// What runs them on this database.
pub(super) async fn migrator(
    dialect: Dialect,
    pool: &AnyPool,
) -> Result<Migrator, sqlx::migrate::MigrateError> {
    let there = match dialect {
        Dialect::Sqlite => {
            let columns = "SELECT 'phone_lines.' || name FROM pragma_table_info('phone_lines') \
                 UNION ALL \
                 SELECT 'sip_servers.' || name FROM pragma_table_info('sip_servers')";
            sqlx::query_scalar(columns).fetch_all(pool).await?
        }
        Dialect::Postgres => Vec::new(),
    };
    Migrator::new(Embedded { dialect, there }).await
}

#[derive(Debug)]
struct Embedded {
    dialect: Dialect,
    /// SQLite: the columns that the two tables have before, as `table.column`.
    there: Vec<String>,
}

/// SQLite has no `ADD COLUMN IF NOT EXISTS`: columns that are there are left
/// out of what runs. The migration is the same, and so is its checksum; where
/// it has been run, it is not run again.
fn add_only_missing(migration: &mut Migration, there: &[String]) {
    let is_there = |line: &&str| {
        let altered = line.strip_prefix("ALTER TABLE ");
        let column = altered.and_then(|rest| rest.split_once(" ADD COLUMN "));
        column.is_some_and(|(table, rest)| {
            let name = rest.split([' ', ';']).next().unwrap_or(rest);
            let column = format!("{table}.{name}");
            there
                .iter()
                .any(|other| other.eq_ignore_ascii_case(&column))
        })
    };
    if migration.sql.lines().any(|line| is_there(&line)) {
        let missing = migration.sql.lines().filter(|line| !is_there(line));
        migration.sql = missing.collect::<Vec<_>>().join("\n").into();
    }
}

type Resolved = Result<Vec<Migration>, sqlx::error::BoxDynError>;

impl MigrationSource<'static> for Embedded {
    fn resolve(self) -> std::pin::Pin<Box<dyn Future<Output = Resolved> + Send + 'static>> {
        let migration = |&(version, description, sqlite, postgres): &(i64, &'static str, _, _)| {
            let sql = match self.dialect {
                Dialect::Sqlite => sqlite,
                Dialect::Postgres => postgres,
            };
            let (description, sql) = (Cow::Borrowed(description), Cow::Borrowed(sql));
            let mut migration =
                Migration::new(version, description, MigrationType::Simple, sql, false);
            add_only_missing(&mut migration, &self.there);
            migration
        };
        let all: Vec<Migration> = ALL.iter().map(migration).collect();
        Box::pin(std::future::ready(Ok(all)))
    }
}
