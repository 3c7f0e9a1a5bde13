//! The API over HTTPS: one port, one protocol; handshakes that dawdle hold up nobody; bridges
//! that ask each other prove who they are.

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::harness::api::read;
use crate::harness::bridge::{NUMBER, Setup, clean_command};
use crate::harness::peers::local;
use crate::harness::tls::Identity;
use crate::harness::{Api, Authority, Bridge, Caller, Redis, SOON, soon, until, within};

const TOKEN: &str = "a-token-of-all-the-bridges";
/// Of a handshake, and what a busy machine needs.
const CLOSED_WITHIN: Duration = Duration::from_secs(15);

async fn bridge(identity: &Identity) -> Bridge {
    Setup::new()
        .args(&["--ws-target", "ws://127.0.0.1:9/x"])
        .args(&identity.flags())
        .start()
        .await
}

async fn connect(bridge: &Bridge) -> TcpStream {
    TcpStream::connect(local(bridge.api_port)).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_port_speaks_https_and_nothing_else() {
    let authority = Authority::new("ours");
    let bridge = bridge(&authority.issue(&["bridge.example", "127.0.0.1"])).await;
    let trust = authority.trust("bridge.example");
    let api = Api::of(&bridge).over_tls(&trust);
    assert_eq!(api.get("/health").await.expect(200)["status"], "ok");
    let calls = api.get("/api/calls").await;
    assert_eq!(calls.expect(200), json!([]));
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let trust = authority.trust_with("127.0.0.1", &[version]);
        api.over_tls(&trust).get("/health").await.expect(200);
    }

    // Requests one after the other, in HTTP/1.1 also for whoever would have HTTP/2.
    let mut stream = trust.shake_hands(connect(&bridge).await).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    let get = "GET /health HTTP/1.1\r\nHost: bridge.example\r\n";
    for _ in 0..2 {
        let request = format!("{get}\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut start = [0; 15];
        soon("an answer", stream.read_exact(&mut start))
            .await
            .unwrap();
        assert_eq!(&start, b"HTTP/1.1 200 OK");
        // The rest of it, which is short.
        let mut rest = vec![0; 16 << 10];
        let _ = soon("its rest", stream.read(&mut rest)).await.unwrap();
    }
    drop(stream);

    // Whoever speaks HTTP is told at once, and anything else is closed.
    let plain = Api::of(&bridge).get("/health").await;
    let problem = plain.problem(400, "bad-request");
    assert!(problem["detail"].as_str().unwrap().contains("https://"));
    let mut stream = connect(&bridge).await;
    stream.write_all(b"SSH-2.0-x\r\n\r\n").await.unwrap();
    assert_eq!(read(&mut stream).await.status, 400);
    let mut stream = connect(&bridge).await;
    stream
        .write_all(&[22, 3, 1, 0, 4, 9, 9, 9, 9])
        .await
        .unwrap();
    let mut rest = Vec::new();
    let _ = soon("garbage is closed", stream.read_to_end(&mut rest)).await;
    api.get("/health").await.expect(200);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_takes_no_other_certificate() {
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let bridge = bridge(&ours.issue(&["bridge.example"])).await;
    for trust in [foreign.trust("bridge.example"), ours.trust("other.example")] {
        let refused = trust.shake_hands(connect(&bridge).await).await;
        let refused = refused.expect_err("a certificate that is not to be taken");
        assert!(refused.to_string().contains("certificate"), "{refused}");
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_dawdle_hold_up_nobody_and_end() {
    let authority = Authority::new("ours");
    let bridge = bridge(&authority.issue(&["bridge.example"])).await;
    let api = Api::of(&bridge).over_tls(&authority.trust("bridge.example"));
    // The head of a record of 512 bytes that never come, or nothing at all.
    let mut idle = Vec::new();
    for index in 0..140 {
        let mut stream = connect(&bridge).await;
        if index % 2 == 0 {
            stream.write_all(&[22, 3, 1, 2, 0, 1]).await.unwrap();
        }
        idle.push(stream);
    }
    for _ in 0..5 {
        let began = Instant::now();
        api.get("/health").await.expect(200);
        let took = began.elapsed();
        assert!(took < Duration::from_secs(2), "{took:?}");
    }
    for mut stream in idle {
        let mut rest = Vec::new();
        let ended = stream.read_to_end(&mut rest);
        let _ = within(CLOSED_WITHIN, "a handshake is given up", ended).await;
    }
    bridge.shut_down().await;
}

/// A bridge that shares lines, with more flags.
async fn sharing(name: &str, redis: &Redis, more: &[&str]) -> Bridge {
    Setup::queue(redis)
        .args(&["--node-id", name, "--api-token", TOKEN])
        .args(more)
        .start()
        .await
}

#[tokio::test(flavor = "multi_thread")]
async fn bridges_ask_each_other_over_https_and_verify_each_other() {
    let redis = Redis::start();
    let (ours, foreign) = (Authority::new("ours"), Authority::new("foreign"));
    let ca = ours.file();
    // None names its address; all have one name in common.
    let flags = |authority: &Authority, name: &str| {
        let identity = authority.issue(&[name, "bridges.example"]);
        let mut flags: Vec<String> = identity.flags().map(str::to_owned).into();
        flags.extend(["--api-ca".to_owned(), ca.clone()]);
        flags
    };
    let as_text = |flags: &[String]| -> Vec<&'static str> {
        let leaked = flags.iter().map(|flag| &*flag.clone().leak());
        leaked.collect()
    };
    let first = as_text(&flags(&ours, "one"));
    let one = sharing("one", &redis, &first).await;
    let two = sharing("two", &redis, &as_text(&flags(&ours, "two"))).await;
    let api = Api::of(&one)
        .with_token(TOKEN)
        .over_tls(&ours.trust("bridges.example"));
    until(SOON * 2, "the bridges know each other", async || {
        let nodes = api.get("/api/admin/cluster/nodes").await.expect(200);
        let items = nodes["items"].as_array().unwrap();
        let are_https = items.iter().all(|node| {
            let url = node["apiUrl"].as_str();
            url.is_some_and(|url| url.starts_with("https://127.0.0.1:"))
        });
        items.len() == 2 && are_https
    })
    .await;
    let mut call = Caller::connect(two.sip(), NUMBER).await;
    until(SOON, "the call of the other bridge is listed", async || {
        let calls = api.get("/api/calls").await.expect(200);
        calls[0]["node"] == "two"
    })
    .await;
    call.bye().await;
    shows_its_nodes(&one, &first).await;

    // Neither one without TLS nor one of a foreign authority is asked.
    for (name, more, said) in [
        ("plain", Vec::new(), "no token is sent in clear"),
        (
            "stranger",
            as_text(&flags(&foreign, "three")),
            "is not taken",
        ),
    ] {
        let other = sharing(name, &redis, &more).await;
        until(SOON * 2, said, async || {
            let answer = api.get("/api/calls").await;
            answer.status == 503 && {
                let problem = answer.problem(503, "node-unavailable");
                let detail = problem["detail"].as_str().unwrap();
                detail.contains(said) && detail.contains(name)
            }
        })
        .await;
        other.shut_down().await;
    }
    two.shut_down().await;
    one.shut_down().await;
}

/// `sipbridge nodes` with the settings of the bridge.
async fn shows_its_nodes(bridge: &Bridge, flags: &[&str]) {
    let mut command = clean_command();
    let port = bridge.api_port.to_string();
    command.args(["nodes", "--api-port", &port]).args(flags);
    command.env("API_TOKEN", TOKEN);
    let shown = tokio::task::spawn_blocking(move || command.output().unwrap());
    let output = soon("sipbridge nodes", shown).await.unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("one*") && text.contains("two"),
        "{text}{errors}"
    );
}

#[test]
fn check_tells_of_files_that_do_not_fit() {
    let authority = Authority::new("ours");
    let (one, two) = (authority.issue(&["one"]), authority.issue(&["two"]));
    let check = |certificate: &str, key: &str| {
        let flags = ["--ws-target", "ws://h", "--api-tls-cert", certificate];
        let more = [&flags[..], &["--api-tls-key", key]].concat();
        let output = crate::harness::bridge::check(&more).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        (output.status.code(), text)
    };
    let (code, text) = check(&one.certificate, &one.key);
    assert!(text.contains("the API speaks HTTPS"), "{text}");
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = check(&one.certificate, &two.key);
    assert!(text.contains("does not fit --api-tls-cert"), "{text}");
    assert_eq!(code, Some(1), "{text}");
}
