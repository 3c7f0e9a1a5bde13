//! What the start says of the lines, before anything is opened for them.

use tracing::{error, info, warn};

use super::start_error::StartError;
use crate::config::Config;
use crate::core::numbers;
use crate::fleet::snapshot::LineSnapshot;

/// Logs what is wrong with the lines, and how many there are.
///
/// # Errors
/// When no line is left, unless a database may get one later.
pub fn lines(config: &Config, start: &LineSnapshot) -> Result<(), StartError> {
    numbers::prepare();
    log_snapshot(start);
    let unusable = start.unusable();
    let (ready, sealed) = (start.loaded.ready.len(), start.loaded.sealed.len());
    let twilio = start.twilio.len();
    if ready + twilio == 0 && config.database.is_none() {
        return Err(StartError::NoLine { unusable });
    }
    if ready + twilio == 0 {
        warn!("the database holds no phone line that can be used: no call can come");
    }
    info!(
        lines = ready + sealed,
        sealed, twilio, unusable, "lines loaded"
    );
    Ok(())
}

fn log_snapshot(start: &LineSnapshot) {
    let source = &start.source;
    start
        .stored_mistakes
        .iter()
        .for_each(|mistake| error!("{source}{mistake}"));
    start
        .file_mistakes
        .iter()
        .for_each(|mistake| error!("{mistake}"));
    start
        .loaded
        .unusable
        .iter()
        .for_each(|line| error!("{source}{line}"));
    start
        .file_warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
    start
        .loaded
        .warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
}
