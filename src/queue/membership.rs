//! That only one bridge at a time has the node's name.
//!
//! Each life of a bridge has a random instance id, which stands in `bridge:{node}:info`
//! and expires with the heartbeat. A name whose heartbeat has another instance is either
//! that of a bridge that crashed a moment ago, likely this one's former life, or that of a
//! bridge that runs:
//!
//! - It said with its heartbeat that it listens to its channel, and nobody does: it crashed, and its name is taken at once.
//! - Somebody does, or it may never have been permitted to: then the heartbeat tells. One that is written
//!   anew is that of a bridge that runs, and this one does not start. One that is not
//!   expires: Redis has only not noticed yet that the other's connection is dead.
//!
//! An instance that had the name once and finds another's heartbeat was frozen, or cut off
//! from Redis, while that one took over: it never takes the name from it.
//!
//! All of it happens before a connection is given out and before anything is tidied up,
//! so that a bridge that must not run closes no calls of the one that does.

use std::sync::LazyLock;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::{Instant, sleep};

use super::connection::{COMMAND_TIMEOUT, bounded, run};
use super::error::{QueueError, RedisFailure};
use super::nodes::{LIFE, life_arguments, life_keys};
use super::script::{Script, is_denied};
use super::shared::{Failed, Shared};
use super::state::node_key;

/// How often a heartbeat is looked at.
const LOOK: Duration = Duration::from_millis(250);
/// Longest wait for a heartbeat to expire, whatever Redis says that it has left.
const WAIT_MAX: Duration = Duration::from_secs(120);

/// Takes the name: when nobody beats, when it is this instance's, and when the heartbeat
/// still has the value expected.
///
/// KEYS and ARGV as [`LIFE`] says. ARGV further: the value expected, or nothing.
///
/// The answer is `{'taken'}` or `{'beats', heartbeat, milliseconds left, whether it said that it listens}`.
const TAKE: &str = r"
local heartbeat = redis.pcall('GET', KEYS[1])
if type(heartbeat) == 'string' then
  local known = owner()
  if known == ARGV[2] then
    redis.call('SADD', KEYS[4], ARGV[1])
    redis.call('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
    redis.call('PEXPIRE', KEYS[2], ARGV[3])
    return {'taken'}
  end
  if heartbeat ~= ARGV[7] then
    local listens = redis.pcall('HGET', KEYS[2], 'listens') == '1'
    return {'beats', heartbeat, tostring(redis.call('PTTL', KEYS[1])), listens and '1' or '0'}
  end
end
beat()
return {'taken'}";

/// Takes the node out, unless the name is another's by now; 1 when it was this
/// instance's.
///
/// KEYS: heartbeat, info. ARGV: instance.
const LEAVE: &str = r"
local known = redis.pcall('HGET', KEYS[2], 'instance')
if type(known) == 'string' and known ~= ARGV[1] and redis.call('EXISTS', KEYS[1]) == 1 then
  return 0
end
redis.call('DEL', KEYS[1], KEYS[2])
return 1";

static TAKE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&[LIFE, TAKE]));
static LEAVE_SCRIPT: LazyLock<Script> = LazyLock::new(|| Script::new(&[LEAVE]));

/// Whether the node's name is this instance's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Membership {
    /// Redis has not been asked yet.
    #[default]
    Unknown,
    /// It is.
    Joined,
    /// It is another's.
    Conflict,
    /// The Redis user may not take it; the server's words.
    NotPermitted(String),
}

/// The error of a name that is another's.
pub(super) fn conflict(shared: &Shared) -> QueueError {
    QueueError::Conflict {
        node: shared.keys.node.clone(),
    }
}

/// Takes the name of the node, on a fresh connection; see the module. Nothing to do where
/// bridges share no lines.
pub(super) async fn join(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
) -> Result<(), Failed> {
    let Some(instance) = &shared.instance else {
        return Ok(());
    };
    let joining = Joining { shared, instance };
    let joined = joining.run(connection).await;
    match &joined {
        Ok(()) => drop(shared.membership.send_replace(Membership::Joined)),
        Err((RedisFailure::Conflict, _)) => {
            shared.membership.send_replace(Membership::Conflict);
        }
        Err((RedisFailure::Refused, text)) if is_denied(text) => {
            let denied = Membership::NotPermitted(text.clone());
            shared.membership.send_replace(denied);
        }
        Err(_) => {}
    }
    joined
}

/// Gives the name up; `false` when it is another's by now, whose keys are not to be
/// touched.
pub(super) async fn leave(
    shared: &Shared,
    connection: &mut MultiplexedConnection,
) -> Result<bool, Failed> {
    let Some(instance) = &shared.instance else {
        return Ok(true);
    };
    let own = |what| node_key(&shared.keys.node, what);
    let (heartbeat, info) = (own("heartbeat"), own("info"));
    let keys = [heartbeat.as_str(), info.as_str()];
    let arguments = [instance.as_bytes()];
    let leaving = LEAVE_SCRIPT.run_on::<u64>(connection, &keys, &arguments);
    Ok(bounded(COMMAND_TIMEOUT, leaving).await? == 1)
}

struct Joining<'a> {
    shared: &'a Shared,
    instance: &'a str,
}

/// A heartbeat of another instance.
struct Heartbeat {
    value: Vec<u8>,
    /// How long it is good for.
    left: Duration,
    /// Its bridge listens to its channel, while it lives.
    listens: bool,
}

impl Joining<'_> {
    async fn run(&self, connection: &mut MultiplexedConnection) -> Result<(), Failed> {
        let Some(first) = self.take(b"", connection).await? else {
            return Ok(());
        };
        let known = self.shared.membership.borrow().clone();
        if matches!(known, Membership::Joined | Membership::Conflict) {
            return Err(self.conflict());
        }
        let mut deadline = Instant::now();
        if !first.listens || self.is_listened_to(connection).await? {
            deadline += first.left.max(self.shared.lease_ttl).min(WAIT_MAX);
        }
        let mut stopping = self.shared.stopping.subscribe();
        while Instant::now() < deadline {
            tokio::select! {
                () = sleep(LOOK.min(self.shared.heartbeat_interval())) => {}
                _ = stopping.wait_for(|stopping| *stopping) => {
                    return Err((RedisFailure::Stopped, "stopped before it had joined".into()));
                }
            }
            match self.take(b"", connection).await? {
                None => return Ok(()),
                Some(now) if now.value != first.value => return Err(self.conflict()),
                Some(_) => {}
            }
        }
        match self.take(&first.value, connection).await? {
            None => Ok(()),
            Some(_) => Err(self.conflict()),
        }
    }

    /// Tries to take the name; gives the heartbeat of another instance that is in the
    /// way.
    async fn take(
        &self,
        expected: &[u8],
        connection: &mut MultiplexedConnection,
    ) -> Result<Option<Heartbeat>, Failed> {
        let keys = life_keys(&self.shared.keys.node);
        let keys = keys.each_ref().map(String::as_str);
        let arguments = life_arguments(self.shared, self.instance);
        let mut arguments: Vec<&[u8]> = arguments.iter().map(String::as_bytes).collect();
        arguments.push(expected);
        let taking = TAKE_SCRIPT.run_on::<Vec<Vec<u8>>>(connection, &keys, &arguments);
        let answer = bounded(COMMAND_TIMEOUT, taking).await?;
        let [_, value, left, listens] = answer.as_slice() else {
            return Ok(None);
        };
        let left = std::str::from_utf8(left).ok();
        let left = left.and_then(|left| left.parse().ok()).unwrap_or(0);
        Ok(Some(Heartbeat {
            value: value.clone(),
            left: Duration::from_millis(left),
            listens: listens == b"1",
        }))
    }

    /// Whether somebody listens to the node's channel, as far as Redis may say.
    async fn is_listened_to(&self, connection: &mut MultiplexedConnection) -> Result<bool, Failed> {
        let mut command = redis::cmd("PUBSUB");
        command.arg("NUMSUB");
        command.arg(channel_name(&self.shared.keys.node));
        match run::<(String, u64)>(&command, connection).await {
            Ok((_, listeners)) => Ok(listeners > 0),
            Err((RedisFailure::Refused, _)) => Ok(true),
            Err(failed) => Err(failed),
        }
    }

    fn conflict(&self) -> Failed {
        let text = conflict(self.shared).to_string();
        (RedisFailure::Conflict, text)
    }
}

/// The channel of a node.
pub(super) fn channel_name(node: &str) -> String {
    node_key(node, "new_registration")
}
