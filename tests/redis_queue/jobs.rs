//! Jobs: pushed, replaced, removed.

use std::time::{Duration, Instant};

use redis::AsyncCommands;
use sipbridge::queue::{QueueError, RedisFailure};

use crate::proxy::{Mode, Proxy};
use crate::stage::{QUEUE, Server, connected, disconnected, eventually, job, next_attempt, take};

#[tokio::test]
async fn jobs_are_taken_first_in_first_out_and_a_resumed_one_first() {
    let server = Server::started().await;
    let queue = server.queue("node-a").await;
    let (first, second, resumed) = (job(), job(), job());
    queue.push(&first).await.unwrap();
    queue.push(&second).await.unwrap();
    queue.replace(&job(), &resumed).await.unwrap();

    let mut redis = server.connect().await;
    for expected in [&resumed, &first, &second] {
        let taken = take(&mut redis).await;
        assert_eq!(taken["callId"], expected.facts.id.as_str());
        assert_eq!(taken["bridgeNodeId"], "node-a");
        assert_eq!(taken["audioStreamUrl"], expected.stream_url.expose());
        assert!(taken.get("to").is_none());
    }
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
        server.waiting().await == [alive.facts.id.as_str()]
    })
    .await;
    let mut redis = server.connect().await;
    assert_eq!(take(&mut redis).await["callId"], alive.facts.id.as_str());
}

#[tokio::test]
async fn a_replaced_job_is_gone_and_the_new_one_is_next() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (lost, other) = (job(), job());
    queue.push(&other).await.unwrap();
    queue.push(&lost).await.unwrap();
    let again = next_attempt(&lost);
    queue.replace(&lost, &again).await.unwrap();
    assert_eq!(
        server.waiting().await,
        [lost.facts.id.as_str(), other.facts.id.as_str()]
    );
    let mut redis = server.connect().await;
    let taken = take(&mut redis).await;
    assert_eq!(taken["attempt"], 2);
    assert_eq!(taken["audioStreamUrl"], again.stream_url.expose());
    // A copy that Redis brought back, more than once.
    let third = next_attempt(&again);
    let copy = serde_json::to_string(&taken).unwrap();
    queue.push(&again).await.unwrap();
    let jobs: Vec<String> = redis.lrange(QUEUE, 0, 0).await.unwrap();
    assert_eq!(jobs[0].len(), copy.len());
    let () = redis.rpush(QUEUE, &jobs[0]).await.unwrap();
    queue.replace(&again, &third).await.unwrap();
    assert_eq!(
        server.waiting().await,
        [lost.facts.id.as_str(), other.facts.id.as_str()]
    );
    assert_eq!(take(&mut redis).await["attempt"], 3);
}

#[tokio::test]
async fn a_job_whose_replacement_failed_is_removed_as_well() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    let old = job();
    queue.push(&old).await.unwrap();

    // The answer gets lost: the new job is in the queue, and must not stay.
    proxy.set(Mode::Mute);
    let (started, again) = (Instant::now(), next_attempt(&old));
    queue.replace(&old, &again).await.unwrap_err();
    assert!(started.elapsed() < Duration::from_millis(1_300));
    assert_eq!(server.waiting().await, [old.facts.id.as_str()]);
    assert_eq!(disconnected(&queue).await, RedisFailure::TimedOut);
    let started = Instant::now();
    let error = queue.replace(&old, &next_attempt(&old)).await.unwrap_err();
    assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_millis(300));

    proxy.turn_to(server.port).await;
    connected(&queue).await;
    eventually("neither is left", async || {
        server.waiting().await.is_empty()
    })
    .await;
}
