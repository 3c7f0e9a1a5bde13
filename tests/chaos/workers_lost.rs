//! Workers that go away in the middle of calls: killed, stopped, cut off from
//! the network.

use std::time::{Duration, Instant};

use rand::RngExt;

use crate::books::{self, Terms, heard_announcement};
use crate::caller::{Leave, Plan};
use crate::proxy::Proxy;
use crate::record::{End, Record};
use crate::stage::{Stage, draw, records};
use crate::{Round, Summary};

/// Contract: hold audio is heard within 100 ms of a loss, which the scenarios
/// assert as it is. Here 60 processes share the machine.
const HOLD_WITHIN: Duration = Duration::from_millis(100 + 200);
/// Contract: a peer that is dead on TCP is noticed within 20 s.
const NOTICED_WITHIN: Duration = Duration::from_secs(20 + 3);

/// kill -9 of worker processes at random moments under 50 calls; the killed are
/// replaced. At the end the last ones go too, and the callers who are left hear
/// the announcement to its end.
pub async fn killed(round: Round) -> Summary {
    // A worker may be killed with a job in its hands: the claim must run out, more
    // than once, before the caller has waited too long.
    let args = "--max-attempts 50 --worker-timeout 12 --claim-timeout 2";
    let args: Vec<&str> = args.split(' ').collect();
    let mut stage = Stage::start(round.seed, &args).await;
    let orders = stage.echo();
    for _ in 0..5 {
        stage.pool.start(&orders).await;
    }
    let (calls, kills) = (50, 12);
    let stay_ms = 800 * kills;
    let going = stage
        .calls(calls, Duration::from_secs(3), |random| {
            Plan::new(Leave::After(draw(random, stay_ms / 2, stay_ms)))
        })
        .await;
    let patient = stage
        .calls(5, Duration::from_millis(500), |_| Plan::new(Leave::Never))
        .await;
    stage.attached(calls + 5).await;
    let mut killed_at = Vec::new();
    for _ in 0..kills {
        tokio::time::sleep(stage.draw(200, 1_200)).await;
        let alive = stage.pool.alive();
        let victim = alive[stage.random.random_range(0..alive.len())];
        killed_at.push(Instant::now());
        stage.pool.kill(victim);
        stage.pool.launch(&orders);
    }
    let served = records(going).await;
    for record in &served {
        let who = format!("caller {}", record.index);
        assert!(!heard_announcement(record), "{who}: workers were there");
    }
    let resumed = stage.pool.resumed();
    assert!(resumed > 0, "a killed worker's calls were taken over");

    // From here on nobody comes any more.
    killed_at.push(Instant::now());
    for number in stage.pool.alive() {
        stage.pool.kill(number);
    }
    let left = records(patient).await;
    for record in &left {
        assert!(heard_announcement(record), "caller {}", record.index);
        assert_eq!(record.end, End::ByBridge, "caller {}", record.index);
    }
    let mut terms = Terms::new();
    terms.fallback = true;
    let all: Vec<Record> = served.into_iter().chain(left).collect();
    let hold = worst_break(&all, &killed_at);
    assert!(hold <= HOLD_WITHIN, "hold audio only after {hold:?}");
    let books = books::close(stage, &all, terms).await;
    Summary(format!(
        "{books}; {kills} workers killed, {resumed} calls taken over, hold audio after {} ms at worst",
        hold.as_millis()
    ))
}

/// The longest that a caller waited for another sound when its worker was killed.
fn worst_break(records: &[Record], kills: &[Instant]) -> Duration {
    let breaks = records.iter().flat_map(|record| record.breaks(kills));
    breaks.max().expect("hold audio was heard")
}

/// How a worker becomes a half-open socket.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Death {
    /// The process is stopped.
    Frozen,
    /// The network swallows what both sides send.
    Swallowed,
}

/// A worker process that is stopped: its sockets stay open and say nothing.
pub async fn frozen(round: Round) -> Summary {
    half_open(round, Death::Frozen).await
}

/// A worker behind a network that swallows everything.
pub async fn swallowed(round: Round) -> Summary {
    half_open(round, Death::Swallowed).await
}

async fn half_open(round: Round, death: Death) -> Summary {
    let args = ["--claim-timeout", "1", "--max-attempts", "50"];
    let mut stage = Stage::start(round.seed, &args).await;
    let proxy = Proxy::start(stage.bridge.stream_port, Duration::ZERO).await;
    let mut orders = stage.echo();
    orders.via = (death == Death::Swallowed).then_some(proxy.port);
    let dying = stage.pool.start(&orders).await;
    let calls = 8;
    let stays = Plan::new(Leave::After(NOTICED_WITHIN + Duration::from_secs(6)));
    let going = stage
        .calls(calls, Duration::from_millis(500), |_| stays)
        .await;
    stage.attached(calls).await;
    let heir = stage.echo();
    stage.pool.start(&heir).await;
    tokio::time::sleep(stage.draw(500, 1_500)).await;
    let died = Instant::now();
    match death {
        Death::Frozen => stage.pool.freeze(dying),
        Death::Swallowed => {
            stage.pool.cut_off(dying);
            proxy.swallow();
        }
    }
    let going = records(going).await;
    let mut noticed = Duration::ZERO;
    for record in &going {
        let who = format!("caller {}", record.index);
        assert!(
            record.heard_worker_after(died + Duration::from_millis(500)),
            "{who}: nobody took over"
        );
        let longest = record.breaks(&[]).into_iter().max();
        noticed = noticed.max(longest.unwrap_or_default());
    }
    assert!(noticed <= NOTICED_WITHIN, "silence for {noticed:?}");
    if death == Death::Frozen {
        // What it does when it comes to itself must not reach any call.
        stage.pool.thaw(dying);
    }
    let resumed = stage.pool.resumed();
    assert_eq!(resumed, calls, "each call was taken over once");
    let mut terms = Terms::new();
    terms.quiet = NOTICED_WITHIN;
    let books = books::close(stage, &going, terms).await;
    Summary(format!(
        "{books}; {resumed} calls taken over, noticed after {:.1} s at worst",
        noticed.as_secs_f64()
    ))
}
