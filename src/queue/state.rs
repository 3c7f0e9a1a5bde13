//! The state keys that others may read, and how they stay true.
//!
//! What a node knows of itself expires with its heartbeat. Statistics are
//! recomputed from all nodes' live keys, never counted up and down, so that a
//! crash leaves nothing behind in them.

use std::collections::BTreeSet;
use std::time::{Duration, SystemTime};

use redis::Pipeline;

use super::clock::{rest_of_day, rfc3339_ms};
use super::event::day_counter;
use crate::core::ids::LineId;

/// Time between two heartbeats.
pub(super) const HEARTBEAT_INTERVAL: Duration = Duration::from_secs(10);
/// How long a heartbeat, and what lives with it, is good for.
const HEARTBEAT_KEPT_S: u64 = 30;
/// How long a dead node's registrations stay readable for who takes over.
const REGISTRATIONS_KEPT_S: u64 = 24 * 3_600;
/// The set of nodes that have ever beaten and are not known to be dead.
const NODES: &str = "bridge:nodes";

/// KEYS: the nodes, the three statistics, the queue, the counter of the day.
/// ARGV: seconds that a statistic is good for, seconds left of the day.
const STATISTICS: &str = r"
local active = 0
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  local calls = redis.call('GET', 'bridge:' .. node .. ':active_calls')
  if calls then
    active = active + (tonumber(calls) or 0)
  elseif redis.call('EXISTS', 'bridge:' .. node .. ':heartbeat') == 0 then
    redis.call('SREM', KEYS[1], node)
  end
end
redis.call('SET', KEYS[2], active, 'EX', ARGV[1])
redis.call('SET', KEYS[3], redis.call('LLEN', KEYS[5]), 'EX', ARGV[1])
redis.call('SET', KEYS[4], redis.call('GET', KEYS[6]) or 0, 'EX', ARGV[2])
return 1";

/// What this node says of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct NodeState {
    pub(super) registered: BTreeSet<LineId>,
    pub(super) active_calls: usize,
}

/// The names of this node's keys.
#[derive(Debug)]
pub(super) struct Keys {
    pub(super) node: String,
    pub(super) queue: String,
}

impl Keys {
    fn own(&self, what: &str) -> String {
        format!("bridge:{}:{what}", self.node)
    }

    /// Adds the node to the set of nodes.
    pub(super) fn announce(&self) -> redis::Cmd {
        let mut command = redis::cmd("SADD");
        command.arg(NODES).arg(&self.node);
        command
    }

    /// Writes the node's state. `written` is what this connection has written
    /// before; without it the set of registrations is written anew.
    pub(super) fn write(
        &self,
        state: &NodeState,
        written: Option<&NodeState>,
        now: SystemTime,
    ) -> Pipeline {
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.add_command(self.announce());
        for (what, value) in [
            ("heartbeat", rfc3339_ms(now)),
            ("active_calls", state.active_calls.to_string()),
        ] {
            let command = pipeline.cmd("SET").arg(self.own(what)).arg(value);
            command.arg("EX").arg(HEARTBEAT_KEPT_S);
        }
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
        for what in ["heartbeat", "active_calls", "count", "registrations"] {
            command.arg(self.own(what));
        }
        pipeline.cmd("SREM").arg(NODES).arg(&self.node);
        pipeline
    }

    /// Recomputes the statistics from all nodes.
    pub(super) fn statistics(&self, now: SystemTime) -> redis::Cmd {
        let mut command = redis::cmd("EVAL");
        command
            .arg(STATISTICS)
            .arg(6)
            .arg(NODES)
            .arg("stats:active_calls")
            .arg("stats:queued_calls")
            .arg("stats:calls_today")
            .arg(&self.queue)
            .arg(day_counter(now))
            .arg(HEARTBEAT_KEPT_S)
            .arg(rest_of_day(now).as_secs());
        command
    }
}
