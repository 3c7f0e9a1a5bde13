//! Redis goes away under calls and comes back, empty or with its data.

use std::time::Duration;

use rand::RngExt;

use crate::books::{self, Books, Terms, heard_announcement};
use crate::caller::{Leave, Plan};
use crate::harness::until;
use crate::record::{End, Record};
use crate::stage::{Stage, draw, records};
use crate::{Round, Summary};

/// The bridge reconnects with backoff, and writes its state each 10 s.
const BACK: Duration = Duration::from_secs(30);

/// Calls in progress go on, new ones get the fallback at once, and the counters
/// are right afterwards.
pub async fn killed(round: Round) -> Summary {
    let mut stage = Stage::start(round.seed, &[]).await;
    let orders = stage.echo();
    stage.pool.start(&orders).await;
    let with_data = stage.random.random_bool(0.5);
    let all = one_outage(&mut stage, 10, with_data).await;
    books_so_far(&stage, &all).await;
    let mut terms = Terms::new();
    terms.fallback = true;
    terms.redis_lost = true;
    let books = books::close(stage, &all, terms).await;
    let back = if with_data { "with its data" } else { "empty" };
    Summary(format!("{books}; Redis came back {back}"))
}

async fn one_outage(stage: &mut Stage, calls: usize, with_data: bool) -> Vec<Record> {
    let served = stage.pool.count("attached");
    let stays = Plan::new(Leave::Never);
    let outlasting = stage.calls(calls, Duration::from_millis(500), |random| {
        Plan::new(Leave::After(draw(random, 22_000, 26_000)))
    });
    let outlasting = outlasting.await;
    stage.attached(served + calls).await;
    tokio::time::sleep(stage.draw(200, 1_000)).await;
    stage.store.kill();
    tokio::time::sleep(stage.draw(0, 1_000)).await;

    // Nobody can be asked for a worker. Redis may be back in a moment, so the
    // bridge asks again for 3 s; after that these get the announcement.
    let unlucky = stage.calls(4, Duration::from_millis(400), |_| stays).await;
    let unlucky = records(unlucky).await;
    for record in &unlucky {
        let who = format!("caller {}", record.index);
        assert!(heard_announcement(record), "{who}: {:?}", record.end);
        assert_eq!(record.end, End::ByBridge, "{who}");
        assert!(
            record.talked() < Duration::from_secs(19),
            "{who}: the fallback came late"
        );
    }
    stage.store.come_up(with_data);
    until(BACK, "the bridge is back at Redis", async || {
        stage.has_redis().await
    })
    .await;
    until(BACK, "the calls are counted again", async || {
        let active = stage.active().await.unwrap_or_default();
        let told = stage
            .store
            .try_query::<Option<i64>>(&["GET", "stats:active_calls"])
            .await;
        active > 0 && told.flatten() == i64::try_from(active).ok()
    })
    .await;
    let back = stage
        .calls(4, Duration::from_millis(400), |random| {
            Plan::new(Leave::AfterWorker(draw(random, 500, 1_500)))
        })
        .await;
    let back = records(back).await;
    for record in &back {
        assert!(
            record.first_worker_at().is_some(),
            "caller {}",
            record.index
        );
    }
    let outlasting = records(outlasting).await;
    for record in &outlasting {
        assert!(
            !heard_announcement(record),
            "a call in progress was disturbed"
        );
        assert_eq!(record.end, End::HungUp);
    }
    [unlucky, back, outlasting].into_iter().flatten().collect()
}

/// A first look, so that a later outage cannot hide what this one did.
async fn books_so_far(stage: &Stage, all: &[Record]) {
    stage.idle().await;
    let mut terms = Terms::new();
    terms.fallback = true;
    terms.redis_lost = true;
    let mut books = Books::default();
    books.look(stage, all, terms).await;
    books.judge();
}
