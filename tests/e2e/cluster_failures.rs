//! Bridges that share lines when things are not as they seem: one is cut off from Redis, Redis has
//! forgotten everything, a bridge comes and goes. What a dead and what a frozen bridge leave
//! behind is in `cluster`.

use std::time::{Duration, Instant};

use crate::harness::bridge::{Bridge, Setup};
use crate::harness::cluster::{
    self, LEASE_TTL, TAKEN_OVER, is_cut_off, leases, number, registrations, shared, some_moment,
    users,
};
use crate::harness::location::{Keeps, LocationServer};
use crate::harness::sdp::Offer;
use crate::harness::{Caller, Redis, SOON, Worker, until};
use crate::redis_proxy::{Mode, Proxy};

/// How long a call rings at a bridge that is cut off before it gets the fallback.
const RINGS_WHILE_CUT_OFF: Duration = Duration::from_secs(4);
/// A bridge whose life was shorter gets its share after having stayed for so long.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);

/// A bridge of this name with these lines.
fn setup(name: &str, users: &[String], redis: &Redis, registrar: &LocationServer) -> Setup {
    cluster::setup(name, users, &redis.url(), registrar.address.port())
}

/// Waits until each line can be reached at a bridge, by whatever else is listed.
async fn all_at(registrar: &LocationServer, users: &[String], bridge: &Bridge) {
    let port = bridge.sip().port();
    until(TAKEN_OVER, "all lines at one bridge", async || {
        let at = registrar.ports(users);
        at.values().all(|at| at.contains(&port))
    })
    .await;
}

/// Fails where a user was at no bridge for a moment since then.
fn assert_always_somewhere(registrar: &LocationServer, since: Instant) {
    let changes = registrar.changes_since(since);
    let away = changes.iter().find(|change| change.ports.is_empty());
    assert_eq!(away.map(|change| &change.user), None, "it un-REGISTERed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_is_cut_off_loses_its_lines_and_lets_go_of_them_once_redis_is_back() {
    for keeps in [Keeps::One, Keeps::All] {
        let (redis, users) = (Redis::start(), users(12));
        let link = Proxy::to(redis.port).await;
        let registrar = LocationServer::start(keeps).await;
        let one = setup("one", &users, &redis, &registrar).start().await;
        let two = cluster::setup("two", &users, &link.url(), registrar.address.port());
        let two = two.start().await;
        shared(&redis, &users, &["one", "two"]).await;

        let before = Instant::now();
        some_moment().await;
        link.set(Mode::Swallow);
        all_at(&registrar, &users, &one).await;
        until(SOON, "it knows that it is cut off", async || {
            is_cut_off(&two).await
        })
        .await;
        a_call_rings_before_it_gets_the_fallback(&two).await;

        link.turn_to(redis.port).await;
        shared(&redis, &users, &["one", "two"]).await;
        assert!(!is_cut_off(&two).await);
        let ports = [one.sip().port(), two.sip().port()];
        until(SOON, "each line at one bridge alone", async || {
            registrar.all_at(&users, &ports)
        })
        .await;
        assert_always_somewhere(&registrar, before);
        two.shut_down().await;
        one.shut_down().await;
    }
}

/// Where the trunk rings all contacts, another bridge may be the one with workers.
async fn a_call_rings_before_it_gets_the_fallback(bridge: &Bridge) {
    let began = Instant::now();
    let mut call = Caller::invite(bridge.sip(), &number(0), Offer::usual()).await;
    call.provisional(180).await;
    assert_eq!(call.final_response().await.status(), Some(200));
    assert!(began.elapsed() >= RINGS_WHILE_CUT_OFF);
    call.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_that_comes_back_empty_gets_the_leases_from_those_who_are_registered() {
    let (mut redis, users) = (Redis::start(), users(12));
    let registrar = LocationServer::start(Keeps::One).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    let two = setup("two", &users, &redis, &registrar).start().await;
    shared(&redis, &users, &["one", "two"]).await;
    let (holders, fence) = (leases(&redis).await, fence(&redis).await);

    some_moment().await;
    let restarted = Instant::now();
    redis.go_away();
    redis.come_up();
    until(SOON * 2, "the leases as they were", async || {
        leases(&redis).await == holders
    })
    .await;
    assert!(self::fence(&redis).await.unwrap() > fence.unwrap());
    // Until what was done in haste would have shown: nothing is to be waited for.
    tokio::time::sleep(LEASE_TTL * 3).await;
    assert_eq!(leases(&redis).await, holders, "nothing moves");
    let registers = registrar.changes_since(restarted);
    assert!(
        registers.is_empty(),
        "REGISTERs before a refresh is due: {registers:?}"
    );
    for bridge in [&one, &two] {
        let mut call = Caller::connect(bridge.sip(), &number(0)).await;
        let worker = Worker::serve(&redis).await;
        call.bye().await;
        drop(worker);
    }
    two.shut_down().await;
    one.shut_down().await;
}

async fn fence(redis: &Redis) -> Option<u64> {
    redis.query(&["GET", "cluster:fence"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_came_and_went_gets_its_share_when_it_has_stayed_for_a_minute() {
    let (redis, users) = (Redis::start(), users(12));
    let registrar = LocationServer::start(Keeps::One).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    let two = setup("two", &users, &redis, &registrar).start().await;
    shared(&redis, &users, &["one", "two"]).await;
    two.process.signal("KILL");
    all_at(&registrar, &users, &one).await;

    let came = Instant::now();
    let two = setup("two", &users, &redis, &registrar).start().await;
    until(SETTLES_WITHIN + SOON, "its share", async || {
        !registrations(&redis, "two").await.is_empty()
    })
    .await;
    let changes = registrar.changes_since(came);
    let first = changes
        .iter()
        .find(|change| change.ports == [two.sip().port()])
        .map(|change| change.at - came);
    assert!(
        first > Some(SETTLES_WITHIN),
        "its first line after {first:?}"
    );
    shared(&redis, &users, &["one", "two"]).await;
    assert_always_somewhere(&registrar, came);
    two.shut_down().await;
    one.shut_down().await;
}
