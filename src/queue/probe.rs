//! Whether a Redis can take jobs, proved without any worker seeing one: a probe
//! is pushed and taken out again within one script, which Redis runs as a whole.

use redis::Client;
use redis::aio::MultiplexedConnection;
use tokio::time::timeout;

use super::client::{PUSH_TIMEOUT, query};
use super::connection::connect;
use super::error::{QueueError, RedisFailure};
use super::leases::{FENCE, LEASES, REVISION};
use super::script::{Script, understood};
use super::state::{NODES, node_key};

/// Runs commands in turn. The first that Redis refuses is told with its own words.
const TRY: &str = r"
local function try(name, ...)
  local answer = redis.pcall(name, ...)
  if type(answer) == 'table' and answer.err then
    return redis.error_reply(answer.err .. ' (' .. name .. ')')
  end
end
";
/// Takes the probe out, which is not there. First of all: nothing is put in that
/// could not be taken out. And alone, because Redis looks at its memory only
/// before the first write of a script.
///
/// KEYS: the queue, the nodes, a key of this node. ARGV: the probe.
const TAKE_OUT: &str = r"
return try('LREM', KEYS[1], 1, ARGV[1]) or try('SREM', KEYS[2], ARGV[1])
  or try('DEL', KEYS[3]) or redis.status_reply('OK')";
/// Puts the probe where the bridge puts a job and its state, and takes it out.
const PUT_IN: &str = r"
return try('LPUSH', KEYS[1], ARGV[1]) or try('LREM', KEYS[1], 1, ARGV[1])
  or try('SADD', KEYS[2], ARGV[1]) or try('SREM', KEYS[2], ARGV[1])
  or try('SET', KEYS[3], ARGV[1], 'EX', 10) or try('DEL', KEYS[3])
  or redis.status_reply('OK')";

/// What sharing lines takes besides: the clock and the leases. Without the nodes' channels, which a
/// user has only where they are named, lines move more slowly, and the log says so.
///
/// KEYS: the leases, the last fence, the revision, a key of this node. ARGV: the probe.
const SHARE: &str = r"
return try('TIME') or try('HSET', KEYS[1], ARGV[1], '') or try('HDEL', KEYS[1], ARGV[1])
  or try('GET', KEYS[2]) or try('GET', KEYS[3])
  or try('SET', KEYS[4], ARGV[1], 'PX', 1000) or try('DEL', KEYS[4])
  or redis.status_reply('OK')";

/// No job has this text: it is no JSON.
const PROBE: &str = "sipbridge check";

const CLUSTER: &str = "this is a node of a Redis cluster: the bridge keeps jobs and state on one server; give it a Redis that is not a cluster";
const SENTINEL: &str =
    "this is a Redis Sentinel, which keeps no data: give the address of the master that it watches";

/// Connects and tries; with `shares_lines` also what that takes.
pub(super) async fn run(
    client: &Client,
    queue: &str,
    node: &str,
    shares_lines: bool,
) -> Result<(), QueueError> {
    let mut connection = connect(client)
        .await
        .map_err(|(failure, text)| QueueError::Failed { failure, text })?;
    if let Some(unsuitable) = kind_mistake(&mut connection).await? {
        return Err(QueueError::Unsuitable(unsuitable));
    }
    let mut command = redis::cmd("TYPE");
    let kind: String = query(command.arg(queue), &mut connection).await?;
    if kind != "list" && kind != "none" {
        return Err(QueueError::NotAList {
            queue: queue.to_owned(),
            kind,
        });
    }
    for script in [TAKE_OUT, PUT_IN] {
        let mut command = redis::cmd("EVAL");
        command.arg(format!("{TRY}{script}")).arg(3);
        command.arg(queue).arg(NODES).arg(node_key(node, "probe"));
        command.arg(PROBE);
        query::<String>(&command, &mut connection).await?;
    }
    if shares_lines {
        share(node, &mut connection).await?;
    }
    Ok(())
}

/// Tries what sharing lines takes.
async fn share(node: &str, connection: &mut MultiplexedConnection) -> Result<(), QueueError> {
    let script = Script::new(&[TRY, SHARE]);
    let key = node_key(node, "probe");
    let keys = [LEASES, FENCE, REVISION, &key];
    let arguments = [PROBE.as_bytes()];
    let trying = script.run_on::<String>(connection, &keys, &arguments);
    let tried = timeout(PUSH_TIMEOUT, trying).await;
    let timed_out = QueueError::TimedOut {
        after: PUSH_TIMEOUT,
    };
    tried
        .map_err(|_| timed_out)?
        .map_err(|error| understood(&error))?;
    Ok(())
}

/// What is wrong with the kind of server, where it tells its kind: a user may
/// be denied INFO, and then the try itself must show it.
async fn kind_mistake(
    connection: &mut MultiplexedConnection,
) -> Result<Option<&'static str>, QueueError> {
    let info: Result<String, _> = query(redis::cmd("INFO").arg("server"), connection).await;
    let info = match info {
        Ok(info) => info,
        Err(QueueError::Failed {
            failure: RedisFailure::Refused,
            ..
        }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let mode = info
        .lines()
        .find_map(|line| line.strip_prefix("redis_mode:"));
    Ok(match mode.map(str::trim) {
        Some("cluster") => Some(CLUSTER),
        Some("sentinel") => Some(SENTINEL),
        _ => None,
    })
}
