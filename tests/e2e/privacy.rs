//! Callers who withhold their number, what trunks write about who calls, and
//! headers that the operator hands on: on the wire, and everywhere that the
//! bridge tells of a call.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::{Caller, Job, Redis, Worker};
use crate::voice_webhook::{Bot, form};

const SECRET: &str = "+33698765432";

/// Makes one call and gives its job.
async fn job_of(redis: &Redis, sip: SocketAddr, from: &str, headers: &str) -> Value {
    let mut call = Caller::connect_saying(sip, from, NUMBER, headers).await;
    let job = Job::take(redis).await;
    call.bye().await;
    job.json
}

fn secret(form: &str) -> String {
    form.replace("SECRET", &format!("sip:{SECRET}@trunk.example"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_withheld_number_is_told_to_nobody() {
    let redis = Redis::start();
    let data = tempfile::tempdir().unwrap();
    let data = data.path().to_str().unwrap();
    let flags = [
        "--data-dir",
        data,
        "--sip-headers",
        "X-*,Diversion",
        "--log-level",
        "info",
    ];
    let bridge = Setup::queue(&redis).args(&flags).start().await;
    let mut told = Vec::new();
    for (from, headers) in [
        (
            "\"Anonymous\" <sip:anonymous@anonymous.invalid>",
            "P-Asserted-Identity: <SECRET>\r\nPrivacy: id\r\n",
        ),
        (
            "<SECRET>",
            "Privacy: user;id\r\nX-Caller: 0698765432\r\nX-Other: 7\r\n",
        ),
        ("\"Anonymous\" <SECRET>", ""),
        (
            "<SECRET>",
            "Remote-Party-ID: <SECRET>;party=calling;privacy=full;screen=yes\r\n",
        ),
        (
            "<sip:trunk.example>",
            "P-Preferred-Identity: <SECRET>\r\nDiversion: <SECRET>;reason=no-answer\r\n",
        ),
    ] {
        let job = job_of(&redis, bridge.sip(), &secret(from), &secret(headers)).await;
        assert_eq!(job["from"], "anonymous", "{from} {headers}");
        assert_eq!(job["customParameters"]["callerPhone"], "anonymous");
        told.push(job.to_string());
    }
    // Also while a worker is there.
    let headers = secret("P-Asserted-Identity: <SECRET>\r\nPrivacy: id\r\n");
    let mut call =
        Caller::connect_saying(bridge.sip(), "<sip:anonymous@x.invalid>", NUMBER, &headers).await;
    let worker = Worker::serve(&redis).await;
    told.push(
        worker
            .heard
            .iter()
            .map(|heard| heard.json.to_string())
            .collect(),
    );
    told.push(Api::of(&bridge).get("/api/calls").await.body);
    call.bye().await;
    let events: redis::Value = redis
        .query(&["XRANGE", "stream:call_events", "-", "+"])
        .await;
    told.push(format!("{events:?}"));
    told.push(bridge.output());
    bridge.shut_down().await;
    for file in std::fs::read_dir(data).unwrap() {
        told.push(
            String::from_utf8_lossy(&std::fs::read(file.unwrap().path()).unwrap()).into_owned(),
        );
    }
    for text in &told {
        assert!(!text.contains("98765432"), "{text}");
    }
    assert!(
        told[1].contains("\"X-Other\":\"7\"") && !told[1].contains("X-Caller"),
        "{}",
        told[1]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_lines_own_server_asserts_is_believed_and_nobody_elses_word() {
    let redis = Redis::start();
    // Two lines whose servers are somewhere else, by address and by name.
    let elsewhere = |id: &str, number: &str, server: &str| {
        let mut line = crate::harness::bridge::line(id, id, number);
        line["sipDomain"] = json!(server);
        line
    };
    let others = [
        ("line-2", "+33972360999", "127.0.0.9"),
        ("line-3", "+33972360998", "trunk.invalid"),
    ];
    let setup = others
        .iter()
        .fold(Setup::queue(&redis), |setup, (id, number, server)| {
            setup.line(elsewhere(id, number, server))
        });
    let bridge = setup.start().await;
    let asserted = secret("P-Asserted-Identity: \"J\" <SECRET>\r\n");
    let job = job_of(&redis, bridge.sip(), "<sip:0612345678@pbx>", &asserted).await;
    assert_eq!(job["from"], SECRET);
    for (id, number, _) in others {
        let from = "<sip:0612345678@pbx>";
        let mut call = Caller::connect_saying(bridge.sip(), from, number, &asserted).await;
        let job = Job::take(&redis).await;
        assert_eq!(
            (job.text("phoneLineId"), job.text("from")),
            (id, "+33612345678")
        );
        call.bye().await;
    }
    bridge.shut_down().await;

    // The operator must know all the same.
    let bridge = Setup::queue(&redis)
        .args(&["--trust-privacy", "no"])
        .start()
        .await;
    let hidden = format!("{asserted}Privacy: id\r\n");
    let job = job_of(
        &redis,
        bridge.sip(),
        "<sip:anonymous@anonymous.invalid>",
        &hidden,
    )
    .await;
    assert_eq!(job["from"], SECRET);
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_reach_the_worker_only_where_they_are_named() {
    let redis = Redis::start();
    let headers = "X-Acme-Id: 42\r\nx-acme-lang: fr\r\nX-Secret: s\r\nUser-to-User: 0a0b;encoding=hex\r\n\
                   X-Acme-Evil: a\u{1b}[2Jb\r\ncallerPhone: 1\r\n";
    let from = "<sip:0612345678@pbx>";
    let names = "X-Acme-*, user-to-user";
    let flags = ["--sip-headers", names, "--param", "X-Acme-Lang=de"];
    let bridge = Setup::queue(&redis).args(&flags).start().await;
    let job = job_of(&redis, bridge.sip(), from, headers).await;
    let parameters = job["customParameters"].as_object().unwrap();
    assert_eq!(parameters["X-Acme-Id"], "42");
    assert_eq!(
        parameters["X-Acme-Lang"], "de",
        "the operator's own word comes first"
    );
    assert_eq!(parameters["user-to-user"], "0a0b;encoding=hex");
    assert_eq!(parameters["callerPhone"], "+33612345678");
    assert!(!parameters.contains_key("X-Secret"), "{parameters:?}");
    let all = job["customParameters"].to_string();
    assert!(!all.contains("u001b") && !all.contains('\u{1b}'), "{all}");
    bridge.shut_down().await;

    let bridge = Setup::queue(&redis).start().await;
    let job = job_of(&redis, bridge.sip(), from, headers).await;
    let all = job["customParameters"].to_string();
    assert!(
        !all.to_lowercase().contains("acme") && !all.contains("0a0b"),
        "{all}"
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voice_webhook_is_told_of_headers_and_of_nothing_that_is_withheld() {
    let bot = Bot::start().await;
    bot.answers("/voice", "<Pause length=\"20\"/>");
    let mut elsewhere = crate::harness::bridge::line("line-2", "u2", "+33972360999");
    elsewhere["sipDomain"] = json!("127.0.0.9");
    let bridge = bot.setup().line(elsewhere).start().await;
    let many: String = (0..40).map(|n| format!("X-Many-{n}: v\r\n")).collect();
    let headers = "X-Order: 42\r\nx-shop-id: a;b=\"c\"\r\nUser-to-User: 0a;encoding=hex\r\n\
                   Diversion: <sip:0612000000@pbx>;reason=no-answer\r\nHistory-Info: <sip:1@x>\r\n\
                   X-Evil: a\u{1b}[2J\u{9b}b\r\nX-Folded: a\r\n b\r\n\
                   P-Asserted-Identity: \"J\" <SECRET>\r\n";
    let headers = format!("{}{many}", secret(headers));
    let asked = async |number: &str, from: &str, headers: &str, count: usize| {
        let mut call = Caller::connect_saying(bridge.sip(), from, number, headers).await;
        let asked = bot.http.receives("/voice", count).await.remove(count - 1);
        call.bye().await;
        form(&asked)
    };
    let told = asked(NUMBER, "<sip:0612345678@pbx>", &headers, 1).await;
    for (name, value) in [
        ("From", SECRET),
        ("ForwardedFrom", "+33612000000"),
        ("SipHeader_X-Order", "42"),
        ("SipHeader_X-Shop-Id", "a;b=\"c\""),
        ("SipHeader_User-to-User", "0a;encoding=hex"),
        (
            "SipHeader_Diversion",
            "<sip:0612000000@pbx>;reason=no-answer",
        ),
        ("SipHeader_X-Evil", "a [2J b"),
        ("SipHeader_X-Many-0", "v"),
    ] {
        assert_eq!(told[name], value, "{name}");
    }
    let asserted = &told["SipHeader_P-Asserted-Identity"];
    assert_eq!(asserted, &format!("\"J\" <sip:{SECRET}@trunk.example>"));
    let is_header = |name: &&String| name.starts_with("SipHeader_");
    assert!(told.keys().filter(is_header).count() <= 25, "{told:?}");
    assert!(!told.contains_key("SipHeader_History-Info"));
    assert!(told.values().all(|value| !value.contains(char::is_control)));

    // Of somebody who is not the line's own server nothing is believed.
    let told = asked("+33972360999", "<sip:0612345678@pbx>", &headers, 2).await;
    assert_eq!(told["From"], "+33612345678");
    assert_eq!(told["SipHeader_X-Order"], "42");
    assert!(!told.contains_key("SipHeader_P-Asserted-Identity"));

    let hidden = "P-Asserted-Identity: <sip:123@trunk.example>\r\nPrivacy: id\r\nX-Order: 7\r\n";
    let told = asked(NUMBER, "<sip:anonymous@anonymous.invalid>", hidden, 3).await;
    assert_eq!(told["From"], "anonymous");
    assert_eq!(told["SipHeader_X-Order"], "7");
    assert!(
        !told.contains_key("SipHeader_P-Asserted-Identity"),
        "{told:?}"
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_says_who_calls_reaches_the_worker_where_it_is_named() {
    let redis = Redis::start();
    let flags = [
        "--sip-headers",
        "User-to-User,Diversion,P-Asserted-Identity",
    ];
    let bridge = Setup::queue(&redis).args(&flags).start().await;
    let headers = secret(
        "User-to-User: 0a\r\nDiversion: <sip:1@x>\r\nX-No: 1\r\nP-Asserted-Identity: <SECRET>\r\n",
    );
    let from = "<sip:0612345678@pbx>";
    let job = job_of(&redis, bridge.sip(), from, &headers).await;
    let parameters = job["customParameters"].as_object().unwrap();
    assert_eq!(parameters["User-to-User"], "0a");
    assert_eq!(parameters["Diversion"], "<sip:1@x>");
    assert_eq!(parameters["P-Asserted-Identity"], secret("<SECRET>"));
    assert!(!parameters.contains_key("X-No"), "{parameters:?}");
    let hidden = format!("{headers}Privacy: id\r\n");
    let job = job_of(&redis, bridge.sip(), from, &hidden).await;
    let parameters = job["customParameters"].as_object().unwrap();
    assert_eq!(parameters["User-to-User"], "0a");
    assert!(
        !parameters.contains_key("P-Asserted-Identity"),
        "{parameters:?}"
    );
    bridge.shut_down().await;
}
