//! Workers that never come, or are lost in mid-call: who gets the call next, what
//! he gets of it, and what the caller hears meanwhile (`sipbridge::guide::call_queue`, 4 and 5).

use std::time::{Duration, Instant};

use serde_json::json;
use sipbridge::core::private::Private;
use tokio::net::TcpListener;

use super::caller::Caller;
use super::harness::worker::QUEUE;
use super::harness::{Job, SOON, Worker, dial, sound, until};
use super::stage::{Setup, Stage, announcement, hold};
use super::streaming::talking;

/// Soon enough for a test, late enough for a worker of a test.
const CLAIM: Duration = Duration::from_millis(700);

/// Hold audio: its first frame.
fn hold_begins() -> Vec<u8> {
    hold()[..sound::FRAME].to_vec()
}

async fn taken_over(stage: &Stage) -> (Caller, Worker) {
    let (caller, worker) = talking(stage).await;
    drop(worker);
    let worker = Worker::serve(stage.redis()).await;
    (caller, worker)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced_by_the_next_who_hears_the_last_five_seconds_first() {
    let stage = Setup::queue().start().await;
    let (caller, mut lost) = talking(&stage).await;
    // 6 s of the caller, of which the next worker gets 5.
    let before = sound::numbered(0, 300);
    for words in before.chunks(50) {
        caller.say(words);
        lost.hears(&words.concat(), SOON).await;
    }
    let reply = sound::numbered(1_000, 500).concat();
    lost.media(&reply);
    lost.mark("never echoed");
    caller.hears("the reply", &reply[..5 * sound::FRAME]).await;
    let (call, stream) = (lost.call_sid.clone(), lost.stream_sid.clone());
    let heard = caller.packets().len();
    drop(lost);
    caller.hears("hold audio", &hold_begins()).await;
    let at = sound::position(&caller.audio(), &hold_begins()).unwrap() / sound::FRAME;
    assert!(at < heard + 5, "hold audio within 100 ms: {heard}, {at}");

    let job = Job::take(stage.redis()).await;
    assert_eq!(job.json["attempt"], 2);
    assert_eq!(job.json["resumed"], true);
    assert_eq!(job.text("callId"), call);
    caller.say(&sound::numbered(300, 20));
    let mut next = Worker::attach(&job).await;
    assert_eq!(next.call_sid, call);
    assert_eq!(next.stream_sid, job.text("streamSid"));
    assert_ne!(next.stream_sid, stream);
    assert_eq!(next.start()["start"]["customParameters"]["resumed"], "true");
    next.hears(&sound::numbered(50, 270).concat(), SOON).await;
    caller.say(&sound::numbered(320, 20));
    next.hears(&sound::numbered(50, 290).concat(), SOON).await;
    next.assert_numbered();
    assert!(sound::position(&next.audio(), &sound::numbered_frame(49)).is_none());

    let answer = sound::numbered(2_000, 20).concat();
    next.media(&answer);
    next.mark("mine");
    assert_eq!(next.next_of("mark").await.json["mark"]["name"], "mine");
    caller.hears("the next worker", &answer).await;
    let late = sound::numbered_frame(1_200);
    assert!(
        !sound::contains(&caller.audio(), &late),
        "of the lost worker"
    );
    caller.hang_up();
    next.listen_to_end().await;
    drop(next);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resumed_call_comes_before_those_that_wait() {
    let stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    let call = worker.call_sid.clone();
    let waiting = stage.call();
    until("the other job", async || stage.jobs().await == 1).await;
    drop(worker);
    until("both jobs", async || stage.jobs().await == 2).await;
    assert_eq!(Job::take(stage.redis()).await.text("callId"), call);
    caller.hang_up();
    waiting.hang_up();
    let mut outcomes = stage.finish().await;
    outcomes.sort();
    assert_eq!(outcomes, ["abandoned", "caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn in_push_mode_the_worker_is_dialled_again() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Setup::dial(&listener).start().await;
    let caller = stage.call();
    let mut worker = Worker::accept(&listener).await;
    let words = sound::numbered(0, 50);
    caller.say(&words);
    worker.hears(&words.concat(), SOON).await;
    let lost_at = Instant::now();
    drop(worker);
    caller.hears("hold audio", &hold_begins()).await;
    let mut next = Worker::accept(&listener).await;
    assert!(lost_at.elapsed() >= Duration::from_millis(250));
    assert_eq!(next.start()["start"]["customParameters"]["resumed"], "true");
    next.hears(&words.concat(), SOON).await;
    next.close();
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    drop(next);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn in_push_mode_a_worker_that_stays_away_is_followed_by_the_fallback() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Setup::dial(&listener).start().await;
    let caller = stage.call();
    let worker = Worker::accept(&listener).await;
    caller.answered().await;
    drop(listener);
    let lost_at = Instant::now();
    drop(worker);
    caller.hears("the announcement", &announcement()).await;
    // 0.25, 0.5, 1 and 2 s.
    assert!(lost_at.elapsed() >= Duration::from_millis(3_750));
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_nobody_dials_is_pushed_again_with_a_token_of_its_own_then_the_fallback() {
    let setup = Setup::queue().with(|settings| settings.claim_timeout = CLAIM);
    let stage = setup.start().await;
    let caller = stage.call();
    let mut jobs = Vec::new();
    for attempt in 1..=3 {
        let job = Job::take(stage.redis()).await;
        assert_eq!(job.json["attempt"], attempt);
        assert_eq!(job.json["resumed"], false);
        jobs.push(job);
    }
    assert_eq!(dial(jobs[0].url()).await.err(), Some(401), "an old token");
    assert_ne!(jobs[0].token(), jobs[1].token());
    assert_ne!(jobs[0].text("streamSid"), jobs[1].text("streamSid"));
    caller.hears("the announcement", &announcement()).await;
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    let events = stage.events().await;
    let queued: Vec<_> = events.iter().filter(|e| e.name == "call.queued").collect();
    let reasons: Vec<_> = queued.iter().map(|e| e.field("reason")).collect();
    assert_eq!(reasons, [None, Some("not-claimed"), Some("not-claimed")]);
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_waits_for_a_worker_is_not_pushed_again() {
    let setup = Setup::queue().with(|settings| settings.claim_timeout = CLAIM);
    let stage = setup.start().await;
    let caller = stage.call();
    until("the job", async || stage.jobs().await == 1).await;
    tokio::time::sleep(CLAIM + Duration::from_millis(600)).await;
    let mut worker = Worker::serve(stage.redis()).await;
    assert!(worker.start()["start"]["customParameters"]["resumed"].is_null());
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_costs_one_worker_after_the_other_gets_the_fallback() {
    let stage = Setup::queue().start().await;
    let (caller, second) = taken_over(&stage).await;
    drop(second);
    let third = Worker::serve(stage.redis()).await;
    drop(third);
    caller.hears("the announcement", &announcement()).await;
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    let events = stage.events().await;
    let rungs: Vec<_> = events
        .iter()
        .filter(|e| e.name == "call.fallback")
        .collect();
    let told = rungs.iter().map(|e| (e.field("rung"), e.field("reason")));
    let told: Vec<_> = told
        .map(|(rung, why)| (rung.unwrap(), why.unwrap()))
        .collect();
    assert_eq!(
        told,
        [
            ("announcement", "max-attempts"),
            ("hangup", "no-fallback-number")
        ]
    );
    assert_eq!(stage.finish().await, ["worker-lost"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_leaves_during_hold_audio_takes_the_job_with_him() {
    let stage = Setup::queue().start().await;
    for _ in 0..20 {
        let (caller, worker) = talking(&stage).await;
        drop(worker);
        until("the job", async || stage.jobs().await == 1).await;
        caller.hang_up();
        until("no job", async || stage.jobs().await == 0).await;
    }
    assert_eq!(stage.finish().await, ["caller-hung-up"; 20]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_lost_while_redis_is_away_is_replaced_when_it_is_back() {
    let mut stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    let redis = stage.redis.as_mut().unwrap();
    redis.go_away();
    drop(worker);
    caller.hears("hold audio", &hold()).await;
    stage.redis.as_mut().unwrap().come_up();
    let mut next = Worker::serve(stage.redis()).await;
    assert_eq!(next.start()["start"]["customParameters"]["resumed"], "true");
    caller.hang_up();
    next.listen_to_end().await;
    drop(next);
    until("the call is over", async || {
        stage.context.call_limiter.active() == 0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_outlives_the_worker_that_asked_for_it() {
    let stage = Setup::queue().start().await;
    let (caller, worker) = talking(&stage).await;
    worker.send(&json!({"event": "transfer", "streamSid": worker.stream_sid,
        "transfer": {"destination": "+331"}}));
    until("REFER", async || {
        caller.transfers() == [Private::new("+331")]
    })
    .await;
    drop(worker);
    caller.hears("hold audio", &hold_begins()).await;
    caller.transfer_progress(200, true);
    assert_eq!(caller.ended_by_bridge().await.status, 200);
    assert_eq!(stage.finish().await, ["transferred"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_whose_worker_attaches_is_not_left_in_the_queue_by_any_race() {
    let setup = Setup::queue().with(|settings| {
        settings.claim_timeout = Duration::from_millis(120);
        settings.max_attempts = 100;
    });
    let stage = setup.start().await;
    for round in 0..30_u64 {
        let caller = stage.call();
        // About when the bridge pushes again.
        let mut job = Job::take(stage.redis()).await;
        tokio::time::sleep(Duration::from_millis(200 + 15 * (round % 20))).await;
        let socket = loop {
            match dial(job.url()).await {
                Ok(socket) => break socket,
                Err(401) => job = Job::take(stage.redis()).await,
                Err(status) => panic!("{status}"),
            }
        };
        caller.answered().await;
        tokio::time::sleep(Duration::from_millis(150)).await;
        let left: usize = stage.redis().query(&["LLEN", QUEUE]).await;
        assert_eq!(left, 0, "round {round}");
        caller.hang_up();
        drop(socket);
    }
    assert_eq!(stage.finish().await, ["caller-hung-up"; 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_goes_away_hands_the_call_over() {
    use tokio_tungstenite::tungstenite::Message;
    use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
    let stage = Setup::queue().start().await;
    for code in [CloseCode::Away, CloseCode::Restart, CloseCode::Error] {
        let (caller, worker) = talking(&stage).await;
        let frame = CloseFrame {
            code,
            reason: "".into(),
        };
        worker.send_raw(Message::Close(Some(frame)));
        let mut next = Worker::serve(stage.redis()).await;
        assert_eq!(next.call_sid, worker.call_sid, "{code}");
        caller.hang_up();
        next.listen_to_end().await;
    }
    assert_eq!(stage.finish().await, ["caller-hung-up"; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_drops_the_connection_in_the_moment_of_a_call_costs_it_nothing() {
    let stage = Setup::queue().start().await;
    for _ in 0..3 {
        let _: u64 = stage
            .redis()
            .query(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"])
            .await;
        let (caller, mut worker) = talking(&stage).await;
        assert_eq!(stage.jobs().await, 0, "one job for a call");
        caller.hang_up();
        worker.listen_to_end().await;
    }
    let events = stage.events().await;
    assert!(events.iter().all(|event| event.name != "call.fallback"));
    let ended = ["caller-hung-up"; 3];
    assert_eq!(stage.finish().await, ended);
}
