//! Where a call stands, with what is known only there.

use std::time::Instant;

use super::terms::Reason;
use crate::core::outcome::Outcome;

/// The phase of a call. What outlives a phase is in [`super::Call`] itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Before `handle_start`.
    New,
    /// Somebody is asked whether the call is taken.
    Asking,
    /// It is not taken, and not refused.
    Ignored,
    /// It rings, and another bridge may take it: this one has no queue.
    Yielding,
    /// We placed the call; it is not answered.
    Dialling {
        /// The callee rings, or has.
        rang: bool,
    },
    /// TwiML has the call, and no stream of its own is open.
    Scripted,
    /// Our 200 is out; no worker is looked for before its ACK.
    AwaitingAck,
    /// No worker: one is looked for.
    Seeking,
    /// A worker is attached.
    Streaming {
        /// When it attached.
        since: Instant,
    },
    /// The worker is done; its queued audio is played, then comes BYE, or TwiML goes on.
    PlayingOut {
        /// The outcome, where it is not the worker's hang-up.
        settled: Option<Outcome>,
        /// What follows.
        then: PlayedOut,
        /// All is played: only the worker's transfer is waited for.
        waits_for_transfer: bool,
    },
    /// The announcement is played.
    Announcing {
        /// Why the caller gets no worker.
        reason: Reason,
    },
    /// REFER is sent as a step of the fallback.
    Referring {
        /// The target rings.
        rings: bool,
    },
    /// The fallback number is called.
    CallingOut,
    /// The caller talks with the fallback number.
    Joined,
    /// BYE or a final status is sent.
    Ending(Outcome),
    /// Nothing more happens.
    Over,
}

/// What follows once a worker's last audio has been heard.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlayedOut {
    /// BYE.
    Bye,
    /// The TwiML whose stream it was goes on.
    Script,
}

impl Phase {
    /// Whether the leg is over, or told to end.
    pub(super) const fn is_ending(self) -> bool {
        matches!(self, Self::Ending(_) | Self::Over)
    }

    /// Whether the other side has a worker, or will.
    pub(super) const fn is_with_worker(self) -> bool {
        matches!(self, Self::Seeking | Self::Streaming { .. })
    }

    /// The name used in logs.
    pub(super) const fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Asking => "asking",
            Self::Ignored => "ignored",
            Self::Yielding => "yielding",
            Self::Dialling { .. } => "dialling",
            Self::Scripted => "scripted",
            Self::AwaitingAck => "awaiting-ack",
            Self::Seeking => "seeking",
            Self::Streaming { .. } => "streaming",
            Self::PlayingOut { .. } => "playing-out",
            Self::Announcing { .. } => "announcing",
            Self::Referring { .. } => "referring",
            Self::CallingOut => "calling-out",
            Self::Joined => "joined",
            Self::Ending(_) => "ending",
            Self::Over => "over",
        }
    }
}

/// How far the INVITE of the leg has got (RFC 3261 12.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialog {
    /// No final answer yet.
    Early,
    /// Our 200 is out; its ACK has not come.
    Answered,
    /// The ACK was seen, or sent.
    Confirmed,
}

impl Dialog {
    pub(super) const fn is_answered(self) -> bool {
        matches!(self, Self::Answered | Self::Confirmed)
    }

    pub(super) const fn is_confirmed(self) -> bool {
        matches!(self, Self::Confirmed)
    }
}

/// An input that the phase of its call has no use for. Most are races: what was
/// under way when the phase changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected {
    /// What came, by the name of its handler.
    pub input: &'static str,
    /// The phase in which it came.
    pub phase: &'static str,
}
