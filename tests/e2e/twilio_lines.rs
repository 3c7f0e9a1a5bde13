//! Numbers that stay at Twilio: Twilio's webhook brings a call, its stream is the caller's leg, and all else is as for any
//! call: the job, the worker, another worker when one is lost, hang-up and transfer.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::{KEY, PASSWORD, Setup, encrypt};
use crate::harness::peers::free_port;
use crate::harness::twilio::{ACCOUNT, CALLER, PUBLIC_URL, TOKEN, Twilio, TwilioCall, stream_url};
use crate::harness::{Api, Bridge, Job, Redis, SOON, Worker, http, sound, until};

pub const LINE: &str = "twilio-1";
const NUMBER: &str = "+33142000001";
const LINES: &str = "/api/admin/telephony/phone-lines";

pub fn line() -> Value {
    json!({"id": LINE, "provider": "twilio", "phoneNumber": NUMBER, "restaurantId": "resto-9",
        "twilioAuthToken": encrypt(LINE, TOKEN), "customParameters": {"lang": "fr"}})
}

fn setup(redis: &Redis, twilio: &Twilio) -> Setup {
    let port = free_port().to_string();
    let api = twilio.rest.url("");
    Setup::queue(redis)
        .args(&["--stream-port", &port])
        .args(&["--stream-url", &format!("ws://127.0.0.1:{port}")])
        .args(&["--public-url", PUBLIC_URL, "--twilio-api-url", &api])
}

struct Stage {
    redis: Redis,
    twilio: Twilio,
    bridge: Bridge,
    api: Api,
}

async fn stage(change: impl FnOnce(Setup) -> Setup) -> Stage {
    let redis = Redis::start();
    let twilio = Twilio::start().await;
    let bridge = change(setup(&redis, &twilio).line(line())).start().await;
    let api = Api::of(&bridge);
    Stage {
        redis,
        twilio,
        bridge,
        api,
    }
}

impl Stage {
    /// A call, and its worker.
    async fn talks(&self) -> (TwilioCall, Worker) {
        let call = self.twilio.call(&self.api, LINE).await;
        let worker = Worker::serve(&self.redis).await;
        (call, worker)
    }

    async fn outcome(&self, call: &str) -> Value {
        let path = format!("/api/calls/{call}");
        until(SOON, "the call is over", async || {
            // It is listed once its driver has begun.
            let call = self.api.get(&path).await;
            call.status == 200 && !call.json()["outcome"].is_null()
        })
        .await;
        self.api.get(&path).await.expect(200)["outcome"].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_twilios_is_a_call_like_any_other() {
    let stage = stage(|setup| setup).await;
    let mut call = stage.twilio.call(&stage.api, LINE).await;
    let job = Job::take(&stage.redis).await;
    let mut worker = Worker::attach(&job).await;
    assert_eq!(worker.call_sid, call.sid, "Twilio's own id");
    let parameters = &worker.start()["start"]["customParameters"];
    for (name, value) in [
        ("callerPhone", CALLER),
        ("to", NUMBER),
        ("direction", "inbound"),
        ("phoneLineId", LINE),
        ("restaurantId", "resto-9"),
        ("lang", "fr"),
    ] {
        assert_eq!(parameters[name], value, "{name}");
    }

    let question = sound::numbered(100, 50);
    let reply = sound::numbered(5_000, 50).concat();
    worker.media(&reply);
    worker.mark("said");
    call.says(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.hears(&reply).await;
    assert_eq!(worker.next_of("mark").await.json["mark"]["name"], "said");
    call.presses("5").await;
    assert_eq!(worker.next_of("dtmf").await.json["dtmf"]["digit"], "5");

    // What is cleared is not heard, and its mark comes back at once.
    let dropped = sound::numbered(9_000, 500).concat();
    worker.media(&dropped);
    worker.mark("dropped");
    worker.clear();
    assert_eq!(worker.next_of("mark").await.json["mark"]["name"], "dropped");
    assert!(!call.has_heard(&dropped[dropped.len() - 1_600..]));

    let sid = call.sid.clone();
    call.hangs_up().await;
    worker.listen_to_end().await;
    worker.assert_numbered();
    assert_eq!(stage.outcome(&sid).await, "caller-hung-up");
    assert!(stage.twilio.rest.requests().is_empty(), "Twilio knows");
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_worker_is_replaced() {
    let stage = stage(|setup| setup).await;
    let (mut call, first) = stage.talks().await;
    drop(first);
    let mut second = Worker::serve(&stage.redis).await;
    assert_eq!(second.call_sid, call.sid);
    let reply = sound::numbered(700, 50).concat();
    second.media(&reply);
    call.hears(&reply).await;
    let question = sound::numbered(100, 50);
    call.says(&question).await;
    second.hears(&question.concat(), SOON).await;
    call.hangs_up().await;
    second.listen_to_end().await;
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_ended_and_transferred_by_twilios_api() {
    let stage = stage(|setup| setup).await;
    // The worker hangs up, once what it said has been heard.
    let (mut call, worker) = stage.talks().await;
    let words = sound::numbered(3_000, 25).concat();
    worker.media(&words);
    worker.send(&json!({"event": "hangup"}));
    let form = stage.twilio.asked(&call.sid, 1).await;
    assert_eq!(form["Status"], "completed");
    assert!(call.has_heard(&words));
    call.is_closed().await;
    assert_eq!(stage.outcome(&call.sid).await, "worker-hung-up");

    // The API does; that Twilio knows nothing of the call any more is no failure.
    let (mut call, _worker) = stage.talks().await;
    stage.twilio.answers(&call.sid, 404);
    let path = format!("/api/calls/{}", call.sid);
    assert!(stage.api.delete(&path).await.status < 300);
    assert_eq!(
        stage.twilio.asked(&call.sid, 1).await["Status"],
        "completed"
    );
    call.is_closed().await;
    assert_eq!(stage.outcome(&call.sid).await, "api-hung-up");

    // A transfer that Twilio refuses changes nothing; one that it takes ends the stream.
    let (mut call, worker) = stage.talks().await;
    stage.twilio.answers(&call.sid, 400);
    let transfer = json!({"event": "transfer", "transfer": {"destination": "+33699887766"}});
    worker.send(&transfer);
    let form = stage.twilio.asked(&call.sid, 1).await;
    assert_eq!(
        form["Twiml"],
        "<Response><Dial>+33699887766</Dial></Response>"
    );
    let words = sound::numbered(4_000, 25).concat();
    worker.media(&words);
    call.hears(&words).await;
    stage.twilio.answers(&call.sid, 200);
    let transfer = json!({"destination": "sip:bar@pbx.example.com"});
    let path = format!("/api/calls/{}/transfer", call.sid);
    stage
        .api
        .post(&path, &transfer)
        .await
        .problem(403, "not-allowed");
    let transfer = json!({"destination": "+33699887766"});
    stage.api.post(&path, &transfer).await.expect(200);
    stage.twilio.asked(&call.sid, 2).await;
    assert_eq!(stage.outcome(&call.sid).await, "transferred");
    let requests = stage.twilio.rest.requests_for(&Twilio::path(&call.sid));
    call.is_closed().await;
    assert_eq!(
        requests.len(),
        2,
        "what Twilio does with it now is not ended"
    );
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_else_gets_a_call_or_a_stream() {
    let stage = stage(|setup| {
        let other = json!({"id": "twilio-2", "provider": "twilio", "phoneNumber": "+33142000002",
            "twilioAuthToken": "the-other-t0ken"});
        setup.line(other)
    })
    .await;
    let sid = Twilio::new_call();
    for (line, token) in [
        (LINE, "wrong"),
        (LINE, "the-other-t0ken"),
        ("twilio-2", TOKEN),
        ("line-1", TOKEN),
        ("none", TOKEN),
    ] {
        let answer = Twilio::asks(&stage.api, line, &sid, token).await;
        answer.problem(403, "not-allowed");
    }
    let unsigned = stage
        .api
        .post_empty(&format!("/webhooks/voice/{LINE}"))
        .await;
    unsigned.problem(403, "not-allowed");
    let form = [("CallSid", "CA1"), ("AccountSid", ACCOUNT)];
    let answer = Twilio::asks_with(&stage.api, LINE, &form, TOKEN).await;
    assert_eq!(answer.faulty(), ["CallSid"]);

    // The stream's address is good once, and for this call alone.
    let answer = Twilio::asks(&stage.api, LINE, &sid, TOKEN).await;
    let url = stream_url(&answer);
    Twilio::asks(&stage.api, LINE, &sid, TOKEN)
        .await
        .problem(409, "conflict");
    let path = url.split_once("://").unwrap().1.split_once('/').unwrap().1;
    let (before, token) = path.rsplit_once('/').unwrap();
    for (path, status) in [
        (format!("/{before}/{}", "0".repeat(32)), 401),
        (
            format!("/twilio-stream/{}/{token}", Twilio::new_call()),
            404,
        ),
        (format!("/media-stream/{sid}?token={token}"), 404),
        (format!("/twilio-stream/{sid}"), 404),
    ] {
        let refused = http::upgrade(stage.bridge.stream_port, &path).await;
        assert_eq!(
            refused.map(|it| it.status),
            None,
            "the port is another: {path}"
        );
        let refused = http::upgrade(port_of(&url), &path).await.unwrap();
        // Its worker's attempt is known under the same id.
        let is_worker = path.starts_with("/media-stream") && refused.status == 401;
        assert!(
            refused.status == status || is_worker,
            "{path}: {}",
            refused.status
        );
    }
    let call = TwilioCall::connect(&url, &sid).await;
    let mut worker = Worker::serve(&stage.redis).await;
    let again = http::upgrade(port_of(&url), &format!("/{path}"))
        .await
        .unwrap();
    assert!(matches!(again.status, 409 | 410), "{}", again.status);
    call.hangs_up().await;
    worker.listen_to_end().await;
    assert!(
        !stage.bridge.output().contains(TOKEN),
        "no token in the log"
    );
    stage.bridge.shut_down().await;
}

fn port_of(url: &str) -> u16 {
    url::Url::parse(url).unwrap().port().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_no_twilios_or_never_comes_ends_its_call() {
    let stage = stage(|setup| setup).await;
    // Twilio never opens it: the caller is gone.
    let never = Twilio::new_call();
    Twilio::asks(&stage.api, LINE, &never, TOKEN).await;
    // It begins with nonsense, and then with nothing.
    let sid = Twilio::new_call();
    let url = stream_url(&Twilio::asks(&stage.api, LINE, &sid, TOKEN).await);
    let _foreign = TwilioCall::connect(&url, "no call").await;
    // It begins another call's.
    let foreign = Twilio::new_call();
    let url = stream_url(&Twilio::asks(&stage.api, LINE, &foreign, TOKEN).await);
    let _other = TwilioCall::connect(&url, &Twilio::new_call()).await;
    assert_eq!(stage.outcome(&foreign).await, "abandoned");
    for call in [never, sid] {
        let path = format!("/api/calls/{call}");
        until(Duration::from_secs(40), "the call is over", async || {
            let call = stage.api.get(&path).await;
            call.status == 200 && !call.json()["outcome"].is_null()
        })
        .await;
    }
    // A caller who hangs up before a worker is there.
    let call = stage.twilio.call(&stage.api, LINE).await;
    let sid = call.sid.clone();
    call.hangs_up().await;
    assert_eq!(stage.outcome(&sid).await, "abandoned");
    stage.bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_is_full_is_busy_at_twilio() {
    let redis = Redis::start();
    let twilio = Twilio::start().await;
    let mut limited = line();
    limited["maxConcurrentCalls"] = json!(1);
    let bridge = setup(&redis, &twilio).line(limited).start().await;
    let api = Api::of(&bridge);
    let call = twilio.call(&api, LINE).await;
    let mut worker = Worker::serve(&redis).await;
    let refused = Twilio::asks(&api, LINE, &Twilio::new_call(), TOKEN).await;
    assert_eq!(refused.status, 200);
    assert!(
        refused.body.contains("<Reject reason=\"busy\"/>"),
        "{}",
        refused.body
    );
    call.hangs_up().await;
    worker.listen_to_end().await;
    until(SOON, "there is a place again", async || {
        let sid = Twilio::new_call();
        let answer = Twilio::asks(&api, LINE, &sid, TOKEN).await;
        let has_place = answer.body.contains("<Stream");
        if has_place {
            let call = TwilioCall::connect(&stream_url(&answer), &sid).await;
            call.hangs_up().await;
        }
        has_place
    })
    .await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_of_twilios_come_from_the_database_and_hide_their_tokens() {
    let redis = Redis::start();
    let twilio = Twilio::start().await;
    let folder = TempDir::new().unwrap();
    let data = folder.path().display().to_string();
    let bridge = setup(&redis, &twilio)
        .args(&["--data-dir", &data])
        .start()
        .await;
    let api = Api::of(&bridge);
    let mut new = line();
    new["twilioAuthToken"] = json!(TOKEN);
    let made = api.post(LINES, &new).await;
    assert!(!made.body.contains(TOKEN) && !made.body.contains(PASSWORD));
    assert_eq!(made.expect(201)["hasTwilioAuthToken"], true);
    let path = format!("{LINES}/{LINE}");
    until(SOON, "the line is Twilio's", async || {
        api.get(&path).await.expect(200)["state"] == "twilio"
    })
    .await;
    let stored = std::fs::read(folder.path().join("sipbridge.db")).unwrap();
    assert!(
        !String::from_utf8_lossy(&stored).contains(TOKEN),
        "encrypted"
    );
    let call = twilio.call(&api, LINE).await;
    let mut worker = Worker::serve(&redis).await;
    // Its calls go on when it is paused, and no new ones come.
    api.json("PATCH", &path, &json!({"isActive": false}))
        .await
        .expect(200);
    until(SOON, "the line takes no calls", async || {
        let sid = Twilio::new_call();
        Twilio::asks(&api, LINE, &sid, TOKEN).await.status == 403
    })
    .await;
    assert_eq!(api.get(&path).await.expect(200)["state"], "left-out");
    call.hangs_up().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_public_url_lines_of_twilios_are_left_out_by_name() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .env("ENCRYPTION_KEY", KEY)
        .line(line())
        .start()
        .await;
    let api = Api::of(&bridge);
    let shown = api.get(&format!("{LINES}/{LINE}")).await.expect(200);
    assert_eq!(shown["state"], "left-out");
    let why = shown["lastError"].as_str().unwrap();
    assert!(why.contains("--public-url"), "{why}");
    let answer = Twilio::asks(&api, LINE, &Twilio::new_call(), TOKEN).await;
    answer.problem(403, "not-allowed");
    bridge.shut_down().await;
}
