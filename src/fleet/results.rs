//! What REGISTERs came to, for whoever decides which bridge registers a line.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::core::ids::LineId;
use crate::sip::engine::Registration;

/// The latest outcome of each line, until it is taken: no more than there are lines; and that lines have
/// changed. For one taker.
#[derive(Debug, Default)]
pub struct RegisterOutcomes {
    is_watched: AtomicBool,
    lines_changed: AtomicBool,
    latest: Mutex<HashMap<LineId, Registration>>,
    changed: Notify,
}

impl RegisterOutcomes {
    /// Outcomes are kept from now on; what lines there are is news.
    pub fn watch(&self) {
        self.is_watched.store(true, Ordering::Release);
        self.note_lines();
    }

    /// Keeps an outcome, where somebody takes them.
    pub(super) fn put(&self, line: &LineId, outcome: &Registration) {
        if self.is_watched.load(Ordering::Acquire) {
            self.lock().insert(line.clone(), outcome.clone());
            self.changed.notify_one();
        }
    }

    /// Lines have come or gone, or the SIP engine takes other ones.
    pub(super) fn note_lines(&self) {
        if self.is_watched.load(Ordering::Acquire) {
            self.lines_changed.store(true, Ordering::Release);
            self.changed.notify_one();
        }
    }

    /// Whether lines have come, gone or changed since the last time.
    #[must_use]
    pub fn take_lines_changed(&self) -> bool {
        self.lines_changed.swap(false, Ordering::AcqRel)
    }

    /// Takes what has come since the last time.
    #[must_use]
    pub fn take(&self) -> HashMap<LineId, Registration> {
        std::mem::take(&mut *self.lock())
    }

    /// Returns once there is something to take. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LineId, Registration>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
