//! What Redis says, taken in: views, answers to commands, and that there was none.

use std::time::Instant;

use super::decide::{FAILED_KEEP, FAILED_RETRY, HANDOVER_RETRY};
use super::line::{Line, Local, is_leaving};
use super::{
    ClusterEvent, ClusterView, Coordinator, Lease, LeaseStage, LineId, MoveReason, NodeId,
};

impl Coordinator {
    /// A beat was answered. `asked_at` is when it was asked for: a node that slept meanwhile must not trust the answer.
    ///
    /// Whoever calls it keeps the revision of the view for the next beat only once this has returned.
    pub fn handle_view(&mut self, view: ClusterView, asked_at: Instant, now: Instant) {
        self.see(now);
        if now.saturating_duration_since(asked_at) >= self.settings.lease_ttl {
            // The heartbeat that it wrote has expired. Were the leases dropped here, the next beat
            // would not bring them again: so they are taken in, and nothing is done yet.
            self.take_view(view, now);
            self.is_fresh = false;
            return;
        }
        let was_fresh = self.is_fresh;
        let gap = asked_at.saturating_duration_since(self.last_beat.unwrap_or(asked_at));
        let has_failed = std::mem::take(&mut self.has_failed);
        let was_away = gap > self.settings.beat() * 2;
        self.last_beat = Some(asked_at);
        self.is_fresh = true;
        self.slept_at = None;
        // Redis may have been away for the others too, and they are about to come back: what they hold is theirs.
        if was_away {
            self.no_claims_before = Some(now + self.settings.lease_ttl);
        } else if has_failed {
            let before = now + self.settings.beat();
            self.no_claims_before = self.no_claims_before.max(Some(before));
        }
        let all = self.take_view(view, now);
        if all || !was_fresh || was_away {
            self.review_all(now);
        }
    }

    /// Whether all lines are to be looked at; those that changed have been.
    fn take_view(&mut self, mut view: ClusterView, now: Instant) -> bool {
        let is_first = self.views == 0;
        self.views += 1;
        self.is_busy = false;
        let events = &mut self.events;
        let nodes_changed = self
            .peers
            .update(view.nodes, |event| Self::tell(events, event));
        // A node that begins does not know for how long the others have not reached Redis, which may have been away.
        if is_first {
            self.no_takeover_before = Some(now + self.settings.lease_ttl);
        }
        if self.peers.note_expiries(now, self.settings) {
            let before = Some(now + self.settings.beat() * 2);
            self.no_takeover_before = self.no_takeover_before.max(before);
        }
        self.look_at = self.peers.look_at(now, self.settings.lease_ttl);
        let is_shared_anew = self.share();
        let no_leases = view.leases.as_ref().is_some_and(Vec::is_empty);
        let mut forgot =
            view.fence < self.fence || (is_first && no_leases && self.peers.others_have_lines());
        if forgot {
            // It cannot say that nothing has changed when it does not know what was.
            view.leases.get_or_insert_default();
        }
        let (known, found) = (self.fence, view.fence);
        self.fence = view.fence;

        let mut changed = std::mem::take(&mut self.recheck);
        for id in std::mem::take(&mut self.in_flight) {
            if let Some(line) = self.lines.get_mut(&id) {
                line.is_in_flight = false;
            }
            changed.insert(id);
        }
        for (id, lease) in view.leases.iter().flatten() {
            let line = self.lines.get_mut(id);
            if let Some(line) = line.filter(|line| line.lease.as_ref() == Some(lease)) {
                line.seen = self.views;
                continue;
            }
            self.set_lease(id, Some(lease), is_first, now);
            if let Some(line) = self.lines.get_mut(id) {
                line.seen = self.views;
            }
            changed.insert(id.clone());
        }
        if view.leases.is_some() {
            let is_gone = |line: &Line| line.lease.is_some() && line.seen != self.views;
            let gone = self.lines.iter().filter(|(_, line)| is_gone(line));
            let gone: Vec<LineId> = gone.map(|(id, _)| id.clone()).collect();
            // Nobody but this node takes its leases away. The fence does not tell when another has claimed anew already.
            let was_mine = |line: &Line| {
                let lease = line.lease.as_ref();
                line.local.is_active() && lease.is_some_and(|lease| lease.node == self.me)
            };
            forgot |= gone
                .iter()
                .filter_map(|id| self.lines.get(id))
                .any(was_mine);
            for id in gone {
                self.set_lease(&id, None, is_first, now);
                changed.insert(id);
            }
        }
        if forgot {
            Self::tell(&mut self.events, ClusterEvent::RedisForgot { known, found });
            self.no_claims_before = Some(now + self.settings.lease_ttl);
        }
        self.review_these(changed, now);
        nodes_changed || is_shared_anew || forgot
    }

    /// A beat failed, or was not answered in time.
    pub fn handle_beat_failed(&mut self, asked_at: Instant, now: Instant) {
        self.see(now);
        self.is_fresh = false;
        self.has_failed = self.last_beat.is_some();
        // It has asked since it woke, and Redis is away: for such a node all stays as it is.
        if self.slept_at.is_some_and(|slept_at| slept_at <= asked_at) {
            self.slept_at = None;
        }
    }

    /// The command that was taken last was answered: each line's lease as it is now. A line that is not named
    /// waits for the next view.
    pub fn handle_answer(
        &mut self,
        leases: impl IntoIterator<Item = (LineId, Option<Lease>)>,
        now: Instant,
    ) {
        self.see(now);
        if !self.is_fresh {
            // It slept meanwhile: what was granted may be another's by now.
            return self.handle_command_failed(now);
        }
        self.is_busy = false;
        let mut answered = Vec::new();
        for (id, lease) in leases {
            self.fence = lease
                .as_ref()
                .map_or(self.fence, |lease| self.fence.max(lease.fence));
            self.set_lease(&id, lease.as_ref(), false, now);
            if let Some(line) = self.lines.get_mut(&id) {
                line.is_in_flight = false;
            }
            answered.push(id);
        }
        self.in_flight
            .retain(|id| self.lines.get(id).is_some_and(|line| line.is_in_flight));
        self.review_these(answered, now);
    }

    /// The command that was taken last was not answered: it may have run all the same. Nothing is asked for before
    /// the next view.
    pub fn handle_command_failed(&mut self, now: Instant) {
        self.see(now);
        self.is_busy = false;
        self.is_fresh = false;
    }

    /// Takes in a lease.
    fn set_lease(&mut self, id: &LineId, new: Option<&Lease>, is_first: bool, now: Instant) {
        let line = match self.lines.get_mut(id) {
            Some(line) if line.lease.as_ref() == new => return,
            Some(line) => line,
            None if new.is_none() => return,
            None => {
                let mut line = Line::new(id);
                line.place = self.peers.shares().place(line.hash, &self.me);
                self.lines.entry(id.clone()).or_insert(line)
            }
        };
        let old = std::mem::replace(&mut line.lease, new.cloned());
        let leaves = |lease: &Option<Lease>| {
            usize::from(
                lease
                    .as_ref()
                    .is_some_and(|lease| is_leaving(lease, &self.me)),
            )
        };
        self.leaving = (self.leaving + leaves(&line.lease)).saturating_sub(leaves(&old));
        line.offered_since = new
            .is_some_and(|lease| lease.stage == LeaseStage::Offered)
            .then_some(now);
        // Only the holder releases a line, and one that is up gives up none that it could hold.
        line.has_vanished = new.is_none()
            && old
                .as_ref()
                .is_some_and(|old| old.node != self.me && self.peers.was_up(&old.node));
        let is_mine = |lease: &&Lease| lease.node == self.me;
        let was_kept = old.as_ref().filter(is_mine);
        line.is_fenced = was_kept.is_some_and(|old| !is_leaving(old, &self.me))
            && new.is_some_and(|new| new.node != self.me);
        let holder = new.map(|lease| &lease.node);
        if let Some(before) = old.as_ref().filter(|old| Some(&old.node) != holder) {
            line.former = Some(before.node.clone());
        }
        let event = match new {
            Some(new) if new.node == self.me => {
                let is_known = !is_first;
                Self::became_mine(line, old.as_ref(), new, &self.me, now)
                    .filter(|_| is_known)
                    .map(|(from, reason)| ClusterEvent::LineMoved {
                        line: id.clone(),
                        from,
                        to: self.me.clone(),
                        reason,
                    })
            }
            _ => None,
        };
        let failed = Self::failed_handover(old.as_ref(), new, &self.me);
        let failed = failed.map(|by| ClusterEvent::HandoverFailed {
            line: id.clone(),
            by,
        });
        for event in event.into_iter().chain(failed) {
            Self::tell(&mut self.events, event);
        }
    }

    /// This node holds a line anew, or in another stage. Says who held it before and why it moved, if it has.
    fn became_mine(
        line: &mut Line,
        old: Option<&Lease>,
        new: &Lease,
        me: &NodeId,
        now: Instant,
    ) -> Option<(Option<NodeId>, MoveReason)> {
        let is_new = new.fence != line.fence;
        line.fence = new.fence;
        line.is_taken_over &= !is_new;
        let was_leaving = old.is_some_and(|old| is_leaving(old, me));
        let has_failed = matches!(line.local, Local::Failed { .. });
        if was_leaving && new.stage == LeaseStage::Held {
            let keep = if has_failed {
                FAILED_RETRY
            } else {
                HANDOVER_RETRY
            };
            line.keep_until = Some(now + keep);
        }
        let was_offered = old.filter(|old| old.stage == LeaseStage::Offered && old.node != *me);
        if was_offered.is_some_and(|old| line.place.best.as_ref() == Some(&old.node)) {
            line.keep_until = Some(now + FAILED_KEEP);
        }
        // Where it was vanished from Redis only, nobody has replaced our contact.
        let was_registered = has_failed || matches!(line.local, Local::Registered { .. });
        if is_new && old.is_some() && was_registered {
            line.is_refresh_due = true;
        }
        match (old, &new.stage) {
            (_, LeaseStage::Moving { .. } | LeaseStage::Offered) => None,
            (Some(old), _) if old.node == *me => match &old.stage {
                LeaseStage::Moving { from } => Some((Some(from.clone()), MoveReason::Handover)),
                _ => None,
            },
            (_, LeaseStage::Confirmed { from, .. }) => {
                Some((Some(from.clone()), MoveReason::Handover))
            }
            (None, LeaseStage::Held) if line.local.is_active() => None,
            (None, LeaseStage::Held) => Some((None, MoveReason::Claimed)),
            (Some(old), LeaseStage::Held) => {
                line.is_taken_over = !was_leaving;
                let reason = if was_leaving {
                    MoveReason::TakenBack
                } else {
                    MoveReason::Takeover
                };
                Some((Some(old.node.clone()), reason))
            }
        }
    }

    /// Whether a handover from this node has just failed, and by whose doing.
    fn failed_handover(
        old: Option<&Lease>,
        new: Option<&Lease>,
        me: &NodeId,
    ) -> Option<Option<NodeId>> {
        let (old, new) = (old?, new?);
        let is_back = is_leaving(old, me) && new.node == *me && new.stage == LeaseStage::Held;
        is_back.then(|| (old.node != *me).then(|| old.node.clone()))
    }
}
