//! The calls in progress as Redis knows them: `bridge:{nodeId}:calls` and one
//! hash per call. Written again after Redis forgot them, closed after the
//! bridge died.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use redis::aio::MultiplexedConnection;

use super::connection::{run, run_all};
use super::event::{CallEvent, KEPT_AFTER_END, KEPT_WHILE_OPEN, STREAM, STREAM_MAX, hash_key};
use super::lost_calls::{self, KEEP};
use super::shared::Failed;
use super::state::{Keys, OPEN_CALLS, OPEN_CALLS_KEPT, node_key};
use crate::core::ids::CallId;
use crate::core::outcome::Outcome;
use crate::core::timestamp::{parse_rfc3339_ms, rfc3339_ms};

/// Most calls remembered, more than there can be. Past that the one that was
/// silent longest is forgotten: its end was lost.
const MAX: usize = 4_096;
/// Calls written or closed at once.
const BATCH: usize = 64;
/// Most looks into the set of a node's open calls in one go.
const SCANS: usize = 200;

/// Writes an open call again where Redis has lost it, or has it as ended
/// because the bridge was taken for dead.
///
/// KEYS: call hash, the node's open calls. ARGV: call, number of its last
/// event, seconds to keep the hash, seconds to keep the open calls, hash fields.
const RESTORE: &str = r"
local last = tonumber(redis.call('HGET', KEYS[1], 'event') or '0')
local number = tonumber(ARGV[2])
-- A later event was written and we did not hear of it.
if last > number then return 0 end
redis.call('SADD', KEYS[2], ARGV[1])
redis.call('EXPIRE', KEYS[2], ARGV[4])
if last == number and redis.call('HGET', KEYS[1], 'state') ~= 'ended' then return 0 end
redis.call('HDEL', KEYS[1], 'endedAt', 'outcome', 'durationMs')
redis.call('HSET', KEYS[1], 'event', ARGV[2], unpack(ARGV, 5))
redis.call('EXPIRE', KEYS[1], ARGV[3])
return 1";

/// Ends a call whose bridge cannot end it any more. The set gives each call to
/// one closer only. With a guard, a node that beats is left alone.
///
/// KEYS: call hash, event stream, the node's open calls, its heartbeat. ARGV:
/// call, 1 for the guard, time, outcome, duration, seconds to keep the hash,
/// stream length, memory of the call, seconds to keep it; the key of the memory is the
/// last of KEYS, where it has one.
const CLOSE: &str = r"
if ARGV[2] == '1' and redis.call('EXISTS', KEYS[4]) == 1 then return 0 end
if redis.call('SREM', KEYS[3], ARGV[1]) == 0 then return 0 end
local call = redis.call('HMGET', KEYS[1], 'state', 'line', 'node', 'attempt', 'restaurantId', 'direction')
if not call[1] or call[1] == 'ended' then return 0 end
redis.call('HSET', KEYS[1], 'state', 'ended', 'endedAt', ARGV[3], 'outcome', ARGV[4], 'durationMs', ARGV[5])
redis.call('HDEL', KEYS[1], 'caller', 'customParameters')
redis.call('EXPIRE', KEYS[1], ARGV[6])
if KEYS[5] then keep(KEYS[5], ARGV[1], ARGV[8], ARGV[9]) end
local event = {'event', 'call.ended', 'callId', ARGV[1]}
for index, name in ipairs({'line', 'node', 'attempt', 'restaurantId', 'direction'}) do
  if call[index + 1] then
    event[#event + 1] = name
    event[#event + 1] = call[index + 1]
  end
end
redis.call('XADD', KEYS[2], 'MAXLEN', '~', ARGV[7], '*', 'outcome', ARGV[4],
  'durationMs', ARGV[5], 'at', ARGV[3], unpack(event))
return 1";

/// What Redis has been told of each call in progress.
#[derive(Debug, Default)]
pub(super) struct OpenCalls(HashMap<CallId, Told>);

#[derive(Debug, Default)]
struct Told {
    /// Of the last event.
    number: u64,
    fields: BTreeMap<&'static str, String>,
}

impl OpenCalls {
    /// An event was written.
    pub(super) fn written(&mut self, node: &str, number: u64, event: &CallEvent) {
        if event.is_last() {
            self.0.remove(&event.facts.id);
            return;
        }
        if self.0.len() >= MAX && !self.0.contains_key(&event.facts.id) {
            let silent = self.0.iter().min_by_key(|(_, told)| told.number);
            if let Some(call) = silent.map(|(call, _)| call.clone()) {
                self.0.remove(&call);
            }
        }
        let told = self.0.entry(event.facts.id.clone()).or_default();
        told.number = number;
        told.fields.extend(event.hash_fields(node));
    }

    /// Whether the call of this id is one of them.
    pub(super) fn contains(&self, id: &str) -> bool {
        CallId::parse(id).is_some_and(|call| self.0.contains_key(&call))
    }

    /// Writes them again where Redis has forgotten them.
    pub(super) async fn restore(
        &self,
        keys: &Keys,
        connection: &mut MultiplexedConnection,
    ) -> Result<u64, Failed> {
        let mut restored = 0;
        let calls: Vec<_> = self.0.iter().collect();
        for batch in calls.chunks(BATCH) {
            let mut pipeline = redis::pipe();
            for (call, told) in batch {
                let command = pipeline.cmd("EVAL").arg(RESTORE).arg(2);
                command.arg(hash_key(call.as_str())).arg(keys.open_calls());
                command.arg(call.as_str()).arg(told.number);
                command.arg(KEPT_WHILE_OPEN.as_secs());
                command.arg(OPEN_CALLS_KEPT.as_secs());
                for (name, value) in &told.fields {
                    command.arg(*name).arg(value);
                }
            }
            let written: Vec<u64> = run_all(&pipeline, connection).await?;
            restored += written.iter().sum::<u64>();
        }
        Ok(restored)
    }
}

/// Closes calls of a node that are still open in Redis.
pub(super) struct Closing<'a> {
    /// Whose calls.
    pub(super) node: &'a str,
    /// Leaves the node alone once it beats.
    pub(super) unless_alive: bool,
    /// What is said to have ended them.
    pub(super) outcome: Outcome,
}

impl Closing<'_> {
    /// Closes those that `is_gone` says yes to; gives how many.
    pub(super) async fn run(
        &self,
        is_gone: impl Fn(&str) -> bool,
        connection: &mut MultiplexedConnection,
    ) -> Result<u64, Failed> {
        let Some(last_seen) = self.last_seen(connection).await? else {
            return Ok(0);
        };
        let mut closed = 0;
        let mut cursor: u64 = 0;
        for _ in 0..SCANS {
            let mut scan = redis::cmd("SSCAN");
            scan.arg(self.key(OPEN_CALLS)).arg(cursor);
            scan.arg("COUNT").arg(BATCH);
            let (next, mut calls): (u64, Vec<String>) = run(&scan, connection).await?;
            calls.retain(|call| is_gone(call));
            for batch in calls.chunks(BATCH) {
                closed += self.close(batch, last_seen, connection).await?;
            }
            cursor = next;
            if cursor == 0 {
                break;
            }
        }
        Ok(closed)
    }

    fn key(&self, what: &str) -> String {
        node_key(self.node, what)
    }

    /// When the node last beat, as the age of its set tells; `None` when it
    /// has no set, and no open call.
    async fn last_seen(
        &self,
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<SystemTime>, Failed> {
        let mut command = redis::cmd("PTTL");
        command.arg(self.key(OPEN_CALLS));
        let left: i64 = run(&command, connection).await?;
        // -2: no such key. -1: it never expires, and tells nothing.
        let Ok(left) = u64::try_from(left) else {
            return Ok((left == -1).then(SystemTime::now));
        };
        let silent = OPEN_CALLS_KEPT.saturating_sub(Duration::from_millis(left));
        Ok(SystemTime::now().checked_sub(silent))
    }

    async fn close(
        &self,
        calls: &[String],
        last_seen: SystemTime,
        connection: &mut MultiplexedConnection,
    ) -> Result<u64, Failed> {
        let mut known = redis::pipe();
        for call in calls {
            let command = known.cmd("HMGET").arg(hash_key(call));
            command.arg(&["answeredAt", "line", "caller", "customParameters"]);
        }
        type Known = (
            Option<String>,
            Option<String>,
            Option<String>,
            Option<String>,
        );
        let known: Vec<Known> = run_all(&known, connection).await?;
        let is_lost = self.outcome == Outcome::BridgeLost;
        let lost_for = is_lost.then(|| last_seen.elapsed().unwrap_or_default());
        let mut pipeline = redis::pipe();
        for (call, (answered, line, caller, parameters)) in calls.iter().zip(known) {
            let memory = line.zip(caller).map(|(line, caller)| {
                let parameters = parameters.unwrap_or_default();
                lost_calls::closed(call, &line, &caller, &parameters, lost_for)
            });
            let answered = answered.and_then(|at| parse_rfc3339_ms(&at));
            let duration = answered
                .and_then(|at| last_seen.duration_since(at).ok())
                .unwrap_or_default();
            let command = pipeline.cmd("EVAL").arg([KEEP, CLOSE].concat());
            command.arg(4 + usize::from(memory.is_some()));
            command.arg(hash_key(call)).arg(STREAM);
            command.arg(self.key(OPEN_CALLS)).arg(self.key("heartbeat"));
            let (value, seconds) = memory.map_or_else(Default::default, |memory| {
                command.arg(memory.key);
                (memory.value, memory.seconds)
            });
            command.arg(call).arg(u8::from(self.unless_alive));
            command.arg(rfc3339_ms(SystemTime::now()));
            command.arg(self.outcome.as_str());
            command.arg(duration.as_millis().to_string());
            command.arg(KEPT_AFTER_END.as_secs()).arg(STREAM_MAX);
            command.arg(value).arg(seconds);
        }
        let closed: Vec<u64> = run_all(&pipeline, connection).await?;
        Ok(closed.iter().sum())
    }
}
