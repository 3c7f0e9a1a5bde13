//! A private Redis that can be killed with -9 and started again, empty or
//! with its data.

use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::harness::peers::{Process, free_port, wait_for_tcp};
use crate::harness::worker::QUEUE;

/// How long Redis may take to answer on a busy machine.
const ANSWERS: Duration = Duration::from_secs(10);

/// A Redis that writes every command to its file before it answers.
pub struct Store {
    port: u16,
    process: Option<Process>,
    dir: TempDir,
}

impl Store {
    /// Starts one.
    pub fn start() -> Self {
        let mut store = Self {
            port: free_port(),
            process: None,
            dir: TempDir::new().unwrap(),
        };
        store.come_up(false);
        store
    }

    /// kill -9.
    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.child.kill().unwrap();
            process.child.wait().unwrap();
        }
    }

    /// Starts it again on its port.
    pub fn come_up(&mut self, with_data: bool) {
        let data = self.dir.path().join("data");
        if !with_data {
            let _ = std::fs::remove_dir_all(&data);
        }
        std::fs::create_dir_all(&data).unwrap();
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args([
                "--save",
                "",
                "--appendonly",
                "yes",
                "--appendfsync",
                "always",
            ])
            .current_dir(data);
        let log = self.dir.path().join("redis.log");
        self.process = Some(Process::start("redis-server", command, &log));
        wait_for_tcp("redis-server", self.port);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Runs one command; `None` while Redis is away or loading.
    pub async fn try_query<T: redis::FromRedisValue>(&self, command: &[&str]) -> Option<T> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_multiplexed_async_connection().await.ok()?;
        // The default of half a second is short on a machine that runs all this.
        connection.set_response_timeout(ANSWERS);
        let mut query = redis::cmd(command[0]);
        for argument in &command[1..] {
            query.arg(*argument);
        }
        query.query_async(&mut connection).await.ok()
    }

    /// As [`Store::try_query`], of a Redis that must be there.
    pub async fn query<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        self.try_query(command)
            .await
            .unwrap_or_else(|| panic!("Redis does not answer {command:?}"))
    }

    /// Jobs that nobody has taken.
    pub async fn jobs(&self) -> i64 {
        self.query(&["LLEN", QUEUE]).await
    }

    /// A counter; 0 when it is absent.
    pub async fn count(&self, key: &str) -> i64 {
        let value: Option<i64> = self.query(&["GET", key]).await;
        value.unwrap_or(0)
    }

    /// How many events the stream holds.
    pub async fn events_kept(&self) -> usize {
        self.query(&["XLEN", "stream:call_events"]).await
    }

    /// All events of a kind: when (ms), and their fields.
    pub async fn events(&self, kind: &str) -> Vec<Event> {
        type Entries = Vec<(String, Vec<String>)>;
        let entries: Entries = self
            .query(&["XRANGE", "stream:call_events", "-", "+"])
            .await;
        let events = entries.into_iter().map(|(id, fields)| Event {
            at_ms: id.split('-').next().unwrap().parse().unwrap(),
            fields: fields
                .chunks_exact(2)
                .map(|pair| (pair[0].clone(), pair[1].clone()))
                .collect(),
        });
        events
            .filter(|event| event.fields.iter().any(|(_, value)| value == kind))
            .collect()
    }
}

/// One entry of `stream:call_events`.
#[derive(Debug)]
pub struct Event {
    pub at_ms: u64,
    fields: Vec<(String, String)>,
}

impl Event {
    /// A field's value; empty when absent.
    pub fn field(&self, name: &str) -> &str {
        let found = self.fields.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value)
    }
}
