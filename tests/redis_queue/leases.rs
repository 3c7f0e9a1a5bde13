//! Who holds which line: each script, dead holders, races, a Redis that forgot or holds
//! nonsense, and many lines at once.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use sipbridge::core::cluster::MoveReason;
use sipbridge::core::cluster::{Fence, LeaseStage, NodeId};
use sipbridge::core::ids::LineId;
use sipbridge::core::private::Secret;
use sipbridge::queue::{LineMoved, Queue, QueueConfig, QueueError, Revision};

use crate::lease_stage::{
    Sharer, confirmed, granted, held, info, kill_heartbeat, lease, lines, moving, numbered, only,
    sharing,
};
use crate::proxy::{Mode, Proxy};
use crate::stage::{BRIDGE_RIGHTS, Server, connected, disconnected, eventually, start_queue};

async fn two(server: &Server) -> (Sharer, Sharer) {
    let a = Sharer::start(server, "a").await;
    let b = Sharer::start(server, "b").await;
    (a, b)
}

async fn fence(server: &Server) -> Option<u64> {
    server.query("GET cluster:fence").await
}

#[tokio::test]
async fn a_line_that_nobody_holds_is_granted_to_the_first_and_stays_with_it() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1", "l2"]);
    assert_eq!(a.take(&l).await, [held("a", 1), held("a", 2)]);
    assert_eq!(
        a.take(&l).await,
        [held("a", 1), held("a", 2)],
        "again: as it was"
    );
    let refused = b.claim(&lines(&["l2", "l3"])).await.unwrap();
    assert_eq!(
        (refused[0].done, refused[0].lease.clone()),
        (false, Some(held("a", 2)))
    );
    assert_eq!(
        (refused[1].done, refused[1].lease.clone()),
        (true, Some(held("b", 3)))
    );
    assert_eq!(fence(&server).await, Some(3));
    let text: String = server.query("HGET cluster:leases l1").await;
    assert_eq!(text, r#"{"node":"a","fence":1}"#);
    assert_eq!(a.claim(&[]).await.unwrap(), []);
}

#[tokio::test]
async fn a_handover_goes_through_all_its_stages() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1"]);
    a.take(&l).await;
    let offered = lease("a", 1, LeaseStage::Offered);
    assert_eq!(
        only(a.offer(&l, &[]).await.unwrap()),
        (true, Some(offered.clone()))
    );
    assert_eq!(
        only(a.offer(&l, &[]).await.unwrap()),
        (true, Some(offered)),
        "offered already"
    );
    assert_eq!(b.take(&l).await, [moving("b", 2, "a")]);
    // It cannot be offered on, nor claimed back from a node that lives.
    assert_eq!(
        only(b.offer(&l, &[]).await.unwrap()),
        (false, Some(moving("b", 2, "a")))
    );
    assert_eq!(
        only(a.claim(&l).await.unwrap()),
        (false, Some(moving("b", 2, "a")))
    );
    assert!(
        !only(a.confirm(&[(l[0].clone(), true)]).await.unwrap()).0,
        "only the new holder confirms"
    );
    let confirm = [(l[0].clone(), true)];
    let expected = confirmed("b", 2, "a", true);
    assert_eq!(
        only(b.confirm(&confirm).await.unwrap()),
        (true, Some(expected.clone()))
    );
    let otherwise = [(l[0].clone(), false)];
    assert_eq!(
        only(b.confirm(&otherwise).await.unwrap()),
        (true, Some(expected.clone())),
        "the first word counts"
    );
    let leases = a.look().await.view.leases.unwrap();
    assert_eq!(leases, [(l[0].clone(), expected)]);
    assert!(!only(b.done(&went(&l, false)).await.unwrap()).0);
    assert_eq!(
        only(a.done(&went(&l, false)).await.unwrap()),
        (true, Some(held("b", 2)))
    );
    assert!(!only(a.done(&went(&l, false)).await.unwrap()).0, "once");
    assert!(!only(a.release(&l, &[]).await.unwrap()).0);
    assert_eq!(only(b.release(&l, &[]).await.unwrap()), (true, None));
    assert!(!server.query::<bool>("EXISTS cluster:leases").await);
    assert_eq!(a.take(&l).await, [held("a", 3)], "fences only rise");
}

#[tokio::test]
async fn an_offer_is_taken_back_and_a_line_given_back() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1"]);
    a.take(&l).await;
    a.offer(&l, &[]).await.unwrap();
    assert!(!only(b.withdraw(&l).await.unwrap()).0);
    assert_eq!(
        only(a.withdraw(&l).await.unwrap()),
        (true, Some(held("a", 1)))
    );
    assert!(!only(b.claim(&l).await.unwrap()).0);

    a.offer(&l, &[]).await.unwrap();
    b.take(&l).await;
    assert_eq!(
        only(b.withdraw(&l).await.unwrap()),
        (true, Some(held("a", 3))),
        "the former holder has it again, by a new fence"
    );
    // Given up while it moves: back to who is registered, or to nobody.
    a.offer(&l, &[]).await.unwrap();
    b.take(&l).await;
    assert_eq!(
        only(b.release(&l, &[]).await.unwrap()),
        (true, Some(held("a", 5)))
    );
    a.offer(&l, &[]).await.unwrap();
    b.take(&l).await;
    kill_heartbeat(&server, "a").await;
    assert_eq!(only(b.release(&l, &[]).await.unwrap()), (true, None));
}

#[tokio::test]
async fn the_lines_of_a_dead_holder_go_to_who_claims_them_in_any_stage() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let c = Sharer::start(&server, "c").await;
    let l = lines(&["held", "offered", "moving", "confirmed"]);
    b.take(&l[2..]).await;
    b.offer(&l[2..], &[]).await.unwrap();
    a.take(&l).await;
    a.offer(&l[1..2], &[]).await.unwrap();
    a.confirm(&[(l[3].clone(), true)]).await.unwrap();
    kill_heartbeat(&server, "a").await;
    let fence = fence(&server).await.unwrap();
    assert_eq!(
        c.take(&l).await,
        [
            held("c", fence + 1),
            held("c", fence + 2),
            // Its former holder lives, and is registered until it hears otherwise.
            moving("c", fence + 3, "b"),
            held("c", fence + 4),
        ]
    );
    // One that was not dead hears that its contact is still listed.
    let told = only(c.confirm(&[(l[0].clone(), true)]).await.unwrap());
    let still_listed = confirmed("c", fence + 1, "a", true);
    assert_eq!(told, (true, Some(still_listed)));
    let done = only(a.done(&went(&l[..1], false)).await.unwrap());
    assert_eq!(done, (true, Some(held("c", fence + 1))));
    let again = only(c.confirm(&[(l[0].clone(), true)]).await.unwrap());
    assert_eq!(again, (true, Some(held("c", fence + 1))));
}

#[tokio::test]
async fn a_holder_that_says_nothing_loses_its_lines_after_the_lease_ttl() {
    let server = Server::started().await;
    let hasty = QueueConfig {
        lease_ttl: Duration::from_secs(1),
        ..sharing(&server, "a")
    };
    let a = Sharer::of(start_queue(&hasty).await);
    let b = Sharer::start(&server, "b").await;
    let l = lines(&["l1"]);
    a.take(&l).await;
    a.look().await;
    let last = Instant::now();
    eventually("it is taken over", async || {
        only(b.claim(&l).await.unwrap()).0
    })
    .await;
    let took = last.elapsed();
    println!("taken over after {took:?}");
    assert!(took > Duration::from_millis(950) && took < Duration::from_secs(5));
    // It wakes up, and sees whose the line is.
    let view = a.look().await.view;
    assert_eq!(view.leases.unwrap(), [(l[0].clone(), held("b", 2))]);
    assert!(!only(a.claim(&l).await.unwrap()).0);
}

#[tokio::test]
async fn a_line_that_moves_to_a_node_that_dies_is_taken_back() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1"]);
    a.take(&l).await;
    a.offer(&l, &[]).await.unwrap();
    b.take(&l).await;
    kill_heartbeat(&server, "b").await;
    assert_eq!(a.take(&l).await, [held("a", 3)]);
    let late = b.confirm(&[(l[0].clone(), true)]).await.unwrap();
    assert_eq!(only(late), (false, Some(held("a", 3))));
}

#[tokio::test]
async fn each_line_is_granted_once_however_many_claim_at_once() {
    let server = Server::started().await;
    let mut sharers = Vec::new();
    for node in ["a", "b", "c", "d"] {
        sharers.push(Sharer::start(&server, node).await);
    }
    let all = numbered(500);
    let mut claims = Vec::new();
    for (turn, sharer) in sharers.iter().enumerate() {
        for part in 0..10 {
            // Each in an order of its own, in small batches, all at once.
            let mut mine = all.clone();
            mine.rotate_left((turn * 125 + part * 50) % 500);
            mine.truncate(50);
            let store = (**sharer).clone();
            claims.push(tokio::spawn(async move { store.claim(&mine).await }));
        }
    }
    let mut holders: BTreeMap<LineId, Vec<(NodeId, Fence)>> = BTreeMap::new();
    for claim in claims {
        for outcome in claim.await.unwrap().unwrap() {
            let lease = outcome.lease.unwrap();
            if outcome.done {
                let granted = holders.entry(outcome.line).or_default();
                granted.push((lease.node, lease.fence));
            }
        }
    }
    assert_eq!(holders.len(), 500);
    assert!(holders.values().all(|granted| granted.len() == 1));
    let mut fences: Vec<u64> = holders.values().map(|granted| granted[0].1.0).collect();
    fences.sort_unstable();
    assert_eq!(fences, (1..=500).collect::<Vec<u64>>());
    assert_eq!(fence(&server).await, Some(500));
}

#[tokio::test]
async fn a_redis_that_forgot_everything_is_told_who_holds_what() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1", "l2", "l3"]);
    a.take(&l).await;
    let seen = a.look().await;
    let _: String = server.query("FLUSHALL").await;
    let after = a.look_again(seen.revision).await;
    assert_eq!(after.view.leases, Some(Vec::new()));
    assert_eq!(after.view.fence, Fence(0), "lower than before");
    b.look().await;

    // Somebody was quicker with a line that a holds.
    assert_eq!(b.take(&l[2..]).await, [held("b", 1)]);
    let had = [(l[0].clone(), Fence(1)), (l[1].clone(), Fence(40))];
    let taken = a.reclaim(&had).await.unwrap();
    assert_eq!(
        granted(taken),
        [held("a", 41), held("a", 42)],
        "above all fences given before"
    );
    let third = [(l[2].clone(), Fence(3))];
    assert_eq!(
        granted(a.reclaim(&third).await.unwrap()),
        [held("a", 43)],
        "the higher fence wins"
    );
    let late = [(l[2].clone(), Fence(3))];
    assert_eq!(
        only(b.reclaim(&late).await.unwrap()),
        (false, Some(held("a", 43)))
    );
    kill_heartbeat(&server, "a").await;
    assert_eq!(granted(b.reclaim(&late).await.unwrap()), [held("b", 44)]);
    let known = [(l[2].clone(), Fence(44))];
    assert_eq!(granted(b.reclaim(&known).await.unwrap()), [held("b", 44)]);
    let nonsense = [(LineId::new("new"), Fence(u64::MAX))];
    assert_eq!(
        granted(b.reclaim(&nonsense).await.unwrap()),
        [held("b", 45)]
    );
}

#[tokio::test]
async fn broken_values_count_as_nobody_and_are_replaced() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let mut redis = server.connect().await;
    let broken: [&[u8]; 13] = [
        b"",
        b"null",
        b"{",
        b"[1,2]",
        b"\xff\xfe",
        br#"{"node":"b"}"#,
        br#"{"node":"","fence":1}"#,
        br#"{"node":"b c","fence":1}"#,
        br#"{"node":{"x":1},"fence":1}"#,
        br#"{"node":"b","fence":"1"}"#,
        br#"{"node":"b","fence":NaN}"#,
        br#"{"node":"b","fence":-1}"#,
        br#"{"node":"b","fence":1e300}"#,
    ];
    let names = numbered(broken.len());
    for (name, value) in names.iter().zip(broken) {
        let () = redis
            .hset("cluster:leases", name.as_str(), value)
            .await
            .unwrap();
    }
    let deep = "[".repeat(100_000);
    let () = redis.hset("cluster:leases", "deep", &deep).await.unwrap();
    let () = redis
        .hset("cluster:leases", b"\xff", r#"{"node":"b","fence":1}"#)
        .await
        .unwrap();
    assert_eq!(a.look().await.view.leases, Some(Vec::new()));
    // What is nobody's cannot be given away either.
    for outcome in a.offer(&names, &[]).await.unwrap() {
        assert_eq!((outcome.done, outcome.lease), (false, None));
    }
    let mut all = names;
    all.push(LineId::new("deep"));
    assert_eq!(a.take(&all).await.len(), 14);
    assert_eq!(a.look().await.view.leases.unwrap().len(), 14);

    for (key, value) in [("fence", "many"), ("revision", "inf")] {
        let () = redis.set(format!("cluster:{key}"), value).await.unwrap();
    }
    let view = b.look().await.view;
    assert_eq!(view.fence, Fence(0));
    let dead = [all[0].clone()];
    kill_heartbeat(&server, "a").await;
    let taken = b.take(&dead).await;
    assert!(
        taken[0].fence > Fence(1),
        "above that of the line: {taken:?}"
    );

    // A lease of another kind of key is an error, and nothing breaks.
    let () = redis.del("cluster:leases").await.unwrap();
    let () = redis.set("cluster:leases", "x").await.unwrap();
    let error = b.claim(&dead).await.unwrap_err();
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    let () = redis.del("cluster:leases").await.unwrap();
    b.take(&dead).await;
}

#[tokio::test]
async fn leases_come_along_only_when_they_have_changed() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1"]);
    let first = a.look().await;
    assert_eq!(first.view.leases, Some(Vec::new()));
    let again = a.look_again(first.revision).await;
    assert_eq!((again.view.leases, again.revision), (None, first.revision));
    assert_eq!(again.view.nodes.len(), 2);

    let mut seen = first.revision;
    let change = async |seen: Revision, what: &str| {
        let beat = a.look_again(seen).await;
        assert!(beat.view.leases.is_some(), "{what}");
        beat.revision
    };
    b.take(&l).await;
    seen = change(seen, "claimed").await;
    b.take(&l).await;
    assert_eq!(a.look_again(seen).await.view.leases, None, "nothing new");
    b.offer(&l, &[]).await.unwrap();
    seen = change(seen, "offered").await;
    a.take(&l).await;
    seen = change(seen, "moving").await;
    a.confirm(&[(l[0].clone(), false)]).await.unwrap();
    seen = change(seen, "confirmed").await;
    b.done(&went(&l, false)).await.unwrap();
    seen = change(seen, "done").await;
    a.release(&l, &[]).await.unwrap();
    seen = change(seen, "released").await;
    assert_eq!(a.look_again(seen).await.view.leases, None);

    // The clock of Redis went back by an hour: what comes later is still later.
    let ahead: u64 = server.query("GET cluster:revision").await;
    let ahead = ahead + 3_600_000_000;
    let _: String = server.query(&format!("SET cluster:revision {ahead}")).await;
    seen = change(seen, "moved ahead").await;
    a.take(&l).await;
    let now: u64 = server.query("GET cluster:revision").await;
    assert_eq!(now, ahead + 1);
    change(seen, "claimed by a late clock").await;
}

#[tokio::test]
async fn two_thousand_lines_take_a_few_round_trips() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let all = numbered(2_000);
    let started = Instant::now();
    let claimed = a.take(&all).await;
    println!("2,000 lines claimed in {:?}", started.elapsed());
    assert_eq!(claimed.len(), 2_000);
    assert_eq!(claimed[1_999], held("a", 2_000));
    let started = Instant::now();
    let seen = b.look().await;
    println!("2,000 leases read in {:?}", started.elapsed());
    assert_eq!(seen.view.leases.unwrap().len(), 2_000);
    let started = Instant::now();
    a.offer(&all, &[]).await.unwrap();
    b.take(&all).await;
    let confirm: Vec<_> = all.iter().map(|line| (line.clone(), true)).collect();
    b.confirm(&confirm).await.unwrap();
    a.done(&went(&all, false)).await.unwrap();
    println!("2,000 lines handed over in {:?}", started.elapsed());
    assert!(started.elapsed() < Duration::from_secs(10));
    let stats: String = server.query("INFO commandstats").await;
    let evals = stats
        .lines()
        .filter(|line| line.starts_with("cmdstat_evalsha"));
    println!("{}", evals.collect::<String>());
}

#[tokio::test]
async fn a_redis_that_lost_its_scripts_is_sent_them_again() {
    let server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let l = lines(&["l1"]);
    let seen = a.look().await.revision;
    let _: String = server.query("SCRIPT FLUSH").await;
    a.take(&l).await;
    let _: String = server.query("SCRIPT FLUSH").await;
    assert!(a.look_again(seen).await.view.leases.is_some());
    let evals = async || {
        let stats: String = server.query("INFO commandstats").await;
        let calls = stats.lines().find_map(|line| {
            let calls = line.strip_prefix("cmdstat_evalsha:calls=")?;
            calls.split(',').next()?.parse::<u64>().ok()
        });
        calls.unwrap_or(0)
    };
    let before = evals().await;
    a.take(&l).await;
    a.take(&l).await;
    assert_eq!(evals().await, before + 2, "by digest from then on");
}

#[tokio::test]
async fn a_user_without_the_rights_is_told_which() {
    let mut server = Server::absent();
    let user = |name: &'static str, more: &[&'static str]| {
        let mut options = vec!["--user", name, "on", ">pa55"];
        options.extend(BRIDGE_RIGHTS);
        options.extend(more);
        options
    };
    let mut options = user("keys", &["~cluster:*"]);
    options.extend(user("commands", &["+time"]));
    options.extend(user("none", &["~cluster:*", "+time", "-evalsha", "-eval"]));
    options.extend(user(
        "right",
        &["~cluster:*", "&bridge:*", "+time", "+@pubsub"],
    ));
    server.start(&options).await;
    let start = async |user: &str| {
        let mut config = sharing(&server, user);
        config.url = Secret::new(format!("redis://{user}:pa55@127.0.0.1:{}/", server.port));
        Queue::start(&config).unwrap()
    };
    // It may not ask for the time, or run scripts: there is no use in being connected.
    for (user, word) in [("keys", "TIME"), ("none", "evalsha")] {
        let queue = start(user).await;
        let error = queue.lease_store().unwrap().join().await.unwrap_err();
        assert!(
            matches!(&error, QueueError::NotPermitted { .. }),
            "{user}: {error}"
        );
        let text = error.to_string().to_lowercase();
        assert!(text.contains(&word.to_lowercase()), "{text}");
    }
    for user in ["keys", "commands", "none"] {
        let mut config = sharing(&server, user);
        config.url = Secret::new(format!("redis://{user}:pa55@127.0.0.1:{}/", server.port));
        Queue::probe(&config).await.unwrap_err();
        config.shares_lines = false;
        let alone = Queue::probe(&config).await;
        assert_eq!(alone.is_ok(), user != "none", "{user}: {alone:?}");
    }
    // It may not touch the leases.
    let queue = start("commands").await;
    connected(&queue).await;
    let sharer = Sharer::of(queue);
    let error = sharer.claim(&lines(&["l1"])).await.unwrap_err();
    assert!(
        matches!(&error, QueueError::NotPermitted { .. })
            && error.to_string().contains("~cluster:*"),
        "{error}"
    );
    println!("{error}");
    assert!(sharer.beat(&info(), None).await.is_err());

    let mut config = sharing(&server, "right");
    config.url = Secret::new(format!("redis://right:pa55@127.0.0.1:{}/", server.port));
    Queue::probe(&config).await.unwrap();
    let left: Vec<String> = server.query("KEYS cluster:*").await;
    assert_eq!(left, Vec::<String>::new());
    let queue = start("right").await;
    connected(&queue).await;
    let sharer = Sharer::of(queue);
    sharer.join().await.unwrap();
    let channel = sharer.channel();
    channel.notified().await;
    sharer.take(&lines(&["l1"])).await;
    sharer.look().await;
}

#[tokio::test]
async fn without_redis_everything_fails_at_once() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let mut config = sharing(&server, "a");
    config.url = Secret::new(proxy.url());
    let a = Sharer::of(start_queue(&config).await);
    let l = lines(&["l1"]);
    a.take(&l).await;
    proxy.set(Mode::Cut);
    disconnected(&a.queue).await;
    let started = Instant::now();
    for error in [
        a.claim(&l).await.unwrap_err(),
        a.beat(&info(), None).await.unwrap_err(),
        a.record_moves(&[moved("l1")]).await.unwrap_err(),
    ] {
        assert!(matches!(error, QueueError::Disconnected { .. }), "{error}");
    }
    assert!(started.elapsed() < Duration::from_millis(300));

    // An answer that does not come is waited for no longer than for a job's.
    proxy.turn_to(server.port).await;
    connected(&a.queue).await;
    // Redis knows the script: one message is all it takes.
    a.release(&lines(&["l2"]), &[]).await.unwrap();
    proxy.set(Mode::Mute);
    let started = Instant::now();
    let error = a.release(&l, &[]).await.unwrap_err();
    println!("{error}");
    assert!(started.elapsed() < Duration::from_secs(3));
    proxy.turn_to(server.port).await;
    eventually("it is connected again", async || {
        a.beat(&info(), None).await.is_ok()
    })
    .await;
    let leases = a.look().await.view.leases.unwrap();
    assert_eq!(leases, [], "the release had arrived: the view tells");
}

fn moved(line: &str) -> LineMoved {
    LineMoved {
        line: LineId::new(line),
        from: Some(NodeId::new("b")),
        to: Some(NodeId::new("a")),
        reason: MoveReason::Takeover,
    }
}

#[tokio::test]
async fn moves_are_told_in_the_stream_of_events() {
    let server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let mut moves = vec![moved("l1")];
    moves.push(LineMoved {
        from: None,
        reason: MoveReason::Claimed,
        ..moved("l2")
    });
    a.record_moves(&moves).await.unwrap();
    let events = server.events().await;
    assert_eq!(events.len(), 2);
    let expected = [
        ("event", "line.moved"),
        ("lineId", "l1"),
        ("from", "b"),
        ("to", "a"),
        ("reason", "takeover"),
        ("node", "a"),
    ];
    for (name, value) in expected {
        assert_eq!(events[0][name], value, "{name}");
    }
    assert!(events[0]["at"].ends_with('Z'));
    assert!(!events[1].contains_key("from") && events[1]["reason"] == "claimed");

    let many: Vec<_> = (0..12_000).map(|line| moved(&line.to_string())).collect();
    a.record_moves(&many).await.unwrap();
    let length: usize = server.query("XLEN stream:call_events").await;
    assert!((10_000..10_200).contains(&length), "{length}");
}

/// Lines that a node let go, each registered after that or not.
fn went(lines: &[LineId], renew: bool) -> Vec<(LineId, bool)> {
    lines.iter().map(|line| (line.clone(), renew)).collect()
}

#[tokio::test]
async fn who_registered_after_the_new_holder_has_it_register_anew() {
    let server = Server::started().await;
    let (a, b) = two(&server).await;
    let l = lines(&["l1"]);
    a.take(&l).await;
    a.offer(&l, &[]).await.unwrap();
    b.take(&l).await;
    b.confirm(&[(l[0].clone(), false)]).await.unwrap();
    let channel = b.channel();
    channel.notified().await;
    let done = only(a.done(&went(&l, true)).await.unwrap());
    assert_eq!(done, (true, Some(held("b", 3))), "a new fence");
    channel.notified().await;

    // The same of a line that was taken over.
    kill_heartbeat(&server, "b").await;
    assert_eq!(a.take(&l).await, [held("a", 4)]);
    b.look().await;
    assert_eq!(
        only(b.done(&went(&l, true)).await.unwrap()),
        (true, Some(held("a", 5)))
    );
    // Not by its holder.
    assert!(!only(a.done(&went(&l, true)).await.unwrap()).0);
}
