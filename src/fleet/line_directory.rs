//! The lines as calls and the API look them up, and the signal that the database was
//! changed. Lines come, change and go while calls are in progress.

use std::sync::Arc;

use tokio::sync::Notify;

use super::line::{LineHealth, LineProfile};
use super::shared::SharedFleet;
use super::twilio::TwilioLine;
use crate::core::ids::LineId;

/// A view of the table for those who look lines up.
#[derive(Clone, Debug)]
pub struct LineDirectory {
    fleet: SharedFleet,
    changed: Arc<Notify>,
}

impl LineDirectory {
    /// A view of this table.
    #[must_use]
    pub fn new(fleet: &SharedFleet) -> Self {
        Self {
            fleet: fleet.clone(),
            changed: Arc::default(),
        }
    }

    /// One line that is held.
    #[must_use]
    pub fn get(&self, line: &LineId) -> Option<Arc<LineProfile>> {
        self.fleet.lock().get(line)
    }

    /// The line of this id, where it is Twilio's.
    #[must_use]
    pub fn twilio(&self, line: &LineId) -> Option<Arc<TwilioLine>> {
        self.fleet.lock().twilio(line)
    }

    /// How many lines are held.
    #[must_use]
    pub fn len(&self) -> usize {
        self.fleet.lock().len()
    }

    /// Whether none is held.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.fleet.lock().is_empty()
    }

    /// The lines that have this number as their own, however it is written.
    #[must_use]
    pub fn with_number(&self, number: &str) -> Vec<Arc<LineProfile>> {
        self.fleet.lock().with_number(number)
    }

    /// The only line; `None` where there are several, or none.
    #[must_use]
    pub fn only(&self) -> Option<Arc<LineProfile>> {
        self.fleet.lock().only()
    }

    /// Whether a line can be used; `None` for one that was never seen.
    #[must_use]
    pub fn health(&self, line: &LineId) -> Option<LineHealth> {
        self.fleet.lock().health(line)
    }

    /// The ids of all lines that are held or that something is known of, those
    /// after an id, in their order; at most `most`.
    #[must_use]
    pub fn ids(&self, after: Option<&str>, most: usize) -> Vec<LineId> {
        self.fleet.lock().ids(after, most)
    }

    /// How many lines have something wrong with them.
    #[must_use]
    pub fn unusable(&self) -> usize {
        self.fleet.lock().unusable()
    }

    /// Tells the database watcher that the database was changed: the lines are read again.
    pub fn notify_changed(&self) {
        self.changed.notify_one();
    }

    /// Returns once something was changed since the last time. For one listener.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::admission::Limits;

    #[tokio::test(start_paused = true)]
    async fn a_change_told_before_is_heard_once() {
        let directory = LineDirectory::new(&SharedFleet::new(Limits::default()));
        (0..3).for_each(|_| directory.notify_changed());
        directory.changed().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), directory.changed());
        assert!(again.await.is_err());
    }
}
