//! Opening the database: the SQLite file is created, the tables are made and
//! migrated, and the types of the columns are looked up.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Once};
use std::time::Duration;

use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::pool::PoolConnection;
use sqlx::{AnyConnection, AnyPool, Connection, Executor};

use super::claim::claim;
use super::error::{StoreError, reason};
use super::migrations::{self, Dialect, migrator};
use super::table::{Table, lines_table, servers_table};
use crate::core::private::Secret;

/// How long a query may wait for a connection, and a connection for the server.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// Most connections to PostgreSQL. SQLite has one writer, and gets one
/// connection: nothing in this process ever meets a locked file.
const POSTGRES_CONNECTIONS: u32 = 8;

/// SQLite for the bridge: readers in other processes are not held up, nor do
/// they hold us up. The journal mode is written into the file.
const WRITING: &str = "PRAGMA journal_mode = WAL; PRAGMA busy_timeout = 5000";
/// SQLite for those who only look.
const LOOKING: &str = "PRAGMA busy_timeout = 5000";

/// Where the database is.
#[derive(Clone, Debug)]
pub enum Location {
    /// A file.
    Sqlite(PathBuf),
    /// A server.
    Postgres {
        /// Its URL, with the password.
        url: Secret,
        /// Its URL as it may be shown.
        shown: String,
    },
}

impl Location {
    /// What it is called in messages.
    #[must_use]
    pub fn shown(&self) -> String {
        match self {
            Self::Sqlite(path) => path.display().to_string(),
            Self::Postgres { shown, .. } => shown.clone(),
        }
    }

    /// Which kind.
    #[must_use]
    pub const fn dialect(&self) -> Dialect {
        match self {
            Self::Sqlite(_) => Dialect::Sqlite,
            Self::Postgres { .. } => Dialect::Postgres,
        }
    }

    fn url(&self) -> Secret {
        match self {
            Self::Sqlite(path) => Secret::new(sqlite_url(path)),
            Self::Postgres { url, .. } => url.clone(),
        }
    }
}

/// Every byte of the path that a URL would take for something else is escaped.
fn sqlite_url(path: &Path) -> String {
    use std::fmt::Write;
    let mut url = String::from("sqlite://");
    for byte in path.as_os_str().as_encoded_bytes() {
        match byte {
            b'/' | b'-' | b'_' | b'.' => url.push(char::from(*byte)),
            byte if byte.is_ascii_alphanumeric() => url.push(char::from(*byte)),
            // Writing to a String cannot fail.
            byte => drop(write!(url, "%{byte:02X}")),
        }
    }
    url.push_str("?mode=rw");
    url
}

/// The database. Clones share its connections.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) pool: AnyPool,
    pub(super) dialect: Dialect,
    pub(super) lines: Arc<Table>,
    pub(super) servers: Arc<Table>,
    /// Where PostgreSQL tells of changes.
    pub(super) listen_url: Option<Secret>,
    shown: Arc<str>,
    /// Keeps other bridges off an SQLite file.
    _claim: Option<Arc<File>>,
}

impl Store {
    /// As [`Store::open`], for the one bridge that an SQLite file may have.
    ///
    /// # Errors
    /// When another one has it, or it cannot be opened or migrated.
    pub async fn open_alone(location: &Location) -> Result<Self, StoreError> {
        let claimed = match location {
            Location::Sqlite(path) => claim(path).map(Some),
            Location::Postgres { .. } => Ok(None),
        };
        let claimed = claimed.map_err(|error| StoreError::Open {
            shown: location.shown(),
            reason: error.to_string(),
        })?;
        let store = Self::open(location).await?;
        Ok(Self {
            _claim: claimed.map(Arc::new),
            ..store
        })
    }

    /// Opens it; creates and migrates what is not there yet.
    ///
    /// # Errors
    /// When it cannot be opened or migrated.
    pub async fn open(location: &Location) -> Result<Self, StoreError> {
        if let Location::Sqlite(path) = location {
            create_file(path).map_err(|error| StoreError::Open {
                shown: location.shown(),
                reason: error.to_string(),
            })?;
        }
        let pool = connect(location, WRITING).await?;
        let migrate = async {
            let migrator = migrator(location.dialect(), &pool).await?;
            migrator.run(&pool).await
        };
        if let Err(error) = migrate.await {
            pool.close().await;
            return Err(StoreError::Migrate {
                shown: location.shown(),
                reason: migrate_reason(&error),
            });
        }
        Self::with_tables(pool, location).await
    }

    /// Opens it as it is: nothing is created or migrated. `None` when there
    /// is no SQLite file yet.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn look(location: &Location) -> Result<Option<Self>, StoreError> {
        if let Location::Sqlite(path) = location {
            if !path.exists() {
                return Ok(None);
            }
        }
        let pool = connect(location, LOOKING).await?;
        Self::with_tables(pool, location).await.map(Some)
    }

    async fn with_tables(pool: AnyPool, location: &Location) -> Result<Self, StoreError> {
        let dialect = location.dialect();
        Ok(Self {
            lines: Arc::new(lines_table(&pool, dialect).await?),
            servers: Arc::new(servers_table(&pool, dialect).await?),
            pool,
            dialect,
            listen_url: (dialect == Dialect::Postgres).then(|| location.url()),
            shown: location.shown().into(),
            _claim: None,
        })
    }

    /// What it is called in messages.
    #[must_use]
    pub fn shown(&self) -> &str {
        &self.shown
    }

    /// How many migrations have not been run on it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub async fn pending(&self) -> Result<usize, StoreError> {
        let what = "reading which migrations it has";
        if !self.has_table("_sqlx_migrations").await? {
            return Ok(migrations::COUNT);
        }
        let done: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM _sqlx_migrations")
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::query(what))?;
        let done = usize::try_from(done).unwrap_or_default();
        Ok(migrations::COUNT.saturating_sub(done))
    }

    pub(super) async fn has_table(&self, name: &str) -> Result<bool, StoreError> {
        let sql = match self.dialect {
            Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master WHERE name = $1",
            Dialect::Postgres => "SELECT COUNT(to_regclass($1))",
        };
        let count: i64 = sqlx::query_scalar(sql)
            .bind(name.to_owned())
            .fetch_one(&self.pool)
            .await
            .map_err(StoreError::query("looking for its tables"))?;
        Ok(count > 0)
    }

    /// The condition under which a row is the bridge's whose name is `$1`. An
    /// SQLite file has one bridge, which may have had another name before: the
    /// default name is that of the host, and a container's changes.
    pub(super) const fn is_ours(&self) -> &'static str {
        match self.dialect {
            Dialect::Sqlite => "$1 IS NOT NULL",
            Dialect::Postgres => "node_id = $1",
        }
    }

    pub(super) async fn acquire(
        &self,
        what: &'static str,
    ) -> Result<PoolConnection<sqlx::Any>, StoreError> {
        // Whatever it is, it is not the fault of what is to be written.
        self.pool
            .acquire()
            .await
            .map_err(|error| StoreError::Query {
                what,
                reason: reason(&error),
                transient: true,
            })
    }

    /// Closes its connections, once they are idle.
    pub async fn close(&self) {
        self.pool.close().await;
    }
}

/// The folder of the file must be there; the file is for its owner only.
fn create_file(path: &Path) -> std::io::Result<()> {
    let created = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path);
    match created {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map(drop),
    }
}

/// `pragmas` are for SQLite.
async fn connect(location: &Location, pragmas: &'static str) -> Result<AnyPool, StoreError> {
    static DRIVERS: Once = Once::new();
    DRIVERS.call_once(sqlx::any::install_default_drivers);
    let open = |error: sqlx::Error| StoreError::Open {
        shown: location.shown(),
        reason: reason(&error),
    };
    let options: AnyConnectOptions = location.url().expose().parse().map_err(open)?;
    // Statements in the log would hold phone numbers.
    let options = sqlx::ConnectOptions::disable_statement_logging(options);
    try_once(&options, location.dialect()).await.map_err(open)?;
    let pool = AnyPoolOptions::new().acquire_timeout(CONNECT_LIMIT);
    let pool = match location.dialect() {
        Dialect::Postgres => pool.max_connections(POSTGRES_CONNECTIONS),
        Dialect::Sqlite => pool
            .max_connections(1)
            .idle_timeout(None)
            .max_lifetime(None)
            .after_connect(move |connection, _| {
                Box::pin(async move { connection.execute(pragmas).await.map(drop) })
            }),
    };
    pool.connect_with(options).await.map_err(open)
}

/// The pool would try again and again, and never say why.
async fn try_once(options: &AnyConnectOptions, dialect: Dialect) -> Result<(), sqlx::Error> {
    let probe = match dialect {
        Dialect::Sqlite => "SELECT COUNT(*) FROM sqlite_master",
        Dialect::Postgres => "SELECT 1",
    };
    let trying = async {
        let mut connection = AnyConnection::connect_with(options).await?;
        // SQLite looks into the file only now.
        connection.execute(probe).await?;
        connection.close().await
    };
    let tried = tokio::time::timeout(CONNECT_LIMIT, trying).await;
    tried.unwrap_or(Err(sqlx::Error::PoolTimedOut))
}

fn migrate_reason(error: &sqlx::migrate::MigrateError) -> String {
    use sqlx::migrate::MigrateError as E;
    match error {
        E::Execute(error) | E::ExecuteMigration(error, _) => reason(error),
        E::VersionMissing(version) => format!(
            "it has migration {version}, which this program does not know: a newer sipbridge, or another program, has migrated it"
        ),
        E::VersionMismatch(version) => {
            format!("its migration {version} is not the one that this program knows")
        }
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn odd_paths_are_escaped() {
        let url = sqlite_url(Path::new("/tmp/a b?c#d%é.db"));
        assert_eq!(url, "sqlite:///tmp/a%20b%3Fc%23d%25%C3%A9.db?mode=rw");
    }
}
