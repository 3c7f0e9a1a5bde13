//! Redis in every bad state: away, silent, slow, full, read-only, loading.
//! Each time new calls are refused soon, nothing sticks, and it recovers.

use std::time::{Duration, Instant};

use redis::AsyncCommands;
use sipbridge::core::ids::CallId;
use sipbridge::queue::{CallEventKind, Queue, QueueError, RedisFailure, RedisState};

use crate::proxy::{Mode, Proxy};
use crate::stage::{
    QUEUE, Server, connected, disconnected, ended, event, eventually, job, next_attempt,
    refused_at_once, take,
};

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

/// Waits until the failure has this name.
async fn fails_with(queue: &Queue, expected: RedisFailure) {
    let mut watch = queue.watch();
    let wait = watch.wait_for(
        |state| matches!(state, RedisState::Disconnected { failure, .. } if *failure == expected),
    );
    let result = tokio::time::timeout(Duration::from_secs(15), wait).await;
    assert!(result.is_ok(), "never {expected}, but {:?}", queue.status());
}

/// Pushes until it works: the bridge recovers by itself.
async fn recovers(queue: &Queue) {
    eventually("it recovers", async || {
        let job = job();
        let pushed = queue.push(&job).await.is_ok();
        queue.remove(&job);
        pushed
    })
    .await;
}

#[tokio::test]
async fn a_redis_that_turns_slow_counts_as_away_until_it_is_quick_again() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    let dead = job();
    queue.push(&dead).await.unwrap();
    proxy.set(Mode::Delay(Duration::from_millis(1_050)));
    queue.remove(&dead);
    let started = Instant::now();
    let uncertain = job();
    queue.push(&uncertain).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1_300));
    fails_with(&queue, RedisFailure::TimedOut).await;
    // Still so slow when a new connection could long have been in use: calls
    // are refused at once, none waits.
    for _ in 0..90 {
        refused_at_once(&queue).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    proxy.set(Mode::Pass);
    connected(&queue).await;
    recovers(&queue).await;
    eventually("no job is left", async || server.waiting().await.is_empty()).await;
}

#[tokio::test]
async fn a_half_open_connection_is_noticed_and_replaced() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    proxy.set(Mode::Swallow);
    let started = Instant::now();
    assert_eq!(disconnected(&queue).await, RedisFailure::TimedOut);
    assert!(started.elapsed() < Duration::from_secs(4));
    refused_at_once(&queue).await;
    let call = CallId::random();
    queue.record(event(&call, CallEventKind::Ringing));
    proxy.set(Mode::Pass);
    connected(&queue).await;
    recovers(&queue).await;
    eventually("the event of the outage is there", async || {
        server.call(&call, "state").await.is_some()
    })
    .await;
}

#[tokio::test]
async fn a_full_redis_takes_no_calls_and_still_loses_the_dead_ones() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (dead, waits, call) = (job(), job(), CallId::random());
    queue.push(&dead).await.unwrap();
    queue.push(&waits).await.unwrap();
    queue.record(event(&call, CallEventKind::Ringing));
    eventually("the call is known", async || {
        server.call(&call, "state").await.is_some()
    })
    .await;
    let _: String = server.query("CONFIG SET maxmemory 1").await;
    let error = queue.push(&job()).await.unwrap_err();
    assert!(
        matches!(
            error,
            QueueError::Failed {
                failure: RedisFailure::NoWrites,
                ..
            } | QueueError::Disconnected { .. }
        ),
        "{error}"
    );
    fails_with(&queue, RedisFailure::NoWrites).await;
    refused_at_once(&queue).await;
    queue.remove(&dead);
    queue.record(event(&call, ended()));
    eventually("the dead call's job is gone all the same", async || {
        server.waiting().await == [waits.facts.id.as_str()]
    })
    .await;

    let _: String = server.query("CONFIG SET maxmemory 0").await;
    connected(&queue).await;
    recovers(&queue).await;
    eventually("the end of the call was kept", async || {
        server.call(&call, "state").await.as_deref() == Some("ended")
    })
    .await;
    assert_eq!(queue.stats().dropped_events, 0);
}

#[tokio::test]
async fn a_redis_that_cannot_save_takes_no_calls_until_it_can() {
    let mut server = Server::absent();
    server.start(&["--save", "3600 1"]).await;
    let queue = server.queue("n").await;
    let dead = job();
    queue.push(&dead).await.unwrap();
    // The dump cannot be put where a folder is.
    let in_the_way = server.folder().join("dump.rdb");
    std::fs::create_dir(&in_the_way).unwrap();
    let _: String = server.query("BGSAVE").await;
    fails_with(&queue, RedisFailure::NoWrites).await;
    refused_at_once(&queue).await;
    queue.remove(&dead);
    std::fs::remove_dir(&in_the_way).unwrap();
    let _: String = server.query("SAVE").await;
    connected(&queue).await;
    recovers(&queue).await;
    eventually("no job is left", async || server.waiting().await.is_empty()).await;
}

#[tokio::test]
async fn a_redis_that_loads_its_data_counts_as_away() {
    let mut server = Server::absent();
    server.start(&["--rdbcompression", "no"]).await;
    let mut redis = server.connect().await;
    for number in 0..40 {
        let () = redis
            .set(format!("key:{number}"), "x".repeat(2_000))
            .await
            .unwrap();
    }
    let queue = server.queue("n").await;
    let _: String = server.query("SAVE").await;
    server.kill();
    disconnected(&queue).await;
    // 100 ms for each key, with a look at the clients in between.
    let slowly = [
        "--key-load-delay",
        "100000",
        "--loading-process-events-interval-bytes",
        "1024",
    ];
    server.start(&slowly).await;
    fails_with(&queue, RedisFailure::NotReady).await;
    refused_at_once(&queue).await;
    connected(&queue).await;
    recovers(&queue).await;
}

#[tokio::test]
async fn after_a_failover_to_a_replica_that_lagged_no_call_has_two_jobs() {
    let primary = Server::started().await;
    let replica = Server::started().await;
    let proxy = Proxy::to(primary.port).await;
    let queue = primary.queue_through(&proxy, "n").await;
    let (over, claimed, known) = (job(), job(), job());
    for job in [&over, &claimed, &known] {
        queue.push(job).await.unwrap();
    }
    let follow = format!("REPLICAOF 127.0.0.1 {}", primary.port);
    let _: String = replica.query(&follow).await;
    eventually("the replica has the jobs", async || {
        replica.query::<usize>(&format!("LLEN {QUEUE}")).await == 3
    })
    .await;
    // It loses sight of its primary; then the calls go on.
    let _: String = replica.query("REPLICAOF NO ONE").await;
    let mut claimed_taken = queue.taken(&claimed);
    let mut redis = primary.connect().await;
    take(&mut redis).await;
    take(&mut redis).await;
    (&mut claimed_taken).await;
    queue.remove(&over);
    let again = next_attempt(&claimed);
    queue.replace(&claimed, &again).await.unwrap();
    let mut again_taken = queue.taken(&again);
    let unseen = job();
    queue.push(&unseen).await.unwrap();
    let mut unseen_taken = queue.taken(&unseen);

    proxy.turn_to(replica.port).await;
    disconnected(&queue).await;
    connected(&queue).await;
    // What never reached the replica is pushed again by who watches it.
    (&mut again_taken).await;
    (&mut unseen_taken).await;
    assert_eq!(replica.waiting().await, [known.facts.id.as_str()]);
    queue.replace(&again, &next_attempt(&again)).await.unwrap();
    assert_eq!(
        replica.waiting().await,
        [claimed.facts.id.as_str(), known.facts.id.as_str()]
    );
    assert!(replica.query::<bool>("EXISTS bridge:n:heartbeat").await);
}

#[tokio::test]
async fn events_whose_answers_got_lost_are_written_once_and_close_nothing() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    let (over, begun) = (CallId::random(), CallId::random());
    queue.record(event(&over, CallEventKind::Ringing));
    eventually("the call is known", async || {
        server.call(&over, "state").await.is_some()
    })
    .await;
    proxy.set(Mode::Mute);
    queue.record(event(&over, ended()));
    queue.record(event(&begun, CallEventKind::Ringing));
    assert_eq!(disconnected(&queue).await, RedisFailure::TimedOut);

    proxy.turn_to(server.port).await;
    connected(&queue).await;
    queue.record(event(&begun, CallEventKind::Answered));
    eventually("what came later is written", async || {
        server.call(&begun, "state").await.as_deref() == Some("answered")
    })
    .await;
    let events = server.events().await;
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str()).collect();
    let expected = [
        "call.ringing",
        "call.ended",
        "call.ringing",
        "call.answered",
    ];
    assert_eq!(names, expected);
    assert_eq!(
        server.call(&over, "outcome").await.as_deref(),
        Some("caller-hung-up")
    );
    let open: Vec<String> = server.query("SMEMBERS bridge:n:calls").await;
    assert_eq!(open, [begun.as_str()]);
}

#[tokio::test]
async fn a_push_whose_answer_was_lost_is_done_again_and_only_once() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    let first = job();
    proxy.set(Mode::Mute);
    let pushing = tokio::spawn({
        let (queue, first) = (queue.clone(), first.clone());
        async move { queue.push(&first).await }
    });
    eventually("it arrives", async || server.waiting().await.len() == 1).await;
    proxy.set(Mode::Cut);
    let error = pushing.await.unwrap().unwrap_err();
    assert!(queue.is_interrupted(&error), "{error}");
    proxy.set(Mode::Pass);
    // While it reconnects, and until it is given up as away.
    let again = job();
    eventually("it is pushed", async || match queue.push(&again).await {
        Ok(()) => true,
        Err(error) => {
            assert!(queue.is_interrupted(&error), "{error}");
            false
        }
    })
    .await;
    assert_eq!(server.waiting().await, [again.facts.id.to_string()]);

    // A Redis that stays away is no interruption.
    proxy.set(Mode::Cut);
    disconnected(&queue).await;
    eventually("it counts as away", async || {
        let error = queue.push(&job()).await.unwrap_err();
        !queue.is_interrupted(&error)
    })
    .await;
}
