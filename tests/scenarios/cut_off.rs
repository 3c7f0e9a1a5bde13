//! A bridge that is cut off from its cluster: another one may have its lines, and
//! the same call rings there.

use std::time::Duration;

use crate::sim::LocalEnd;
use tokio::net::TcpListener;
use tokio::time::Instant;

use super::harness::{Job, Worker, dial, sound, until};
use super::stage::{Setup, announcement};

const RING: Duration = Duration::from_millis(400);

fn short(setup: Setup) -> Setup {
    setup
        .cut_off()
        .with(|settings| settings.ring_while_cut_off = RING)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_rings_and_gets_the_fallback_then() {
    let stage = short(Setup::redis_away()).start().await;
    let began = Instant::now();
    let caller = stage.call();
    until("180", async || caller.statuses() == [180]).await;
    caller.answered().await;
    assert!(began.elapsed() >= RING, "{:?}", began.elapsed());
    assert_eq!(caller.statuses(), [180, 200]);
    let end = LocalEnd {
        status: 200,
        retry_after: None,
    };
    assert_eq!(caller.ended_by_bridge().await, end);
    assert!(sound::contains(&caller.audio(), &announcement()));
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_whom_the_other_bridge_takes_hears_nothing_of_this_one() {
    let stage = Setup::redis_away().cut_off().start().await;
    let caller = stage.call();
    until("180", async || caller.statuses() == [180]).await;
    caller.hang_up();
    until("the call is over", async || {
        stage.context.call_limiter.active() == 0
    })
    .await;
    assert_eq!(caller.statuses(), [180]);
    assert_eq!(caller.local_end(), None);
    assert!(caller.audio().is_empty());
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_back_by_then_gets_the_call() {
    let stage = short(Setup::queue()).start().await;
    let caller = stage.call();
    until("180", async || caller.statuses() == [180]).await;
    assert_eq!(stage.pushes().await, 0, "not yet");
    let job = Job::take(stage.redis()).await;
    assert_eq!(caller.statuses(), [180, 200]);
    let worker = dial(job.url()).await.expect("it is let in");
    caller.hang_up();
    drop(worker);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_dials_its_workers_has_them_all_the_same() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let setup = Setup::redis_away().or_dial(&listener).cut_off();
    let stage = setup.start().await;
    let caller = stage.call();
    let worker = Worker::accept(&listener).await;
    assert_eq!(caller.statuses(), [200]);
    caller.hang_up();
    drop(worker);
    stage.finish().await;
}
