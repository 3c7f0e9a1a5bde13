//! From the configuration to the database: opened, the lines file imported,
//! and what it holds read. Without `--database-url` and `--data-dir` there is
//! none, and the lines are those of the flags and the file alone.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use tokio::time::timeout;
use tracing::{info, warn};

use super::sealing::seal;
use super::start_error::StartError;

use crate::config::{Config, Database};
use crate::core::ids::LineId;
use crate::core::private::Secret;
use crate::fleet::snapshot::{CredentialCaches, LineSnapshot, StoredLines, read, snapshot_with};
use crate::lines::{self, CredentialCache, LinesFile};
use crate::store::{Imported, Location, RefusedRow, Store, StoreError};

/// How long the start waits for the records of calls.
const LAST_CALLS_LIMIT: Duration = Duration::from_secs(1);
/// The file in `--data-dir`.
const FILE_NAME: &str = "sipbridge.db";

/// Where the database of a configuration is.
#[must_use]
pub fn location(database: &Database) -> Location {
    match database {
        Database::Sqlite(path) => Location::Sqlite(path.clone()),
        Database::DataDir(folder) => Location::Sqlite(folder.join(FILE_NAME)),
        Database::Postgres(url) => Location::Postgres {
            url: Secret::new(url.expose().to_owned()),
            shown: url.to_string(),
        },
    }
}

/// The lines file, or none.
///
/// # Errors
/// When the file as a whole cannot be used.
pub fn lines_file(config: &Config) -> Result<LinesFile, lines::FileError> {
    match &config.lines_file {
        Some(path) => lines::file::read(path),
        None => Ok(LinesFile::default()),
    }
}

/// Opens the database where there is one, imports the lines file into it, and
/// makes all lines ready, those that had calls last first. Passwords of lines stay
/// sealed: see [`fleet::reconciler`](crate::fleet::reconciler).
///
/// # Errors
/// When the lines file as a whole or the database cannot be used.
pub async fn prepare(config: &Config) -> Result<(Option<Store>, LineSnapshot), StartError> {
    let mut file = lines_file(config)?;
    let Some(database) = &config.database else {
        return Ok((None, sealed(config, file, None, &HashMap::new())));
    };
    if let Database::DataDir(folder) = database {
        create_folder(folder)?;
    }
    let store = Store::open_alone(&location(database)).await?;
    info!(database = store.shown(), "database open");
    if let Some(path) = &config.lines_file {
        if let Some(key) = &config.encryption_key {
            let stored = read(&store).await?.lines;
            let sealed = tokio::task::block_in_place(|| seal(&mut file.rows, &stored, key));
            if sealed > 0 {
                warn!(
                    lines = sealed,
                    "passwords in the lines file are in clear: the database holds them encrypted; encrypt them in the file too, with `sipbridge encrypt --line-id ID`"
                );
            }
        }
        let imported = store.import(&file.rows).await?;
        log_import(&imported);
        for RefusedRow { place, reason } in imported.refused {
            file.refuse(path, place, reason);
        }
        // What the database has taken is read from it.
        file.rows.clear();
    }
    let stored = read(&store).await?;
    let last_calls = last_calls(&store).await;
    let lines = sealed(config, file, Some(stored), &last_calls);
    Ok((Some(store), lines))
}

/// Marks the calls that this bridge had when it died. Once its name is known to be no other's: else those of a bridge
/// that runs would be marked.
///
/// # Errors
/// When the database fails.
pub(super) async fn end_lost_calls(store: &Store, node: &str) -> Result<(), StoreError> {
    let lost = store.end_lost_calls(node, SystemTime::now()).await?;
    if lost > 0 {
        warn!(
            calls = lost,
            "calls that this bridge had when it died are marked bridge-lost"
        );
    }
    Ok(())
}

/// Makes all lines ready, the passwords still sealed, but for that of the first line
/// where no other can be used. Blocks for that one.
fn sealed(
    config: &Config,
    file: LinesFile,
    stored: Option<StoredLines>,
    last_calls: &HashMap<LineId, SystemTime>,
) -> LineSnapshot {
    let caches = CredentialCaches {
        lines: CredentialCache::deferring(),
        ..CredentialCaches::default()
    };
    tokio::task::block_in_place(|| {
        let mut start = snapshot_with(config, file, stored, caches);
        start.order_by_last_call(last_calls);
        start.decrypt_first(config.encryption_key.as_ref());
        start
    })
}

/// When each line had its last call. They only order the lines: where the database takes
/// too long or fails, they keep the order of their table.
async fn last_calls(store: &Store) -> HashMap<LineId, SystemTime> {
    let answer = timeout(LAST_CALLS_LIMIT, store.last_calls()).await;
    match answer {
        Ok(Ok(last_calls)) => return last_calls,
        Ok(Err(error)) => warn!(%error, "lines register in the order of their table"),
        Err(_) => {
            warn!("the records of calls take too long: lines register in the order of their table")
        }
    }
    HashMap::new()
}

fn create_folder(folder: &PathBuf) -> Result<(), StartError> {
    match std::fs::create_dir(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(StartError::DataDir {
                folder: folder.clone(),
                source: error,
            })
        }
        _ => Ok(()),
    }
}

fn log_import(imported: &Imported) {
    let Imported {
        inserted,
        updated,
        unchanged,
        refused,
    } = imported;
    for id in inserted {
        info!(line = %id, "line imported from the lines file: new");
    }
    for id in updated {
        info!(line = %id, "line imported from the lines file: changed");
    }
    info!(
        new = inserted.len(),
        changed = updated.len(),
        unchanged,
        refused = refused.len(),
        "lines file imported"
    );
}
