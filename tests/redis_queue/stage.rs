//! A private redis-server for each test, and what bridge and worker do with it.

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client, FromRedisValue};
use serde_json::Value;
use sipbridge::core::call_facts::CallFacts;
use sipbridge::core::call_object::CallDirection;
use sipbridge::core::ids::{CallId, LineId, StreamId, Token};
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::{Private, Secret};
use sipbridge::queue::{
    CallEvent, CallEventKind, Job, LEASE_TTL, Queue, QueueConfig, QueueError, RedisFailure,
    RedisState,
};
use sipbridge::worker::attach_url;
use tempfile::TempDir;

use crate::proxy::Proxy;

pub const QUEUE: &str = "queue:incoming_calls";
/// What a Redis user of a bridge that shares no lines may do.
pub const BRIDGE_RIGHTS: [&str; 12] = [
    "~queue:*",
    "~bridge:*",
    "~call:*",
    "~stats:*",
    "~stream:*",
    "-@all",
    "+@read",
    "+@write",
    "+@scripting",
    "+@transaction",
    "+@connection",
    "-@dangerous",
];
pub const BASE: &str = "ws://127.0.0.1:8081";

/// A private redis-server on a port of its own; killed when dropped.
pub struct Server {
    pub port: u16,
    process: Option<Child>,
    /// Where it saves.
    folder: TempDir,
}

impl Server {
    /// A port with nothing on it yet.
    pub fn absent() -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        Self {
            port,
            process: None,
            folder: TempDir::new().unwrap(),
        }
    }

    pub async fn started() -> Self {
        let mut server = Self::absent();
        server.start(&[]).await;
        server
    }

    pub async fn start(&mut self, options: &[&str]) {
        let port = self.port.to_string();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port])
            .args(["--save", "", "--appendonly", "no"])
            .current_dir(self.folder.path())
            .args(options)
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server must be installed; tests/run.sh installs it");
        self.process = Some(process);
        eventually("redis-server answers", async || {
            tokio::net::TcpStream::connect(("127.0.0.1", self.port))
                .await
                .is_ok()
        })
        .await;
    }

    /// The folder of its dump, which outlives it.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops or continues the process, so that it is there and says nothing.
    pub fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// Runs one command, its words between spaces.
    pub async fn query<T: FromRedisValue>(&self, command: &str) -> T {
        let mut connection = self.connect().await;
        let mut words = command.split(' ');
        let mut query = redis::cmd(words.next().unwrap());
        for word in words {
            query.arg(word);
        }
        query.query_async(&mut connection).await.unwrap()
    }

    /// The ids of the calls whose jobs wait, in the order in which `BRPOP`
    /// takes them.
    pub async fn waiting(&self) -> Vec<String> {
        let jobs: Vec<String> = self.query(&format!("LRANGE {QUEUE} 0 -1")).await;
        let id = |job: &String| {
            let job: Value = serde_json::from_str(job).unwrap();
            job["callId"].as_str().unwrap().to_owned()
        };
        jobs.iter().rev().map(id).collect()
    }

    /// One field of a call's hash.
    pub async fn call(&self, call: &CallId, field: &str) -> Option<String> {
        self.query(&format!("HGET call:{call} {field}")).await
    }

    /// All events of the stream.
    pub async fn events(&self) -> Vec<BTreeMap<String, String>> {
        let events: Vec<(String, BTreeMap<String, String>)> =
            self.query("XRANGE stream:call_events - +").await;
        events.into_iter().map(|(_, fields)| fields).collect()
    }

    pub async fn connect(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    pub fn config(&self, node: &str) -> QueueConfig {
        QueueConfig {
            url: Secret::new(self.url()),
            queue: QUEUE.into(),
            node_id: node.into(),
            stream_url_base: Some(BASE.into()),
            ca_file: None,
            dead_after: Duration::from_secs(60),
            lease_ttl: LEASE_TTL,
            shares_lines: false,
        }
    }

    pub async fn queue(&self, node: &str) -> Queue {
        start_queue(&self.config(node)).await
    }

    /// A bridge that reaches this server through a proxy.
    pub async fn queue_through(&self, proxy: &Proxy, node: &str) -> Queue {
        let mut config = self.config(node);
        config.url = Secret::new(proxy.url());
        start_queue(&config).await
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A bridge's handle, connected.
pub async fn start_queue(config: &QueueConfig) -> Queue {
    let queue = Queue::start(config).unwrap();
    connected(&queue).await;
    queue
}

/// Waits for something that happens in another process.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(15), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

pub async fn connected(queue: &Queue) {
    let mut watch = queue.watch();
    let wait = watch.wait_for(|state| matches!(state, RedisState::Connected { .. }));
    let result = tokio::time::timeout(Duration::from_secs(15), wait).await;
    result.expect("Redis was never connected").unwrap();
}

pub async fn disconnected(queue: &Queue) -> RedisFailure {
    let mut watch = queue.watch();
    let wait = watch.wait_for(|state| matches!(state, RedisState::Disconnected { .. }));
    let result = tokio::time::timeout(Duration::from_secs(15), wait).await;
    match &*result.expect("the loss was never noticed").unwrap() {
        RedisState::Disconnected { failure, .. } => *failure,
        RedisState::Connected { .. } => unreachable!(),
    }
}

pub fn job() -> Job {
    let created = SystemTime::now();
    let facts = CallFacts {
        restaurant: Some("restaurant-1".into()),
        ..facts(&CallId::random())
    };
    Job {
        stream_url: attach_url(BASE, &facts.id, &Token::random()),
        facts: Arc::new(facts),
        stream: StreamId::random(),
        created,
        expires: created + Duration::from_secs(30),
        attempt: 1,
        resumed: false,
        resumed_from: None,
        custom_parameters: BTreeMap::from([("restaurantId".into(), "restaurant-1".into())]).into(),
        agent: None,
    }
}

fn facts(call: &CallId) -> CallFacts {
    CallFacts {
        id: call.clone(),
        sip_call_id: None,
        line: LineId::new("line-1"),
        restaurant: None,
        direction: CallDirection::Inbound,
        parent: None,
        from: Private::new("+33612345678"),
        to: Private::default(),
        started: SystemTime::now(),
    }
}

pub fn event(call: &CallId, kind: CallEventKind) -> CallEvent {
    CallEvent {
        facts: Arc::new(facts(call)),
        attempt: 1,
        at: SystemTime::now(),
        kind,
        memory: None,
    }
}

/// What a worker does: takes the next job.
pub async fn take(redis: &mut MultiplexedConnection) -> Value {
    let taken: Option<(String, String)> = redis.brpop(QUEUE, 2.0).await.unwrap();
    serde_json::from_str(&taken.expect("a job").1).unwrap()
}

/// The job that follows `job` for the same call.
pub fn next_attempt(job: &Job) -> Job {
    Job {
        stream_url: attach_url(BASE, &job.facts.id, &Token::random()),
        stream: StreamId::random(),
        attempt: job.attempt + 1,
        ..job.clone()
    }
}

/// The end of a call.
pub fn ended() -> CallEventKind {
    CallEventKind::Ended {
        outcome: Outcome::CallerHungUp,
        duration: Duration::from_millis(61_500),
    }
}

/// Asserts that a push failed because Redis is known to be away, at once.
pub async fn refused_at_once(queue: &Queue) {
    let started = Instant::now();
    let error = queue.push(&job()).await.unwrap_err();
    assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(300));
}
