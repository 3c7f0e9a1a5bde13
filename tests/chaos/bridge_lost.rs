//! The bridge itself: killed and started again, stopped for a moment, and told
//! to end under calls.

use std::time::{Duration, Instant};

use crate::books::{self, Terms};
use crate::caller::{Leave, Plan};
use crate::harness::until;
use crate::record::{End, Record};
use crate::stage::{Stage, draw, records};
use crate::stamp::now_ms;
use crate::{Round, Summary};

/// How soon after its start a bridge has cleaned up after its predecessor.
const CLEANED: Duration = Duration::from_secs(30);
/// How much later an echo may be after a stall: what the jitter of a machine
/// that runs 60 processes on two cores may need. Without the stall rule the 500 ms stay.
const DELAY_MAY_GROW_MS: u64 = 250;

/// kill -9 under calls that wait for a worker, most of them because theirs was
/// killed; started again with the same node id and ports.
pub async fn killed(round: Round) -> Summary {
    let mut stage = Stage::start(round.seed, &[]).await;
    let orders = stage.echo();
    let kills = 2;
    let mut of_before = 0;
    for _ in 0..kills {
        let worker = stage.pool.start(&orders).await;
        let served = stage.pool.count("attached");
        let stays = Plan::new(Leave::Never);
        let talking = stage.calls(12, Duration::from_millis(500), |_| stays).await;
        stage.attached(served + 12).await;
        // These wait for a worker, and now so do the others: their jobs lie in
        // the queue. What a bridge is killed with before it could write it is
        // nobody's to find: Redis knows every call first.
        stage.pool.kill(worker);
        let waiting = stage.calls(3, Duration::from_millis(200), |_| stays).await;
        until(Duration::from_secs(10), "jobs and calls wait", async || {
            let known: i64 = stage.store.query(&["SCARD", "bridge:node-e2e:calls"]).await;
            stage.store.jobs().await == 15 && known == 15
        })
        .await;
        tokio::time::sleep(stage.draw(0, 500)).await;
        stage.restart_bridge().await;
        // A dead bridge's callers hear nothing any more; they are no concern.
        for call in talking.into_iter().chain(waiting) {
            call.abort();
        }
        of_before += 15;
        until(CLEANED, "no ghost job, and right statistics", async || {
            stage.store.jobs().await == 0
                && stage.store.count("stats:active_calls").await == 0
                && stage.store.count("stats:queued_calls").await == 0
        })
        .await;
        let deadline = Instant::now() + CLEANED;
        loop {
            let lost = bridge_lost(&stage).await;
            if lost == of_before {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "calls of before that ended in Redis: {lost} of {of_before}; open: {:?}",
                open_calls(&stage).await
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    let open = open_calls(&stage).await;
    assert!(open.is_empty(), "calls that never ended: {open:?}");

    stage.before = crate::stage::Holdings::of(&stage.bridge);
    stage.warm_up().await;
    stage.pool.start(&orders).await;
    let new = stage
        .calls(10, Duration::from_millis(500), |random| {
            Plan::new(Leave::AfterWorker(draw(random, 500, 2_000)))
        })
        .await;
    let new = records(new).await;
    for record in &new {
        assert!(
            record.first_worker_at().is_some(),
            "caller {}",
            record.index
        );
    }
    let books = books::close(stage, &new, Terms::new()).await;
    Summary(format!("{books}; killed {kills} times under 15 calls"))
}

/// How many calls Redis was told to have ended with their bridge.
async fn bridge_lost(stage: &Stage) -> usize {
    let ended = stage.store.events("call.ended").await;
    let lost = ended
        .iter()
        .filter(|event| event.field("outcome") == "bridge-lost");
    lost.count()
}

/// Calls whose hash does not say that they ended.
async fn open_calls(stage: &Stage) -> Vec<String> {
    let keys: Vec<String> = stage.store.query(&["KEYS", "call:CA*"]).await;
    let mut open = Vec::new();
    for key in keys {
        let state: Option<String> = stage.store.query(&["HGET", &key, "state"]).await;
        if state.as_deref() != Some("ended") {
            open.push(format!("{key}: {state:?}"));
        }
    }
    open
}

/// The whole bridge stopped for 500 ms under 30 calls whose workers echo all
/// that comes.
pub async fn stalled(round: Round) -> Summary {
    let mut stage = Stage::start(round.seed, &[]).await;
    let mut orders = stage.echo();
    orders.fresh_ms = 3_000;
    stage.pool.start(&orders).await;
    let stalls = 1;
    let stay = Duration::from_secs(5 + 8 * stalls);
    let going = stage
        .calls(30, Duration::from_secs(2), |_| {
            Plan::new(Leave::After(stay))
        })
        .await;
    stage.attached(30).await;
    tokio::time::sleep(Duration::from_millis(2_000)).await;
    let started_ms = now_ms();
    let mut spans = Vec::new();
    for _ in 0..stalls {
        let stopped = Instant::now();
        stage.bridge.process.signal("STOP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        stage.bridge.process.signal("CONT");
        let again = Instant::now();
        tokio::time::sleep(Duration::from_millis(4_000) + stage.draw(0, 1_000)).await;
        // The last second before the next one tells what stayed.
        spans.push((stopped, again, now_ms() - 1_000));
    }
    let going = records(going).await;
    let mut grown = 0;
    for record in &going {
        let who = format!("caller {}", record.index);
        let before = record.echo_delay_ms(started_ms - 1_500, started_ms);
        let before = before.unwrap_or_else(|| panic!("{who}: no echo before"));
        for (stopped, again, after_ms) in &spans {
            assert!(
                record.heard_worker_between(*again, *again + Duration::from_secs(1)),
                "{who}: no audio within a second of {stopped:?}"
            );
            let after = record.echo_delay_ms(*after_ms, after_ms + 1_000);
            let after = after.unwrap_or_else(|| panic!("{who}: no echo after"));
            grown = grown.max(after.saturating_sub(before));
        }
    }
    assert!(
        grown <= DELAY_MAY_GROW_MS,
        "an echo is {grown} ms later than before"
    );
    let mut terms = Terms::new();
    terms.gap = Duration::from_millis(1_500);
    let books = books::close(stage, &going, terms).await;
    Summary(format!(
        "{books}; stopped {stalls} times, echo later by {grown} ms at worst"
    ))
}

/// SIGTERM under calls: nobody is cut off before `--drain-timeout`.
pub async fn drained(round: Round) -> Summary {
    let args = ["--drain-timeout", "8", "--shutdown-timeout", "5"];
    let mut stage = Stage::start(round.seed, &args).await;
    let orders = stage.echo();
    stage.pool.start(&orders).await;
    let calls = 8;
    let leaving = stage
        .calls(calls, Duration::from_millis(500), |random| {
            Plan::new(Leave::After(draw(random, 3_000, 6_000)))
        })
        .await;
    let staying = stage
        .calls(calls, Duration::from_millis(500), |_| {
            Plan::new(Leave::Never)
        })
        .await;
    stage.attached(2 * calls).await;
    let told = Instant::now();
    stage.bridge.process.signal("TERM");
    tokio::time::sleep(Duration::from_millis(1_000)).await;
    let refused = records(vec![stage.call(Plan::new(Leave::Never))]).await;
    assert_eq!(refused[0].end, End::Refused(503), "a new call");
    let (leaving, staying) = (records(leaving).await, records(staying).await);
    let exit = stage.bridge.exit(Duration::from_secs(30)).await;
    assert_eq!(exit.code, Some(0));
    stage.bridge.assert_nothing_left();
    for record in &leaving {
        assert_eq!(record.end, End::HungUp, "caller {}", record.index);
    }
    let mut first = Duration::MAX;
    for record in &staying {
        let who = format!("caller {}", record.index);
        assert_eq!(record.end, End::ByBridge, "{who}");
        first = first.min(record.ended_at - told);
    }
    assert!(first >= Duration::from_secs(8), "cut off after {first:?}");
    let all: Vec<Record> = leaving.into_iter().chain(staying).collect();
    for record in &all {
        let (gap, quiet) = (record.longest_gap(), record.longest_quiet());
        let heard = gap.max(quiet) < Duration::from_millis(1_500);
        assert!(
            heard,
            "caller {}: no RTP for {gap:?}, silence for {quiet:?}",
            record.index
        );
    }
    let jobs = stage.store.jobs().await;
    assert_eq!(jobs, 0, "ghost jobs");
    Summary(format!(
        "{} calls: cut off before the drain timeout 0; the first BYE after {:.1} s of 8",
        all.len(),
        first.as_secs_f64()
    ))
}
