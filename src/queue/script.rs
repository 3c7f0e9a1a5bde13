//! Scripts that Redis knows by their digest, so that each run sends a few bytes
//! instead of the text. A Redis that does not know one, because it was restarted or its
//! scripts were flushed, is sent the text, and knows it from then on.

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, FromRedisValue, RedisError, RedisResult, ServerErrorKind};
use sha1::{Digest, Sha1};

use super::error::{QueueError, RedisFailure};
use super::shared::Shared;
use crate::core::ids::hex;

/// A Lua script.
#[derive(Debug)]
pub(super) struct Script {
    code: String,
    /// SHA-1 in lower-case hex.
    digest: String,
}

impl Script {
    /// A script of several parts that follow each other.
    pub(super) fn new(parts: &[&str]) -> Self {
        let code = parts.concat();
        let digest = Sha1::digest(code.as_bytes());
        let digest = hex(&digest);
        Self { code, digest }
    }

    /// Runs it with keys and arguments on the connection in use, within
    /// [`super::client::PUSH_TIMEOUT`]; at once when there is none.
    pub(super) async fn run<T: FromRedisValue>(
        &self,
        shared: &Shared,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<T, QueueError> {
        let run = async |connection: &mut MultiplexedConnection| {
            self.run_on(connection, keys, arguments).await
        };
        let answer = shared.attempt(run).await?;
        answer.map_err(|error| understood(&error))
    }

    /// Runs it on a connection; bounding the time is the caller's business.
    pub(super) async fn run_on<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> RedisResult<T> {
        let by_digest = command("EVALSHA", &self.digest, keys, arguments);
        match by_digest.query_async(connection).await {
            Err(error) if is_unknown(&error) => {
                let by_text = command("EVAL", &self.code, keys, arguments);
                by_text.query_async(connection).await
            }
            answer => answer,
        }
    }
}

fn command(verb: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> redis::Cmd {
    let mut command = redis::cmd(verb);
    command.arg(script).arg(keys.len());
    for key in keys {
        command.arg(*key);
    }
    for argument in arguments {
        command.arg(*argument);
    }
    command
}

fn is_unknown(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// Tells a user without the rights apart from other refusals. Redis before 7 has no
/// code of its own for what a script may not do.
pub(super) fn understood(error: &RedisError) -> QueueError {
    let text = error.to_string();
    if RedisFailure::of(error) == RedisFailure::Refused && is_denied(&text) {
        return QueueError::NotPermitted { text };
    }
    QueueError::failed(error)
}

/// Whether the words of a refusal are about the rights of the user.
pub(super) fn is_denied(text: &str) -> bool {
    let words = ["no permissions to", "executing the script can't"];
    let text = text.to_lowercase();
    words.iter().any(|words| text.contains(words))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_the_one_that_redis_computes() {
        // As `SCRIPT LOAD "return 1"` answers.
        let script = Script::new(&["return ", "1"]);
        assert_eq!(script.digest, "e0e1f9fabfc9d4800c877a703b823ac0578ff8db");
    }
}
