//! The machine of one node: what it was told goes in, what it wants done comes out. No sockets, no clock.
//!
//! # Who calls what, in which order
//!
//! One task owns it. It has *one* request at Redis at a time (a beat or a [`LeaseCommand`](super::LeaseCommand)) and hands in each answer, or that there
//! was none, before it makes the next: so a view is never older than an answer that is known already.
//!
//! ```text
//! at the start          set_wanted(lines); lines_digest() goes into the heartbeat
//! each third of the     beat script ──► handle_view(view, asked_at, now), or handle_beat_failed(asked_at, now)
//!   lease ttl, when       (asked_at: when the request was made, not when it was answered)
//!   poked by Redis, when needs_view(), at look_at()
//! at next_timeout()     handle_timeout(now), and at each beat at the latest
//! fleet reports         handle_registered, handle_registration_failed, handle_let_go
//!
//! after each of these:  poll_event until None, poll_action until None, and
//!                       while poll_command gives one: run it, then handle_answer or handle_command_failed
//! ```
//!
//! # How it decides
//!
//! Per line there is what Redis last said (its lease) and what this node does at the registrar. `decide` derives
//! the next step from these two and from the nodes that are alive. Commands only nudge: nothing is taken as done because it was
//! asked for. So a script that ran although its answer was lost, a lease of a former life of this node, and a view after a
//! long sleep need no rules of their own. What is asked for is kept per line until it is taken out by `poll_*`, and
//! goes away when the facts change first.
//!
//! Each kind of script runs once at most for a line between two views: where the server sees it otherwise than this node
//! (a heartbeat that has just come or gone), the next view tells who is right.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::line::{Ask, Line};
use super::peers::Peers;
use super::rendezvous::lines_digest;
use super::{ClusterEvent, Fence, LineId, NodeId};

/// Times and limits of a [`Coordinator`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoordinatorSettings {
    /// How long a lease is good after a heartbeat, `--lease-ttl`. Three heartbeats fit in.
    pub lease_ttl: Duration,
    /// How long an offer stands before it is withdrawn, `--handover-timeout`.
    pub handover_timeout: Duration,
    /// How many lines of this node may be on their way to others at once, unless it drains.
    pub handover_window: usize,
}

impl Default for CoordinatorSettings {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(10),
            handover_timeout: Duration::from_secs(15),
            handover_window: 20,
        }
    }
}

impl CoordinatorSettings {
    /// Time between two heartbeats.
    #[must_use]
    pub fn beat(&self) -> Duration {
        self.lease_ttl / 3
    }
}

/// Most events that wait to be taken; beyond, the oldest are dropped.
const EVENTS_MAX: usize = 65_536;

/// Decides for one node which lines it holds. See the [module](self).
#[derive(Debug)]
pub struct Coordinator {
    pub(super) me: NodeId,
    pub(super) settings: CoordinatorSettings,
    pub(super) peers: Peers,
    pub(super) lines: BTreeMap<LineId, Line>,
    pub(super) my_digest: u64,
    pub(super) is_draining: bool,
    /// It drains because it ends.
    pub(super) is_ending: bool,
    pub(super) is_stopping: bool,

    /// When the last beat that was answered was asked for: the lease is good from then.
    pub(super) last_beat: Option<Instant>,
    /// A beat has failed since.
    pub(super) has_failed: bool,
    /// When the clock was last seen.
    pub(super) last_seen: Instant,
    pub(super) started: Instant,
    /// The last view tells how things are: no request has failed since.
    pub(super) is_fresh: bool,
    /// The clock jumped past the lease; since when that is known.
    pub(super) slept_at: Option<Instant>,
    /// When another's heartbeat has expired, unless it is written anew.
    pub(super) look_at: Option<Instant>,
    /// Views handled.
    pub(super) views: u64,
    /// The highest fence seen.
    pub(super) fence: Fence,
    pub(super) no_claims_before: Option<Instant>,
    pub(super) no_takeover_before: Option<Instant>,

    /// Lines that need a script, by its kind.
    pub(super) asks: [BTreeSet<LineId>; Ask::KINDS],
    /// Lines that are to be registered or let go.
    pub(super) actions: BTreeSet<LineId>,
    /// Lines that are to be looked at again, and when.
    pub(super) timers: BTreeSet<(Instant, LineId)>,
    /// Lines of the command that is under way.
    pub(super) in_flight: Vec<LineId>,
    /// A command is under way.
    pub(super) is_busy: bool,
    /// Lines to be looked at after the next view, whatever it says.
    pub(super) recheck: BTreeSet<LineId>,
    /// How many lines are on their way from this node to others.
    pub(super) leaving: usize,
    pub(super) events: VecDeque<ClusterEvent>,
}

impl Coordinator {
    /// A node that has not heard of the others yet. It does nothing before the first view.
    #[must_use]
    pub fn new(me: NodeId, settings: CoordinatorSettings, now: Instant) -> Self {
        Self {
            peers: Peers::new(me.clone()),
            me,
            settings,
            lines: BTreeMap::new(),
            my_digest: lines_digest([]),
            is_draining: false,
            is_ending: false,
            is_stopping: false,
            last_beat: None,
            has_failed: false,
            last_seen: now,
            started: now,
            is_fresh: false,
            slept_at: None,
            look_at: None,
            views: 0,
            fence: Fence::default(),
            no_claims_before: None,
            no_takeover_before: None,
            asks: Default::default(),
            actions: BTreeSet::new(),
            timers: BTreeSet::new(),
            in_flight: Vec::new(),
            is_busy: false,
            recheck: BTreeSet::new(),
            leaving: 0,
            events: VecDeque::new(),
        }
    }

    /// The lines that this node could hold, all of them. One that is missing now is let go and released.
    pub fn set_wanted(&mut self, lines: impl IntoIterator<Item = LineId>, now: Instant) {
        self.see(now);
        let wanted: BTreeSet<LineId> = lines.into_iter().collect();
        self.my_digest = lines_digest(&wanted);
        let is_shared_anew = self.share();
        let mut changed = Vec::new();
        for (id, line) in &mut self.lines {
            let is_wanted = wanted.contains(id);
            if line.is_wanted != is_wanted {
                line.is_wanted = is_wanted;
                changed.push(id.clone());
            }
        }
        for id in wanted {
            if !self.lines.contains_key(&id) {
                let mut line = Line::new(&id);
                line.is_wanted = true;
                line.place = self.peers.shares().place(line.hash, &self.me);
                self.lines.insert(id.clone(), line);
                changed.push(id);
            }
        }
        if is_shared_anew {
            self.review_all(now);
        } else {
            self.review_these(changed, now);
        }
    }

    /// Of the lines that this node could hold: for its heartbeat.
    #[must_use]
    pub fn lines_digest(&self) -> u64 {
        self.my_digest
    }

    /// From now on this node gives its lines away, and claims none, while another could take them. The offers begin with the
    /// first view in which others see it as draining; see [`needs_view`](Self::needs_view).
    pub fn drain(&mut self, now: Instant) {
        self.set_draining(true, now);
    }

    /// As [`drain`](Self::drain), for good: this node is about to end.
    pub fn leave(&mut self, now: Instant) {
        self.is_ending = true;
        self.set_draining(true, now);
    }

    /// Takes [`drain`](Self::drain) back; false where this node ends, and could register nothing that it took.
    pub fn resume(&mut self, now: Instant) -> bool {
        if !self.is_ending {
            self.set_draining(false, now);
        }
        !self.is_ending
    }

    fn set_draining(&mut self, is_draining: bool, now: Instant) {
        self.see(now);
        self.is_draining = is_draining;
        self.share();
        self.review_all(now);
    }

    /// This node ends: what nobody took by now is unregistered and released, until [`may_exit`](Self::may_exit).
    pub fn stop(&mut self, now: Instant) {
        self.is_stopping = true;
        self.leave(now);
    }

    /// Looks at the clock, and at the lines whose time has come. To be called at [`next_timeout`](Self::next_timeout) and with
    /// each beat.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.see(now);
        while let Some((time, id)) = self.timers.first().cloned() {
            if time > now {
                break;
            }
            self.timers.pop_first();
            if let Some(line) = self.lines.get_mut(&id) {
                line.due = None;
            }
            self.review(&id, now);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called next.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        self.timers.first().map(|(time, _)| *time)
    }

    /// Something worth telling.
    pub fn poll_event(&mut self) -> Option<ClusterEvent> {
        self.events.pop_front()
    }

    pub(super) fn tell(events: &mut VecDeque<ClusterEvent>, event: ClusterEvent) {
        if events.len() >= EVENTS_MAX {
            events.pop_front();
        }
        events.push_back(event);
    }

    /// Sees that it slept past its lease: a clock that jumps while nobody said that Redis was away.
    pub(super) fn see(&mut self, now: Instant) {
        if self.has_slept(now) && self.slept_at.is_none() {
            self.slept_at = Some(now);
            self.is_fresh = false;
            Self::tell(&mut self.events, ClusterEvent::Slept);
        }
        self.last_seen = self.last_seen.max(now);
    }

    /// Whether it sleeps until now, past its lease.
    pub(super) fn has_slept(&self, now: Instant) -> bool {
        // A node that is awake looks at the clock at each beat.
        let gap = now.saturating_duration_since(self.last_seen);
        gap > self.settings.lease_ttl / 2 && self.is_cut_off(now)
    }
}
