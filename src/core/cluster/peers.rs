//! The nodes as last seen, and the shares that follow from them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::rendezvous::Shares;
use super::{ClusterEvent, CoordinatorSettings, Node, NodeId, NodeStage};

/// How far apart the nodes look after a heartbeat that has expired, in the order of their names: each claims its own
/// share, and Redis has them one after the other.
const LOOK_SPACING: Duration = Duration::from_millis(5);

/// The nodes of the last view.
#[derive(Debug)]
pub(super) struct Peers {
    me: NodeId,
    nodes: Vec<Node>,
    /// Where each is in `nodes`.
    by_id: BTreeMap<NodeId, usize>,
    /// When the heartbeat of each expires, unless it is written anew.
    expires_at: BTreeMap<NodeId, Instant>,
    /// Those that were up in the view before.
    were_up: BTreeSet<NodeId>,
    shares: Shares,
}

impl Peers {
    pub(super) fn new(me: NodeId) -> Self {
        Self {
            me,
            nodes: Vec::new(),
            by_id: BTreeMap::new(),
            expires_at: BTreeMap::new(),
            were_up: BTreeSet::new(),
            shares: Shares::default(),
        }
    }

    pub(super) fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    pub(super) fn shares(&self) -> &Shares {
        &self.shares
    }

    /// Takes the nodes of a view. What changes with every heartbeat (ages, numbers of calls) counts as no change.
    pub(super) fn update(&mut self, nodes: Vec<Node>, mut tell: impl FnMut(ClusterEvent)) -> bool {
        let what_counts = |node: &Node| (node.instance.clone(), node.info.stage);
        let by_id: BTreeMap<NodeId, usize> = nodes
            .iter()
            .enumerate()
            .map(|(index, node)| (node.id.clone(), index))
            .collect();
        let mut is_changed = false;
        for node in &nodes {
            let before = self.get(&node.id);
            is_changed |= before.map(what_counts) != Some(what_counts(node));
            if before.is_none_or(|before| before.instance != node.instance) {
                tell(ClusterEvent::NodeCame(node.id.clone()));
            }
        }
        for gone in self.by_id.keys().filter(|id| !by_id.contains_key(id)) {
            is_changed = true;
            tell(ClusterEvent::NodeWent(gone.clone()));
        }
        let is_up = |node: &&Node| node.info.stage == NodeStage::Up;
        self.were_up = self
            .nodes
            .iter()
            .filter(is_up)
            .map(|node| node.id.clone())
            .collect();
        self.nodes = nodes;
        self.by_id = by_id;
        is_changed
    }

    /// Notes when the heartbeats of the last view, which has come now, expire. True where one of a view before is gone much too early:
    /// the clock of Redis was set, and all of them are about to be written anew, or the node has ended.
    pub(super) fn note_expiries(&mut self, now: Instant, settings: CoordinatorSettings) -> bool {
        let lives = |at: Instant| at > now + settings.beat() / 2;
        let is_early = self
            .expires_at
            .iter()
            .any(|(id, at)| !self.by_id.contains_key(id) && lives(*at));
        let others = self.nodes.iter().filter(|node| node.id != self.me);
        let expiry = |node: &Node| {
            let left = settings.lease_ttl.saturating_sub(node.heartbeat_age);
            (node.id.clone(), now + left)
        };
        self.expires_at = others.map(expiry).collect();
        is_early
    }

    /// Finds anew who shares the lines: the nodes that are up, have stayed for a while and could hold the same lines as
    /// this node. Where none has stayed for a while, those that have not. Returns whether that changed anything.
    pub(super) fn share(&mut self, my_digest: u64, i_am_up: bool) -> bool {
        let could = |node: &&Node| {
            if node.id == self.me {
                i_am_up
            } else {
                node.info.stage == NodeStage::Up && node.info.lines_digest == my_digest
            }
        };
        let share = |node: &Node| (node.id.clone(), node.info.capacity);
        let settled = |node: &&Node| node.settles_in.is_zero();
        let nodes = || {
            self.by_id
                .values()
                .filter_map(|index| self.nodes.get(*index))
        };
        let mut shares = Shares::new(nodes().filter(could).filter(settled).map(share));
        if shares.is_empty() {
            shares = Shares::new(nodes().filter(could).map(share));
        }
        let is_changed = shares != self.shares;
        self.shares = shares;
        is_changed
    }

    /// When this node is to look at the others: the first of their heartbeats expires just before, unless it is written
    /// anew. The ages are those of a view that was made at `seen_at` or earlier. A heartbeat that is older than this node's
    /// own would live is of a node with another `--lease-ttl`: it is seen to expire at the next beat.
    pub(super) fn look_at(&self, seen_at: Instant, lease_ttl: Duration) -> Option<Instant> {
        let others = self.nodes.iter().filter(|node| node.id != self.me);
        let left = others.filter_map(|node| lease_ttl.checked_sub(node.heartbeat_age));
        let before_me = self.by_id.range::<NodeId, _>(..&self.me).count();
        let turn = u32::try_from(before_me)
            .unwrap_or(u32::MAX)
            .saturating_add(1);
        let after = LOOK_SPACING.saturating_mul(turn).min(lease_ttl / 6);
        Some(seen_at + left.min()? + after)
    }

    fn get(&self, node: &NodeId) -> Option<&Node> {
        self.nodes.get(*self.by_id.get(node)?)
    }

    pub(super) fn is_alive(&self, node: &NodeId) -> bool {
        self.by_id.contains_key(node)
    }

    pub(super) fn stage(&self, node: &NodeId) -> Option<NodeStage> {
        self.get(node).map(|node| node.info.stage)
    }

    /// Whether a node is up, or was in the view before.
    pub(super) fn was_up(&self, node: &NodeId) -> bool {
        self.stage(node) == Some(NodeStage::Up) || self.were_up.contains(node)
    }

    /// The other nodes that are up, whatever lines they could hold.
    pub(super) fn others_up(&self) -> impl Iterator<Item = &NodeId> {
        let is_up = |node: &&Node| node.info.stage == NodeStage::Up && node.id != self.me;
        self.nodes.iter().filter(is_up).map(|node| &node.id)
    }

    /// Whether another node says that it is registered for lines.
    pub(super) fn others_have_lines(&self) -> bool {
        self.nodes
            .iter()
            .any(|node| node.id != self.me && node.info.lines > 0)
    }
}
