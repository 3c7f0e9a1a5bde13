//! Settings that one thread changes and a real-time thread takes over, which
//! never waits for the other one: where the lock is taken in this very moment,
//! it goes on with the settings that it has, and looks again at its next turn.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

/// What is handed over.
#[derive(Debug, Default)]
pub struct Handover<T> {
    is_changed: AtomicBool,
    value: Mutex<T>,
}

impl<T> Handover<T> {
    /// Nothing has changed yet.
    pub const fn new(value: T) -> Self {
        Self {
            is_changed: AtomicBool::new(false),
            value: Mutex::new(value),
        }
    }

    /// Makes a change, from a normal thread. What `change` returns is best what is
    /// to be freed: that is done after the lock is given back.
    pub fn change<R>(&self, change: impl FnOnce(&mut T) -> R) -> R {
        let mut value = self.lock();
        let result = change(&mut value);
        self.is_changed.store(true, Ordering::Release);
        result
    }

    /// Gives the changes since the last time to `take`, if there are any and nobody
    /// is making one. Never waits.
    pub fn try_take(&self, take: impl FnOnce(&mut T)) {
        if !self.is_changed.load(Ordering::Acquire) {
            return;
        }
        let mut value = match self.value.try_lock() {
            Ok(value) => value,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        self.is_changed.store(false, Ordering::Relaxed);
        take(&mut value);
    }

    /// Whether a change waits to be taken.
    pub fn is_changed(&self) -> bool {
        self.is_changed.load(Ordering::Acquire)
    }

    /// For a normal thread: what is there, without a change.
    pub fn lock(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One setting in a [`Handover`]: once it was taken, the one before lies here,
/// for the thread that makes the changes to free.
#[derive(Debug)]
pub struct Change<T> {
    value: Option<T>,
    is_new: bool,
}

impl<T> Default for Change<T> {
    fn default() -> Self {
        Self {
            value: None,
            is_new: false,
        }
    }
}

impl<T> Change<T> {
    /// Sets it; gives what lay here, to be freed.
    #[must_use = "to be dropped where that may take time"]
    pub fn set(&mut self, value: T) -> Option<T> {
        self.is_new = true;
        self.value.replace(value)
    }

    /// Exchanges it for the one in use, if it is new; whether it was.
    pub fn exchange(&mut self, in_use: &mut T) -> bool {
        let is_new = std::mem::take(&mut self.is_new);
        if let Some(value) = self.value.as_mut().filter(|_| is_new) {
            std::mem::swap(value, in_use);
        }
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_taken_once_and_what_it_replaces_is_left_to_be_freed() {
        let handover = Handover::<Change<&str>>::default();
        let mut in_use = "first";
        handover.try_take(|_| panic!("nothing has changed"));
        assert_eq!(handover.change(|change| change.set("second")), None);
        assert!(handover.is_changed());
        handover.try_take(|change| assert!(change.exchange(&mut in_use)));
        assert_eq!((in_use, handover.is_changed()), ("second", false));
        assert_eq!(handover.change(|change| change.set("third")), Some("first"));
        assert_eq!(
            handover.change(|change| change.set("fourth")),
            Some("third")
        );
        handover.try_take(|change| assert!(change.exchange(&mut in_use)));
        assert_eq!(in_use, "fourth");
    }

    #[test]
    fn who_takes_never_waits_for_who_changes() {
        let handover = Handover::<Change<u8>>::default();
        let _ = handover.change(|change| change.set(1));
        let held = handover.lock();
        handover.try_take(|_| panic!("the lock is held"));
        drop(held);
        let mut in_use = 0;
        handover.try_take(|change| assert!(change.exchange(&mut in_use)));
        assert_eq!(in_use, 1);
    }
}
