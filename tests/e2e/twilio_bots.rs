//! `examples/twilio_bot.py` and `.mjs`, bots on Twilio's own libraries, unchanged: asked by the bridge, answered with `<Say>` and
//! a stream, and calling its REST API, whose address they are told. `tests/python/bot_packages.sh` gets the libraries.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use tokio::net::TcpListener;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::{Process, free_port, wait_for_tcp};
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::{Callee, Caller, SOON, Worker, within};
use crate::voice_webhook::wav;

pub const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "auth-t0ken-of-the-tests";

pub fn packages() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/bot-packages")
}

pub fn python() -> Command {
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-B")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/examples/twilio_bot.py"
        ))
        .env("PYTHONPATH", packages().join("python"));
    command
}

/// Node finds a file's packages beside it: hence a copy.
pub fn node() -> Command {
    let bot = packages().join("twilio_bot.mjs");
    std::fs::write(&bot, include_str!("../../examples/twilio_bot.mjs")).unwrap();
    let mut command = Command::new("node");
    command.arg(bot);
    command
}

/// What a bot is given: its credentials, and where things are.
pub struct Bot {
    program: fn() -> Command,
    port: u16,
    stream: TcpListener,
}

impl Bot {
    pub async fn new(program: fn() -> Command) -> Self {
        let fetched = packages().join("versions");
        assert!(fetched.exists(), "run tests/python/bot_packages.sh first");
        Self {
            program,
            port: free_port(),
            stream: TcpListener::bind("127.0.0.1:0").await.unwrap(),
        }
    }

    pub fn base(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn command(&self) -> Command {
        let mut command = (self.program)();
        let stream = self.stream.local_addr().unwrap();
        command
            .env("TWILIO_ACCOUNT_SID", ACCOUNT)
            .env("TWILIO_AUTH_TOKEN", TOKEN)
            .env("BASE_URL", self.base())
            .env("STREAM_URL", format!("ws://{stream}/media"))
            .env("PORT", self.port.to_string());
        command
    }

    pub fn serve(&self) -> Process {
        let mut command = self.command();
        command.arg("serve");
        let log = tempfile::NamedTempFile::new().unwrap();
        let process = Process::start("twilio_bot", command, log.path());
        wait_for_tcp("twilio_bot", self.port);
        process
    }

    /// What it prints of a request of its own to the bridge's API, with this in its environment.
    pub async fn asks(&self, environment: (&str, &str), args: &[&str]) -> String {
        let mut command = self.command();
        command.env(environment.0, environment.1).args(args);
        output(command).await
    }

    pub async fn streamed(&self) -> Worker {
        let stream = within(SOON, "a stream", self.stream.accept()).await;
        let (stream, _) = stream.unwrap();
        stream.set_nodelay(true).unwrap();
        Worker::greeted_over(tokio_tungstenite::accept_async(stream).await.unwrap()).await
    }
}

/// What a program prints, once it has ended well.
pub async fn output(mut command: Command) -> String {
    let asking = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = within(SOON * 2, "the bot's answer", asking).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    said
}

/// A bridge that asks this bot, with one line at this phone.
pub fn asking(bot: &Bot, phone: &Callee) -> Setup {
    Setup::new()
        .args(&["--voice-url", &format!("{}/voice", bot.base())])
        .args(&["--account-sid", ACCOUNT, "--allow-callback", "127.0.0.0/8"])
        .env("AUTH_TOKEN", TOKEN)
        .line_field("sipDomain", json!(phone.local.to_string()))
        .line_field("phoneNumber", json!(NUMBER))
}

async fn runs_unchanged(program: fn() -> Command) {
    let bot = Bot::new(program).await;
    let _serving = bot.serve();
    let speech = Receiver::start().await;
    let pattern = [0x1f, 0x2f, 0x3f, 0x4f, 0x0f, 0x0f, 0x1f, 0x1f];
    let spoken = Reply {
        body: wav(&pattern),
        ..Reply::status(200).header("Content-Type: audio/wav")
    };
    speech.script("/v1/audio/speech", [spoken]);
    let phone = Callee::open().await;
    let say = format!("http://127.0.0.1:{}", speech.port);
    let bridge = asking(&bot, &phone)
        .args(&["--say-url", &say])
        .start()
        .await;

    // Called: it speaks, then its stream has the caller.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let heard: Vec<u8> = pattern.iter().copied().cycle().take(320).collect();
    call.rtp.hears(&heard, SOON).await;
    let mut worker = bot.streamed().await;
    let parameters = &worker.start()["start"]["customParameters"];
    assert_eq!(parameters["caller"], CALLER_NUMBER);
    call.bye().await;
    worker.listen_to_end().await;

    // It calls somebody, and ends that call.
    let api = format!("http://127.0.0.1:{}", bridge.api_port);
    let base = ("TWILIO_API_BASE", api.as_str());
    calls_and_hangs_up(&bot, base, &phone).await;
    bridge.shut_down().await;
}

/// The bot calls the phone over the API, talks, and ends the call.
pub async fn calls_and_hangs_up(bot: &Bot, environment: (&str, &str), phone: &Callee) {
    let said = bot
        .asks(environment, &["call", CALLER_NUMBER, NUMBER])
        .await;
    let (sid, status) = said.trim().split_once(' ').unwrap();
    assert_eq!(status, "queued");
    let invite = phone.invited().await;
    phone.answer(&invite).await;
    let mut worker = bot.streamed().await;
    assert_eq!(worker.call_sid, sid);
    bot.asks(environment, &["hangup", sid]).await;
    phone.request("BYE").await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_in_python_runs_unchanged() {
    runs_unchanged(python).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bot_in_node_runs_unchanged() {
    runs_unchanged(node).await;
}
