//! One connection, and commands on it that are bounded in time.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, FromRedisValue, RedisResult};
use tokio::time::timeout;

use super::error::RedisFailure;
use super::shared::Failed;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long one command of the background task may take.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(2);

/// Connects, bounded in time.
pub(super) async fn connect(client: &Client) -> Result<MultiplexedConnection, Failed> {
    // Time limits are ours, per command.
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(None)
        .set_response_timeout(None);
    let connecting = client.get_multiplexed_async_connection_with_config(&config);
    bounded(CONNECT_TIMEOUT, connecting).await
}

/// Gives up after `limit`.
pub(super) async fn bounded<T>(
    limit: Duration,
    command: impl Future<Output = RedisResult<T>>,
) -> Result<T, Failed> {
    match timeout(limit, command).await {
        Ok(result) => result.map_err(|error| (RedisFailure::of(&error), error.to_string())),
        Err(_) => Err((RedisFailure::TimedOut, "no answer".into())),
    }
}

/// Runs one command of the background task.
pub(super) async fn run<T: FromRedisValue>(
    command: &redis::Cmd,
    connection: &mut MultiplexedConnection,
) -> Result<T, Failed> {
    bounded(COMMAND_TIMEOUT, command.query_async(connection)).await
}

/// Runs several, sent at once.
pub(super) async fn run_all<T: FromRedisValue>(
    pipeline: &redis::Pipeline,
    connection: &mut MultiplexedConnection,
) -> Result<T, Failed> {
    bounded(COMMAND_TIMEOUT, pipeline.query_async(connection)).await
}
