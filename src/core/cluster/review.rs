//! Deciding anew: for which lines, and where what they need is kept until it is taken out.

use std::time::Instant;

use super::decide::{Situation, decide};
use super::line::Step;
use super::{Coordinator, LineId, NodeStage};

impl Coordinator {
    /// Finds anew who shares the lines. Returns whether that changed; the lines are to be looked at then.
    pub(super) fn share(&mut self) -> bool {
        let is_changed = self.peers.share(self.my_digest, !self.gives_away());
        if is_changed {
            for line in self.lines.values_mut() {
                line.place = self.peers.shares().place(line.hash, &self.me);
            }
        }
        is_changed
    }

    /// Whether this node wants to hold no line: where it only pauses and is the last that is left, it does.
    fn gives_away(&self) -> bool {
        let is_last = self.peers.others_up().next().is_none();
        self.is_draining && (self.is_ending || !is_last)
    }

    /// Whether all can see that this node drains, and somebody could take its lines.
    fn has_taker(&self) -> bool {
        self.is_draining
            && self.peers.stage(&self.me) == Some(NodeStage::Draining)
            && self.peers.others_up().next().is_some()
    }

    /// Decides anew for all lines.
    pub(super) fn review_all(&mut self, now: Instant) {
        let ids: Vec<LineId> = self.lines.keys().cloned().collect();
        self.review_these(ids, now);
    }

    pub(super) fn review_these(&mut self, ids: impl IntoIterator<Item = LineId>, now: Instant) {
        for id in ids {
            self.review(&id, now);
        }
    }

    /// Decides anew for a line, and files it under what it needs.
    pub(super) fn review(&mut self, id: &LineId, now: Instant) {
        let (has_taker, gives_away) = (self.has_taker(), self.gives_away());
        let Some(line) = self.lines.get_mut(id) else {
            return;
        };
        let is_held = line
            .lease
            .as_ref()
            .is_some_and(|lease| lease.node == self.me || self.peers.is_alive(&lease.node));
        if is_held {
            line.unheld_since = None;
        } else {
            line.unheld_since.get_or_insert(now);
        }
        let situation = Situation {
            now,
            me: &self.me,
            peers: &self.peers,
            beat: self.settings.beat(),
            handover_timeout: self.settings.handover_timeout,
            is_draining: gives_away,
            is_stopping: self.is_stopping,
            has_taker,
            no_claims_before: self.no_claims_before,
            no_takeover_before: self.no_takeover_before,
        };
        let (mut step, due) = decide(line, &situation);
        if let Step::Ask(ask) = step
            && line.asked.contains(ask, self.views)
        {
            // It has run, and things are not as this node thinks.
            step = Step::Wait;
            self.recheck.insert(id.clone());
        }
        match line.step {
            Step::Wait => {}
            Step::Ask(ask) => {
                self.asks[ask.kind()].remove(id);
            }
            Step::Register | Step::LetGo { .. } => {
                self.actions.remove(id);
            }
        }
        match step {
            Step::Wait => {}
            Step::Ask(ask) => {
                self.asks[ask.kind()].insert(id.clone());
            }
            Step::Register | Step::LetGo { .. } => {
                self.actions.insert(id.clone());
            }
        }
        line.step = step;
        if line.due != due {
            if let Some(due) = line.due.take() {
                self.timers.remove(&(due, id.clone()));
            }
            if let Some(due) = due {
                self.timers.insert((due, id.clone()));
            }
            line.due = due;
        }
        if line.is_void() {
            self.lines.remove(id);
        }
    }
}
