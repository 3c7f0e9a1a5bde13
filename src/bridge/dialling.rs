//! Whom the lines may call, and how often: the dial policy with its clock, for
//! calls and transfers that come through the API, and for transfers that
//! workers ask for: a caller may talk a bot into much. A line's own fallback
//! number is the operator's own doing and is not judged.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::core::dialling::cap::DialCap;
use crate::core::dialling::{DialPolicy, NotAllowed, REFUSALS};
use crate::core::private::Private;
use crate::fleet::LineProfile;

/// The gate that every destination of the API and of workers goes through.
#[derive(Debug)]
pub struct Dialling {
    policy: DialPolicy,
    judges_workers: bool,
    cap: Mutex<DialCap>,
    dialled: AtomicU64,
    refused: [AtomicU64; REFUSALS.len()],
}

impl Default for Dialling {
    fn default() -> Self {
        Self::new(DialPolicy::default(), None)
    }
}

impl Dialling {
    /// `--allow-dial` and `--max-dials-per-hour`.
    #[must_use]
    pub fn new(policy: DialPolicy, most_per_hour: Option<u32>) -> Self {
        Self {
            policy,
            judges_workers: true,
            cap: Mutex::new(DialCap::new(most_per_hour, Instant::now())),
            dialled: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// Whether what the operator's own workers ask for is judged too; not so
    /// with `--trust-worker-transfers`.
    #[must_use]
    pub const fn judging_workers(mut self, judges_workers: bool) -> Self {
        self.judges_workers = judges_workers;
        self
    }

    /// Whether a worker's transfer needs to be allowed. One that was named by
    /// who placed the call (`is_foreign`) may never do what he may not.
    pub(super) const fn judges(&self, is_foreign: bool) -> bool {
        is_foreign || self.judges_workers
    }

    /// What to dial for this destination over this line; counted as one dial.
    ///
    /// # Errors
    /// Why it may not be dialled.
    pub fn allow(&self, line: &LineProfile, to: &Private) -> Result<Private, NotAllowed> {
        let judged = self.policy.judge(to.expose(), &line.dial);
        let allowed = judged.and_then(|to| self.charge(line).map(|()| to));
        match &allowed {
            Ok(_) => _ = self.dialled.fetch_add(1, Ordering::Relaxed),
            Err(refused) => self.count(refused),
        }
        allowed.map(Private::new)
    }

    /// A dial that was allowed did not take place.
    pub(super) fn give_back(&self, line: &LineProfile) {
        self.cap().give_back(&line.id);
    }

    fn charge(&self, line: &LineProfile) -> Result<(), NotAllowed> {
        let mut cap = self.cap();
        let most = cap.most().unwrap_or_default();
        let taken = cap.take(&line.id, Instant::now());
        taken.map_err(|again_in| NotAllowed::Cap { most, again_in })
    }

    fn cap(&self) -> MutexGuard<'_, DialCap> {
        self.cap.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many dials were let through.
    #[must_use]
    pub fn dialled(&self) -> u64 {
        self.dialled.load(Ordering::Relaxed)
    }

    /// How many were refused, by reason.
    pub fn refused(&self) -> impl Iterator<Item = (&'static str, u64)> + '_ {
        let counts = self.refused.iter();
        let counts = counts.map(|count| count.load(Ordering::Relaxed));
        REFUSALS.into_iter().zip(counts)
    }

    fn count(&self, refused: &NotAllowed) {
        let reason = REFUSALS.iter().position(|name| *name == refused.as_str());
        if let Some(count) = reason.and_then(|reason| self.refused.get(reason)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}
