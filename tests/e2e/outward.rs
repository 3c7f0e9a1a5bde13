//! Addresses that clients write, `callbackUrl` and `wsTarget`, lead into no
//! private network unless it is allowed, and get no signature of the operator's.

use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::{Api, Callee, Caller, Redis, SOON, Worker, until};

const TOKEN: &str = "s3cret-auth-token";

/// A bridge whose callee is `phone`, with a token for signatures.
async fn bridge(redis: &Redis, phone: &Callee, args: &[&str]) -> crate::harness::Bridge {
    Setup::queue(redis)
        .env("AUTH_TOKEN", TOKEN)
        .args(args)
        .line_field("sipDomain", json!(phone.local.to_string()))
        .start()
        .await
}

fn order(field: &str, url: &str) -> Value {
    json!({"to": CALLER_NUMBER, "phoneLineId": LINE, field: url})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_client_reaches_nothing_on_this_machine() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    let phone = Callee::open().await;
    let bridge = bridge(&redis, &phone, &[]).await;
    let api = Api::of(&bridge);
    let port = receiver.port;
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f.1",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "169.254.169.254",
        "10.0.0.1",
        "[fd00::1]",
    ] {
        for (field, scheme) in [("callbackUrl", "http"), ("wsTarget", "ws")] {
            let body = order(field, &format!("{scheme}://{host}:{port}/x"));
            let answer = api.post("/api/calls", &body).await;
            assert_eq!(answer.faulty(), [field], "{host}");
            assert!(answer.body.contains("--allow-callback"), "{}", answer.body);
        }
    }
    // A name is judged by what it resolves to, when it is connected to.
    let body = order("callbackUrl", &format!("http://localhost:{port}/x"));
    api.post("/api/calls", &body).await.expect(201);
    until(SOON, "the log says why", async || {
        let output = bridge.output();
        let mut lines = output.lines();
        lines.any(|line| line.contains("given up") && line.contains("no public address"))
    })
    .await;
    assert!(receiver.requests().is_empty(), "nothing was reached");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_incoming_callback_reaches_nothing_else_here() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = own.local_addr().unwrap().port();
    let answer = |target: String| Reply::json(json!({"action": "accept", "wsTarget": target}));
    receiver.script(
        "/incoming",
        [
            answer(format!("ws://127.0.0.1:{port}/x")),
            answer(format!("ws://localhost:{port}/x")),
        ],
    );
    let incoming = receiver.url("/incoming");
    let bridge = Setup::queue(&redis)
        .args(&["--incoming-callback-url", &incoming])
        .start()
        .await;
    // An IP address is left out, and the call goes to the queue.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    call.bye().await;
    worker.listen_to_end().await;
    assert!(
        bridge
            .output()
            .contains("wsTarget in the incoming callback's answer is left out")
    );
    // A name is not connected to.
    let _call = Caller::connect(bridge.sip(), NUMBER).await;
    until(SOON, "the log says why", async || {
        bridge.output().matches("no public address").count() >= 2
    })
    .await;
    let accepted = tokio::time::timeout(std::time::Duration::from_millis(300), own.accept());
    assert!(accepted.await.is_err(), "nobody connected");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_operators_hosts_get_signatures() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    let phone = Callee::open().await;
    let status = receiver.url("/status");
    let port = receiver.port;
    let allowed = [
        "--status-callback-url",
        &status,
        "--allow-callback",
        "127.0.0.0/8,::1",
    ];
    let one = bridge(&redis, &phone, &allowed).await;
    let (foreign, own) = (
        format!("http://localhost:{port}/foreign"),
        receiver.url("/own"),
    );
    for (url, path, is_signed) in [(&foreign, "/foreign", false), (&own, "/own", true)] {
        let call = Api::of(&one)
            .post("/api/calls", &order("callbackUrl", url))
            .await;
        call.expect(201);
        let told = receiver.receives(path, 1).await.remove(0);
        assert_eq!(
            told.header("x-twilio-signature").is_some(),
            is_signed,
            "{path}"
        );
    }
    let with_host = ["--sign-host", "localhost", "--node-id", "other"];
    let with_host = [&allowed[..], &with_host].concat();
    let other = bridge(&redis, &phone, &with_host).await;
    let trusted = format!("http://localhost:{port}/trusted");
    let call = Api::of(&other)
        .post("/api/calls", &order("callbackUrl", &trusted))
        .await;
    call.expect(201);
    let told = receiver.receives("/trusted", 1).await.remove(0);
    assert!(told.header("x-twilio-signature").is_some());
}
