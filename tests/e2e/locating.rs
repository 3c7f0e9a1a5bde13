//! Where requests go (RFC 3263), with a name server and registrars of our own
//! on loopback addresses: SRV is obeyed, and where the first server is silent
//! or out of service the next one is used, for REGISTER and for INVITE.

use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use crate::harness::bridge::LINE;
use crate::harness::bridge::Setup;
use crate::harness::scripted_trunk::{Manner, ScriptedTrunk};
use crate::harness::{Api, Bridge, until};
use crate::name_server::{NameServer, Record};

const CALLS: &str = "/api/calls";
/// More than the time in which a silent server is given up.
const FAILOVER_MAX: Duration = Duration::from_secs(12);

/// Two trunks behind the SRV records of one name, and the bridge.
struct Stage {
    first: ScriptedTrunk,
    second: ScriptedTrunk,
    names: NameServer,
    dir: TempDir,
}

impl Stage {
    async fn new(first: Manner) -> Self {
        let first = ScriptedTrunk::udp("127.0.0.2:0", first).await;
        let second = ScriptedTrunk::udp("127.0.0.3:0", Manner::Answers).await;
        let (a, b) = (first.address.port(), second.address.port());
        let names = NameServer::start(
            60,
            &[
                (
                    "_sip._udp.trunk.example",
                    Record::Srv(10, 0, a, "a.trunk.example"),
                ),
                (
                    "_sip._udp.trunk.example",
                    Record::Srv(20, 0, b, "b.trunk.example"),
                ),
                ("a.trunk.example", Record::A([127, 0, 0, 2])),
                ("b.trunk.example", Record::A([127, 0, 0, 3])),
            ],
        );
        Self {
            first,
            second,
            names,
            dir: TempDir::new().unwrap(),
        }
    }

    async fn bridge(&self) -> Bridge {
        let resolv_conf = self.names.resolv_conf(self.dir.path(), "");
        let mut setup = Setup::new()
            .line_field("sipDomain", json!("trunk.example"))
            .args(&["--resolv-conf", &resolv_conf.display().to_string()])
            .args(&["--ws-target", "ws://127.0.0.1:9/", "--allow-dial", "*"]);
        // Not that port: it only has the lines register.
        setup.trunk_port = Some(9);
        setup.start().await
    }
}

async fn registers_at(trunk: &ScriptedTrunk, limit: Duration) {
    until(limit, "REGISTER", async || {
        !trunk.seen("REGISTER").is_empty()
    })
    .await;
}

async fn place(api: &Api) {
    let call = json!({"phoneLineId": LINE, "to": "+33123456789"});
    api.post(CALLS, &call).await.expect(201);
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_register_and_call_where_srv_says() {
    let stage = Stage::new(Manner::Answers).await;
    let bridge = stage.bridge().await;
    registers_at(&stage.first, FAILOVER_MAX).await;
    let api = Api::of(&bridge);
    place(&api).await;
    until(FAILOVER_MAX, "INVITE", async || {
        !stage.first.seen("INVITE").is_empty()
    })
    .await;
    let register = &stage.first.seen("REGISTER")[0].text;
    assert!(
        register.starts_with("REGISTER sip:trunk.example SIP/2.0"),
        "{register}"
    );
    assert!(stage.second.seen("REGISTER").is_empty());
    bridge.shut_down().await;
}

/// A REGISTER goes to the next server within the time of one transaction, and
/// once that is known nothing goes to the first.
async fn the_next_one_is_used(manner: Manner) {
    let stage = Stage::new(manner).await;
    let bridge = stage.bridge().await;
    registers_at(&stage.second, FAILOVER_MAX).await;
    let tries = stage.first.seen("REGISTER").len();
    assert!(
        (1..=3).contains(&tries),
        "{tries} REGISTERs to the first server"
    );
    let api = Api::of(&bridge);
    place(&api).await;
    until(FAILOVER_MAX, "INVITE", async || {
        !stage.second.seen("INVITE").is_empty()
    })
    .await;
    until(FAILOVER_MAX, "ACK", async || {
        !stage.second.seen("ACK").is_empty()
    })
    .await;
    assert!(stage.first.seen("INVITE").is_empty());
    assert_eq!(stage.first.seen("REGISTER").len(), tries);
    assert!(
        bridge
            .output()
            .contains("the next one that its name has is used")
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_server_is_passed_over() {
    the_next_one_is_used(Manner::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_says_503_is_passed_over() {
    the_next_one_is_used(Manner::Unavailable).await;
}

/// A call that is being placed goes on at the next server, and the first one
/// has its 503 acknowledged.
async fn a_call_goes_on(manner: Manner) {
    let stage = Stage::new(Manner::Answers).await;
    let bridge = stage.bridge().await;
    registers_at(&stage.first, FAILOVER_MAX).await;
    stage.first.become_(manner);
    let api = Api::of(&bridge);
    place(&api).await;
    until(FAILOVER_MAX, "INVITE", async || {
        !stage.second.seen("INVITE").is_empty()
    })
    .await;
    // Its 486 is acknowledged where it came from.
    until(FAILOVER_MAX, "ACK", async || {
        !stage.second.seen("ACK").is_empty()
    })
    .await;
    if manner == Manner::Unavailable {
        assert_eq!(stage.first.seen("ACK").len(), 1);
    }
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_where_the_first_server_is_silent() {
    a_call_goes_on(Manner::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_on_where_the_first_server_says_503() {
    a_call_goes_on(Manner::Unavailable).await;
}
