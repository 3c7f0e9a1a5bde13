//! Kamailio as a foreign registrar with digest authentication, and as the
//! proxy through which calls reach the line's own Contact.

use std::time::Duration;

use serde_json::json;

use crate::harness::bridge::{LINE, NUMBER, PASSWORD, Setup, USERNAME, encrypt, line};
use crate::harness::peers::TrunkLine;
use crate::harness::sipp::Sipp;
use crate::harness::{Bridge, Caller, Job, Kamailio, Redis, SOON, Worker, peers, sound, until};

const TRUNK: &[TrunkLine<'_>] = &[
    TrunkLine {
        username: USERNAME,
        password: PASSWORD,
        number: NUMBER,
    },
    TrunkLine {
        username: "trunkuser2",
        password: "another-Pass",
        number: "+33142000002",
    },
];

/// Waits until the node says so many lines are registered.
async fn registered(redis: &Redis, count: &str) {
    until(Duration::from_secs(15), "registered", async || {
        let lines: Option<String> = redis.query(&["GET", "bridge:node-e2e:count"]).await;
        lines.as_deref() == Some(count)
    })
    .await;
}

/// A bridge with one encrypted line, registered at a trunk.
async fn registered_bridge(redis: &Redis, trunk: &Kamailio) -> Bridge {
    let bridge = Setup::queue(redis)
        .line_field("sipPassword", json!(encrypt(LINE, PASSWORD)))
        .trunk(trunk.port)
        .start()
        .await;
    registered(redis, "1").await;
    bridge
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_through_the_trunk_streams_both_ways() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &[]);
    let bridge = registered_bridge(&redis, &trunk).await;
    let members: Vec<String> = redis
        .query(&["SMEMBERS", "bridge:node-e2e:registrations"])
        .await;
    assert_eq!(members, [LINE]);

    let mut call = Caller::connect(peers::local(trunk.port), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let (question, reply) = (sound::numbered(0, 60), sound::numbered(700, 60).concat());
    worker.media(&reply);
    call.player().play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.rtp.hears(&reply, SOON).await;
    call.bye().await;
    worker.listen_to_end().await;

    // Clean shutdown unregisters: the trunk knows the number no more.
    bridge.shut_down().await;
    let mut call = Caller::invite(
        peers::local(trunk.port),
        NUMBER,
        crate::harness::sdp::Offer::usual(),
    )
    .await;
    assert_eq!(call.final_response().await.status(), Some(404));
}

#[tokio::test(flavor = "multi_thread")]
async fn sipp_through_the_trunk() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &[]);
    let _bridge = registered_bridge(&redis, &trunk).await;
    let speech = sound::numbered(0, 75).concat();
    let sipp = Sipp::new("call_pcmu", NUMBER).speech(&speech);
    let listen = async {
        let mut worker = Worker::serve(&redis).await;
        worker.listen_to_end().await;
        worker
    };
    let (worker, ()) = tokio::join!(listen, sipp.pass(peers::local(trunk.port)));
    assert!(sound::contains(&worker.audio(), &speech));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_contact_names_the_line_whatever_to_says() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &["MANGLE_TO"]);
    let mut setup = Setup::queue(&redis).trunk(trunk.port);
    let mut second = line("line-2", "trunkuser2", "+33142000002");
    second["sipPassword"] = json!("another-Pass");
    setup.lines.push(second);
    let _bridge = setup.start().await;
    registered(&redis, "2").await;
    for (number, line) in [(NUMBER, LINE), ("+33142000002", "line-2")] {
        let mut call = Caller::connect(peers::local(trunk.port), number).await;
        let job = Job::take(&redis).await;
        assert_eq!(job.text("phoneLineId"), line);
        call.bye().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_tcp_through_the_trunk() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &[]);
    let mut setup = Setup::queue(&redis).trunk(trunk.port);
    setup.transport = "tcp";
    let _bridge = setup.start().await;
    registered(&redis, "1").await;
    assert!(trunk.log().contains("transport=tcp") || trunk.log().contains("transport=TCP"));
    let mut call = Caller::connect(peers::local(trunk.port), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    call.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_over_tls_through_the_trunk() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &["WITH_TLS"]);
    let (certificate, key) = (trunk.certificate(), trunk.key());
    let mut setup = Setup::queue(&redis)
        .line_field("sipDomain", json!(format!("127.0.0.1:{}", trunk.tls_port)))
        .trunk(trunk.tls_port)
        .args(&["--tls-ca", &certificate])
        .args(&["--tls-cert", &certificate, "--tls-key", &key]);
    setup.transport = "tls";
    let bridge = setup.start().await;
    registered(&redis, "1").await;
    assert!(trunk.log().to_lowercase().contains("transport=tls"));
    let mut call = Caller::connect(peers::local(trunk.port), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let question = sound::numbered(0, 30);
    call.player().play(&question).await;
    worker.hears(&question.concat(), SOON).await;
    call.bye().await;
    worker.listen_to_end().await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_named_in_the_hosts_file_is_found() {
    for transport in ["udp", "tcp"] {
        let redis = Redis::start();
        let trunk = Kamailio::start(TRUNK, &[]);
        let mut setup = Setup::queue(&redis)
            .line_field("sipDomain", json!(format!("localhost:{}", trunk.port)))
            .trunk(trunk.port);
        setup.transport = transport;
        let bridge = setup.start().await;
        registered(&redis, "1").await;
        let mut call = Caller::connect(peers::local(trunk.port), NUMBER).await;
        call.bye().await;
        bridge.shut_down().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tls_server_that_is_not_to_be_trusted_gets_no_register() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &["WITH_TLS"]);
    let other = Kamailio::start(TRUNK, &["WITH_TLS"]);
    let mut setup = Setup::queue(&redis)
        .line_field("sipDomain", json!(format!("127.0.0.1:{}", trunk.tls_port)))
        .trunk(trunk.tls_port)
        .args(&["--tls-ca", &other.certificate()]);
    setup.transport = "tls";
    let bridge = setup.start().await;
    until(SOON, "the reason is told", async || {
        bridge.output().to_lowercase().contains("certificate")
    })
    .await;
    assert!(!trunk.log().contains("registered at"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_password_is_told_and_not_hammered() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &[]);
    let bridge = Setup::queue(&redis)
        .line_field("sipPassword", json!("wrong"))
        .trunk(trunk.port)
        .start()
        .await;
    until(SOON, "the failure shows", async || {
        bridge.output().contains("401") && bridge.output().contains(LINE)
    })
    .await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let attempts = trunk.log().matches("refused").count();
    assert!((1..6).contains(&attempts), "{attempts} attempts in 2 s");
    let health = bridge.health().await;
    assert!(health.body.contains("\"failed\":1"), "{}", health.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registrar_that_is_away_is_retried_until_it_is_back() {
    let redis = Redis::start();
    let mut trunk = Kamailio::start(TRUNK, &[]);
    trunk.go_away();
    let bridge = Setup::queue(&redis).trunk(trunk.port).start().await;
    // One failed attempt is on record before the trunk returns.
    until(
        Duration::from_secs(45),
        "a failed REGISTER is told",
        async || bridge.health().await.body.contains("\"failed\":1"),
    )
    .await;
    trunk.come_up();
    until(Duration::from_secs(60), "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_registrar_is_retried_when_it_says() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &["REGISTRAR_BUSY"]);
    let bridge = Setup::queue(&redis).trunk(trunk.port).start().await;
    until(SOON, "503 shows", async || bridge.output().contains("503")).await;
    assert!(bridge.health().await.body.contains("\"failed\":1"));
    // Retry-After is 30; by itself it would be tried again after 2 s.
    let told = bridge.output();
    let told = told.lines().find(|line| line.contains("retry_in_s="));
    let again = told.and_then(|line| line.split_once("retry_in_s="));
    let again_s: u64 = again.unwrap().1.trim().parse().unwrap();
    assert!((30..=33).contains(&again_s), "{again_s}");
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_are_refreshed_before_they_expire() {
    let redis = Redis::start();
    let trunk = Kamailio::start(TRUNK, &["SHORT_EXPIRES"]);
    let _bridge = Setup::queue(&redis).trunk(trunk.port).start().await;
    until(Duration::from_secs(25), "three REGISTERs", async || {
        trunk.log().matches("registered at").count() >= 3
    })
    .await;
    let mut call = Caller::connect(peers::local(trunk.port), NUMBER).await;
    call.bye().await;
}
