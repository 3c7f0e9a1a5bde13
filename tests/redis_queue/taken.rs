//! Seeing that a worker has taken a job, though Redis tells nobody.

use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sipbridge::queue::{Queue, Taken};
use tokio::time::timeout;

use crate::proxy::{Mode, Proxy};
use crate::stage::{Server, connected, disconnected, eventually, job, next_attempt, take};

const SOON: Duration = Duration::from_secs(10);
/// Several rounds of questions.
const A_WHILE: Duration = Duration::from_millis(1_200);

async fn resolves(taken: &mut Taken) {
    timeout(SOON, taken)
        .await
        .expect("it was never seen that the job is taken");
}

async fn stays(taken: &mut Taken) {
    assert!(timeout(A_WHILE, taken).await.is_err(), "it is not taken");
}

/// How often Redis was asked for a job.
async fn questions(server: &Server) -> u64 {
    let stats: String = server.query("INFO commandstats").await;
    let calls = stats.split("cmdstat_lpos:calls=").nth(1);
    calls.map_or(0, |rest| rest.split(',').next().unwrap().parse().unwrap())
}

async fn pushed(queue: &Queue) -> (sipbridge::queue::Job, Taken) {
    let job = job();
    queue.push(&job).await.unwrap();
    let taken = queue.taken(&job);
    (job, taken)
}

#[tokio::test]
async fn a_redis_that_cannot_say_stays_in_use() {
    let mut server = Server::absent();
    // As before Redis 6.0.6, or where the user may not.
    server.start(&["--rename-command", "LPOS", "\"\""]).await;
    let queue = server.queue("n").await;
    let mut state = queue.watch();
    state.mark_unchanged();
    let (_job, mut taken) = pushed(&queue).await;
    stays(&mut taken).await;
    assert!(!state.has_changed().unwrap(), "the connection was given up");
    queue.push(&job()).await.unwrap();
    assert_eq!(server.waiting().await.len(), 2);
}

#[tokio::test]
async fn a_job_that_a_worker_takes_is_seen_within_a_second() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (first, mut first_taken) = pushed(&queue).await;
    let (_second, mut second_taken) = pushed(&queue).await;
    stays(&mut first_taken).await;

    let mut redis = server.connect().await;
    assert_eq!(take(&mut redis).await["callId"], first.facts.id.as_str());
    let started = Instant::now();
    resolves(&mut first_taken).await;
    assert!(started.elapsed() < Duration::from_secs(1));
    stays(&mut second_taken).await;

    // The job of the next attempt is watched in its turn.
    let again = next_attempt(&first);
    queue.replace(&first, &again).await.unwrap();
    let mut again_taken = queue.taken(&again);
    stays(&mut again_taken).await;
    take(&mut redis).await;
    resolves(&mut again_taken).await;
}

#[tokio::test]
async fn what_the_bridge_takes_out_itself_was_not_taken() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (removed, mut removed_taken) = pushed(&queue).await;
    let (replaced, mut replaced_taken) = pushed(&queue).await;
    queue.remove(&removed);
    let again = next_attempt(&replaced);
    queue.replace(&replaced, &again).await.unwrap();
    eventually("only the new job waits", async || {
        server.waiting().await == [again.facts.id.as_str()]
    })
    .await;
    stays(&mut removed_taken).await;
    stays(&mut replaced_taken).await;
    // Never pushed at all.
    stays(&mut queue.taken(&job())).await;
}

#[tokio::test]
async fn nothing_is_asked_once_nobody_watches() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let (_job, taken) = pushed(&queue).await;
    eventually("Redis is asked", async || questions(&server).await > 0).await;
    drop(taken);
    // A round may be under way.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let asked = questions(&server).await;
    tokio::time::sleep(A_WHILE).await;
    assert_eq!(questions(&server).await, asked);
}

#[tokio::test]
async fn a_silent_redis_does_not_make_jobs_taken_and_an_empty_one_does() {
    let mut server = Server::started().await;
    let queue = server.queue("n").await;
    let (_job, mut taken) = pushed(&queue).await;
    server.signal("-STOP");
    disconnected(&queue).await;
    stays(&mut taken).await;
    server.signal("-CONT");
    connected(&queue).await;
    stays(&mut taken).await;

    server.kill();
    disconnected(&queue).await;
    stays(&mut taken).await;
    server.start(&[]).await;
    resolves(&mut taken).await;
}

#[tokio::test]
async fn a_push_whose_answer_is_late_is_not_seen_as_taken() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let queue = server.queue_through(&proxy, "n").await;
    proxy.set(Mode::Delay(Duration::from_millis(400)));
    // Watched before the push is even sent.
    let job = job();
    let mut push = Box::pin(queue.push(&job));
    assert!(push.as_mut().now_or_never().is_none());
    let mut taken = queue.taken(&job);
    push.await.unwrap();
    stays(&mut taken).await;
    proxy.set(Mode::Pass);
    take(&mut server.connect().await).await;
    resolves(&mut taken).await;
}

#[tokio::test]
async fn three_hundred_waiting_jobs_cost_redis_little() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let mut watched = Vec::new();
    for _ in 0..300 {
        watched.push(pushed(&queue).await);
    }
    let used = async || -> f64 {
        let info: String = server.query("INFO commandstats").await;
        let usec = info.split("cmdstat_lpos:").nth(1);
        let usec = usec.and_then(|rest| rest.split("usec=").nth(1));
        usec.map_or(0.0, |rest| rest.split(',').next().unwrap().parse().unwrap())
    };
    let (started, before, asked) = (Instant::now(), used().await, questions(&server).await);
    eventually("every job was asked for twice", async || {
        questions(&server).await >= asked + 600
    })
    .await;
    let share = (used().await - before) / started.elapsed().as_secs_f64() / 1e6;
    println!("share of Redis's time: {share:.4}");
    assert!(share < 0.05, "{share}");

    // The last one in the queue is noticed too.
    let (last, mut taken) = watched.pop().unwrap();
    let jobs: Vec<String> = server.query("LRANGE queue:incoming_calls 0 0").await;
    assert!(jobs[0].contains(last.facts.id.as_str()));
    let _: String = server.query("LPOP queue:incoming_calls").await;
    let started = Instant::now();
    resolves(&mut taken).await;
    assert!(started.elapsed() < Duration::from_secs(4));
}
