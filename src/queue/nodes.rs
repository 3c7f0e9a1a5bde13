//! The heartbeat of a node that shares lines, what it says of itself in
//! `bridge:{node}:info`, and what Redis says of all nodes.
//!
//! One script does it all: an idle node costs one command per heartbeat, however many
//! lines there are. What stands in the info of others is foreign input: a value that
//! cannot be understood counts as the least that it could be.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use redis::FromRedisValue;

use super::error::QueueError;
use super::leases::{FENCE, LEASES, LEASES_MAX, REVISION, read_lease};
use super::membership;
use super::script::Script;
use super::shared::Shared;
use super::state::{NODES, node_key};
use crate::core::cluster::{ClusterView, Fence, Lease, Node, NodeId, NodeInfo, NodeStage};
use crate::core::ids::LineId;
use crate::core::timestamp::rfc3339_ms;

/// A node whose life was shorter than this, and ended less long ago, came and went: it
/// gets its share of the lines back after having stayed for as long.
pub(super) const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How long it is remembered when a node came and was seen last.
pub(super) const SEEN_KEPT: Duration = Duration::from_secs(120);
/// Of the info: the node listens to its channel.
pub(super) const LISTENS: &str = "listens";
/// Most nodes looked at.
const NODES_MAX: usize = 1_000;
/// Longest value that is taken from the info of a node, in bytes.
const VALUE_MAX_BYTES: usize = 512;

/// What the heartbeat writes and what the first one of a life decides; for scripts whose
/// KEYS begin with heartbeat, info, seen, nodes, and whose ARGV begin with node,
/// instance, lease ttl in milliseconds, ISO time, milliseconds within which a node
/// settles, milliseconds to keep what was seen.
pub(super) const LIFE: &str = r"
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function owner()
  local found = redis.pcall('HGET', KEYS[2], 'instance')
  if type(found) == 'string' then return found end
  return ''
end
local function seen()
  local found = redis.pcall('HMGET', KEYS[3], 'instance', 'came_at', 'last_at', 'settled_at')
  if found.err then
    redis.call('DEL', KEYS[3])
    found = {}
  end
  local within = tonumber(ARGV[5])
  local came, last = tonumber(found[2] or ''), tonumber(found[3] or '')
  local settled = tonumber(found[4] or '') or now
  if found[1] ~= ARGV[2] then
    settled = now
    if came and last and last - came < within and now - last >= 0 and now - last < within then
      settled = now + within
    end
    came = now
  end
  local values = {'instance', ARGV[2], 'came_at', came or now, 'last_at', now, 'settled_at', settled}
  for index = 4, 8, 2 do values[index] = string.format('%.0f', values[index]) end
  redis.call('HSET', KEYS[3], unpack(values))
  redis.call('PEXPIRE', KEYS[3], ARGV[6])
  return values[8]
end
local function beat(...)
  redis.call('SADD', KEYS[4], ARGV[1])
  redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
  redis.call('DEL', KEYS[2])
  redis.call('HSET', KEYS[2], 'instance', ARGV[2], 'beat_at', string.format('%.0f', now),
    'settled_at', seen(), ...)
  redis.call('PEXPIRE', KEYS[2], ARGV[3])
end
";

/// KEYS further: leases, fence, revision. ARGV further: the revision seen or nothing,
/// most leases, most nodes, fields and values of the info.
///
/// The answer is `{{'conflict'}}`, or the lists `ok` with fence and revision; the nodes,
/// each as name, Redis' time in milliseconds, and the info; and where they have changed the leases, as line, lease in turn.
const BEAT: &str = r"
local instance = owner()
if instance ~= '' and instance ~= ARGV[2] and redis.call('EXISTS', KEYS[1]) == 1 then
  return {{'conflict'}}
end
beat(unpack(ARGV, 10))
local function number(key)
  local value = tonumber(redis.call('GET', key) or '0') or 0
  if not (value >= 0 and value < 9007199254740992) then value = 0 end
  return string.format('%.0f', value)
end
local revision = number(KEYS[7])
local known, nodes = redis.call('SMEMBERS', KEYS[4]), {}
for first = 1, math.min(#known, tonumber(ARGV[9])), 500 do
  local heartbeats = {}
  for index = first, math.min(#known, first + 499) do
    heartbeats[#heartbeats + 1] = 'bridge:' .. known[index] .. ':heartbeat'
  end
  for index, beats in ipairs(redis.call('MGET', unpack(heartbeats))) do
    if beats then
      local node = known[first + index - 1]
      local info = redis.pcall('HGETALL', 'bridge:' .. node .. ':info')
      local one = {node, string.format('%.0f', now)}
      if not info.err and #info <= 200 then
        for _, text in ipairs(info) do one[#one + 1] = text end
      end
      nodes[#nodes + 1] = one
    end
  end
end
local answer = {{'ok', number(KEYS[6]), revision}, nodes}
if ARGV[7] ~= revision then
  if redis.call('HLEN', KEYS[5]) > tonumber(ARGV[8]) then return {{'too-many'}} end
  answer[3] = redis.call('HGETALL', KEYS[5])
end
return answer";

static SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&[LIFE, BEAT]));

/// Which state of the leases an answer is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revision(u64);

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Beat {
    /// What Redis says of the cluster.
    pub view: ClusterView,
    /// To be given with the next heartbeat, once the view was taken in.
    pub revision: Revision,
}

/// Names and values of the hash of a node. An address that is not known is absent.
fn fields(info: &NodeInfo) -> Vec<(&'static str, String)> {
    let mut fields = vec![
        ("state", info.stage.as_str().to_owned()),
        ("version", info.version.to_string()),
        ("capacity", info.capacity.to_string()),
        ("lines", info.lines.to_string()),
        ("calls", info.calls.to_string()),
        ("lines_digest", format!("{:016x}", info.lines_digest)),
    ];
    let addresses = [("api", &info.api_url), ("stream", &info.stream_url)];
    for (name, address) in addresses {
        fields.extend(address.as_ref().map(|address| (name, address.to_string())));
    }
    fields
}

/// The arguments that [`LIFE`] asks for.
pub(super) fn life_arguments(shared: &Shared, instance: &str) -> Vec<String> {
    let millis = |time: Duration| time.as_millis().to_string();
    vec![
        shared.keys.node.clone(),
        instance.to_owned(),
        millis(shared.lease_ttl),
        rfc3339_ms(SystemTime::now()),
        millis(SETTLES_WITHIN),
        millis(SEEN_KEPT),
    ]
}

/// The keys that [`LIFE`] asks for.
pub(super) fn life_keys(node: &str) -> [String; 4] {
    let own = |what| node_key(node, what);
    [own("heartbeat"), own("info"), own("seen"), NODES.to_owned()]
}

/// See [`super::LeaseStore::beat`].
pub(super) async fn beat(
    shared: &Shared,
    instance: &str,
    info: &NodeInfo,
    seen: Option<Revision>,
) -> Result<Beat, QueueError> {
    let own = life_keys(&shared.keys.node);
    let mut keys: Vec<&str> = own.iter().map(String::as_str).collect();
    keys.extend([LEASES, FENCE, REVISION]);
    let mut arguments = life_arguments(shared, instance);
    let seen = seen.map(|revision| revision.0.to_string());
    arguments.push(seen.unwrap_or_default());
    arguments.push(LEASES_MAX.to_string());
    arguments.push(NODES_MAX.to_string());
    if shared.listens.load(Ordering::Relaxed) {
        arguments.extend([LISTENS.to_owned(), "1".to_owned()]);
    }
    for (name, value) in fields(info) {
        arguments.extend([name.to_owned(), value]);
    }
    let arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
    let answer: Vec<redis::Value> = SCRIPT.run(shared, &keys, &arguments).await?;
    let mut parts = answer.into_iter();
    let head: Vec<Vec<u8>> = taken(parts.next());
    match head.first().map(Vec::as_slice) {
        Some(b"conflict") => return Err(membership::conflict(shared)),
        Some(b"too-many") => {
            return Err(QueueError::TooManyLeases {
                key: LEASES,
                max: LEASES_MAX,
            });
        }
        _ => {}
    }
    let nodes: Vec<Vec<Vec<u8>>> = taken(parts.next());
    let nodes: Vec<Node> = nodes.iter().filter_map(|node| read_node(node)).collect();
    let has_others = nodes
        .iter()
        .any(|node| node.id.as_str() != shared.keys.node);
    shared.places.set_others(has_others);
    let leases = parts.next().map(|leases| read_leases(taken(Some(leases))));
    Ok(Beat {
        view: ClusterView {
            nodes,
            fence: Fence(head.get(1).and_then(|text| number(text)).unwrap_or(0)),
            leases,
        },
        revision: Revision(head.get(2).and_then(|text| number(text)).unwrap_or(0)),
    })
}

/// A part of the answer; empty when it is of another kind.
fn taken<T: FromRedisValue + Default>(part: Option<redis::Value>) -> T {
    part.and_then(|part| T::from_redis_value(part).ok())
        .unwrap_or_default()
}

fn read_leases(texts: Vec<Vec<u8>>) -> Vec<(LineId, Lease)> {
    let lease = |texts: &[Vec<u8>]| {
        let [line, lease] = texts else { return None };
        let line = std::str::from_utf8(line).ok()?;
        Some((LineId::new(line), read_lease(lease)?))
    };
    texts.chunks(2).filter_map(lease).collect()
}

/// Reads a node: its name, Redis' time, and its info as name and value in turn.
fn read_node(texts: &[Vec<u8>]) -> Option<Node> {
    let [name, now, info @ ..] = texts else {
        return None;
    };
    let id = NodeId::parse(std::str::from_utf8(name).ok()?)?;
    let info: HashMap<&str, &str> = info
        .chunks(2)
        .filter_map(|pair| {
            let [name, value] = pair else { return None };
            let is_short = value.len() <= VALUE_MAX_BYTES;
            let value = std::str::from_utf8(value).ok().filter(|_| is_short)?;
            Some((std::str::from_utf8(name).ok()?, value))
        })
        .collect();
    let whole = |name: &str| info.get(name).and_then(|value| value.parse::<u64>().ok());
    let count = |name: &str| whole(name).and_then(|value| u32::try_from(value).ok());
    let text = |name: &str| info.get(name).map(|value| Arc::<str>::from(*value));
    let digest = info.get("lines_digest");
    let digest = digest.and_then(|value| u64::from_str_radix(value, 16).ok());
    let now = number(now);
    let after = |at: u64, before: u64| Duration::from_millis(at.saturating_sub(before));
    let settles_in = whole("settled_at").zip(now);
    let beaten = whole("beat_at").zip(now);
    Some(Node {
        id,
        instance: text("instance").unwrap_or_default(),
        info: NodeInfo {
            stage: if info.get("state") == Some(&"draining") {
                NodeStage::Draining
            } else {
                NodeStage::Up
            },
            capacity: count("capacity").unwrap_or(1).max(1),
            lines: count("lines").unwrap_or(0),
            calls: count("calls").unwrap_or(0),
            version: text("version").unwrap_or_default(),
            api_url: text("api"),
            stream_url: text("stream"),
            lines_digest: digest.unwrap_or(0),
        },
        settles_in: settles_in
            .map_or(Duration::ZERO, |(at, now)| after(at, now))
            .min(SETTLES_WITHIN),
        heartbeat_age: beaten.map_or(Duration::ZERO, |(at, now)| after(now, at)),
    })
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
#[path = "nodes_tests.rs"]
mod tests;
