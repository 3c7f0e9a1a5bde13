//! The signal that calls must end now.

use tokio::sync::watch;

/// Given once, seen by every driver.
#[derive(Debug)]
pub struct Shutdown(watch::Sender<bool>);

impl Default for Shutdown {
    fn default() -> Self {
        Self(watch::Sender::new(false))
    }
}

impl Shutdown {
    /// Every call in progress is to hang up.
    pub fn end_calls(&self) {
        self.0.send_replace(true);
    }

    /// Returns once [`Shutdown::end_calls`] has been called.
    pub async fn calls_must_end(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self.0.subscribe().wait_for(|end| *end).await;
    }
}
