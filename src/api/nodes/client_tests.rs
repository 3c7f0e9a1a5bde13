//! A bridge asked over real sockets: each way in which it may not answer.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;
use crate::core::cluster::{NodeInfo, NodeStage};

fn node(api_url: Option<String>) -> Node {
    Node {
        id: NodeId::new("two"),
        instance: "".into(),
        info: NodeInfo {
            stage: NodeStage::Up,
            capacity: 1,
            lines: 0,
            calls: 0,
            version: "".into(),
            api_url: api_url.map(Into::into),
            stream_url: None,
            lines_digest: 0,
        },
        settles_in: Duration::ZERO,
        heartbeat_age: Duration::ZERO,
    }
}

/// Asks one that answers so, for a quarter of a second; also the request that it got.
async fn ask(answer: &'static str, padding: usize) -> (Result<NodeAnswer, NodeError>, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("its address");
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            request.push(stream.read_u8().await.expect("a request head"));
        }
        if answer.is_empty() {
            std::future::pending::<()>().await;
        }
        // Whoever has read enough closes the connection.
        let _ = stream.write_all(answer.as_bytes()).await;
        let _ = stream.write_all(&vec![b' '; padding]).await;
        String::from_utf8(request).expect("text")
    });
    let token = Secret::new("a-token-of-the-tests".to_owned());
    let client = NodeClient::new(Some(token), TrustFiles::default()).expect("a client");
    let request = NodeRequest::get("/api/calls?node=two");
    let by = Instant::now() + Duration::from_millis(if answer.is_empty() { 250 } else { 10_000 });
    let answered = client
        .ask(&node(Some(format!("http://{at}"))), &request, by)
        .await;
    if answer.is_empty() {
        serving.abort();
    }
    (answered, serving.await.unwrap_or_default())
}

#[tokio::test]
async fn a_bridge_is_asked_with_its_name_and_the_token() {
    let answer = "HTTP/1.1 201 Created\r\nContent-Type: application/json\r\nSet-Cookie: a=b\r\n\
         Location: /api/calls/CA1\r\nContent-Length: 3\r\n\r\n[1]";
    let (answered, request) = ask(answer, 0).await;
    let answered = answered.expect("an answer");
    assert!(request.starts_with("GET /api/calls?node=two HTTP/1.1\r\n"));
    let head = request.to_lowercase();
    for line in [
        "sipbridge-node: two",
        "authorization: bearer a-token-of-the-tests",
    ] {
        assert!(head.contains(line), "{head}");
    }
    assert_eq!(answered.json::<Vec<u8>>(), Some(vec![1]));
    let response = answered.into_response();
    assert_eq!(response.status(), 201);
    assert_eq!(response.headers()["location"], "/api/calls/CA1");
    assert!(!response.headers().contains_key("set-cookie"));
}

/// Whether an error is the one that is wanted.
type IsRight = fn(&NodeError) -> bool;

#[tokio::test]
async fn what_is_no_answer_of_the_bridge_is_told_by_its_name() {
    let is_odd: IsRight = |error| matches!(error, NodeError::Odd { .. });
    let is_slow: IsRight = |error| matches!(error, NodeError::Slow { .. });
    let is_other: IsRight = |error| matches!(error, NodeError::Other { .. });
    let is_token: IsRight = |error| matches!(error, NodeError::Token { .. });
    let cases = [
        ("", 0, is_slow),
        (
            "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n",
            0,
            is_token,
        ),
        (
            "HTTP/1.1 421 Misdirected Request\r\nContent-Length: 0\r\n\r\n",
            0,
            is_other,
        ),
        (
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n",
            0,
            is_odd,
        ),
        ("SSH-2.0-x\r\n\r\n", 0, is_odd),
        ("HTTP/1.1 200 OK\r\n\r\n", ANSWER_BYTES_MAX + 1, is_odd),
    ];
    for (answer, padding, is_right) in cases {
        let error = ask(answer, padding).await.0.expect_err(answer);
        assert!(is_right(&error), "{answer:?}: {error:?}");
        assert!(error.to_string().contains("two"), "{error}");
    }
}

#[tokio::test]
async fn a_bridge_that_nobody_reaches_is_told_from_a_slow_one() {
    let client = NodeClient::new(None, TrustFiles::default()).expect("a client");
    let request = NodeRequest::get("/");
    let by = Instant::now() + Duration::from_secs(5);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let at = listener.local_addr().expect("its address");
    drop(listener);
    let error = client
        .ask(&node(Some(format!("http://{at}"))), &request, by)
        .await;
    assert!(
        matches!(error, Err(NodeError::Unreachable { .. })),
        "{error:?}"
    );
    let error = client.ask(&node(None), &request, by).await;
    assert!(matches!(error, Err(NodeError::Address(_))), "{error:?}");
}

#[test]
fn only_the_address_of_one_host_is_asked() {
    for (url, at) in [
        ("http://10.0.0.2:8080", Some((HTTP, "10.0.0.2:8080"))),
        ("http://[2001:db8::1]:80/", Some((HTTP, "[2001:db8::1]:80"))),
        ("https://10.0.0.2:8443", Some((HTTPS, "10.0.0.2:8443"))),
        ("https://example.com:8443", None),
        ("wss://10.0.0.2:8080", None),
        ("http://10.0.0.2", None),
        ("http://10.0.0.2:0", None),
        ("http://0.0.0.0:8080", None),
        ("http://224.0.0.1:8080", None),
        ("http://255.255.255.255:80", None),
        ("http://example.com:80", None),
        ("http://user@10.0.0.2:80", None),
        ("http://10.0.0.2:80/x", None),
        ("", None),
    ] {
        let expected = at.map(|(scheme, at)| (scheme, at.parse().expect("an address")));
        assert_eq!(address(url), expected, "{url}");
    }
}
