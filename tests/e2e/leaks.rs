//! What calls leave behind: nothing. File descriptors, threads and the count
//! of calls return to where they were, however the calls ended.

use std::time::Duration;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::sdp::Offer;
use crate::harness::{Caller, Redis, SOON, Worker, sound, until};

/// Entries of a folder of `/proc/PID`.
fn count(pid: u32, what: &str) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/{what}"))
        .unwrap()
        .count()
}

/// One call; the way it ends depends on its number.
async fn one_call(bridge: std::net::SocketAddr, redis: &Redis, number: usize) {
    if number % 5 == 4 {
        let mut refused = Caller::invite(bridge, "+33900000000", Offer::usual()).await;
        assert_eq!(refused.final_response().await.status(), Some(404));
        return;
    }
    let mut call = Caller::connect(bridge, NUMBER).await;
    let mut worker = Worker::serve(redis).await;
    call.player().play(&sound::numbered(0, 5)).await;
    match number % 5 {
        0 => call.bye().await,
        1 => {
            worker.close();
            call.ended_by_bridge(SOON).await;
            return;
        }
        2 => {
            // Audio is still queued when the caller goes.
            worker.media(&sound::numbered(0, 500).concat());
            call.bye().await;
        }
        _ => {
            call.reinvite("inactive").await;
            call.bye().await;
        }
    }
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_calls_leave_no_descriptor_and_no_thread() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let idle = async || {
        until(SOON, "no call in progress", async || {
            let calls: Option<String> = redis.query(&["GET", "bridge:node-e2e:active_calls"]).await;
            calls.as_deref() == Some("0")
        })
        .await;
        tokio::time::sleep(Duration::from_millis(500)).await;
    };
    // The first round opens what stays open: the Redis connections, say.
    for number in 0..5 {
        one_call(bridge.sip(), &redis, number).await;
    }
    idle().await;
    let (files, threads) = (count(bridge.pid(), "fd"), count(bridge.pid(), "task"));
    for number in 0..40 {
        one_call(bridge.sip(), &redis, number).await;
    }
    idle().await;
    let (files_after, threads_after) = (count(bridge.pid(), "fd"), count(bridge.pid(), "task"));
    assert!(
        files_after <= files + 1,
        "{files} descriptors before, {files_after} after"
    );
    // tokio may add a blocking thread and let it go again.
    assert!(
        threads_after <= threads + 1,
        "{threads} threads before, {threads_after} after"
    );
    bridge.shut_down().await;
}
