//! Voice webhooks over real HTTP: what goes over the wire, redirects, limits, and which addresses are asked.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

#[expect(dead_code, reason = "shared with tests that use other parts of it")]
#[path = "e2e/harness/receiver.rs"]
mod receiver;

use std::sync::Arc;
use std::time::Duration;

use receiver::{Receiver, Reply, Request, python_signature};
use sipbridge::callbacks::VoiceClient;
use sipbridge::callbacks::voice_client::REDIRECTS_MAX;
use sipbridge::core::outward::{Outward, WrittenBy};
use sipbridge::core::private::Secret;
use sipbridge::core::signature::Signer;
use sipbridge::core::twiml::document::{HttpMethod, Verb, Webhook};
use sipbridge::core::twiml::{DOCUMENT_BYTES_MAX, Document, TwimlError, VoiceUrl};
use sipbridge::core::voice::FetchFailure;
use sipbridge::core::voice::webhook::FormFields;

const TOKEN: &str = "12345-t0ken";

fn client(outward: Outward) -> VoiceClient {
    let signer = Signer::new(Secret::new(TOKEN.into()));
    VoiceClient::new(Some(signer), None, Arc::new(outward)).unwrap()
}

fn twiml(inner: &str) -> Reply {
    Reply {
        body: format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response>{inner}</Response>"),
        ..Reply::status(200).header("Content-Type: text/xml")
    }
}

fn webhook(url: &str, method: HttpMethod, written_by: WrittenBy) -> Webhook {
    Webhook {
        url: VoiceUrl::parse_http(url).unwrap(),
        method,
        written_by,
    }
}

fn fields() -> FormFields {
    let mut fields = FormFields::default();
    fields.push("From", "+33612345678");
    fields.push("CallSid", "CA1");
    fields
}

async fn ask(url: &str, method: HttpMethod) -> Result<Document, FetchFailure> {
    let asked = client(Outward::default());
    let webhook = webhook(url, method, WrittenBy::Operator);
    asked.fetch(&webhook, fields()).await
}

async fn post(receiver: &Receiver, path: &str) -> Result<Document, FetchFailure> {
    ask(&receiver.url(path), HttpMethod::Post).await
}

/// A form's signature covers its URL and its sorted fields.
fn assert_form_signed(request: &Request, base: &str) {
    let text = format!("{base}{}CallSidCA1From+33612345678", request.target);
    let expected = python_signature(TOKEN, &text);
    assert_eq!(
        request.header("x-twilio-signature"),
        Some(expected.as_str())
    );
}

#[tokio::test]
async fn a_post_is_a_signed_form_and_its_answer_is_read() {
    let receiver = Receiver::start().await;
    receiver.script("/voice", [twiml("<Redirect>next?a=1</Redirect>")]);
    let url = format!(
        "http://user:word@127.0.0.1:{}/voice?tenant=7",
        receiver.port
    );
    let document = ask(&url, HttpMethod::Post).await.unwrap();
    // Relative to where it was asked for.
    let [Verb::Redirect(next)] = &document.verbs[..] else {
        panic!("{document:?}");
    };
    assert_eq!(next.url.without_login(), receiver.url("/next?a=1"));
    let request = receiver.requests().remove(0);
    assert_eq!(
        (request.method.as_str(), request.target.as_str()),
        ("POST", "/voice?tenant=7")
    );
    assert_eq!(request.body, "From=%2B33612345678&CallSid=CA1");
    let content_type = request.header("content-type").unwrap();
    assert!(
        content_type.starts_with("application/x-www-form-urlencoded"),
        "{content_type}"
    );
    assert_eq!(request.header("authorization"), Some("Basic dXNlcjp3b3Jk"));
    // Bots build the address of their stream from it.
    let host = format!("127.0.0.1:{}", receiver.port);
    assert_eq!(request.header("host"), Some(host.as_str()));
    assert_form_signed(&request, &receiver.url(""));
}

#[tokio::test]
async fn a_get_has_its_fields_in_the_query_and_is_signed_with_them() {
    let receiver = Receiver::start().await;
    receiver.script("/voice", [twiml("<Hangup/>")]);
    let document = ask(&receiver.url("/voice?a=1"), HttpMethod::Get).await;
    assert_eq!(document.unwrap().verbs, [Verb::Hangup]);
    let request = receiver.requests().remove(0);
    assert_eq!(request.target, "/voice?a=1&From=%2B33612345678&CallSid=CA1");
    let expected = python_signature(TOKEN, &receiver.url(&request.target));
    assert_eq!(
        request.header("x-twilio-signature"),
        Some(expected.as_str())
    );
}

#[tokio::test]
async fn redirects_are_followed_and_signed_and_addresses_are_relative_to_the_last() {
    let receiver = Receiver::start().await;
    receiver.script(
        "/voice",
        [Reply::status(308).header("Location: /bots/voice")],
    );
    receiver.script("/bots/voice", [twiml("<Redirect>next</Redirect>")]);
    let document = post(&receiver, "/voice").await.unwrap();
    assert!(
        matches!(&document.verbs[..], [Verb::Redirect(next)] if next.url.expose().ends_with("/bots/next"))
    );
    let repeated = receiver.requests_for("/bots/voice").remove(0);
    assert_eq!(
        (repeated.method.as_str(), repeated.body.len()),
        ("POST", 31)
    );
    assert_form_signed(&repeated, &receiver.url(""));
    receiver.script("/old", [Reply::status(302).header("Location: /new?x=1")]);
    receiver.script("/new", [twiml("<Hangup/>")]);
    post(&receiver, "/old").await.unwrap();
    let next = receiver.requests_for("/new").remove(0);
    assert_eq!(
        (next.method.as_str(), next.target.as_str()),
        ("GET", "/new?x=1")
    );
}

#[tokio::test]
async fn redirects_without_end_or_to_nowhere_fail() {
    let receiver = Receiver::start().await;
    receiver.script("/loop", [Reply::status(307).header("Location: /loop")]);
    let failure = post(&receiver, "/loop").await.unwrap_err();
    assert_eq!(failure, FetchFailure::TooManyRedirects);
    assert_eq!(receiver.requests().len(), REDIRECTS_MAX + 1);
    for location in ["file:///etc/passwd", "ftp://127.0.0.1/"] {
        let reply = Reply::status(302).header(&format!("Location: {location}"));
        receiver.script("/away", [reply]);
        let failure = post(&receiver, "/away").await.unwrap_err();
        assert_eq!(failure, FetchFailure::Status(302));
    }
}

#[tokio::test]
async fn what_is_no_twiml_is_refused() {
    let receiver = Receiver::start().await;
    receiver.script(
        "/500",
        [Reply {
            body: "<Response/>".into(),
            ..Reply::status(500)
        }],
    );
    assert_eq!(
        post(&receiver, "/500").await,
        Err(FetchFailure::Status(500))
    );
    let json = Reply::json(serde_json::json!({})).header("Content-Type: application/json");
    receiver.script("/json", [json]);
    assert_eq!(
        post(&receiver, "/json").await,
        Err(FetchFailure::ContentType)
    );
    let long = Reply {
        body: " ".repeat(DOCUMENT_BYTES_MAX + 1),
        ..Reply::status(200)
    };
    receiver.script("/long", [long]);
    let too_long = FetchFailure::Twiml(TwimlError::TooLong);
    assert_eq!(post(&receiver, "/long").await, Err(too_long));
    receiver.script("/case", [twiml("<say>Hi</say>")]);
    assert_eq!(post(&receiver, "/case").await.unwrap_err().code(), 12_100);
    // Samples in Python answer so.
    let html = Reply {
        body: "<Response><Hangup/></Response>".into(),
        ..Reply::status(200)
    };
    receiver.script(
        "/html",
        [html.header("Content-Type: text/html; charset=utf-8")],
    );
    assert!(post(&receiver, "/html").await.is_ok());
}

#[tokio::test]
async fn a_webhook_that_cannot_be_reached_is_told_of_without_its_secrets() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let url = format!("http://bob:hunter2@127.0.0.1:{port}/hunter2?k=hunter2");
    let failure = ask(&url, HttpMethod::Post).await.unwrap_err();
    let told = failure.to_string();
    assert!(
        told.contains("refused") && !told.contains("hunter2"),
        "{told}"
    );
    assert_eq!(failure.code(), 11_205);
}

#[tokio::test(start_paused = true)]
async fn a_webhook_has_fifteen_seconds() {
    // It takes connections and says nothing.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/voice", silent.local_addr().unwrap());
    let begun = tokio::time::Instant::now();
    let failure = ask(&url, HttpMethod::Post).await.unwrap_err();
    assert_eq!(failure, FetchFailure::TimedOut);
    assert!(
        begun.elapsed() <= Duration::from_secs(16),
        "{:?}",
        begun.elapsed()
    );
}

#[tokio::test]
async fn an_address_of_a_client_leads_nowhere_within_and_is_signed_for_own_hosts_alone() {
    let receiver = Receiver::start().await;
    receiver.script("/voice", [twiml("<Hangup/>")]);
    let asked = async |host: &str, outward: Outward| {
        let url = format!("http://{host}:{}/voice", receiver.port);
        let webhook = webhook(&url, HttpMethod::Post, WrittenBy::Client);
        client(outward).fetch(&webhook, fields()).await
    };
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let failure = asked(host, Outward::default()).await.unwrap_err();
        let told = failure.to_string();
        assert!(told.contains("no public address"), "{host}: {told}");
    }
    assert!(receiver.requests().is_empty());
    let allowed = Outward {
        allowed: vec!["127.0.0.0/8".parse().unwrap()],
        own_hosts: Vec::new(),
    };
    asked("127.0.0.1", allowed.clone()).await.unwrap();
    assert_eq!(receiver.requests()[0].header("x-twilio-signature"), None);
    let own = Outward {
        own_hosts: vec!["127.0.0.1".into()],
        ..allowed
    };
    asked("127.0.0.1", own).await.unwrap();
    assert_form_signed(&receiver.requests()[1], &receiver.url(""));
}

#[tokio::test]
async fn a_redirect_of_a_clients_address_is_judged_too() {
    let receiver = Receiver::start().await;
    let inward = format!("Location: http://127.0.0.2:{}/secret", receiver.port);
    receiver.script("/voice", [Reply::status(307).header(&inward)]);
    let outward = Outward {
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
        own_hosts: Vec::new(),
    };
    let url = receiver.url("/voice");
    let webhook = webhook(&url, HttpMethod::Post, WrittenBy::Client);
    let answer = client(outward).fetch(&webhook, fields()).await;
    let told = answer.unwrap_err().to_string();
    assert!(told.contains("127.0.0.2"), "{told}");
    assert_eq!(receiver.requests_for("/secret").len(), 0);
}

#[tokio::test]
async fn what_a_document_names_is_of_its_addresss_origin() {
    let receiver = Receiver::start().await;
    let inner = "<Redirect>http://169.254.169.254/latest/meta-data</Redirect>";
    receiver.script("/voice", [twiml(inner), twiml(inner)]);
    let outward = Outward {
        allowed: vec!["127.0.0.1/32".parse().unwrap()],
        own_hosts: Vec::new(),
    };
    let asked = client(outward);
    for written_by in [WrittenBy::Operator, WrittenBy::Client] {
        let webhook = webhook(&receiver.url("/voice"), HttpMethod::Post, written_by);
        let document = asked.fetch(&webhook, fields()).await.unwrap();
        let [Verb::Redirect(next)] = &document.verbs[..] else {
            panic!("{document:?}");
        };
        assert_eq!(next.written_by, written_by);
    }
}
