//! `/api/openapi.json` held to what the running program answers: each route
//! with its statuses, content types and bodies, and no route beside it.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;
use url::form_urlencoded;

use crate::harness::api::Answer;
use crate::harness::bridge::{LINE as LINE_ID, NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::free_port;
use crate::harness::receiver::{Receiver, Reply};
use crate::harness::twilio::{PUBLIC_URL, TOKEN as AUTH_TOKEN, Twilio, TwilioCall, stream_url};
use crate::harness::{Api, Callee, Caller, Job, Redis, SOON, Worker, until};
use crate::twilio_api::{ACCOUNT, TOKEN, as_account};
use crate::twilio_lines;

/// The document, and the operations that were seen to answer well.
struct Document {
    json: Value,
    seen: BTreeSet<(String, String)>,
}

impl Document {
    /// The answer must be one of those that the document lists for the
    /// operation, in content type and body.
    fn hold(&mut self, method: &str, template: &str, answer: &Answer) {
        let what = format!("{method} {template} {}", answer.status);
        let operation = &self.json["paths"][template][method.to_lowercase()];
        assert!(operation.is_object(), "{what}: not in the document");
        let documented = &operation["responses"][answer.status.to_string()];
        assert!(
            documented.is_object(),
            "{what}: status not in the document: {}",
            answer.body
        );
        match answer.headers.get("content-type") {
            None => assert_eq!(documented.get("content"), None, "{what}"),
            Some(kind) => {
                let schema = &documented["content"][kind]["schema"];
                assert!(schema.is_object(), "{what}: {kind} is not in the document");
                let body = match kind.starts_with("text/") {
                    true => json!(answer.body),
                    false => answer.json(),
                };
                self.validate(&what, schema, &body);
            }
        }
        if answer.status < 300 || template == "/health" {
            self.seen
                .insert((method.to_lowercase(), template.to_owned()));
        }
    }

    fn validate(&self, what: &str, schema: &Value, body: &Value) {
        let root = json!({"allOf": [schema], "components": self.json["components"]});
        let validator = jsonschema::validator_for(&root).unwrap();
        let errors: Vec<String> = validator
            .iter_errors(body)
            .map(|it| it.to_string())
            .collect();
        assert!(errors.is_empty(), "{what}: {errors:#?} in {body}");
    }

    /// All operations.
    fn operations(&self) -> BTreeSet<(String, String)> {
        let paths = self.json["paths"].as_object().unwrap();
        let of_path = |(path, item): (&String, &Value)| {
            let methods = item.as_object().unwrap().keys();
            methods
                .map(|method| (method.clone(), path.clone()))
                .collect::<Vec<_>>()
        };
        paths.iter().flat_map(of_path).collect()
    }
}

/// A request: method, template of the path, its id, and the body where it has one.
type Request = (&'static str, &'static str, &'static str, Option<Value>);

const SERVERS: &str = "/api/admin/telephony/sip-servers";
const SERVER: &str = "/api/admin/telephony/sip-servers/{id}";
const LINES: &str = "/api/admin/telephony/phone-lines";
const LINE: &str = "/api/admin/telephony/phone-lines/{id}";
const NODES: &str = "/api/admin/cluster/nodes";
const FALLBACK: &str = "/api/admin/telephony/fallback";

const TWILIO_FLAGS: [&str; 4] = ["--account-sid", ACCOUNT, "--auth-token", TOKEN];

fn admin_requests() -> Vec<Request> {
    vec![
        ("GET", "/health", "", None),
        ("GET", "/metrics", "", None),
        ("GET", "/api/openapi.json", "", None),
        (
            "POST",
            SERVERS,
            "",
            Some(json!({"id": "s", "trunk_uri": "sip:127.0.0.1"})),
        ),
        (
            "POST",
            SERVERS,
            "",
            Some(json!({"id": "s", "trunk_uri": "sip:127.0.0.1"})),
        ),
        ("POST", SERVERS, "", Some(json!({}))),
        ("GET", SERVERS, "", None),
        ("GET", SERVER, "s", None),
        ("GET", SERVER, "x", None),
        (
            "PATCH",
            SERVER,
            "s",
            Some(json!({"label": "x", "contact_port": 5060})),
        ),
        ("PATCH", SERVER, "s", Some(json!({"label": 7}))),
        ("PUT", FALLBACK, "", Some(json!({"sip_server_id": "s"}))),
        ("PUT", FALLBACK, "", Some(json!({}))),
        ("GET", FALLBACK, "", None),
        (
            "POST",
            LINES,
            "",
            Some(json!({"id": "l", "sipUsername": "u", "sipServerId": "s",
            "customParameters": {"a": 1}})),
        ),
        ("POST", LINES, "", Some(json!({"x": 1}))),
        ("GET", LINES, "", None),
        ("GET", LINE, "l", None),
        ("GET", LINE, "x", None),
        ("PATCH", LINE, "l", Some(json!({"greeting": null}))),
        (
            "POST",
            "/api/admin/telephony/phone-lines/{id}/register",
            "x",
            None,
        ),
        (
            "POST",
            "/api/admin/telephony/lines/{id}/register",
            "x",
            None,
        ),
        ("GET", NODES, "", None),
        ("POST", "/api/admin/cluster/nodes/{id}/drain", "x", None),
        (
            "POST",
            "/api/admin/cluster/nodes/{id}/drain",
            "node-e2e",
            None,
        ),
        ("POST", "/api/admin/cluster/nodes/{id}/resume", "x", None),
        (
            "POST",
            "/api/admin/cluster/nodes/{id}/resume",
            "node-e2e",
            None,
        ),
        ("DELETE", SERVER, "s", None),
        ("PUT", FALLBACK, "", Some(json!({"sip_server_id": null}))),
        ("DELETE", LINE, "l", None),
        ("DELETE", LINE, "l", None),
        ("DELETE", SERVER, "s", None),
    ]
}

async fn ask(api: &Api, (method, template, id, body): &Request) -> Answer {
    let path = template.replace("{id}", id).replace("{sid}", id);
    match body {
        Some(body) => api.json(method, &path, body).await,
        None => api.send(method, &path, "", "").await,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_answers_as_the_document_says() {
    let (redis, phone, data) = (
        Redis::start(),
        Callee::open().await,
        TempDir::new().unwrap(),
    );
    let folder = data.path().display().to_string();
    let setup = Setup::queue(&redis).args(&["--data-dir", &folder, "--agents"]);
    let provider = Receiver::start().await;
    let setup = setup.args(&["--elevenlabs-url", &provider.url("")]);
    let setup = setup.env("ELEVENLABS_API_KEY", "k");
    let setup = setup.args(&TWILIO_FLAGS);
    let port = free_port().to_string();
    let stream = format!("ws://127.0.0.1:{port}");
    let setup = setup.args(&["--stream-port", &port, "--stream-url", &stream]);
    let setup = setup.args(&["--public-url", PUBLIC_URL]);
    let setup = setup.line(twilio_lines::line());
    // Where lines register is the phone, which takes REGISTER as anything else.
    let bridge = setup.trunk(phone.local.port()).start().await;
    let api = Api::of(&bridge);
    let json = api.get("/api/openapi.json").await.expect(200);
    assert!(json["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut document = Document {
        json,
        seen: BTreeSet::new(),
    };
    for request in &admin_requests() {
        document.hold(request.0, request.1, &ask(&api, request).await);
    }
    for template in [
        "/api/admin/telephony/phone-lines/{id}/register",
        "/api/admin/telephony/lines/{id}/register",
    ] {
        let path = template.replace("{id}", LINE_ID);
        document.hold("POST", template, &api.post_empty(&path).await);
    }
    agents(&mut document, &api).await;
    voices(&mut document, &api, &provider).await;
    keys(&mut document, &api).await;
    calls(&mut document, &api, &phone, &redis, bridge.sip()).await;
    twilio(&mut document, &api, &phone).await;
    webhooks(&mut document, &api).await;
    let missing: Vec<_> = document
        .operations()
        .difference(&document.seen)
        .cloned()
        .collect();
    assert!(missing.is_empty(), "never seen to answer well: {missing:?}");
    bridge.shut_down().await;

    // What a wrong token is answered is the same everywhere.
    let token = "a-token-of-more-than-16-characters";
    let setup = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/x", "--api-token", token]);
    let setup = setup.args(&TWILIO_FLAGS);
    let bridge = setup.start().await;
    let open = ["/health", "/metrics", "/api/openapi.json"];
    for (method, template) in document.operations() {
        if open.contains(&template.as_str()) {
            continue;
        }
        let method = method.to_uppercase();
        let answer = Api::of(&bridge).send(&method, &template, "", "").await;
        // A webhook has a signature, and no token.
        let refused = if template.starts_with("/webhooks/") {
            403
        } else {
            401
        };
        assert_eq!(answer.status, refused, "{method} {template}");
        document.hold(&method, &template, &answer);
    }
    // This one has no database.
    let api = Api::of(&bridge).with_token(token);
    let id = LINE_ID;
    for request in [
        ("GET", LINES, "", None),
        ("GET", LINE, id, None),
        ("GET", LINE, "x", None),
        ("PATCH", LINE, id, Some(json!({}))),
    ] {
        document.hold(request.0, request.1, &ask(&api, &request).await);
    }
    // Nor has it agents.
    for (method, template) in document.operations() {
        if template.starts_with("/api/v1/omnichannel") {
            let method = method.to_uppercase();
            let answer = api.send(&method, &template, "", "").await;
            answer.problem(503, "agents-off");
            document.hold(&method, &template, &answer);
        }
    }
    bridge.shut_down().await;
}

/// The agent of a tenant, from nothing to nothing again.
async fn agents(document: &mut Document, api: &Api) {
    const CONFIG: &str = "/api/v1/omnichannel/agent/config";
    let one = format!("{CONFIG}?tenantId=r-42");
    let whole = json!({"agent_name": "L\u{e9}a", "voice_settings": {"stability": 0.5}});
    for (method, path, body, status) in [
        ("GET", &*one, None, 404),
        ("DELETE", &one, None, 404),
        ("PUT", &one, Some(json!({"agent_name": 7, "x": 1})), 422),
        ("PUT", CONFIG, Some(whole.clone()), 422),
        ("PUT", &one, Some(whole), 200),
        ("GET", &one, None, 200),
        ("GET", CONFIG, None, 422),
        ("DELETE", CONFIG, None, 422),
        ("DELETE", &one, None, 204),
    ] {
        let answer = match &body {
            Some(body) => api.json(method, path, body).await,
            None => api.send(method, path, "", "").await,
        };
        assert_eq!(answer.status, status, "{method} {path}: {}", answer.body);
        document.hold(method, CONFIG, &answer);
    }
    let health = "/api/v1/omnichannel/health";
    document.hold("GET", health, &api.get(health).await);
}

/// What the provider of voices says, and how it fails.
async fn voices(document: &mut Document, api: &Api, provider: &Receiver) {
    const VOICES: &str = "/api/v1/omnichannel/agent/voices";
    const VOICE: &str = "/api/v1/omnichannel/agent/voices/{voiceId}";
    const MODELS: &str = "/api/v1/omnichannel/agent/models";
    let voice = json!({"voice_id": "v", "labels": {"language": "fr"}});
    let all = json!({"voices": [voice]});
    provider.script(
        "/v1/voices",
        [Reply::status(500), Reply::status(429), Reply::json(all)],
    );
    provider.script("/v1/voices/v", [Reply::json(voice)]);
    provider.script("/v1/voices/x", [Reply::status(404)]);
    let model = json!({"model_id": "m", "languages": [{"language_id": "fr"}]});
    provider.script("/v1/models", [Reply::json(json!([model]))]);
    let one = |id: &str| VOICE.replace("{voiceId}", id);
    for (template, path, status) in [
        (VOICES, VOICES, 502),
        (VOICES, VOICES, 503),
        (VOICES, VOICES, 200),
        (VOICES, &format!("{VOICES}?language=7"), 422),
        (VOICE, &one("v"), 200),
        (VOICE, &one("x"), 404),
        (MODELS, MODELS, 200),
    ] {
        let answer = api.get(path).await;
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        document.hold("GET", template, &answer);
    }
}

/// Every POST takes an Idempotency-Key, and so says the document: one that is
/// unusable or comes again with another body is refused as it lists.
async fn keys(document: &mut Document, api: &Api) {
    let operations = document.operations();
    let posts: Vec<_> = operations
        .iter()
        .filter(|(name, path)| name == "post" && !path.starts_with("/2010-"))
        .filter(|(_, path)| !path.starts_with("/webhooks/"))
        .collect();
    assert!(posts.len() > 7, "{posts:?}");
    for (_, template) in posts {
        let parameters = &document.json["paths"][template]["post"]["parameters"];
        let keys = parameters.as_array().unwrap().iter();
        let mut keys = keys.filter(|it| it["name"] == "Idempotency-Key");
        let key = keys.next().expect(template);
        assert_eq!(
            (&key["in"], &key["required"]),
            (&json!("header"), &json!(false))
        );
        assert!(keys.next().is_none(), "{template}");

        let path = template.replace("{id}", "x").replace("{sid}", "x");
        let post = async |key: &str, body: &str| {
            let headers = format!("Idempotency-Key: {key}\r\nContent-Type: application/json\r\n");
            api.send("POST", &path, &headers, body).await
        };
        let (first, other) = (
            post("one", r#"{"x": 1}"#).await,
            post("one", r#"{"x": 2}"#).await,
        );
        assert!(first.status >= 400, "{template}: {}", first.body);
        other.problem(422, "idempotency-key-reused");
        let unusable = post("", r#"{"x": 1}"#).await;
        unusable.problem(400, "bad-request");
        for answer in [first, other, unusable] {
            document.hold("POST", template, &answer);
        }
        let statuses = &document.json["paths"][template]["post"]["responses"];
        let busy = statuses["409"]["description"].as_str().unwrap();
        assert!(busy.contains("Idempotency-Key"), "{template}: {busy}");
    }
}

async fn calls(
    document: &mut Document,
    api: &Api,
    phone: &Callee,
    redis: &Redis,
    sip: std::net::SocketAddr,
) {
    let bad = json!({"to": 1});
    document.hold("POST", "/api/calls", &api.post("/api/calls", &bad).await);
    // The line that was deleted above may still be there for a moment.
    let to = json!({"to": CALLER_NUMBER, "phoneLineId": LINE_ID});
    let placed = api.post("/api/calls", &to).await;
    document.hold("POST", "/api/calls", &placed);
    phone.respond(&phone.invited().await, "486 Busy Here").await;

    let _call = Caller::connect(sip, NUMBER).await;
    let mut job = Job::take(redis).await;
    while job.text("direction") != "inbound" {
        job = Job::take(redis).await;
    }
    let _worker = Worker::attach(&job).await;
    let sid = job.text("callId");
    until(SOON, "active", async || {
        api.get(&format!("/api/calls/{sid}")).await.expect(200)["status"] == "active"
    })
    .await;
    for path in [
        "/api/calls",
        "/api/calls?all=1",
        "/api/calls?limit=1",
        "/api/calls?node=x",
    ] {
        document.hold("GET", "/api/calls", &api.get(path).await);
    }
    let of_another = "Sipbridge-Node: another\r\n";
    let refused = api.send("GET", "/api/calls", of_another, "").await;
    document.hold("GET", "/api/calls", &refused);
    let cluster = api.get("/health?cluster=1").await;
    assert!(cluster.json()["cluster"].is_object());
    document.hold("GET", "/health", &cluster);
    let one = "/api/calls/{sid}";
    document.hold("GET", one, &api.get(&one.replace("{sid}", sid)).await);
    let requests = [
        ("hold", json!({})),
        ("resume", json!({})),
        ("dtmf", json!({"digits": "1"})),
        ("dtmf", json!({"digits": ""})),
        ("transfer", json!({"destination": ""})),
        ("transfer", json!({"destination": "+33155667788"})),
    ];
    for (name, body) in requests {
        let template = format!("/api/calls/{{sid}}/{name}");
        let answer = api.post(&template.replace("{sid}", sid), &body).await;
        document.hold("POST", &template, &answer);
    }
    let nobody = "CA0123456789abcdef0123456789abcdef";
    for sid in [nobody, sid] {
        document.hold("DELETE", one, &api.delete(&one.replace("{sid}", sid)).await);
    }
}

/// Twilio's API, of the call that was placed, and of the line.
/// Twilio's own webhook.
async fn webhooks(document: &mut Document, api: &Api) {
    let template = "/webhooks/voice/{line}";
    let (line, sid) = (twilio_lines::LINE, Twilio::new_call());
    until(SOON, "the line is taken up", async || {
        let answer = Twilio::asks(api, line, &Twilio::new_call(), "wrong").await;
        document.hold("POST", template, &answer);
        let path = format!("/api/admin/telephony/phone-lines/{line}");
        api.get(&path).await.json()["state"] == "twilio"
    })
    .await;
    let answer = Twilio::asks(api, line, &sid, AUTH_TOKEN).await;
    document.hold("POST", template, &answer);
    let again = Twilio::asks(api, line, &sid, AUTH_TOKEN).await;
    document.hold("POST", template, &again);
    let form = [("CallSid", "CA1")];
    let odd = Twilio::asks_with(api, line, &form, AUTH_TOKEN).await;
    document.hold("POST", template, &odd);
    let call = TwilioCall::connect(&stream_url(&answer), &sid).await;
    call.hangs_up().await;
}

async fn twilio(document: &mut Document, api: &Api, phone: &Callee) {
    let account = "/2010-04-01/Accounts/{account}";
    let ask = async |document: &mut Document, method: &str, path: &str, item: &str, form: &str| {
        let template = format!("{account}{path}");
        let url = template.replace("{account}", ACCOUNT);
        let url = url.replace("{call}", item).replace("{number}", item);
        let answer = as_account(api, &format!("{ACCOUNT}:{TOKEN}"), method, &url, form).await;
        document.hold(method, &template, &answer);
        answer
    };
    let (list, call) = ("/Calls.json", "/Calls/{call}");
    let calls = ask(document, "GET", list, "", "").await.expect(200);
    let sid = format!("{}.json", calls["calls"][0]["sid"].as_str().unwrap());
    ask(document, "GET", call, &sid, "").await;
    ask(document, "GET", call, "x.json", "").await;
    ask(document, "POST", call, &sid, "").await;
    ask(document, "POST", call, &sid, "Status=completed").await;
    ask(document, "POST", list, "", "").await;
    ask(
        document,
        "POST",
        list,
        "",
        "To=%2B33612345678&From=x&Twiml=y",
    )
    .await;
    until(SOON, "an end", async || {
        ask(document, "DELETE", call, &sid, "").await.status == 204
    })
    .await;
    let (list, number) = (
        "/IncomingPhoneNumbers.json",
        "/IncomingPhoneNumbers/{number}",
    );
    let numbers = ask(document, "GET", list, "", "").await.expect(200);
    let sid = numbers["incoming_phone_numbers"][0]["sid"]
        .as_str()
        .unwrap();
    ask(document, "GET", number, &format!("{sid}.json"), "").await;
    ask(document, "GET", number, "x.json", "").await;
    ask(document, "POST", number, "x.json", "").await;
    for form in ["VoiceUrl=x", "VoiceUrl=&FriendlyName=Desk"] {
        ask(document, "POST", number, &format!("{sid}.json"), form).await;
    }
    let from = numbers["incoming_phone_numbers"][0]["phone_number"]
        .as_str()
        .unwrap();
    let order = form_urlencoded::Serializer::new(String::new())
        .append_pair("To", CALLER_NUMBER)
        .append_pair("From", from)
        .append_pair("Twiml", "<Response/>")
        .finish();
    let before = phone.invited().await;
    ask(document, "POST", "/Calls.json", "", &order).await;
    let invite = phone.invited_to_another(&before).await;
    phone.respond(&invite, "486 Busy Here").await;
}

#[test]
fn no_route_is_added_without_a_description() {
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join("src/api")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            files += 1;
            let text = std::fs::read_to_string(&path).unwrap();
            let bare = [".route(", ".nest(", ".merge(", "route_service("];
            let found = bare.iter().find(|word| text.contains(**word));
            assert!(
                found.is_none(),
                "{}: {found:?}: describe the route with utoipa::path and add it with routes!",
                path.display()
            );
        }
    }
    assert!(files > 10, "the scan found the sources");
}
