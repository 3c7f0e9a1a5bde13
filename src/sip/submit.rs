//! Commands whose sender waits while the engine's queue is full.

use std::time::Duration;

use tokio::time::sleep;

use super::engine::{Command, SharedEngine, SubmitError};

/// How long a full command queue is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// Submits a command, which is made anew for each try.
///
/// # Errors
/// When the engine is shut down.
pub async fn submit_waiting(
    engine: &SharedEngine,
    mut command: impl FnMut() -> Command,
) -> Result<(), SubmitError> {
    loop {
        match engine.submit(command()) {
            Err(SubmitError::Full) => sleep(FULL_PAUSE).await,
            done => return done,
        }
    }
}
