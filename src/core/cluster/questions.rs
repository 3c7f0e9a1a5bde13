//! What a [`Coordinator`] can be asked.

use std::time::Instant;

use super::line::{Line, Local, is_leaving};
use super::{Coordinator, LineId, Node, NodeId, NodeStage};

impl Coordinator {
    /// Whether this node holds a line, as far as it knows.
    #[must_use]
    pub fn holds(&self, line: &LineId) -> bool {
        self.holder(line) == Some(&self.me)
    }

    /// Who holds a line, alive or not.
    #[must_use]
    pub fn holder(&self, line: &LineId) -> Option<&NodeId> {
        self.lines
            .get(line)?
            .lease
            .as_ref()
            .map(|lease| &lease.node)
    }

    /// Whether this node gives its lines away.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.is_draining
    }

    /// Whether another node has taken this line from this one, and may not be registered yet. Not one that is only offered.
    #[must_use]
    pub fn is_taken(&self, line: &LineId) -> bool {
        let lease = self.lines.get(line).and_then(|line| line.lease.as_ref());
        lease.is_some_and(|lease| lease.node != self.me && is_leaving(lease, &self.me))
    }

    /// The nodes that were alive in the last view.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        self.peers.nodes()
    }

    /// Who should hold a line; `None` where nobody has a share, or the line is not known.
    #[must_use]
    pub fn best(&self, line: &LineId) -> Option<&NodeId> {
        self.lines.get(line)?.place.best.as_ref()
    }

    /// Whether Redis has not answered for a lease ttl: others may have taken this node's lines over.
    #[must_use]
    pub fn is_cut_off(&self, now: Instant) -> bool {
        let since = self.last_beat.unwrap_or(self.started);
        now.saturating_duration_since(since) >= self.settings.lease_ttl
    }

    /// Whether this node slept past its lease and has not yet asked Redis what became of its lines: it neither registers,
    /// renews nor answers before.
    #[must_use]
    pub fn must_ask_first(&self, now: Instant) -> bool {
        self.slept_at.is_some() || self.has_slept(now)
    }

    /// Whether a beat is wanted before the next tick: after a sleep, after a lost answer, or for others to see that this
    /// node drains. A runner whose beat fails waits before the next, all the same.
    #[must_use]
    pub fn needs_view(&self) -> bool {
        let shown = self.peers.stage(&self.me);
        let is_unseen = self.is_draining && shown.is_some_and(|stage| stage == NodeStage::Up);
        !self.is_fresh || is_unseen
    }

    /// When a beat is wanted although the tick is not due: the heartbeat of another node, as last seen, has just expired
    /// then. One that lives has written it anew by the tick before, so that this costs nothing until a node dies, and the
    /// lines of that one are claimed as soon as Redis permits.
    #[must_use]
    pub fn look_at(&self) -> Option<Instant> {
        self.look_at
    }

    /// The lines that this node could hold and that no live node holds, as far as it knows.
    pub fn lines_without_holder(&self) -> impl Iterator<Item = &LineId> {
        let is_unheld = |line: &Line| {
            let holder = line.lease.as_ref().map(|lease| &lease.node);
            line.is_wanted && !holder.is_some_and(|node| self.peers.is_alive(node))
        };
        self.lines
            .iter()
            .filter(move |(_, line)| is_unheld(line))
            .map(|(id, _)| id)
    }

    /// Whether this node drains and has nothing more to hand over: it holds no line, and is registered for none.
    #[must_use]
    pub fn may_exit(&self) -> bool {
        let is_over = |line: &Line| {
            line.local == Local::Idle
                && !line.is_in_flight
                && line
                    .lease
                    .as_ref()
                    .is_none_or(|lease| lease.node != self.me && !is_leaving(lease, &self.me))
        };
        self.is_draining && self.lines.values().all(is_over)
    }
}
