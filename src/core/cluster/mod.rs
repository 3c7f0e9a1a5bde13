//! Bridges that share lines: who holds which, decided without sockets or clock.
//!
//! Each bridge is a *node*. A line is registered by the one node that has its *lease*, an entry of the Redis
//! hash `cluster:leases`. All changes of leases are scripts on the one Redis server, so that two nodes never hold a
//! line at once; this module decides what a node asks for, from what it was last told.
//!
//! | file | what it holds |
//! |---|---|
//! | `mod` | [`NodeId`], [`Fence`], [`Lease`], [`Node`], [`ClusterView`]: what Redis says |
//! | [`rendezvous`] | which node should hold which line |
//! | [`coordinator`] | [`Coordinator`], the machine of one node: who calls what in which order, its state |
//! | `questions` | what it can be asked |
//! | `view` | what Redis says, taken in |
//! | `decide`, `review` | the rules: what one line needs next; for which lines they are looked at |
//! | `requests` | what is wanted, taken out; what the registrar said, taken in |
//! | [`outputs`] | [`LeaseCommand`], [`LineAction`], [`ClusterEvent`]: what is wanted |
//! | `line`, `peers` | what is known of a line, of the nodes |
//!
//! `simulation_tests` runs several coordinators against a Redis and a registrar in memory, in virtual time, with faults.
//!
//! # One round
//!
//! The task that owns a [`Coordinator`] brings it what Redis says (each third of the lease ttl, and when another node
//! pokes), and carries out what comes out: scripts on Redis, and lines to register or to let go. Results go back in. A line is
//! registered only after the lease is this node's, and let go only when another node holds the lease or nobody shall.
//!
//! ```text
//! A holds a line, B should hold it           Redis                  B
//! Offer ────────────────────────────────► Offered by A ─── poke ──► Claim
//! stays registered                        Moving from A to B ◄──────┘  Register: 200, lists A's contact or not
//! LetGo: Unregister where it was listed,  Confirmed from A to B ◄───── Confirm(shown)
//!   Forget where it was not ◄─── poke ────┘
//! Done ─────────────────────────────────► Held by B
//! ```
//!
//! # A lease and its stages
//!
//! ```text
//!            claim                    offer                  claim by another node
//! (nobody) ───────► Held by A ─────────────► Offered by A ───────────────────────► Moving from A to B
//!                      ▲  ▲──── withdraw ────────┘                                      │
//!                      └───────────────── confirm: B is registered, A lets go ──────────┘
//! ```
//!
//! A lease whose holder is not alive may be claimed in any stage (takeover); so may one that is moving, by the
//! node that it moves from, when the new holder is not alive. Each change of holder takes the next [`Fence`].
//!
//! A holder that only seemed dead lets go once it hears of the takeover. Where the registrar listed its contact
//! beside the new one, so that it keeps several, the new holder has confirmed that (`Confirmed`, `shown`), and the old one
//! takes its contact back; else an un-REGISTER could hit the new one.

pub mod coordinator;
mod decide;
mod line;
pub mod outputs;
mod peers;
mod questions;
pub mod rendezvous;
mod requests;
mod review;
mod view;

#[cfg(test)]
mod coordinator_tests;
#[cfg(test)]
mod simulated_redis_tests;
#[cfg(test)]
mod simulation_tests;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::ids::LineId;

pub use coordinator::{Coordinator, CoordinatorSettings};
pub use outputs::{ClusterEvent, LeaseCommand, LetGo, LineAction, MoveReason};

/// The name of a bridge, `--node-id`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(Arc<str>);

impl NodeId {
    /// Takes a node id as configured.
    pub fn new(id: impl Into<Arc<str>>) -> Self {
        Self(id.into())
    }

    /// Takes a node id that came from outside; `None` for what is none: up to 64 letters,
    /// digits, dots, dashes and underscores, which do no harm in a key or a log.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
        let is_id = (1..=64).contains(&text.len()) && text.bytes().all(is_plain);
        is_id.then(|| Self::new(text))
    }

    /// The id as configured.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A number that rises with every change of a line's holder.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Fence(pub u64);

/// Who holds a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its holder.
    pub node: NodeId,
    /// Of this change of holder.
    pub fence: Fence,
    /// Whether it is about to move, or has just done so.
    pub stage: LeaseStage,
}

/// Where a lease stands between two holders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseStage {
    /// The holder's alone.
    Held,
    /// The holder would give it away: any other node may claim it.
    Offered,
    /// Claimed from a holder that lives, and that stays registered until the new one is.
    Moving {
        /// Who held it before.
        from: NodeId,
    },
    /// The holder's, which is registered; the one before has not said yet that it let go, and may be dead.
    Confirmed {
        /// Who held it before.
        from: NodeId,
        /// Whether the registrar still listed the contact of that one.
        shown: bool,
    },
}

/// Whether a node takes lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NodeStage {
    /// It takes lines and calls.
    Up,
    /// It gives its lines away: it was told to stop, or to pause.
    Draining,
}

impl NodeStage {
    /// As Redis and the API write it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Draining => "draining",
        }
    }
}

/// What a node says of itself with each heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeInfo {
    /// Whether it takes lines.
    pub stage: NodeStage,
    /// How many calls it can have: its weight.
    pub capacity: u32,
    /// How many lines it is registered for.
    pub lines: u32,
    /// How many calls it has.
    pub calls: u32,
    /// Of its program.
    pub version: Arc<str>,
    /// Where its API answers, `http://host:port`, where others may ask it.
    pub api_url: Option<Arc<str>>,
    /// Where workers dial it, `ws://host:port`.
    pub stream_url: Option<Arc<str>>,
    /// A digest of the ids of the lines that it could hold. Nodes with the same one
    /// share their lines by weight; others only take over what is left unheld.
    pub lines_digest: u64,
}

/// A node that is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its name.
    pub id: NodeId,
    /// Of this life of it: random.
    pub instance: Arc<str>,
    /// What it says of itself.
    pub info: NodeInfo,
    /// How long until it gets a share of the lines, for a node that came and went within a minute.
    pub settles_in: Duration,
    /// Since its last heartbeat.
    pub heartbeat_age: Duration,
}

/// What Redis says of the cluster at one moment, by its own clock.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterView {
    /// The nodes that are alive, this one among them.
    pub nodes: Vec<Node>,
    /// The last fence given; lower than one seen before when Redis has forgotten.
    pub fence: Fence,
    /// All leases; `None` where nothing has changed since the view before.
    pub leases: Option<Vec<(LineId, Lease)>>,
}
