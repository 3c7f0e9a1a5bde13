//! Numbers of Twilio's REST API, changed: by hand, and by Twilio's own library for Python.

use std::process::Command;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::api::Answer;
use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::sdp::Offer;
use crate::harness::{Api, Bridge, Caller, SOON, until};
use crate::twilio_api::{ACCOUNT, TOKEN, as_account};
use crate::voice_webhook::Bot;

const ADMIN_LINE: &str = "/api/admin/telephony/phone-lines/line-1";

/// A bridge whose flags name a bot that rejects every call.
struct Stage {
    flags: Bot,
    own: Bot,
    bridge: Bridge,
    api: Api,
    _data: TempDir,
}

impl Stage {
    async fn new(args: &[&str]) -> Self {
        let (flags, own, data) = (
            Bot::start().await,
            Bot::start().await,
            TempDir::new().unwrap(),
        );
        flags.answers("/voice", "<Reject/>");
        own.answers("/own", "<Reject reason=\"busy\"/>");
        let folder = data.path().display().to_string();
        // By name: what goes to the host of the flags is signed for clients too.
        let url = format!("http://localhost:{}/voice", flags.port);
        let setup = Setup::new().args(&["--voice-url", &url, "--data-dir", &folder]);
        let setup = setup.args(&["--account-sid", ACCOUNT, "--auth-token", TOKEN]);
        let bridge = setup.args(args).start().await;
        Self {
            api: Api::of(&bridge),
            flags,
            own,
            bridge,
            _data: data,
        }
    }

    async fn ask(&self, method: &str, path: &str, form: &str) -> Answer {
        let credentials = format!("{ACCOUNT}:{TOKEN}");
        let path = format!("/2010-04-01/Accounts/{ACCOUNT}/IncomingPhoneNumbers{path}");
        as_account(&self.api, &credentials, method, &path, form).await
    }

    /// The path of the number's own.
    async fn number(&self) -> String {
        let list = self.ask("GET", ".json", "").await.expect(200);
        let sid = list["incoming_phone_numbers"][0]["sid"].as_str();
        format!("/{}.json", sid.expect("a number"))
    }

    /// How the next call is refused, once that is the status.
    async fn refuses_with(&self, status: u16) {
        until(SOON, "the next call's way", async || {
            let mut call = Caller::invite(self.bridge.sip(), NUMBER, Offer::usual()).await;
            call.final_response().await.status() == Some(status)
        })
        .await;
    }
}

fn code(answer: &Answer, status: u16) -> Value {
    answer.expect(status)["code"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_changed_of_a_number_is_changed_of_its_line() {
    let stage = Stage::new(&["--allow-callback", "127.0.0.0/8"]).await;
    let path = stage.number().await;
    let before = stage.ask("GET", &path, "").await.expect(200);
    assert_eq!(before["friendly_name"], LINE);
    assert_eq!(before["voice_url"], Value::Null);
    stage.refuses_with(603).await;

    let url = stage.own.url("/own");
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("FriendlyName", "Front desk")
        .append_pair("VoiceUrl", &url)
        .append_pair("VoiceMethod", "GET")
        .append_pair("VoiceFallbackUrl", &url)
        .append_pair("StatusCallback", &url)
        .append_pair("StatusCallbackMethod", "get")
        .finish();
    let changed = stage.ask("POST", &path, &form).await.expect(200);
    assert_eq!(changed, stage.ask("GET", &path, "").await.expect(200));
    for (name, value) in [
        ("friendly_name", "Front desk"),
        ("voice_url", &url),
        ("voice_method", "GET"),
        ("voice_fallback_url", &url),
        ("voice_fallback_method", "POST"),
        ("status_callback", &url),
        ("status_callback_method", "GET"),
        ("phone_number", NUMBER),
    ] {
        assert_eq!(changed[name], value, "{name}");
    }
    // The same line at the other door.
    let line = stage.api.get(ADMIN_LINE).await.expect(200);
    assert_eq!(line["voiceUrl"], url.as_str());
    assert_eq!(line["friendlyName"], "Front desk");
    stage.refuses_with(486).await;
    let asked = stage.own.http.receives("/own", 1).await.remove(0);
    assert_eq!(asked.method, "GET");
    // The host is none of the operator's.
    assert_eq!(asked.header("x-twilio-signature"), None);
    until(SOON, "it is listed by its name", async || {
        let list = stage.ask("GET", ".json?FriendlyName=Front+desk", "").await;
        list.expect(200)["incoming_phone_numbers"][0]["sid"] == changed["sid"]
    })
    .await;

    // What is empty is taken away; what is not given stays.
    let form = "VoiceUrl=&FriendlyName=";
    let changed = stage.ask("POST", &path, form).await.expect(200);
    assert_eq!(changed["voice_url"], Value::Null);
    assert_eq!(changed["friendly_name"], LINE);
    assert_eq!(changed["status_callback"], url.as_str());
    stage.refuses_with(603).await;

    for (form, expected) in [
        ("VoiceUrl=ftp%3A%2F%2Fh", 21205),
        ("VoiceMethod=PUT", 21218),
        ("SmsUrl=http%3A%2F%2Fh", 21218),
        ("VoiceUrl=a&VoiceUrl=b", 21218),
        ("FriendlyName=a%0Ab", 21218),
    ] {
        let answer = stage.ask("POST", &path, form).await;
        assert_eq!(code(&answer, 400), expected, "{form}");
    }
    let nobody = "/PN0123456789abcdef0123456789abcdef.json";
    assert_eq!(code(&stage.ask("POST", nobody, "").await, 404), 20404);
    let change = json!({"wsTarget": "ws://h"});
    let answer = stage.api.json("PATCH", ADMIN_LINE, &change).await;
    answer.expect(200);
    let answer = stage.ask("POST", &path, "VoiceUrl=https%3A%2F%2Fh").await;
    assert_eq!(code(&answer, 400), 21205);
    assert!(answer.body.contains("wsTarget"), "{}", answer.body);
    assert!(!stage.flags.http.requests().is_empty());
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_names_leads_into_no_network_of_the_operators() {
    let stage = Stage::new(&[]).await;
    let path = stage.number().await;
    let url = stage.own.url("/own");
    let form = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("VoiceUrl", &url)
        .append_pair("VoiceFallbackUrl", "http://169.254.169.254/")
        .append_pair("StatusCallback", &url)
        .finish();
    stage.ask("POST", &path, &form).await.expect(200);
    // Answered, and given the announcement: its webhook cannot be asked.
    until(SOON, "the next call is the ladder's", async || {
        let mut call = Caller::invite(stage.bridge.sip(), NUMBER, Offer::usual()).await;
        let status = call.final_response().await.status();
        if status == Some(200) {
            call.bye().await;
        }
        status == Some(200)
    })
    .await;
    assert_eq!(stage.own.http.requests().len(), 0);

    // Where the operator writes the same address, it is his.
    let change = json!({"voiceUrl": url, "statusCallback": url});
    let answer = stage.api.json("PATCH", ADMIN_LINE, &change).await;
    answer.expect(200);
    stage.refuses_with(486).await;
    let asked = stage.own.http.receives("/own", 2).await;
    for request in &asked {
        assert!(request.header("x-twilio-signature").is_some());
    }
    let change = json!({"clientUrls": []});
    let answer = stage.api.json("PATCH", ADMIN_LINE, &change).await;
    assert_eq!(answer.faulty(), ["clientUrls"]);
    stage.bridge.shut_down().await;
}

/// What a bot does with Twilio's library when it moves: only its base URL is another.
const BOT: &str = r#"
import json, sys
from twilio.rest import Client

url, account, token, voice = sys.argv[1:]
client = Client(account, token)
client.api.base_url = url
number = client.incoming_phone_numbers.list(phone_number="+33972360682")[0]
number = number.update(voice_url=voice, voice_method="POST", voice_fallback_url=voice,
                       status_callback=voice, friendly_name="Bot")
again = client.incoming_phone_numbers(number.sid).fetch()
print(json.dumps({"url": again.voice_url, "method": again.voice_method, "name": again.friendly_name,
                  "fallback": again.voice_fallback_url, "callback": again.status_callback}))
"#;

#[tokio::test(flavor = "multi_thread")]
async fn twilios_library_moves_a_number_to_another_bot() {
    let stage = Stage::new(&["--allow-callback", "127.0.0.0/8"]).await;
    let url = format!("http://127.0.0.1:{}", stage.api.port());
    let voice = stage.own.url("/own");
    let bot = Command::new("/usr/bin/python3")
        .args(["-c", BOT, &url, ACCOUNT, TOKEN, &voice])
        .env_remove("http_proxy")
        .output();
    let bot = bot.unwrap();
    let errors = String::from_utf8_lossy(&bot.stderr);
    assert!(bot.status.success(), "{errors}");
    let told: Value = serde_json::from_slice(&bot.stdout).unwrap();
    let expected = json!({"url": voice, "method": "POST", "name": "Bot", "fallback": voice,
        "callback": voice});
    assert_eq!(told, expected);
    stage.refuses_with(486).await;
    stage.bridge.shut_down().await;
}
