//! What one line needs next: the rules, as a function of what is known of it.
//!
//! Nothing is remembered here. After a lost answer, a restart or a long sleep the next view says what the lease is, and from
//! that and from what this node does at the registrar the next step follows, whatever led there.

use std::time::{Duration, Instant};

use super::line::{Ask, Line, Local, Step};
use super::peers::Peers;
use super::{Lease, LeaseStage, LetGo, NodeId, NodeStage};

/// For so long a line is not offered again that nobody could take, nor taken again by who could not register it.
pub(super) const HANDOVER_RETRY: Duration = Duration::from_secs(60);

/// A line that this node could not register for so long is offered to the others: they may reach a registrar that bans
/// its address, or that its network has lost.
const FAILED_MAX: Duration = Duration::from_secs(30);
/// For so long a line is not offered again that nobody could register.
pub(super) const FAILED_RETRY: Duration = Duration::from_secs(300);
/// For so long a line stays where it came because its own node could not register it.
pub(super) const FAILED_KEEP: Duration = Duration::from_secs(120);

/// A node that took a line over from a live one, and has no result of its REGISTER by then, gives it back.
const MOVING_MAX: Duration = Duration::from_secs(60);

/// What is the same for all lines at one moment.
#[derive(Clone, Copy, Debug)]
pub(super) struct Situation<'a> {
    pub(super) now: Instant,
    pub(super) me: &'a NodeId,
    pub(super) peers: &'a Peers,
    /// Time between two heartbeats.
    pub(super) beat: Duration,
    /// How long an offer stands.
    pub(super) handover_timeout: Duration,
    /// This node gives its lines away.
    pub(super) is_draining: bool,
    /// This node ends: it unregisters what it still has.
    pub(super) is_stopping: bool,
    /// This node drains, all can see so, and there is somebody to take its lines.
    pub(super) has_taker: bool,
    /// Lines that this node does not have are not claimed before: who has them comes first.
    pub(super) no_claims_before: Option<Instant>,
    /// Nor those of a node that seems to be dead: it may be about to come back.
    pub(super) no_takeover_before: Option<Instant>,
}

/// What a line needs now, and when to look at it again where nothing else happens.
pub(super) fn decide(line: &Line, at: &Situation<'_>) -> (Step, Option<Instant>) {
    if line.is_in_flight || line.local == Local::LettingGo {
        return (Step::Wait, None);
    }
    match &line.lease {
        Some(lease) if lease.node == *at.me => at.of_mine(line, lease),
        Some(lease) if at.peers.is_alive(&lease.node) => at.of_another(line, lease),
        _ => at.of_nobody(line),
    }
}

const WAIT: (Step, Option<Instant>) = (Step::Wait, None);

const fn ask(ask: Ask) -> (Step, Option<Instant>) {
    (Step::Ask(ask), None)
}

const fn let_go(how: LetGo) -> (Step, Option<Instant>) {
    let is_fenced = false;
    (Step::LetGo { how, is_fenced }, None)
}

const REGISTER: (Step, Option<Instant>) = (Step::Register, None);

const FENCED: (Step, Option<Instant>) = {
    let (how, is_fenced) = (LetGo::Forget, true);
    (Step::LetGo { how, is_fenced }, None)
};

impl Situation<'_> {
    fn is_past(&self, time: Option<Instant>) -> bool {
        time.is_none_or(|time| time <= self.now)
    }

    /// `then`, once `time` has come.
    fn once(&self, time: Instant, then: Ask) -> (Step, Option<Instant>) {
        if time <= self.now {
            ask(then)
        } else {
            (Step::Wait, Some(time))
        }
    }

    /// This node holds it.
    fn of_mine(&self, line: &Line, lease: &Lease) -> (Step, Option<Instant>) {
        let is_unwanted = !line.is_wanted || self.is_stopping;
        match &lease.stage {
            LeaseStage::Moving { from } if self.peers.is_alive(from) => {
                self.of_arriving(line, is_unwanted)
            }
            _ if is_unwanted && line.local.is_active() => let_go(LetGo::Unregister),
            _ if is_unwanted => ask(Ask::Release),
            // The node before is dead: nobody waits for a confirmation, and nobody could take the line back.
            LeaseStage::Moving { .. } => match line.local {
                Local::Idle => REGISTER,
                Local::Registered { shown } => ask(Ask::Confirm { shown }),
                _ => WAIT,
            },
            LeaseStage::Offered => self.of_offered_by_me(line),
            // Who is still to let go would miss that, were the lease to go on at once.
            LeaseStage::Confirmed { from, .. } if self.peers.is_alive(from) => {
                self.of_held(line, false)
            }
            LeaseStage::Held | LeaseStage::Confirmed { .. } => self.of_held(line, true),
        }
    }

    /// On its way to this node, from a live one that stays registered meanwhile.
    fn of_arriving(&self, line: &Line, is_unwanted: bool) -> (Step, Option<Instant>) {
        match line.local {
            // Given back only when nothing of this node's can reach the registrar any more:
            // the node before registers anew once it has the line back.
            Local::Idle
                if is_unwanted || self.is_draining || !self.is_past(line.declined_until) =>
            {
                ask(Ask::Withdraw)
            }
            Local::Idle => REGISTER,
            _ if is_unwanted => let_go(LetGo::Forget),
            Local::Registered { shown } => ask(Ask::Confirm { shown }),
            Local::Failed { .. } => let_go(LetGo::Forget),
            Local::Registering { since } if since + MOVING_MAX <= self.now => let_go(LetGo::Forget),
            Local::Registering { since } => (Step::Wait, Some(since + MOVING_MAX)),
            Local::LettingGo => WAIT,
        }
    }

    fn of_offered_by_me(&self, line: &Line) -> (Step, Option<Instant>) {
        let ends = line.offered_since.unwrap_or(self.now) + self.handover_timeout;
        if self.is_draining {
            // Not withdrawn: whoever wants it may have it.
            WAIT
        } else if !self.is_anothers(line) && !matches!(line.local, Local::Failed { .. }) {
            ask(Ask::Withdraw)
        } else if line.local == Local::Idle && ends > self.now {
            REGISTER
        } else {
            self.once(ends, Ask::Withdraw)
        }
    }

    fn of_held(&self, line: &Line, may_give: bool) -> (Step, Option<Instant>) {
        let must_register = line.local == Local::Idle || line.is_refresh_due;
        if self.is_draining {
            let offers = may_give && self.has_taker;
            return match line.local {
                _ if offers => ask(Ask::Offer),
                Local::Registered { .. } if line.is_refresh_due => REGISTER,
                _ => WAIT,
            };
        }
        match line.local {
            _ if must_register => REGISTER,
            Local::Registered { shown: true } if line.is_taken_over => {
                ask(Ask::Confirm { shown: true })
            }
            Local::Registered { .. } | Local::Failed { .. }
                if may_give && self.is_anothers(line) =>
            {
                self.once(line.keep_until.unwrap_or(self.now), Ask::Offer)
            }
            Local::Failed { since } if may_give && self.peers.others_up().next().is_some() => {
                let time = since + FAILED_MAX;
                let time = line.keep_until.map_or(time, |keep| keep.max(time));
                self.once(time, Ask::Offer)
            }
            _ => WAIT,
        }
    }

    /// Whether another node should hold it.
    fn is_anothers(&self, line: &Line) -> bool {
        line.place.best.as_ref().is_some_and(|best| best != self.me)
    }

    /// Another node holds it, and lives.
    fn of_another(&self, line: &Line, lease: &Lease) -> (Step, Option<Instant>) {
        let is_active = line.local.is_active();
        match &lease.stage {
            LeaseStage::Moving { from } if from == self.me => match is_active {
                true if self.is_stopping => let_go(LetGo::Forget),
                // It stays registered until the new one is.
                _ => WAIT,
            },
            LeaseStage::Confirmed { from, shown } if from == self.me => {
                let how = if *shown {
                    LetGo::Unregister
                } else {
                    LetGo::Forget
                };
                let is_fenced = line.is_fenced;
                match is_active {
                    true => (Step::LetGo { how, is_fenced }, None),
                    false => {
                        let renew = line.has_replaced_contact;
                        ask(Ask::Done { renew })
                    }
                }
            }
            _ if is_active => FENCED,
            _ if line.has_replaced_contact => ask(Ask::Done { renew: true }),
            LeaseStage::Offered => self.of_offered_by_another(line, lease),
            _ => WAIT,
        }
    }

    fn of_offered_by_another(&self, line: &Line, lease: &Lease) -> (Step, Option<Instant>) {
        let takes = line.is_wanted && !self.is_draining && !self.is_stopping;
        let since = line.offered_since.unwrap_or(self.now);
        // Its own line: it cannot register it.
        let has_failed = line.place.best.as_ref() == Some(&lease.node);
        let time = match line.place.rank {
            _ if !takes => return WAIT,
            0 => since,
            rank if has_failed => since + self.beat * 2 * (rank - 1).min(MAX_RANK),
            // A line of a node that ends goes to the next best where the best does not take it.
            rank if self.peers.stage(&lease.node) == Some(NodeStage::Draining) => {
                since + self.beat * 2 * rank.min(MAX_RANK)
            }
            _ => return WAIT,
        };
        self.once(
            line.declined_until
                .map_or(time, |declined| declined.max(time)),
            Ask::Claim,
        )
    }

    /// No live node holds it.
    fn of_nobody(&self, line: &Line) -> (Step, Option<Instant>) {
        let is_unwanted = !line.is_wanted || self.is_stopping;
        match &line.lease {
            None if line.local.is_active() && is_unwanted => let_go(LetGo::Unregister),
            None if line.local.is_active() => ask(Ask::Reclaim),
            // A contact of the dead node may be the one that is registered.
            Some(_) if line.local.is_active() && is_unwanted => let_go(LetGo::Forget),
            // Registered as it is, it can wait for a beat of a holder that may be about to come back.
            Some(_) if line.local.is_active() => {
                let time = self
                    .no_takeover_before()
                    .and_then(|time| time.checked_sub(self.beat * 2));
                self.once(time.unwrap_or(self.now), Ask::Claim)
            }
            _ if is_unwanted || self.is_draining => WAIT,
            _ => {
                let since = line.unheld_since.unwrap_or(self.now);
                let mut time = since;
                if line.place.rank > 0 {
                    time += self.beat * 2 * (1 + line.place.rank.min(MAX_RANK));
                }
                if self.another_comes_first(line) {
                    time = time.max(since + self.beat * 2);
                }
                let before = match line.lease {
                    Some(_) => self.no_takeover_before(),
                    None => self.no_claims_before,
                };
                self.once(before.map_or(time, |before| before.max(time)), Ask::Claim)
            }
        }
    }

    /// Before when no line of a dead node is claimed.
    fn no_takeover_before(&self) -> Option<Instant> {
        self.no_claims_before.max(self.no_takeover_before)
    }

    /// Whether a live node is likely to be registered for a line that nobody holds, and will have it back at its next view.
    fn another_comes_first(&self, line: &Line) -> bool {
        match line.lease.as_ref().map(|lease| &lease.stage) {
            Some(LeaseStage::Moving { from } | LeaseStage::Confirmed { from, .. }) => {
                from != self.me && self.peers.stage(from) == Some(NodeStage::Up)
            }
            Some(_) => false,
            None => line.has_vanished,
        }
    }
}

/// Ranks from here on wait for the same time.
const MAX_RANK: u32 = 100;
