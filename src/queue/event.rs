//! What happens to calls, for others to read: `stream:call_events`, capped at
//! about 10,000, and one hash `call:{callId}` per call.

use std::time::{Duration, SystemTime};

use super::clock::{rfc3339_ms, utc_day};
use crate::core::ids::{CallId, LineId, StreamId};
use crate::core::outcome::Outcome;

/// How long a call's hash is kept after its end.
const KEPT_AFTER_END: Duration = Duration::from_secs(3_600);
/// How long it is kept without any event: a bridge that died leaves no litter.
const KEPT_WHILE_OPEN: Duration = Duration::from_secs(24 * 3_600);
/// How long a day's counter is kept.
const DAY_COUNTER_KEPT: Duration = Duration::from_secs(48 * 3_600);
/// About how many events the stream keeps.
const STREAM_MAX: usize = 10_000;

/// One thing that happened to a call.
#[derive(Clone, Debug)]
pub struct CallEvent {
    /// The call.
    pub call: CallId,
    /// Its line.
    pub line: LineId,
    /// The line's restaurant, where known.
    pub restaurant: Option<String>,
    /// The attempt that the event belongs to; 1 for the first.
    pub attempt: u32,
    /// When it happened.
    pub at: SystemTime,
    /// What happened.
    pub kind: CallEventKind,
}

/// What can happen to a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallEventKind {
    /// The INVITE was taken. The first event of a call; counts it for today.
    Ringing,
    /// The job was pushed.
    Queued,
    /// A worker's socket is up.
    WorkerAttached { stream: StreamId },
    /// A worker's socket dropped.
    WorkerLost,
    /// The call was answered with 200.
    Answered,
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
            Self::Ringing => "call.ringing",
            Self::Queued => "call.queued",
            Self::WorkerAttached { .. } => "worker.attached",
            Self::WorkerLost => "worker.lost",
            Self::Answered => "call.answered",
            Self::Ended { .. } => "call.ended",
        }
    }

    /// The call's state after it, and the field for its time.
    const fn state(&self) -> (&'static str, &'static str) {
        match self {
            Self::Ringing => ("ringing", "ringingAt"),
            Self::Queued => ("queued", "queuedAt"),
            Self::WorkerAttached { .. } => ("attached", "workerAttachedAt"),
            Self::WorkerLost => ("worker-lost", "workerLostAt"),
            Self::Answered => ("answered", "answeredAt"),
            Self::Ended { .. } => ("ended", "endedAt"),
        }
    }
}

/// Writes one event once: `number` rises with every event of this process, and
/// a retry after a lost answer finds it in the hash already.
///
/// KEYS: call hash, event stream, counter of the day. ARGV: number, seconds to
/// keep the hash, stream length, seconds to keep the counter, 1 to count the
/// call, count of hash fields, hash fields, stream fields.
const SCRIPT: &str = r"
local last = tonumber(redis.call('HGET', KEYS[1], 'event') or '0')
if last >= tonumber(ARGV[1]) then return 0 end
local fields = tonumber(ARGV[6])
redis.call('HSET', KEYS[1], 'event', ARGV[1], unpack(ARGV, 7, 6 + fields))
redis.call('EXPIRE', KEYS[1], ARGV[2])
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, 7 + fields))
if ARGV[5] == '1' then
  redis.call('INCR', KEYS[3])
  redis.call('EXPIRE', KEYS[3], ARGV[4])
end
return 1";

/// The counter of calls taken on one UTC day.
pub(super) fn day_counter(at: SystemTime) -> String {
    format!("stats:calls:{}", utc_day(at))
}

impl CallEvent {
    /// The command that writes the event for `node`.
    pub(super) fn command(&self, node: &str, number: u64) -> redis::Cmd {
        let (hash, stream) = (self.hash_fields(node), self.stream_fields(node));
        let over = matches!(self.kind, CallEventKind::Ended { .. });
        let kept = if over {
            KEPT_AFTER_END
        } else {
            KEPT_WHILE_OPEN
        };
        let mut command = redis::cmd("EVAL");
        command
            .arg(SCRIPT)
            .arg(3)
            .arg(format!("call:{}", self.call))
            .arg("stream:call_events")
            .arg(day_counter(self.at))
            .arg(number)
            .arg(kept.as_secs())
            .arg(STREAM_MAX)
            .arg(DAY_COUNTER_KEPT.as_secs())
            .arg(u8::from(self.kind == CallEventKind::Ringing))
            .arg(hash.len() * 2);
        for (name, value) in hash.iter().chain(&stream) {
            command.arg(*name).arg(value);
        }
        command
    }

    fn hash_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let (state, time_field) = self.kind.state();
        let mut fields = vec![("state", state.to_owned())];
        fields.extend(self.common_fields(node));
        fields.push((time_field, rfc3339_ms(self.at)));
        fields
    }

    fn stream_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("event", self.kind.name().to_owned()),
            ("callId", self.call.to_string()),
        ];
        fields.extend(self.common_fields(node));
        fields.push(("at", rfc3339_ms(self.at)));
        fields
    }

    fn common_fields(&self, node: &str) -> Vec<(&'static str, String)> {
        let mut fields = vec![
            ("line", self.line.to_string()),
            ("node", node.to_owned()),
            ("attempt", self.attempt.to_string()),
        ];
        fields.extend(self.restaurant.clone().map(|id| ("restaurantId", id)));
        match &self.kind {
            CallEventKind::WorkerAttached { stream } => {
                fields.push(("streamSid", stream.to_string()));
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
