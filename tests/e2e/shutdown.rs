//! Signals, exit codes, and hangs that are real: `tests/real/hang.c`, put in
//! front of libc, stops a thread of the unchanged program for ever.

use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use tokio::net::UdpSocket;

use crate::harness::bridge::{LINE, NUMBER, PASSWORD, Setup, USERNAME, encrypt, tail};
use crate::harness::peers::TrunkLine;
use crate::harness::sdp::Offer;
use crate::harness::{Bridge, Caller, Exit, Kamailio, Redis, SOON, Worker, soon, sound, until};

/// Waits until a bridge whose calls keep it says that it drains.
async fn drains(redis: &Redis) {
    until(SOON, "it drains", async || {
        let state: Option<String> = redis.query(&["GET", "bridge:node-e2e:state"]).await;
        state.as_deref() == Some("draining")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn term_ends_it_with_0_and_leaves_nothing() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    bridge.shut_down().await;
    let beat: Option<String> = redis.query(&["GET", "bridge:node-e2e:heartbeat"]).await;
    assert!(beat.is_none(), "no heartbeat of a node that is gone");
}

#[tokio::test(flavor = "multi_thread")]
async fn interrupt_is_as_good() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis).start().await;
    bridge.process.signal("INT");
    assert_eq!(bridge.exit(SOON).await, Exit { code: Some(0) });
    bridge.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_are_unregistered() {
    let redis = Redis::start();
    let trunk = Kamailio::start(
        &[TrunkLine {
            username: USERNAME,
            password: PASSWORD,
            number: NUMBER,
        }],
        &[],
    );
    let bridge = Setup::queue(&redis)
        .line_field("sipPassword", encrypt(LINE, PASSWORD).into())
        .trunk(trunk.port)
        .start()
        .await;
    until(SOON, "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;
    bridge.shut_down().await;
    let lookup = Caller::invite(
        crate::harness::peers::local(trunk.port),
        NUMBER,
        Offer::usual(),
    );
    assert_eq!(lookup.await.final_response().await.status(), Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_ended_with_bye_and_new_ones_refused() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis)
        .args(&["--drain-timeout", "0", "--shutdown-timeout", "4"])
        .start()
        .await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let asked = Instant::now();
    bridge.process.signal("TERM");
    drains(&redis).await;
    let mut late = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    assert_eq!(late.final_response().await.status(), Some(503));
    // The call lives on while it may: the worker can still say goodbye.
    let goodbye = sound::numbered(0, 20).concat();
    worker.media(&goodbye);
    call.rtp.hears(&goodbye, SOON).await;

    call.ended_by_bridge(SOON).await;
    worker.listen_to_end().await;
    assert_eq!(worker.all("stop").len(), 1);
    assert_eq!(worker.close_code(), Some(1001), "going away");
    assert_eq!(bridge.exit(SOON).await, Exit { code: Some(0) });
    assert!(asked.elapsed() < Duration::from_secs(8));
    bridge.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_ends_in_time_ends_the_shutdown_early() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let _worker = Worker::serve(&redis).await;
    let asked = Instant::now();
    bridge.process.signal("TERM");
    drains(&redis).await;
    call.bye().await;
    assert_eq!(bridge.exit(SOON).await, Exit { code: Some(0) });
    assert!(
        asked.elapsed() < Duration::from_secs(6),
        "no waiting for nobody"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis).start().await;
    let _call = Caller::connect(bridge.sip(), NUMBER).await;
    let _worker = Worker::serve(&redis).await;
    bridge.process.signal("TERM");
    drains(&redis).await;
    assert!(bridge.process.is_running(), "the call is given its time");
    let second = Instant::now();
    bridge.process.signal("TERM");
    let exit = bridge.exit(Duration::from_secs(2)).await;
    assert!(second.elapsed() < Duration::from_secs(1));
    assert_ne!(exit, Exit { code: Some(0) }, "no clean end");
    bridge.assert_nothing_left();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signal_while_it_starts_is_not_kept_waiting() {
    // The start asks a STUN server that never answers, for 8 s.
    let mute = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = mute.local_addr().unwrap().to_string();
    let mut bridge = Setup::new()
        .args(&["--ws-target", "ws://127.0.0.1:1/", "--stun-server", &server])
        .spawn();
    soon("a STUN request", mute.recv(&mut [0; 64]))
        .await
        .unwrap();
    let told = Instant::now();
    bridge.process.signal("TERM");
    assert_eq!(bridge.exit(SOON).await, Exit { code: Some(0) });
    assert!(told.elapsed() < Duration::from_secs(3));
    assert!(!bridge.output().contains("sipbridge is up"));
    bridge.assert_nothing_left();
}

/// Compiles `tests/real/hang.c` once per test process.
fn hang_library() -> PathBuf {
    static BUILT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    BUILT
        .get_or_init(|| {
            let library = PathBuf::from(env!("CARGO_TARGET_TMPDIR"))
                .join(format!("hang-{}.so", std::process::id()));
            let status = Command::new("cc")
                .args(["-shared", "-fPIC", "-O1", "-o"])
                .arg(&library)
                .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/hang.c"))
                .arg("-ldl")
                .status()
                .unwrap();
            assert!(status.success(), "hang.c does not compile");
            library
        })
        .clone()
}

/// A bridge in which threads named so will hang in those calls, once asked to.
struct Doomed {
    bridge: Bridge,
    trigger: PathBuf,
    _dir: tempfile::TempDir,
}

impl Doomed {
    async fn start(redis: &Redis, threads: &str, calls: &str) -> Self {
        let dir = tempfile::TempDir::new().unwrap();
        let trigger = dir.path().join("now");
        let bridge = Setup::queue(redis)
            .args(&["--shutdown-timeout", "2"])
            .env("LD_PRELOAD", &hang_library().display().to_string())
            .env("HANG_WHEN", &trigger.display().to_string())
            .env("HANG_THREADS", threads)
            .env("HANG_CALLS", calls)
            .start()
            .await;
        Self {
            bridge,
            trigger,
            _dir: dir,
        }
    }

    fn hang(&self) {
        std::fs::write(&self.trigger, "").unwrap();
    }

    /// Its end must come by itself, with that code and a word about what hung.
    async fn ends_with(mut self, code: i32, limit: Duration, words: &[&str]) {
        let exit = self.bridge.exit(limit).await;
        let output = self.bridge.output();
        assert_eq!(exit, Exit { code: Some(code) }, "{}", tail(&output, 30));
        let last = tail(&output, 15).to_lowercase();
        assert!(
            words.iter().any(|word| last.contains(word)),
            "it says what hung ({words:?}):\n{last}"
        );
        self.bridge.assert_nothing_left();
    }
}

/// Names of the threads of a process, to see that a test hangs what it means.
fn threads(pid: u32) -> Vec<String> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    tasks
        .filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok())
        .map(|name| name.trim().to_owned())
        .collect()
}

/// Names, or beginnings of names, of the threads that the watchdog minds.
const PJSIP_THREADS: &str = "pjsua";
const PACER_THREADS: &str = "pacer";

#[tokio::test(flavor = "multi_thread")]
async fn a_shutdown_that_hangs_ends_with_70() {
    let redis = Redis::start();
    let doomed = Doomed::start(&redis, "*", "pthread_join").await;
    doomed.hang();
    doomed.bridge.process.signal("TERM");
    let limit = Duration::from_secs(25);
    doomed
        .ends_with(70, limit, &["pjsip", "sip", "hang", "hung"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_pjsip_thread_ends_it_with_71() {
    let redis = Redis::start();
    let doomed = Doomed::start(&redis, PJSIP_THREADS, "epoll_wait").await;
    let names = threads(doomed.bridge.pid());
    assert!(has_one_of(&names, PJSIP_THREADS), "{names:?}");
    doomed.hang();
    doomed
        .ends_with(71, Duration::from_secs(40), &["pjsip", "sip"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hung_media_thread_ends_it_with_71() {
    let redis = Redis::start();
    let doomed = Doomed::start(&redis, PACER_THREADS, "clock_nanosleep,nanosleep").await;
    let _call = Caller::connect(doomed.bridge.sip(), NUMBER).await;
    let names = threads(doomed.bridge.pid());
    assert!(has_one_of(&names, PACER_THREADS), "{names:?}");
    doomed.hang();
    doomed
        .ends_with(71, Duration::from_secs(40), &["media", "pacer"])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thread_that_hangs_while_it_drains_ends_it_with_71() {
    let redis = Redis::start();
    let doomed = Doomed::start(&redis, PACER_THREADS, "clock_nanosleep,nanosleep").await;
    let _call = Caller::connect(doomed.bridge.sip(), NUMBER).await;
    doomed.bridge.process.signal("TERM");
    until(SOON, "draining", async || {
        doomed.bridge.health().await.json()["status"] == "draining"
    })
    .await;
    doomed.hang();
    doomed
        .ends_with(71, Duration::from_secs(40), &["media", "pacer"])
        .await;
}

fn has_one_of(names: &[String], prefixes: &str) -> bool {
    prefixes
        .split(',')
        .any(|prefix| names.iter().any(|name| name.starts_with(prefix)))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_of_500_ms_is_no_hang() {
    let redis = Redis::start();
    let mut bridge = Setup::queue(&redis).start().await;
    for _ in 0..3 {
        bridge.process.signal("STOP");
        tokio::time::sleep(Duration::from_millis(500)).await;
        bridge.process.signal("CONT");
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert!(bridge.process.is_running());
    bridge.shut_down().await;
}
