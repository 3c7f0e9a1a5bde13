//! What became of callbacks.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counts since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallbackStats {
    /// Status callbacks delivered.
    pub delivered: u64,
    /// Tries that failed and are made again.
    pub retried: u64,
    /// Given up: refused, or tried for an hour.
    pub given_up: u64,
    /// Lost: too many waited, or an address was unusable.
    pub dropped: u64,
    /// Not delivered yet.
    pub waiting: u64,
    /// Not kept for a restart: the database did not take them.
    pub unkept: u64,
    /// Incoming callbacks asked.
    pub asked: u64,
    /// Of those, without a usable answer: the call was taken.
    pub unanswered: u64,
}

/// The counters behind it.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) delivered: AtomicU64,
    pub(super) retried: AtomicU64,
    pub(super) given_up: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) waiting: AtomicU64,
    pub(super) unkept: AtomicU64,
    pub(super) asked: AtomicU64,
    pub(super) unanswered: AtomicU64,
}

impl Counters {
    pub(super) fn read(&self) -> CallbackStats {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        CallbackStats {
            delivered: read(&self.delivered),
            retried: read(&self.retried),
            given_up: read(&self.given_up),
            dropped: read(&self.dropped),
            waiting: read(&self.waiting),
            unkept: read(&self.unkept),
            asked: read(&self.asked),
            unanswered: read(&self.unanswered),
        }
    }
}

/// One more; the answer is how many that makes.
pub(super) fn count(counter: &AtomicU64) -> u64 {
    counter.fetch_add(1, Ordering::Relaxed) + 1
}

/// Whether a count is the 1st, 10th, 100th …: those are told in the log.
pub(super) fn is_told(count: u64) -> bool {
    count > 0 && 10_u64.pow(count.ilog10()) == count
}
