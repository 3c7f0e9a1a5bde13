//! Any order of events, from a printed seed: whatever trunk, caller, worker and
//! Redis do, each call ends exactly once and nothing is left.
//!
//! `SEED=n cargo test --test scenarios random` repeats a run, as far as the
//! machine's own timing allows.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};
use sipbridge::bridge::call_store::CallRequest;
use sipbridge::bridge::place::NewCall;
use sipbridge::core::call::AnswerMode;
use sipbridge::core::media_link::{Codec, Direction};
use sipbridge::core::private::Private;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite::Message;

use super::caller::Caller;
use super::harness::worker::QUEUE;
use super::harness::{dial, sound};
use super::placed::new_call;
use super::stage::{Setup, Stage};

/// Calls in a run, and how many workers wait for them.
const CALLS: usize = 150;
const WORKERS: usize = 12;
/// Longest pause between two steps of anybody, in microseconds.
const PAUSE_US: u64 = 20_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_order_of_events_ends_each_call_once_answered_at_once() {
    play(AnswerMode::Immediate, "+33144556677").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn any_order_of_events_ends_each_call_once_answered_on_worker() {
    play(AnswerMode::OnWorker, "+33144556678").await;
}

async fn play(answer: AnswerMode, fallback: &'static str) {
    let given = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed = given.unwrap_or_else(|| rand::rng().random::<u64>());
    println!("SEED={seed}");
    let setup = Setup::queue().with(|settings| {
        settings.answer = answer;
        settings.worker_timeout = Duration::from_millis(400);
        settings.max_duration = Some(Duration::from_secs(3));
        settings.media_timeout = Some(Duration::from_millis(700));
    });
    let stage = setup.fallback_number(fallback).start().await;
    let random = |part: usize| SmallRng::seed_from_u64(seed.wrapping_add(part as u64));
    let callers = async {
        let calls = (0..CALLS).map(|number| caller(&stage, random(number), number));
        futures_util::future::join_all(calls).await;
    };
    let workers = (0..WORKERS).map(|number| work(&stage, random(CALLS + number)));
    tokio::select! {
        () = callers => {}
        _ = futures_util::future::join_all(workers) => unreachable!(),
    }
    // Whoever is still up has forgotten to hang up.
    stage.context.shutdown.end_calls();
    let outcomes = stage.finish().await;
    assert_eq!(outcomes.len(), CALLS);
    let mut kinds = outcomes;
    kinds.sort();
    kinds.dedup();
    println!("outcomes seen: {kinds:?}");
    assert!(kinds.len() >= 4, "the run was too uniform: {kinds:?}");
}

async fn pause(random: &mut SmallRng) {
    sleep(Duration::from_micros(random.random_range(0..PAUSE_US))).await;
}

/// One caller and his trunk.
async fn caller(stage: &Stage, mut random: SmallRng, number: usize) {
    sleep(Duration::from_millis(20 * number as u64)).await;
    let caller = if random.random_range(0..3) == 0 {
        let Some(callee) = placed_call(stage, &mut random).await else {
            return;
        };
        callee
    } else {
        stage.call()
    };
    for _ in 0..random.random_range(0..60) {
        pause(&mut random).await;
        step(&caller, &mut random);
        request(stage, &mut random).await;
    }
    match random.random_range(0..8) {
        0 => caller.fail(408),
        1 => {}
        _ => caller.hang_up(),
    }
}

/// Somebody whom the bridge calls: he refuses, or answers at some time.
async fn placed_call(stage: &Stage, random: &mut SmallRng) -> Option<Caller> {
    let call = NewCall {
        ring_timeout: Duration::from_millis(random.random_range(1..400)),
        ..new_call()
    };
    // With others in between, it may be anybody's.
    stage.place(call).await.unwrap();
    let callee = loop {
        if let Some(callee) = stage.take_callee() {
            break callee;
        }
        pause(random).await;
    };
    for _ in 0..random.random_range(0..20) {
        pause(random).await;
        match random.random_range(0..12) {
            0..4 => callee.ring(),
            4 => callee.progress(183),
            5 => {
                callee.refuse(486);
                return None;
            }
            _ => {}
        }
    }
    callee.answer();
    Some(Caller::new(callee.into_call()))
}

/// Somebody asks something of some call.
async fn request(stage: &Stage, random: &mut SmallRng) {
    let request = match random.random_range(0..60) {
        0..3 => CallRequest::Hold,
        3..6 => CallRequest::Resume,
        6 => CallRequest::Transfer(Private::new("+33144556677")),
        7..9 => CallRequest::Dtmf("12#".into()),
        9 if random.random_range(0..4) == 0 => CallRequest::Hangup,
        _ => return,
    };
    let calls = stage.context.calls.list();
    let up: Vec<_> = calls
        .iter()
        .filter(|call| !call.state.status.is_final())
        .collect();
    if let Some(call) = up.get(random.random_range(0..up.len().max(1))) {
        let _ = stage.context.calls.ask(&call.facts.id, request).await;
    }
}

fn step(caller: &Caller, random: &mut SmallRng) {
    match random.random_range(0..40) {
        0 => caller.direction(Direction::Inactive),
        1 => caller.direction(Direction::RecvOnly),
        2..=4 => caller.direction(Direction::SendRecv),
        5 => caller.media(|format| {
            format.codec = Codec::Pcma;
            format.send_payload_type = 8;
        }),
        6 => caller.media(|format| {
            format.codec = Codec::Pcmu;
            format.send_payload_type = 0;
            format.send_event_type = None;
        }),
        7 => caller.digit('5'),
        8 => caller.transfer_progress(100, random.random()),
        9 => caller.transfer_progress(200, random.random()),
        10 => caller.transfer_progress(603, random.random()),
        16 => caller.refuse_holds(random.random::<bool>().then_some(491)),
        11 => caller.refuse_sends(random.random::<bool>().then_some(1)),
        12..=14 => {
            let mut bytes = vec![0; random.random_range(0..200)];
            random.fill(&mut bytes[..]);
            caller.send_rtp(&bytes, Instant::now());
        }
        15 => drop(caller.packets()),
        _ => drop(caller.say_one(&sound::numbered_frame(random.random_range(0..99)))),
    }
}

/// Takes jobs for ever.
async fn work(stage: &Stage, mut random: SmallRng) {
    loop {
        let taken: Option<(String, String)> = stage.redis().query(&["BRPOP", QUEUE, "0.1"]).await;
        let Some((_, job)) = taken else { continue };
        // Some jobs are lost with their worker.
        if random.random_ratio(1, 8) {
            continue;
        }
        pause(&mut random).await;
        let job: Value = serde_json::from_str(&job).unwrap();
        serve(&job, &mut random).await;
    }
}

async fn serve(job: &Value, random: &mut SmallRng) {
    let Ok(mut socket) = dial(job["audioStreamUrl"].as_str().unwrap()).await else {
        return;
    };
    let mut ended = 0;
    for _ in 0..random.random_range(0..50) {
        let heard = timeout(
            Duration::from_micros(random.random_range(0..PAUSE_US)),
            socket.next(),
        );
        match heard.await {
            Ok(Some(Ok(Message::Text(text)))) => {
                let message: Value = serde_json::from_str(&text).unwrap();
                assert_eq!(ended, 0, "after stop: {message}");
                ended += u32::from(message["event"] == "stop");
            }
            Ok(_) => return,
            Err(_) => {}
        }
        let message = message(&job["streamSid"], random);
        if socket.send(message).await.is_err() {
            return;
        }
    }
    if random.random() {
        let _ = timeout(Duration::from_secs(2), socket.close(None)).await;
    }
}

fn message(stream: &Value, random: &mut SmallRng) -> Message {
    let event = |name: &str| json!({"event": name, "streamSid": stream});
    let body = match random.random_range(0..60) {
        0 => event("hangup"),
        1 => event("stop"),
        2 => json!({"event": "transfer", "streamSid": stream, "transfer": {"destination": "+331"}}),
        3..=5 => json!({"event": "dtmf", "streamSid": stream, "dtmf": {"digits": "12#"}}),
        6..=12 => event("clear"),
        13..=24 => json!({"event": "mark", "streamSid": stream, "mark": {"name": "m"}}),
        25 => return Message::binary(vec![0; 100]),
        26 => return Message::text("{"),
        27 => return Message::Ping(vec![1, 2, 3].into()),
        28 => return Message::Close(None),
        _ => {
            let payload = "AAECAwQF".repeat(random.random_range(0..200));
            json!({"event": "media", "streamSid": stream, "media": {"payload": payload}})
        }
    };
    Message::text(body.to_string())
}
