//! Callbacks of the real bridge to a real HTTP receiver: status callbacks,
//! kept over a restart; the incoming callback; signed upgrades.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_tungstenite::tungstenite::handshake::server;

use crate::harness::bridge::{LINE, NUMBER, RESTAURANT, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::free_port;
use crate::harness::receiver::{Receiver, Reply, Request, assert_signed, python_signature};
use crate::harness::sdp::Offer;
use crate::harness::worker::QUEUE;
use crate::harness::{Api, Bridge, Callee, Caller, Job, Redis, SOON, Worker, until};

const TOKEN: &str = "auth-t0ken-of-the-tests";

/// A bridge with a queue that tells `/status` of its calls.
fn telling(redis: &Redis, receiver: &Receiver) -> Setup {
    Setup::queue(redis)
        .args(&[
            "--status-callback-url",
            &receiver.url("/status?key=s3cret-key"),
            "--allow-callback",
            "127.0.0.0/8",
        ])
        .env("AUTH_TOKEN", TOKEN)
}

/// A bridge with a queue that asks `/incoming`.
fn asking(redis: &Redis, receiver: &Receiver) -> Setup {
    telling(redis, receiver).args(&["--incoming-callback-url", &receiver.url("/incoming")])
}

fn events(requests: &[Request]) -> Vec<String> {
    requests.iter().map(Request::event).collect()
}

fn last_status(requests: &[Request]) -> Value {
    requests.last().unwrap().json()["status"].clone()
}

async fn queued(redis: &Redis) -> i64 {
    redis.query::<i64>(&["LLEN", QUEUE]).await
}

fn assert_silent(bridge: &Bridge) {
    let output = bridge.output();
    for secret in [TOKEN, "s3cret-key", NUMBER, CALLER_NUMBER] {
        assert!(
            !output.contains(secret),
            "a secret or a number is in the log"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_told_from_its_first_ring_to_its_end() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    // Nobody is there: a bridge that asked it would deliver nothing.
    let proxy = format!("http://127.0.0.1:{}", free_port());
    let bridge = telling(&redis, &receiver)
        .args(&["--answer", "on-worker"])
        .env("http_proxy", &proxy)
        .env("RUST_LOG", "trace")
        .start()
        .await;
    assert!(
        bridge.output().contains("kept in memory only"),
        "no database"
    );
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    call.provisional(180).await;
    let job = Job::take(&redis).await;
    let mut worker = Worker::attach(&job).await;
    call.answered().await;
    receiver.receives("/status", 3).await;
    call.bye().await;
    worker.listen_to_end().await;
    let told = receiver.receives("/status", 4).await;
    assert_eq!(
        events(&told),
        ["initiated", "ringing", "answered", "completed"]
    );
    for (index, request) in told.iter().enumerate() {
        assert_signed(request, TOKEN, &receiver.url(""));
        assert_eq!(request.query()["key"], "s3cret-key");
        let object = request.json();
        assert_eq!(object["sequence"], index);
        assert_eq!(object["sid"], job.text("callId"));
        assert_eq!(object["direction"], "inbound");
        assert_eq!(
            (&object["from"], &object["to"]),
            (&json!(CALLER_NUMBER), &json!(NUMBER))
        );
        assert_eq!(
            (&object["phoneLineId"], &object["restaurantId"]),
            (&json!(LINE), &json!(RESTAURANT))
        );
    }
    let last = told[3].json();
    assert_eq!(
        (&last["status"], &last["outcome"]),
        (&json!("completed"), &json!("caller-hung-up"))
    );
    assert!(last["endedAt"].is_string() && told[2].json()["answeredAt"].is_string());
    assert_silent(&bridge);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_has_the_call_in_its_query_and_shows_nothing_in_the_log() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    let bridge = telling(&redis, &receiver)
        .args(&["--callback-method", "GET"])
        .env("RUST_LOG", "trace")
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.bye().await;
    let told = receiver.receives("/status", 3).await;
    assert_eq!(events(&told), ["initiated", "answered", "completed"]);
    for request in &told {
        assert_eq!(
            (request.method.as_str(), request.query()["from"].as_str()),
            ("GET", CALLER_NUMBER)
        );
        assert_signed(request, TOKEN, &receiver.url(""));
    }
    assert_silent(&bridge);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_fails_or_is_away_gets_everything_later_in_order() {
    let (redis, port) = (Redis::start(), free_port());
    let url = format!("http://127.0.0.1:{port}/status");
    let bridge = Setup::queue(&redis)
        .args(&["--status-callback-url", &url])
        .start()
        .await;
    let started = Instant::now();
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "nobody waits for it"
    );
    call.bye().await;
    until(SOON, "refused connections are told", async || {
        bridge.output().contains("status callback failed")
    })
    .await;
    let receiver = Receiver::start_at(port, None).await;
    receiver.script("/status", [Reply::status(500), Reply::status(200)]);
    let told = receiver.receives("/status", 4).await;
    assert_eq!(
        events(&told),
        ["initiated", "initiated", "answered", "completed"]
    );
    assert!(
        told[1].at - told[0].at > Duration::from_millis(790),
        "a pause"
    );
    assert_eq!(last_status(&told), "completed");
    bridge.shut_down().await;
    assert_eq!(receiver.requests().len(), 4, "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_killed_bridge_could_not_deliver_comes_from_its_successor() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let receiver = Receiver::start().await;
    receiver.script("/status", [Reply::status(500)]);
    let data = dir.path().join("data");
    let setup = || telling(&redis, &receiver).args(&["--data-dir", data.to_str().unwrap()]);
    let mut bridge = setup().start().await;
    let mut ended = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    ended.bye().await;
    let _died = Caller::connect(bridge.sip(), NUMBER).await;
    let lost = Job::take(&redis).await;
    let path = data.join("sipbridge.db");
    let count = |table: &str| {
        let output = std::process::Command::new("sqlite3")
            .arg(&path)
            .arg(format!("SELECT COUNT(*) FROM {table}"))
            .output()
            .unwrap();
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    until(SOON, "all are kept", async || {
        count("callbacks") == "5" && count("callbacks_owed") == "1"
    })
    .await;
    bridge.process.signal("KILL");
    bridge.exit(SOON).await;

    receiver.script("/status", [Reply::status(200)]);
    let before = receiver.requests().len();
    let bridge = setup().start().await;
    receiver.receives("/status", before + 6).await;
    let told = receiver.requests().split_off(before);
    let of = |sid: &str| -> Vec<Request> {
        let own = told.iter().filter(|request| request.sid() == sid);
        own.cloned().collect()
    };
    assert_eq!(
        events(&of(job.text("callId"))),
        ["initiated", "answered", "completed"]
    );
    let lost = of(lost.text("callId"));
    assert_eq!(events(&lost), ["initiated", "answered", "completed"]);
    let last = lost[2].json();
    assert_eq!(
        (&last["status"], &last["outcome"]),
        (&json!("failed"), &json!("bridge-lost"))
    );
    assert!(last["endedAt"].is_string());
    for request in &told {
        assert_signed(request, TOKEN, &receiver.url(""));
    }
    bridge.shut_down().await;
    assert_eq!(
        (count("callbacks"), count("callbacks_owed")),
        ("0".into(), "0".into())
    );
    assert_eq!(receiver.requests().len(), before + 6, "each once");
}

/// The record of a call's end and its last callback are written apart: the
/// bridge may die between the two.
#[tokio::test(flavor = "multi_thread")]
async fn a_bridge_that_dies_just_after_a_call_still_tells_its_end() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let receiver = Receiver::start().await;
    receiver.script("/status", [Reply::status(500)]);
    let data = dir.path().join("data");
    let setup = || telling(&redis, &receiver).args(&["--data-dir", data.to_str().unwrap()]);
    let mut bridge = setup().start().await;
    let path = data.join("sipbridge.db");
    let sql = |sql: &str| {
        let mut sqlite = std::process::Command::new("sqlite3");
        let output = sqlite.args(["-cmd", ".timeout 5000"]).arg(&path).arg(sql);
        let output = output.output().unwrap();
        assert!(output.status.success(), "{sql}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    sql(
        "CREATE TRIGGER lost BEFORE INSERT ON callbacks WHEN NEW.event = 'completed' \
         BEGIN SELECT RAISE(ABORT, 'lost'); END",
    );
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let mut worker = Worker::attach(&job).await;
    call.bye().await;
    worker.listen_to_end().await;
    until(SOON, "the record has its end", async || {
        sql("SELECT outcome FROM calls") == "caller-hung-up"
    })
    .await;
    until(SOON, "the rest is kept", async || {
        sql("SELECT COUNT(*) FROM callbacks") == "2"
    })
    .await;
    bridge.process.signal("KILL");
    bridge.exit(SOON).await;
    sql("DROP TRIGGER lost");

    receiver.script("/status", [Reply::status(200)]);
    let before = receiver.requests().len();
    let bridge = setup().start().await;
    receiver.receives("/status", before + 3).await;
    let told = receiver.requests().split_off(before);
    assert_eq!(events(&told), ["initiated", "answered", "completed"]);
    let last = told[2].json();
    assert_eq!(
        (&last["status"], &last["outcome"], &last["sequence"]),
        (&json!("completed"), &json!("caller-hung-up"), &json!(2))
    );
    assert_eq!(last["sipStatus"], 200);
    let ended = sql("SELECT ended_at FROM calls");
    let ended = Duration::from_millis(ended.parse().unwrap());
    let ended = sipbridge::core::timestamp::rfc3339_ms(std::time::UNIX_EPOCH + ended);
    assert_eq!(last["endedAt"], ended);
    bridge.shut_down().await;
    assert_eq!(
        sql("SELECT (SELECT COUNT(*) FROM callbacks) + (SELECT COUNT(*) FROM callbacks_owed)"),
        "0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn going_down_waits_briefly_and_leaves_the_rest_to_the_next_start() {
    let (redis, dir) = (Redis::start(), TempDir::new().unwrap());
    let receiver = Receiver::start().await;
    receiver.script(
        "/status",
        [Reply::status(200).after(Duration::from_secs(60))],
    );
    let setup = || {
        let data = dir.path().join("data");
        telling(&redis, &receiver).args(&["--data-dir", data.to_str().unwrap()])
    };
    let bridge = setup().start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.bye().await;
    receiver.receives("/status", 1).await;
    let started = Instant::now();
    bridge.shut_down().await;
    assert!(
        started.elapsed() < Duration::from_secs(8),
        "{:?}",
        started.elapsed()
    );
    receiver.script("/status", [Reply::status(200)]);
    let bridge = setup().start().await;
    let told = receiver.receives("/status", 4).await;
    assert_eq!(events(&told)[1..], ["initiated", "answered", "completed"]);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_accepted_call_takes_what_the_answer_gives_it() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ws_target = format!("ws://u:p@{}/own?x=1", own.local_addr().unwrap());
    receiver.script(
        "/incoming",
        [
            Reply::json(json!({"action": "accept", "callbackUrl": receiver.url("/own"),
                "customParams": {"menu": "lunch", "vip": true, "to": "forged", "callerPhone": "forged",
                    "direction": "forged", "phoneLineId": "forged", "restaurantId": "forged"}})),
            Reply::json(json!({"action": "accept", "wsTarget": ws_target})),
            Reply::json(json!({"action": "accept", "wsTarget": "http://no", "callbackUrl": "no"})),
        ],
    );
    let bridge = asking(&redis, &receiver).start().await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let job = Job::take(&redis).await;
    let asked = receiver.receives("/incoming", 1).await.remove(0);
    assert_signed(&asked, TOKEN, &receiver.url(""));
    assert_eq!(
        (asked.event(), asked.sid()),
        ("incoming".into(), job.text("callId").into())
    );
    assert_eq!(asked.json()["status"], "initiated");
    let mut worker = Worker::attach(&job).await;
    for parameters in [
        &job.json["customParameters"],
        &worker.start()["start"]["customParameters"],
    ] {
        assert_eq!(
            (&parameters["menu"], &parameters["vip"]),
            (&json!("lunch"), &json!("true"))
        );
        assert_eq!(
            (&parameters["to"], &parameters["callerPhone"]),
            (&json!(NUMBER), &json!(CALLER_NUMBER))
        );
        assert_eq!(
            (&parameters["direction"], &parameters["phoneLineId"]),
            (&json!("inbound"), &json!(LINE))
        );
        assert_eq!(parameters["restaurantId"], RESTAURANT);
    }
    call.bye().await;
    worker.listen_to_end().await;
    let told = receiver.receives("/own", 3).await;
    assert_eq!(events(&told), ["initiated", "answered", "completed"]);
    assert_eq!(told[0].json()["customParams"]["menu"], "lunch");
    assert!(
        receiver.requests_for("/status").is_empty(),
        "the call's own address wins"
    );

    // A worker of its own is dialled, signed; Redis sees no job.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let (mut worker, signature) = accept_signed(&own).await;
    let signed = format!("ws://{}/own?x=1", own.local_addr().unwrap());
    assert_eq!(
        signature.as_deref(),
        Some(python_signature(TOKEN, &signed).as_str())
    );
    assert_eq!(queued(&redis).await, 0);
    call.bye().await;
    worker.listen_to_end().await;

    // What cannot be used is left out, and the call goes on.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    assert!(
        bridge
            .output()
            .contains("wsTarget in the incoming callback's answer is left out")
    );
    call.bye().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

/// As [`Worker::accept`], with the signature of the upgrade.
async fn accept_signed(listener: &TcpListener) -> (Worker, Option<String>) {
    let accepted = tokio::time::timeout(SOON, listener.accept()).await;
    let (stream, _) = accepted.expect("the bridge dials").unwrap();
    let mut signature = None;
    // The type is the callback's of tungstenite.
    #[expect(clippy::result_large_err, reason = "the callback's type is given")]
    let look = |request: &server::Request, response: server::Response| {
        let header = request.headers().get("X-Twilio-Signature");
        signature = header.map(|value| value.to_str().unwrap().to_owned());
        Ok(response)
    };
    let socket = tokio_tungstenite::accept_hdr_async(stream, look)
        .await
        .unwrap();
    (Worker::greeted_over(socket).await, signature)
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrades_to_the_worker_of_all_calls_are_signed_too() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("ws://{}/media?key=1", listener.local_addr().unwrap());
    let bridge = Setup::new()
        .args(&["--ws-target", &url])
        .env("AUTH_TOKEN", TOKEN)
        .start()
        .await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let (mut worker, signature) = accept_signed(&listener).await;
    assert_eq!(
        signature.as_deref(),
        Some(python_signature(TOKEN, &url).as_str())
    );
    call.bye().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_call_gets_the_status_that_was_said_and_no_job() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    receiver.script(
        "/incoming",
        [
            Reply::json(json!({"action": "reject", "statusCode": 486})),
            Reply::json(json!({"action": "reject", "statusCode": 200})),
        ],
    );
    let bridge = asking(&redis, &receiver).start().await;
    for expected in [486, 603] {
        let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
        assert_eq!(call.final_response().await.status(), Some(expected));
        assert!(!call.provisional.contains(&180), "{:?}", call.provisional);
    }
    let told = receiver.receives("/status", 4).await;
    let completed: Vec<Value> = told
        .iter()
        .map(Request::json)
        .filter(|object| object["event"] == "completed")
        .collect();
    assert_eq!(completed.len(), 2);
    for (object, status) in completed.iter().zip([486, 603]) {
        assert_eq!(
            (&object["status"], &object["outcome"]),
            (&json!("busy"), &json!("refused"))
        );
        assert_eq!(object["sipStatus"], status);
    }
    assert_eq!(queued(&redis).await, 0);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_call_rings_elsewhere_until_somebody_gives_up() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    receiver.script("/incoming", [Reply::json(json!({"action": "ignore"}))]);
    let bridge = asking(&redis, &receiver)
        .args(&["--worker-timeout", "3"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    receiver.receives("/incoming", 1).await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    call.cancel().await;
    assert!(!call.provisional.contains(&180));
    let told = receiver.receives("/status", 2).await;
    assert_eq!(last_status(&told), "cancelled");

    let started = Instant::now();
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    assert_eq!(call.final_response().await.status(), Some(480));
    assert!(started.elapsed() > Duration::from_millis(2_900));
    assert!(!call.provisional.contains(&180));
    let told = receiver.receives("/status", 4).await;
    assert_eq!(events(&told[2..]), ["initiated", "completed"]);
    assert_eq!(last_status(&told), "no-answer");
    assert_eq!(queued(&redis).await, 0);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_or_broken_receiver_costs_no_call() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    receiver.script(
        "/incoming",
        [
            Reply::json(json!({"action": "reject"})).after(Duration::from_secs(30)),
            Reply::status(500),
            Reply::json(json!({"action": "dance"})),
            Reply::status(302).header("Location: /status"),
        ],
    );
    let bridge = asking(&redis, &receiver)
        .args(&["--callback-timeout", "2"])
        .start()
        .await;
    for (index, limit) in [(0, 5), (1, 2), (2, 2), (3, 2)] {
        let started = Instant::now();
        let mut call = Caller::connect(bridge.sip(), NUMBER).await;
        let mut worker = Worker::serve(&redis).await;
        let took = started.elapsed();
        assert!(took < Duration::from_secs(limit), "{index}: {took:?}");
        call.bye().await;
        worker.listen_to_end().await;
    }
    let output = bridge.output();
    assert!(output.contains("did not answer within 2000 ms"), "{output}");
    assert_eq!(
        output.matches("gave no usable answer").count(),
        1,
        "said seldom"
    );
    assert_silent(&bridge);
    drop(receiver);
    // Nobody is there at all.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    Job::take(&redis).await;
    call.bye().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_during_the_question_is_gone_at_once() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    receiver.script(
        "/incoming",
        [Reply::json(json!({"action": "accept"})).after(Duration::from_secs(30))],
    );
    let bridge = asking(&redis, &receiver)
        .args(&["--callback-timeout", "20"])
        .start()
        .await;
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    receiver.receives("/incoming", 1).await;
    let started = Instant::now();
    call.cancel().await;
    let told = receiver.receives("/status", 2).await;
    assert!(started.elapsed() < Duration::from_secs(5), "at once");
    assert_eq!(events(&told), ["initiated", "completed"]);
    let last = told[1].json();
    assert_eq!(
        (&last["status"], &last["outcome"]),
        (&json!("cancelled"), &json!("abandoned"))
    );
    assert_eq!(queued(&redis).await, 0);
    // And so is a question that is open when the bridge goes down.
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    receiver.receives("/incoming", 2).await;
    call.cancel().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_we_place_tells_its_own_address_and_nobody_is_asked() {
    let (redis, receiver) = (Redis::start(), Receiver::start().await);
    receiver.script("/incoming", [Reply::json(json!({"action": "reject"}))]);
    let phone = Callee::open().await;
    let own = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let ws_target = format!("ws://{}/own", own.local_addr().unwrap());
    let bridge = asking(&redis, &receiver)
        .line_field("sipDomain", json!(phone.local.to_string()))
        .start()
        .await;
    let api = Api::of(&bridge);
    let order = json!({"to": CALLER_NUMBER, "phoneLineId": LINE, "wsTarget": ws_target,
        "callbackUrl": receiver.url("/own"), "customParams": {"order": "1042"}});
    let call = api.post("/api/calls", &order).await.expect(201);
    let invite = phone.invited().await;
    phone.respond(&invite, "180 Ringing").await;
    receiver.receives("/own", 2).await;
    phone.answer(&invite).await;
    let (mut worker, signature) = accept_signed(&own).await;
    assert_eq!(
        signature.as_deref(),
        Some(python_signature(TOKEN, &ws_target).as_str())
    );
    receiver.receives("/own", 3).await;
    phone.bye(&invite).await;
    worker.listen_to_end().await;
    let told = receiver.receives("/own", 4).await;
    assert_eq!(
        events(&told),
        ["initiated", "ringing", "answered", "completed"]
    );
    for request in &told {
        assert_signed(request, TOKEN, &receiver.url(""));
        assert_eq!(request.sid(), call["sid"].as_str().unwrap());
        assert_eq!(request.json()["direction"], "outbound");
        assert_eq!(request.json()["customParams"]["order"], "1042");
    }
    assert_eq!(last_status(&told), "completed");
    assert_eq!(receiver.requests().len(), 4, "nobody else is told or asked");
    bridge.shut_down().await;
}
