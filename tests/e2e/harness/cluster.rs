//! Several bridges on one Redis with the same lines: how they are set up, who has which
//! line, and the public that rings the lines all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, JoinSet};

use super::bridge::{Setup, line};
use super::{Bridge, Caller, Redis, SOON, Worker, until};

/// Short, so that a test does not last long; a bridge is dead after it.
pub const LEASE_TTL: Duration = Duration::from_secs(3);
/// By when the lines of a dead bridge are another's.
pub const TAKEN_OVER: Duration = Duration::from_secs(10);

/// The users of so many lines; each is the id of its line, too.
pub fn users(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("user{number}")).collect()
}

/// The number of a line.
pub fn number(index: usize) -> String {
    format!("+3397236{index:04}")
}

/// A bridge of this name with these lines, which register at this port.
pub fn setup(name: &str, users: &[String], redis_url: &str, registrar: u16) -> Setup {
    let lease_ttl_s = LEASE_TTL.as_secs().to_string();
    let mut setup = Setup::new()
        .args(&["--redis-url", redis_url, "--node-id", name])
        .args(&["--lease-ttl", &lease_ttl_s])
        .trunk(registrar);
    setup.lines = users
        .iter()
        .enumerate()
        .map(|(index, user)| line(user, user, &number(index)))
        .collect();
    setup
}

/// Waits for a moment between two heartbeats, for something to go wrong at: drawn from `SEED` where that is given.
pub async fn some_moment() {
    let seed = std::env::var("SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(rand::random);
    let after = StdRng::seed_from_u64(seed).random_range(Duration::ZERO..LEASE_TTL / 3);
    println!("SEED={seed}: it goes wrong after {after:?}");
    tokio::time::sleep(after).await;
}

/// Which bridge has the lease of each line, of those that are not about to move.
pub async fn leases(redis: &Redis) -> BTreeMap<String, String> {
    let leases: BTreeMap<String, String> = redis.query(&["HGETALL", "cluster:leases"]).await;
    let is_held = |lease: &Value| lease.get("offered").is_none() && lease.get("from").is_none();
    leases
        .into_iter()
        .map(|(line, lease)| (line, serde_json::from_str::<Value>(&lease).unwrap()))
        .filter(|(_, lease)| is_held(lease))
        .map(|(line, lease)| (line, lease["node"].as_str().unwrap().to_owned()))
        .collect()
}

/// The lines that a bridge says it is registered for.
pub async fn registrations(redis: &Redis, node: &str) -> BTreeSet<String> {
    let key = format!("bridge:{node}:registrations");
    redis.query(&["SMEMBERS", &key]).await
}

/// Waits until each line is registered by one of these bridges, by the one that has its lease, and each
/// bridge has some.
pub async fn shared(redis: &Redis, users: &[String], nodes: &[&str]) {
    until(
        SOON * 4,
        "each line at one bridge, and none of them idle",
        async || {
            let leases = leases(redis).await;
            let mut is_shared = leases.len() == users.len();
            for node in nodes {
                let held: BTreeSet<String> = leases
                    .iter()
                    .filter(|(_, holder)| holder == node)
                    .map(|(line, _)| line.clone())
                    .collect();
                is_shared &= !held.is_empty() && registrations(redis, node).await == held;
            }
            is_shared
                && leases
                    .values()
                    .all(|holder| nodes.contains(&holder.as_str()))
        },
    )
    .await;
}

/// Whether a bridge knows that it is cut off from Redis.
pub async fn is_cut_off(bridge: &Bridge) -> bool {
    let metrics = super::http::get(bridge.api_port, "/metrics").await.unwrap();
    metrics.body.contains("\nsipbridge_cluster_cut_off 1")
}

/// Workers that are dialled, as many as there are calls.
pub async fn dialled_workers() -> (String, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/media", listener.local_addr().unwrap());
    let accepting = tokio::spawn(async move {
        loop {
            let mut worker = Worker::accept(&listener).await;
            tokio::spawn(async move { worker.listen_to_end().await });
        }
    });
    (url, accepting)
}

/// The public: rings one line after the other where `place` says, ten times a second, talks for a moment and
/// hangs up, until it is over. Says how many calls there were; each was answered, and none was cut.
pub fn public(
    lines: usize,
    place: impl Fn(usize) -> SocketAddr + Send + 'static,
    is_over: &Arc<AtomicBool>,
) -> JoinHandle<usize> {
    let is_over = is_over.clone();
    tokio::spawn(async move {
        let mut calls = JoinSet::new();
        for index in (0..lines).cycle() {
            if is_over.load(Ordering::Relaxed) {
                break;
            }
            let at = place(index);
            calls.spawn(async move {
                let mut call = Caller::connect(at, &number(index)).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
                assert_eq!(call.ended_at(), None, "the call was cut");
                call.bye().await;
            });
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        calls.join_all().await.len()
    })
}
