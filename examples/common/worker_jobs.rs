//! Jobs from Redis, as `sipbridge::guide::call_queue` has them: taken one by one, first call
//! first.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use serde_json::Value;

/// Seconds that one BRPOP waits; short, so that a dead connection shows.
const POP_WAIT_S: u64 = 5;

/// What a worker needs of a job.
#[derive(Clone, Debug)]
pub struct Job {
    pub call_id: String,
    pub audio_stream_url: String,
    pub attempt: u64,
    /// The whole job.
    pub json: Value,
}

impl Job {
    fn parse(text: &str) -> Option<Self> {
        let json: Value = serde_json::from_str(text).ok()?;
        Some(Self {
            call_id: json["callId"].as_str()?.into(),
            audio_stream_url: json["audioStreamUrl"].as_str()?.into(),
            attempt: json["attempt"].as_u64().unwrap_or(1),
            json,
        })
    }
}

/// A connection to Redis that waits for jobs.
pub struct Jobs {
    connection: MultiplexedConnection,
    queue: String,
}

impl Jobs {
    /// Connects.
    ///
    /// # Errors
    /// When Redis cannot be reached.
    pub async fn connect(url: &str, queue: &str) -> redis::RedisResult<Self> {
        let client = redis::Client::open(url)?;
        let mut connection = client.get_multiplexed_async_connection().await?;
        // The default of half a second is shorter than BRPOP's wait.
        connection.set_response_timeout(Duration::from_secs(POP_WAIT_S + 5));
        Ok(Self {
            connection,
            queue: queue.into(),
        })
    }

    /// Waits for the next job. What is no job is reported and passed over.
    ///
    /// # Errors
    /// When the connection is lost; connect again.
    pub async fn next(&mut self) -> redis::RedisResult<Job> {
        loop {
            let popped: Option<(String, String)> = redis::cmd("BRPOP")
                .arg(&self.queue)
                .arg(POP_WAIT_S)
                .query_async(&mut self.connection)
                .await?;
            let Some((_, text)) = popped else {
                continue;
            };
            match Job::parse(&text) {
                Some(job) => return Ok(job),
                None => eprintln!(
                    "no job: {} bytes without callId or audioStreamUrl",
                    text.len()
                ),
            }
        }
    }
}
