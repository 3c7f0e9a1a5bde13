//! The room `callbacks` against a real HTTP receiver: what goes over the wire,
//! order, retries, what is kept. The whole program is tested in e2e.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

#[path = "e2e/harness/receiver.rs"]
mod receiver;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use receiver::{Receiver, Reply, assert_signed};
use serde_json::json;
use sipbridge::callbacks::client::{ANSWER_BYTES_MAX, ClientSettings};
use sipbridge::callbacks::outbox_store::Answer;
use sipbridge::callbacks::{
    CallbackError, CallbackTarget, Client, Incoming, OutboxStore, SpoolError, StatusCallbacks,
    WebhookDispatcher, start,
};
use sipbridge::core::call::CallDecision;
use sipbridge::core::call_facts::{CallFacts, CallState, CustomParams};
use sipbridge::core::call_object::{CallDirection, CallObject, CallStatus};
use sipbridge::core::callback::{
    CallChange, CallbackEvent, CallbackReceiver, Kept, Method, Owed, WebhookEvent,
};
use sipbridge::core::ids::{CallId, LineId};
use sipbridge::core::outward::Outward;
use sipbridge::core::private::{Private, Secret};
use sipbridge::core::signature::Signer;

const TOKEN: &str = "12345-t0ken";
const SOON: Duration = Duration::from_secs(10);

fn client_with(method: Method, signer: bool) -> Client {
    let settings = ClientSettings {
        method,
        timeout: Duration::from_secs(1),
        signer: signer.then(|| Signer::new(Secret::new(TOKEN.into()))),
    };
    Client::new(settings, None, loopback()).unwrap()
}

/// Receivers of tests are on this machine, and all are the operator's own.
fn loopback() -> Arc<Outward> {
    Arc::new(Outward {
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        own_hosts: vec!["127.0.0.1".into(), "localhost".into()],
    })
}

fn client() -> Client {
    client_with(Method::Post, false)
}

fn target(url: &str) -> CallbackTarget {
    CallbackTarget::parse(url).unwrap()
}

fn call() -> CallObject {
    CallObject {
        facts: Arc::new(CallFacts {
            id: CallId::random(),
            sip_call_id: None,
            line: LineId::new("7"),
            restaurant: None,
            direction: CallDirection::Inbound,
            parent: None,
            from: Private::new("+33612345678"),
            to: Private::new("+33972360682"),
            started: SystemTime::now(),
        }),
        state: CallState {
            custom_params: parameters("b&c é"),
            ..CallState::default()
        },
    }
}

fn parameters(value: &str) -> CustomParams {
    BTreeMap::from([("a".to_owned(), value.to_owned())]).into()
}

/// A whole call's statuses.
fn live(status: &StatusCallbacks, call: &CallObject, url: Option<&str>) {
    use CallStatus as S;
    let own = url.map(|url| CallbackReceiver::Own(url.to_owned()));
    for step in [
        S::Initiated,
        S::Ringing,
        S::Answered,
        S::Active,
        S::Completed,
    ] {
        let mut call = call.clone();
        call.state.status = step;
        status.changed(&call, own.as_ref());
    }
}

fn deliver(receiver: &Receiver) -> (StatusCallbacks, WebhookDispatcher) {
    start(client(), Some(target(&receiver.url("/s"))), None)
}

async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition() {
        assert!(Instant::now() < deadline, "{what}: not in time");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_post_is_json_signed_with_the_hash_of_its_body() {
    let receiver = Receiver::start().await;
    let url = format!(
        "http://us%40er:p%2Bw@127.0.0.1:{}/hook?k=v%20w",
        receiver.port
    );
    let reply = client_with(Method::Post, true)
        .send(&target(&url), r#"{"event":"é","sid":"x"}"#)
        .await
        .unwrap();
    assert_eq!(reply.status, 200);
    let request = receiver.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.event().as_str()),
        ("POST", "é")
    );
    assert_eq!(request.header("content-type"), Some("application/json"));
    let agent = request.header("user-agent").unwrap();
    assert!(agent.starts_with("sipbridge/"), "{agent}");
    // us@er:p+w
    assert_eq!(request.header("authorization"), Some("Basic dXNAZXI6cCt3"));
    assert!(request.target.starts_with("/hook?k=v%20w&bodySHA256="));
    assert_signed(&request, TOKEN, &receiver.url(""));
}

#[tokio::test]
async fn a_get_has_everything_in_its_query_and_is_signed_as_a_whole() {
    let receiver = Receiver::start().await;
    let (status, courier) = start(
        client_with(Method::Get, true),
        Some(target(&receiver.url("/s?k=v"))),
        None,
    );
    let call = call();
    status.changed(&call, None);
    let request = receiver.receives("/s", 1).await.remove(0);
    assert_eq!(
        (request.method.as_str(), request.body.as_str()),
        ("GET", "")
    );
    let query = request.query();
    assert_eq!(
        (query["k"].as_str(), query["event"].as_str()),
        ("v", "initiated")
    );
    assert_eq!(query["sid"], call.facts.id.as_str());
    assert_eq!(
        (query["from"].as_str(), query["sequence"].as_str()),
        ("+33612345678", "0")
    );
    assert_eq!(query["customParams"], r#"{"a":"b&c é"}"#);
    assert!(!query.contains_key("endedAt") && !query.contains_key("bodySHA256"));
    assert_signed(&request, TOKEN, &receiver.url(""));
    courier.stop(SOON).await;
}

#[tokio::test]
async fn without_a_token_nothing_is_signed() {
    let receiver = Receiver::start().await;
    client()
        .send(&target(&receiver.url("/s")), "{}")
        .await
        .unwrap();
    let request = receiver.requests().remove(0);
    assert_eq!(request.header("x-twilio-signature"), None);
    assert_eq!(request.target, "/s");
}

#[tokio::test]
async fn redirects_are_not_followed_and_answers_are_read_up_to_a_limit() {
    let receiver = Receiver::start().await;
    let moved = Reply::status(302).header(&format!("Location: {}", receiver.url("/other")));
    receiver.script("/moved", [moved]);
    let reply = client()
        .send(&target(&receiver.url("/moved")), "{}")
        .await
        .unwrap();
    assert_eq!(reply.status, 302);
    assert_eq!(receiver.requests().len(), 1);

    let long = Reply {
        body: "x".repeat(ANSWER_BYTES_MAX + 1),
        ..Reply::status(200)
    };
    receiver.script("/long", [long]);
    let reply = client()
        .send(&target(&receiver.url("/long")), "{}")
        .await
        .unwrap();
    assert!(reply.is_cut && reply.body.len() == ANSWER_BYTES_MAX);
}

#[tokio::test]
async fn no_proxy_is_used_and_failures_show_the_host_alone() {
    // Nobody listens there; a proxy would have been asked instead.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("http://bob:hunter2@127.0.0.1:{port}/hunter2?k=hunter2");
    let error = client()
        .send(&target(&url), "{}")
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("http://127.0.0.1:{port} cannot be reached")),
        "{error}"
    );
    assert!(
        error.contains("refused") && !error.contains("hunter2"),
        "{error}"
    );

    let receiver = Receiver::start().await;
    receiver.script("/slow", [Reply::status(200).after(Duration::from_secs(30))]);
    let started = Instant::now();
    let error = client()
        .send(&target(&receiver.url("/slow")), "{}")
        .await
        .unwrap_err();
    assert!(matches!(error, CallbackError::Slow { .. }), "{error}");
    assert!(started.elapsed() < Duration::from_secs(6));
}

#[tokio::test]
async fn https_is_checked_against_the_roots() {
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, certificate.pem()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            rustls::pki_types::PrivateKeyDer::Pkcs8(key.serialize_der().into()),
        )
        .unwrap();
    let tls = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let receiver = Receiver::start_at(0, Some(tls)).await;
    let target = target(&format!("https://localhost:{}/s", receiver.port));
    let settings = ClientSettings {
        method: Method::Post,
        timeout: SOON,
        signer: Some(Signer::new(Secret::new(TOKEN.into()))),
    };
    let error = Client::new(settings.clone(), None, loopback())
        .unwrap()
        .send(&target, "{}")
        .await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
    assert!(receiver.requests().is_empty());
    let trusting = Client::new(settings, Some(&ca), loopback()).unwrap();
    assert_eq!(trusting.send(&target, "{}").await.unwrap().status, 200);
    let base = format!("https://localhost:{}", receiver.port);
    assert_signed(&receiver.requests()[0], TOKEN, &base);
}

#[tokio::test]
async fn a_call_is_told_in_order_even_when_the_receiver_fails_in_between() {
    let receiver = Receiver::start().await;
    receiver.script(
        "/s",
        [
            Reply::status(500),
            Reply::status(200),
            Reply::status(503),
            Reply::status(200),
        ],
    );
    let (status, courier) = deliver(&receiver);
    live(&status, &call(), None);
    let requests = receiver.receives("/s", 6).await;
    let events: Vec<String> = requests.iter().map(receiver::Request::event).collect();
    assert_eq!(
        events,
        [
            "initiated",
            "initiated",
            "ringing",
            "ringing",
            "answered",
            "completed"
        ]
    );
    let pause = requests[1].at - requests[0].at;
    assert!(pause > Duration::from_millis(790), "{pause:?}");
    until("all are counted", || status.stats().delivered == 4).await;
    let stats = status.stats();
    assert_eq!((stats.retried, stats.given_up, stats.waiting), (2, 0, 0));
    courier.stop(SOON).await;
}

#[tokio::test]
async fn a_calls_own_address_goes_before_the_common_one() {
    let receiver = Receiver::start().await;
    let (status, courier) = deliver(&receiver);
    live(&status, &call(), Some(&receiver.url("/own")));
    receiver.receives("/own", 4).await;
    courier.stop(SOON).await;
    assert!(receiver.requests_for("/s").is_empty());
    // No address at all: nothing to tell.
    let (status, courier) = start(client(), None, None);
    live(&status, &call(), None);
    live(&status, &call(), Some(&receiver.url("/only")));
    receiver.receives("/only", 4).await;
    courier.stop(SOON).await;
    // One that is no address, from outside.
    let (status, courier) = deliver(&receiver);
    live(&status, &call(), Some("ftp://x"));
    until("given up", || status.stats().given_up == 4).await;
    courier.stop(SOON).await;
}

#[tokio::test]
async fn one_receiver_that_is_slow_holds_up_no_other_call() {
    let receiver = Receiver::start().await;
    receiver.script("/slow", [Reply::status(200).after(Duration::from_secs(30))]);
    let (status, courier) = deliver(&receiver);
    for _ in 0..10 {
        live(&status, &call(), Some(&receiver.url("/slow")));
    }
    let started = Instant::now();
    live(&status, &call(), None);
    receiver.receives("/s", 4).await;
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "not behind the slow ones"
    );
    drop(courier);
}

#[tokio::test]
async fn what_is_refused_is_given_up_at_once_and_429_waits_as_asked() {
    let receiver = Receiver::start().await;
    let wait = Reply::status(429).header("Retry-After: 2");
    receiver.script(
        "/s",
        [
            Reply::status(404),
            Reply::status(302),
            wait,
            Reply::status(200),
        ],
    );
    let (status, courier) = deliver(&receiver);
    live(&status, &call(), None);
    let requests = receiver.receives("/s", 5).await;
    let events: Vec<String> = requests.iter().map(receiver::Request::event).collect();
    assert_eq!(
        events,
        ["initiated", "ringing", "answered", "answered", "completed"]
    );
    assert!(requests[3].at - requests[2].at > Duration::from_millis(1_990));
    until("all are counted", || status.stats().delivered == 2).await;
    assert_eq!(status.stats().given_up, 2);
    courier.stop(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_too_long_for_a_get_is_given_up_at_once() {
    let receiver = Receiver::start().await;
    let common = target(&receiver.url("/s"));
    let (status, courier) = start(client_with(Method::Get, false), Some(common), None);
    let long = "x".repeat(70_000);
    let mut too_long = call();
    too_long.state.custom_params = parameters(&long);
    live(&status, &too_long, None);
    until("all are given up", || {
        let stats = status.stats();
        stats.given_up == 4 && stats.waiting == 0 && stats.retried == 0
    })
    .await;
    courier.stop(SOON).await;
}

#[tokio::test]
async fn what_has_no_room_is_dropped_and_counted_and_nobody_waits() {
    // Nobody accepts there.
    let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/s", dead.local_addr().unwrap());
    let (status, courier) = start(client(), Some(target(&url)), None);
    let started = Instant::now();
    for _ in 0..3_000 {
        live(&status, &call(), None);
    }
    assert!(
        started.elapsed() < Duration::from_secs(5),
        "{:?}",
        started.elapsed()
    );
    let stats = status.stats();
    assert_eq!((stats.dropped, stats.waiting), (2_000, 10_000));
    let started = Instant::now();
    courier.stop(Duration::from_millis(300)).await;
    assert!(started.elapsed() < Duration::from_secs(2));
}

/// An outbox in memory, which a test can take away.
#[derive(Default)]
struct Memory {
    waiting: Arc<Mutex<Vec<WebhookEvent>>>,
    owed: Arc<Mutex<Vec<WebhookEvent>>>,
    is_away: Arc<Mutex<bool>>,
    /// The call that it refuses; for each time it does, it is away once.
    refused: Arc<Mutex<Option<CallId>>>,
}

impl OutboxStore for Memory {
    fn kept(&self, _most: usize) -> Answer<Kept> {
        let waiting = self.waiting.lock().unwrap().clone();
        let owed = self.owed.lock().unwrap().clone().into_iter();
        let owed = owed.map(|last| Owed { last, end: None }).collect();
        Box::pin(async move { Ok(Kept { waiting, owed }) })
    }

    fn apply(&self, changes: Vec<CallChange>) -> Answer<()> {
        if *self.is_away.lock().unwrap() {
            let away = SpoolError {
                reason: "away".into(),
                transient: true,
            };
            return Box::pin(async move { Err(away) });
        }
        let refused = self.refused.lock().unwrap().clone();
        let is_refused = |change: &CallChange| match change {
            CallChange::Insert(notice) => Some(&notice.call) == refused.as_ref(),
            _ => false,
        };
        if changes.iter().any(is_refused) {
            *self.is_away.lock().unwrap() = true;
            let is_away = self.is_away.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(100)).await;
                *is_away.lock().unwrap() = false;
            });
            let error = SpoolError {
                reason: "refused".into(),
                transient: false,
            };
            return Box::pin(async move { Err(error) });
        }
        let (mut waiting, mut owed) = (self.waiting.lock().unwrap(), self.owed.lock().unwrap());
        for change in changes {
            match change {
                CallChange::Insert(notice) => {
                    waiting.push((*notice).clone());
                    owed.retain(|other| other.call != notice.call);
                    if notice.event != CallbackEvent::Completed {
                        owed.push((*notice).clone());
                    }
                }
                CallChange::Delete(call, sequence) => {
                    waiting.retain(|other| (&other.call, other.sequence) != (&call, sequence));
                }
                CallChange::Settle(call) => owed.retain(|other| other.call != call),
            }
        }
        Box::pin(async { Ok(()) })
    }
}

#[tokio::test]
async fn what_is_not_delivered_is_sent_first_by_the_next_one() {
    let receiver = Receiver::start().await;
    receiver.script("/s", [Reply::status(500)]);
    let memory = Arc::new(Memory::default());
    let common = || Some(target(&receiver.url("/s")));
    let (status, courier) = start(client(), common(), Some(memory.clone()));
    let (ended, died) = (call(), call());
    live(&status, &ended, None);
    status.changed(&died, None);
    until("kept", || memory.waiting.lock().unwrap().len() == 5).await;
    until("owed", || memory.owed.lock().unwrap().len() == 1).await;
    courier.stop(Duration::from_millis(500)).await;

    receiver.script("/s", [Reply::status(200)]);
    let before = receiver.requests().len();
    let (_status, courier) = start(client(), common(), Some(memory.clone()));
    receiver.receives("/s", before + 6).await;
    let requests = receiver.requests().split_off(before);
    let told = |call: &CallObject| -> Vec<String> {
        let own = requests
            .iter()
            .filter(|request| request.sid() == call.facts.id.as_str());
        own.map(receiver::Request::event).collect()
    };
    assert_eq!(
        told(&ended),
        ["initiated", "ringing", "answered", "completed"]
    );
    assert_eq!(told(&died), ["initiated", "completed"]);
    let last = requests
        .iter()
        .rfind(|request| request.sid() == died.facts.id.as_str());
    let last = last.unwrap().json();
    assert_eq!(
        (&last["status"], &last["outcome"]),
        (&json!("failed"), &json!("bridge-lost"))
    );
    assert_eq!(last["sequence"], 1);
    until("nothing is kept", || {
        memory.waiting.lock().unwrap().is_empty()
    })
    .await;
    assert!(memory.owed.lock().unwrap().is_empty());
    courier.stop(SOON).await;
}

#[tokio::test]
async fn a_database_that_is_away_holds_up_no_delivery() {
    let receiver = Receiver::start().await;
    let memory = Arc::new(Memory::default());
    *memory.is_away.lock().unwrap() = true;
    let common = Some(target(&receiver.url("/s")));
    let (status, courier) = start(client(), common, Some(memory.clone()));
    live(&status, &call(), None);
    receiver.receives("/s", 4).await;
    *memory.is_away.lock().unwrap() = false;
    courier.stop(SOON).await;
    assert!(
        memory.waiting.lock().unwrap().is_empty(),
        "inserted and deleted in order"
    );
}

#[tokio::test]
async fn what_the_database_refuses_takes_nothing_else_with_it() {
    let receiver = Receiver::start().await;
    receiver.script("/s", [Reply::status(500)]);
    let memory = Arc::new(Memory::default());
    let common = Some(target(&receiver.url("/s")));
    let (status, courier) = start(client(), common, Some(memory.clone()));
    let (good, bad, other) = (call(), call(), call());
    *memory.refused.lock().unwrap() = Some(bad.facts.id.clone());
    for call in [&good, &bad, &other] {
        status.changed(call, None);
    }
    until("the others are kept", || {
        memory.waiting.lock().unwrap().len() == 2
    })
    .await;
    assert_eq!(status.stats().unkept, 1);
    courier.stop(Duration::from_millis(500)).await;
}

#[tokio::test]
async fn the_question_is_answered_or_the_call_is_taken() {
    let receiver = Receiver::start().await;
    let (status, courier) = start(client(), None, None);
    let ask = Incoming::new(
        client_with(Method::Post, true),
        target(&receiver.url("/in")),
        &status,
    );
    receiver.script(
        "/in",
        [Reply::json(json!({"action": "reject", "statusCode": 404}))],
    );
    let call = call();
    assert!(matches!(
        ask.ask(call.clone()).await,
        CallDecision::Reject(404)
    ));
    let request = receiver.requests().remove(0);
    assert_eq!(
        (request.event(), request.sid()),
        ("incoming".into(), call.facts.id.as_str().into())
    );
    assert_signed(&request, TOKEN, &receiver.url(""));
    receiver.script(
        "/in",
        [Reply::json(
            json!({"action": "accept", "callbackUrl": "ftp://x", "customParams": {"a": "b"}}),
        )],
    );
    let CallDecision::Accept(accepted) = ask.ask(call.clone()).await else {
        panic!("not taken")
    };
    assert!(accepted.callback_url.is_none() && accepted.custom_params["a"] == "b");
    assert_eq!(status.stats().unanswered, 0);
    let long = Reply {
        body: format!(
            r#"{{"action":"ignore","x":"{}"}}"#,
            "x".repeat(ANSWER_BYTES_MAX)
        ),
        ..Reply::status(200)
    };
    let bad = [
        Reply::status(500),
        Reply::status(204),
        Reply::json(json!({"action": "dance"})),
        Reply::json(json!([])),
        Reply::status(302).header("Location: /"),
        long,
        Reply::json(json!({"action": "ignore"})).after(Duration::from_secs(30)),
    ];
    for (index, reply) in bad.into_iter().enumerate() {
        receiver.script("/in", [reply]);
        let decision = ask.ask(call.clone()).await;
        assert!(
            matches!(decision, CallDecision::Accept(_)),
            "{index}: {decision:?}"
        );
        assert_eq!(status.stats().unanswered, index as u64 + 1);
    }
    assert_eq!(status.stats().asked, 9);
    courier.stop(SOON).await;
}
