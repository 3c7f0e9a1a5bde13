//! Twilio's REST API of the real program: by hand, and by Twilio's own library for Python as a
//! bot uses it.

use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::api::Answer;
use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::caller::{CALLER_NUMBER, Call};
use crate::harness::{Api, Bridge, Caller, Redis, SOON, Worker, until};

pub const ACCOUNT: &str = "AC0123456789abcdef0123456789abcdef";
pub const TOKEN: &str = "fedcba9876543210fedcba9876543210";
const NOBODY: &str = "/Calls/CA0123456789abcdef0123456789abcdef.json";

/// A bridge with a queue and a database, and its account.
struct Stage {
    redis: Redis,
    bridge: Bridge,
    api: Api,
    _data: TempDir,
}

impl Stage {
    async fn new() -> Self {
        let (redis, data) = (Redis::start(), TempDir::new().unwrap());
        let folder = data.path().display().to_string();
        let setup = Setup::queue(&redis).args(&[
            "--data-dir",
            &folder,
            "--account-sid",
            ACCOUNT,
            "--auth-token",
            TOKEN,
        ]);
        let bridge = setup.start().await;
        Self {
            api: Api::of(&bridge),
            redis,
            bridge,
            _data: data,
        }
    }

    /// A request to what stands behind the account, by those who know the token.
    async fn ask(&self, method: &str, path: &str, form: &str) -> Answer {
        let credentials = format!("{ACCOUNT}:{TOKEN}");
        let path = format!("/2010-04-01/Accounts/{ACCOUNT}{path}");
        as_account(&self.api, &credentials, method, &path, form).await
    }

    /// A call with a worker.
    async fn call(&self) -> (Call, Worker) {
        let call = Caller::connect(self.bridge.sip(), NUMBER).await;
        let worker = Worker::serve(&self.redis).await;
        (call, worker)
    }

    async fn reaches(&self, sid: &str, status: &str) -> Value {
        let path = format!("/Calls/{sid}.json");
        until(SOON, status, async || {
            self.ask("GET", &path, "").await.expect(200)["status"] == status
        })
        .await;
        self.ask("GET", &path, "").await.expect(200)
    }

    async fn list(&self, query: &str) -> Value {
        let path = format!("/Calls.json{query}");
        self.ask("GET", &path, "").await.expect(200)
    }
}

/// A request to Twilio's API with these credentials.
pub async fn as_account(
    api: &Api,
    credentials: &str,
    method: &str,
    path: &str,
    form: &str,
) -> Answer {
    let kind = "Content-Type: application/x-www-form-urlencoded";
    let credentials = STANDARD.encode(credentials);
    let headers = format!("Authorization: Basic {credentials}\r\n{kind}\r\n");
    api.send(method, path, &headers, form).await
}

/// An error in Twilio's form.
fn code(answer: &Answer, status: u16) -> u64 {
    let error = answer.expect(status);
    assert_eq!(answer.headers["content-type"], "application/json");
    assert_eq!(error["status"], status);
    let keys: Vec<_> = error.as_object().unwrap().keys().cloned().collect();
    assert_eq!(keys, ["code", "message", "more_info", "status"]);
    error["code"].as_u64().unwrap()
}

fn sids(list: &Value) -> Vec<String> {
    let calls = list["calls"].as_array().unwrap().iter();
    calls
        .map(|call| call["sid"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_account_is_let_in() {
    let stage = Stage::new().await;
    let calls = format!("/2010-04-01/Accounts/{ACCOUNT}/Calls.json");
    let right = format!("{ACCOUNT}:{TOKEN}");
    let ask = async |credentials: &str, path: &str| {
        as_account(&stage.api, credentials, "GET", path, "").await
    };
    let _ = ask(&right, &calls).await.expect(200);
    let wrong = ask(&format!("{ACCOUNT}:{}", &TOKEN[1..]), &calls).await;
    assert_eq!(code(&wrong, 401), 20003);
    assert!(wrong.headers["www-authenticate"].starts_with("Basic "));
    let other = ask(&right, &calls.replace(ACCOUNT, &ACCOUNT.replace("0", "1"))).await;
    assert_eq!(code(&other, 401), 20003);
    assert_eq!(code(&stage.api.get(&calls).await, 401), 20003);
    // Neither API opens with the other's credentials.
    assert_eq!(
        code(&stage.api.with_token(TOKEN).get(&calls).await, 401),
        20003
    );
    // What is not there is refused by name, in the same form.
    for (method, path) in [
        ("POST", "/Messages.json"),
        ("GET", "/Recordings.json"),
        ("GET", NOBODY),
        ("DELETE", NOBODY),
        ("GET", "/Calls/x.json"),
        ("GET", "/IncomingPhoneNumbers/PN0.json"),
    ] {
        let answer = stage.ask(method, path, "").await;
        assert_eq!(code(&answer, 404), 20404, "{method} {path}");
        let names_others = answer.body.contains("Calls.json");
        assert!(method != "POST" || names_others, "{}", answer.body);
    }
    stage.bridge.shut_down().await;

    let dialled = ["--ws-target", "ws://127.0.0.1:9/x"];
    let off = Setup::new().args(&dialled).start().await;
    let answer = as_account(&Api::of(&off), &right, "GET", &calls, "").await;
    assert_eq!(code(&answer, 404), 20404);
    assert!(answer.body.contains("--auth-token"), "{}", answer.body);
    off.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_seen_ended_and_forgotten() {
    let stage = Stage::new().await;
    let (call, mut worker) = stage.call().await;
    let sid = worker.call_sid.clone();
    let seen = stage.reaches(&sid, "in-progress").await;
    assert_eq!(seen["direction"], "inbound");
    assert_eq!(seen["from"], CALLER_NUMBER);
    assert_eq!(seen["account_sid"], ACCOUNT);
    assert!(seen["end_time"].is_null() && seen["duration"].is_null());
    let path = format!("/Calls/{sid}.json");
    for (form, expected) in [
        ("", 21218),
        ("Status=over", 21218),
        ("Status=canceled", 21220),
        ("Status=completed&Twiml=%3CResponse%2F%3E", 21218),
        ("Url=ftp%3A%2F%2F127.0.0.1%2F", 21205),
        ("Twiml=%3CResponse%3E", 12100),
    ] {
        let answer = stage.ask("POST", &path, form).await;
        assert_eq!(code(&answer, 400), expected, "{form}");
    }
    assert_eq!(code(&stage.ask("DELETE", &path, "").await, 400), 21220);

    let ended = stage.ask("POST", &path, "Status=completed").await;
    assert_eq!(ended.expect(200)["sid"], sid.as_str());
    call.ended_by_bridge(SOON).await;
    worker.next_of("stop").await;
    let seen = stage.reaches(&sid, "completed").await;
    assert!(seen["duration"].as_str().unwrap().parse::<u64>().is_ok());
    // Pipecat takes a call that is over already as ended.
    let again = stage.ask("POST", &path, "Status=completed").await;
    assert_eq!(again.expect(200)["status"], "completed");
    let late = "Twiml=%3CResponse%2F%3E";
    assert_eq!(code(&stage.ask("POST", &path, late).await, 400), 21220);

    // Its record may be written a moment later: what is deleted stays so.
    assert_eq!(stage.ask("DELETE", &path, "").await.status, 204);
    for _ in 0..10 {
        assert_eq!(code(&stage.ask("GET", &path, "").await, 404), 20404);
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    assert_eq!(sids(&stage.list("").await), [""; 0]);
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_listed_newest_first_page_by_page() {
    let stage = Stage::new().await;
    let mut made = Vec::new();
    for _ in 0..4 {
        let (mut call, worker) = stage.call().await;
        made.insert(0, worker.call_sid.clone());
        call.bye().await;
        stage.reaches(&made[0], "completed").await;
    }
    let (mut call, worker) = stage.call().await;
    made.insert(0, worker.call_sid.clone());
    stage.reaches(&made[0], "in-progress").await;

    assert_eq!(sids(&stage.list("").await), made);
    let mut pages = vec![stage.list("?PageSize=2").await];
    while let Some(next) = pages.last().unwrap()["next_page_uri"].as_str() {
        let next = next.strip_prefix(&format!("/2010-04-01/Accounts/{ACCOUNT}"));
        pages.push(stage.ask("GET", next.unwrap(), "").await.expect(200));
    }
    let paged: Vec<Vec<String>> = pages.iter().map(sids).collect();
    assert_eq!(paged.concat(), made);
    assert_eq!(paged.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
    assert_eq!(
        (&pages[1]["start"], &pages[1]["end"]),
        (&json!(2), &json!(3))
    );

    assert_eq!(sids(&stage.list("?Status=in-progress").await), made[..1]);
    assert_eq!(sids(&stage.list("?Status=completed").await), made[1..]);
    let from = format!("?From={}", CALLER_NUMBER.replace('+', "%2B"));
    assert_eq!(sids(&stage.list(&from).await), made);
    assert_eq!(sids(&stage.list("?From=1").await), [""; 0]);
    assert_eq!(sids(&stage.list("?StartTime%3C=2020-01-01").await), [""; 0]);
    for bad in [
        "?PageSize=0",
        "?Status=x",
        "?StartTime=x",
        "?PageToken=x",
        "?Fro=1",
    ] {
        let answer = stage.ask("GET", &format!("/Calls.json{bad}"), "").await;
        assert_eq!(code(&answer, 400), 21218, "{bad}");
    }
    call.bye().await;
    stage.bridge.shut_down().await;
}

/// What a bot does with Twilio's library; only its base URL is another.
const BOT: &str = r#"
import json, sys
from twilio.base.exceptions import TwilioRestException
from twilio.rest import Client

url, account, token, sid = sys.argv[1:]
client = Client(account, token)
client.api.base_url = url
call = client.calls(sid).fetch()
live = [it.sid for it in client.calls.list(status="in-progress", limit=20)]
ended = client.calls(sid).update(status="completed")
numbers = client.incoming_phone_numbers.list(limit=20)
number = client.incoming_phone_numbers(numbers[0].sid).fetch()
try:
    client.calls("CA" + "0" * 32).fetch()
    missing = None
except TwilioRestException as error:
    missing = [error.status, error.code]
print(json.dumps({
    "status": call.status, "from": call.from_, "direction": call.direction,
    "began": call.start_time.isoformat(), "live": live, "ended": ended.sid,
    "numbers": [it.phone_number for it in numbers], "number": number.phone_number,
    "voice": number.capabilities["voice"], "missing": missing,
}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn twilios_library_reads_and_ends_calls() {
    let stage = Stage::new().await;
    let (call, worker) = stage.call().await;
    let sid = worker.call_sid.clone();
    stage.reaches(&sid, "in-progress").await;
    let url = format!("http://127.0.0.1:{}", stage.api.port());
    let bot = Command::new("/usr/bin/python3")
        .args(["-c", BOT, &url, ACCOUNT, TOKEN, &sid])
        .env_remove("http_proxy")
        .output();
    let bot = bot.unwrap();
    let errors = String::from_utf8_lossy(&bot.stderr);
    assert!(bot.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&bot.stdout).unwrap();
    assert_eq!(told["status"], "in-progress");
    assert_eq!(told["from"], CALLER_NUMBER);
    assert_eq!(told["live"], json!([sid]));
    assert_eq!(told["ended"], sid.as_str());
    assert_eq!(told["numbers"], json!([told["number"]]));
    assert_eq!(told["voice"], true);
    assert_eq!(told["missing"], json!([404, 20404]));
    call.ended_by_bridge(SOON).await;
    stage.bridge.shut_down().await;
}
