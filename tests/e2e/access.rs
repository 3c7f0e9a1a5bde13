//! Who may use the API, what it takes from whom, and the audit.

use std::time::{Duration, Instant};

use serde_json::json;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use crate::harness::api::{Api, read};
use crate::harness::bridge::{LINE, Setup, clean_command};
use crate::harness::{Bridge, SOON};

const TOKEN: &str = "a-token-of-more-than-16-characters";
const SERVERS: &str = "/api/admin/telephony/sip-servers";

/// A bridge with a database and nothing else.
async fn bridge(dir: &TempDir, args: &[&str]) -> Bridge {
    let data = dir.path().display().to_string();
    let setup = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/x", "--data-dir", &data]);
    setup.args(args).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_nothing_but_the_open_paths_is_answered_without_it() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir, &["--api-token", TOKEN]).await;
    let stranger = Api::of(&bridge);
    let friend = stranger.with_token(TOKEN);
    for (method, path) in [
        ("GET", "/api/calls"),
        ("POST", "/api/calls"),
        ("GET", "/api/calls/CA0123456789abcdef0123456789abcdef"),
        ("GET", SERVERS),
        ("PATCH", SERVERS),
        ("PUT", "/api/admin/telephony/fallback"),
        ("GET", "/nothing"),
    ] {
        let answer = stranger.send(method, path, "", "").await;
        answer.problem(401, "unauthorized");
        let challenge = &answer.headers["www-authenticate"];
        assert_eq!(challenge, "Bearer realm=\"sipbridge\"");
    }
    for wrong in [
        "x",
        &TOKEN[1..],
        &format!("{TOKEN}x"),
        &TOKEN.to_uppercase(),
    ] {
        let answer = stranger.with_token(wrong).get("/api/calls").await;
        answer.problem(401, "unauthorized");
        assert!(answer.headers["www-authenticate"].contains("invalid_token"));
    }
    assert_eq!(stranger.get("/health").await.status, 200);
    assert_eq!(stranger.get("/api/openapi.json").await.status, 200);
    friend.get("/api/calls").await.expect(200);
    friend.get("/nothing").await.problem(404, "not-found");
    // A token makes any Host and Origin good.
    let headers = "Host: bridge.example\r\nOrigin: https://ui.example\r\n";
    let answer = friend.send("GET", "/api/calls", headers, "").await;
    assert_eq!(answer.status, 200);
    assert!(!bridge.output().contains(TOKEN), "the token is in the log");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_pages_in_a_browser_are_kept_out() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir, &[]).await;
    let api = Api::of(&bridge);
    api.get(SERVERS).await.expect(200);
    for headers in [
        "Origin: http://evil.example\r\n",
        "Origin: null\r\n",
        "Host: evil.example\r\n",
        "Host: evil.example:8080\r\n",
        "Host: localhost.evil.example\r\n",
    ] {
        let answer = api.send("GET", SERVERS, headers, "").await;
        answer.problem(403, "foreign-request");
    }
    for host in ["localhost", "127.0.0.1", "[::1]:80"] {
        let answer = api
            .send("GET", SERVERS, &format!("Host: {host}\r\n"), "")
            .await;
        assert_eq!(answer.status, 200, "{host}");
    }
    // What a form of a page can send is not JSON.
    for kind in ["text/plain", "application/x-www-form-urlencoded"] {
        let kind = format!("Content-Type: {kind}\r\n");
        let answer = api.send("POST", SERVERS, &kind, "{}").await;
        answer.problem(415, "media-type");
    }
    assert_eq!(
        api.send("GET", "/health", "Host: evil.example\r\n", "")
            .await
            .status,
        200
    );
    bridge.shut_down().await;
}

#[test]
fn an_open_address_without_a_token_is_refused_at_the_start() {
    let check = |args: &[&str]| {
        let mut command = clean_command();
        command.args([
            "--ws-target",
            "ws://h",
            "--sip-domain",
            "h",
            "--sip-username",
            "u",
        ]);
        let output = command.args(args).output().unwrap();
        (
            output.status.code(),
            String::from_utf8(output.stderr).unwrap(),
        )
    };
    let (code, said) = check(&["--api-bind", "0.0.0.0"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("--api-bind (API_BIND) is not a loopback address")
            && said.contains("give --api-token (API_TOKEN)"),
        "{said}"
    );
    let (code, said) = check(&["--api-token", "short-token-here"]);
    assert_eq!(code, Some(2), "{said}");
    assert!(
        said.contains("--api-token (API_TOKEN) must be 17 or more"),
        "{said}"
    );
    assert!(!said.contains("short-token-here"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_bounded_in_size_and_time() {
    let dir = TempDir::new().unwrap();
    let bridge = bridge(&dir, &[]).await;
    let api = Api::of(&bridge);
    let json = "Content-Type: application/json\r\n";
    let long = format!("{{\"label\": \"{}\"}}", "x".repeat(65_536));
    let answer = api.send("POST", SERVERS, json, &long).await;
    answer.problem(413, "too-large");
    // Not announced, but sent in chunks.
    let head = format!(
        "POST {SERVERS} HTTP/1.1\r\nHost: 127.0.0.1\r\n{json}Transfer-Encoding: chunked\r\n\r\n"
    );
    let chunk = format!("8000\r\n{}\r\n", " ".repeat(0x8000));
    api.raw(&format!("{head}{}", chunk.repeat(3)))
        .await
        .problem(413, "too-large");
    for (body, status) in [
        ("", 400),
        ("{", 400),
        ("[]", 400),
        ("\"x\"", 400),
        ("{}", 422),
    ] {
        let answer = api.send("POST", SERVERS, json, body).await;
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
    }
    let started = Instant::now();
    let mut slow = api.connect().await;
    let head = format!(
        "POST {SERVERS} HTTP/1.1\r\nHost: 127.0.0.1\r\n{json}Content-Length: 100\r\n\r\n{{"
    );
    slow.write_all(head.as_bytes()).await.unwrap();
    read(&mut slow).await.problem(408, "timeout");
    let took = started.elapsed();
    assert!(took > Duration::from_secs(4) && took < SOON, "{took:?}");
    let answer = api.send("DELETE", SERVERS, "", "").await;
    answer.problem(405, "method-not-allowed");
    assert_eq!(answer.headers["allow"], "GET,HEAD,POST");
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_change_leaves_one_line_without_values() {
    let dir = TempDir::new().unwrap();
    // Whatever the level; the test waits for what `app` says.
    let level = "error,sipbridge::app=info";
    let args = ["--api-token", TOKEN, "--log-level", level];
    let bridge = bridge(&dir, &args).await;
    let api = Api::of(&bridge).with_token(TOKEN);
    let server = json!({"id": "s1", "label": "a-Label", "trunk_uri": "sip:hidden.example",
        "password": "hunter2-Pass"});
    api.post(SERVERS, &server).await.expect(201);
    let path = format!("{SERVERS}/s1");
    let change = json!({"label": null, "hunter3": "x"});
    assert_eq!(api.json("PATCH", &path, &change).await.status, 422);
    api.json("PATCH", &path, &json!({"label": "other-Label"}))
        .await
        .expect(200);
    assert_eq!(api.delete(&path).await.status, 204);
    assert_eq!(api.delete(&path).await.status, 404);
    api.get(SERVERS).await.expect(200);
    let register = format!("/api/admin/telephony/lines/{LINE}/register");
    assert_eq!(api.post_empty(&register).await.status, 409);

    let output = bridge.output();
    let lines: Vec<_> = output
        .lines()
        .filter(|line| line.contains("sipbridge::audit"))
        .collect();
    assert_eq!(lines.len(), 6, "{lines:#?}");
    for (line, parts) in lines.iter().zip([
        [
            "who=token 127.0.0.1:",
            "id=\"s1\" fields=\"id label trunk_uri password\" status=201",
        ],
        [
            "route=\"/api/admin/telephony/sip-servers/{id}\"",
            "id=\"s1\" fields=\"\" status=422",
        ],
        ["method=PATCH", "fields=\"label\" status=200"],
        ["method=DELETE", "id=\"s1\" fields=\"\" status=204"],
        ["method=DELETE", "status=404"],
        [
            "lines/{id}/register",
            "id=\"line-1\" fields=\"\" status=409",
        ],
    ]) {
        assert!(parts.iter().all(|part| line.contains(part)), "{line}");
    }
    for value in [
        "hunter2",
        "hunter3",
        "a-Label",
        "other-Label",
        "hidden.example",
        TOKEN,
    ] {
        assert!(!output.contains(value), "{value} is in the log");
    }
    bridge.shut_down().await;
}
