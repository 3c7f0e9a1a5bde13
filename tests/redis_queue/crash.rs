//! After a crash of a bridge, or of Redis: no ghost job, no call open for ever,
//! every number right again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use redis::AsyncCommands;
use sipbridge::core::ids::{CallId, StreamId};
use sipbridge::queue::{CallEventKind, Queue, QueueConfig};
use tokio::runtime::Runtime;

use crate::proxy::{Mode, Proxy};
use crate::stage::{
    QUEUE, Server, connected, disconnected, ended, event, eventually, job, start_queue, take,
};

/// A bridge that can die as by kill -9.
pub struct Bridge {
    runtime: Option<Runtime>,
    pub queue: Queue,
}

impl Bridge {
    pub async fn start(config: &QueueConfig) -> Self {
        let runtime = Runtime::new().unwrap();
        let queue = {
            let _inside = runtime.enter();
            Queue::start(config).unwrap()
        };
        connected(&queue).await;
        Self {
            runtime: Some(runtime),
            queue,
        }
    }

    /// Nothing more is sent, nothing is tidied up.
    pub fn crash(mut self) {
        self.runtime.take().unwrap().shutdown_background();
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Begins some calls and waits until Redis knows them.
async fn begin_calls(queue: &Queue, server: &Server, node: &str, count: usize) -> Vec<CallId> {
    let calls: Vec<CallId> = (0..count).map(|_| CallId::random()).collect();
    for call in &calls {
        queue.record(event(call, CallEventKind::Ringing));
        queue.record(event(call, CallEventKind::Answered));
    }
    eventually("Redis knows the calls", async || {
        let mut known = true;
        for call in calls.last().into_iter() {
            known = server.call(call, "answeredAt").await.is_some();
        }
        known
            && server
                .query::<usize>(&format!("SCARD bridge:{node}:calls"))
                .await
                == count
    })
    .await;
    calls
}

/// What `call.ended` said of each call.
async fn ends(server: &Server) -> BTreeMap<String, Vec<String>> {
    let mut ends: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for event in server.events().await {
        if event["event"] == "call.ended" {
            assert_eq!(event["line"], "line-1");
            assert!(event["durationMs"].parse::<u64>().is_ok() && event["at"].len() == 24);
            let of_call = ends.entry(event["callId"].clone()).or_default();
            of_call.push(event["outcome"].clone());
        }
    }
    ends
}

async fn number(server: &Server, key: &str) -> Option<u64> {
    server.query(&format!("GET {key}")).await
}

/// Makes it look as if a node had been silent for a time.
pub async fn age(server: &Server, node: &str, silent: Duration) {
    let left = Duration::from_secs(86_400) - silent;
    let command = format!("PEXPIRE bridge:{node}:calls {}", left.as_millis());
    assert_eq!(server.query::<u64>(&command).await, 1);
    let keys = ["heartbeat", "active_calls", "state"].map(|key| format!("bridge:{node}:{key}"));
    let _: u64 = server.query(&format!("DEL {}", keys.join(" "))).await;
}

/// As [`Server::config`], with little patience for the dead.
pub fn hasty(server: &Server, node: &str) -> QueueConfig {
    QueueConfig {
        dead_after: Duration::from_millis(500),
        ..server.config(node)
    }
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
    let left: Vec<String> = redis.lrange(QUEUE, 0, -1).await.unwrap();
    assert!(left.len() == 2 && left[1].contains(alive.facts.id.as_str()));
    assert_eq!(restarted.stats().forgotten_removals, 0);
}

#[tokio::test]
async fn calls_of_an_earlier_life_are_closed_once() {
    let server = Server::started().await;
    let bridge = Bridge::start(&server.config("n")).await;
    bridge.queue.set_active_calls(300);
    let calls = begin_calls(&bridge.queue, &server, "n", 300).await;
    bridge.queue.record(event(&calls[0], ended()));
    eventually("one has ended", async || {
        server.query::<usize>("SCARD bridge:n:calls").await == 299
    })
    .await;
    bridge.crash();

    let bridge = Bridge::start(&server.config("n")).await;
    assert_eq!(server.query::<usize>("SCARD bridge:n:calls").await, 0);
    assert_eq!(number(&server, "stats:active_calls").await, Some(0));
    let ends_seen = ends(&server).await;
    assert_eq!(ends_seen.len(), 300);
    for call in &calls[1..] {
        assert_eq!(ends_seen[call.as_str()], ["bridge-lost"]);
    }
    assert_eq!(ends_seen[calls[0].as_str()], ["caller-hung-up"]);
    let hash = async |field| server.call(&calls[7], field).await.unwrap();
    assert_eq!(hash("state").await, "ended");
    assert_eq!(hash("outcome").await, "bridge-lost");
    assert!(hash("endedAt").await >= hash("answeredAt").await);
    assert!(hash("durationMs").await.parse::<u64>().unwrap() < 60_000);
    let left: i64 = server.query(&format!("TTL call:{}", calls[7])).await;
    assert!((3_500..=3_600).contains(&left), "{left}");
    assert_eq!(
        number(&server, "stats:calls_today").await,
        Some(300),
        "the count of the day goes on"
    );

    // A new life closes nothing twice, and leaves its own calls alone.
    let alive = begin_calls(&bridge.queue, &server, "n", 1).await;
    bridge.crash();
    let _bridge = Bridge::start(&server.config("n")).await;
    let ends_seen = ends(&server).await;
    assert!(ends_seen.values().all(|ends| ends.len() == 1));
    assert_eq!(ends_seen[alive[0].as_str()], ["bridge-lost"]);
    assert_eq!(ends_seen.len(), 301);
}

#[tokio::test]
async fn a_node_that_never_comes_back_is_buried_by_the_others_once() {
    let server = Server::started().await;
    let dead = Bridge::start(&server.config("dead")).await;
    let calls = begin_calls(&dead.queue, &server, "dead", 100).await;
    let (mut old, fresh) = (job(), job());
    old.created = SystemTime::now() - Duration::from_secs(60);
    old.expires = old.created + Duration::from_secs(30);
    dead.queue.push(&old).await.unwrap();
    dead.queue.push(&fresh).await.unwrap();
    dead.crash();
    age(&server, "dead", Duration::from_secs(61)).await;

    let first = start_queue(&hasty(&server, "b")).await;
    let second = start_queue(&hasty(&server, "c")).await;
    let mut expired_too = old.clone();
    Arc::make_mut(&mut expired_too.facts).id = CallId::random();
    first.push(&expired_too).await.unwrap();
    eventually("its calls are closed", async || {
        server.query::<usize>("SCARD bridge:dead:calls").await == 0
    })
    .await;
    eventually("its dead job is gone", async || {
        server.waiting().await == [fresh.facts.id.as_str(), expired_too.facts.id.as_str()]
    })
    .await;
    let ends_seen = ends(&server).await;
    assert_eq!(ends_seen.len(), calls.len());
    assert!(ends_seen.values().all(|ends| *ends == ["bridge-lost"]));
    let duration = server.call(&calls[0], "durationMs").await.unwrap();
    assert_eq!(duration, "0", "it was silent since before the answer");
    assert!(server.query::<bool>("SISMEMBER bridge:nodes dead").await);

    // Once its last job is gone, so is the node.
    take(&mut server.connect().await).await;
    eventually("the node is forgotten", async || {
        !server.query::<bool>("SISMEMBER bridge:nodes dead").await
    })
    .await;
    assert!(server.query::<bool>("SISMEMBER bridge:nodes b").await);
    drop(second);
}

#[tokio::test]
async fn a_node_that_beats_or_was_silent_only_shortly_is_not_buried() {
    let server = Server::started().await;
    let alive = Bridge::start(&server.config("alive")).await;
    begin_calls(&alive.queue, &server, "alive", 2).await;
    let shortly = Bridge::start(&server.config("shortly")).await;
    begin_calls(&shortly.queue, &server, "shortly", 3).await;
    shortly.crash();
    let long = Bridge::start(&server.config("long")).await;
    begin_calls(&long.queue, &server, "long", 4).await;
    long.crash();
    age(&server, "long", Duration::from_secs(61)).await;
    let _: u64 = server.query("PEXPIRE bridge:alive:calls 1000000").await;
    let mut config = hasty(&server, "b");
    config.dead_after = Duration::from_secs(3);
    let _judge = start_queue(&config).await;
    eventually("the node that was silent long is buried", async || {
        age(&server, "shortly", Duration::ZERO).await;
        server.query::<usize>("SCARD bridge:long:calls").await == 0
    })
    .await;
    assert_eq!(server.query::<usize>("SCARD bridge:shortly:calls").await, 3);
    eventually("so is the other, once it was silent as long", async || {
        server.query::<usize>("SCARD bridge:shortly:calls").await == 0
    })
    .await;
    assert_eq!(server.query::<usize>("SCARD bridge:alive:calls").await, 2);
    assert_eq!(ends(&server).await.len(), 7);
}

#[tokio::test]
async fn a_node_taken_for_dead_writes_its_calls_again() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let cut_off = server.queue_through(&proxy, "cut-off").await;
    let calls = begin_calls(&cut_off, &server, "cut-off", 2).await;
    proxy.set(Mode::Cut);
    disconnected(&cut_off).await;
    cut_off.record(event(&calls[1], ended()));
    age(&server, "cut-off", Duration::from_secs(61)).await;
    let _other = start_queue(&hasty(&server, "b")).await;
    eventually("its calls are closed", async || {
        server.call(&calls[0], "state").await.as_deref() == Some("ended")
            && server.call(&calls[1], "state").await.as_deref() == Some("ended")
    })
    .await;

    proxy.turn_to(server.port).await;
    connected(&cut_off).await;
    assert_eq!(server.call(&calls[0], "state").await.unwrap(), "answered");
    for field in ["outcome", "endedAt", "durationMs"] {
        assert_eq!(server.call(&calls[0], field).await, None, "{field}");
    }
    eventually("the call that ended meanwhile tells its end", async || {
        server.call(&calls[1], "outcome").await.as_deref() == Some("caller-hung-up")
    })
    .await;
    assert_eq!(server.query::<usize>("SCARD bridge:cut-off:calls").await, 1);
}

#[tokio::test]
async fn a_redis_restarted_empty_is_told_all_again() {
    let mut server = Server::started().await;
    let queue = server.queue("n").await;
    let calls = begin_calls(&queue, &server, "n", 3).await;
    queue.record(event(
        &calls[0],
        CallEventKind::WorkerAttached {
            stream: StreamId::random(),
        },
    ));
    queue.set_active_calls(3);
    eventually("the statistics say so", async || {
        number(&server, "stats:active_calls").await == Some(3)
            && number(&server, "stats:calls_today").await == Some(3)
            && server.call(&calls[0], "streamSid").await.is_some()
    })
    .await;
    let before: BTreeMap<String, String> =
        server.query(&format!("HGETALL call:{}", calls[0])).await;
    server.kill();
    disconnected(&queue).await;
    queue.record(event(&calls[1], ended()));
    server.start(&[]).await;
    connected(&queue).await;
    for (key, value) in [("active_calls", 3), ("calls_today", 3), ("queued_calls", 0)] {
        let key = format!("stats:{key}");
        assert_eq!(number(&server, &key).await, Some(value), "{key}");
    }
    let after: BTreeMap<String, String> = server.query(&format!("HGETALL call:{}", calls[0])).await;
    assert_eq!(before, after);
    eventually(
        "what ended during the outage has its whole hash",
        async || server.call(&calls[1], "state").await.as_deref() == Some("ended"),
    )
    .await;
    assert!(server.call(&calls[1], "answeredAt").await.is_some());
    assert_eq!(server.query::<usize>("SCARD bridge:n:calls").await, 2);
}

#[tokio::test]
async fn a_redis_brought_back_from_an_old_snapshot_holds_no_ghosts() {
    let mut server = Server::started().await;
    let queue = server.queue("n").await;
    let calls = begin_calls(&queue, &server, "n", 2).await;
    let (removed, taken, waits) = (job(), job(), job());
    queue.push(&taken).await.unwrap();
    queue.push(&removed).await.unwrap();
    queue.push(&waits).await.unwrap();
    let _: String = server.query("SAVE").await;

    // The life after the snapshot, which Redis forgets.
    let mut watch = queue.taken(&taken);
    take(&mut server.connect().await).await;
    (&mut watch).await;
    queue.remove(&removed);
    queue.record(event(&calls[0], ended()));
    let later = CallId::random();
    queue.record(event(&later, CallEventKind::Ringing));
    eventually("all of it is written", async || {
        server.waiting().await == [waits.facts.id.as_str()]
            && server.call(&later, "state").await.is_some()
            && server.call(&calls[0], "outcome").await.is_some()
            && number(&server, "stats:calls_today").await == Some(3)
    })
    .await;
    server.kill();
    disconnected(&queue).await;
    server.start(&[]).await;
    connected(&queue).await;

    assert_eq!(server.waiting().await, [waits.facts.id.as_str()]);
    assert_eq!(number(&server, "stats:queued_calls").await, Some(1));
    assert_eq!(number(&server, "stats:calls_today").await, Some(3));
    assert_eq!(server.call(&later, "state").await.unwrap(), "ringing");
    assert_eq!(server.call(&calls[1], "state").await.unwrap(), "answered");
    // Its true end is not known any more; it is over all the same.
    assert_eq!(server.call(&calls[0], "state").await.unwrap(), "ended");
    assert_eq!(server.query::<usize>("SCARD bridge:n:calls").await, 2);
}

#[tokio::test]
async fn a_graceful_stop_leaves_no_call_open() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let calls = begin_calls(&queue, &server, "n", 1).await;
    queue.stop().await;
    assert_eq!(
        server.call(&calls[0], "outcome").await.as_deref(),
        Some("shutdown")
    );
    assert!(!server.query::<bool>("EXISTS bridge:n:calls").await);
}
