//! What others may read: state keys, statistics, calls and their events.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use sipbridge::core::ids::{CallId, LineId, StreamId};
use sipbridge::queue::{CallEventKind, Queue, QueueError, RedisFailure};

use crate::stage::{Server, ended, event, eventually, job, start_queue};

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
    for key in ["heartbeat", "active_calls", "state"] {
        let left: i64 = redis.ttl(format!("bridge:node-a:{key}")).await.unwrap();
        assert!((5..=10).contains(&left), "{key} expires in {left} s");
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
    let mut config = server.config("a");
    config.dead_after = Duration::from_millis(200);
    let (a, b) = (start_queue(&config).await, server.queue("b").await);
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
async fn a_call_leaves_its_events_its_hash_and_counts_once() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let call = CallId::random();
    let stream = StreamId::random();
    for kind in [
        CallEventKind::Ringing,
        CallEventKind::Queued { reason: None },
        CallEventKind::WorkerAttached {
            stream: stream.clone(),
        },
        CallEventKind::Answered,
        ended(),
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
    assert!(!redis.exists::<_, bool>("bridge:n:calls").await.unwrap());
    let left: i64 = redis.ttl(&key).await.unwrap();
    assert!((3_590..=3_600).contains(&left), "{left}");

    let events = server.events().await;
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str()).collect();
    let expected = [
        "call.ringing",
        "call.queued",
        "worker.attached",
        "call.answered",
        "call.ended",
    ];
    assert_eq!(names, expected);
    assert_eq!(events[4]["callId"], call.as_str());
    assert_eq!(events[4]["durationMs"], "61500");
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
        eventually("all are written", async || {
            let written: usize = redis.scard("bridge:n:calls").await.unwrap();
            written == recorded
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
        queue.record(event(&call, CallEventKind::Queued { reason: None }));
    }
    assert_eq!(queue.stats().dropped_events, 5_000 - 3_072);
    // There is still room for what closes the calls.
    for _ in 0..1_024 {
        queue.record(event(&CallId::random(), ended()));
    }
    assert_eq!(queue.stats().dropped_events, 5_000 - 3_072);
    queue.record(event(&call, ended()));
    assert_eq!(queue.stats().dropped_events, 5_001 - 3_072);
    let started = Instant::now();
    queue.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2));
}

#[tokio::test]
async fn draining_is_told_at_once_and_goes_with_the_node() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let state = async || server.query::<Option<String>>("GET bridge:n:state").await;
    assert_eq!(state().await.as_deref(), Some("up"));
    let beat: String = server.query("GET bridge:n:heartbeat").await;
    queue.set_draining();
    let started = Instant::now();
    eventually("it says so", async || {
        state().await.as_deref() == Some("draining")
    })
    .await;
    assert!(started.elapsed() < Duration::from_secs(2));
    let later: String = server.query("GET bridge:n:heartbeat").await;
    assert!(later > beat && later.ends_with('Z'), "{beat} {later}");
    queue.stop().await;
    assert_eq!(state().await, None);
}
