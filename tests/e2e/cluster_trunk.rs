//! Bridges that share lines at a foreign registrar: Kamailio with digest authentication, which
//! keeps one contact of a user, or keeps all and rings them at once.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::task::JoinHandle;

use crate::harness::bridge::{Bridge, PASSWORD};
use crate::harness::cluster::{
    TAKEN_OVER, dialled_workers, is_cut_off, number, public, registrations, setup, shared,
    some_moment, users,
};
use crate::harness::peers::{TrunkLine, local};
use crate::harness::postgres::Postgres;
use crate::harness::{Caller, Job, Kamailio, Redis, SOON, Worker, until};
use crate::redis_proxy::{Mode, Proxy};

/// A trunk that knows these users.
fn trunk(users: &[String], variants: &[&'static str]) -> Kamailio {
    let numbers: Vec<String> = (0..users.len()).map(number).collect();
    let lines: Vec<TrunkLine<'_>> = users
        .iter()
        .zip(&numbers)
        .map(|(username, number)| TrunkLine {
            username,
            password: PASSWORD,
            number,
        })
        .collect();
    Kamailio::start(&lines, variants)
}

/// Waits until a bridge is registered for all lines.
async fn all_at(redis: &Redis, users: &[String], node: &str) {
    until(TAKEN_OVER, "all lines at one bridge", async || {
        registrations(redis, node).await.len() == users.len()
    })
    .await;
}

/// Workers of the queue: one takes each job, and listens to its call's end.
fn queue_workers(redis: &Redis) -> JoinHandle<()> {
    let client = redis::Client::open(redis.url()).unwrap();
    tokio::spawn(async move {
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let mut connection = client
            .get_multiplexed_async_connection_with_config(&config)
            .await
            .unwrap();
        loop {
            let mut query = redis::cmd("BRPOP");
            query.arg(crate::harness::worker::QUEUE).arg(0);
            let (_, text): (String, String) = query.query_async(&mut connection).await.unwrap();
            let json = serde_json::from_str(&text).unwrap();
            tokio::spawn(async move { Worker::attach(&Job { json }).await.listen_to_end().await });
        }
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bridges_lines_ring_at_another_where_one_contact_is_kept() {
    let (redis, postgres, users) = (Redis::start(), Postgres::start(), users(6));
    let trunk = trunk(&users, &["ONE_CONTACT"]);
    let setup = |name: &str| {
        let setup = setup(name, &users, &redis.url(), trunk.port);
        setup.args(&["--database-url", &postgres.url()])
    };
    // The first one imports the lines into the database that both have.
    let one = setup("one").start().await;
    let mut two = setup("two");
    two.lines.clear();
    let two = two.start().await;
    shared(&redis, &users, &["one", "two"]).await;
    some_moment().await;
    two.process.signal("KILL");
    all_at(&redis, &users, "one").await;
    for (index, user) in users.iter().enumerate() {
        let mut call = Caller::connect(local(trunk.port), &number(index)).await;
        let job = Job::take(&redis).await;
        assert_eq!(job.text("phoneLineId"), user);
        let mut worker = Worker::attach(&job).await;
        call.bye().await;
        worker.listen_to_end().await;
    }
    one.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_taken_while_lines_are_handed_over_where_all_contacts_ring() {
    let (redis, users) = (Redis::start(), users(12));
    let trunk = trunk(&users, &[]);
    let (target, workers) = dialled_workers().await;
    let setup = |name: &str| {
        let setup = setup(name, &users, &redis.url(), trunk.port);
        setup.args(&["--dispatch", "push", "--ws-target", &target])
    };
    let one = setup("one").start().await;
    let two = setup("two").start().await;
    shared(&redis, &users, &["one", "two"]).await;
    let (is_over, port) = (Arc::default(), trunk.port);
    let public = public(users.len(), move |_| local(port), &is_over);
    two.shut_down().await;
    all_at(&redis, &users, "one").await;
    is_over.store(true, Ordering::Relaxed);
    let calls = public
        .await
        .expect("each call was answered and none was cut");
    assert!(calls > 5, "{calls} calls");
    workers.abort();
    one.shut_down().await;
}

/// How many calls a bridge has, and how many it has had.
async fn calls(bridge: &Bridge) -> (u64, u64) {
    let calls = &bridge.health().await.json()["calls"];
    let count = |name: &str| calls[name].as_u64().unwrap();
    (count("active"), count("taken"))
}

/// The trunk rings both bridges, since nobody has taken the contact of the one that was cut off back.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_bridges_that_ring_the_one_with_workers_wins() {
    let (redis, users) = (Redis::start(), users(6));
    let link = Proxy::to(redis.port).await;
    let trunk = trunk(&users, &[]);
    let one = setup("one", &users, &redis.url(), trunk.port).start().await;
    let two = setup("two", &users, &link.url(), trunk.port).start().await;
    shared(&redis, &users, &["one", "two"]).await;
    let line_of_two = registrations(&redis, "two").await;
    let line_of_two = users.iter().position(|user| line_of_two.contains(user));
    let number = number(line_of_two.expect("it has some"));

    link.set(Mode::Swallow);
    all_at(&redis, &users, "one").await;
    until(SOON, "it knows that it is cut off", async || {
        is_cut_off(&two).await
    })
    .await;
    let workers = queue_workers(&redis);
    let place: SocketAddr = local(trunk.port);
    let mut call = Caller::connect(place, &number).await;
    until(SOON, "the call is the other one's", async || {
        calls(&one).await.0 == 1 && calls(&two).await == (0, 1)
    })
    .await;
    call.bye().await;

    // Both are connected now, and both answer: the caller talks to one of them.
    link.turn_to(redis.port).await;
    for _ in 0..3 {
        let mut call = Caller::connect(place, &number).await;
        until(SOON, "one bridge has the call", async || {
            calls(&one).await.0 + calls(&two).await.0 == 1
        })
        .await;
        assert_eq!(call.ended_at(), None, "the call was cut");
        call.bye().await;
    }
    shared(&redis, &users, &["one", "two"]).await;
    workers.abort();
    two.shut_down().await;
    one.shut_down().await;
}
