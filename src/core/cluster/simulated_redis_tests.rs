//! What the scripts on Redis do, in memory and in virtual time: for the simulation, and for tests of the rules.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;

/// A node that came and went within this time gets no share for as long after it has come again.
const SETTLING: Duration = Duration::from_secs(60);

/// How long it is remembered when a node came and was seen last.
const SEEN_KEPT: Duration = Duration::from_secs(120);

/// Redis.
#[derive(Debug)]
pub struct SimulatedRedis {
    pub ttl: Duration,
    /// When its clock began.
    begun: Instant,
    pub leases: BTreeMap<LineId, Lease>,
    pub fence: u64,
    pub revision: u64,
    /// Scripts run.
    pub scripts: u64,
    /// When each line last got another holder.
    pub moved_at: BTreeMap<LineId, Instant>,
    /// The dead node that each line was taken from, while nothing else has happened to it.
    lost: BTreeMap<LineId, NodeId>,
    hearts: BTreeMap<NodeId, Heart>,
    seen: BTreeMap<NodeId, Seen>,
}

#[derive(Debug)]
struct Heart {
    info: Node,
    settled_at: Instant,
    alive_since: Instant,
    beaten_at: Instant,
}

#[derive(Debug)]
struct Seen {
    instance: Arc<str>,
    settled_at: Instant,
    came_at: Instant,
    last_at: Instant,
}

/// Another instance has the node's name.
#[derive(Debug, PartialEq, Eq)]
pub struct Conflict;

impl SimulatedRedis {
    pub fn new(ttl: Duration, begun: Instant) -> Self {
        Self {
            ttl,
            begun,
            leases: BTreeMap::new(),
            fence: 0,
            revision: 0,
            scripts: 0,
            moved_at: BTreeMap::new(),
            lost: BTreeMap::new(),
            hearts: BTreeMap::new(),
            seen: BTreeMap::new(),
        }
    }

    /// It comes back without what it knew.
    pub fn restart_empty(&mut self) {
        let (ttl, begun, scripts) = (self.ttl, self.begun, self.scripts);
        *self = Self {
            scripts,
            ..Self::new(ttl, begun)
        };
    }

    pub fn is_alive(&self, node: &NodeId, now: Instant) -> bool {
        self.expires_at(node).is_some_and(|expires| now < expires)
    }

    /// When a node's heartbeat expires, or did.
    pub fn expires_at(&self, node: &NodeId) -> Option<Instant> {
        self.hearts
            .get(node)
            .map(|heart| heart.beaten_at + self.ttl)
    }

    /// Since when a node is alive without a break.
    pub fn alive_since(&self, node: &NodeId) -> Option<Instant> {
        self.hearts.get(node).map(|heart| heart.alive_since)
    }

    /// Whether no live node holds a line.
    pub fn is_unheld(&self, line: &LineId, now: Instant) -> bool {
        self.leases
            .get(line)
            .is_none_or(|lease| !self.is_alive(&lease.node, now))
    }

    /// `settles_in` and `heartbeat_age` of what is given are of no account. The revision of the answer comes with it.
    pub fn beat(
        &mut self,
        info: &Node,
        seen_revision: Option<u64>,
        now: Instant,
    ) -> Result<(ClusterView, u64), Conflict> {
        self.scripts += 1;
        let known = self
            .hearts
            .get(&info.id)
            .filter(|heart| now < heart.beaten_at + self.ttl);
        if known.is_some_and(|heart| heart.info.instance != info.instance) {
            return Err(Conflict);
        }
        let alive_since = known.map_or(now, |heart| heart.alive_since);
        let seen = self
            .seen
            .get(&info.id)
            .filter(|seen| now - seen.last_at < SEEN_KEPT);
        let (came_at, settled_at) = match seen {
            // Cut off from Redis and back, it is no other.
            Some(seen) if seen.instance == info.instance => (seen.came_at, seen.settled_at),
            Some(seen)
                if seen.last_at - seen.came_at < SETTLING && now - seen.last_at < SETTLING =>
            {
                (now, now + SETTLING)
            }
            _ => (now, now),
        };
        let seen = Seen {
            instance: info.instance.clone(),
            settled_at,
            came_at,
            last_at: now,
        };
        self.seen.insert(info.id.clone(), seen);
        let heart = Heart {
            info: info.clone(),
            settled_at,
            alive_since,
            beaten_at: now,
        };
        self.hearts.insert(info.id.clone(), heart);

        let alive = self
            .hearts
            .values()
            .filter(|heart| now < heart.beaten_at + self.ttl);
        let nodes = alive.map(|heart| Node {
            settles_in: heart.settled_at.saturating_duration_since(now),
            heartbeat_age: now - heart.beaten_at,
            ..heart.info.clone()
        });
        let leases = || {
            self.leases
                .iter()
                .map(|(id, lease)| (id.clone(), lease.clone()))
        };
        let view = ClusterView {
            nodes: nodes.collect(),
            fence: Fence(self.fence),
            leases: (seen_revision != Some(self.revision)).then(|| leases().collect()),
        };
        Ok((view, self.revision))
    }

    /// The node ends without a trace, for tests that do not wait for its heartbeat to expire.
    pub fn forget_node(&mut self, node: &NodeId) {
        self.hearts.remove(node);
    }

    /// Runs a script. Answers with the leases, and says who is told to look.
    pub fn run(
        &mut self,
        me: &NodeId,
        command: &LeaseCommand,
        now: Instant,
    ) -> (Vec<(LineId, Option<Lease>)>, Vec<NodeId>) {
        self.scripts += 1;
        let mut tell = Vec::new();
        if let LeaseCommand::Reclaim(lines) = command {
            let highest = lines.iter().map(|(_, fence)| fence.0).max();
            self.fence = self.fence.max(highest.unwrap_or_default());
        }
        for line in command.lines() {
            let old = self.leases.get(line).cloned();
            let new = self.changed(me, command, line, old.clone(), now, &mut tell);
            if old == new {
                continue;
            }
            // The time, so that it does not come again after Redis has forgotten it.
            let micros = u64::try_from((now - self.begun).as_micros()).unwrap();
            self.revision = micros.max(self.revision + 1);
            self.lost.remove(line);
            if let (LeaseCommand::Claim(_), Some(old)) = (command, &old)
                && !self.is_alive(&old.node, now)
            {
                self.lost.insert(line.clone(), old.node.clone());
            }
            if old.map(|old| old.node) != new.as_ref().map(|new| new.node.clone()) {
                self.moved_at.insert(line.clone(), now);
            }
            match new {
                Some(new) => self.leases.insert(line.clone(), new),
                None => self.leases.remove(line),
            };
        }
        if let LeaseCommand::Offer { tell: targets, .. } = command {
            tell.extend(targets.iter().cloned());
        }
        tell.sort_unstable();
        tell.dedup();
        let leases = command
            .lines()
            .map(|line| (line.clone(), self.leases.get(line).cloned()));
        (leases.collect(), tell)
    }

    fn held(&mut self, node: &NodeId, stage: LeaseStage) -> Option<Lease> {
        self.fence += 1;
        let fence = Fence(self.fence);
        Some(Lease {
            node: node.clone(),
            fence,
            stage,
        })
    }

    fn changed(
        &mut self,
        me: &NodeId,
        command: &LeaseCommand,
        line: &LineId,
        old: Option<Lease>,
        now: Instant,
        tell: &mut Vec<NodeId>,
    ) -> Option<Lease> {
        let is_mine = old.as_ref().is_some_and(|lease| lease.node == *me);
        let Some(lease) = old else {
            return match command {
                LeaseCommand::Claim(_) | LeaseCommand::Reclaim(_) => {
                    self.held(me, LeaseStage::Held)
                }
                _ => None,
            };
        };
        let of_stage = |stage| {
            Some(Lease {
                stage,
                ..lease.clone()
            })
        };
        match (command, &lease.stage) {
            (LeaseCommand::Claim(_) | LeaseCommand::Reclaim(_), _) if is_mine => Some(lease),
            (LeaseCommand::Claim(_), stage) if !self.is_alive(&lease.node, now) => match stage {
                LeaseStage::Moving { from } if from != me && self.is_alive(from, now) => {
                    self.held(me, LeaseStage::Moving { from: from.clone() })
                }
                _ => self.held(me, LeaseStage::Held),
            },
            (LeaseCommand::Claim(_), LeaseStage::Offered) => self.held(
                me,
                LeaseStage::Moving {
                    from: lease.node.clone(),
                },
            ),
            (LeaseCommand::Reclaim(lines), _) => {
                let had = lines
                    .iter()
                    .find(|(id, _)| id == line)
                    .map(|(_, fence)| *fence);
                if had.is_some_and(|had| lease.fence < had) || !self.is_alive(&lease.node, now) {
                    self.held(me, LeaseStage::Held)
                } else {
                    Some(lease)
                }
            }
            (LeaseCommand::Offer { .. }, LeaseStage::Held | LeaseStage::Confirmed { .. })
                if is_mine =>
            {
                of_stage(LeaseStage::Offered)
            }
            (LeaseCommand::Withdraw(_), LeaseStage::Offered) if is_mine => {
                of_stage(LeaseStage::Held)
            }
            (LeaseCommand::Withdraw(_), LeaseStage::Moving { from }) if is_mine => {
                tell.push(from.clone());
                self.held(from, LeaseStage::Held)
            }
            (LeaseCommand::Confirm(lines), LeaseStage::Moving { from }) if is_mine => {
                tell.push(from.clone());
                let shown = lines.iter().any(|(id, shown)| id == line && *shown);
                of_stage(LeaseStage::Confirmed {
                    from: from.clone(),
                    shown,
                })
            }
            (LeaseCommand::Confirm(lines), LeaseStage::Held) if is_mine => {
                let Some(from) = self.lost.get(line).cloned() else {
                    return Some(lease);
                };
                tell.push(from.clone());
                let shown = lines.iter().any(|(id, shown)| id == line && *shown);
                of_stage(LeaseStage::Confirmed { from, shown })
            }
            (LeaseCommand::Release(_), LeaseStage::Moving { from })
                if is_mine && self.is_alive(from, now) =>
            {
                tell.push(from.clone());
                self.held(from, LeaseStage::Held)
            }
            (LeaseCommand::Release(_), _) if is_mine => None,
            (LeaseCommand::Done(lines), stage) => {
                let renews = !is_mine && lines.contains(&(line.clone(), true));
                let stage = match stage {
                    LeaseStage::Confirmed { from, .. } if from == me => LeaseStage::Held,
                    stage => stage.clone(),
                };
                if renews {
                    tell.push(lease.node.clone());
                    self.held(&lease.node, stage)
                } else {
                    of_stage(stage)
                }
            }
            _ => Some(lease),
        }
    }
}
