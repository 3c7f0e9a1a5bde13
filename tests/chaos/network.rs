//! A bad network between the callers and the bridge.

use std::time::Duration;

use crate::books::{self, Terms};
use crate::caller::{Leave, Plan};
use crate::harness::{SOON, until};
use crate::stage::{Stage, draw, records};
use crate::{Round, Summary};

/// Share of a caller's frames that reach the worker. 3 % are lost; the rest is
/// chance, and frames that are overtaken by too much on a busy machine.
const HEARD_MIN: f64 = 0.90;

/// 3 % of the callers' packets are lost, 3 % overtaken. The workers check every
/// chunk, every timestamp and each frame's place in time.
pub async fn lossy(round: Round) -> Summary {
    let mut stage = Stage::start(round.seed, &[]).await;
    let orders = stage.echo();
    stage.pool.start(&orders).await;
    let (calls, stay_ms) = (20, 8_000);
    let going = stage
        .calls(calls, Duration::from_secs(1), |random| Plan {
            leave: Leave::After(draw(random, stay_ms / 2, stay_ms)),
            loss: 0.03,
            reorder: 0.03,
        })
        .await;
    let going = records(going).await;
    stage.idle().await;
    until(SOON, "the workers' accounts", async || {
        stage.pool.count("over") == calls
    })
    .await;
    let lines = stage.pool.lines();
    for record in &going {
        assert!(
            record.first_worker_at().is_some(),
            "caller {}",
            record.index
        );
        // What the worker heard, the words before it came included.
        let over = lines
            .iter()
            .find(|line| line.is("over") && line.json["caller"] == record.index);
        let heard = over.and_then(|over| over.json["heard"].as_u64());
        let heard = heard.unwrap_or_default() as f64;
        assert!(
            heard >= f64::from(record.said) * HEARD_MIN,
            "caller {}: {heard} of {} frames reached the worker",
            record.index,
            record.said
        );
    }
    let books = books::close(stage, &going, Terms::new()).await;
    Summary(format!(
        "{books}; 3 % lost and 3 % overtaken, timeline right"
    ))
}
