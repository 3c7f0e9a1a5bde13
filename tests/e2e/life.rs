//! The life of a call in queue and push mode: who rings, who answers, who
//! hangs up, and what happens when nobody is there.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::sdp::Offer;
use crate::harness::worker::QUEUE;
use crate::harness::{Caller, Job, Redis, SOON, Worker, sound, until};

#[tokio::test(flavor = "multi_thread")]
async fn on_worker_rings_until_the_worker_is_there() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--answer", "on-worker"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    let worker = Worker::serve(&redis).await;
    let attached = Instant::now();
    call.answered().await;
    assert!(
        attached.elapsed() < Duration::from_millis(500),
        "answered at once"
    );
    worker.media(&sound::numbered(0, 10).concat());
    call.rtp.hears(&sound::numbered(0, 10).concat(), SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn immediate_answers_first_and_sounds_ringback() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--answer", "immediate"])
        .start()
        .await;
    let invited = Instant::now();
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    assert!(invited.elapsed() < Duration::from_millis(1_000));
    until(SOON, "ringback", async || {
        !sound::is_silence(&call.rtp.audio()) && call.rtp.heard().len() > 20
    })
    .await;
    let mut worker = Worker::serve(&redis).await;
    // Ringback ends with the worker's arrival.
    worker.listen(Duration::from_millis(100)).await;
    let before = call.rtp.audio().len();
    worker.listen(Duration::from_millis(500)).await;
    assert!(
        sound::is_silence(&call.rtp.audio()[before..]),
        "ringback went on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_first_leaves_no_job() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let length = async || redis.query::<i64>(&["LLEN", QUEUE]).await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut other = Caller::connect(bridge.sip(), NUMBER).await;
    until(SOON, "two jobs", async || length().await == 2).await;
    call.bye().await;
    until(SOON, "the dead call's job is removed", async || {
        length().await == 1
    })
    .await;
    // The one that is left is the other's, and still good.
    let mut worker = Worker::serve(&redis).await;
    other.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_leaves_no_job() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--answer", "on-worker"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    until(SOON, "the job", async || {
        redis.query::<i64>(&["LLEN", QUEUE]).await == 1
    })
    .await;
    call.cancel().await;
    until(SOON, "the job is removed", async || {
        redis.query::<i64>(&["LLEN", QUEUE]).await == 0
    })
    .await;
    until(SOON, "no call in progress", async || {
        let health = bridge.health().await;
        health.json().to_string().contains("\"calls\":0")
            || redis
                .query::<Option<String>>(&["GET", "bridge:node-e2e:active_calls"])
                .await
                .as_deref()
                == Some("0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retransmitted_invite_is_one_call() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--answer", "on-worker"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    for _ in 0..3 {
        call.provisional(180).await;
        call.repeat_invite().await;
    }
    let job = Job::take(&redis).await;
    call.provisional(180).await;
    assert_eq!(redis.query::<i64>(&["LLEN", QUEUE]).await, 0, "one job");
    let mut worker = Worker::attach(&job).await;
    call.answered().await;
    call.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn first_call_in_is_first_served() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let mut calls = Vec::new();
    for index in 0_i64..3 {
        calls.push(Caller::connect(bridge.sip(), NUMBER).await);
        until(SOON, "its job", async || {
            redis.query::<i64>(&["LLEN", QUEUE]).await == index + 1
        })
        .await;
    }
    let mut workers = Vec::new();
    for (index, call) in calls.iter().enumerate() {
        let worker = Worker::serve(&redis).await;
        let greeting = sound::numbered(u32::try_from(index).unwrap() * 100, 5).concat();
        worker.media(&greeting);
        call.rtp.hears(&greeting, SOON).await;
        // One that went would have its call queued again, before the others.
        workers.push(worker);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn push_mode_dials_the_worker() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/media", listener.local_addr().unwrap());
    let bridge = Setup::new().args(&["--ws-target", &url]).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER);
    let (mut call, mut worker) = tokio::join!(call, Worker::accept(&listener));
    assert_eq!(worker.start()["start"]["tracks"], json!(["inbound"]));
    let (question, reply) = (sound::numbered(0, 40), sound::numbered(500, 40).concat());
    worker.media(&reply);
    call.player().play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.rtp.hears(&reply, SOON).await;
    call.bye().await;
    worker.listen_to_end().await;
    assert_eq!(worker.all("stop").len(), 1);
    worker.assert_numbered();
}

/// Redis coordinates, and hears of calls; the workers are dialled.
#[tokio::test(flavor = "multi_thread")]
async fn push_mode_beside_a_redis_pushes_no_job() {
    let redis = Redis::start();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/media", listener.local_addr().unwrap());
    let bridge = Setup::queue(&redis)
        .args(&["--ws-target", &url, "--dispatch", "push"])
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER);
    let (mut call, mut worker) = tokio::join!(call, Worker::accept(&listener));
    let jobs: u64 = redis.query(&["LLEN", "queue:incoming_calls"]).await;
    assert_eq!(jobs, 0);
    call.bye().await;
    worker.listen_to_end().await;
    until(SOON, "the call's events", async || {
        let events: u64 = redis.query(&["XLEN", "stream:call_events"]).await;
        events >= 2
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_absent_at_start_is_waited_for() {
    let mut redis = Redis::absent();
    let bridge = Setup::queue(&redis)
        .args(&["--worker-timeout", "2"])
        .start()
        .await;
    // Up and honest about it: calls get the fallback, not dead air.
    let health = bridge.health().await;
    assert_eq!(health.status, 503, "{}", health.body);
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    match call.final_response().await.status().unwrap() {
        200 => {
            call.ended_by_bridge(Duration::from_secs(20)).await;
        }
        status => assert!(matches!(status, 480 | 503), "{status}"),
    }

    redis.come_up();
    until(Duration::from_secs(20), "healthy again", async || {
        bridge.health().await.status == 200
    })
    .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    call.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_in_progress_outlives_redis() {
    let mut redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    redis.go_away();
    tokio::time::sleep(Duration::from_millis(500)).await;
    let question = sound::numbered(0, 50);
    call.player().play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.bye().await;
    worker.listen_to_end().await;
    assert!(bridge.health().await.status > 0, "still answering");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_drops_or_never_reads_harms_no_other_call() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(Caller::connect(bridge.sip(), NUMBER).await);
    }
    let dropped = Worker::serve(&redis).await;
    let mut kept = Worker::serve(&redis).await;
    dropped.media(&sound::numbered(0, 500).concat());
    drop(dropped);
    let question = sound::numbered(0, 50);
    for call in &calls {
        let mut player = call.player();
        let question = question.clone();
        tokio::spawn(async move { player.play(&question).await });
    }
    kept.hears(&question.concat(), SOON).await;
    kept.assert_numbered();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_limited_and_counted() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--max-concurrent-calls", "1"])
        .start()
        .await;
    let mut first = Caller::connect(bridge.sip(), NUMBER).await;
    let mut second = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let refused = second.final_response().await;
    assert_eq!(refused.status(), Some(503), "{}", refused.start);
    assert!(refused.header("Retry-After").is_some());
    first.bye().await;
    until(SOON, "the place is free again", async || {
        let mut third = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        third.final_response().await.status() == Some(200)
    })
    .await;
    let job = Job::take(&redis).await;
    assert_eq!(job.json["attempt"], 1);
}
