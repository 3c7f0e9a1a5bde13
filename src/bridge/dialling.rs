//! Whom the lines may call, and how often: the dial policy with its clock, for
//! calls and transfers that come through the API, and for transfers that
//! workers ask for: a caller may talk a bot into much. A line's own fallback
//! number is the operator's own doing and is not judged. Where bridges share lines, a line's dials of the hour are
//! those of all of them; while Redis is away, those of each bridge alone.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::core::dialling::cap::DialCap;
use crate::core::dialling::{DialPolicy, NotAllowed, REFUSALS};
use crate::core::private::Private;
use crate::fleet::LineProfile;
use crate::queue::Queue;

/// The gate that every destination of the API and of workers goes through.
#[derive(Debug)]
pub struct Dialling {
    policy: DialPolicy,
    judges_workers: bool,
    cap: Mutex<DialCap>,
    /// Where dials of all bridges are counted.
    queue: Option<Queue>,
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
            queue: None,
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

    /// The same, with dials counted over all bridges that share lines by this queue.
    #[must_use]
    pub fn counting_in(self, queue: Option<Queue>) -> Self {
        Self { queue, ..self }
    }

    /// Whether a worker's transfer needs to be allowed. One that was named by
    /// who placed the call (`is_foreign`) may never do what he may not.
    pub(super) const fn judges(&self, is_foreign: bool) -> bool {
        is_foreign || self.judges_workers
    }

    /// What to dial for this destination over this line; counted as one dial. Waits for Redis 200 ms at most, and only
    /// where there is a limit and bridges share lines.
    ///
    /// # Errors
    /// Why it may not be dialled.
    pub async fn allow(&self, line: &LineProfile, to: &Private) -> Result<Private, NotAllowed> {
        let allowed = match self.policy.judge(to.expose(), &line.dial) {
            Ok(to) => self.charge(line).await.map(|()| to),
            Err(refused) => Err(refused),
        };
        match &allowed {
            Ok(_) => _ = self.dialled.fetch_add(1, Ordering::Relaxed),
            Err(refused) => self.count(refused),
        }
        allowed.map(Private::new)
    }

    /// A dial that was allowed did not take place.
    pub(super) async fn give_back(&self, line: &LineProfile) {
        let most = {
            let mut cap = self.cap();
            cap.give_back(&line.id);
            cap.most()
        };
        if let Some((queue, _)) = self.queue.as_ref().zip(most) {
            Box::pin(queue.uncount_dial(&line.id)).await;
        }
    }

    async fn charge(&self, line: &LineProfile) -> Result<(), NotAllowed> {
        let (most, taken) = {
            let mut cap = self.cap();
            (cap.most(), cap.take(&line.id, Instant::now()))
        };
        let Some(most) = most else { return Ok(()) };
        let refused = |again_in| NotAllowed::Cap { most, again_in };
        taken.map_err(refused)?;
        if let Some(queue) = &self.queue {
            // Boxed: most drivers never do this, and need no room for it.
            if let Err(again_in) = Box::pin(queue.count_dial(&line.id, most)).await {
                self.cap().give_back(&line.id);
                return Err(refused(again_in));
            }
        }
        Ok(())
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
