//! `GET /health` over real sockets.
#![expect(clippy::unwrap_used, reason = "a failure here is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sipbridge::api::{
    ApiListener, ApiServer, CallTotals, Health, HealthSource, LineCounts, health_only,
};
use sipbridge::bridge::overload::Readings;
use sipbridge::sip::engine::EngineStats;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

fn health(draining: bool) -> Health {
    Health {
        node_id: "node-a".into(),
        uptime: Duration::from_secs(1),
        draining,
        lines: LineCounts {
            registered: 1,
            ..LineCounts::default()
        },
        calls_active: 0,
        calls_max: 10,
        totals: CallTotals::default(),
        overloaded: false,
        readings: Readings::default(),
        engine: EngineStats::default(),
        cluster: None,
        redis: None,
        has_ws_target: true,
        counters: Default::default(),
    }
}

/// A server, and the switch that makes it drain.
async fn server() -> (ApiServer, Arc<AtomicBool>) {
    let draining = Arc::new(AtomicBool::new(false));
    let source = Arc::clone(&draining);
    let source = HealthSource::new(move || health(source.load(Ordering::Relaxed)));
    let listener = ApiListener::bind(ANY).await.unwrap();
    (listener.serve(health_only(source)), draining)
}

/// Sends a request and returns status, head and body.
async fn ask(addr: SocketAddr, method: &str, path: &str) -> (u16, String, String) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head[9..12].parse().unwrap();
    (status, head.to_lowercase(), body.to_owned())
}

#[tokio::test]
async fn health_is_told_by_status_and_body() {
    let (server, draining) = server().await;
    let addr = server.local_addr();
    let (status, head, body) = ask(addr, "GET", "/health").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "ok");
    assert_eq!(body["nodeId"], "node-a");

    draining.store(true, Ordering::Relaxed);
    let (status, _, body) = ask(addr, "GET", "/health").await;
    assert_eq!(status, 503);
    let body: Value = serde_json::from_str(&body).unwrap();
    assert_eq!(body["status"], "draining");
    let (status, _, body) = ask(addr, "HEAD", "/health").await;
    assert_eq!((status, body.as_str()), (503, ""));
}

#[tokio::test]
async fn other_requests_are_refused_as_json() {
    let (server, _) = server().await;
    for (method, path, expected) in [
        ("GET", "/", 404),
        ("GET", "/nope", 404),
        ("POST", "/health", 405),
    ] {
        let (status, head, body) = ask(server.local_addr(), method, path).await;
        assert_eq!(status, expected);
        assert!(
            head.contains("content-type: application/problem+json"),
            "{head}"
        );
        assert_eq!(status == 405, head.contains("allow: get,head"), "{head}");
        let body: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(body["status"], expected);
    }
}

#[tokio::test]
async fn a_large_head_is_refused_and_a_slow_one_is_cut_off() {
    let (server, _) = server().await;
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let head = format!("GET /health HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9_000));
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 431");

    let mut slow = TcpStream::connect(server.local_addr()).await.unwrap();
    slow.write_all(b"GET /hea").await.unwrap();
    let started = Instant::now();
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest).await;
    assert!(started.elapsed() < Duration::from_secs(7));
}

#[tokio::test]
async fn a_port_in_use_is_named_and_a_stopped_server_frees_it() {
    let (server, _) = server().await;
    let addr = server.local_addr();
    let error = ApiListener::bind(addr).await.err().unwrap().to_string();
    assert!(
        error.contains(&addr.to_string()) && error.contains("--api-port"),
        "{error}"
    );

    let _idle = TcpStream::connect(addr).await.unwrap();
    let started = Instant::now();
    server.stop().await;
    assert!(started.elapsed() < Duration::from_secs(2));
    assert!(TcpStream::connect(addr).await.is_err());
    ApiListener::bind(addr).await.unwrap();
}
