//! Callers who withhold their number, what trunks write about who calls, and
//! headers that the operator hands on: on the wire, and everywhere that the
//! bridge tells of a call.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::harness::api::Api;
use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::{Caller, Job, Redis, Worker};

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
