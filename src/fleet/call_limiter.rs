//! Which calls are in progress, and whether one more may come in.
//!
//! The engine asks [`CallLimiter::admit`] in a callback, before anything is
//! allocated; [`CallLimiter::enter`] decides again when the call is really
//! taken, so two INVITEs at once cannot pass the same last place. The rules
//! are in [`super::admission`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use tokio::sync::watch;

pub use super::admission::{Limits, RefusedCalls};
use super::shared::SharedFleet;
use crate::core::ids::LineId;
use crate::sip::engine::{Admission, Refusal};

/// The calls in progress.
#[derive(Debug)]
pub struct CallLimiter {
    fleet: SharedFleet,
    active: watch::Sender<u32>,
    /// Refused in [`CallLimiter::admit`], where the engine counts them too.
    refused_by_admit: AtomicU64,
}

impl CallLimiter {
    /// A limiter of the calls to these lines.
    #[must_use]
    pub fn new(fleet: &SharedFleet) -> Arc<Self> {
        Arc::new(Self {
            fleet: fleet.clone(),
            active: watch::Sender::new(0),
            refused_by_admit: AtomicU64::new(0),
        })
    }

    /// Takes a place for a call; given back when the guard is dropped.
    ///
    /// # Errors
    /// 486 when the line is full, 503 when the bridge is.
    pub fn enter(self: &Arc<Self>, line: &LineId) -> Result<CallPermit, Refusal> {
        self.fleet.lock().enter(line)?;
        self.active.send_modify(|active| *active += 1);
        Ok(CallPermit {
            call_limiter: self.clone(),
            line: line.clone(),
        })
    }

    /// Whether a call of a line has just come in.
    #[must_use]
    pub fn is_being_set_up(&self, line: &LineId) -> bool {
        self.fleet.lock().is_being_set_up(Instant::now(), line)
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

    /// Calls taken since the start.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.fleet.lock().taken()
    }

    /// Calls refused since the start, by reason.
    #[must_use]
    pub fn refused(&self) -> RefusedCalls {
        self.fleet.lock().refused_calls()
    }

    /// Those among them that the engine was told to refuse, and counted.
    #[must_use]
    pub fn refused_by_admit(&self) -> u64 {
        self.refused_by_admit.load(Ordering::Relaxed)
    }

    /// No new calls from now on.
    pub fn drain(&self) {
        self.fleet.lock().drain();
    }

    /// Whether new calls are refused for good.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.fleet.lock().is_draining()
    }

    /// No new calls while this is set; calls in progress go on.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.fleet.lock().set_overloaded(overloaded);
    }

    /// Whether new calls are refused because audio is late.
    #[must_use]
    pub fn is_overloaded(&self) -> bool {
        self.fleet.lock().is_overloaded()
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
}

impl Admission for CallLimiter {
    fn admit(&self, line: &LineId) -> Result<(), Refusal> {
        let decision = self.fleet.lock().admit(Instant::now(), line);
        if decision.is_err() {
            self.refused_by_admit.fetch_add(1, Ordering::Relaxed);
        }
        decision
    }
}

/// A call's place; dropping it gives the place back.
#[derive(Debug)]
pub struct CallPermit {
    call_limiter: Arc<CallLimiter>,
    line: LineId,
}

impl CallPermit {
    /// Its line.
    #[must_use]
    pub const fn line(&self) -> &LineId {
        &self.line
    }

    /// Most calls of the line over all bridges, `maxConcurrentCalls`, where it has a limit.
    #[must_use]
    pub fn line_limit(&self) -> Option<u32> {
        self.call_limiter.fleet.lock().call_limit(&self.line)
    }

    /// The line has as many calls over all bridges as it may have: gives the place back, and counts the call as refused.
    #[must_use]
    pub fn refuse(self) -> Refusal {
        self.call_limiter.fleet.lock().refuse_taken()
    }
}

impl Drop for CallPermit {
    fn drop(&mut self) {
        self.call_limiter.fleet.lock().leave(&self.line);
        self.call_limiter.active.send_modify(|active| *active -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::test_lines::{profile, ready};

    fn limiter(calls: u32) -> Arc<CallLimiter> {
        let fleet = SharedFleet::new(Limits {
            calls,
            ..Limits::default()
        });
        for (id, most) in [("a", Some(1)), ("b", None)] {
            let mut ready = ready(id);
            ready.line.max_concurrent_calls = most;
            let profile = profile(&ready);
            fleet.hold(ready, profile);
        }
        CallLimiter::new(&fleet)
    }

    #[test]
    fn a_full_line_is_busy_and_a_full_bridge_says_when_to_retry() {
        let call_limiter = limiter(2);
        let (a, b) = (LineId::new("a"), LineId::new("b"));
        let place = call_limiter.enter(&a).expect("first call");
        assert_eq!(
            call_limiter.admit(&a).map_err(|refusal| refusal.status),
            Err(486)
        );
        let other = call_limiter.enter(&b).expect("other line");
        let refusal = call_limiter.enter(&b).expect_err("bridge full");
        assert_eq!((refusal.status, refusal.retry_after.is_some()), (503, true));
        drop((place, other));
        assert_eq!(call_limiter.active(), 0);
        assert!(call_limiter.admit(&a).is_ok());
        assert_eq!((call_limiter.taken(), call_limiter.refused().sum()), (2, 2));
        assert_eq!(call_limiter.refused_by_admit(), 1);
    }

    #[test]
    fn a_call_that_other_bridges_leave_no_room_for_counts_as_refused() {
        let call_limiter = limiter(2);
        let permit = call_limiter.enter(&LineId::new("a")).expect("a place here");
        assert_eq!(permit.line_limit(), Some(1));
        assert_eq!(permit.refuse().status, 486);
        assert_eq!((call_limiter.active(), call_limiter.taken()), (0, 0));
        assert_eq!(call_limiter.refused().line_busy, 1);
        let unlimited = call_limiter.enter(&LineId::new("b")).expect("a place");
        assert_eq!(unlimited.line_limit(), None);
    }

    #[test]
    fn a_draining_bridge_takes_nothing() {
        let call_limiter = limiter(2);
        call_limiter.drain();
        let refusal = call_limiter.enter(&LineId::new("a")).expect_err("draining");
        assert_eq!(refusal.status, 503);
    }
}
