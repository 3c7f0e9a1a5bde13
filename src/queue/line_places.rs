//! The places that calls take on lines with a `maxConcurrentCalls`, counted over all bridges that share lines.
//!
//! `cluster:calls:{line}` is a sorted set: a member for each call, `{node} {life}.{number}`, with the time at which it expires by
//! Redis' clock. One script counts and adds; members of nodes without a heartbeat count for nothing, nor do those of a node's
//! former life: its callers ring again, and its calls ended with it. The node writes its members anew every 20 s, so that a
//! member whose removal was lost, or a set that Redis has forgotten, is right again soon.
//!
//! A place is always given where Redis does not say within 200 ms, and where no other bridge is alive: then the limit
//! holds for this bridge alone. It costs nothing then; the members are written once another bridge is there.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::time::timeout;
use tracing::debug;

use super::client::Queue;
use super::error::QueueError;
use super::script::Script;
use super::shared::Shared;
use crate::core::ids::LineId;

/// How long a call waits for its place at most.
const TAKE_MAX: Duration = Duration::from_millis(200);
/// How long a member is good for.
const KEPT: Duration = Duration::from_secs(60);
/// How often members are written anew.
const RENEW_EVERY: Duration = Duration::from_secs(20);
/// Members of one script run.
const BATCH: usize = 100;

/// Adds a member, unless there are as many others as there may be.
///
/// KEYS: the set. ARGV: member, most members, milliseconds to keep it, node, its life. The answer is 1 where it was added.
const TAKE: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
local others, lives = 0, {[ARGV[4]] = ARGV[5]}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, 9999)) do
  local node, life = string.match(member, '^([^ ]+) ([^.]*)')
  if node and lives[node] == nil then
    lives[node] = false
    if redis.call('EXISTS', 'bridge:' .. node .. ':heartbeat') == 1 then
      local instance = redis.pcall('HGET', 'bridge:' .. node .. ':info', 'instance')
      lives[node] = type(instance) == 'string' and string.sub(instance, 1, #life) or life
    end
  end
  -- One that is back counts again: it may only have been slow.
  if node and lives[node] == life and member ~= ARGV[1] then others = others + 1 end
end
if others >= tonumber(ARGV[2]) then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[3])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1";

/// Writes members anew.
///
/// KEYS: the set of each. ARGV: milliseconds to keep them, the members.
const RENEW: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
for index, key in ipairs(KEYS) do
  redis.call('ZADD', key, string.format('%.0f', now + tonumber(ARGV[1])), ARGV[index + 1])
  redis.call('PEXPIRE', key, ARGV[1])
end
return 1";

/// Removes members.
///
/// KEYS: the set of each. ARGV: the members.
const GIVE_BACK: &str = r"
for index, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[index]) end
return 1";

static SCRIPTS: LazyLock<[Script; 3]> =
    LazyLock::new(|| [TAKE, RENEW, GIVE_BACK].map(|code| Script::new(&[code])));

/// A call's place on its line; dropping it gives the place back.
pub struct LinePlace {
    shared: Arc<Shared>,
    number: u64,
}

impl Drop for LinePlace {
    fn drop(&mut self) {
        if self.shared.places.give_back(self.number) {
            // At once: the next call may ring at another bridge.
            self.shared.wake.notify_one();
        }
    }
}

/// The places of this node's calls.
#[derive(Debug)]
pub(super) struct Places {
    /// The beginning of this life's instance id: members of a former one are not ours.
    life: String,
    next: AtomicU64,
    /// Whether another bridge is alive.
    has_others: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    taken: HashMap<u64, Place>,
    /// Places that are no more, and that Redis may have.
    given_back: Vec<(LineId, u64)>,
    /// `None`: all are to be written at once.
    renewed: Option<Instant>,
}

#[derive(Debug)]
struct Place {
    line: LineId,
    /// Whether Redis may have it.
    is_written: bool,
}

impl Places {
    /// The places of this instance, which has no id where the node shares no lines.
    pub(super) fn new(instance: Option<&str>) -> Self {
        Self {
            life: instance.unwrap_or_default().chars().take(8).collect(),
            next: AtomicU64::new(0),
            has_others: AtomicBool::new(false),
            state: Mutex::default(),
        }
    }

    /// Whether another bridge is alive. Its members are to count from the first moment on, and so are ours.
    pub(super) fn set_others(&self, has_others: bool) {
        if self.has_others.swap(has_others, Ordering::Relaxed) != has_others && has_others {
            self.renew_now();
        }
    }

    /// Redis may have forgotten them.
    pub(super) fn renew_now(&self) {
        self.state().renewed = None;
    }

    fn take(&self, line: &LineId, is_written: bool) -> u64 {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let line = line.clone();
        let place = Place { line, is_written };
        self.state().taken.insert(number, place);
        number
    }

    /// Whether Redis is to hear of it.
    fn give_back(&self, number: u64) -> bool {
        let mut state = self.state();
        let place = state.taken.remove(&number);
        let written = place.filter(|place| place.is_written);
        let is_told = written.is_some();
        let given_back = written.map(|place| (place.line, number));
        state.given_back.extend(given_back);
        is_told
    }

    /// Places that Redis is to forget.
    fn take_given_back(&self) -> Vec<(LineId, u64)> {
        std::mem::take(&mut self.state().given_back)
    }

    /// Places that are to be written anew now.
    fn due(&self, now: Instant) -> Vec<(LineId, u64)> {
        let mut state = self.state();
        let is_due = state
            .renewed
            .is_none_or(|at| now.saturating_duration_since(at) >= RENEW_EVERY);
        if !is_due || !self.has_others.load(Ordering::Relaxed) {
            return Vec::new();
        }
        state.renewed = Some(now);
        let all = state.taken.iter_mut().map(|(number, place)| {
            place.is_written = true;
            (place.line.clone(), *number)
        });
        all.collect()
    }

    fn member(&self, node: &str, number: u64) -> String {
        format!("{node} {}.{number:x}", self.life)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Takes a place for one more call of a line that may have `most` over all bridges; `None` where all are taken. Where
    /// Redis does not say within 200 ms, the place is given.
    pub async fn take_place(&self, line: &LineId, most: u32) -> Option<LinePlace> {
        let places = &self.shared.places;
        let is_asked = places.has_others.load(Ordering::Relaxed);
        let place = LinePlace {
            shared: self.shared.clone(),
            number: places.take(line, is_asked),
        };
        if !is_asked {
            return Some(place);
        }
        let member = places.member(&self.shared.keys.node, place.number);
        match timeout(TAKE_MAX, take(&self.shared, line, &member, most)).await {
            Ok(Ok(true)) => {}
            // Dropped, it is removed all the same: it may have been written anew meanwhile.
            Ok(Ok(false)) => return None,
            Ok(Err(error)) => debug!(%line, %error, "the line's limit holds for this bridge alone"),
            Err(_) => debug!(%line, "Redis is slow: the line's limit holds for this bridge alone"),
        }
        Some(place)
    }
}

async fn take(shared: &Shared, line: &LineId, member: &str, most: u32) -> Result<bool, QueueError> {
    let [script, ..] = &*SCRIPTS;
    let (key, most, kept) = (key(line), most.to_string(), KEPT.as_millis().to_string());
    let life = &shared.places.life;
    let arguments = [member, &most, &kept, &shared.keys.node, life].map(str::as_bytes);
    script.run(shared, &[&key], &arguments).await
}

/// Writes what is due, and removes what was given back. What fails is left: members expire, and are written anew.
pub(super) async fn keep(shared: &Shared) {
    let [_, renew, give_back] = &*SCRIPTS;
    let given_back = shared.places.take_given_back();
    run(shared, give_back, &given_back, None).await;
    let due = shared.places.due(Instant::now());
    run(shared, renew, &due, Some(KEPT)).await;
}

async fn run(shared: &Shared, script: &Script, places: &[(LineId, u64)], kept: Option<Duration>) {
    let kept = kept.map(|kept| kept.as_millis().to_string());
    for batch in places.chunks(BATCH) {
        let keys: Vec<String> = batch.iter().map(|(line, _)| key(line)).collect();
        let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
        let members = batch.iter();
        let members = members.map(|(_, number)| shared.places.member(&shared.keys.node, *number));
        let arguments: Vec<String> = kept.iter().cloned().chain(members).collect();
        let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        if let Err(error) = script.run::<u8>(shared, &keys, &arguments).await {
            debug!(%error, "places on lines are not written");
            return;
        }
    }
}

fn key(line: &LineId) -> String {
    format!("cluster:calls:{line}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_may_have_is_written_anew_and_given_back() {
        let (places, line, start) = (Places::new(None), LineId::new("7"), Instant::now());
        let first = places.take(&line, false);
        assert!(places.due(start).is_empty(), "nobody else is there");
        assert!(!places.give_back(first), "Redis never had it");

        let second = places.take(&line, false);
        places.set_others(true);
        assert_eq!(places.due(start), [(line.clone(), second)]);
        assert!(places.due(start + RENEW_EVERY / 2).is_empty());
        assert_eq!(places.due(start + RENEW_EVERY).len(), 1);
        assert!(places.give_back(second));
        assert_eq!(places.take_given_back(), [(line.clone(), second)]);

        assert!(places.state().taken.is_empty());
    }
}
