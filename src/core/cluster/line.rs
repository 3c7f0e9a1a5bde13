//! One line as the coordinator knows it.

use std::time::Instant;

use super::rendezvous::{Place, stable_hash};
use super::{Fence, Lease, LeaseStage, LetGo, LineId, NodeId};

/// What this node does with a line at the registrar.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Local {
    /// Nothing, and nothing is under way.
    #[default]
    Idle,
    /// It was told to register; no result yet.
    Registering {
        /// When it was told.
        since: Instant,
    },
    /// The last result was a failure. It is tried again.
    Failed {
        /// Of the first failure in a row.
        since: Instant,
    },
    /// The last result was a success.
    Registered {
        /// Whether the registrar's answer listed the contact of the node before.
        shown: bool,
    },
    /// It was told to let go; not yet answered.
    LettingGo,
}

impl Local {
    /// Whether this node may be registered, or may come to be, and has not been told to let go.
    pub(super) fn is_active(self) -> bool {
        matches!(
            self,
            Self::Registering { .. } | Self::Failed { .. } | Self::Registered { .. }
        )
    }
}

/// A script that a line needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Ask {
    Reclaim,
    Claim,
    Confirm {
        shown: bool,
    },
    /// `renew`: the registrar may have our contact in the place of the holder's.
    Done {
        renew: bool,
    },
    Withdraw,
    Release,
    Offer,
}

impl Ask {
    /// How many kinds there are.
    pub(super) const KINDS: usize = 7;

    /// Which kind it is, below [`Self::KINDS`], the most urgent first.
    pub(super) fn kind(self) -> usize {
        match self {
            Self::Reclaim => 0,
            Self::Claim => 1,
            Self::Confirm { .. } => 2,
            Self::Done { .. } => 3,
            Self::Withdraw => 4,
            Self::Release => 5,
            Self::Offer => 6,
        }
    }
}

/// What a line needs next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing, before something changes.
    #[default]
    Wait,
    /// A script.
    Ask(Ask),
    /// To be registered.
    Register,
    /// Not to be registered.
    LetGo {
        how: LetGo,
        /// Whether another node took it without this node's doing.
        is_fenced: bool,
    },
}

/// The kinds of scripts that ran for a line since one view.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Asked {
    view: u64,
    kinds: u8,
}

impl Asked {
    pub(super) fn insert(&mut self, ask: Ask, view: u64) {
        if self.view != view {
            *self = Self { view, kinds: 0 };
        }
        self.kinds |= 1 << ask.kind();
    }

    pub(super) fn contains(self, ask: Ask, view: u64) -> bool {
        self.view == view && self.kinds & (1 << ask.kind()) != 0
    }
}

/// A line that this node could hold, or that somebody holds.
#[derive(Debug)]
pub(super) struct Line {
    /// Whether this node could hold it.
    pub(super) is_wanted: bool,
    /// Of its id.
    pub(super) hash: u64,
    /// Who should hold it.
    pub(super) place: Place,
    /// As last heard from Redis.
    pub(super) lease: Option<Lease>,
    /// Who held it before the present lease, or last where there is none.
    pub(super) former: Option<NodeId>,
    /// Its lease is gone, though its holder was up.
    pub(super) has_vanished: bool,
    /// The last one under which this node held it.
    pub(super) fence: Fence,
    pub(super) local: Local,
    /// It was taken from a dead node, which is to hear of it where its contact is still listed.
    pub(super) is_taken_over: bool,
    /// It went to another node without this node's doing.
    pub(super) is_fenced: bool,
    /// We refreshed it while it was another node's, or could have been: its contact may be replaced by ours.
    pub(super) has_replaced_contact: bool,
    /// It is ours anew, so that another node may have replaced our contact.
    pub(super) is_refresh_due: bool,
    /// Since when this node has seen that no live node holds it.
    pub(super) unheld_since: Option<Instant>,
    /// Since when this node has seen it offered.
    pub(super) offered_since: Option<Instant>,
    /// This node could not register it, and takes no offer of it until then.
    pub(super) declined_until: Option<Instant>,
    /// Nobody else could take it: not offered before.
    pub(super) keep_until: Option<Instant>,
    /// A script for it is under way, or its effect is not known.
    pub(super) is_in_flight: bool,
    pub(super) asked: Asked,
    /// What it needs next.
    pub(super) step: Step,
    /// When it is to be looked at again.
    pub(super) due: Option<Instant>,
    /// The last full view that named it.
    pub(super) seen: u64,
}

impl Line {
    pub(super) fn new(id: &LineId) -> Self {
        Self {
            is_wanted: false,
            hash: stable_hash(id.as_str()),
            place: Place::default(),
            lease: None,
            former: None,
            has_vanished: false,
            fence: Fence::default(),
            local: Local::Idle,
            is_taken_over: false,
            is_fenced: false,
            has_replaced_contact: false,
            is_refresh_due: false,
            unheld_since: None,
            offered_since: None,
            declined_until: None,
            keep_until: None,
            is_in_flight: false,
            asked: Asked::default(),
            step: Step::Wait,
            due: None,
            seen: 0,
        }
    }

    /// Whether nothing is to be remembered of it.
    pub(super) fn is_void(&self) -> bool {
        !self.is_wanted && self.lease.is_none() && self.local == Local::Idle && !self.is_in_flight
    }
}

/// Whether a lease is on its way from `me` to another node.
pub(super) fn is_leaving(lease: &Lease, me: &NodeId) -> bool {
    match &lease.stage {
        LeaseStage::Held => false,
        LeaseStage::Offered => lease.node == *me,
        LeaseStage::Moving { from } | LeaseStage::Confirmed { from, .. } => from == me,
    }
}
