//! One API over several bridges: calls listed and steered through any of them, bridges that do not answer, and limits
//! that hold over all.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::harness::bridge::{LINE, NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::location::{Keeps, LocationServer};
use crate::harness::postgres::Postgres;
use crate::harness::sdp::Offer;
use crate::harness::{Api, Bridge, Callee, Caller, Redis, SOON, until};

const CALLS: &str = "/api/calls";
const NOBODY: &str = "/api/calls/CA0123456789abcdef0123456789abcdef";
const DEAD_AFTER: Duration = Duration::from_secs(3);
/// Longer than 2 s by what a busy machine needs.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);
const TOKEN: &str = "a-token-of-all-the-bridges";

/// A bridge of this name; a lease ends after [`DEAD_AFTER`].
fn setup(name: &str, redis: &Redis) -> Setup {
    let lease_ttl = DEAD_AFTER.as_secs().to_string();
    Setup::queue(redis).args(&["--node-id", name, "--lease-ttl", &lease_ttl])
}

/// Waits until each of these knows of all.
async fn together(bridges: &[&Bridge]) {
    until(SOON * 2, "each bridge knows of all", async || {
        for bridge in bridges {
            let health = cluster(bridge).await;
            let mut known = health["nodes"].as_array().unwrap().iter();
            // One that has only taken its name has said nothing yet.
            if known.len() != bridges.len() || known.any(|node| node["version"] == "") {
                return false;
            }
        }
        true
    })
    .await;
}

async fn two(redis: &Redis, change: impl Fn(Setup) -> Setup) -> (Bridge, Bridge) {
    let one = change(setup("one", redis)).start().await;
    let two = change(setup("two", redis)).start().await;
    together(&[&one, &two]).await;
    (one, two)
}

/// What `/health?cluster=1` adds.
async fn cluster(bridge: &Bridge) -> Value {
    let health = Api::of(bridge).get("/health?cluster=1").await;
    health.json()["cluster"].clone()
}

async fn list(api: &Api) -> Vec<Value> {
    let list = api.get(CALLS).await.expect(200);
    list.as_array().unwrap().clone()
}

fn path(call: &Value) -> String {
    format!("{CALLS}/{}", call["sid"].as_str().unwrap())
}

/// The status that an INVITE ends with.
async fn try_call(bridge: &Bridge) -> (crate::harness::Call, Option<u16>) {
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let status = call.final_response().await.status();
    (call, status)
}

#[tokio::test(flavor = "multi_thread")]
async fn any_bridge_lists_all_calls_and_takes_requests_for_each() {
    let redis = Redis::start();
    let (one, two) = two(&redis, |setup| setup).await;
    let (at_one, at_two) = (Api::of(&one), Api::of(&two));
    let first = Caller::connect(one.sip(), NUMBER).await;
    let second = Caller::connect(two.sip(), NUMBER).await;
    let calls = list(&at_one).await;
    let nodes: Vec<_> = calls.iter().map(|call| &call["node"]).collect();
    assert_eq!(nodes, ["two", "one"], "the newest first");
    let sids = |calls: &[Value]| calls.iter().map(path).collect::<Vec<_>>();
    assert_eq!(sids(&list(&at_two).await), sids(&calls));
    let own = at_one.get("/api/calls?node=two").await.expect(200);
    assert_eq!(sids(own.as_array().unwrap()), [path(&calls[0])]);
    let unknown = at_one.get("/api/calls?node=three").await;
    assert_eq!(unknown.faulty(), ["node"]);

    let call = path(&calls[0]);
    let shown = at_one.get(&call).await;
    assert_eq!(shown.headers["cache-control"], "no-store");
    assert_eq!(shown.expect(200)["node"], "two");
    let digits = json!({"digits": "x"});
    let bad = at_one.post(&format!("{call}/dtmf"), &digits).await;
    assert_eq!(bad.faulty(), ["digits"]);
    let held = at_one.post_empty(&format!("{call}/hold")).await.expect(200);
    assert_eq!(
        (&held["onHold"], &held["node"]),
        (&json!(true), &json!("two"))
    );
    let not_json = at_one.send("POST", &format!("{call}/dtmf"), "", "1").await;
    not_json.problem(415, "media-type");
    at_one.get(NOBODY).await.problem(404, "not-found");
    at_one.delete(NOBODY).await.problem(404, "not-found");

    at_one.delete(&call).await.expect(200);
    second.ended_by_bridge(SOON).await;
    assert_eq!(first.ended_at(), None, "the other call goes on");
    until(SOON, "its end shows everywhere", async || {
        let call = at_one.get(&call).await.expect(200);
        call["outcome"] == "api-hung-up"
    })
    .await;
    at_one.delete(&call).await.problem(409, "conflict");
    at_two.delete(&path(&calls[1])).await.expect(200);
    first.ended_by_bridge(SOON).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_does_not_answer_is_named_within_two_seconds() {
    let redis = Redis::start();
    // Long enough that it is alive for as long as it is asked.
    let start = async |name| {
        let setup = Setup::queue(&redis).args(&["--node-id", name, "--lease-ttl", "12"]);
        setup.start().await
    };
    let (one, two) = (start("one").await, start("two").await);
    let _call = Caller::connect(two.sip(), NUMBER).await;
    let api = Api::of(&one);
    together(&[&one, &two]).await;
    let listed = list(&api).await;
    two.process.signal("STOP");
    let hang_up = path(&listed[0]);
    let asked = Instant::now();
    let answers = tokio::join!(
        api.get(CALLS),
        api.get("/api/calls?node=two"),
        api.delete(&hang_up)
    );
    assert!(asked.elapsed() < ANSWERED_WITHIN, "{:?}", asked.elapsed());
    for answer in [answers.0, answers.1, answers.2] {
        let problem = answer.problem(503, "node-unavailable");
        let detail = problem["detail"].as_str().unwrap();
        assert!(detail.contains("the bridge two"), "{detail}");
    }
    assert_eq!(api.get("/api/calls?node=one").await.expect(200), json!([]));
    assert_eq!(one.health().await.status, 200);
    two.process.signal("CONT");
    until(SOON, "it answers again", async || {
        api.get(CALLS).await.status == 200
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_ended_is_asked_no_more() {
    let redis = Redis::start();
    let one = setup("one", &redis).start().await;
    let two = setup("two", &redis).start().await;
    let three = setup("three", &redis).start().await;
    together(&[&one, &two, &three]).await;
    let api = Api::of(&one);
    let mut call = Caller::connect(three.sip(), NUMBER).await;
    two.process.signal("KILL");
    until(
        DEAD_AFTER * 2,
        "a dead bridge is known to be dead",
        async || api.get(CALLS).await.status == 200,
    )
    .await;
    assert_eq!(list(&api).await[0]["node"], "three");
    call.bye().await;
    three.shut_down().await;
    assert_eq!(list(&api).await, [json!(null); 0], "at once");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_bridges_have_one_token() {
    let redis = Redis::start();
    let start = async |name, token| {
        let setup = setup(name, &redis);
        setup.args(&["--api-token", token]).start().await
    };
    let one = start("one", TOKEN).await;
    let two = start("two", TOKEN).await;
    together(&[&one, &two]).await;
    let api = Api::of(&one).with_token(TOKEN);
    let _call = Caller::connect(two.sip(), NUMBER).await;
    assert_eq!(list(&api).await[0]["node"], "two");
    assert_eq!(Api::of(&one).get(CALLS).await.status, 401);

    let three = start("three", "another-token-than-theirs").await;
    together(&[&one, &two, &three]).await;
    let problem = api.get(CALLS).await.problem(503, "node-unavailable");
    let detail = problem["detail"].as_str().unwrap();
    assert!(
        detail.contains("three") && detail.contains("--api-token"),
        "{detail}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_says_of_other_bridges_is_judged() {
    let redis = Redis::start();
    let one = setup("one", &redis).start().await;
    let own = format!("http://127.0.0.1:{}", one.api_port);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let named = format!("http://localhost:{}", listener.local_addr().unwrap().port());
    let api = Api::of(&one);
    for (url, said) in [(own, "answers another"), (named, "has no address")] {
        let _: u64 = redis.query(&["SADD", "bridge:nodes", "ghost"]).await;
        let _: String = redis.query(&["SET", "bridge:ghost:heartbeat", "x"]).await;
        let _: u64 = redis
            .query(&["HSET", "bridge:ghost:info", "api", &url])
            .await;
        until(SOON, "the ghost's address is refused", async || {
            let answer = api.get(CALLS).await;
            answer.status == 503 && answer.body.contains(said) && answer.body.contains("ghost")
        })
        .await;
    }
    assert!(listener.accept().is_err(), "a name was looked up and asked");
    // One that names a bridge is for that one alone.
    let misdirected = api
        .send("GET", CALLS, "Sipbridge-Node: ghost\r\n", "")
        .await;
    misdirected.problem(421, "misdirected");
    let own = api.send("GET", CALLS, "Sipbridge-Node: one\r\n", "").await;
    assert_eq!(own.expect(200), json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_shown_and_registered_by_the_bridge_that_holds_it() {
    let redis = Redis::start();
    let registrar = LocationServer::start(Keeps::One).await;
    let with_registrar = |setup: Setup| {
        let setup = setup.line_field("sipPassword", json!(null));
        setup.trunk(registrar.address.port())
    };
    let (one, two) = two(&redis, with_registrar).await;
    let (at_one, at_two) = (Api::of(&one), Api::of(&two));
    // So that it is at the other one, and stays there.
    let drain = "/api/admin/cluster/nodes/one/drain";
    assert_eq!(at_two.post_empty(drain).await.expect(202)["id"], "one");
    until(SOON * 2, "the line at the other bridge", async || {
        let lines = "/api/admin/telephony/phone-lines";
        let list = at_one.get(lines).await.expect(200);
        let listed = &list["items"][0];
        let leases: Vec<String> = redis.query(&["HVALS", "cluster:leases"]).await;
        let moves = leases.iter().any(|lease| lease.contains("from"));
        listed["state"] == "elsewhere" && listed["node"] == "two" && !moves
    })
    .await;
    let line = format!("/api/admin/telephony/phone-lines/{LINE}");
    for api in [&at_one, &at_two] {
        let shown = api.get(&line).await.expect(200);
        let state = (&shown["state"], &shown["node"]);
        assert_eq!(state, (&json!("registered"), &json!("two")));
        assert!(shown["expiresAt"].is_string(), "{shown}");
    }

    let before = Instant::now();
    let register = format!("{line}/register");
    let registered = at_one.post_empty(&register).await.expect(202);
    assert_eq!(registered["node"], "two");
    until(SOON, "a REGISTER", async || {
        !registrar.changes_since(before).is_empty()
    })
    .await;

    until(SOON, "the cluster as it is", async || {
        let health = cluster(&one).await;
        let nodes = health["nodes"].as_array().unwrap().iter();
        let nodes = nodes.map(|node| json!([node["id"], node["state"], node["lines"]]));
        let nodes: Vec<Value> = nodes.collect();
        assert_eq!(
            (&health["configured"], &health["cutOff"]),
            (&json!(true), &json!(false))
        );
        nodes == [json!(["one", "draining", 0]), json!(["two", "up", 1])]
            && health["linesWithoutHolder"] == 0
    })
    .await;
    let alone = Setup::new().args(&["--ws-target", "ws://127.0.0.1:9/x"]);
    let alone = alone.start().await;
    assert_eq!(cluster(&alone).await, json!({"configured": false}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lines_calls_are_counted_over_all_bridges() {
    let redis = Redis::start();
    let limited = |setup: Setup| setup.line_field("maxConcurrentCalls", json!(2));
    let (one, two) = two(&redis, limited).await;
    let _first = Caller::connect(one.sip(), NUMBER).await;
    let mut second = Caller::connect(two.sip(), NUMBER).await;
    for bridge in [&one, &two] {
        let (_, status) = try_call(bridge).await;
        assert_eq!(status, Some(486), "the line has its two calls");
        let health = bridge.health().await.json();
        assert_eq!(health["calls"]["refused"]["lineBusy"], 1);
        assert_eq!(health["calls"]["active"], 1);
    }
    second.bye().await;
    until(SOON, "the place is free at the other bridge", async || {
        let (_call, status) = try_call(&one).await;
        status == Some(200)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lines_dials_are_counted_over_all_bridges() {
    let (redis, phone) = (Redis::start(), Callee::open().await);
    let capped = |setup: Setup| {
        let setup = setup.line_field("sipDomain", json!(phone.local.to_string()));
        setup.args(&["--max-dials-per-hour", "2"])
    };
    let (one, two) = two(&redis, capped).await;
    let order = json!({"to": CALLER_NUMBER});
    for bridge in [&one, &two] {
        Api::of(bridge).post(CALLS, &order).await.expect(201);
    }
    for bridge in [&one, &two] {
        let refused = Api::of(bridge).post(CALLS, &order).await;
        refused.problem(429, "too-many");
        let after: u64 = refused.headers["retry-after"].parse().unwrap();
        assert!((3_500..3_700).contains(&after), "{after}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_placed_once_whichever_bridge_gets_the_request_again() {
    let (redis, phone) = (Redis::start(), Callee::open().await);
    let domain = json!(phone.local.to_string());
    let dialling = |setup: Setup| setup.line_field("sipDomain", domain.clone());
    let (one, two) = two(&redis, dialling).await;
    let headers = "Content-Type: application/json\r\nIdempotency-Key: order-1042\r\n";
    let place = async |bridge: &Bridge, to: &str| {
        let body = json!({"to": to}).to_string();
        Api::of(bridge).send("POST", CALLS, headers, &body).await
    };
    let first = place(&one, CALLER_NUMBER).await;
    let again = place(&two, CALLER_NUMBER).await;
    assert_eq!(again.expect(201)["sid"], first.expect(201)["sid"]);
    assert_eq!(again.headers["idempotency-replayed"], "true");
    assert_eq!(again.headers["location"], first.headers["location"]);
    let other = place(&two, "+33612345679").await;
    other.problem(422, "idempotency-key-reused");
    assert_eq!(list(&Api::of(&two)).await.len(), 1);
    assert_eq!(phone.requests("INVITE").len(), 1);

    one.process.signal("KILL");
    let third = setup("three", &redis).line_field("sipDomain", domain.clone());
    let third = third.start().await;
    together(&[&two, &third]).await;
    place(&third, CALLER_NUMBER).await.problem(409, "conflict");

    // Back under its name, it knows nothing of the request.
    let one = setup("one", &redis).line_field("sipDomain", domain.clone());
    let one = one.start().await;
    together(&[&one, &two, &third]).await;
    for bridge in [&one, &third] {
        place(bridge, CALLER_NUMBER).await.problem(409, "conflict");
    }
    assert_eq!(phone.requests("INVITE").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_bridge_of_one_name_does_not_touch_the_records_of_the_first() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let with_records = |name: &str| {
        let setup = setup(name, &redis).line_field("sipPassword", json!(null));
        setup.env("DATABASE_URL", &postgres.url())
    };
    let one = with_records("one").start().await;
    let two = with_records("two").start().await;
    together(&[&one, &two]).await;
    let _call = Caller::connect(one.sip(), NUMBER).await;
    let records = "/api/calls?all=1";
    let api = Api::of(&two);
    until(SOON, "the record is everybody's", async || {
        let page = api.get(records).await.expect(200);
        page["items"][0]["node"] == "one"
    })
    .await;
    let mut again = with_records("one").spawn();
    assert_ne!(again.exit(SOON * 3).await.code, Some(0));
    let page = api.get(records).await.expect(200);
    assert_eq!(page["items"][0]["endedAt"], Value::Null);
    let hang_up = path(&page["items"][0]);
    assert_eq!(api.delete(&hang_up).await.expect(200)["node"], "one");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_for_each_bridge_while_redis_is_away() {
    let mut redis = Redis::start();
    let limited = |setup: Setup| {
        let setup = setup.line_field("maxConcurrentCalls", json!(1));
        setup.args(&["--dispatch", "push", "--ws-target", "ws://127.0.0.1:9"])
    };
    let (one, two) = two(&redis, limited).await;
    redis.go_away();
    let mut calls = Vec::new();
    for bridge in [&one, &two] {
        let asked = Instant::now();
        calls.push(Caller::connect(bridge.sip(), NUMBER).await);
        assert!(
            asked.elapsed() < Duration::from_secs(1),
            "{:?}",
            asked.elapsed()
        );
        assert_eq!(try_call(bridge).await.1, Some(486));
    }
}
