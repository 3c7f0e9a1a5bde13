//! SIPp as a foreign caller: one test per scenario of `tests/real/sipp`.

use serde_json::json;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::sipp::Sipp;
use crate::harness::worker::QUEUE;
use crate::harness::{Caller, Redis, SOON, Worker, sound, until};

/// Runs a scenario that needs nothing but a bridge with a queue; afterwards no
/// call and no job may be left.
async fn pass(scenario: &str, args: &[&str]) {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).args(args).start().await;
    Sipp::new(scenario, NUMBER).pass(bridge.sip()).await;
    assert_idle(&redis).await;
    bridge.shut_down().await;
}

async fn assert_idle(redis: &Redis) {
    until(SOON, "no job and no call is left", async || {
        let jobs: i64 = redis.query(&["LLEN", QUEUE]).await;
        let calls: Option<String> = redis.query(&["GET", "bridge:node-e2e:active_calls"]).await;
        jobs == 0 && calls.is_none_or(|count| count == "0")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn speech_reaches_the_worker_bit_for_bit() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let speech = sound::numbered(0, 100).concat();
    let sipp = Sipp::new("call_pcmu", NUMBER).speech(&speech);
    let listen = async {
        let mut worker = Worker::serve(&redis).await;
        worker.listen_to_end().await;
        worker
    };
    let (worker, ()) = tokio::join!(listen, sipp.pass(bridge.sip()));
    assert!(
        sound::contains(&worker.audio(), &speech),
        "2 s of speech, unbroken"
    );
    worker.assert_numbered();
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_worker_says_comes_back_bit_for_bit() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let reply = sound::numbered(0, 100).concat();
    let sipp = Sipp::new("call_echo", NUMBER).args(&["-rtp_echo"]);
    let talk = async {
        let mut worker = Worker::serve(&redis).await;
        worker.media(&reply);
        worker.listen_to_end().await;
        worker
    };
    let (worker, ()) = tokio::join!(talk, sipp.pass(bridge.sip()));
    assert!(
        sound::contains(&worker.audio(), &reply),
        "SIPp echoed 2 s, unbroken"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_tcp() {
    let redis = Redis::start();
    let mut setup = Setup::queue(&redis);
    setup.transport = "tcp";
    let bridge = setup.start().await;
    let speech = sound::numbered(0, 50).concat();
    let sipp = Sipp::new("call_pcmu", NUMBER)
        .speech(&speech)
        .args(&["-t", "t1"]);
    sipp.pass(bridge.sip()).await;
    assert_idle(&redis).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_ends_the_call() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let sipp = Sipp::new("call_ended_by_bridge", NUMBER);
    let hang_up = async {
        let worker = Worker::serve(&redis).await;
        worker.media(&sound::numbered(0, 20).concat());
        worker.close();
        worker
    };
    tokio::join!(hang_up, sipp.pass(bridge.sip()));
}

#[tokio::test(flavor = "multi_thread")]
async fn pcma_only() {
    pass("pcma_only", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pcmu_in_a_long_list() {
    pass("pcmu_in_long_list", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_common_codec_is_488() {
    pass("no_common_codec", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_line_is_404_and_never_a_job() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    Sipp::new("unknown_line", "+33900000000")
        .pass(bridge.sip())
        .await;
    assert_eq!(redis.query::<i64>(&["LLEN", QUEUE]).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_line_is_486_or_503() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .line_field("maxConcurrentCalls", json!(1))
        .start()
        .await;
    let mut first = Caller::connect(bridge.sip(), NUMBER).await;
    Sipp::new("line_full", NUMBER).pass(bridge.sip()).await;
    first.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_bridge_is_503_with_retry_after() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--max-concurrent-calls", "1"])
        .start()
        .await;
    let mut first = Caller::connect(bridge.sip(), NUMBER).await;
    Sipp::new("bridge_full", NUMBER).pass(bridge.sip()).await;
    first.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancel_while_ringing() {
    pass("cancel_while_ringing", &["--answer", "on-worker"]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn reinvite_hold_and_resume() {
    pass("reinvite_hold_resume", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn update_and_session_timer() {
    pass("update_session_timer", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn session_interval_too_small_is_422() {
    pass("session_interval_too_small", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dtmf_by_info_reaches_the_worker() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let listen = async {
        let mut worker = Worker::serve(&redis).await;
        worker.listen_to_end().await;
        worker
    };
    let sipp = Sipp::new("info_dtmf", NUMBER);
    let (worker, ()) = tokio::join!(listen, sipp.pass(bridge.sip()));
    let digits = worker.all("dtmf");
    let digits: Vec<_> = digits
        .iter()
        .map(|heard| &heard.json["dtmf"]["digit"])
        .collect();
    assert_eq!(digits, ["5", "#"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn options_is_answered() {
    pass("options", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_sdp_is_refused() {
    pass("bad_sdp", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_invite_without_offer_gets_one() {
    pass("no_offer", &[]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bye_at_once() {
    pass("bye_at_once", &[]).await;
}
