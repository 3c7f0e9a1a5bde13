//! From the configuration to the database: opened, the lines file imported,
//! and what it holds read. Without `--database-url` and `--data-dir` there is
//! none, and the lines are those of the flags and the file alone.

use std::path::PathBuf;
use std::time::SystemTime;

use tracing::{info, warn};

use super::compose::StartError;
use super::sealing::seal;
use super::start_lines::{StartLines, Vaults, start_lines, start_lines_with};
use crate::config::{Config, Database};
use crate::core::private::Secret;
use crate::lines::{self, LinesFile, Row};
use crate::store::{Imported, Location, Refused, Store, StoreError};

/// The file in `--data-dir`.
const FILE_NAME: &str = "sipbridge.db";

/// What the database holds about lines.
#[derive(Debug)]
pub struct Stored {
    /// What it is called in messages.
    pub shown: String,
    /// `phone_lines`.
    pub lines: Vec<Row>,
    /// `sip_servers`.
    pub servers: Vec<Row>,
    /// Id of the global fallback server.
    pub fallback: Option<String>,
}

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

/// Reads what is there.
///
/// # Errors
/// When the database fails.
pub async fn read(store: &Store) -> Result<Stored, StoreError> {
    let snapshot = store.snapshot().await?;
    Ok(Stored {
        shown: store.shown().to_owned(),
        lines: snapshot.lines,
        servers: snapshot.servers,
        fallback: snapshot.fallback,
    })
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
/// makes all lines ready. Blocks this thread for the key derivations.
///
/// # Errors
/// When the lines file as a whole or the database cannot be used.
pub async fn prepare(config: &Config) -> Result<(Option<Store>, StartLines), StartError> {
    let mut file = lines_file(config)?;
    let Some(database) = &config.database else {
        return Ok((None, start_lines(config, file, None)));
    };
    if let Database::DataDir(folder) = database {
        create_folder(folder)?;
    }
    let store = Store::open_alone(&location(database)).await?;
    info!(database = store.shown(), "database open");
    let lost = store
        .end_lost_calls(&config.node_id, SystemTime::now())
        .await?;
    if lost > 0 {
        warn!(
            calls = lost,
            "calls that this bridge had when it died are marked bridge-lost"
        );
    }
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
        tell(&imported);
        for Refused { place, reason } in imported.refused {
            file.refuse(path, place, reason);
        }
        // What the database has taken is read from it.
        file.rows.clear();
    }
    let stored = read(&store).await?;
    let lines = tokio::task::block_in_place(|| {
        let mut vaults = Vaults::default();
        let start = start_lines_with(config, file, Some(stored), &mut vaults);
        StartLines { vaults, ..start }
    });
    Ok((Some(store), lines))
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

fn tell(imported: &Imported) {
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
