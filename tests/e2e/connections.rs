//! TCP and TLS towards registrars: a connection that is closed, or dies
//! without a word, is noticed and made anew; a server is verified by the name
//! that the line has for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::harness::bridge::Setup;
use crate::harness::network::BehindNat;
use crate::harness::scripted_trunk::ScriptedTrunk;
use crate::harness::{Api, Bridge, SOON, until};
use crate::name_server::{NameServer, Record};

const LINE_PATH: &str = "/api/admin/telephony/phone-lines/line-1";
/// A closed connection: the next REGISTER comes within this time.
const ANEW_MAX: Duration = Duration::from_secs(5);
/// A connection that is dead without a word is noticed within this time.
const NOTICED_MAX: Duration = Duration::from_secs(30);

fn setup(trunk: &str, transport: &'static str, dir: &TempDir) -> Setup {
    let mut setup = Setup::new()
        .line_field("sipDomain", json!(trunk))
        .args(&["--ws-target", "ws://127.0.0.1:9/"])
        .args(&["--data-dir", &dir.path().display().to_string()]);
    setup.transport = transport;
    // Not that port: it only has the lines register.
    setup.trunk_port = Some(9);
    setup
}

async fn registers(trunk: &ScriptedTrunk, times: usize, limit: Duration) {
    until(limit, "REGISTER", async || {
        trunk.seen("REGISTER").len() >= times
    })
    .await;
}

async fn becomes(bridge: &Bridge, state: &str, limit: Duration) -> Value {
    let api = Api::of(bridge);
    let mut line = Value::Null;
    until(limit, state, async || {
        line = api.get(LINE_PATH).await.expect(200);
        line["state"] == state
    })
    .await;
    line
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_made_anew_at_once() {
    let dir = TempDir::new().unwrap();
    let trunk = ScriptedTrunk::tcp("127.0.0.2:0").await;
    let bridge = setup(&trunk.address.to_string(), "tcp", &dir).start().await;
    registers(&trunk, 1, SOON).await;
    becomes(&bridge, "registered", SOON).await;
    trunk.close_connections();
    let closed = Instant::now();
    registers(&trunk, 2, SOON).await;
    let anew = trunk.seen("REGISTER")[1].at - closed;
    assert!(anew < ANEW_MAX, "{anew:?}");
    assert_eq!(trunk.accepted(), 2);
    becomes(&bridge, "registered", SOON).await;
    assert!(
        bridge
            .output()
            .contains("the connection to a SIP server is lost")
    );
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_dies_without_a_word_is_noticed() {
    let Some(network) = BehindNat::build() else {
        return;
    };
    let dir = TempDir::new().unwrap();
    let trunk = ScriptedTrunk::tcp_on(network.router_listener());
    let bind = network.bridge.to_string();
    let setup = setup(&trunk.address.to_string(), "tcp", &dir).args(&["--bind", &bind]);
    let bridge = setup.start().await;
    registers(&trunk, 1, SOON).await;
    becomes(&bridge, "registered", SOON).await;
    network.cut_router();
    let line = becomes(&bridge, "failed", NOTICED_MAX).await;
    let why = line["lastError"].as_str().unwrap();
    assert!(why.contains("lost"), "{why}");
    network.mend_router();
    registers(&trunk, 2, NOTICED_MAX).await;
    becomes(&bridge, "registered", SOON).await;
    bridge.shut_down().await;
}

/// A server with a certificate for this name, and the file of its CA.
async fn tls_trunk(name: &str, dir: &TempDir) -> (ScriptedTrunk, String) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let file = dir.path().join("ca.pem");
    std::fs::write(&file, made.cert.pem()).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], PrivateKeyDer::Pkcs8(key))
        .unwrap();
    let trunk = ScriptedTrunk::stream("127.0.0.2:0", Some(Arc::new(config))).await;
    (trunk, file.display().to_string())
}

/// A bridge whose line is at a name that leads to the trunk.
async fn at_its_name(trunk: &ScriptedTrunk, dir: &TempDir, more: &[&str]) -> Bridge {
    let names = NameServer::start(60, &[("trunk.example", Record::A([127, 0, 0, 2]))]);
    let resolv_conf = names.resolv_conf(dir.path(), "");
    let domain = format!("trunk.example:{}", trunk.address.port());
    let setup = setup(&domain, "tls", dir)
        .args(&["--resolv-conf", &resolv_conf.display().to_string()])
        .args(more);
    let bridge = setup.start().await;
    until(SOON, "looked up", async || names.asked("trunk.example") > 0).await;
    bridge
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_certificate_has_the_lines_name_is_registered_at() {
    let dir = TempDir::new().unwrap();
    let (trunk, ca) = tls_trunk("trunk.example", &dir).await;
    let bridge = at_its_name(&trunk, &dir, &["--tls-ca", &ca]).await;
    registers(&trunk, 1, SOON).await;
    becomes(&bridge, "registered", SOON).await;
    bridge.shut_down().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_another_name_in_its_certificate_gets_no_register() {
    let dir = TempDir::new().unwrap();
    let (trunk, ca) = tls_trunk("other.example", &dir).await;
    let bridge = at_its_name(&trunk, &dir, &["--tls-ca", &ca]).await;
    becomes(&bridge, "failed", SOON).await;
    assert!(trunk.accepted() > 0);
    assert!(trunk.seen("REGISTER").is_empty());
    bridge.shut_down().await;

    // Who does without verification says so.
    let dir = TempDir::new().unwrap();
    let bridge = at_its_name(&trunk, &dir, &["--tls-insecure"]).await;
    registers(&trunk, 1, SOON).await;
    assert!(bridge.output().contains("SIP servers are not verified"));
    bridge.shut_down().await;
}

#[test]
fn roots_that_are_none_are_refused_by_check_and_start() {
    let dir = TempDir::new().unwrap();
    let none = dir.path().join("none.pem");
    std::fs::write(&none, "no certificate").unwrap();
    for subcommand in [Some("check"), None] {
        let mut command = crate::harness::bridge::clean_command();
        command.args(subcommand);
        command.args([
            "--sip-transport",
            "tls",
            "--sip-port",
            "0",
            "--api-port",
            "0",
        ]);
        command.args(["--ws-target", "ws://127.0.0.1:9/", "--bind", "127.0.0.1"]);
        command.args(["--data-dir", &dir.path().display().to_string()]);
        command.args(["--tls-ca", &none.display().to_string()]);
        let output = command.output().unwrap();
        let said =
            [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned());
        let said = said.concat();
        assert!(!output.status.success(), "{said}");
        assert!(said.contains("holds no PEM certificate"), "{said}");
    }
}

/// A pjproject without IPv6 would refuse every line; that is said before.
#[test]
fn an_ipv6_address_is_refused_where_the_library_has_no_ipv6() {
    let refused = sipbridge::sip::pjsip::check_bind("::1".parse().unwrap()).is_err();
    let dir = TempDir::new().unwrap();
    let mut command = crate::harness::bridge::clean_command();
    command.args([
        "check",
        "--bind",
        "::1",
        "--sip-port",
        "0",
        "--api-port",
        "0",
    ]);
    command.args(["--ws-target", "ws://127.0.0.1:9/"]);
    command.args(["--data-dir", &dir.path().display().to_string()]);
    let output = command.output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.success(), !refused, "{said}");
    assert_eq!(said.contains("is built without IPv6"), refused, "{said}");
}
