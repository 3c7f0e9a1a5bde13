//! The API under clients that are slow, silent, wrong or nervous: `/health`
//! is answered, and what is asked twice is done once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::bridge::{LINE, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::{Api, Bridge, Callee, Redis, http, soon};

const TOKEN: &str = "a-token-of-more-than-16-characters";
const SERVERS: &str = "/api/admin/telephony/sip-servers";

async fn bridge(dir: &TempDir) -> Bridge {
    let data = dir.path().display().to_string();
    Setup::new()
        .args(&["--ws-target", "ws://127.0.0.1:9/x", "--data-dir", &data])
        .args(&["--api-token", TOKEN])
        .start()
        .await
}

async fn health_answers(bridge: &Bridge, times: usize) {
    for _ in 0..times {
        let began = Instant::now();
        let answer = soon("/health", http::get(bridge.api_port, "/health")).await;
        assert_eq!(answer.expect("an answer").status, 200);
        assert!(
            began.elapsed() < Duration::from_secs(2),
            "{:?}",
            began.elapsed()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_under_half_requests_that_come_again() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir).await;
    let (port, stopped) = (bridge.api_port, Arc::new(AtomicBool::new(false)));
    let mut attackers = JoinSet::new();
    for _ in 0..300 {
        let stopped = stopped.clone();
        attackers.spawn(async move {
            while !stopped.load(Ordering::Relaxed) {
                if let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)).await {
                    let _ = stream
                        .write_all(b"GET /api/calls HTTP/1.1\r\nHost: 127")
                        .await;
                    // Until it is thrown out.
                    let _ = stream.read(&mut [0; 64]).await;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    health_answers(&bridge, 10).await;
    stopped.store(true, Ordering::Relaxed);
    attackers.abort_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_answered_under_idle_connections() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir).await;
    let mut idle = Vec::new();
    for _ in 0..140 {
        let mut stream = TcpStream::connect(("127.0.0.1", bridge.api_port))
            .await
            .unwrap();
        let request = b"GET /api/calls HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
        stream.write_all(request).await.unwrap();
        soon("an answer", stream.read(&mut [0; 64])).await.unwrap();
        idle.push(stream);
    }
    health_answers(&bridge, 5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_tokens_are_counted_and_slow_and_stop_nobody() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir).await;
    let api = Api::of(&bridge);
    let mut guesses = JoinSet::new();
    for n in 0..400 {
        let port = bridge.api_port;
        guesses.spawn(async move {
            let began = Instant::now();
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
            let guess = format!(
                "GET /api/calls HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer wrong-{n}\r\nConnection: close\r\n\r\n"
            );
            stream.write_all(guess.as_bytes()).await.ok()?;
            let mut answer = Vec::new();
            stream.read_to_end(&mut answer).await.ok()?;
            (!answer.is_empty()).then(|| began.elapsed())
        });
    }
    health_answers(&bridge, 3).await;
    api.with_token(TOKEN).get("/api/calls").await.expect(200);
    while let Some(answered) = guesses.join_next().await {
        if let Some(after) = answered.unwrap() {
            assert!(after >= Duration::from_millis(450), "{after:?}");
        }
    }
    let metrics = http::get(bridge.api_port, "/metrics").await.unwrap().body;
    let counter = "sipbridge_api_wrong_tokens_total ";
    let mut lines = metrics.lines();
    let count = lines.find_map(|line| line.strip_prefix(counter)).unwrap();
    assert!(count.parse::<u64>().unwrap() >= 300, "{count}");
    let output = bridge.output();
    let told = output.matches("a wrong API token was sent").count();
    assert!((1..=3).contains(&told), "{told}");
    assert!(!output.contains("wrong-7"), "guesses are not written down");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hosts_are_refused() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir).await;
    let api = Api::of(&bridge);
    for path in ["/health", "/api/calls"] {
        let headers = "Host: 127.0.0.1\r\nHost: other.example\r\n";
        let answer = api.send("GET", path, headers, "").await;
        answer.problem(400, "bad-request");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_twice_with_one_key_is_done_once() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir).await;
    let api = Api::of(&bridge).with_token(TOKEN);
    let headers = "Content-Type: application/json\r\nIdempotency-Key: key-1\r\n";
    let post = async |id: &str| {
        let body = json!({"id": id, "label": "x", "trunk_uri": "sip:a.example"}).to_string();
        api.send("POST", SERVERS, headers, &body).await
    };
    let first = post("s1").await;
    let again = post("s1").await;
    assert_eq!((first.status, again.status), (201, 201), "{}", again.body);
    assert_eq!(first.body, again.body);
    assert_eq!(first.headers["location"], again.headers["location"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    post("s2").await.problem(422, "idempotency-key-reused");
    let bad = api
        .send("POST", SERVERS, "Idempotency-Key: \r\n", "{}")
        .await;
    bad.problem(400, "bad-request");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_asked_for_twice_is_placed_once() {
    let redis = Redis::start();
    let phone = Callee::open().await;
    let bridge = Setup::queue(&redis)
        .line_field("sipDomain", json!(phone.local.to_string()))
        .start()
        .await;
    let api = Api::of(&bridge);
    let headers = "Content-Type: application/json\r\nIdempotency-Key: order-1042\r\n";
    let body = json!({"to": CALLER_NUMBER, "phoneLineId": LINE}).to_string();
    let first = api.send("POST", "/api/calls", headers, &body).await;
    let again = api.send("POST", "/api/calls", headers, &body).await;
    assert_eq!(first.expect(201)["sid"], again.expect(201)["sid"]);
    let metrics = http::get(bridge.api_port, "/metrics").await.unwrap().body;
    assert!(metrics.contains("\nsipbridge_dials_total 1\n"), "{metrics}");
}
