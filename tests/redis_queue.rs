//! The Redis contract against a real, private redis-server.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a failure here is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant, SystemTime};

use redis::aio::MultiplexedConnection;
use redis::{AsyncCommands, Client};
use serde_json::Value;
use sipbridge::core::ids::{CallId, LineId, StreamId, Token};
use sipbridge::core::outcome::Outcome;
use sipbridge::core::private::{Private, Secret};
use sipbridge::queue::{
    CallEvent, CallEventKind, Job, JobDirection, Queue, QueueConfig, QueueError, RedisFailure,
    RedisState,
};
use sipbridge::worker::attach_url;

const QUEUE: &str = "queue:incoming_calls";
const BASE: &str = "ws://127.0.0.1:8081";

/// A private redis-server on a port of its own; killed when dropped.
struct Server {
    port: u16,
    process: Option<Child>,
}

impl Server {
    /// A port with nothing on it yet.
    fn absent() -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = probe.local_addr().unwrap().port();
        Self {
            port,
            process: None,
        }
    }

    async fn started() -> Self {
        let mut server = Self::absent();
        server.start(&[]).await;
        server
    }

    async fn start(&mut self, options: &[&str]) {
        let port = self.port.to_string();
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--port", &port])
            .args(["--save", "", "--appendonly", "no"])
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

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }

    /// Stops or continues the process, so that it is there and says nothing.
    fn signal(&self, signal: &str) {
        let pid = self.process.as_ref().unwrap().id().to_string();
        assert!(
            Command::new("kill")
                .args([signal, &pid])
                .status()
                .unwrap()
                .success()
        );
    }

    fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    async fn connect(&self) -> MultiplexedConnection {
        let client = Client::open(self.url()).unwrap();
        client.get_multiplexed_async_connection().await.unwrap()
    }

    fn config(&self, node: &str) -> QueueConfig {
        QueueConfig {
            url: Secret::new(self.url()),
            queue: QUEUE.into(),
            node_id: node.into(),
            stream_url_base: Some(BASE.into()),
            ca_file: None,
        }
    }

    async fn queue(&self, node: &str) -> Queue {
        let queue = Queue::start(&self.config(node)).unwrap();
        connected(&queue).await;
        queue
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Waits for something that happens in another process.
async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < Duration::from_secs(15), "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn connected(queue: &Queue) {
    let mut watch = queue.watch();
    let wait = watch.wait_for(|state| matches!(state, RedisState::Connected { .. }));
    let result = tokio::time::timeout(Duration::from_secs(15), wait).await;
    result.expect("Redis was never connected").unwrap();
}

async fn disconnected(queue: &Queue) -> RedisFailure {
    let mut watch = queue.watch();
    let wait = watch.wait_for(|state| matches!(state, RedisState::Disconnected { .. }));
    let result = tokio::time::timeout(Duration::from_secs(15), wait).await;
    match &*result.expect("the loss was never noticed").unwrap() {
        RedisState::Disconnected { failure, .. } => *failure,
        RedisState::Connected { .. } => unreachable!(),
    }
}

fn job() -> Job {
    let call = CallId::random();
    let created = SystemTime::now();
    Job {
        stream_url: attach_url(BASE, &call, &Token::random()),
        call,
        stream: StreamId::random(),
        line: LineId::new("line-1"),
        restaurant: Some("restaurant-1".into()),
        from: Some(Private::new("+33612345678")),
        to: None,
        direction: JobDirection::Inbound,
        created,
        expires: created + Duration::from_secs(30),
        attempt: 1,
        resumed: false,
        custom_parameters: BTreeMap::from([("restaurantId".into(), "restaurant-1".into())]),
    }
}

fn event(call: &CallId, kind: CallEventKind) -> CallEvent {
    CallEvent {
        call: call.clone(),
        line: LineId::new("line-1"),
        restaurant: None,
        attempt: 1,
        at: SystemTime::now(),
        kind,
    }
}

/// What a worker does: takes the next job.
async fn take(redis: &mut MultiplexedConnection) -> Value {
    let taken: Option<(String, String)> = redis.brpop(QUEUE, 2.0).await.unwrap();
    serde_json::from_str(&taken.expect("a job").1).unwrap()
}

#[tokio::test]
async fn jobs_are_taken_first_in_first_out_and_a_resumed_one_first() {
    let server = Server::started().await;
    let queue = server.queue("node-a").await;
    let (first, second, resumed) = (job(), job(), job());
    queue.push(&first).await.unwrap();
    queue.push(&second).await.unwrap();
    queue.push_head(&resumed).await.unwrap();
    assert!(queue.is_pending(&first).await.unwrap());

    let mut redis = server.connect().await;
    for expected in [&resumed, &first, &second] {
        let taken = take(&mut redis).await;
        assert_eq!(taken["callId"], expected.call.as_str());
        assert_eq!(taken["bridgeNodeId"], "node-a");
        assert_eq!(taken["audioStreamUrl"], expected.stream_url.expose());
        assert!(taken.get("to").is_none());
    }
    assert!(!queue.is_pending(&first).await.unwrap());
}

#[tokio::test]
async fn a_removed_job_reaches_no_worker() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (dead, alive) = (job(), job());
    queue.push(&dead).await.unwrap();
    queue.push(&alive).await.unwrap();
    queue.remove(&dead);
    eventually("the job is removed", async || {
        !queue.is_pending(&dead).await.unwrap()
    })
    .await;
    let mut redis = server.connect().await;
    assert_eq!(take(&mut redis).await["callId"], alive.call.as_str());
}

#[tokio::test]
async fn a_removal_while_redis_does_not_answer_is_made_up_for() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let dead = job();
    queue.push(&dead).await.unwrap();
    server.signal("-STOP");
    queue.remove(&dead);
    let maybe = job();
    let started = Instant::now();
    let error = queue.push(&maybe).await.unwrap_err();
    assert!(matches!(error, QueueError::TimedOut { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(1_200));
    // Known to be away from now on: refused at once.
    let started = Instant::now();
    let error = queue.push(&job()).await.unwrap_err();
    assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(50));

    server.signal("-CONT");
    connected(&queue).await;
    let mut redis = server.connect().await;
    eventually(
        "both jobs are gone, the one that timed out too",
        async || redis.llen::<_, usize>(QUEUE).await.unwrap() == 0,
    )
    .await;
}

#[tokio::test]
async fn redis_may_come_late_and_go_and_come_back() {
    let mut server = Server::absent();
    let queue = Queue::start(&server.config("n")).unwrap();
    let error = queue.push(&job()).await.unwrap_err();
    assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");

    server.start(&[]).await;
    connected(&queue).await;
    queue.push(&job()).await.unwrap();

    server.kill();
    let started = Instant::now();
    queue.push(&job()).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1_200));
    assert_eq!(disconnected(&queue).await, RedisFailure::Unreachable);

    let call = CallId::random();
    queue.record(event(&call, CallEventKind::Ringing));
    queue.set_active_calls(3);
    server.start(&[]).await;
    connected(&queue).await;
    queue.push(&job()).await.unwrap();
    let mut redis = server.connect().await;
    let active: String = redis.get("bridge:n:active_calls").await.unwrap();
    assert_eq!(active, "3", "the state is written anew");
    eventually("the event of the outage is there", async || {
        redis.exists(format!("call:{call}")).await.unwrap()
    })
    .await;
}

#[tokio::test]
async fn an_idle_connection_that_dies_is_noticed() {
    let mut server = Server::started().await;
    let queue = server.queue("n").await;
    server.kill();
    let started = Instant::now();
    assert_eq!(disconnected(&queue).await, RedisFailure::Unreachable);
    assert!(started.elapsed() < Duration::from_secs(3));
}

#[tokio::test]
async fn a_read_only_replica_counts_as_away_until_it_is_promoted() {
    let mut server = Server::absent();
    server.start(&["--replicaof", "127.0.0.1", "1"]).await;
    let queue = Queue::start(&server.config("n")).unwrap();
    let mut watch = queue.watch();
    let wait = watch.wait_for(|state| {
        matches!(
            state,
            RedisState::Disconnected {
                failure: RedisFailure::ReadOnly | RedisFailure::NotReady,
                ..
            }
        )
    });
    tokio::time::timeout(Duration::from_secs(10), wait)
        .await
        .unwrap()
        .unwrap();
    let mut redis = server.connect().await;
    let () = redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .query_async(&mut redis)
        .await
        .unwrap();
    connected(&queue).await;

    // A failover under way: the master we are connected to turns into a replica.
    let () = redis::cmd("REPLICAOF")
        .arg("127.0.0.1")
        .arg(1)
        .query_async(&mut redis)
        .await
        .unwrap();
    let error = queue.push(&job()).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed { .. } | QueueError::Disconnected { .. }
        ),
        "{error}"
    );
    let error = queue.push(&job()).await.unwrap_err();
    assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");
    let () = redis::cmd("REPLICAOF")
        .arg("NO")
        .arg("ONE")
        .query_async(&mut redis)
        .await
        .unwrap();
    // A state write from before the promotion may still fail once after it.
    let deadline = Instant::now() + Duration::from_secs(10);
    while let Err(error) = queue.push(&job()).await {
        assert!(Instant::now() < deadline, "promoted, yet: {error}");
        connected(&queue).await;
    }
}

#[tokio::test]
async fn a_password_is_needed_and_a_database_is_chosen() {
    let mut server = Server::absent();
    server.start(&["--requirepass", "s3cret"]).await;
    let mut config = server.config("n");
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Denied,
                ..
            }
        ),
        "{error}"
    );
    config.url = Secret::new(format!("redis://:wrong@127.0.0.1:{}/2", server.port));
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Denied,
                ..
            }
        ),
        "{error}"
    );
    assert!(!error.to_string().contains("wrong@"), "{error}");

    let url = format!("redis://:s3cret@127.0.0.1:{}/2", server.port);
    config.url = Secret::new(url.clone());
    Queue::probe(&config).await.unwrap();
    let queue = Queue::start(&config).unwrap();
    assert!(!format!("{queue:?} {config:?}").contains("s3cret"));
    connected(&queue).await;
    queue.push(&job()).await.unwrap();
    let client = Client::open(url).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    assert_eq!(redis.llen::<_, usize>(QUEUE).await.unwrap(), 1);

    let () = redis.set("taken", "x").await.unwrap();
    config.queue = "taken".into();
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(matches!(error, QueueError::NotAList { .. }), "{error}");
}

#[tokio::test]
async fn state_keys_are_written_expire_and_go_with_a_graceful_stop() {
    let server = Server::started().await;
    let queue = server.queue("node-a").await;
    let lines = ["l1", "l2", "l3"].map(LineId::new);
    queue.set_registrations(BTreeSet::from(lines.clone()));
    queue.set_registered(&lines[0], false);
    queue.set_active_calls(2);
    queue.push(&job()).await.unwrap();

    let mut redis = server.connect().await;
    eventually("the state is written", async || {
        redis
            .get::<_, String>("bridge:node-a:active_calls")
            .await
            .unwrap()
            == "2"
            && redis
                .get::<_, Option<String>>("stats:queued_calls")
                .await
                .unwrap()
                == Some("1".into())
    })
    .await;
    let registered: BTreeSet<String> = redis.smembers("bridge:node-a:registrations").await.unwrap();
    assert_eq!(registered, BTreeSet::from(["l2".into(), "l3".into()]));
    assert_eq!(
        redis.get::<_, String>("bridge:node-a:count").await.unwrap(),
        "2"
    );
    let beat: String = redis.get("bridge:node-a:heartbeat").await.unwrap();
    assert!(beat.len() == 24 && beat.ends_with('Z'), "{beat}");
    for key in ["heartbeat", "active_calls"] {
        let left: i64 = redis.ttl(format!("bridge:node-a:{key}")).await.unwrap();
        assert!((20..=30).contains(&left), "{key} expires in {left} s");
    }

    queue.set_registered(&lines[1], false);
    queue.set_registered(&lines[2], false);
    eventually("no line is registered", async || {
        redis
            .scard::<_, usize>("bridge:node-a:registrations")
            .await
            .unwrap()
            == 0
    })
    .await;

    queue.stop().await;
    let left: Vec<String> = redis.keys("bridge:*").await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    assert_eq!(
        redis.get::<_, String>("stats:active_calls").await.unwrap(),
        "0"
    );
    let error = queue.push(&job()).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Disconnected {
                failure: RedisFailure::Stopped
            }
        ),
        "{error}"
    );
}

#[tokio::test]
async fn statistics_add_up_over_nodes_and_are_true_after_a_crash() {
    let server = Server::started().await;
    let (a, b) = (server.queue("a").await, server.queue("b").await);
    a.set_active_calls(2);
    b.set_active_calls(5);
    let mut redis = server.connect().await;
    eventually("7 calls in all", async || {
        redis
            .get::<_, Option<u64>>("stats:active_calls")
            .await
            .unwrap()
            == Some(7)
    })
    .await;
    // Node b dies: what is left of it is what its keys' expiry leaves.
    b.stop().await;
    let () = redis.sadd("bridge:nodes", "b").await.unwrap();
    eventually("only the living node's calls", async || {
        redis
            .get::<_, Option<u64>>("stats:active_calls")
            .await
            .unwrap()
            == Some(2)
            && !redis
                .sismember::<_, _, bool>("bridge:nodes", "b")
                .await
                .unwrap()
    })
    .await;
}

#[tokio::test]
async fn jobs_of_an_earlier_life_are_removed_and_others_are_not() {
    let server = Server::started().await;
    let crashed = server.queue("node-a").await;
    crashed.push(&job()).await.unwrap();
    let other = server.queue("node-b").await;
    let alive = job();
    other.push(&alive).await.unwrap();
    let mut redis = server.connect().await;
    let () = redis.lpush(QUEUE, "not json").await.unwrap();

    // Another port that ours begins with is another bridge.
    let mut neighbour = server.config("node-a");
    neighbour.stream_url_base = Some("ws://127.0.0.1:808".into());
    let neighbour = Queue::start(&neighbour).unwrap();
    connected(&neighbour).await;
    assert_eq!(redis.llen::<_, usize>(QUEUE).await.unwrap(), 3);

    let restarted = server.queue("node-a").await;
    assert!(other.is_pending(&alive).await.unwrap());
    assert_eq!(redis.llen::<_, usize>(QUEUE).await.unwrap(), 2);
    assert_eq!(restarted.stats().forgotten_removals, 0);
}

#[tokio::test]
async fn a_call_leaves_its_events_its_hash_and_counts_once() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let call = CallId::random();
    let stream = StreamId::random();
    for kind in [
        CallEventKind::Ringing,
        CallEventKind::Queued,
        CallEventKind::WorkerAttached {
            stream: stream.clone(),
        },
        CallEventKind::Answered,
        CallEventKind::Ended {
            outcome: Outcome::CallerHungUp,
            duration: Duration::from_millis(61_500),
        },
    ] {
        queue.record(event(&call, kind));
    }
    let mut redis = server.connect().await;
    let key = format!("call:{call}");
    eventually("the call has ended", async || {
        redis
            .hget::<_, _, Option<String>>(&key, "state")
            .await
            .unwrap()
            == Some("ended".into())
    })
    .await;
    let hash: BTreeMap<String, String> = redis.hgetall(&key).await.unwrap();
    assert_eq!(hash["outcome"], "caller-hung-up");
    assert_eq!(hash["durationMs"], "61500");
    assert_eq!(hash["line"], "line-1");
    assert_eq!(hash["node"], "n");
    assert_eq!(hash["streamSid"], stream.as_str());
    assert!(hash["ringingAt"] <= hash["endedAt"]);
    let left: i64 = redis.ttl(&key).await.unwrap();
    assert!((3_590..=3_600).contains(&left), "{left}");

    let events: Vec<(String, BTreeMap<String, String>)> = redis::cmd("XRANGE")
        .arg("stream:call_events")
        .arg("-")
        .arg("+")
        .query_async(&mut redis)
        .await
        .unwrap();
    let names: Vec<&str> = events
        .iter()
        .map(|(_, fields)| fields["event"].as_str())
        .collect();
    let expected = [
        "call.ringing",
        "call.queued",
        "worker.attached",
        "call.answered",
        "call.ended",
    ];
    assert_eq!(names, expected);
    assert_eq!(events[4].1["callId"], call.as_str());
    assert_eq!(events[4].1["durationMs"], "61500");
    eventually("the call is counted", async || {
        redis
            .get::<_, Option<u64>>("stats:calls_today")
            .await
            .unwrap()
            == Some(1)
    })
    .await;
}

#[tokio::test]
async fn the_event_stream_is_capped() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let mut redis = server.connect().await;
    let mut recorded = 0;
    while recorded < 12_000 {
        for _ in 0..2_000 {
            queue.record(event(&CallId::random(), CallEventKind::Ringing));
        }
        recorded += 2_000;
        let calls = recorded;
        eventually("all are counted", async || {
            redis
                .get::<_, Option<u64>>("stats:calls_today")
                .await
                .unwrap()
                == Some(calls)
        })
        .await;
    }
    assert_eq!(queue.stats().dropped_events, 0);
    let length: usize = redis.xlen("stream:call_events").await.unwrap();
    assert!((10_000..10_200).contains(&length), "{length}");
}

#[tokio::test]
async fn too_many_events_without_redis_are_dropped_and_counted() {
    let server = Server::absent();
    let queue = Queue::start(&server.config("n")).unwrap();
    let call = CallId::random();
    for _ in 0..5_000 {
        queue.record(event(&call, CallEventKind::Queued));
    }
    assert_eq!(queue.stats().dropped_events, 5_000 - 4_096);
    let started = Instant::now();
    queue.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn redis_with_tls_is_used_when_its_certificate_is_trusted() {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let certificate = file("cert.pem", made.cert.pem());
    let key = file("key.pem", made.signing_key.serialize_pem());
    let plain = Server::absent();
    let mut server = Server::absent();
    let tls_port = plain.port.to_string();
    server
        .start(&[
            "--tls-port",
            &tls_port,
            "--tls-cert-file",
            &certificate,
            "--tls-key-file",
            &key,
            "--tls-ca-cert-file",
            &certificate,
            "--tls-auth-clients",
            "no",
        ])
        .await;
    let mut config = server.config("n");
    config.url = Secret::new(format!("rediss://localhost:{tls_port}/"));
    let error = Queue::probe(&config).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::Unreachable,
                ..
            }
        ),
        "{error}"
    );
    config.ca_file = Some(certificate.into());
    let queue = Queue::start(&config).unwrap();
    connected(&queue).await;
    queue.push(&job()).await.unwrap();
    config.ca_file = Some("/no/file".into());
    let error = Queue::start(&config).unwrap_err();
    assert!(matches!(error, QueueError::CaFile { .. }), "{error}");
}
