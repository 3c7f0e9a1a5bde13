//! What the rest of the bridge asks of the cluster.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::time::{Instant, timeout};

use crate::core::cluster::{Coordinator, Node, NodeId, NodeStage};
use crate::core::ids::LineId;

/// A handle to the cluster as this bridge sees it. Cheap to clone.
#[derive(Clone, Debug)]
pub struct ClusterHandle {
    shared: Arc<Shared>,
}

/// What the handles and the task share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) node: NodeId,
    coordinator: Mutex<Coordinator>,
    /// The task is to look at once.
    pub(super) wake: Notify,
    /// Counts the steps of the task.
    pub(super) steps: watch::Sender<u64>,
    /// Counts the heartbeats that Redis has answered.
    pub(super) views: watch::Sender<u64>,
    /// Whether others may have taken our lines over.
    pub(super) cut_off: Arc<AtomicBool>,
    /// Another bridge runs under our name.
    pub(super) conflict: watch::Sender<bool>,
}

impl Shared {
    /// For a moment; see the room.
    pub(super) fn lock(&self) -> MutexGuard<'_, Coordinator> {
        self.coordinator
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClusterHandle {
    /// The cluster of a node that has not heard of the others yet. `cut_off` is set while it has lost them.
    pub(super) fn new(node: NodeId, coordinator: Coordinator, cut_off: Arc<AtomicBool>) -> Self {
        Self {
            shared: Arc::new(Shared {
                node,
                coordinator: Mutex::new(coordinator),
                wake: Notify::new(),
                steps: watch::Sender::new(0),
                views: watch::Sender::new(0),
                cut_off,
                conflict: watch::Sender::new(false),
            }),
        }
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// This bridge.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.shared.node
    }

    /// The bridges that are alive, by their names.
    #[must_use]
    pub fn nodes(&self) -> Vec<Node> {
        let mut nodes = self.shared.lock().nodes().to_vec();
        nodes.sort_unstable_by(|one, other| one.id.cmp(&other.id));
        nodes
    }

    /// Which bridge holds a line, alive or not; `None` for one that none holds.
    #[must_use]
    pub fn holder(&self, line: &LineId) -> Option<NodeId> {
        self.shared.lock().holder(line).cloned()
    }

    /// How many of our lines no living bridge holds.
    #[must_use]
    pub fn lines_without_holder(&self) -> usize {
        self.shared.lock().lines_without_holder().count()
    }

    /// Whether another bridge could take our lines, as far as we know. One heartbeat that fails says nothing of that.
    #[must_use]
    pub fn has_taker(&self) -> bool {
        let takes = |node: &Node| node.info.stage == NodeStage::Up && node.id != self.shared.node;
        let coordinator = self.shared.lock();
        let is_cut_off = coordinator.is_cut_off(Instant::now().into_std());
        !is_cut_off && coordinator.nodes().iter().any(takes)
    }

    /// Whether another bridge has taken this line of ours, and may not be registered for it yet.
    #[must_use]
    pub fn is_taken(&self, line: &LineId) -> bool {
        self.shared.lock().is_taken(line)
    }

    /// Whether there is nothing to hand over, for no line is registered here. After [`ClusterHandle::leave`].
    #[must_use]
    pub fn has_nothing(&self) -> bool {
        self.shared.lock().may_exit()
    }

    /// Returns after the next heartbeat that is answered, or when the time is over: what is known of the others is fresh then.
    pub async fn next_view(&self, limit: Duration) {
        let mut views = self.shared.views.subscribe();
        let _ = timeout(limit, views.changed()).await;
    }

    /// Whether Redis has not answered for so long that others may have taken our lines over.
    #[must_use]
    pub fn is_cut_off(&self) -> bool {
        self.shared.cut_off.load(Ordering::Relaxed)
    }

    /// This bridge gives its lines away, and takes calls as before.
    pub fn drain(&self) {
        self.shared.lock().drain(Instant::now().into_std());
        self.shared.wake.notify_one();
    }

    /// As [`ClusterHandle::drain`], for good.
    pub fn leave(&self) {
        self.shared.lock().leave(Instant::now().into_std());
        self.shared.wake.notify_one();
    }

    /// It takes its share again; false where it shuts down.
    #[must_use]
    pub fn resume(&self) -> bool {
        let is_resumed = self.shared.lock().resume(Instant::now().into_std());
        self.shared.wake.notify_one();
        is_resumed
    }

    /// Returns once all lines are another bridge's, or nobody is there to take them, or Redis is away, or the time is over;
    /// whether all are. After [`ClusterHandle::leave`].
    pub async fn handed_over(&self, limit: Duration) -> bool {
        self.wait(limit, || self.shared.lock().may_exit() || !self.has_taker())
            .await;
        self.shared.lock().may_exit()
    }

    /// Unregisters the lines that nobody took, and gives up their leases: within this time, as far as it goes.
    pub async fn stop(&self, limit: Duration) {
        self.shared.lock().stop(Instant::now().into_std());
        self.shared.wake.notify_one();
        self.wait(limit, || self.shared.lock().may_exit()).await;
    }

    /// Returns when another bridge turned out to run under our name: this one must end.
    pub async fn conflict(&self) {
        let mut conflict = self.shared.conflict.subscribe();
        // Its sender lives as long as this handle.
        let _ = conflict.wait_for(|found| *found).await;
    }

    async fn wait(&self, limit: Duration, is_over: impl Fn() -> bool) {
        let mut steps = self.shared.steps.subscribe();
        let waiting = async {
            while !is_over() {
                if steps.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = timeout(limit, waiting).await;
    }
}
