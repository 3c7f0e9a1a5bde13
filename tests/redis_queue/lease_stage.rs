//! Bridges that share lines, on a private Redis.

use std::ops::Deref;
use std::time::Duration;

use sipbridge::core::cluster::{Fence, Lease, LeaseStage, Node, NodeId, NodeInfo, NodeStage};
use sipbridge::core::ids::LineId;
use sipbridge::queue::{Beat, LeaseOutcome, LeaseStore, Queue, QueueConfig, Revision};

use crate::stage::{Server, eventually, start_queue};

/// A bridge that shares lines: its handle to leases, and the queue behind it.
pub struct Sharer {
    pub queue: Queue,
    store: LeaseStore,
}

impl Deref for Sharer {
    type Target = LeaseStore;

    fn deref(&self) -> &LeaseStore {
        &self.store
    }
}

impl Sharer {
    pub async fn start(server: &Server, node: &str) -> Self {
        Self::of(start_queue(&sharing(server, node)).await)
    }

    pub fn of(queue: Queue) -> Self {
        let store = queue.lease_store().unwrap();
        Self { queue, store }
    }

    /// One heartbeat, as a node of capacity 10; all leases are asked for.
    pub async fn look(&self) -> Beat {
        self.beat(&info(), None).await.unwrap()
    }

    /// Its heartbeat says that it listens to its channel, and then nobody does: as a bridge that crashed or is frozen.
    pub async fn listen_no_more(&self, server: &Server) {
        let channel = self.channel();
        channel.notified().await;
        self.look().await;
        drop(channel);
        let node = self.node();
        let listeners = format!("PUBSUB NUMSUB bridge:{node}:new_registration");
        eventually("nobody listens any more", async || {
            server.query::<(String, u64)>(&listeners).await.1 == 0
        })
        .await;
    }

    /// One heartbeat that has seen a revision.
    pub async fn look_again(&self, seen: Revision) -> Beat {
        self.beat(&info(), Some(seen)).await.unwrap()
    }

    /// Claims lines; asserts that all are granted.
    pub async fn take(&self, lines: &[LineId]) -> Vec<Lease> {
        granted(self.claim(lines).await.unwrap())
    }
}

pub fn sharing(server: &Server, node: &str) -> QueueConfig {
    QueueConfig {
        shares_lines: true,
        // So that no machine is too slow for the heartbeats that are not renewed.
        lease_ttl: Duration::from_secs(60),
        ..server.config(node)
    }
}

pub fn info() -> NodeInfo {
    NodeInfo {
        stage: NodeStage::Up,
        capacity: 10,
        lines: 2,
        calls: 1,
        version: "1.2.3".into(),
        api_url: Some("http://127.0.0.1:8080".into()),
        stream_url: Some("ws://127.0.0.1:8081".into()),
        lines_digest: 0xfeed_0000_0000_0001,
    }
}

/// The leases of outcomes that are all done.
pub fn granted(outcomes: Vec<LeaseOutcome>) -> Vec<Lease> {
    outcomes
        .into_iter()
        .map(|outcome| {
            assert!(outcome.done, "{outcome:?}");
            outcome.lease.unwrap()
        })
        .collect()
}

/// What came of one line.
pub fn only(mut outcomes: Vec<LeaseOutcome>) -> (bool, Option<Lease>) {
    assert_eq!(outcomes.len(), 1);
    let outcome = outcomes.remove(0);
    (outcome.done, outcome.lease)
}

pub fn lines(names: &[&str]) -> Vec<LineId> {
    names.iter().copied().map(LineId::new).collect()
}

pub fn numbered(count: usize) -> Vec<LineId> {
    (0..count)
        .map(|line| LineId::new(format!("line-{line:05}")))
        .collect()
}

pub fn lease(node: &str, fence: u64, stage: LeaseStage) -> Lease {
    Lease {
        node: NodeId::new(node),
        fence: Fence(fence),
        stage,
    }
}

pub fn held(node: &str, fence: u64) -> Lease {
    lease(node, fence, LeaseStage::Held)
}

pub fn moving(node: &str, fence: u64, from: &str) -> Lease {
    let from = NodeId::new(from);
    lease(node, fence, LeaseStage::Moving { from })
}

pub fn confirmed(node: &str, fence: u64, from: &str, shown: bool) -> Lease {
    let from = NodeId::new(from);
    lease(node, fence, LeaseStage::Confirmed { from, shown })
}

/// Makes it look as if a node's heartbeat had expired.
pub async fn kill_heartbeat(server: &Server, node: &str) {
    let keys = format!("DEL bridge:{node}:heartbeat bridge:{node}:info");
    assert_eq!(server.query::<u64>(&keys).await, 2, "{node} was alive");
}

/// Takes time off the life of a node, as Redis has seen it.
pub async fn make_older(server: &Server, node: &str, age: Duration) {
    let key = format!("bridge:{node}:seen");
    for field in ["came_at", "last_at"] {
        let at: i64 = server.query(&format!("HGET {key} {field}")).await;
        let at = at - i64::try_from(age.as_millis()).unwrap();
        let _: u64 = server.query(&format!("HSET {key} {field} {at}")).await;
    }
}

pub fn find<'a>(beat: &'a Beat, node: &str) -> Option<&'a Node> {
    beat.view
        .nodes
        .iter()
        .find(|found| found.id.as_str() == node)
}
