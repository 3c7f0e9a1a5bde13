//! Draining: the first SIGTERM takes no call away from anybody.

use std::time::{Duration, Instant};

use crate::harness::bridge::{NUMBER, PASSWORD, Setup, USERNAME, tail};
use crate::harness::peers::{TrunkLine, local};
use crate::harness::sdp::Offer;
use crate::harness::{Bridge, Caller, Exit, Kamailio, Redis, SOON, Worker, sound, until};

const TRUNK: &[TrunkLine<'_>] = &[TrunkLine {
    username: USERNAME,
    password: PASSWORD,
    number: NUMBER,
}];

/// Sends TERM and waits until the bridge says that it drains.
async fn drain(bridge: &Bridge) {
    bridge.process.signal("TERM");
    until(SOON, "draining", async || {
        bridge.health().await.json()["status"] == "draining"
    })
    .await;
}

/// What a caller who is new now gets.
async fn new_call(port: u16) -> crate::harness::sip::Message {
    let mut call = Caller::invite(local(port), NUMBER, Offer::usual()).await;
    call.final_response().await
}

/// The bridge must end by itself, soon, with 0 and nothing left.
async fn ends(bridge: &mut Bridge) {
    let exit = bridge.exit(SOON).await;
    assert_eq!(
        exit,
        Exit { code: Some(0) },
        "{}",
        tail(&bridge.output(), 40)
    );
    bridge.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_bit_for_bit_and_the_bridge_ends_with_it() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &[]);
    let mut bridge = Setup::queue(&redis)
        .args(&["--shutdown-timeout", "1"])
        .trunk(trunk.port)
        .start()
        .await;
    until(SOON, "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;
    let mut call = Caller::connect(local(trunk.port), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    // Five seconds each way, in the middle of which the bridge is told to stop.
    let (question, reply) = (
        sound::numbered(0, 250),
        sound::numbered(5_000, 250).concat(),
    );
    worker.media(&reply);
    let mut player = call.player();
    let told = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drain(&bridge).await;
        until(SOON, "others read that it drains", async || {
            let state: Option<String> = redis.query(&["GET", "bridge:node-e2e:state"]).await;
            state.as_deref() == Some("draining")
        })
        .await;
        let health = bridge.health().await;
        assert_eq!(
            (health.status, health.json()["calls"]["active"].as_u64()),
            (503, Some(1))
        );
        let refused = new_call(bridge.sip_port).await;
        assert_eq!(refused.status(), Some(503), "{}", refused.start);
        assert!(refused.header("Retry-After").is_some());
        until(SOON, "the line unregisters", async || {
            new_call(trunk.port).await.status() == Some(404)
        })
        .await;
    };
    tokio::join!(player.play(&question), told);
    worker.hears(&question.concat(), SOON).await;
    call.rtp.hears(&reply, SOON).await;
    assert_eq!(call.ended_at(), None, "nobody has hung up");
    assert_eq!(worker.close_code(), None);

    call.bye().await;
    worker.listen_to_end().await;
    worker.assert_numbered();
    assert_eq!(worker.close_code(), Some(1000), "its call is over");
    ends(&mut bridge).await;
    assert!(bridge.output().contains("drained: no call is left"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_waits_gets_his_worker_and_the_watchdog_its_patience() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis)
        .args(&["--shutdown-timeout", "0.1"])
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    drain(&bridge).await;
    // Longer than the watchdog gives a shutdown: 0.1 s and 8.
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    let mut worker = Worker::serve(&redis).await;
    let (question, reply) = (sound::numbered(0, 25), sound::numbered(700, 25).concat());
    worker.media(&reply);
    call.player().play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.rtp.hears(&reply, SOON).await;
    call.bye().await;
    ends(&mut bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_when_the_time_is_over_is_hung_up_and_not_before() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis)
        .args(&["--drain-timeout", "3", "--shutdown-timeout", "2"])
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let told = Instant::now();
    drain(&bridge).await;
    let ended = call.ended_by_bridge(Duration::from_secs(15)).await;
    // The last second belongs to the BYEs.
    let after = ended.duration_since(told);
    assert!(after >= Duration::from_secs(4), "after {after:?}");
    worker.listen_to_end().await;
    assert_eq!(worker.all("stop").len(), 1);
    assert_eq!(worker.close_code(), Some(1001), "going away");
    ends(&mut bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_calls_it_is_down_at_once() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis).start().await;
    let told = Instant::now();
    bridge.process.signal("TERM");
    assert_eq!(bridge.exit(SOON).await, Exit { code: Some(0) });
    assert!(
        told.elapsed() < Duration::from_secs(4),
        "no waiting for nobody"
    );
    bridge.assert_nothing_left();
}
