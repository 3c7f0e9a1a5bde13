//! The example workers against the real bridge; the demo runs the Rust one
//! and the example caller.

use std::process::Command;
use std::time::Duration;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::peers::{Process, free_port, wait_for_tcp};
use crate::harness::{Caller, Job, Redis, sound, until};

/// `examples/worker.py`, ended when dropped. Debian's Python has its modules.
fn python_worker(args: &[&str]) -> Process {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/worker.py"))
        .args(args)
        .env_remove("REDIS_URL");
    let log = tempfile::NamedTempFile::new().unwrap();
    Process::start("worker.py", command, log.path())
}

/// The worker of the manual's chapter `workers`, as it stands there.
fn worker_of_the_guide(redis: &Redis) -> Process {
    let chapter = include_str!("../../src/guide/workers.md");
    let block = chapter.split("```python\n").nth(1).unwrap();
    let script = block.split("```").next().unwrap();
    let mut command = Command::new("/usr/bin/python3");
    command.args(["-c", script]).env("REDIS_URL", redis.url());
    let log = tempfile::NamedTempFile::new().unwrap();
    Process::start("worker of the guide", command, log.path())
}

/// It greets, then echoes what the caller says, byte for byte.
async fn greets_and_echoes(setup: Setup) {
    let bridge = setup.start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    until(Duration::from_secs(10), "a greeting", async || {
        !sound::is_silence(&call.rtp.audio())
    })
    .await;
    let mut player = call.player();
    let mut number = 0;
    // The echo starts behind the greeting, whose length is the worker's business.
    until(Duration::from_secs(20), "an echo", async || {
        player.play(&sound::numbered(number, 25)).await;
        number += 25;
        !call.rtp.numbers().is_empty()
    })
    .await;
    call.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_worker_takes_jobs() {
    let redis = Redis::start();
    let _worker = python_worker(&["--redis-url", &redis.url()]);
    greets_and_echoes(Setup::queue(&redis).args(&["--ringback", "off"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_worker_of_the_guide_takes_jobs() {
    let redis = Redis::start();
    let _worker = worker_of_the_guide(&redis);
    greets_and_echoes(Setup::queue(&redis).args(&["--ringback", "off"])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_worker_is_dialled() {
    let port = free_port();
    let _worker = python_worker(&["--listen", &port.to_string()]);
    wait_for_tcp("worker.py", port);
    let url = format!("ws://127.0.0.1:{port}/");
    let setup = Setup::new().args(&["--ws-target", &url, "--ringback", "off"]);
    greets_and_echoes(setup).await;
}

/// A program in Python of this tree, ended when dropped.
fn python(name: &'static str, path: &str, args: &[&str]) -> Process {
    let mut command = Command::new("/usr/bin/python3");
    command
        .args(["-B", &format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))])
        .args(args);
    let log = tempfile::NamedTempFile::new().unwrap();
    Process::start(name, command, log.path())
}

/// What the relay does beside that is tested by `tests/python`, without a bridge.
#[tokio::test(flavor = "multi_thread")]
async fn the_relay_says_what_its_application_has_to_say() {
    let (speech, app, port) = (free_port(), free_port(), free_port());
    let ports = [speech.to_string(), app.to_string()];
    let standins = "tests/python/standins.py";
    let _standins = python(
        "standins.py",
        standins,
        &[ports[0].as_str(), ports[1].as_str()],
    );
    wait_for_tcp("standins.py", speech);
    wait_for_tcp("standins.py", app);
    let (listen, app) = (port.to_string(), format!("ws://127.0.0.1:{app}/"));
    let speech = format!("http://127.0.0.1:{speech}");
    let servers = ["--stt-url", &speech, "--tts-url", &speech];
    let ours = ["--listen", &listen, "--app-url", &app];
    let args = [&ours[..], &servers[..]].concat();
    let _relay = python("relay.py", "examples/relay.py", &args);
    wait_for_tcp("relay.py", port);

    let url = format!("ws://127.0.0.1:{port}/");
    let greeting = "welcomeGreeting=Good evening.";
    let args = [
        "--ws-target",
        &url,
        "--ringback",
        "off",
        "--param",
        greeting,
    ];
    let bridge = Setup::new().args(&args).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    until(Duration::from_secs(10), "a greeting", async || {
        !sound::is_silence(&call.rtp.audio())
    })
    .await;
    call.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_python_worker_that_is_stopped_hands_its_caller_over() {
    let redis = Redis::start();
    let worker = python_worker(&["--redis-url", &redis.url()]);
    let setup = Setup::queue(&redis).args(&["--ringback", "off"]);
    let bridge = setup.start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    until(Duration::from_secs(10), "a greeting", async || {
        !sound::is_silence(&call.rtp.audio())
    })
    .await;
    worker.signal("TERM");
    let job = Job::take(&redis).await;
    assert_eq!(job.json["attempt"], 2);
    call.bye().await;
    bridge.shut_down().await;
}
