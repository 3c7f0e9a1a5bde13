//! What dead bridges, and Redis brought back from an older state, leave in the
//! queue.
//!
//! # Nodes that never come back
//!
//! Any bridge reaps a node whose heartbeat has expired: it closes the node's
//! open calls, removes its jobs, and takes it out of `bridge:nodes`.
//!
//! - Two bridges may reap one node at once: each call is closed by whoever
//!   takes it out of the set, in one script; a job is removed once anyway.
//! - The node may come back meanwhile. Its heartbeat stops the closing, in the
//!   same script. Only jobs past their `expiresAt` are removed, so that no new
//!   job can be among them. That costs nothing: a job expires at about the time
//!   when its bridge is seen to be dead.
//! - The node may be alive, and only Redis was away or hard to reach. Therefore
//!   it must have been silent, and Redis connected to us, for `dead_after`;
//!   everybody reconnects sooner. A node that was cut off for longer writes its
//!   calls again when it is back; only a `call.ended` too many stays in the stream.

use std::time::{Duration, SystemTime};

use redis::aio::MultiplexedConnection;
use serde::Deserialize;
use tracing::info;

use super::calls::Closing;
use super::connection::{run, run_all};
use super::shared::Failed;
use super::state::{Keys, NODES, OPEN_CALLS, OPEN_CALLS_KEPT, node_key};
use crate::core::outcome::Outcome;
use crate::core::timestamp::parse_rfc3339_ms;

/// How many jobs are looked at, from the head of the queue.
const LOOK_MAX: usize = 10_000;
/// Jobs removed at once.
const BATCH: usize = 64;
/// Nodes reaped in one go.
const REAPED_AT_ONCE: usize = 4;
/// How far the clocks of two bridges may differ.
const CLOCKS_DIFFER: Duration = Duration::from_secs(10);

/// Finds the jobs that hold a text, in pieces.
///
/// KEYS: the queue. ARGV: the text, how many jobs to look at.
const FIND: &str = r"
local found = {}
local last, left = -1, tonumber(ARGV[2])
while left > 0 do
  local jobs = redis.call('LRANGE', KEYS[1], last - 499, last)
  for _, job in ipairs(jobs) do
    if string.find(job, ARGV[1], 1, true) then found[#found + 1] = job end
  end
  if #jobs < 500 then break end
  last, left = last - 500, left - 500
end
return found";

/// Finds nodes without a heartbeat that have been silent for long.
///
/// KEYS: the nodes. ARGV: milliseconds that the open calls of a node have left
/// at most when it is dead, how many nodes.
const DEAD: &str = r"
local dead = {}
for _, node in ipairs(redis.call('SMEMBERS', KEYS[1])) do
  if redis.call('EXISTS', 'bridge:' .. node .. ':heartbeat') == 0
    and redis.call('PTTL', 'bridge:' .. node .. ':calls') <= tonumber(ARGV[1])
    and #dead < tonumber(ARGV[2]) then
    dead[#dead + 1] = node
  end
end
return dead";

/// Takes a dead node out of the nodes.
///
/// KEYS: the nodes, its heartbeat, its open calls. ARGV: the node.
const FORGET: &str = r"
if redis.call('EXISTS', KEYS[2]) == 1 or redis.call('SCARD', KEYS[3]) > 0 then return 0 end
return redis.call('SREM', KEYS[1], ARGV[1])";

/// What matters of a job in the queue.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Leftover {
    bridge_node_id: String,
    audio_stream_url: String,
    expires_at: String,
}

impl Leftover {
    /// Whether workers would dial an address below `base`.
    fn leads_to(&self, base: &str) -> bool {
        let path = self.audio_stream_url.strip_prefix(base);
        path.is_some_and(|path| path.starts_with('/'))
    }

    fn has_expired(&self, now: SystemTime) -> bool {
        parse_rfc3339_ms(&self.expires_at).is_some_and(|at| at + CLOCKS_DIFFER < now)
    }
}

/// Removes the jobs of this node that it does not know: those of an earlier
/// life, and those that came back with an older state of Redis. Their calls
/// are over, or have another job. They carry our name and our address, which
/// nobody else can have while we listen on it.
pub(super) async fn sweep(
    keys: &Keys,
    base: &str,
    knows: impl Fn(&str) -> bool,
    connection: &mut MultiplexedConnection,
) -> Result<(), Failed> {
    let mut jobs = jobs_of(&keys.node, keys, connection).await?;
    jobs.retain(|(json, job)| job.leads_to(base) && !knows(json));
    let removed = remove(&jobs, keys, connection).await?;
    if removed > 0 {
        info!(removed, "removed jobs of calls that are over");
    }
    Ok(())
}

/// Buries some nodes that have been silent for `dead_after`.
pub(super) async fn reap(
    keys: &Keys,
    dead_after: Duration,
    connection: &mut MultiplexedConnection,
) -> Result<(), Failed> {
    let mut command = redis::cmd("EVAL");
    command.arg(DEAD).arg(1).arg(NODES);
    let left = OPEN_CALLS_KEPT.saturating_sub(dead_after).as_millis();
    command.arg(left.to_string()).arg(REAPED_AT_ONCE);
    let nodes: Vec<String> = run(&command, connection).await?;
    for node in nodes.iter().filter(|node| **node != keys.node) {
        let closing = Closing {
            node,
            unless_alive: true,
            outcome: Outcome::BridgeLost,
        };
        let closed = closing.run(|_| true, connection).await?;
        let mut jobs = jobs_of(node, keys, connection).await?;
        let all = jobs.len();
        jobs.retain(|(_, job)| job.has_expired(SystemTime::now()));
        let removed = remove(&jobs, keys, connection).await?;
        if closed + removed > 0 {
            info!(
                node,
                calls = closed,
                jobs = removed,
                "closed the calls of a dead bridge"
            );
        }
        // The others expire: next time.
        if jobs.len() == all {
            let mut forget = redis::cmd("EVAL");
            forget.arg(FORGET).arg(3).arg(NODES);
            forget.arg(node_key(node, "heartbeat"));
            forget.arg(node_key(node, OPEN_CALLS)).arg(node);
            run::<u64>(&forget, connection).await?;
        }
    }
    Ok(())
}

/// The jobs of a node, as they stand in the queue and as they read.
async fn jobs_of(
    node: &str,
    keys: &Keys,
    connection: &mut MultiplexedConnection,
) -> Result<Vec<(String, Leftover)>, Failed> {
    let mut command = redis::cmd("EVAL");
    command.arg(FIND).arg(1).arg(&keys.queue);
    command.arg(format!("\"bridgeNodeId\":\"{node}\""));
    command.arg(LOOK_MAX);
    let found: Vec<Vec<u8>> = run(&command, connection).await?;
    let jobs = found.into_iter().filter_map(|json| {
        let json = String::from_utf8(json).ok()?;
        let job: Leftover = serde_json::from_str(&json).ok()?;
        (job.bridge_node_id == node).then_some((json, job))
    });
    Ok(jobs.collect())
}

async fn remove(
    jobs: &[(String, Leftover)],
    keys: &Keys,
    connection: &mut MultiplexedConnection,
) -> Result<u64, Failed> {
    let mut removed = 0;
    for batch in jobs.chunks(BATCH) {
        let mut pipeline = redis::pipe();
        for (json, _) in batch {
            pipeline.cmd("LREM").arg(&keys.queue).arg(0).arg(json);
        }
        let found: Vec<u64> = run_all(&pipeline, connection).await?;
        removed += found.iter().sum::<u64>();
    }
    Ok(removed)
}
