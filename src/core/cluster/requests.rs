//! What is wanted, taken out: commands and actions; and what the registrar said.

use std::time::Instant;

use super::decide::HANDOVER_RETRY;
use super::line::{Ask, Line, Local, Step};
use super::outputs::COMMAND_LINES_MAX;
use super::{
    ClusterEvent, Coordinator, LeaseCommand, LeaseStage, LineAction, LineId, MoveReason, NodeId,
};

impl Coordinator {
    /// The next script to run, while none is under way. Ends with `handle_answer` or `handle_command_failed`. A line of which
    /// a call is being set up is not offered: `is_being_set_up` tells, and is asked for such lines only.
    pub fn poll_command(
        &mut self,
        now: Instant,
        is_being_set_up: impl Fn(&LineId) -> bool,
    ) -> Option<LeaseCommand> {
        self.see(now);
        if !self.is_fresh || self.is_busy || self.is_cut_off(now) {
            return None;
        }
        let kind = self.asks.iter().position(|asks| !asks.is_empty())?;
        let ids: Vec<LineId> = if kind == Ask::Offer.kind() {
            let window = self.settings.handover_window.saturating_sub(self.leaving);
            let most = if self.is_draining {
                COMMAND_LINES_MAX
            } else {
                window
            };
            let offers = self.asks[kind].iter().filter(|id| !is_being_set_up(id));
            offers.take(most.min(COMMAND_LINES_MAX)).cloned().collect()
        } else {
            self.asks[kind]
                .iter()
                .take(COMMAND_LINES_MAX)
                .cloned()
                .collect()
        };
        if ids.is_empty() {
            return None;
        }
        let mut asked = Vec::with_capacity(ids.len());
        for id in ids {
            self.asks[kind].remove(&id);
            let Some(line) = self.lines.get_mut(&id) else {
                continue;
            };
            if let Step::Ask(ask) = std::mem::take(&mut line.step) {
                line.asked.insert(ask, self.views);
                line.is_taken_over &= !matches!(ask, Ask::Confirm { .. });
                line.has_replaced_contact &= !matches!(ask, Ask::Done { .. });
                line.is_in_flight = true;
                asked.push((id, ask));
            }
        }
        self.in_flight
            .extend(asked.iter().map(|(id, _)| id.clone()));
        self.is_busy = true;
        self.command(asked)
    }

    /// A command for lines that need the same kind of script.
    fn command(&self, asked: Vec<(LineId, Ask)>) -> Option<LeaseCommand> {
        let kind = asked.first()?.1;
        let shown = |ask: Ask| matches!(ask, Ask::Confirm { shown: true });
        let fence = |id: &LineId| self.lines.get(id).map(|line| line.fence);
        let plain = |asked: Vec<(LineId, Ask)>| asked.into_iter().map(|(id, _)| id).collect();
        Some(match kind {
            Ask::Reclaim => LeaseCommand::Reclaim(
                asked
                    .into_iter()
                    .filter_map(|(id, _)| Some((fence(&id)?, id)))
                    .map(|(fence, id)| (id, fence))
                    .collect(),
            ),
            Ask::Claim => LeaseCommand::Claim(plain(asked)),
            Ask::Confirm { .. } => LeaseCommand::Confirm(
                asked
                    .into_iter()
                    .map(|(id, ask)| (id, shown(ask)))
                    .collect(),
            ),
            Ask::Done { .. } => LeaseCommand::Done(
                asked
                    .into_iter()
                    .map(|(id, ask)| (id, ask == Ask::Done { renew: true }))
                    .collect(),
            ),
            Ask::Withdraw => LeaseCommand::Withdraw(plain(asked)),
            Ask::Release => LeaseCommand::Release(plain(asked)),
            Ask::Offer => {
                let lines: Vec<LineId> = plain(asked);
                let tell = self.takers(&lines);
                LeaseCommand::Offer { lines, tell }
            }
        })
    }

    /// The nodes that are to hear of an offer: those that should hold the lines, or all where nobody in particular should.
    fn takers(&self, lines: &[LineId]) -> Vec<NodeId> {
        let best = lines.iter().map(|id| self.best(id));
        let mut takers: Vec<NodeId> = match best.collect::<Option<Vec<&NodeId>>>() {
            Some(best) => best.into_iter().cloned().collect(),
            None => self.peers.others_up().cloned().collect(),
        };
        takers.sort_unstable();
        takers.dedup();
        takers
    }

    /// The next registration to begin or to end. `None` while this node must ask Redis first.
    pub fn poll_action(&mut self, now: Instant) -> Option<LineAction> {
        self.see(now);
        if self.slept_at.is_some() {
            return None;
        }
        let may_let_go = self.is_fresh;
        let is_due = |line: &Line| may_let_go || line.step == Step::Register;
        let id = self
            .actions
            .iter()
            .find(|id| self.lines.get(*id).is_some_and(is_due))?
            .clone();
        self.actions.remove(&id);
        let line = self.lines.get_mut(&id)?;
        match std::mem::take(&mut line.step) {
            Step::LetGo { how, is_fenced } => {
                line.local = Local::LettingGo;
                let lease = line.lease.as_ref();
                let is_arriving = lease.is_some_and(|lease| {
                    lease.node == self.me && matches!(lease.stage, LeaseStage::Moving { .. })
                });
                if is_arriving {
                    line.declined_until = Some(now + HANDOVER_RETRY);
                }
                if let Some(lease) = lease.filter(|_| is_fenced) {
                    let event = ClusterEvent::LineMoved {
                        line: id.clone(),
                        from: Some(self.me.clone()),
                        to: lease.node.clone(),
                        reason: MoveReason::Fenced,
                    };
                    Self::tell(&mut self.events, event);
                }
                Some(LineAction::LetGo { line: id, how })
            }
            _ => {
                let from = match line.lease.as_ref().map(|lease| &lease.stage) {
                    Some(LeaseStage::Moving { from }) => Some(from.clone()),
                    _ => line.former.clone().filter(|node| *node != self.me),
                };
                line.local = Local::Registering { since: now };
                line.is_refresh_due = false;
                // It may have to be given up when it takes too long.
                self.review(&id, now);
                Some(LineAction::Register { line: id, from })
            }
        }
    }

    /// The registrar said 200. `shown`: its answer still lists the contact of the node that was registered before.
    pub fn handle_registered(&mut self, line: &LineId, shown: bool, now: Instant) {
        let is_cut_off = self.is_cut_off(now);
        if let Some(line) = self.lines.get_mut(line) {
            line.is_taken_over &= shown;
            let lease = line.lease.as_ref();
            line.has_replaced_contact =
                is_cut_off || lease.is_some_and(|lease| lease.node != self.me);
        }
        self.set_local(line, Local::Registered { shown }, now);
    }

    /// A REGISTER failed; where the line is this node's, it is tried again by whoever sends it.
    pub fn handle_registration_failed(&mut self, line: &LineId, now: Instant) {
        let since = match self.lines.get(line).map(|line| line.local) {
            Some(Local::Failed { since }) => since,
            Some(local) if local.is_active() => now,
            _ => return,
        };
        self.set_local(line, Local::Failed { since }, now);
    }

    /// A line was let go: no REGISTER for it is under way, and none will be sent. Also for one that was let go without having been asked.
    pub fn handle_let_go(&mut self, line: &LineId, now: Instant) {
        self.set_local(line, Local::Idle, now);
    }

    /// There is no such line here any more, whatever [`set_wanted`](Coordinator::set_wanted) said: it cannot be registered, and
    /// is released.
    pub fn handle_unknown(&mut self, line: &LineId, now: Instant) {
        if let Some(line) = self.lines.get_mut(line) {
            line.is_wanted = false;
        }
        self.set_local(line, Local::Idle, now);
    }

    fn set_local(&mut self, id: &LineId, local: Local, now: Instant) {
        self.see(now);
        let Some(line) = self.lines.get_mut(id) else {
            return;
        };
        // A result that comes after the line was given up does not make it active again.
        if line.local == Local::LettingGo && local != Local::Idle {
            return;
        }
        if local == Local::Idle {
            line.is_refresh_due = false;
        }
        line.local = local;
        self.review(id, now);
    }
}
