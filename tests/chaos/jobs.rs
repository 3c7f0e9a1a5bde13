//! Jobs that go astray: a worker that takes them and never dials, two workers
//! with the same token.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Error;

use crate::books::{self, Terms, heard_announcement};
use crate::caller::{Leave, Plan};
use crate::common::worker_client::dial;
use crate::common::worker_jobs::Jobs;
use crate::common::worker_stream::FromBridge;
use crate::harness::worker::QUEUE;
use crate::harness::{SOON, within};
use crate::record::End;
use crate::stage::{Stage, draw, records};
use crate::stamp::Stamp;
use crate::{Round, Summary};

/// A worker that takes jobs and never dials: each is pushed again, up to the
/// last attempt, and then the fallback comes. Then a good one stands beside
/// it, and everybody is served.
pub async fn never_dialled(round: Round) -> Summary {
    let args = [
        "--claim-timeout",
        "1",
        "--max-attempts",
        "3",
        "--worker-timeout",
        "20",
    ];
    let mut stage = Stage::start(round.seed, &args).await;
    let mut orders = stage.echo();
    orders.mute = true;
    let mute = stage.pool.start(&orders).await;
    let lost = 6;
    let going = stage
        .calls(lost, Duration::from_millis(500), |_| {
            Plan::new(Leave::Never)
        })
        .await;
    let mut going = records(going).await;
    for record in &going {
        assert!(heard_announcement(record), "caller {}", record.index);
        assert_eq!(record.end, End::ByBridge, "caller {}", record.index);
    }
    assert_eq!(
        stage.pool.count("took"),
        3 * lost,
        "three attempts for each"
    );
    let pushed = stage.store.events("call.queued").await;
    let again = pushed.iter().filter(|event| event.field("attempt") != "1");
    let reasons = again.map(|event| event.field("reason")).collect::<Vec<_>>();
    assert_eq!(reasons.len(), 2 * lost, "each redelivery is an event");
    assert!(
        reasons.iter().all(|reason| !reason.is_empty()),
        "{reasons:?}"
    );

    // Two attempts may go to the mute one; it is gone before the third.
    let good = stage.echo();
    let served = stage
        .calls(lost, Duration::from_millis(500), |random| {
            Plan::new(Leave::AfterWorker(draw(random, 500, 2_000)))
        })
        .await;
    stage.pool.kill(mute);
    stage.pool.start(&good).await;
    let served = records(served).await;
    for record in &served {
        assert!(
            record.first_worker_at().is_some(),
            "caller {}",
            record.index
        );
    }
    going.extend(served);
    let mut terms = Terms::new();
    terms.fallback = true;
    let books = books::close(stage, &going, terms).await;
    Summary(format!(
        "{books}; {lost} jobs taken three times, then the fallback"
    ))
}

/// Two workers dial with the same token at the same moment.
pub async fn raced(round: Round) -> Summary {
    let mut stage = Stage::start(round.seed, &[]).await;
    let races = 20;
    let calls = stage
        .calls(races, Duration::from_secs(2), |random| {
            Plan::new(Leave::AfterWorker(draw(random, 300, 900)))
        })
        .await;
    let mut jobs = Jobs::connect(&stage.store.url(), QUEUE).await.unwrap();
    let mut echoes = tokio::task::JoinSet::new();
    for _ in 0..races {
        let job = within(SOON, "a job", jobs.next()).await.unwrap();
        let url = job.audio_stream_url;
        let apart = stage.draw(0, 3);
        let late = async {
            tokio::time::sleep(apart).await;
            dial(&url).await
        };
        let mut won = Vec::new();
        let (first, second) = tokio::join!(dial(&url), late);
        for dialled in [first, second] {
            match dialled {
                Ok(stream) => won.push(stream),
                Err(Error::Http(response)) => assert_eq!(response.status(), 409),
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(won.len(), 1, "exactly one worker gets the call");
        for mut stream in won {
            echoes.spawn(async move {
                while let Ok(Some(message)) = stream.next().await {
                    if let FromBridge::Media { audio, .. } = message {
                        if Stamp::read(&audio).is_some() && stream.media(&audio).await.is_err() {
                            return;
                        }
                    }
                }
            });
        }
    }
    let going = records(calls).await;
    within(SOON, "the sockets close", echoes.join_all()).await;
    let books = books::close(stage, &going, Terms::new()).await;
    Summary(format!("{books}; {races} races"))
}
