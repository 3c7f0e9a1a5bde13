//! The state keys that others may read, and how they stay true.
//!
//! What a node knows of itself expires with its heartbeat. Statistics are
//! recomputed from all nodes' live keys, never counted up and down, so that a
//! crash leaves nothing behind in them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use redis::Pipeline;

use crate::core::ids::LineId;
use crate::core::timestamp::{rest_of_day, rfc3339_ms, utc_day};

/// How long sums over the nodes stay readable when nobody computes them any more.
const STATISTICS_KEPT_S: u64 = 30;
/// How long a dead node's registrations stay readable for who takes over.
const REGISTRATIONS_KEPT_S: u64 = 24 * 3_600;
/// The set of nodes that have ever beaten and are not known to be dead.
pub(super) const NODES: &str = "bridge:nodes";
/// The end of the key that holds a node's open calls.
pub(super) const OPEN_CALLS: &str = "calls";

/// How long the set of a node's open calls is kept after its last heartbeat.
/// Its remaining time tells when that was.
pub(super) const OPEN_CALLS_KEPT: Duration = Duration::from_secs(24 * 3_600);
/// How long a day's counts are kept.
const DAY_KEPT_S: u64 = 48 * 3_600;

/// Writes what has changed; all of it where told so, in time before it expires.
///
/// KEYS: the nodes, the three statistics, the queue, the counts of the day.
/// ARGV: seconds that a statistic is good for, seconds left of the day, 1 to write all.
const STATISTICS: &str = r"
local active, keys = 0, {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  keys[#keys + 1] = 'bridge:' .. node .. ':active_calls'
end
for first = 1, #keys, 500 do
  local last = math.min(first + 499, #keys)
  for _, calls in ipairs(redis.call('MGET', unpack(keys, first, last))) do
    active = active + (tonumber(calls or 0) or 0)
  end
end
local today = 0
for _, calls in ipairs(redis.call('HVALS', KEYS[6])) do
  today = today + (tonumber(calls) or 0)
end
local sums = {active, redis.call('LLEN', KEYS[5]), today}
local kept = {ARGV[1], ARGV[1], ARGV[2]}
local before = redis.call('MGET', KEYS[2], KEYS[3], KEYS[4])
for index, sum in ipairs(sums) do
  if ARGV[3] == '1' or before[index] ~= tostring(sum) then
    redis.call('SET', KEYS[index + 1], sum, 'EX', kept[index])
  end
end
return 1";

/// How many calls this node has taken on the present UTC day. Kept here and
/// written as a whole, so that it is right again after Redis forgot it. Each
/// node has its own field in the hash `stats:calls_by_node:{day}`.
#[derive(Debug, Default)]
pub(super) struct Today {
    day: String,
    calls: u64,
    /// What an earlier life of the node had counted; unknown before the first
    /// connection.
    before: Option<u64>,
    /// The count that the connection in use has written.
    written: Option<u64>,
}

impl Today {
    /// A call was taken.
    pub(super) fn count(&mut self, at: SystemTime) {
        self.turn_to(at);
        self.calls += 1;
    }

    /// Where to read what an earlier life had counted, while unknown.
    pub(super) fn unread(&mut self, keys: &Keys, now: SystemTime) -> Option<redis::Cmd> {
        self.turn_to(now);
        if self.before.is_some() {
            return None;
        }
        let mut command = redis::cmd("HGET");
        command.arg(day_counts(now)).arg(&keys.node);
        Some(command)
    }

    /// What an earlier life had counted.
    pub(super) fn set_before(&mut self, calls: u64) {
        self.before = Some(calls);
    }

    /// Adds the commands that write the count, where it is known and other than what was
    /// written. Gives what to tell [`Self::set_written`] once they have run.
    pub(super) fn write(
        &mut self,
        keys: &Keys,
        now: SystemTime,
        pipeline: &mut Pipeline,
    ) -> Option<u64> {
        let total = self.total(now);
        if let Some(calls) = total.filter(|_| total != self.written) {
            let key = day_counts(now);
            pipeline.cmd("HSET").arg(&key).arg(&keys.node).arg(calls);
            pipeline.cmd("EXPIRE").arg(&key).arg(DAY_KEPT_S);
        }
        total
    }

    /// What Redis has as the count; `None` when that may be anything: on a new connection,
    /// and now and then, in case it has forgotten.
    pub(super) fn set_written(&mut self, count: Option<u64>) {
        self.written = count;
    }

    /// The count of the day of `now`, where this life may write it.
    fn total(&mut self, now: SystemTime) -> Option<u64> {
        self.turn_to(now);
        self.before.map(|before| before + self.calls)
    }

    fn turn_to(&mut self, at: SystemTime) {
        let day = utc_day(at);
        // A clock that goes back does not bring back the day before.
        if day > self.day {
            *self = Self {
                // Nobody but this life counts on a day that begins in it.
                before: self.before.map(|_| 0),
                day,
                calls: 0,
                written: None,
            };
        }
    }
}

/// The counts of all nodes on one UTC day.
fn day_counts(at: SystemTime) -> String {
    format!("stats:calls_by_node:{}", utc_day(at))
}

/// What this node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    pub(super) registered: BTreeSet<LineId>,
    pub(super) active_calls: usize,
    pub(super) draining: bool,
}

/// A key of any node.
pub(super) fn node_key(node: &str, what: &str) -> String {
    format!("bridge:{node}:{what}")
}

/// The names of this node's keys.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) node: String,
    pub(super) queue: String,
}

impl Keys {
    fn own(&self, what: &str) -> String {
        node_key(&self.node, what)
    }

    /// The set of this node's open calls.
    pub(super) fn open_calls(&self) -> String {
        self.own(OPEN_CALLS)
    }

    /// Adds the node to the set of nodes.
    pub(super) fn announce(&self) -> redis::Cmd {
        let mut command = redis::cmd("SADD");
        command.arg(NODES).arg(&self.node);
        command
    }

    /// Writes the node's state. `written` is what this connection has written
    /// before; without it the set of registrations is written anew. `heartbeat` is the
    /// time to write as one; `kept` is how long it, and what lives with it, is good for.
    pub(super) fn write(
        &self,
        state: &NodeState,
        written: Option<&NodeState>,
        heartbeat: Option<SystemTime>,
        kept: Duration,
    ) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.add_command(self.announce());
        let stage = if state.draining { "draining" } else { "up" };
        let values = [
            ("heartbeat", heartbeat.map(rfc3339_ms)),
            ("active_calls", Some(state.active_calls.to_string())),
            ("state", Some(stage.to_owned())),
        ];
        for (what, value) in values {
            if let Some(value) = value {
                let command = pipeline.cmd("SET").arg(self.own(what)).arg(value);
                let kept = u64::try_from(kept.as_millis()).unwrap_or(u64::MAX);
                command.arg("PX").arg(kept);
            }
        }
        let command = pipeline.cmd("EXPIRE").arg(self.open_calls());
        command.arg(OPEN_CALLS_KEPT.as_secs());
        let command = pipeline.cmd("SET").arg(self.own("count"));
        let command = command.arg(state.registered.len()).arg("EX");
        command.arg(REGISTRATIONS_KEPT_S);
        self.write_registrations(&mut pipeline, state, written);
        pipeline
    }

    fn write_registrations(
        &self,
        pipeline: &mut Pipeline,
        state: &NodeState,
        written: Option<&NodeState>,
    ) {
        let key = self.own("registrations");
        let none = BTreeSet::new();
        if written.is_none() {
            pipeline.cmd("DEL").arg(&key);
        }
        let before = written.map_or(&none, |written| &written.registered);
        let changes = [
            ("SADD", state.registered.difference(before)),
            ("SREM", before.difference(&state.registered)),
        ];
        for (verb, lines) in changes {
            let mut lines = lines.map(LineId::as_str).peekable();
            if lines.peek().is_some() {
                let command = pipeline.cmd(verb).arg(&key);
                lines.for_each(|line| {
                    command.arg(line);
                });
            }
        }
        pipeline.cmd("EXPIRE").arg(&key).arg(REGISTRATIONS_KEPT_S);
    }

    /// Removes the node from Redis.
    pub(super) fn erase(&self) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        let command = pipeline.cmd("DEL");
        for what in [
            "heartbeat",
            "active_calls",
            "state",
            "count",
            "registrations",
        ] {
            command.arg(self.own(what));
        }
        pipeline.cmd("SREM").arg(NODES).arg(&self.node);
        pipeline
    }

    /// Recomputes the statistics from all nodes. `all`: keeps those alive that have not
    /// changed, too.
    pub(super) fn statistics(&self, now: SystemTime, all: bool) -> redis::Cmd {
        let mut command = redis::cmd("EVAL");
        command
            .arg(STATISTICS)
            .arg(6)
            .arg(NODES)
            .arg("stats:active_calls")
            .arg("stats:queued_calls")
            .arg("stats:calls_today")
            .arg(&self.queue)
            .arg(day_counts(now))
            .arg(STATISTICS_KEPT_S)
            .arg(rest_of_day(now).as_secs())
            .arg(u8::from(all));
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);
    const NOON: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn calls_of_a_day_add_to_what_an_earlier_life_counted() {
        let mut today = Today::default();
        today.count(NOON);
        assert_eq!(today.total(NOON), None, "not before the rest is known");
        let keys = Keys {
            node: "n".into(),
            queue: "q".into(),
        };
        assert!(today.unread(&keys, NOON).is_some());
        today.set_before(5);
        assert!(today.unread(&keys, NOON).is_none());
        assert_eq!(today.total(NOON), Some(6));
        today.count(NOON + DAY);
        assert_eq!(today.total(NOON + DAY), Some(1));
        assert_eq!(today.total(NOON + 2 * DAY), Some(0));

        let commands = |today: &mut Today, at| {
            let mut pipeline = redis::pipe();
            let total = today.write(&keys, at, &mut pipeline);
            (total, pipeline.cmd_iter().count())
        };
        let later = NOON + 2 * DAY;
        assert_eq!(commands(&mut today, later), (Some(0), 2));
        today.set_written(Some(0));
        assert_eq!(commands(&mut today, later), (Some(0), 0), "nothing new");
        today.count(later);
        assert_eq!(commands(&mut today, later), (Some(1), 2));
        today.set_written(Some(1));
        today.set_written(None);
        assert_eq!(commands(&mut today, later), (Some(1), 2));
        today.set_written(Some(0));
        assert_eq!(commands(&mut today, later + DAY), (Some(0), 2), "a new day");
    }
}
