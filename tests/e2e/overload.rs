//! A bridge that comes late shuts its door before callers hear it, and opens
//! it again; one that runs out of file descriptors keeps the calls it has.

use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::http;
use crate::harness::peers::local;
use crate::harness::rtp::Player;
use crate::harness::sdp::Offer;
use crate::harness::{Bridge, Call, Caller, Job, Redis, SOON, Worker, soon, sound, until};

/// Late is what no busy machine is: the tests stop the process for longer.
const LATE: [&str; 2] = ["--max-late-ms", "250"];
const STOP_MS: u64 = 400;

async fn start() -> (Redis, Bridge) {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).args(&LATE).start().await;
    (redis, bridge)
}

/// A call with its worker, in which both may speak more than once.
struct Talk {
    call: Call,
    worker: Worker,
    player: Player,
    frames: u32,
}

impl Talk {
    async fn begin(redis: &Redis, bridge: &Bridge) -> Self {
        let call = Caller::connect(bridge.sip(), NUMBER).await;
        Self {
            worker: Worker::serve(redis).await,
            player: call.player(),
            call,
            frames: 0,
        }
    }

    /// Audio arrives both ways, whole.
    async fn both_ways(&mut self) {
        let (question, reply) = (
            sound::numbered(self.frames, 25),
            sound::numbered(self.frames + 25, 25).concat(),
        );
        self.frames += 50;
        self.worker.media(&reply);
        self.player.play(&question).await;
        self.worker.hears(&question.concat(), SOON).await;
        self.call.rtp.hears(&reply, SOON).await;
    }
}

/// Stops the process for a while, and lets it run for another.
async fn stop_and_go(bridge: &Bridge, stop_ms: u64, go_ms: u64) {
    bridge.process.signal("STOP");
    tokio::time::sleep(Duration::from_millis(stop_ms)).await;
    bridge.process.signal("CONT");
    tokio::time::sleep(Duration::from_millis(go_ms)).await;
}

fn is_overloaded(health: &Value) -> bool {
    health["overload"]["active"].as_bool().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn late_audio_again_and_again_shuts_the_door_until_it_is_calm() {
    let (redis, bridge) = start().await;
    let mut talk = Talk::begin(&redis, &bridge).await;
    let deadline = Instant::now() + Duration::from_secs(40);
    let health = loop {
        stop_and_go(&bridge, STOP_MS, 600).await;
        let health = bridge.health().await;
        if is_overloaded(&health.json()) {
            break health;
        }
        assert!(
            Instant::now() < deadline,
            "never overloaded: {}",
            health.body
        );
    };
    assert_eq!(health.status, 503, "no new call is taken");
    let json = health.json();
    assert_eq!(
        (&json["status"], &json["takesCalls"]),
        (&"degraded".into(), &false.into())
    );
    assert!(
        json["overload"]["pacerLateMaxMs"].as_u64().unwrap() > 250,
        "{json}"
    );

    let mut late = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let refusal = late.final_response().await;
    assert_eq!(refusal.status(), Some(503));
    assert!(refusal.header("Retry-After").is_some());
    talk.both_ways().await;

    // Calm: it opens by itself, and says so once.
    until(Duration::from_secs(40), "calm again", async || {
        bridge.health().await.status == 200
    })
    .await;
    let mut next = Talk::begin(&redis, &bridge).await;
    next.both_ways().await;
    talk.both_ways().await;
    let health = bridge.health().await.json();
    assert!(health["calls"]["refused"]["overloaded"].as_u64().unwrap() >= 1);
    let output = bridge.output();
    let begun = output.matches("overloaded: audio is late").count();
    let ended = output.matches("no longer overloaded").count();
    assert_eq!((begun, ended), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_stall_is_seen_and_is_no_overload() {
    let (redis, bridge) = start().await;
    let _talk = Talk::begin(&redis, &bridge).await;
    stop_and_go(&bridge, 500, 0).await;
    until(SOON, "the stall is in the gauges", async || {
        let health = bridge.health().await.json();
        assert!(!is_overloaded(&health), "{health}");
        health["overload"]["pacerLateMaxMs"].as_u64().unwrap() >= 400
            && health["overload"]["roundsSkipped"].as_u64().unwrap() >= 15
    })
    .await;
    for _ in 0..8 {
        let health = bridge.health().await;
        assert_eq!(health.status, 200, "{}", health.body);
        tokio::time::sleep(Duration::from_millis(250)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audio_that_waits_is_in_the_gauges() {
    let (redis, bridge) = start().await;
    let talk = Talk::begin(&redis, &bridge).await;
    talk.worker.media(&sound::numbered(0, 500).concat());
    until(SOON, "what the worker sent ahead", async || {
        let audio = bridge.health().await.json()["audio"].clone();
        audio["toCallersMaxMs"].as_u64().unwrap() > 3_000
            && audio["toCallersSumMs"] == audio["toCallersMaxMs"]
    })
    .await;

    // A worker that reads nothing: what the kernel does not take waits.
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let _deaf = attach_deaf(&job, bridge.stream_port).await;
    let mut player = call.player();
    until(
        Duration::from_secs(60),
        "what it does not read",
        async || {
            for number in 0..10 {
                player.send(&sound::numbered_frame(number)).await;
            }
            let audio = bridge.health().await.json()["audio"].clone();
            audio["toWorkersMaxMs"].as_u64().unwrap() > 200
        },
    )
    .await;
}

/// A worker with little room that never reads.
async fn attach_deaf(job: &Job, port: u16) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(local(port)).await.unwrap();
    let path = job.url().splitn(4, '/').nth(3).unwrap();
    let request = format!(
        "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AQIDBAUGBwgJCgsMDQ4PEA==\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream
}

/// Descriptors that the bridge holds now.
fn descriptors(bridge: &Bridge) -> usize {
    std::fs::read_dir(format!("/proc/{}/fd", bridge.pid()))
        .unwrap()
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_beyond_the_descriptors_get_503() {
    let redis = Redis::start();
    // 128 are kept for everything that is no call, and each call takes four.
    let bridge = Setup::queue(&redis).descriptors(128 + 3 * 4).start().await;
    assert!(bridge.output().contains("too few file descriptors"));
    let mut talks = Vec::new();
    for _ in 0..3 {
        talks.push(Talk::begin(&redis, &bridge).await);
    }
    assert!(descriptors(&bridge) <= 128 + 3 * 4);
    let mut fourth = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let refusal = fourth.final_response().await;
    assert_eq!(refusal.status(), Some(503));
    assert!(refusal.header("Retry-After").is_some());
    for talk in &mut talks {
        talk.both_ways().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_descriptors_calls_go_on_and_all_is_well_afterwards() {
    const LIMIT: usize = 140;
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).descriptors(140).start().await;
    let mut talk = Talk::begin(&redis, &bridge).await;

    // Idle connections to the workers' port take all there are, again and
    // again: each is dropped after a while.
    let mut idle = Vec::new();
    let mut exhausted = 0;
    let used_before = cpu_ticks(&bridge);
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(4) {
        for _ in 0..20 {
            if idle.len() < 400 {
                idle.push(TcpStream::connect(local(bridge.stream_port)).await.unwrap());
            }
        }
        exhausted += usize::from(descriptors(&bridge) >= LIMIT);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(exhausted > 5, "descriptors ran out: {exhausted}");
    // Who asks for its health now has to wait, and is answered later.
    let asked = tokio::spawn(http::get(bridge.api_port, "/health"));
    talk.both_ways().await;
    until(SOON, "503 while none is left", async || {
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        match call.final_response().await.status() {
            Some(503) => return true,
            // One was free for a moment.
            Some(200) => call.bye().await,
            other => panic!("{other:?}"),
        }
        false
    })
    .await;
    let busy = cpu_ticks(&bridge) - used_before;
    assert!(
        busy < 300,
        "no busy loop: {busy} ticks of 10 ms in {:?}",
        began.elapsed()
    );
    drop(idle);

    until(
        Duration::from_secs(20),
        "descriptors are back",
        async || descriptors(&bridge) < LIMIT - 40,
    )
    .await;
    let health = soon("the answer", asked).await.unwrap().unwrap();
    assert!(matches!(health.status, 200 | 503), "{}", health.body);
    let mut next = Talk::begin(&redis, &bridge).await;
    next.both_ways().await;
    talk.both_ways().await;
    let warnings = bridge
        .output()
        .matches("cannot accept a worker's connection")
        .count();
    assert!((1..=4).contains(&warnings), "{warnings} warnings");
}

/// User and system time of all its threads, in ticks of 10 ms.
fn cpu_ticks(bridge: &Bridge) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", bridge.pid())).unwrap();
    let fields = &stat[stat.rfind(')').unwrap() + 2..];
    fields
        .split(' ')
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<u64>().unwrap())
        .sum()
}
