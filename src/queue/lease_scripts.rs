//! The scripts that change leases. Each looks at no more lines than it is given, and is
//! one atomic step on the one server: what a script answers is what is so.
//!
//! # What they share
//!
//! KEYS: `cluster:leases`, `cluster:fence`, `cluster:revision`, the node's heartbeat, the
//! node's info. ARGV: node, instance, how many nodes to tell, those nodes; then the
//! lines, with one argument more for each where the script says so.
//!
//! The answer is `{'conflict'}` where another instance has the node's name, else
//! `{'ok', text…}`: for each line, in their order, `1` or `0` for done or not, followed by
//! its lease as it is now, in JSON, empty where nobody holds it.
//!
//! The names of further keys (`bridge:{holder}:heartbeat`) follow from what the leases
//! say: Redis must be one server, as the whole contract asks.

use std::sync::LazyLock;

use super::script::Script;

/// Reads leases, gives fences, and answers. A lease that cannot be understood counts as
/// none. Fences stay below 2^52, where the numbers of Lua are exact.
const START: &str = r#"
local FENCES = 4503599627370496
local node, instance = ARGV[1], ARGV[2]
local owner = redis.call('HGET', KEYS[5], 'instance')
if owner and owner ~= instance and redis.call('EXISTS', KEYS[4]) == 1 then
  return {'conflict'}
end
local function whole(number)
  return type(number) == 'number' and number >= 0 and number < FENCES and math.floor(number) == number
end
local function name(text)
  return type(text) == 'string' and #text > 0 and #text <= 64 and not string.find(text, '[^%w._%-]')
end
local function parse(text)
  if not text or #text > 1024 then return nil end
  local ok, lease = pcall(cjson.decode, text)
  if not ok or type(lease) ~= 'table' or not name(lease.node) or not whole(lease.fence) then
    return nil
  end
  if not name(lease.from) then lease.from = nil end
  lease.offered = lease.offered == true and not lease.from
  lease.confirmed = lease.confirmed == true and lease.from ~= nil
  if lease.from or not name(lease.lost) then lease.lost = nil end
  return lease
end
local function write(lease)
  local text = '{"node":' .. cjson.encode(lease.node) .. ',"fence":' .. string.format('%.0f', lease.fence)
  if lease.from then
    text = text .. ',"from":' .. cjson.encode(lease.from)
    if lease.confirmed then
      text = text .. ',"confirmed":true,"shown":' .. tostring(lease.shown == true)
    end
  elseif lease.offered then
    text = text .. ',"offered":true'
  elseif lease.lost then
    text = text .. ',"lost":' .. cjson.encode(lease.lost)
  end
  return text .. '}'
end
local beats = {}
local function alive(other)
  if beats[other] == nil then
    beats[other] = redis.call('EXISTS', 'bridge:' .. other .. ':heartbeat') == 1
  end
  return beats[other]
end
local last = tonumber(redis.call('GET', KEYS[2]) or '0')
local fence = whole(last) and last or 0
local function next_fence(lease)
  if lease and lease.fence > fence then fence = lease.fence end
  fence = fence + 1
  return fence
end
local told, tell = {}, {}
local function tell_to(other)
  if not told[other] and other ~= node then
    told[other] = true
    tell[#tell + 1] = other
  end
end
local first = 4 + tonumber(ARGV[3])
local lines = {}
for index = first, #ARGV, PER_LINE do lines[#lines + 1] = ARGV[index] end
local texts = {}
if #lines > 0 then texts = redis.call('HMGET', KEYS[1], unpack(lines)) end
local present, changes, gone, answer = {}, {}, {}, {'ok'}
for index, line in ipairs(lines) do present[line] = parse(texts[index]) end
local changed = false
local function set(line, lease)
  changed = true
  present[line] = lease
end
local function say(line, done)
  answer[#answer + 1] = done and '1' or '0'
  answer[#answer + 1] = present[line] and write(present[line]) or ''
end
"#;

/// Writes what has changed, all of it or nothing, and tells those who should look.
/// Telling is a convenience, and a user may lack the right to: its failure is none.
const END: &str = r"
if changed then
  local seen = {}
  for _, line in ipairs(lines) do
    if not seen[line] then
      seen[line] = true
      if present[line] then
        changes[#changes + 1] = line
        changes[#changes + 1] = write(present[line])
      else
        gone[#gone + 1] = line
      end
    end
  end
  if #changes > 0 then redis.call('HSET', KEYS[1], unpack(changes)) end
  if #gone > 0 then redis.call('HDEL', KEYS[1], unpack(gone)) end
  local time = redis.call('TIME')
  local revision = tonumber(time[1]) * 1000000 + tonumber(time[2])
  local before = tonumber(redis.call('GET', KEYS[3]) or '0')
  if before and before >= revision and before < 2 * FENCES then revision = before + 1 end
  redis.call('SET', KEYS[3], string.format('%.0f', revision))
  for index = 4, first - 1 do tell_to(ARGV[index]) end
end
if fence ~= last then redis.call('SET', KEYS[2], string.format('%.0f', fence)) end
for _, other in ipairs(tell) do
  redis.pcall('PUBLISH', 'bridge:' .. other .. ':new_registration', node)
end
return answer";

/// Takes lines that nobody holds, whose holder is dead, or has offered them. It stands in the lease whose line was lost.
const CLAIM: &str = r"
for _, line in ipairs(lines) do
  local lease = present[line]
  local granted = true
  if not lease then
    set(line, {node = node, fence = next_fence()})
  elseif lease.node == node then
    -- Ours already: as it is.
  elseif not alive(lease.node) then
    -- Whoever it was moving from is registered as long as it lives, until told.
    local from = not lease.confirmed and lease.from
    if from == node or not (from and alive(from)) then from = nil end
    set(line, {node = node, fence = next_fence(lease), from = from, lost = lease.node})
  elseif lease.offered then
    set(line, {node = node, fence = next_fence(lease), from = lease.node})
  else
    granted = false
  end
  say(line, granted)
end";

/// Takes back the lines that the node is registered for, after Redis has forgotten them.
/// Each line is followed by the fence that the node had.
const RECLAIM: &str = r"
for index = first + 1, #ARGV, 2 do
  local had = tonumber(ARGV[index])
  if whole(had) and had > fence then fence = had end
end
for index = first, #ARGV, 2 do
  local line, had = ARGV[index], tonumber(ARGV[index + 1]) or 0
  local lease = present[line]
  local granted = true
  if lease and lease.node == node then
    -- Ours already: as it is.
  elseif not lease or lease.fence < had or not alive(lease.node) then
    set(line, {node = node, fence = next_fence(lease)})
  else
    granted = false
  end
  say(line, granted)
end";

/// Offers lines that the node holds.
const OFFER: &str = r"
for _, line in ipairs(lines) do
  local lease = present[line]
  local own = lease and lease.node == node and (not lease.from or lease.confirmed)
  if own and not lease.offered then
    set(line, {node = node, fence = lease.fence, offered = true})
  end
  say(line, own)
end";

/// Takes an offer back; gives a line that was moving here back to where it came from.
const WITHDRAW: &str = r"
for _, line in ipairs(lines) do
  local lease = present[line]
  local own = lease and lease.node == node
  if own and lease.offered then
    set(line, {node = node, fence = lease.fence})
  elseif own and lease.from and not lease.confirmed then
    set(line, {node = lease.from, fence = next_fence(lease)})
    tell_to(lease.from)
  end
  say(line, own)
end";

/// The node is registered for lines that were moving to it, or that it took from a dead
/// holder, which takes its contact back when it turns out to live. Each line is followed by 1
/// where the registrar still lists the contact of the former holder.
const CONFIRM: &str = r"
for index = first, #ARGV, 2 do
  local line = ARGV[index]
  local lease = present[line]
  local own = lease and lease.node == node
  local from = own and not lease.confirmed and (lease.from or lease.lost)
  if from then
    set(line, {node = node, fence = lease.fence, from = from, confirmed = true,
      shown = ARGV[index + 1] == '1'})
    tell_to(from)
  end
  say(line, own)
end";

/// The node, the former holder, has let go. Each line is followed by 1 where it was registered for it after that: a new
/// fence has the holder register anew.
const DONE: &str = r"
for index = first, #ARGV, 2 do
  local line, renew = ARGV[index], ARGV[index + 1] == '1'
  local lease = present[line]
  local former = lease and lease.confirmed and lease.from == node
  renew = renew and lease and lease.node ~= node
  if former then lease.from = nil end
  if renew then
    lease.fence = next_fence(lease)
    tell_to(lease.node)
  end
  if former or renew then set(line, lease) end
  say(line, former or renew)
end";

/// Gives lines up. One that was moving here goes back to where it came from, where
/// somebody is registered for it, if that one lives.
const RELEASE: &str = r"
for _, line in ipairs(lines) do
  local lease = present[line]
  local own = lease and lease.node == node
  if own and lease.from and not lease.confirmed and alive(lease.from) then
    set(line, {node = lease.from, fence = next_fence(lease)})
    tell_to(lease.from)
  elseif own then
    set(line, nil)
  end
  say(line, own)
end";

/// A script of the common parts and its own.
fn script(per_line: &str, body: &str) -> Script {
    Script::new(&["local PER_LINE = ", per_line, START, body, END])
}

/// The scripts, each with its digest.
pub(super) struct LeaseScripts {
    pub(super) claim: Script,
    pub(super) reclaim: Script,
    pub(super) offer: Script,
    pub(super) withdraw: Script,
    pub(super) confirm: Script,
    pub(super) done: Script,
    pub(super) release: Script,
}

/// All of them.
pub(super) static SCRIPTS: LazyLock<LeaseScripts> = LazyLock::new(|| LeaseScripts {
    claim: script("1", CLAIM),
    reclaim: script("2", RECLAIM),
    offer: script("1", OFFER),
    withdraw: script("1", WITHDRAW),
    confirm: script("2", CONFIRM),
    done: script("2", DONE),
    release: script("1", RELEASE),
});
