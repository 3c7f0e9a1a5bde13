//! What the [`Coordinator`](super::Coordinator) wants done: scripts on Redis, registrations, and what is worth a log entry.

use super::{Fence, LineId, NodeId};

/// Most lines of one [`LeaseCommand`].
pub const COMMAND_LINES_MAX: usize = 500;

/// One script on Redis, for a batch of lines. Its answer names for each line the lease as it is after the script, and
/// goes to [`Coordinator::handle_answer`](super::Coordinator::handle_answer).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LeaseCommand {
    /// Lines that nobody holds, that a dead node holds, or that another offers.
    Claim(Vec<LineId>),
    /// Lines that this node is registered for and that Redis has forgotten, each with the fence that it had.
    Reclaim(Vec<(LineId, Fence)>),
    /// Lines of this node that others should hold.
    Offer {
        /// The lines.
        lines: Vec<LineId>,
        /// The nodes that are to look at once.
        tell: Vec<NodeId>,
    },
    /// Lines that were offered, or that were to move to this node: they stay with who had them before.
    Withdraw(Vec<LineId>),
    /// Lines that moved to this node and that it is registered for; each with whether the registrar's answer
    /// still listed the contact of the node before. Also lines of a dead node where it did.
    Confirm(Vec<(LineId, bool)>),
    /// Lines of this node that it will not hold any more.
    Release(Vec<LineId>),
    /// Lines that moved away from this node, and that it has let go; each with whether it was registered for it after that,
    /// so that the registrar may have its contact in the place of the holder's.
    Done(Vec<(LineId, bool)>),
}

impl LeaseCommand {
    /// The lines that it is about.
    pub fn lines(&self) -> impl Iterator<Item = &LineId> {
        let plain = match self {
            Self::Reclaim(_) | Self::Confirm(_) | Self::Done(_) => &[][..],
            Self::Claim(lines)
            | Self::Offer { lines, .. }
            | Self::Withdraw(lines)
            | Self::Release(lines) => lines,
        };
        let fenced = match self {
            Self::Reclaim(lines) => &lines[..],
            _ => &[],
        };
        let told = match self {
            Self::Confirm(lines) | Self::Done(lines) => &lines[..],
            _ => &[],
        };
        let fenced = fenced.iter().map(|(line, _)| line);
        let told = told.iter().map(|(line, _)| line);
        plain.iter().chain(fenced).chain(told)
    }
}

/// What is to be done with a line's registration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineAction {
    /// It is to be registered, and kept so: at once even where it is registered already, since another node may have
    /// replaced the contact meanwhile. Each result is reported by `handle_registered` or `handle_registration_failed`.
    Register {
        /// The line.
        line: LineId,
        /// Who was registered for it before, where that is known: its contact may still be listed.
        from: Option<NodeId>,
    },
    /// It is not to be registered any more. Answered by `handle_let_go`, once no REGISTER for it is under way or
    /// will be tried again, whatever became of an un-REGISTER.
    LetGo {
        /// The line.
        line: LineId,
        /// With or without an un-REGISTER.
        how: LetGo,
    },
}

/// How a line is let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LetGo {
    /// This node's contact is taken back at the registrar.
    Unregister,
    /// Nothing is sent: an un-REGISTER could hit the contact of the node that is registered now.
    Forget,
}

/// Something worth a log entry, an event or a counter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterEvent {
    /// A line changed its holder. Told by the new holder, but for [`MoveReason::Fenced`].
    LineMoved {
        /// The line.
        line: LineId,
        /// Who held it before; `None` where nobody did.
        from: Option<NodeId>,
        /// Who holds it now.
        to: NodeId,
        /// Why.
        reason: MoveReason,
    },
    /// A handover did not come about: it stays where it was, for a while.
    HandoverFailed {
        /// The line.
        line: LineId,
        /// The node that could not register it; `None` where nobody took it in time.
        by: Option<NodeId>,
    },
    /// Redis lost what it knew: this node claims anew what it is registered for.
    RedisForgot {
        /// The last fence seen before.
        known: Fence,
        /// The last fence seen now.
        found: Fence,
    },
    /// A node is alive that was not, or lives anew.
    NodeCame(NodeId),
    /// A node is not alive any more.
    NodeWent(NodeId),
    /// This node slept past its lease: it asks Redis before it does anything.
    Slept,
}

/// Why a line changed its holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum MoveReason {
    /// Nobody held it.
    Claimed,
    /// The one before gave it away, once the new one was registered.
    Handover,
    /// The one before is dead.
    Takeover,
    /// It was to move away and did not: the new one died or could not register.
    TakenBack,
    /// It went to another node without this node's doing, which was cut off from Redis, or frozen.
    Fenced,
}

impl MoveReason {
    /// As events and metrics write it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claimed => "claimed",
            Self::Handover => "handover",
            Self::Takeover => "takeover",
            Self::TakenBack => "taken-back",
            Self::Fenced => "fenced",
        }
    }
}
