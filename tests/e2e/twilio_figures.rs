//! What Twilio's ways cost: figures, not tests, so they are ignored:
//! `cargo test --release --test e2e -- --ignored --nocapture twilio_figures`.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::json;
use tempfile::TempDir;

use crate::harness::bridge::NUMBER;
use crate::harness::peers::free_udp_range;
use crate::harness::sdp::Offer;
use crate::harness::{Api, Bridge, Caller, sound};
use crate::voice_webhook::{ACCOUNT, Bot, TOKEN};

/// Calls that are up while the API is read.
const CALLS: u16 = 200;
const WEBHOOKS: usize = 100;
const REQUESTS: usize = 500;

/// The middle and the 99th of a hundred, in milliseconds.
fn show(what: &str, mut took: Vec<Duration>) {
    took.sort_unstable();
    let ms = |at: usize| took[(took.len() - 1) * at / 100].as_secs_f64() * 1e3;
    println!("| {what} | {:.2} | {:.2} |", ms(50), ms(99));
}

/// From the bot's answer, or a little before it, to the caller's 200.
async fn webhook_to_200(bot: &Bot, bridge: &Bridge) -> Vec<Duration> {
    let mut took = Vec::with_capacity(WEBHOOKS);
    for number in 0..WEBHOOKS {
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        call.answered().await;
        let answered = Instant::now();
        let asked = bot.http.receives("/voice", number + 1).await[number].at;
        took.push(answered - asked);
        call.bye().await;
    }
    took
}

async fn times(mut ask: impl AsyncFnMut()) -> Vec<Duration> {
    let mut took = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let began = Instant::now();
        ask().await;
        took.push(began.elapsed());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures"]
async fn the_table() {
    let bot = Bot::start().await;
    bot.answers("/voice", "<Pause length=\"600\"/>");
    let dir = TempDir::new().unwrap();
    let data = dir.path().display().to_string();
    let first = free_udp_range(2 * (CALLS + 20));
    let ports = format!("{first}-{}", first + 2 * (CALLS + 20) - 1);
    let bridge = bot
        .setup()
        .args(&["--account-sid", ACCOUNT, "--data-dir", &data, "--agents"])
        .args(&[
            "--max-calls-per-second",
            "0",
            "--rtp-ports",
            &ports,
            "--log-level",
            "warn,sipbridge::app=info",
        ])
        .start()
        .await;
    println!("| | p50, ms | p99, ms |\n|---|---|---|");
    show(
        "webhook's answer to SIP 200",
        webhook_to_200(&bot, &bridge).await,
    );

    let api = Api::of(&bridge);
    let agent = json!({"agent_name": "Ann", "system_prompt": "x".repeat(8_000)});
    let put = times(async || {
        let path = "/api/v1/omnichannel/agent/config?tenantId=t1";
        api.json("PUT", path, &agent).await.expect(200);
    });
    show("PUT of an agent of 8 kB", put.await);

    let mut calls = Vec::new();
    for _ in 0..CALLS {
        calls.push(Caller::connect(bridge.sip(), NUMBER).await);
    }
    let said = sound::numbered(0, 1_000);
    let talking: Vec<_> = calls
        .iter()
        .map(|call| {
            let (mut player, said) = (call.player(), said.clone());
            tokio::spawn(async move { player.play(&said).await })
        })
        .collect();
    let login = BASE64.encode(format!("{ACCOUNT}:{TOKEN}"));
    let headers = format!("Authorization: Basic {login}\r\n");
    let listed = bot.http.requests_for("/voice");
    let last = crate::voice_webhook::form(listed.last().unwrap())["CallSid"].clone();
    for (what, path) in [
        ("GET /Calls/{CallSid}.json", format!("/Calls/{last}.json")),
        ("GET /Calls.json", "/Calls.json?PageSize=50".to_owned()),
    ] {
        let path = format!("/2010-04-01/Accounts/{ACCOUNT}{path}");
        let read = times(async || {
            api.send("GET", &path, &headers, "").await.expect(200);
        });
        show(&format!("{what}, {CALLS} calls with audio"), read.await);
    }
    talking.into_iter().for_each(|talking| talking.abort());
    for mut call in calls {
        call.bye().await;
    }
    bridge.shut_down().await;
}
