//! The nodes that share lines: what they say of themselves, who has a name, who came and
//! went, who is told, and what all of it costs.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use sipbridge::core::cluster::{Fence, NodeInfo, NodeStage};
use sipbridge::core::ids::CallId;
use sipbridge::core::private::Secret;
use sipbridge::queue::{CallEventKind, Queue, QueueConfig, QueueError, RedisFailure, RedisState};

use crate::lease_stage::{
    Sharer, find, info, kill_heartbeat, lines, make_older, numbered, only, sharing,
};
use crate::proxy::{Mode, Proxy};
use crate::stage::{Server, connected, disconnected, event, eventually, start_queue};

/// As a node with a heartbeat that is soon over.
fn hasty(server: &Server, node: &str) -> QueueConfig {
    QueueConfig {
        lease_ttl: Duration::from_secs(3),
        ..sharing(server, node)
    }
}

#[tokio::test]
async fn a_heartbeat_says_what_the_node_is_and_tells_of_all_that_live() {
    let server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let b = Sharer::start(&server, "b").await;
    let c = Sharer::start(&server, "c").await;
    let draining = NodeInfo {
        stage: NodeStage::Draining,
        api_url: None,
        ..info()
    };
    b.beat(&draining, None).await.unwrap();
    kill_heartbeat(&server, "c").await;
    a.take(&lines(&["l1", "l2"])).await;
    let beat = a.look().await;
    assert_eq!(beat.view.fence, Fence(2));
    assert_eq!(beat.view.nodes.len(), 2, "{:?}", beat.view.nodes);

    let told = find(&beat, "a").unwrap();
    assert_eq!(&told.instance, a.instance());
    assert_eq!((told.info.stage, told.info.capacity), (NodeStage::Up, 10));
    assert_eq!((told.info.lines, told.info.calls), (2, 1));
    assert_eq!(told.info.api_url, info().api_url);
    assert_eq!(told.info.stream_url, info().stream_url);
    assert_eq!(
        (&*told.info.version, told.info.lines_digest),
        ("1.2.3", info().lines_digest)
    );
    assert_eq!(told.settles_in, Duration::ZERO);
    assert!(told.heartbeat_age < Duration::from_secs(1));
    let told = find(&beat, "b").unwrap();
    assert_eq!(
        (told.info.stage, &told.info.api_url),
        (NodeStage::Draining, &None)
    );

    let mut redis = server.connect().await;
    let value: String = redis.get("bridge:a:heartbeat").await.unwrap();
    assert!(value.len() == 24 && value.ends_with('Z'), "{value}");
    for key in ["heartbeat", "info", "state", "active_calls"] {
        let left: i64 = redis.pttl(format!("bridge:a:{key}")).await.unwrap();
        assert!((50_000..=60_000).contains(&left), "{key}: {left} ms");
    }
    // A heartbeat ages by Redis' clock.
    let beat_at: u64 = server.query("HGET bridge:b:info beat_at").await;
    let earlier = format!("HSET bridge:b:info beat_at {}", beat_at - 15_000);
    let _: u64 = server.query(&earlier).await;
    let aged = a.look().await;
    let age = find(&aged, "b").unwrap().heartbeat_age;
    assert!((15..17).contains(&age.as_secs()), "{age:?}");

    // A graceful stop takes the node out at once.
    b.queue.stop().await;
    assert!(find(&a.look().await, "b").is_none());
    assert!(!server.query::<bool>("EXISTS bridge:b:info").await);
    drop(c);
}

#[tokio::test]
async fn nonsense_that_others_wrote_harms_nobody() {
    let server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let mut redis = server.connect().await;
    let nodes = ["none", "string", "numbers", "many", "list"];
    for node in nodes {
        let () = redis.sadd("bridge:nodes", node).await.unwrap();
        let () = redis
            .set(format!("bridge:{node}:heartbeat"), "x")
            .await
            .unwrap();
    }
    let () = redis.sadd("bridge:nodes", b"\xff").await.unwrap();
    let () = redis.set(b"bridge:\xff:heartbeat", "x").await.unwrap();
    let () = redis.set("bridge:string:info", "x").await.unwrap();
    let () = redis.lpush("bridge:list:info", "x").await.unwrap();
    let pairs = [("capacity", "-1"), ("settled_at", "x"), ("beat_at", "1e99")];
    let () = redis
        .hset_multiple("bridge:numbers:info", &pairs)
        .await
        .unwrap();
    for field in 0..1_000 {
        let () = redis.hset("bridge:many:info", field, "x").await.unwrap();
    }
    let () = redis.hset("bridge:many:info", "capacity", 7).await.unwrap();
    // Our own too.
    let () = redis.del("bridge:a:seen").await.unwrap();
    let () = redis.set("bridge:a:seen", "x").await.unwrap();
    let () = redis.del("bridge:a:info").await.unwrap();
    let () = redis.set("bridge:a:info", "x").await.unwrap();
    let beat = a.look().await;
    assert_eq!(beat.view.nodes.len(), 6, "{:?}", beat.view.nodes);
    for node in nodes {
        let node = find(&beat, node).unwrap();
        assert_eq!(
            (node.info.capacity, node.info.lines_digest),
            (1, 0),
            "{}",
            node.id
        );
        assert_eq!(node.heartbeat_age, Duration::ZERO);
    }
    assert_eq!(find(&beat, "a").unwrap().info.capacity, 10);
}

/// The failure with which a handle stays away.
async fn never_connected(queue: &Queue) -> RedisFailure {
    let mut watch = queue.watch();
    let settled = watch.wait_for(|state| match state {
        RedisState::Connected { .. } => true,
        RedisState::Disconnected { failure, .. } => *failure != RedisFailure::Connecting,
    });
    let state = tokio::time::timeout(Duration::from_secs(15), settled).await;
    match &*state.expect("nothing was decided").unwrap() {
        RedisState::Disconnected { failure, .. } => *failure,
        RedisState::Connected { .. } => panic!("it is connected"),
    }
}

#[tokio::test]
async fn a_second_bridge_of_one_name_is_refused_and_touches_nothing_of_the_first() {
    let server = Server::started().await;
    let first = Sharer::of(start_queue(&hasty(&server, "n")).await);
    first.join().await.unwrap();
    let channel = first.channel();
    channel.notified().await;
    let l = lines(&["l1"]);
    first.take(&l).await;
    let call = CallId::random();
    first.queue.record(event(&call, CallEventKind::Ringing));
    let first_beats = tokio::spawn({
        let first = (*first).clone();
        async move {
            loop {
                first.beat(&info(), None).await.unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    });
    let second = Queue::start(&hasty(&server, "n")).unwrap();
    let store = second.lease_store().unwrap();
    let error = store.join().await.unwrap_err();
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    assert!(error.to_string().contains("another --node-id"), "{error}");
    assert_eq!(never_connected(&second).await, RedisFailure::Conflict);
    let error = store.claim(&l).await.unwrap_err();
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    second.stop().await;
    // The first one goes on as if nothing had been.
    assert!(server.query::<bool>("EXISTS bridge:n:heartbeat").await);
    assert_eq!(
        server.call(&call, "state").await.as_deref(),
        Some("ringing")
    );
    assert_eq!(server.query::<usize>("SCARD bridge:n:calls").await, 1);
    assert!(only(first.claim(&l).await.unwrap()).0);
    assert!(!first_beats.is_finished());
    first_beats.abort();
}

#[tokio::test]
async fn the_name_of_a_bridge_that_crashed_is_taken_at_once() {
    let server = Server::started().await;
    let crashed = Sharer::start(&server, "n").await;
    let fence = crashed.take(&lines(&["l1"])).await[0].fence;
    crashed.listen_no_more(&server).await;
    // Nobody listens to its channel; its heartbeat is good for a minute.
    let started = Instant::now();
    let again = Sharer::start(&server, "n").await;
    again.join().await.unwrap();
    assert!(started.elapsed() < Duration::from_secs(5));
    // Its lines are its own.
    assert_eq!(again.take(&lines(&["l1"])).await[0].fence, fence);
    assert_ne!(again.instance(), crashed.instance());

    // The old life was only frozen, and wakes.
    let error = crashed.beat(&info(), None).await.unwrap_err();
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    eventually("it leaves Redis alone", async || {
        let state = crashed.queue.status();
        let conflict = RedisFailure::Conflict;
        matches!(state, RedisState::Disconnected { failure, .. } if failure == conflict)
    })
    .await;
    let error = crashed.claim(&lines(&["l2"])).await.unwrap_err();
    let conflict = QueueError::Conflict { node: "n".into() };
    assert_eq!(error, conflict, "still");
    crashed.queue.stop().await;
    let told = again.look().await;
    assert_eq!(&find(&told, "n").unwrap().instance, again.instance());
}

#[tokio::test]
async fn of_two_that_start_at_once_under_one_name_one_stays() {
    let server = Server::started().await;
    for round in 0..3 {
        let node = format!("n{round}");
        let config = hasty(&server, &node);
        let twins = [(); 2].map(|()| Queue::start(&config).unwrap());
        for twin in &twins {
            // Whoever comes second takes the name over, or is refused.
            let _ = twin.lease_store().unwrap().join().await;
        }
        let mut stays = 0;
        for twin in &twins {
            match twin.lease_store().unwrap().beat(&info(), None).await {
                Ok(_) => stays += 1,
                Err(error) => assert_eq!(error, QueueError::Conflict { node: node.clone() }),
            }
        }
        assert_eq!(stays, 1);
    }
}

#[tokio::test]
async fn a_frozen_bridge_that_wakes_can_change_no_lease() {
    let server = Server::started().await;
    let frozen = Sharer::start(&server, "n").await;
    let l = lines(&["l1"]);
    frozen.take(&l).await;
    frozen.listen_no_more(&server).await;
    let _again = Sharer::start(&server, "n").await;
    let error = frozen.release(&l, &[]).await.unwrap_err();
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    assert!(server.query::<bool>("HEXISTS cluster:leases l1").await);
}

#[tokio::test]
async fn a_bridge_that_was_cut_off_never_takes_its_name_back() {
    let server = Server::started().await;
    let proxy = Proxy::to(server.port).await;
    let mut config = sharing(&server, "n");
    config.url = Secret::new(proxy.url());
    let cut_off = Sharer::of(start_queue(&config).await);
    cut_off.listen_no_more(&server).await;
    proxy.set(Mode::Cut);
    disconnected(&cut_off.queue).await;
    let again = Sharer::start(&server, "n").await;
    proxy.turn_to(server.port).await;
    let mut watch = cut_off.queue.watch();
    let decided = watch.wait_for(|state| match state {
        RedisState::Connected { .. } => true,
        RedisState::Disconnected { failure, .. } => *failure == RedisFailure::Conflict,
    });
    let decided = tokio::time::timeout(Duration::from_secs(15), decided).await;
    decided.expect("nothing was decided").unwrap();
    let error = cut_off.join().await.unwrap_err();
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    let told = again.look().await;
    assert_eq!(&find(&told, "n").unwrap().instance, again.instance());
}

#[tokio::test]
async fn a_bridge_that_stops_leaves_alone_who_has_taken_its_name() {
    let server = Server::started().await;
    let frozen = Sharer::start(&server, "n").await;
    frozen.listen_no_more(&server).await;
    let again = Sharer::start(&server, "n").await;
    let call = CallId::random();
    again.queue.record(event(&call, CallEventKind::Ringing));
    eventually("the call is known", async || {
        server.call(&call, "state").await.is_some()
    })
    .await;
    // It wakes up to a SIGTERM.
    frozen.queue.stop().await;
    assert_eq!(
        server.call(&call, "state").await.as_deref(),
        Some("ringing")
    );
    for key in ["heartbeat", "info", "state"] {
        let key = format!("EXISTS bridge:n:{key}");
        assert!(server.query::<bool>(&key).await, "{key}");
    }
    let told = again.look().await;
    assert_eq!(&find(&told, "n").unwrap().instance, again.instance());
}

#[tokio::test]
async fn a_name_whose_bridge_seems_to_listen_is_taken_when_its_heartbeat_expires() {
    let server = Server::started().await;
    let gone = Sharer::of(start_queue(&hasty(&server, "n")).await);
    let channel = gone.channel();
    channel.notified().await;
    // Its host has vanished: Redis holds its connections for alive.
    gone.look().await;
    let started = Instant::now();
    let next = Sharer::of(start_queue(&hasty(&server, "n")).await);
    next.join().await.unwrap();
    let waited = started.elapsed();
    println!("joined after {waited:?}");
    assert!(waited > Duration::from_secs(2) && waited < Duration::from_secs(6));
    drop(channel);
}

#[tokio::test]
async fn a_node_that_came_and_went_settles_after_a_minute() {
    let server = Server::started().await;
    let settles_in = async |sharer: &Sharer, node: &str| {
        let beat = sharer.look().await;
        find(&beat, node).unwrap().settles_in
    };
    let minute = |time: Duration| (55..=60).contains(&time.as_secs());
    let first = Sharer::start(&server, "n").await;
    assert_eq!(
        settles_in(&first, "n").await,
        Duration::ZERO,
        "never seen before"
    );
    // It stops, by the book, soon after it has come.
    first.queue.stop().await;
    let second = Sharer::start(&server, "n").await;
    assert!(minute(settles_in(&second, "n").await), "it came and went");
    assert!(
        minute(settles_in(&second, "n").await),
        "each heartbeat says so"
    );
    let other = Sharer::start(&server, "other").await;
    assert!(minute(settles_in(&other, "n").await), "others see it");

    // Cut off from Redis for a while: still the same life.
    kill_heartbeat(&server, "n").await;
    assert!(minute(settles_in(&second, "n").await));
    // The life that stayed is followed by one that need not settle.
    let key = "bridge:n:seen";
    let came: i64 = server.query(&format!("HGET {key} came_at")).await;
    let _: u64 = server
        .query(&format!("HSET {key} came_at {}", came - 61_000))
        .await;
    second.queue.stop().await;
    let third = Sharer::start(&server, "n").await;
    assert_eq!(settles_in(&third, "n").await, Duration::ZERO);
    third.queue.stop().await;
    // A short life that is long over counts for nothing.
    make_older(&server, "n", Duration::from_secs(61)).await;
    let fourth = Sharer::start(&server, "n").await;
    assert_eq!(settles_in(&fourth, "n").await, Duration::ZERO);
    let left: i64 = server.query(&format!("TTL {key}")).await;
    assert!((110..=120).contains(&left), "{left}");
}

#[tokio::test]
async fn a_node_is_told_to_look_once_for_many_messages() {
    let server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let b = Sharer::start(&server, "b").await;
    let (told_a, told_b) = (a.channel(), b.channel());
    told_a.notified().await;
    told_b.notified().await;
    let l = lines(&["l1", "l2"]);
    a.take(&l).await;
    a.offer(&l, &[b.node().clone()]).await.unwrap();
    told_b.notified().await;
    b.take(&l).await;
    b.confirm(&[(l[0].clone(), true), (l[1].clone(), false)])
        .await
        .unwrap();
    told_a.notified().await;

    // An application has added lines.
    for _ in 0..1_000 {
        let told: u64 = server.query("PUBLISH bridge:a:new_registration x").await;
        assert_eq!(told, 1);
    }
    told_a.notified().await;
    let quiet = async || {
        let quiet = Duration::from_millis(300);
        tokio::time::timeout(quiet, told_a.notified())
            .await
            .is_err()
    };
    eventually("what came late is told, and then no more", quiet).await;
    drop(told_a);
    eventually("nobody listens any more", async || {
        let listeners: (String, u64) = server
            .query("PUBSUB NUMSUB bridge:a:new_registration")
            .await;
        listeners.1 == 0
    })
    .await;
}

#[tokio::test]
async fn listening_begins_anew_when_redis_is_back() {
    let mut server = Server::started().await;
    let a = Sharer::start(&server, "a").await;
    let channel = a.channel();
    channel.notified().await;
    server.kill();
    server.start(&[]).await;
    channel.notified().await;
    eventually("a message comes through", async || {
        server
            .query::<u64>("PUBLISH bridge:a:new_registration x")
            .await
            == 1
    })
    .await;
    channel.notified().await;
    connected(&a.queue).await;
}

/// How often Redis has run each command; those within scripts count too.
async fn commands(server: &Server) -> Vec<(String, u64)> {
    let stats: String = server.query("INFO commandstats").await;
    let count = |line: &str| {
        let (name, counts) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        let calls = counts.split(',').next()?.parse().ok()?;
        Some((name.to_owned(), calls))
    };
    stats.lines().filter_map(count).collect()
}

#[tokio::test]
async fn an_idle_node_with_two_thousand_lines_costs_few_commands() {
    const SECONDS: u64 = 11;
    let server = Server::started().await;
    let all = numbered(2_000);
    let mut sharers = Vec::new();
    for (turn, node) in ["a", "b", "c"].into_iter().enumerate() {
        let config = QueueConfig {
            lease_ttl: sipbridge::queue::LEASE_TTL,
            ..sharing(&server, node)
        };
        let sharer = Sharer::of(start_queue(&config).await);
        let own: Vec<_> = all.iter().skip(turn).step_by(3).cloned().collect();
        sharer.take(&own).await;
        sharer
            .queue
            .set_registrations(own.into_iter().collect::<BTreeSet<_>>());
        sharers.push(sharer);
    }
    let mut seen = Vec::new();
    let mut channels = Vec::new();
    for sharer in &sharers {
        seen.push(sharer.look().await.revision);
        let channel = sharer.channel();
        channel.notified().await;
        channels.push(channel);
    }
    eventually("the registrations are written", async || {
        server.query::<u64>("SCARD bridge:c:registrations").await == 666
    })
    .await;
    let before = commands(&server).await;
    let started = Instant::now();
    let mut beats = tokio::time::interval(sipbridge::queue::LEASE_TTL / 3);
    while started.elapsed() < Duration::from_secs(SECONDS) {
        beats.tick().await;
        for (sharer, seen) in sharers.iter().zip(&seen) {
            assert_eq!(sharer.look_again(*seen).await.view.leases, None);
        }
    }
    let took = started.elapsed().as_secs_f64();
    let mut total = 0;
    for (name, calls) in commands(&server).await {
        let known = before.iter().find(|(known, _)| *known == name);
        let calls = calls - known.map_or(0, |(_, calls)| *calls);
        total += calls;
        if calls > 0 {
            println!("{name}: {:.1}/s a node", calls as f64 / took / 3.0);
        }
    }
    let each = total as f64 / took / 3.0;
    println!("in all: {each:.1}/s a node, those within scripts among them");
    assert!(each <= 20.0, "{each} commands a second");
}

/// Its Redis user may use no channel, so that nobody ever listens for it.
#[tokio::test]
async fn a_live_bridge_that_may_not_listen_keeps_its_name() {
    let server = Server::started().await;
    let first = Sharer::of(start_queue(&hasty(&server, "n")).await);
    first.look().await;
    let beats = async {
        loop {
            tokio::time::sleep(Duration::from_millis(500)).await;
            first.look().await;
        }
    };
    let second = async {
        let queue = Queue::start(&hasty(&server, "n")).unwrap();
        queue.lease_store().unwrap().join().await.unwrap_err()
    };
    let error = tokio::select! {
        error = second => error,
        () = beats => unreachable!("it beats for ever"),
    };
    assert_eq!(error, QueueError::Conflict { node: "n".into() });
    first.look().await;
}
