//! The call API of the real program: calls placed to a phone that answers, is
//! busy, declines or lets it ring; ended, transferred, held; good and bad input.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::{LINE, NUMBER, Setup, line};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::postgres::Postgres;
use crate::harness::sip::Message;
use crate::harness::{Api, Bridge, Callee, Caller, Job, Redis, SOON, Worker, sound, until};

const CALLS: &str = "/api/calls";
const NOBODY: &str = "/api/calls/CA0123456789abcdef0123456789abcdef";

/// A bridge with a queue and a database, whose line calls this phone.
struct Stage {
    phone: Callee,
    redis: Redis,
    bridge: Bridge,
    api: Api,
    _data: TempDir,
}

impl Stage {
    async fn new() -> Self {
        Self::with(|setup| setup).await
    }

    async fn with(more: impl FnOnce(Setup) -> Setup) -> Self {
        let (redis, phone, data) = (
            Redis::start(),
            Callee::open().await,
            TempDir::new().unwrap(),
        );
        let folder = data.path().display().to_string();
        let setup = Setup::queue(&redis)
            .args(&["--data-dir", &folder])
            .line_field("sipDomain", json!(phone.local.to_string()));
        let bridge = more(setup).start().await;
        let api = Api::of(&bridge);
        Self {
            phone,
            redis,
            bridge,
            api,
            _data: data,
        }
    }

    /// Places a call; the answer is its path, and the INVITE.
    async fn place(&self, body: &Value) -> (String, Message) {
        let made = self.api.post(CALLS, body).await;
        let call = made.expect(201);
        assert_eq!(call["direction"], "outbound");
        assert_eq!(call["status"], "initiated");
        let path = format!("{CALLS}/{}", call["sid"].as_str().unwrap());
        assert_eq!(made.headers["location"], path);
        (path, self.phone.invited().await)
    }

    /// A placed call that was answered and has a worker.
    async fn connect(&self) -> (String, Message, Worker) {
        let (path, invite) = self.place(&json!({"to": CALLER_NUMBER})).await;
        self.phone.answer(&invite).await;
        let worker = Worker::serve(&self.redis).await;
        self.reaches(&path, "active").await;
        (path, invite, worker)
    }

    /// Waits for a status of a call; the answer is the call.
    async fn reaches(&self, path: &str, status: &str) -> Value {
        until(SOON, status, async || {
            self.api.get(path).await.expect(200)["status"] == status
        })
        .await;
        self.api.get(path).await.expect(200)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_of_a_call_become_headers_where_its_line_says_so() {
    let names =
        json!({"order": "X-Order-Id", "uui": "User-to-User", "shop": "X-Shop", "gone": "X-Gone"});
    let stage = Stage::with(|setup| {
        let setup = setup.line_field("sipHeaders", names);
        setup.line_field("customParameters", json!({"shop": "7", "menu": "summer"}))
    })
    .await;
    let params = json!({"order": "42; caf\u{e9}", "uui": "0a;encoding=hex", "secret": "s"});
    let body = json!({"to": CALLER_NUMBER, "customParams": params});
    let (_, invite) = stage.place(&body).await;
    assert_eq!(invite.header("X-Order-Id"), Some("42; caf\u{e9}"));
    assert_eq!(invite.header("User-to-User"), Some("0a;encoding=hex"));
    assert_eq!(invite.header("X-Shop"), Some("7"), "the line's own");
    assert_eq!(invite.header("X-Gone"), None);
    assert!(!invite.start.contains("summer"));
    stage.phone.answer(&invite).await;
    let worker = Worker::serve(&stage.redis).await;
    assert_eq!(
        worker.start()["start"]["customParameters"]["order"],
        "42; caf\u{e9}"
    );
    stage.phone.bye(&invite).await;

    // What could end the header's line places no call, and neither does what is too long.
    let long = "v".repeat(1_100);
    for value in ["1\r\nX-Evil: 2", "1\nX-Evil: 2", "1\0", long.as_str()] {
        let body = json!({"to": CALLER_NUMBER, "customParams": {"order": value}});
        let refused = stage.api.post(CALLS, &body).await;
        assert_eq!(refused.faulty(), ["customParams"], "{value:?}");
    }
    // Where no header is made of it, it is the worker's alone.
    let body = json!({"to": CALLER_NUMBER, "customParams": {"note": "1\r\n2"}});
    stage.api.post(CALLS, &body).await.expect(201);
    let next = stage.phone.invited_to_another(&invite).await;
    assert_eq!(next.header("X-Order-Id"), None);
    assert_eq!(next.header("X-Evil"), None);
    stage.phone.respond(&next, "486 Busy Here").await;

    // Changed like the line's parameters: key by key.
    let path = "/api/admin/telephony/phone-lines/line-1";
    let change = json!({"sipHeaders": {"order": null, "uui": null, "shop": "X-Store"}});
    let changed = stage.api.json("PATCH", path, &change).await.expect(200);
    let expected = json!({"shop": "X-Store", "gone": "X-Gone"});
    assert_eq!(changed["sipHeaders"], expected);
    let change = json!({"sipHeaders": {"a": "Route", "b": 7}});
    let refused = stage.api.json("PATCH", path, &change).await;
    assert_eq!(refused.faulty(), ["sipHeaders.a", "sipHeaders.b"]);
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_placed_streamed_and_kept() {
    let stage = Stage::new().await;
    let body = json!({"to": CALLER_NUMBER, "from": NUMBER, "phoneLineId": LINE,
        "customParams": {"order": "1042"}, "timeoutSec": 20});
    let (path, invite) = stage.place(&body).await;
    assert!(invite.start.contains(CALLER_NUMBER), "{}", invite.start);
    stage.phone.respond(&invite, "180 Ringing").await;
    let call = stage.reaches(&path, "ringing").await;
    assert_eq!(call["to"], CALLER_NUMBER);
    assert_eq!(call["phoneLineId"], LINE);
    assert_eq!(call["customParams"]["order"], "1042");
    assert_eq!(call["answeredAt"], Value::Null);
    assert_eq!(stage.api.get(CALLS).await.expect(200), json!([call]));

    let media = stage.phone.answer(&invite).await;
    let mut worker = Worker::serve(&stage.redis).await;
    let start = worker.start()["start"].clone();
    assert_eq!(
        path,
        format!("{CALLS}/{}", start["callSid"].as_str().unwrap())
    );
    assert_eq!(start["customParameters"]["order"], "1042");
    assert_eq!(start["customParameters"]["direction"], "outbound");
    stage.reaches(&path, "active").await;
    let question = sound::numbered(0, 40);
    stage.phone.rtp.player(media.media, 0).play(&question).await;
    worker.hears(&question.concat(), SOON).await;

    stage.phone.bye(&invite).await;
    let call = stage.reaches(&path, "completed").await;
    assert_eq!(call["outcome"], "callee-hung-up");
    assert!(call["endedAt"].is_string() && call["answeredAt"].is_string());
    for request in [
        stage.api.delete(&path).await,
        stage.api.post_empty(&format!("{path}/hold")).await,
    ] {
        request.problem(409, "conflict");
    }
    // The record says the same, and more.
    let records = format!("{CALLS}?all=1&line={LINE}&since=2026-01-01T00:00:00Z");
    until(SOON, "its record", async || {
        let page = stage.api.get(&records).await.expect(200);
        page["items"][0]["endedAt"].is_string()
    })
    .await;
    let page = stage.api.get(&records).await.expect(200);
    let record = &page["items"][0];
    assert_eq!(page["next"], Value::Null);
    for field in [
        "sid",
        "direction",
        "to",
        "status",
        "outcome",
        "phoneLineId",
        "restaurantId",
    ] {
        assert_eq!(record[field], call[field], "{field}");
    }
    assert_eq!(record["record"]["worker"], "queue");
    assert_eq!(record["record"]["audio"]["packetsReceived"], 40);
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_take_the_call_is_told_by_its_status() {
    for (answer, status) in [
        ("486 Busy Here", "busy"),
        ("603 Decline", "busy"),
        ("480 Temporarily Unavailable", "no-answer"),
        ("404 Not Found", "failed"),
    ] {
        let stage = Stage::new().await;
        let (path, invite) = stage.place(&json!({"to": CALLER_NUMBER})).await;
        stage.phone.respond(&invite, answer).await;
        let call = stage.reaches(&path, status).await;
        assert_eq!(call["sipStatus"], answer[..3].parse::<u16>().unwrap());
        assert_eq!(call["answeredAt"], Value::Null);
        stage.bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_phone_that_rings_too_long_is_cancelled_and_so_is_a_call_that_is_given_up() {
    let stage = Stage::new().await;
    let (path, invite) = stage
        .place(&json!({"to": CALLER_NUMBER, "timeoutSec": 1}))
        .await;
    stage.phone.respond(&invite, "180 Ringing").await;
    let call = stage.reaches(&path, "no-answer").await;
    assert_eq!(call["outcome"], "no-answer");
    assert_eq!(stage.phone.requests("CANCEL").len(), 1);
    stage.bridge.shut_down().await;

    let stage = Stage::new().await;
    let (path, invite) = stage.place(&json!({"to": CALLER_NUMBER})).await;
    stage.phone.respond(&invite, "180 Ringing").await;
    stage.reaches(&path, "ringing").await;
    let asked = stage.api.delete(&path).await.expect(200);
    assert!(path.ends_with(asked["sid"].as_str().unwrap()));
    let call = stage.reaches(&path, "cancelled").await;
    assert_eq!(call["outcome"], "cancelled");
    assert_eq!(stage.phone.requests("CANCEL").len(), 1);
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_transferred_by_refer() {
    let stage = Stage::new().await;
    let (path, invite, _worker) = stage.connect().await;
    let transfer = format!("{path}/transfer");
    for bad in [
        json!({}),
        json!({"destination": 7}),
        json!({"destination": " "}),
    ] {
        assert_eq!(
            stage.api.post(&transfer, &bad).await.faulty(),
            ["destination"]
        );
    }
    let wanted = json!({"destination": "+33155667788"});
    stage.api.post(&transfer, &wanted).await.expect(200);
    let refer = stage.phone.request("REFER").await;
    assert!(refer.header("Refer-To").unwrap().contains("+33155667788"));
    stage.phone.notify(&invite, "SIP/2.0 200 OK\r\n").await;
    let call = stage.reaches(&path, "transferred").await;
    assert_eq!(call["outcome"], "transferred");
    let output = stage.bridge.output();
    assert!(!output.contains("+33155667788") && !output.contains(CALLER_NUMBER));
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn digits_reach_the_phone_and_hang_up_ends_the_call() {
    let stage = Stage::new().await;
    let (path, _, _worker) = stage.connect().await;
    let dtmf = format!("{path}/dtmf");
    for bad in [
        json!({"digits": ""}),
        json!({"digits": "x"}),
        json!({"digits": 1}),
        json!([]),
    ] {
        let answer = stage.api.post(&dtmf, &bad).await;
        assert!(matches!(answer.status, 400 | 422), "{}", answer.body);
    }
    let more = json!({"digits": "1", "duration": 5});
    assert_eq!(stage.api.post(&dtmf, &more).await.faulty(), ["duration"]);
    stage
        .api
        .post(&dtmf, &json!({"digits": "5#"}))
        .await
        .expect(200);
    until(SOON, "events of both digits", async || {
        let events = stage.phone.rtp.heard().into_iter();
        let events: Vec<u8> = events
            .filter(|packet| packet.payload_type == 101)
            .map(|packet| packet.payload[0])
            .collect();
        events.contains(&5) && events.contains(&11)
    })
    .await;
    stage.api.delete(&path).await.expect(200);
    stage.phone.request("BYE").await;
    let call = stage.reaches(&path, "completed").await;
    assert_eq!(call["outcome"], "api-hung-up");
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_held_and_taken_back() {
    let stage = Stage::new().await;
    let (path, invite, mut worker) = stage.connect().await;
    stage
        .api
        .post_empty(&format!("{path}/hold"))
        .await
        .expect(200);
    let hold = stage.phone.invited_again(&invite).await;
    let held = stage.phone.answer_as(&hold, "recvonly").await;
    assert_eq!(held.direction, "sendonly");
    let is_on_hold = async |wanted: bool| {
        until(SOON, "on hold or not", async || {
            stage.api.get(&path).await.expect(200)["onHold"] == wanted
        })
        .await;
    };
    is_on_hold(true).await;
    stage
        .api
        .post_empty(&format!("{path}/resume"))
        .await
        .expect(200);
    let resume = stage.phone.invited_again(&hold).await;
    let media = stage.phone.answer(&resume).await;
    assert_eq!(media.direction, "sendrecv");
    is_on_hold(false).await;
    let question = sound::numbered(0, 20);
    stage.phone.rtp.player(media.media, 0).play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    stage.api.delete(&path).await.expect(200);
    stage.phone.request("BYE").await;
    stage.bridge.shut_down().await;
}

/// A hundred answers: one that overtakes its request shows in a few of them.
#[tokio::test(flavor = "multi_thread")]
async fn the_answer_to_hold_and_resume_shows_the_call_so() {
    let stage = Stage::new().await;
    let (path, _invite, _worker) = stage.connect().await;
    for _ in 0..50 {
        for (request, on_hold) in [("hold", true), ("resume", false)] {
            let answer = stage.api.post_empty(&format!("{path}/{request}")).await;
            assert_eq!(answer.expect(200)["onHold"], on_hold, "{request}");
        }
    }
    stage.api.delete(&path).await.expect(200);
    stage.phone.request("BYE").await;
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_came_in_is_listed_and_ended_here() {
    let stage = Stage::new().await;
    let call = Caller::connect(stage.bridge.sip(), NUMBER).await;
    let job = Job::take(&stage.redis).await;
    let path = format!("{CALLS}/{}", job.text("callId"));
    let _worker = Worker::attach(&job).await;
    let shown = stage.reaches(&path, "active").await;
    assert_eq!(shown["direction"], "inbound");
    assert_eq!(shown["from"], CALLER_NUMBER);
    assert_eq!(shown["to"], NUMBER);
    let list = stage.api.get(CALLS).await.expect(200);
    assert_eq!(list.as_array().unwrap().len(), 1);
    stage.api.delete(&path).await.expect(200);
    call.ended_by_bridge(SOON).await;
    stage.reaches(&path, "completed").await;
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_request_calls_nobody() {
    let second = line("line-2", "u2", "+33142000002");
    let stage = Stage::with(|setup| setup.line(second)).await;
    let request = json!({"from": 33, "customParams": {"a": 1}, "wsTarget": "http://h",
        "callbackUrl": "ftp://h", "timeoutSec": 601, "phoneLineId": [], "number": "1"});
    let mut faulty = stage.api.post(CALLS, &request).await.faulty();
    faulty.sort();
    let expected = [
        "callbackUrl",
        "customParams.a",
        "from",
        "number",
        "phoneLineId",
        "timeoutSec",
        "to",
        "wsTarget",
    ];
    assert_eq!(faulty, expected);
    let to = CALLER_NUMBER;
    for (request, field) in [
        (json!({"to": to}), "phoneLineId"),
        (json!({"to": to, "phoneLineId": "nobody"}), "phoneLineId"),
        (json!({"to": to, "from": "+33199999999"}), "from"),
        (
            json!({"to": to, "phoneLineId": "line-2", "from": NUMBER}),
            "from",
        ),
        (json!({"to": "", "phoneLineId": "line-2"}), "to"),
    ] {
        assert_eq!(stage.api.post(CALLS, &request).await.faulty(), [field]);
    }
    for (method, path) in [
        ("GET", NOBODY.to_owned()),
        ("DELETE", NOBODY.to_owned()),
        ("GET", format!("{CALLS}/nonsense")),
        ("POST", format!("{NOBODY}/hold")),
        ("POST", format!("{NOBODY}/resume")),
    ] {
        let answer = stage.api.send(method, &path, "", "").await;
        answer.problem(404, "not-found");
    }
    let digits = stage
        .api
        .post(&format!("{NOBODY}/dtmf"), &json!({"digits": "1"}))
        .await;
    digits.problem(404, "not-found");
    for (query, field) in [
        ("line=x", "line"),
        ("all=2", "all"),
        ("all=1&since=yesterday", "since"),
        ("all=1&after=x", "after"),
        ("all=1&limit=0", "limit"),
        ("all=1&page=1", "page"),
    ] {
        assert_eq!(
            stage.api.get(&format!("{CALLS}?{query}")).await.faulty(),
            [field]
        );
    }
    assert!(
        stage.phone.requests("INVITE").is_empty(),
        "somebody was called"
    );
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_come_page_by_page() {
    let stage = Stage::new().await;
    for _ in 0..3 {
        let mut call = Caller::connect(stage.bridge.sip(), NUMBER).await;
        call.bye().await;
    }
    until(SOON, "three records", async || {
        let page = stage.api.get(&format!("{CALLS}?all=1")).await.expect(200);
        let items = page["items"].as_array().unwrap();
        items.len() == 3 && items.iter().all(|call| call["endedAt"].is_string())
    })
    .await;
    let whole = stage
        .api
        .get(&format!("{CALLS}?all=true"))
        .await
        .expect(200);
    let first = stage
        .api
        .get(&format!("{CALLS}?all=1&limit=2"))
        .await
        .expect(200);
    let next = first["next"].as_str().unwrap();
    let rest = stage
        .api
        .get(&format!("{CALLS}?all=1&limit=2&after={next}"))
        .await
        .expect(200);
    assert_eq!(rest["next"], Value::Null);
    let mut items = first["items"].as_array().unwrap().clone();
    items.extend(rest["items"].as_array().unwrap().clone());
    assert_eq!(Value::Array(items), whole["items"]);
    let since = whole["items"][1]["createdAt"].as_str().unwrap();
    let later = stage
        .api
        .get(&format!("{CALLS}?all=1&since={since}"))
        .await
        .expect(200);
    assert_eq!(later["items"].as_array().unwrap().len(), 2);
    let nothing = stage
        .api
        .get(&format!("{CALLS}?all=1&since=2099-01-01T00:00:00+02:00"))
        .await;
    assert_eq!(nothing.expect(200)["items"], json!([]));
    let nothing = stage
        .api
        .get(&format!("{CALLS}?all=1&line=x"))
        .await
        .expect(200);
    assert_eq!(nothing["items"], json!([]));
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_goes_down_places_no_call() {
    let stage = Stage::with(|setup| setup.args(&["--drain-timeout", "20"])).await;
    let call = Caller::connect(stage.bridge.sip(), NUMBER).await;
    stage.bridge.process.signal("TERM");
    until(SOON, "draining", async || {
        stage.bridge.health().await.json()["status"] == "draining"
    })
    .await;
    let answer = stage.api.post(CALLS, &json!({"to": CALLER_NUMBER})).await;
    answer.problem(503, "unavailable");
    assert!(answer.headers["retry-after"].parse::<u32>().unwrap() > 0);
    let mut call = call;
    call.bye().await;
    let mut bridge = stage.bridge;
    bridge.exit(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_another_bridge_is_not_called_over() {
    let (redis, postgres) = (Redis::start(), Postgres::start());
    let setup = |node: &str| {
        let setup = Setup::queue(&redis).args(&["--node-id", node, "--cluster", "off"]);
        setup.args(&["--database-url", &postgres.url()])
    };
    let (bridge, other) = (setup("node-a").start().await, setup("node-b").start().await);
    let api = Api::of(&bridge);
    let mut caller = Caller::connect(other.sip(), NUMBER).await;
    let path = format!("{CALLS}/{}", Job::take(&redis).await.text("callId"));
    until(SOON, "its record", async || {
        api.get(&path).await.status == 200
    })
    .await;
    let destination = json!({"destination": CALLER_NUMBER});
    for answer in [
        api.delete(&path).await,
        api.post_empty(&format!("{path}/hold")).await,
        api.post(&format!("{path}/transfer"), &destination).await,
    ] {
        let problem = answer.problem(409, "conflict");
        assert_eq!(
            problem["detail"],
            "the call is at the bridge \"node-b\": ask that one"
        );
    }
    caller.bye().await;
    until(SOON, "its end", async || {
        api.get(&path).await.expect(200)["endedAt"].is_string()
    })
    .await;
    let problem = api.delete(&path).await.problem(409, "conflict");
    assert_eq!(problem["detail"], "the call is over");
    bridge.shut_down().await;
    other.shut_down().await;
}
