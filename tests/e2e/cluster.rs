//! Several bridges on one Redis with the same lines: each line is registered by one of
//! them, by another when that one dies, and never by none.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::harness::bridge::{Bridge, Setup, clean_command};
use crate::harness::cluster::{
    self, LEASE_TTL, TAKEN_OVER, dialled_workers, public, some_moment, users,
};
use crate::harness::location::{Keeps, LocationServer};
use crate::harness::peers::local;
use crate::harness::{Api, Redis, SOON, until, within};

/// A bridge of this name with these lines.
fn setup(name: &str, users: &[String], redis: &Redis, registrar: &LocationServer) -> Setup {
    cluster::setup(name, users, &redis.url(), registrar.address.port())
}

/// Waits until each line is registered by one of these bridges, at the registrar as in Redis.
async fn shared(redis: &Redis, registrar: &LocationServer, users: &[String], bridges: &[&Bridge]) {
    cluster::shared(redis, users, &["one", "two"]).await;
    let ports: Vec<u16> = bridges.iter().map(|bridge| bridge.sip().port()).collect();
    until(SOON, "each line at one bridge", async || {
        registrar.all_at(users, &ports)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_bridges_lines_are_taken_over() {
    let (redis, users) = (Redis::start(), users(12));
    let registrar = LocationServer::start(Keeps::One).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    let mut two = setup("two", &users, &redis, &registrar).start().await;
    shared(&redis, &registrar, &users, &[&one, &two]).await;
    some_moment().await;
    two.process.signal("KILL");
    // Its last heartbeat may have been on its way when it died.
    tokio::time::sleep(Duration::from_millis(50)).await;
    let left_ms: u64 = redis.query(&["PTTL", "bridge:two:heartbeat"]).await;
    let expires = Instant::now() + Duration::from_millis(left_ms);
    until(TAKEN_OVER, "all lines at the one that lives", async || {
        registrar.all_at(&users, &[one.sip().port()])
    })
    .await;
    let late = expires.elapsed();
    assert!(
        late < LEASE_TTL / 3,
        "{late:?} after the heartbeat: the tick was waited for"
    );
    assert!(!two.process.is_running());
    one.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_ends_hands_its_lines_over_and_none_is_ever_unregistered() {
    for keeps in [Keeps::One, Keeps::All] {
        let (redis, users) = (Redis::start(), users(12));
        let registrar = LocationServer::start(keeps).await;
        let one = setup("one", &users, &redis, &registrar).start().await;
        let two = setup("two", &users, &redis, &registrar).start().await;
        shared(&redis, &registrar, &users, &[&one, &two]).await;
        let before = Instant::now();
        two.shut_down().await;
        assert!(
            registrar.all_at(&users, &[one.sip().port()]),
            "{:?}",
            registrar.ports(&users)
        );
        let away = registrar.changes_since(before);
        let away = away.iter().find(|change| change.ports.is_empty());
        let away = away.map(|change| &change.user);
        assert_eq!(away, None, "{keeps:?}: a user without a bridge");
        one.shut_down().await;
        assert!(registrar.ports(&users).values().all(Vec::is_empty));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_of_one_name_does_not_start() {
    let (redis, users) = (Redis::start(), users(2));
    let registrar = LocationServer::start(Keeps::One).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    until(SOON, "registered", async || {
        registrar.all_at(&users, &[one.sip().port()])
    })
    .await;
    let mut other = setup("one", &users, &redis, &registrar).spawn();
    let exit = other.exit(SOON * 2).await;
    assert_ne!(exit.code, Some(0));
    assert!(other.output().contains("--node-id"), "{}", other.output());
    assert!(registrar.all_at(&users, &[one.sip().port()]));
    one.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_crashed_is_back_at_once() {
    let (redis, users) = (Redis::start(), users(4));
    let registrar = LocationServer::start(Keeps::One).await;
    let mut first = setup("one", &users, &redis, &registrar).start().await;
    until(SOON, "registered", async || {
        registrar.all_at(&users, &[first.sip().port()])
    })
    .await;
    first.process.signal("KILL");
    within(SOON, "its end", async {
        while first.process.is_running() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let again = setup("one", &users, &redis, &registrar).start().await;
    until(Duration::from_secs(2), "registered again", async || {
        registrar.all_at(&users, &[again.sip().port()])
    })
    .await;
    again.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_is_away_nothing_moves() {
    let (mut redis, users) = (Redis::start(), users(8));
    let registrar = LocationServer::start(Keeps::One).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    let two = setup("two", &users, &redis, &registrar).start().await;
    shared(&redis, &registrar, &users, &[&one, &two]).await;
    let before = registrar.ports(&users);
    some_moment().await;
    redis.go_away();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(registrar.ports(&users), before, "longer than leases last");
    redis.come_up();
    until(SOON * 2, "healthy again", async || {
        one.health().await.status == 200 && two.health().await.status == 200
    })
    .await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(
        registrar.ports(&users),
        before,
        "Redis came back empty or not"
    );
    let two_port = two.sip().port();
    two.shut_down().await;
    let at = registrar.ports(&users);
    assert!(at.values().all(|at| !at.contains(&two_port)), "{at:?}");
    one.shut_down().await;
}

/// It does not know that it stood still: others have its lines by then. Where all contacts are kept it takes its
/// own back.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_stood_still_lets_go_of_what_is_anothers() {
    for keeps in [Keeps::One, Keeps::All] {
        let (redis, users) = (Redis::start(), users(12));
        let registrar = LocationServer::start(keeps).await;
        let one = setup("one", &users, &redis, &registrar).start().await;
        let two = setup("two", &users, &redis, &registrar).start().await;
        shared(&redis, &registrar, &users, &[&one, &two]).await;
        let before = Instant::now();
        some_moment().await;
        two.process.signal("STOP");
        let port = one.sip().port();
        until(TAKEN_OVER, "all lines at the one that runs", async || {
            let at = registrar.ports(&users);
            at.values().all(|at| at.contains(&port))
        })
        .await;
        two.process.signal("CONT");
        // It gets its share again, line by line.
        shared(&redis, &registrar, &users, &[&one, &two]).await;
        let away = registrar.changes_since(before);
        let away = away.iter().find(|change| change.ports.is_empty());
        assert_eq!(away.map(|change| &change.user), None, "it un-REGISTERed");
        two.shut_down().await;
        one.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_sees_the_bridges_and_pauses_one() {
    let (redis, users) = (Redis::start(), users(6));
    let registrar = LocationServer::start(Keeps::All).await;
    let one = setup("one", &users, &redis, &registrar).start().await;
    let two = setup("two", &users, &redis, &registrar).start().await;
    shared(&redis, &registrar, &users, &[&one, &two]).await;
    let api = Api::of(&two);
    let nodes = async || {
        let list = api.get("/api/admin/cluster/nodes").await.expect(200);
        let nodes = list["items"].as_array().unwrap().clone();
        assert_eq!(nodes.len(), 2, "{list}");
        nodes
    };
    let drain = "/api/admin/cluster/nodes/two/drain";
    // The other one passes it on.
    Api::of(&one).post_empty(drain).await.expect(202);
    until(SOON * 2, "all lines at the other", async || {
        registrar.all_at(&users, &[one.sip().port()])
    })
    .await;
    until(SOON, "that it gives its lines away is seen", async || {
        nodes().await[1]["state"] == "draining"
    })
    .await;
    let line = "/api/admin/telephony/phone-lines/user0";
    let line = api.get(line).await.expect(200);
    assert_eq!(
        (&line["state"], &line["node"]),
        (&json!("registered"), &json!("one"))
    );
    assert_eq!(two.health().await.status, 200, "it takes calls of any line");
    let table = nodes_command(&two).await;
    assert!(
        table.contains("one") && table.contains("two*  draining"),
        "{table}"
    );

    api.post_empty("/api/admin/cluster/nodes/two/resume")
        .await
        .expect(202);
    shared(&redis, &registrar, &users, &[&one, &two]).await;
    two.shut_down().await;
    one.shut_down().await;
}

/// What `sipbridge nodes` prints.
async fn nodes_command(bridge: &Bridge) -> String {
    let port = bridge.api_port.to_string();
    let mut command = clean_command();
    command.args(["nodes", "--api-port", &port]);
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = output.await.unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_refuses_and_cuts_no_call() {
    let (redis, users) = (Redis::start(), users(8));
    let registrar = Arc::new(LocationServer::start(Keeps::One).await);
    let (target, workers) = dialled_workers().await;
    let setup = |name: &str| {
        let setup = setup(name, &users, &redis, &registrar);
        setup.args(&["--dispatch", "push", "--ws-target", &target])
    };
    let one = setup("one").start().await;
    let two = setup("two").start().await;
    shared(&redis, &registrar, &users, &[&one, &two]).await;

    let is_over = Arc::default();
    let place = {
        let (registrar, users) = (registrar.clone(), users.clone());
        move |index: usize| {
            let at = registrar.ports(&users[index..=index]);
            local(*at[&users[index]].last().expect("a line without a bridge"))
        }
    };
    let public = public(users.len(), place, &is_over);
    two.shut_down().await;
    // It came and went within a minute: all it gets is what the other gives away.
    let two = setup("two").start().await;
    one.shut_down().await;
    is_over.store(true, Ordering::Relaxed);
    let calls = public
        .await
        .expect("each call was answered and none was cut");
    println!("{calls} calls");
    assert!(calls > 20);
    workers.abort();
    two.shut_down().await;
}
