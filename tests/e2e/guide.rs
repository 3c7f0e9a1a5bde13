//! The curl lines of the manual's chapter `api`, as they stand there, against the real program: a
//! newcomer adds an encrypted line, sees it registered, calls it, places a
//! call, steers it and transfers it.

use std::process::Command;

use serde_json::Value;
use tempfile::TempDir;

use crate::harness::bridge::Setup;
use crate::harness::{Bridge, Callee, Caller, Redis, SOON, Worker, until};

const TOKEN: &str = "a-token-of-more-than-16";

/// The chapter's block of shell lines that talk to the API, without what starts
/// the bridge.
fn shell_lines() -> String {
    let chapter = include_str!("../../src/guide/api.md");
    let mut blocks = chapter
        .split("```sh\n")
        .filter_map(|rest| rest.split("```").next());
    let block = blocks.find(|block| block.contains("api()")).unwrap();
    block
        .lines()
        .filter(|line| !line.starts_with("sipbridge"))
        .collect::<Vec<_>>()
        .join("\n")
}

/// Runs lines of the chapter one after the other.
struct Shell {
    prelude: String,
    commands: Vec<String>,
}

impl Shell {
    fn new(bridge: &Bridge, trunk: &Callee) -> Self {
        let text = shell_lines()
            .replace("127.0.0.1:8080", &format!("127.0.0.1:{}", bridge.api_port))
            .replace("sip.example.net", &trunk.local.to_string())
            // An argument that goes on in the next line stays one command.
            .replace("\",\n  \"", "\", \"");
        let all: Vec<String> = text.lines().map(str::to_owned).collect();
        let starts = |line: &str, words: &[&str]| words.iter().any(|word| line.starts_with(word));
        let of_prelude = |line: &&String| starts(line, &["export", "api()", "telephony="]);
        let prelude: Vec<String> = all.iter().filter(of_prelude).cloned().collect();
        Self {
            prelude: format!("{}\nexport API_TOKEN={TOKEN}\n", prelude.join("\n")),
            commands: all
                .into_iter()
                .filter(|line| line.starts_with("api "))
                .collect(),
        }
    }

    /// Runs the command with that in it; what it prints, read as JSON.
    async fn run(&self, part: &str, sid: &str) -> Value {
        let found = self.commands.iter().find(|line| line.contains(part));
        let command = found.unwrap_or_else(|| panic!("the chapter has no {part}"));
        let script = format!("{}{}", self.prelude, command.replace("CA…", sid));
        let output = tokio::task::spawn_blocking(move || {
            Command::new("bash")
                .args(["-euc", &script])
                .output()
                .unwrap()
        });
        let output = output.await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success(), "{command}: {text}");
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{command}: {text}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newcomer_gets_from_nothing_to_a_transferred_call() {
    let (redis, trunk, data) = (
        Redis::start(),
        Callee::open().await,
        TempDir::new().unwrap(),
    );
    let mut setup = Setup::queue(&redis)
        .args(&["--data-dir", &data.path().display().to_string()])
        .env("API_TOKEN", TOKEN)
        .trunk(trunk.local.port());
    setup.lines.clear();
    let bridge = setup.start().await;
    let shell = Shell::new(&bridge, &trunk);

    assert_eq!(shell.run("sip-servers -d", "").await["id"], "trunk");
    let line = shell.run("phone-lines -d", "").await;
    assert_eq!(
        (&line["hasPassword"], &line["sipPassword"]),
        (&true.into(), &Value::Null)
    );
    let register = trunk.request("REGISTER").await;
    assert!(register.header("From").unwrap().contains("33972360682"));
    until(SOON, "registered", async || {
        shell.run("phone-lines/line-1", "").await["state"] == "registered"
    })
    .await;

    // Somebody calls that number.
    let mut call = Caller::connect(bridge.sip(), "33972360682").await;
    let mut worker = Worker::serve(&redis).await;
    let shown = shell.run("api $calls  ", "").await;
    assert_eq!(shown[0]["to"], "+33972360682");
    call.bye().await;
    worker.listen_to_end().await;

    // The line calls somebody.
    let placed = shell.run("\"order\":\"42\"", "").await;
    let sid = placed["sid"].as_str().unwrap();
    assert_eq!(
        placed["to"], "+33612345678",
        "in E.164 by the line's country"
    );
    let invite = trunk.invited().await;
    trunk.answer(&invite).await;
    let worker = Worker::serve(&redis).await;
    assert_eq!(worker.start()["start"]["customParameters"]["order"], "42");
    until(SOON, "active", async || {
        let calls = shell.run("api $calls  ", "").await;
        calls
            .as_array()
            .unwrap()
            .iter()
            .any(|call| call["sid"] == sid && call["status"] == "active")
    })
    .await;
    assert_eq!(shell.run("/dtmf", sid).await["status"], "active");
    let held = shell.run("/hold", sid).await;
    assert_eq!(held["onHold"], true);
    let hold = trunk.invited_again(&invite).await;
    assert!(hold.body.contains("a=sendonly"), "{}", hold.body);
    trunk.answer_as(&hold, "recvonly").await;

    shell.run("/transfer", sid).await;
    let refer = trunk.request("REFER").await;
    assert!(refer.header("Refer-To").unwrap().contains("33699887766"));
    trunk.notify(&invite, "SIP/2.0 200 OK").await;
    until(SOON, "the record of the call", async || {
        let records = shell.run("all=1", "").await;
        let mut items = records["items"].as_array().unwrap().iter();
        items.any(|call| call["sid"] == sid && call["status"] == "transferred")
    })
    .await;
    bridge.shut_down().await;
}
