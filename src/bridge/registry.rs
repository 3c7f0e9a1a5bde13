//! Which calls are in progress, and whether one more may come in.
//!
//! The engine asks [`Registry::admit`] in a callback, before anything is
//! allocated; [`Registry::enter`] decides again when the call is really
//! taken, so two INVITEs at once cannot pass the same last place.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use crate::core::ids::LineId;
use crate::sip::engine::{Admission, Refusal};

/// Busy bridge: when to try again (RFC 3261, 20.33).
const RETRY_BUSY: Duration = Duration::from_secs(5);
/// Draining bridge: another one should have taken over by then.
const RETRY_DRAINING: Duration = Duration::from_secs(30);

/// Most calls, per bridge and per line.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// `--max-concurrent-calls`.
    pub calls: u32,
    /// `maxConcurrentCalls` of the lines that have one.
    pub per_line: HashMap<LineId, u32>,
}

/// The calls in progress.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    calls: Mutex<HashMap<LineId, u32>>,
    active: watch::Sender<u32>,
    draining: AtomicBool,
    refused: AtomicU64,
    taken: AtomicU64,
}

impl Registry {
    /// A registry without calls.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            calls: Mutex::default(),
            active: watch::Sender::new(0),
            draining: AtomicBool::new(false),
            refused: AtomicU64::new(0),
            taken: AtomicU64::new(0),
        })
    }

    /// Takes a place for a call; given back when the guard is dropped.
    ///
    /// # Errors
    /// 486 when the line is full, 503 when the bridge is.
    pub fn enter(self: &Arc<Self>, line: &LineId) -> Result<Place, Refusal> {
        let mut calls = self.lock();
        self.check(&calls, line)?;
        *calls.entry(line.clone()).or_default() += 1;
        self.active.send_modify(|active| *active += 1);
        self.taken.fetch_add(1, Ordering::Relaxed);
        Ok(Place {
            registry: self.clone(),
            line: line.clone(),
        })
    }

    /// Calls in progress.
    #[must_use]
    pub fn active(&self) -> u32 {
        *self.active.borrow()
    }

    /// Calls in progress, and a notice of each change.
    #[must_use]
    pub fn watch_active(&self) -> watch::Receiver<u32> {
        self.active.subscribe()
    }

    /// Calls taken and refused since the start.
    #[must_use]
    pub fn totals(&self) -> (u64, u64) {
        (
            self.taken.load(Ordering::Relaxed),
            self.refused.load(Ordering::Relaxed),
        )
    }

    /// No new calls from now on.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether new calls are refused for good.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire)
    }

    /// Returns when no call is left.
    pub async fn empty(&self) {
        // The sender lives as long as `self`, so waiting cannot fail.
        let _ = self
            .active
            .subscribe()
            .wait_for(|active| *active == 0)
            .await;
    }

    fn check(&self, calls: &HashMap<LineId, u32>, line: &LineId) -> Result<(), Refusal> {
        let refusal = if self.is_draining() {
            Refusal {
                status: 503,
                retry_after: Some(RETRY_DRAINING),
            }
        } else if self.active() >= self.limits.calls {
            Refusal {
                status: 503,
                retry_after: Some(RETRY_BUSY),
            }
        } else if self
            .limits
            .per_line
            .get(line)
            .is_some_and(|most| calls.get(line) >= Some(most))
        {
            Refusal {
                status: 486,
                retry_after: None,
            }
        } else {
            return Ok(());
        };
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(refusal)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LineId, u32>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Admission for Registry {
    fn admit(&self, line: &LineId) -> Result<(), Refusal> {
        self.check(&self.lock(), line)
    }
}

/// A call's place; dropping it gives the place back.
#[derive(Debug)]
pub struct Place {
    registry: Arc<Registry>,
    line: LineId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut calls = self.registry.lock();
        if let Some(count) = calls.get_mut(&self.line) {
            *count -= 1;
            if *count == 0 {
                calls.remove(&self.line);
            }
        }
        self.registry.active.send_modify(|active| *active -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(calls: u32, per_line: &[(&str, u32)]) -> Arc<Registry> {
        let per_line = per_line
            .iter()
            .map(|(line, most)| (LineId::new(*line), *most))
            .collect();
        Registry::new(Limits { calls, per_line })
    }

    #[test]
    fn a_full_line_is_busy_and_a_full_bridge_says_when_to_retry() {
        let registry = registry(2, &[("a", 1)]);
        let (a, b) = (LineId::new("a"), LineId::new("b"));
        let place = registry.enter(&a).expect("first call");
        assert_eq!(
            registry.admit(&a).map_err(|refusal| refusal.status),
            Err(486)
        );
        let other = registry.enter(&b).expect("other line");
        let refusal = registry.enter(&b).expect_err("bridge full");
        assert_eq!(
            refusal,
            Refusal {
                status: 503,
                retry_after: Some(RETRY_BUSY)
            }
        );
        drop((place, other));
        assert_eq!(registry.active(), 0);
        assert!(registry.admit(&a).is_ok());
        assert_eq!(registry.totals(), (2, 2));
    }

    #[test]
    fn a_draining_bridge_takes_nothing() {
        let registry = registry(2, &[]);
        registry.drain();
        assert_eq!(
            registry
                .enter(&LineId::new("a"))
                .map_err(|r| r.status)
                .err(),
            Some(503)
        );
    }
}
