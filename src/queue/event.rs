//! What happens to calls, and to lines that bridges share, for others to read:
//! `stream:call_events`, capped at about 10,000, and one hash `call:{callId}` per call.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::lost_calls::{CallMemory, Change, KEEP};
use super::state::{Keys, OPEN_CALLS_KEPT};
use crate::core::call_facts::CallFacts;
use crate::core::call_object::CallDirection;
use crate::core::cluster::{MoveReason, NodeId};
use crate::core::ids::{LineId, StreamId};
use crate::core::outcome::Outcome;
use crate::core::timestamp::rfc3339_ms;

/// How long a call's hash is kept after its end.
pub(super) const KEPT_AFTER_END: Duration = Duration::from_secs(3_600);
/// How long it is kept without any event: a bridge that died leaves no litter.
pub(super) const KEPT_WHILE_OPEN: Duration = Duration::from_secs(24 * 3_600);
/// About how many events the stream keeps.
pub(super) const STREAM_MAX: usize = 10_000;
/// The stream of all events.
pub(super) const STREAM: &str = "stream:call_events";

/// One thing that happened to a call.
#[derive(Clone, Debug)]
pub struct CallEvent {
    /// The call.
    pub facts: Arc<CallFacts>,
    /// The attempt that the event belongs to; 1 for the first.
    pub attempt: u32,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub kind: CallEventKind,
    /// What is kept of the call in case that it is lost, where its caller is known.
    pub memory: Option<CallMemory>,
}

/// What can happen to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEventKind {
    /// We sent an INVITE. The first event of a call that we place.
    Initiated,
    /// An INVITE was taken: the first event of a call that comes in. Or the
    /// callee rings.
    Ringing,
    /// The job was pushed; why again, where it was not the first time.
    Queued { reason: Option<&'static str> },
    /// A worker's socket is up.
    WorkerAttached { stream: StreamId },
    /// A worker's socket dropped.
    WorkerLost,
    /// The call was answered with 200.
    Answered,
    /// No worker: the caller gets this step of the fallback, and why.
    Fallback {
        rung: &'static str,
        reason: &'static str,
    },
    /// What the trunk says of a transfer: a SIP status.
    Transfer { status: u16 },
    /// The call is over.
    Ended {
        outcome: Outcome,
        duration: Duration,
    },
}

impl CallEventKind {
    /// The event's name in the stream.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Initiated => "call.initiated",
            Self::Ringing => "call.ringing",
            Self::Queued { .. } => "call.queued",
            Self::WorkerAttached { .. } => "worker.attached",
            Self::WorkerLost => "worker.lost",
            Self::Answered => "call.answered",
            Self::Fallback { .. } => "call.fallback",
            Self::Transfer { .. } => "call.transfer",
            Self::Ended { .. } => "call.ended",
        }
    }

    /// The call's state after it, where it changes, and the field for its time.
    const fn state(&self) -> (Option<&'static str>, &'static str) {
        let (state, time) = match self {
            Self::Transfer { .. } => return (None, "transferAt"),
            Self::Initiated => ("initiated", "initiatedAt"),
            Self::Ringing => ("ringing", "ringingAt"),
            Self::Queued { .. } => ("queued", "queuedAt"),
            Self::WorkerAttached { .. } => ("attached", "workerAttachedAt"),
            Self::WorkerLost => ("worker-lost", "workerLostAt"),
            Self::Answered => ("answered", "answeredAt"),
            Self::Fallback { .. } => ("fallback", "fallbackAt"),
            Self::Ended { .. } => ("ended", "endedAt"),
        };
        (Some(state), time)
    }
}

/// A line went from one bridge to another: `line.moved` in the stream, of no call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineMoved {
    /// The line.
    pub line: LineId,
    /// Who held it before; `None` where nobody did.
    pub from: Option<NodeId>,
    /// Who holds it now; `None` when nobody does.
    pub to: Option<NodeId>,
    /// Why it moved.
    pub reason: MoveReason,
}

impl LineMoved {
    /// The command that writes it, as the node that says so.
    pub(super) fn command(&self, node: &str, at: SystemTime) -> redis::Cmd {
        let mut command = redis::cmd("XADD");
        command.arg(STREAM).arg("MAXLEN").arg("~").arg(STREAM_MAX);
        command.arg("*").arg("event").arg("line.moved");
        command.arg("lineId").arg(self.line.as_str());
        for (name, holder) in [("from", &self.from), ("to", &self.to)] {
            if let Some(holder) = holder {
                command.arg(name).arg(holder.as_str());
            }
        }
        command.arg("reason").arg(self.reason.as_str());
        command.arg("node").arg(node).arg("at").arg(rfc3339_ms(at));
        command
    }
}

/// The hash of a call.
pub(super) fn hash_key(call: &str) -> String {
    format!("call:{call}")
}

/// Writes one event once: `number` rises with every event of this process, and
/// a retry after a lost answer finds it in the hash already. The call stands
/// among the node's open calls from its first event to its last.
///
/// KEYS: call hash, event stream, the node's open calls. ARGV: number, seconds
/// to keep the hash, stream length, call, 1 when it is over, seconds to keep
/// the open calls, count of hash fields, memory of the call, seconds to keep it, hash
/// fields, stream fields; the key of the memory is the last of KEYS, where it changes.
const SCRIPT: &str = r"
local last = tonumber(redis.call('HGET', KEYS[1], 'event') or '0')
if last >= tonumber(ARGV[1]) then return 0 end
local fields = tonumber(ARGV[7])
redis.call('HSET', KEYS[1], 'event', ARGV[1], unpack(ARGV, 10, 9 + fields))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 10 + fields))
if ARGV[5] == '1' then
  redis.call('SREM', KEYS[3], ARGV[4])
  redis.call('HDEL', KEYS[1], 'caller', 'customParameters')
else
  redis.call('SADD', KEYS[3], ARGV[4])
  redis.call('EXPIRE', KEYS[3], ARGV[6])
end
-- A call that gets its worker is the caller's last, whatever he lost before.
local of = ARGV[5] == '1' and ARGV[4] or ''
if KEYS[4] then keep(KEYS[4], of, ARGV[8], ARGV[9]) end
return 1";

impl CallEvent {
    /// The command that writes the event for a node.
    pub(super) fn command(&self, keys: &Keys, number: u64) -> redis::Cmd {
        let (hash, stream) = (self.hash_fields(&keys.node), self.stream_fields(&keys.node));
        let kept = if self.is_last() {
            KEPT_AFTER_END
        } else {
            KEPT_WHILE_OPEN
        };
        let memory = self.change_of_memory(&keys.node);
        let mut command = redis::cmd("EVAL");
        command
            .arg([KEEP, SCRIPT].concat())
            .arg(3 + usize::from(memory.is_some()))
            .arg(hash_key(self.facts.id.as_str()))
            .arg(STREAM)
            .arg(keys.open_calls());
        let (value, seconds) = memory.map_or_else(Default::default, |memory| {
            command.arg(memory.key);
            (memory.value, memory.seconds)
        });
        command
            .arg(number)
            .arg(kept.as_secs())
            .arg(STREAM_MAX)
            .arg(self.facts.id.as_str())
            .arg(u8::from(self.is_last()))
            .arg(OPEN_CALLS_KEPT.as_secs())
            .arg(hash.len() * 2)
            .arg(value)
            .arg(seconds);
        for (name, value) in hash.iter().chain(&stream) {
            command.arg(*name).arg(value);
        }
        command
    }

    /// Whether the call begins with it.
    pub(super) fn is_first(&self) -> bool {
        match self.kind {
            CallEventKind::Initiated => true,
            CallEventKind::Ringing => self.facts.direction == CallDirection::Inbound,
            _ => false,
        }
    }

    /// Whether the call is over with it.
    pub(super) const fn is_last(&self) -> bool {
        matches!(self.kind, CallEventKind::Ended { .. })
    }

    /// What the event puts into the call's hash.
    pub(super) fn hash_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let (state, time_field) = self.kind.state();
        let mut fields = self.common_fields(node);
        fields.extend(state.map(|state| ("state", state.to_owned())));
        fields.push((time_field, rfc3339_ms(self.at)));
        if let CallEventKind::Transfer { status } = self.kind {
            fields.push(("transferStatus", status.to_string()));
        }
        // For whoever closes the call where the bridge cannot.
        if let (Some(memory), false) = (&self.memory, self.is_last()) {
            fields.push(("caller", memory.caller.as_str().to_owned()));
            fields.push(("customParameters", memory.parameters()));
        }
        fields
    }

    /// What the event does to the memory of the call.
    fn change_of_memory(&self, node: &str) -> Option<Change> {
        let (memory, line, call) = (self.memory.as_ref()?, &self.facts.line, &self.facts.id);
        match self.kind {
            CallEventKind::WorkerAttached { .. } => Some(memory.attached(line, call, node)),
            CallEventKind::Ended { .. } => Some(memory.ended(line, call)),
            _ => None,
        }
    }

    fn stream_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("event", self.kind.name().to_owned()),
            ("callId", self.facts.id.to_string()),
        ];
        fields.extend(self.common_fields(node));
        fields.push(("at", rfc3339_ms(self.at)));
        if let CallEventKind::Transfer { status } = self.kind {
            fields.push(("status", status.to_string()));
        }
        fields
    }

    fn common_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("line", self.facts.line.to_string()),
            ("node", node.to_owned()),
            ("attempt", self.attempt.to_string()),
            ("direction", self.facts.direction.as_str().to_owned()),
        ];
        fields.extend(self.facts.restaurant.clone().map(|id| ("restaurantId", id)));
        match &self.kind {
            CallEventKind::WorkerAttached { stream } => {
                fields.push(("streamSid", stream.to_string()));
            }
            CallEventKind::Queued {
                reason: Some(reason),
            } => fields.push(("reason", (*reason).to_owned())),
            CallEventKind::Fallback { rung, reason } => {
                fields.push(("rung", (*rung).to_owned()));
                fields.push(("reason", (*reason).to_owned()));
            }
            CallEventKind::Ended { outcome, duration } => {
                fields.push(("outcome", outcome.as_str().to_owned()));
                fields.push(("durationMs", duration.as_millis().to_string()));
            }
            _ => {}
        }
        fields
    }
}
