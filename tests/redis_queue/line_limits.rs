//! Limits of a line that hold over all bridges: its calls at once, and its dials within an hour.

use std::time::{Duration, Instant};

use sipbridge::core::ids::LineId;
use sipbridge::queue::LinePlace;

use crate::lease_stage::{Sharer, kill_heartbeat};
use crate::stage::{Server, connected, disconnected, eventually};

/// Two bridges that know of each other.
async fn two(server: &Server) -> (Sharer, Sharer) {
    let one = Sharer::start(server, "one").await;
    let two = Sharer::start(server, "two").await;
    one.look().await;
    two.look().await;
    (one, two)
}

async fn take(bridge: &Sharer, most: u32) -> Option<LinePlace> {
    bridge.queue.take_place(&LineId::new("7"), most).await
}

/// Members of the set, as Redis has it.
async fn members(server: &Server) -> usize {
    server.query("ZCARD cluster:calls:7").await
}

#[tokio::test]
async fn a_line_has_so_many_calls_over_all_bridges() {
    let server = Server::started().await;
    let (one, two) = two(&server).await;
    let first = take(&one, 2).await.expect("one of two");
    let second = take(&two, 2).await.expect("the other");
    for bridge in [&one, &two] {
        assert!(take(bridge, 2).await.is_none(), "both are taken");
    }
    let other = LineId::new("8");
    assert!(one.queue.take_place(&other, 1).await.is_some());
    drop(first);
    let mut again = None;
    eventually("the place is free at the other bridge", async || {
        again = take(&two, 2).await;
        again.is_some()
    })
    .await;
    assert!(take(&one, 2).await.is_none());
    let left: i64 = server.query("PTTL cluster:calls:7").await;
    assert!((50_000..=60_000).contains(&left), "{left} ms");
    drop((second, again));
    eventually("nothing is left", async || members(&server).await == 0).await;
}

#[tokio::test]
async fn calls_of_a_dead_bridge_take_no_place() {
    let server = Server::started().await;
    let (one, two) = two(&server).await;
    let _lost = take(&two, 1).await.expect("the only one");
    assert!(take(&one, 1).await.is_none());
    kill_heartbeat(&server, "two").await;
    drop(take(&one, 1).await.expect("two is dead"));
    // It was not dead after all.
    let _: String = server.query("SET bridge:two:heartbeat x").await;
    eventually("its call is counted again", async || {
        take(&one, 1).await.is_none()
    })
    .await;
}

#[tokio::test]
async fn calls_of_a_bridges_former_life_take_no_place() {
    let server = Server::started().await;
    let (one, two) = two(&server).await;
    let lost = take(&two, 1).await.expect("the only one");
    // It crashes and is back at once.
    std::mem::forget((lost, two));
    kill_heartbeat(&server, "two").await;
    let two = Sharer::start(&server, "two").await;
    two.look().await;
    assert_eq!(members(&server).await, 1);
    drop(take(&one, 1).await.expect("the caller may ring again"));
    eventually("at the bridge that is back as well", async || {
        take(&two, 1).await.is_some()
    })
    .await;
}

#[tokio::test]
async fn calls_from_before_another_bridge_came_are_counted() {
    let server = Server::started().await;
    let one = Sharer::start(&server, "one").await;
    one.look().await;
    let place = take(&one, 1).await.expect("alone");
    assert_eq!(members(&server).await, 0, "a bridge alone asks nobody");
    let two = Sharer::start(&server, "two").await;
    two.look().await;
    one.look().await;
    eventually("its call is counted", async || members(&server).await == 1).await;
    assert!(take(&two, 1).await.is_none());
    drop(place);
    eventually("and is no more", async || members(&server).await == 0).await;
}

#[tokio::test]
async fn a_redis_that_comes_back_empty_hears_of_the_calls_at_once() {
    let mut server = Server::started().await;
    let (one, two) = two(&server).await;
    let _first = take(&one, 1).await.expect("the only one");
    server.kill();
    disconnected(&one.queue).await;
    disconnected(&two.queue).await;
    server.start(&[]).await;
    connected(&one.queue).await;
    connected(&two.queue).await;
    eventually("its call is counted", async || members(&server).await == 1).await;
    let _: String = server.query("SET bridge:one:heartbeat x").await;
    assert!(take(&two, 1).await.is_none());
}

#[tokio::test]
async fn where_redis_does_not_say_the_place_is_given_soon() {
    let mut server = Server::started().await;
    let (one, two) = two(&server).await;
    let _first = take(&one, 1).await.expect("the only one");
    server.signal("-STOP");
    let asked = Instant::now();
    assert!(take(&two, 1).await.is_some(), "Redis hangs");
    assert!(two.queue.count_dial(&LineId::new("7"), 1).await.is_ok());
    let waited = asked.elapsed();
    assert!(waited < Duration::from_millis(900), "{waited:?}");
    server.signal("-CONT");
    server.kill();
    let asked = Instant::now();
    assert!(take(&two, 1).await.is_some(), "Redis is away");
    let waited = asked.elapsed();
    assert!(waited < Duration::from_millis(900), "{waited:?}");
}

#[tokio::test]
async fn a_set_of_another_kind_holds_nobody_up() {
    let server = Server::started().await;
    let (one, _two) = two(&server).await;
    for key in ["cluster:calls:7", "cluster:dials:7"] {
        let _: String = server.query(&format!("SET {key} x")).await;
    }
    assert!(take(&one, 1).await.is_some());
    assert!(one.queue.count_dial(&LineId::new("7"), 1).await.is_ok());
}

#[tokio::test]
async fn a_line_dials_so_often_in_an_hour_over_all_bridges() {
    let server = Server::started().await;
    let (one, two) = two(&server).await;
    let (line, other) = (LineId::new("7"), LineId::new("8"));
    for bridge in [&one, &two] {
        assert_eq!(bridge.queue.count_dial(&line, 2).await, Ok(()));
    }
    for bridge in [&one, &two] {
        let again = bridge.queue.count_dial(&line, 2).await.unwrap_err();
        let minutes = again.as_secs() / 60;
        assert!((59..=61).contains(&minutes), "{again:?}");
    }
    assert_eq!(one.queue.count_dial(&other, 2).await, Ok(()));
    one.queue.uncount_dial(&line).await;
    assert_eq!(two.queue.count_dial(&line, 2).await, Ok(()));
    assert!(one.queue.count_dial(&line, 2).await.is_err());

    // An hour and a minute later.
    let minutes: Vec<i64> = server.query("HKEYS cluster:dials:7").await;
    let _: u64 = server.query("DEL cluster:dials:7").await;
    let old = minutes[0] - 61;
    let _: u64 = server
        .query(&format!("HSET cluster:dials:7 {old} 2 nonsense 9"))
        .await;
    assert_eq!(one.queue.count_dial(&line, 1).await, Ok(()));
    assert_eq!(server.query::<u64>("HLEN cluster:dials:7").await, 1);
}

#[tokio::test]
async fn a_bridge_that_shares_no_lines_counts_by_itself() {
    let server = Server::started().await;
    let queue = server.queue("n").await;
    let line = LineId::new("7");
    for _ in 0..3 {
        assert_eq!(queue.count_dial(&line, 1).await, Ok(()));
        assert!(queue.take_place(&line, 1).await.is_some());
    }
    let keys: Vec<String> = server.query("KEYS cluster:*").await;
    assert_eq!(keys, [""; 0]);
}
