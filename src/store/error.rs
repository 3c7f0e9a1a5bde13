//! What can go wrong with the database. No message holds a password or a
//! value of a row.

/// Why something failed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// It cannot be opened.
    #[error("database {shown}: cannot be opened: {reason}")]
    Open {
        /// Which, without its password.
        shown: String,
        /// Why.
        reason: String,
    },
    /// A migration failed; what it had changed is undone.
    #[error("database {shown}: cannot be migrated: {reason}")]
    Migrate {
        /// Which, without its password.
        shown: String,
        /// Why.
        reason: String,
    },
    /// A query failed.
    #[error("database: {what} failed: {reason}")]
    Query {
        /// What was to be done.
        what: &'static str,
        /// Why.
        reason: String,
        /// Whether the same may well succeed later.
        transient: bool,
    },
    /// The database does not take what is to be written: too long, of another
    /// type, or against a rule of the table.
    #[error("database: {what} failed: {reason}")]
    Values {
        /// What was to be done.
        what: &'static str,
        /// Why.
        reason: String,
    },
    /// A row with this id is there already.
    #[error("the id {0:?} is taken already")]
    Taken(String),
    /// The row cannot be removed: another table refers to it.
    #[error("another table refers to it: {0}")]
    Referenced(String),
    /// What is stored is no configuration of an agent.
    #[error("the stored agent of tenant {tenant} cannot be used: {reason}")]
    Agent {
        /// Whose it is.
        tenant: String,
        /// What is wrong with it; no value.
        reason: String,
    },
    /// The table has no such column.
    #[error("table {table} has no column {column}")]
    NoColumn {
        /// The table.
        table: &'static str,
        /// The column.
        column: &'static str,
    },
}

impl StoreError {
    /// Wraps what the database said about a query.
    pub(super) fn query(what: &'static str) -> impl FnOnce(sqlx::Error) -> Self {
        move |error| {
            let reason = reason(&error);
            if is_about_values(&error) {
                return Self::Values { what, reason };
            }
            Self::Query {
                what,
                reason,
                transient: is_transient(&error),
            }
        }
    }

    /// The database has not answered for so long that it counts as away.
    #[must_use]
    pub fn no_answer(what: &'static str) -> Self {
        Self::Query {
            what,
            reason: "it did not answer in time".into(),
            transient: true,
        }
    }

    /// The reason, where one row is at fault and others may well be taken.
    ///
    /// # Errors
    /// With the same error where that is not so.
    pub(super) fn of_one_row(self) -> Result<String, Self> {
        match self {
            Self::Values { reason, .. } => Ok(reason),
            Self::Taken(_) | Self::NoColumn { .. } => Ok(self.to_string()),
            other => Err(other),
        }
    }

    /// Whether the same may well succeed later: the database is away or busy.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(
            self,
            Self::Query {
                transient: true,
                ..
            }
        )
    }
}

/// What an error says, without values: PostgreSQL quotes them after a colon
/// (`invalid input syntax for type uuid: "…"`) when the data is at fault.
pub(super) fn reason(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(database) => {
            let message = database.message();
            let code = database.code().unwrap_or_default();
            match message.split_once(": \"") {
                Some((before, _)) if code.starts_with("22") => before.to_owned(),
                _ => message.to_owned(),
            }
        }
        sqlx::Error::PoolTimedOut => "it did not answer in time".into(),
        sqlx::Error::ColumnDecode { index, .. } => format!("column {index} has an unexpected type"),
        sqlx::Error::Configuration(_) => "its address is not one that the client takes".into(),
        other => other.to_string(),
    }
}

/// PostgreSQL: data exceptions, broken constraints, and an id where the table
/// always counts them. SQLite: a constraint,
/// or a value of another type.
fn is_about_values(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(database) = error else {
        return false;
    };
    let code = database.code().unwrap_or_default();
    let sqlite = code.parse::<u32>().ok().filter(|_| code.len() != 5);
    let classes = ["22", "23", "428C9"];
    let postgres = code.len() == 5 && classes.iter().any(|class| code.starts_with(class));
    postgres || sqlite.is_some_and(|code| matches!(code & 0xff, 18..=20))
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            // PostgreSQL: connection, resources, operator, rollback for another's
            // sake. SQLite: busy, locked, disk full, and their extended codes.
            let sqlite = code.parse::<u32>().ok().filter(|_| code.len() != 5);
            ["08", "53", "57", "40"]
                .iter()
                .any(|class| code.starts_with(class) && code.len() == 5)
                || sqlite.is_some_and(|code| matches!(code & 0xff, 5 | 6 | 13))
        }
        _ => false,
    }
}
