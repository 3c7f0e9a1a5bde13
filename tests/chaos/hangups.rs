//! Callers who hang up at every step, many at once: SIPp where its scenario
//! is enough, our own callers where a worker must be heard first.

use std::time::Duration;

use crate::books::{self, Terms};
use crate::caller::{Leave, Plan};
use crate::harness::bridge::NUMBER;
use crate::harness::sipp::Sipp;
use crate::harness::until;
use crate::proxy::Proxy;
use crate::record::Record;
use crate::stage::{Stage, draw, records};
use crate::{Round, Summary};

/// How far the worker is away, each way.
const AWAY: Duration = Duration::from_millis(30);
/// A job is removed when its caller is gone.
const REMOVED: Duration = Duration::from_secs(5);

/// Runs a scenario with so many callers, many of them at once.
async fn sipp(stage: &Stage, scenario: &str, callers: usize) {
    let callers = callers.to_string();
    // So many at once, for the bridge has RTP ports for 60 calls.
    let sipp = Sipp::new(scenario, NUMBER).args(&["-m", &callers, "-r", "20", "-l", "8"]);
    sipp.pass(stage.bridge.sip()).await;
}

/// Nobody was there to take a job, so a job in the queue is one too many.
async fn no_job_is_left(stage: &Stage) {
    stage.idle().await;
    until(REMOVED, "no ghost job", async || {
        stage.store.jobs().await == 0
    })
    .await;
}

/// Before the call is answered: right after the INVITE, while it rings, and
/// while a worker is just attaching.
pub async fn ringing(round: Round) -> Summary {
    let args = ["--answer", "on-worker", "--worker-timeout", "10"];
    let mut stage = Stage::start(round.seed, &args).await;
    let many = 15;
    tokio::join!(
        sipp(&stage, "../../chaos/sipp/cancel_at_once", many),
        sipp(&stage, "cancel_while_ringing", many)
    );
    no_job_is_left(&stage).await;
    let orders = stage.echo();
    stage.pool.start(&orders).await;
    let going = stage
        .calls(many, Duration::from_millis(500), |random| {
            Plan::new(Leave::Cancel(draw(random, 0, 50)))
        })
        .await;
    let going = records(going).await;
    let answered = going.iter().filter(|record| record.answered_at.is_some());
    let answered = answered.count();
    let books = books::close(stage, &going, Terms::new()).await;
    Summary(format!(
        "{books}; {} more by SIPp, {answered} answers crossed a CANCEL",
        2 * many
    ))
}

/// After the answer: before the ACK, with it, during ringback and
/// announcement, when the worker attaches, while it sends from 30 ms away,
/// during hold audio and during a transfer.
pub async fn answered(round: Round) -> Summary {
    let args = ["--worker-timeout", "3", "--max-attempts", "50"];
    let mut stage = Stage::start(round.seed, &args).await;
    let many = 10;
    let announcement = stage
        .calls(many, Duration::from_millis(300), |random| {
            Plan::new(Leave::After(draw(random, 3_500, 8_000)))
        })
        .await;
    tokio::join!(
        sipp(&stage, "../../chaos/sipp/bye_before_ack", many),
        sipp(&stage, "../../chaos/sipp/bye_in_ringback", many),
        sipp(&stage, "bye_at_once", many)
    );
    let mut all = records(announcement).await;
    no_job_is_left(&stage).await;

    let proxy = Proxy::start(stage.bridge.stream_port, AWAY).await;
    all.extend(with_worker(&mut stage, many, proxy.port).await);
    all.extend(during_transfer(&mut stage, many, proxy.port).await);
    let mut terms = Terms::new();
    terms.fallback = true;
    let books = books::close(stage, &all, terms).await;
    Summary(format!("{books}; {} more by SIPp", 3 * many))
}

/// Around the attach, while it sends, and when it is lost.
async fn with_worker(stage: &mut Stage, many: usize, via: u16) -> Vec<Record> {
    let mut orders = stage.echo();
    orders.via = Some(via);
    orders.fresh_ms = 500;
    let worker = stage.pool.start(&orders).await;
    let mut calls = stage
        .calls(many, Duration::from_millis(300), |random| {
            Plan::new(Leave::After(draw(random, 0, 250)))
        })
        .await;
    calls.extend(
        stage
            .calls(many, Duration::from_millis(300), |random| {
                Plan::new(Leave::AfterWorker(draw(random, 0, 1_500)))
            })
            .await,
    );
    let attaching = records(calls).await;
    stage.idle().await;

    let served = stage.pool.count("attached");
    let fell_back = stage.store.events("call.fallback").await.len();
    let holding = stage
        .calls(many, Duration::from_millis(300), |random| {
            Plan::new(Leave::AfterHold(draw(random, 0, 700)))
        })
        .await;
    stage.attached(served + many).await;
    tokio::time::sleep(stage.draw(500, 1_000)).await;
    stage.pool.kill(worker);
    let holding = records(holding).await;
    for record in &holding {
        assert!(
            record.held_at().is_some(),
            "caller {}: no hold audio",
            record.index
        );
    }
    no_job_is_left(stage).await;
    let now = stage.store.events("call.fallback").await.len();
    assert_eq!(now, fell_back, "what they heard was hold audio");
    attaching.into_iter().chain(holding).collect()
}

/// The worker hands the caller on, and he hangs up when he is asked to.
async fn during_transfer(stage: &mut Stage, many: usize, via: u16) -> Vec<Record> {
    let mut orders = stage.echo();
    orders.via = Some(via);
    orders.transfer_after_ms = Some(700);
    stage.pool.start(&orders).await;
    let calls = stage
        .calls(many, Duration::from_millis(300), |_| {
            Plan::new(Leave::OnRefer)
        })
        .await;
    records(calls).await
}
