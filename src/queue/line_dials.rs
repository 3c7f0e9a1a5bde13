//! How often a line has dialled within an hour, counted over all bridges that share lines.
//!
//! `cluster:dials:{line}` is a hash: minute of Redis' clock -> dials in it, of at most 61 minutes, as the bridge's own count
//! has it ([`crate::core::dialling::cap`]). Also where no other bridge is alive, as a bridge that joins later must know, and so that a
//! restart forgets nothing.

use std::sync::LazyLock;
use std::time::Duration;

use tokio::time::timeout;
use tracing::debug;

use super::client::Queue;
use super::script::Script;
use crate::core::ids::LineId;

/// How long a dial waits for Redis at most.
const COUNT_MAX: Duration = Duration::from_millis(200);

/// Counts one dial, unless the line has had its dials.
///
/// KEYS: the hash. ARGV: most dials. The answer is 0, or after how many seconds one more is possible.
const TAKE: &str = r"
local now = tonumber(redis.call('TIME')[1])
local minute, dials = math.floor(now / 60), 0
local oldest = minute
local counts = redis.call('HGETALL', KEYS[1])
for index = 1, #counts, 2 do
  local at, count = tonumber(counts[index]), tonumber(counts[index + 1])
  if not at or not count or count <= 0 or at + 61 <= minute or at > minute then
    redis.call('HDEL', KEYS[1], counts[index])
  else
    dials = dials + count
    oldest = math.min(oldest, at)
  end
end
if dials >= tonumber(ARGV[1]) then return math.max(1, (oldest + 61) * 60 - now) end
redis.call('HINCRBY', KEYS[1], string.format('%.0f', minute), 1)
redis.call('EXPIRE', KEYS[1], 3660)
return 0";

/// Takes the line's last dial back.
///
/// KEYS: the hash.
const GIVE_BACK: &str = r"
local last
for _, at in ipairs(redis.call('HKEYS', KEYS[1])) do
  local minute = tonumber(at)
  if minute and minute > (last or 0) then last = minute end
end
if last then redis.call('HINCRBY', KEYS[1], string.format('%.0f', last), -1) end
return 1";

static SCRIPTS: LazyLock<[Script; 2]> =
    LazyLock::new(|| [TAKE, GIVE_BACK].map(|code| Script::new(&[code])));

impl Queue {
    /// Counts one dial of a line that may have `most` within an hour over all bridges. Where bridges share no lines, or Redis
    /// does not say within 200 ms, it is let through.
    ///
    /// # Errors
    /// Where the line has had its dials: after how long one more is possible.
    pub async fn count_dial(&self, line: &LineId, most: u32) -> Result<(), Duration> {
        let [script, _] = &*SCRIPTS;
        let most = most.to_string();
        match self.dial_script(script, line, &[most.as_bytes()]).await {
            Some(seconds) if seconds > 0 => Err(Duration::from_secs(seconds)),
            _ => Ok(()),
        }
    }

    /// The line's last dial did not take place.
    pub async fn uncount_dial(&self, line: &LineId) {
        let [_, script] = &*SCRIPTS;
        let _ = self.dial_script(script, line, &[]).await;
    }

    async fn dial_script(
        &self,
        script: &Script,
        line: &LineId,
        arguments: &[&[u8]],
    ) -> Option<u64> {
        self.shared.instance.as_ref()?;
        let key = format!("cluster:dials:{line}");
        let keys = [key.as_str()];
        let asked = script.run(&self.shared, &keys, arguments);
        match timeout(COUNT_MAX, asked).await {
            Ok(Ok(answer)) => Some(answer),
            Ok(Err(error)) => {
                debug!(%line, %error, "dials are counted by this bridge alone");
                None
            }
            Err(_) => {
                debug!(%line, "Redis is slow: dials are counted by this bridge alone");
                None
            }
        }
    }
}
