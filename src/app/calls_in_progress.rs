//! The calls in progress as the composition needs them: their number for Redis,
//! and the way to end them when the bridge goes down.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::drain;
use crate::bridge::context::Context;
use crate::bridge::shutdown::Shutdown;
use crate::fleet::CallLimiter;
use crate::queue::Queue;

/// Kept back from the calls' time, for their BYEs to be answered.
const BYE_TIME: Duration = Duration::from_secs(1);

/// How many calls go on, and the way to end them.
#[derive(Clone)]
pub struct CallsInProgress {
    limiter: Arc<CallLimiter>,
    shutdown: Arc<Shutdown>,
}

impl CallsInProgress {
    /// Those of a running bridge.
    #[must_use]
    pub fn new(context: &Context) -> Self {
        Self {
            limiter: context.call_limiter.clone(),
            shutdown: context.shutdown.clone(),
        }
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> u32 {
        self.limiter.active()
    }

    /// Lets no more in.
    pub fn drain(&self) {
        self.limiter.drain();
    }

    /// Returns when no call is left, or when the drain timeout is over.
    pub async fn wait(&self, limit: Duration) {
        drain::wait_for_calls(&self.limiter, limit).await;
    }

    /// Waits for the calls to end by themselves, then ends them.
    pub async fn end(&self, limit: Duration) {
        let left = limit.saturating_sub(BYE_TIME);
        if timeout(left, self.limiter.empty()).await.is_ok() {
            return;
        }
        let calls = self.count();
        warn!(calls, "the time is over: hanging up");
        self.shutdown.end_calls();
        if timeout(BYE_TIME, self.limiter.empty()).await.is_err() {
            let calls = self.count();
            warn!(calls, "calls that did not end are given up");
        }
    }

    /// Tells Redis how many calls there are, whenever that changes.
    pub async fn publish(self, queue: Queue) {
        let mut active = self.limiter.watch_active();
        loop {
            let calls = *active.borrow_and_update();
            queue.set_active_calls(usize::try_from(calls).unwrap_or(usize::MAX));
            if active.changed().await.is_err() {
                return;
            }
        }
    }
}
