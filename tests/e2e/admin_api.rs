//! The admin API of the real program: SIP servers, phone lines, the fallback
//! server; good and bad input; and what comes of it at Kamailio.

use std::time::Duration;

use serde_json::{Value, json};
use sipbridge::store::{Location, Store};
use tempfile::TempDir;

use crate::harness::bridge::{NUMBER, PASSWORD, Setup, USERNAME, encrypt};
use crate::harness::peers::TrunkLine;
use crate::harness::{Api, Bridge, Kamailio, Redis, SOON, until};

const SERVERS: &str = "/api/admin/telephony/sip-servers";
const LINES: &str = "/api/admin/telephony/phone-lines";
const FALLBACK: &str = "/api/admin/telephony/fallback";

/// A bridge with an empty database.
fn empty(dir: &TempDir) -> Setup {
    let data = dir.path().display().to_string();
    let mut setup = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/x", "--data-dir", &data]);
    setup.lines.clear();
    setup
}

async fn started(dir: &TempDir) -> (Bridge, Api) {
    let bridge = empty(dir).start().await;
    let api = Api::of(&bridge);
    (bridge, api)
}

async fn stored(dir: &TempDir, line: &str, column: &str) -> Option<String> {
    let location = Location::Sqlite(dir.path().join("sipbridge.db"));
    let store = Store::look(&location).await.unwrap().unwrap();
    let row = store.line(line).await.unwrap().unwrap();
    store.close().await;
    row.get(column).map(str::to_owned)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_added_changed_shown_and_removed() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(&dir).await;
    let whole = json!({"id": "ovh", "label": "OVH", "trunk_uri": "sip:a.example:5070;transport=tcp",
        "username": "u", "password": PASSWORD, "contact_host": "c.example", "contact_port": 5071,
        "contact_transport": "tls", "allow_from": "198.51.100.0/24, 203.0.113.7"});
    let made = api.post(SERVERS, &whole).await;
    assert_eq!(made.status, 201, "{}", made.body);
    assert_eq!(made.headers["location"], format!("{SERVERS}/ovh"));
    let mut expected = whole.clone();
    let fields = expected.as_object_mut().unwrap();
    fields.remove("password");
    fields.insert("has_password".into(), true.into());
    assert_eq!(made.json(), expected);
    api.post(SERVERS, &whole).await.problem(409, "taken");

    let path = format!("{SERVERS}/ovh");
    assert_eq!(api.get(&path).await.expect(200), expected);
    let change = json!({"label": "new", "contact_port": null, "password": null});
    let changed = api.json("PATCH", &path, &change).await.expect(200);
    assert_eq!(changed["label"], "new");
    assert_eq!(changed["contact_port"], Value::Null);
    assert_eq!(changed["has_password"], false);
    assert_eq!(changed["trunk_uri"], expected["trunk_uri"]);
    // The same id again, and nothing at all, change nothing.
    for same in [json!({"id": "ovh"}), json!({})] {
        assert_eq!(api.json("PATCH", &path, &same).await.expect(200), changed);
    }
    let other = api
        .json("PATCH", &path, &json!({"id": "x", "label": 1}))
        .await;
    assert_eq!(other.faulty(), ["label", "id"]);
    let no_uri = api.json("PATCH", &path, &json!({"trunk_uri": null})).await;
    assert_eq!(no_uri.faulty(), ["trunk_uri"]);

    let made_up = api
        .post(SERVERS, &json!({"trunk_uri": "sip:b.example"}))
        .await
        .expect(201);
    assert_eq!(made_up["id"].as_str().unwrap().len(), 36);
    assert_eq!(api.delete(&path).await.status, 204);
    for answer in [
        api.get(&path).await,
        api.delete(&path).await,
        api.json("PATCH", &path, &json!({})).await,
    ] {
        answer.problem(404, "not-found");
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_mistake_of_a_request_is_told_at_once() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(&dir).await;
    let server = json!({"id": "a b", "label": 7, "trunk_uri": "http://x", "username": "a@b",
        "contact_host": "h:1", "contact_port": 70_000, "contact_transport": "sctp",
        "has_password": true, "passwrod": PASSWORD});
    let mut faulty = api.post(SERVERS, &server).await.faulty();
    faulty.sort();
    let expected = [
        "contact_host",
        "contact_port",
        "contact_transport",
        "has_password",
        "id",
        "label",
        "passwrod",
        "trunk_uri",
        "username",
    ];
    assert_eq!(faulty, expected);
    let line = json!({"id": "", "phoneNumber": 33, "sipDomain": "sip:a@b", "isActive": "no",
        "provider": "voip", "maxConcurrentCalls": 0, "customParameters": {"a": []},
        "sip_username": "u", "sipServerId": "nowhere", "state": "registered",
        "sipPassword": "iv:tag:text", "createdAt": null});
    let mut faulty = api.post(LINES, &line).await.faulty();
    faulty.sort();
    let expected = [
        "createdAt",
        "customParameters.a",
        "id",
        "isActive",
        "maxConcurrentCalls",
        "phoneNumber",
        "provider",
        "sipDomain",
        "sipPassword",
        "sipServerId",
        "sip_username",
        "state",
    ];
    assert_eq!(faulty, expected);
    let page = api.get(LINES).await.expect(200);
    assert_eq!(
        page,
        json!({"items": [], "next": null}),
        "nothing was written"
    );
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=a&after=b",
        "page=2",
    ] {
        assert_eq!(api.get(&format!("{LINES}?{query}")).await.faulty().len(), 1);
        assert_eq!(
            api.get(&format!("{SERVERS}?{query}")).await.faulty().len(),
            1
        );
    }
    assert!(!bridge.output().contains(PASSWORD));
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fallback_server_is_named_and_a_server_in_use_stays() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(&dir).await;
    let none = json!({"sip_server_id": null});
    assert_eq!(api.get(FALLBACK).await.expect(200), none);
    let named = json!({"sip_server_id": "s"});
    let unknown = api.json("PUT", FALLBACK, &named).await;
    assert_eq!(unknown.faulty(), ["sip_server_id"]);
    for bad in [
        json!({}),
        json!({"sip_server_id": []}),
        json!({"sip_server_id": ""}),
    ] {
        assert_eq!(
            api.json("PUT", FALLBACK, &bad).await.faulty(),
            ["sip_server_id"]
        );
    }
    let server = json!({"id": "s", "trunk_uri": "sip:127.0.0.1"});
    api.post(SERVERS, &server).await.expect(201);
    assert_eq!(api.json("PUT", FALLBACK, &named).await.expect(200), named);
    assert_eq!(api.get(FALLBACK).await.expect(200), named);
    for id in ["l2", "l1"] {
        let line = json!({"id": id, "sipUsername": "u", "sipServerId": "s"});
        api.post(LINES, &line).await.expect(201);
    }
    let path = format!("{SERVERS}/s");
    let problem = api.delete(&path).await.problem(409, "in-use");
    assert_eq!(problem["lines"], json!(["l1", "l2"]));
    assert!(problem["detail"].as_str().unwrap().contains("fallback"));
    for id in ["l1", "l2"] {
        assert_eq!(api.delete(&format!("{LINES}/{id}")).await.status, 204);
    }
    let problem = api.delete(&path).await.problem(409, "in-use");
    assert_eq!(problem.get("lines"), None);
    api.json("PUT", FALLBACK, &none).await.expect(200);
    assert_eq!(api.delete(&path).await.status, 204);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_added_here_registers_pauses_and_goes() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let known = [TrunkLine {
        username: USERNAME,
        password: PASSWORD,
        number: NUMBER,
    }];
    let trunk = Kamailio::start(&known, &[]);
    let setup = empty(&dir).args(&["--redis-url", &redis.url()]);
    let bridge = setup.trunk(trunk.port).start().await;
    let api = Api::of(&bridge);
    let uri = format!("sip:127.0.0.1:{}", trunk.port);
    api.post(SERVERS, &json!({"id": "t", "trunk_uri": uri}))
        .await
        .expect(201);
    let line = json!({"id": "l", "phoneNumber": NUMBER, "sipUsername": USERNAME,
        "sipPassword": "not-the-Password", "sipServerId": "t",
        "customParameters": {"lang": "fr", "tables": 12}});
    let made = api.post(LINES, &line).await;
    let body = made.expect(201);
    assert_eq!(made.headers["location"], format!("{LINES}/l"));
    assert_eq!(body["hasPassword"], true);
    assert_eq!(body.get("sipPassword"), None);
    assert_eq!(
        body["customParameters"],
        json!({"lang": "fr", "tables": 12})
    );
    let path = format!("{LINES}/l");
    let state = async |wanted: &str| {
        until(SOON, wanted, async || {
            api.get(&path).await.expect(200)["state"] == wanted
        })
        .await;
        api.get(&path).await.expect(200)
    };
    let failed = state("failed").await;
    assert_eq!(failed["server"], format!("127.0.0.1:{}", trunk.port));
    assert!(failed["rule"].as_str().is_some_and(|rule| !rule.is_empty()));
    assert!(failed["nextTryAt"].as_str().unwrap().ends_with('Z'));
    assert!(
        failed["lastError"]
            .as_str()
            .is_some_and(|error| !error.is_empty())
    );

    // Encrypted at rest, for this line.
    let change = json!({"sipPassword": PASSWORD, "customParameters": {"tables": null, "vip": "1"}});
    let changed = api.json("PATCH", &path, &change).await.expect(200);
    assert_eq!(
        changed["customParameters"],
        json!({"lang": "fr", "vip": "1"})
    );
    let at_rest = stored(&dir, "l", "sip_password").await.unwrap();
    assert_eq!(at_rest.split(':').count(), 3, "{at_rest}");
    assert!(!at_rest.contains(PASSWORD));
    let registered = state("registered").await;
    assert!(registered["expiresAt"].as_str().unwrap().ends_with('Z'));
    assert_eq!(registered["lastError"], Value::Null);

    for name in ["phone-lines", "lines"] {
        let before = trunk.log().matches("registered at").count();
        let now = format!("/api/admin/telephony/{name}/l/register");
        let answer = api.post_empty(&now).await.expect(202);
        assert_eq!(answer["id"], "l");
        until(SOON, "one more REGISTER", async || {
            trunk.log().matches("registered at").count() > before
        })
        .await;
    }
    state("registered").await;
    let pause = json!({"isActive": false});
    api.json("PATCH", &path, &pause).await.expect(200);
    let paused = state("left-out").await;
    assert_eq!(paused["isActive"], false);
    let register = format!("{path}/register");
    api.post_empty(&register).await.problem(409, "conflict");
    api.json("PATCH", &path, &json!({"isActive": true}))
        .await
        .expect(200);
    state("registered").await;
    assert_eq!(api.delete(&path).await.status, 204);
    for answer in [
        api.get(&path).await,
        api.delete(&path).await,
        api.json("PATCH", &path, &json!({})).await,
    ] {
        answer.problem(404, "not-found");
    }
    // Until the bridge has taken it in, it is still registered here.
    until(SOON, "unregistered", async || {
        api.post_empty(&register).await.status == 404
    })
    .await;
    api.post_empty(&register).await.problem(404, "not-found");
    until(SOON, "unregistered", async || {
        let lines: Option<String> = redis.query(&["GET", "bridge:node-e2e:count"]).await;
        lines.as_deref() == Some("0")
    })
    .await;
    for secret in [PASSWORD, "not-the-Password", NUMBER] {
        assert!(!bridge.output().contains(secret), "a secret is in the log");
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_that_are_changed_at_once_are_all_kept() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(&dir).await;
    api.post(LINES, &json!({"id": "l"})).await.expect(201);
    let path = format!("{LINES}/l");
    for round in 0..5 {
        let change = async |key: &str| {
            let change = json!({"customParameters": {key: round.to_string()}});
            api.json("PATCH", &path, &change).await.expect(200);
        };
        tokio::join!(
            change("a"),
            change("b"),
            change("c"),
            change("d"),
            change("e"),
            change("f")
        );
        let kept = api.get(&path).await.expect(200)["customParameters"].clone();
        let all = ["a", "b", "c", "d", "e", "f"].map(|key| (key, round.to_string()));
        let all: serde_json::Map<_, _> = all
            .into_iter()
            .map(|(key, text)| (key.to_owned(), text.into()))
            .collect();
        assert_eq!(kept, Value::Object(all));
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_each_other_until_the_last() {
    let dir = TempDir::new().unwrap();
    let (bridge, api) = started(&dir).await;
    for number in 0..5 {
        let id = format!("l{number}");
        let line = json!({"id": id, "sipUsername": id, "isActive": false});
        api.post(LINES, &line).await.expect(201);
    }
    let (mut ids, mut after) = (Vec::new(), String::new());
    loop {
        let page = api
            .get(&format!("{LINES}?limit=2{after}"))
            .await
            .expect(200);
        let items = page["items"].as_array().unwrap();
        assert!((1..=2).contains(&items.len()));
        ids.extend(
            items
                .iter()
                .map(|line| line["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(ids, ["l0", "l1", "l2", "l3", "l4"]);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_password_is_stored_in_clear() {
    let dir = TempDir::new().unwrap();
    let bridge = empty(&dir).env("ENCRYPTION_KEY", "").start().await;
    let api = Api::of(&bridge);
    let clear = json!({"id": "l", "sipUsername": "u", "sipPassword": PASSWORD});
    let refused = api.post(LINES, &clear).await;
    assert_eq!(refused.faulty(), ["sipPassword"]);
    let reason = &refused.json()["errors"][0]["reason"];
    assert!(reason.as_str().unwrap().contains("--encryption-key"));
    let colons = json!({"id": "l", "sipUsername": "u", "sipPassword": "my:secret:pw"});
    let refused = api.post(LINES, &colons).await;
    assert_eq!(refused.faulty(), ["sipPassword"]);
    let reason = &refused.json()["errors"][0]["reason"];
    assert!(reason.as_str().unwrap().contains("two colons"), "{reason}");
    let sealed = encrypt("l", PASSWORD);
    let line =
        json!({"id": "l", "sipUsername": "u", "sipPassword": sealed, "sipDomain": "127.0.0.1"});
    let made = api.post(LINES, &line).await.expect(201);
    assert_eq!(made["hasPassword"], true);
    assert_eq!(stored(&dir, "l", "sip_password").await, Some(sealed));
    until(SOON, "unusable without the key", async || {
        let line = api.get(&format!("{LINES}/l")).await.expect(200);
        line["state"] == "unusable"
            && line["lastError"]
                .as_str()
                .is_some_and(|why| why.contains("ENCRYPTION_KEY"))
    })
    .await;
    assert!(!bridge.output().contains(PASSWORD));
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_database_it_is_said_how_to_get_one() {
    let bridge = Setup::new()
        .args(&["--ws-target", "ws://127.0.0.1:9/x"])
        .start()
        .await;
    let api = Api::of(&bridge);
    for answer in [
        api.get(SERVERS).await,
        api.post(SERVERS, &json!({})).await,
        api.post(LINES, &json!({"sipPassword": PASSWORD})).await,
        api.delete(&format!("{LINES}/x")).await,
        api.json("PATCH", &format!("{LINES}/x"), &json!({})).await,
        api.get(FALLBACK).await,
        api.json("PUT", FALLBACK, &json!({"sip_server_id": null}))
            .await,
        api.get("/api/calls?all=1").await,
    ] {
        let problem = answer.problem(409, "no-database");
        assert!(problem["detail"].as_str().unwrap().contains("--data-dir"));
    }
    // The lines that it was started with are shown all the same.
    let page = api.get(LINES).await.expect(200);
    assert_eq!(page["items"][0]["id"], crate::harness::bridge::LINE);
    assert_eq!(
        (&page["items"][1], &page["next"]),
        (&Value::Null, &Value::Null)
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_does_not_take_is_the_requests_fault() {
    let postgres = crate::harness::postgres::Postgres::start();
    postgres.sql(
        "CREATE TABLE phone_lines (id uuid PRIMARY KEY, restaurant_id uuid, phone_number varchar(20),
            provider varchar(10), sip_domain varchar(255), sip_username varchar(100),
            sip_password varchar(255), twilio_trunk_sid varchar(64), is_active boolean,
            created_at timestamptz DEFAULT now())",
    );
    let mut setup = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/x"]);
    setup.lines.clear();
    let bridge = setup
        .args(&["--database-url", &postgres.url()])
        .start()
        .await;
    let api = Api::of(&bridge);
    for bad in [
        json!({"id": "no-uuid"}),
        json!({"restaurantId": 7}),
        json!({"phoneNumber": "0".repeat(21)}),
    ] {
        let problem = api.post(LINES, &bad).await.problem(422, "invalid");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.starts_with("the database does not take"), "{detail}");
    }
    let made = api
        .post(LINES, &json!({"sipUsername": "u", "sipPassword": PASSWORD}))
        .await;
    let id = made.expect(201)["id"].as_str().unwrap().to_owned();
    assert_eq!(id.len(), 36);
    // A database that hangs is waited for, but not for ever.
    postgres.signal("STOP");
    let limit = Duration::from_secs(25);
    let (answer, calls) = tokio::time::timeout(limit, async {
        tokio::join!(api.slow("GET", LINES), api.get("/api/calls"))
    })
    .await
    .unwrap();
    answer.problem(503, "unavailable");
    calls.expect(200);
    postgres.signal("CONT");
    until(SOON, "the database again", async || {
        api.get(LINES).await.status == 200
    })
    .await;
    bridge.shut_down().await;
}
