//! A call before any worker is there: cancel, races, Redis away, time over.

use std::time::Duration;

use crate::sim::LocalEnd;
use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};
use sipbridge::core::call::AnswerMode;
use sipbridge::core::private::Private;
use tokio::net::TcpListener;

use super::harness::{Job, Worker, dial, sound, until};
use super::stage::{Setup, announcement};

/// BYE.
const BYE: LocalEnd = LocalEnd {
    status: 200,
    retry_after: None,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_cancels_takes_the_job_and_the_token_with_him() {
    let setup = Setup::queue().with(|settings| settings.answer = AnswerMode::OnWorker);
    let stage = setup.start().await;
    let caller = stage.call();
    until("180", async || caller.statuses() == [180]).await;
    until("the job", async || stage.jobs().await == 1).await;
    let job = Job::take(stage.redis()).await;
    caller.hang_up();
    until("the call is over", async || {
        stage.context.call_limiter.active() == 0
    })
    .await;
    assert_eq!(dial(job.url()).await.err(), Some(410));
    assert_eq!(caller.local_end(), None);
    assert_eq!(stage.finish().await, ["abandoned"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_right_behind_the_invite_leaves_no_job() {
    let stage = Setup::queue().start().await;
    for _ in 0..30 {
        stage.call().hang_up();
    }
    assert_eq!(stage.finish().await, ["abandoned"; 30]);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_worker_and_a_hang_up_at_once_either_wins_and_nothing_is_left() {
    let seed = rand::rng().random::<u64>();
    println!("seed {seed}");
    let mut random = SmallRng::seed_from_u64(seed);
    let stage = Setup::queue().start().await;
    for round in 0..120 {
        let caller = stage.call();
        let job = Job::take(stage.redis()).await;
        let pause = Duration::from_micros(random.random_range(0..3_000));
        let worker = async {
            let mut socket = dial(job.url()).await.ok()?;
            // A socket that was let in is closed in order, won or lost.
            use futures_util::StreamExt;
            let mut last = None;
            while let Some(message) = socket.next().await {
                last = Some(message.unwrap_or_else(|error| panic!("round {round}: {error}")));
            }
            assert!(last.is_some_and(|last| last.is_close()), "round {round}");
            Some(())
        };
        let hang_up = async {
            tokio::time::sleep(pause).await;
            caller.hang_up();
        };
        tokio::join!(worker, hang_up);
    }
    let outcomes = stage.finish().await;
    let known = |outcome: &String| ["abandoned", "caller-hung-up"].contains(&outcome.as_str());
    assert!(outcomes.iter().all(known), "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_workers_with_one_token_exactly_one_gets_the_call() {
    let stage = Setup::queue().start().await;
    for _ in 0..20 {
        let caller = stage.call();
        let job = Job::take(stage.redis()).await;
        let (one, two) = tokio::join!(dial(job.url()), dial(job.url()));
        let refused = [one.as_ref().err(), two.as_ref().err()];
        assert!(
            matches!(refused, [None, Some(409)] | [Some(409), None]),
            "{refused:?}"
        );
        caller.answered().await;
        caller.hang_up();
    }
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_the_announcement_is_heard_whole_then_refer_then_bye() {
    let setup = Setup::queue().with(|s| s.worker_timeout = Duration::from_millis(300));
    let stage = setup.fallback_number("+33144556677").start().await;
    let caller = stage.call();
    caller.hears("the announcement", &announcement()).await;
    until("REFER", async || !caller.transfers().is_empty()).await;
    assert_eq!(caller.transfers(), [Private::new("+33144556677")]);
    assert_eq!(stage.jobs().await, 0);
    caller.transfer_progress(100, false);
    caller.transfer_progress(200, true);
    assert_eq!(caller.ended_by_bridge().await, BYE);
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_on_worker_call_is_answered_for_the_announcement() {
    let setup = Setup::queue().with(|settings| {
        settings.answer = AnswerMode::OnWorker;
        settings.worker_timeout = Duration::from_millis(300);
    });
    let stage = setup.start().await;
    let caller = stage.call();
    assert_eq!(caller.ended_by_bridge().await, BYE);
    assert_eq!(caller.statuses(), [180, 200]);
    assert!(sound::contains(&caller.audio(), &announcement()));
    assert_eq!(stage.finish().await, ["no-worker"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_means_the_fallback_at_once() {
    let stage = Setup::redis_away().start().await;
    let caller = stage.call();
    assert_eq!(caller.ended_by_bridge().await, BYE);
    assert!(sound::contains(&caller.audio(), &announcement()));
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_away_means_the_target_where_there_is_one() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stage = Setup::redis_away().or_dial(&listener).start().await;
    let caller = stage.call();
    let mut worker = Worker::accept(&listener).await;
    let reply = sound::numbered(0, 20).concat();
    worker.media(&reply);
    caller.hears("the reply", &reply).await;
    caller.hang_up();
    worker.listen_to_end().await;
    assert_eq!(worker.all("stop").len(), 1);
    drop(worker);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_be_dialled_at_first_is_dialled_again() {
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = closed.local_addr().unwrap();
    let setup = Setup::dial(&closed);
    drop(closed);
    let stage = setup.start().await;
    let caller = stage.call();
    caller.answered().await;
    let listener = TcpListener::bind(address).await.unwrap();
    let worker = Worker::accept(&listener).await;
    worker.close();
    assert_eq!(caller.ended_by_bridge().await, BYE);
    drop(worker);
    stage.finish().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ringback_sounds_until_the_worker_is_there_and_first_words_are_kept() {
    let stage = Setup::queue().start().await;
    let caller = stage.call();
    caller.answered().await;
    let ringback = sound::numbered(800_000, 5).concat();
    caller.hears("ringback", &ringback).await;
    let words = sound::numbered(0, 50);
    caller.say(&words);
    let mut worker = Worker::serve(stage.redis()).await;
    worker.hears(&words.concat(), super::harness::SOON).await;
    worker.assert_numbered();
    caller.hang_up();
    worker.listen_to_end().await;
    drop(worker);
    assert_eq!(stage.finish().await, ["caller-hung-up"]);
}
