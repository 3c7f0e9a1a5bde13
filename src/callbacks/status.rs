//! From a call's new status to a callback that waits for its delivery. Runs in
//! the call's own task, and so never waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use tokio::sync::mpsc;
use tracing::warn;

use super::stats::{CallbackStats, Counters, count, is_told};
use crate::core::call_object::CallObject;
use crate::core::callback::{CallbackProgress, CallbackReceiver, WebhookEvent};
use crate::core::ids::CallId;

/// Makes callbacks. Clones share everything.
#[derive(Clone)]
pub struct StatusCallbacks {
    queue: mpsc::Sender<Arc<WebhookEvent>>,
    /// Calls in progress; an entry goes with its call's last callback.
    calls: Arc<Mutex<HashMap<CallId, CallbackProgress>>>,
    /// Whether calls without an address of their own have one.
    has_common_url: bool,
    pub(super) counters: Arc<Counters>,
    /// Most callbacks that may wait for delivery.
    most: u64,
}

impl StatusCallbacks {
    pub(super) fn new(
        queue: mpsc::Sender<Arc<WebhookEvent>>,
        has_common_url: bool,
        counters: Arc<Counters>,
        most: u64,
    ) -> Self {
        Self {
            queue,
            calls: Arc::default(),
            has_common_url,
            counters,
            most,
        }
    }

    /// The call has a new status. `receiver` is the call's own.
    pub fn changed(&self, call: &CallObject, receiver: Option<&CallbackReceiver>) {
        if receiver.is_none() && !self.has_common_url {
            return;
        }
        let step = {
            let mut calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
            let step = calls.entry(call.facts.id.clone()).or_default();
            let step = step.advance(call.state.status);
            if call.state.status.is_final() {
                calls.remove(&call.facts.id);
            }
            step
        };
        let Some(step) = step else { return };
        if receiver.is_some_and(|receiver| !receiver.wants(step.0)) {
            return;
        }
        let notice = WebhookEvent::new(call, step, receiver, SystemTime::now());
        self.leave(Arc::new(notice));
    }

    /// A callback beside those of the call's status.
    pub fn tell(&self, event: WebhookEvent) {
        self.leave(Arc::new(event));
    }

    fn leave(&self, notice: Arc<WebhookEvent>) {
        use std::sync::atomic::Ordering::Relaxed;
        let waiting = count(&self.counters.waiting);
        if waiting <= self.most && self.queue.try_send(notice).is_ok() {
            return;
        }
        self.counters.waiting.fetch_sub(1, Relaxed);
        let dropped = count(&self.counters.dropped);
        if is_told(dropped) {
            warn!(
                dropped,
                "status callback dropped: too many wait for their receivers, or the bridge goes down"
            );
        }
    }

    /// What became of callbacks so far.
    #[must_use]
    pub fn stats(&self) -> CallbackStats {
        self.counters.read()
    }
}
