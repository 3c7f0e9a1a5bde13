//! Bots with nothing changed but the machine that they run on: they ask `https://api.twilio.com`, which is the bridge by the
//! hosts file, with a certificate of an authority of the operator's own that they trust.
//!
//! The outer tests start this test program again in a network and a view of files of its own; the ignored ones run there.

use std::io::Write;
use std::path::Path;
use std::process::Command;

use crate::harness::bridge::{NUMBER, Setup};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::{Authority, Bridge, Callee};
use crate::twilio_bots::{
    ACCOUNT, Bot, TOKEN, asking, calls_and_hangs_up, node, output, packages, python,
};

/// Makes a network with api.twilio.com in it, and runs a command there.
const IN_OWN_NETWORK: &str = "set -e
ip link set lo up
hosts=$(mktemp)
echo '127.0.0.1 localhost api.twilio.com' > \"$hosts\"
mount --bind \"$hosts\" /etc/hosts
rm \"$hosts\"
exec \"$@\"";

/// A command in namespaces of its own, which whoever is not root may make, too.
fn apart(arguments: &[&str]) -> Command {
    let mut command = Command::new("unshare");
    command.args(["--map-root-user", "--net", "--mount", "sh", "-c"]);
    command.args([IN_OWN_NETWORK, "sh"]).args(arguments);
    command
}

fn run_apart(name: &str) {
    let possible = apart(&["getent", "hosts", "api.twilio.com"])
        .output()
        .unwrap();
    if !possible.status.success() {
        let reason = String::from_utf8_lossy(&possible.stderr);
        let reason = reason.lines().last().unwrap_or_default();
        let words = format!("not run: {name}, no namespaces here ({reason})\n");
        // Past libtest's capture: tests/run.sh shows it.
        std::io::stderr().write_all(words.as_bytes()).unwrap();
        return;
    }
    let program = std::env::current_exe().unwrap();
    let test = format!("twilio_host::{name}");
    let arguments = ["--ignored", "--exact", "--nocapture", "--test-threads=1"];
    let arguments = [&[program.to_str().unwrap()][..], &arguments, &[&test]].concat();
    let output = apart(&arguments).output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success() && text.contains("1 passed"),
        "{text}"
    );
}

#[test]
fn the_bot_in_python_calls_by_twilios_own_address() {
    run_apart("python_apart");
}

#[test]
fn the_bot_in_node_calls_by_twilios_own_address() {
    run_apart("node_apart");
}

#[test]
fn pipecats_serializer_hangs_up_by_twilios_own_address() {
    run_apart("pipecat_apart");
}

/// As Twilio: HTTPS on port 443, under its name.
async fn started(setup: Setup, authority: &Authority) -> Bridge {
    let identity = authority.issue(&["api.twilio.com"]);
    let setup = setup.args(&["--api-port", "443"]);
    setup.args(&identity.flags()).start().await
}

async fn calls(program: fn() -> Command, trusted_by: &str) {
    let bot = Bot::new(program).await;
    let _serving = bot.serve();
    let phone = Callee::open().await;
    let authority = Authority::new("the operator's own");
    let bridge = started(asking(&bot, &phone), &authority).await;
    let ca = authority.file();
    calls_and_hangs_up(&bot, (trusted_by, &ca), &phone).await;
    bridge.shut_down().await;
}

#[ignore = "what the test of Python runs apart"]
#[tokio::test(flavor = "multi_thread")]
async fn python_apart() {
    calls(python, "REQUESTS_CA_BUNDLE").await;
}

#[ignore = "what the test of Node runs apart"]
#[tokio::test(flavor = "multi_thread")]
async fn node_apart() {
    calls(node, "NODE_EXTRA_CA_CERTS").await;
}

/// What Pipecat's log says at the end of a bot.
async fn pipecat_ends(authority: &Authority, stream: &str, call: &str) -> String {
    let packages = packages().join("pipecat");
    assert!(
        packages.join("versions").exists(),
        "run tests/python/bot_packages.sh first"
    );
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/python/pipecat_hang_up.py");
    let mut command = Command::new("/usr/bin/python3");
    command
        .arg("-B")
        .arg(script)
        .args([stream, call])
        .env("PYTHONPATH", packages)
        .env("TWILIO_ACCOUNT_SID", ACCOUNT)
        .env("TWILIO_AUTH_TOKEN", TOKEN)
        .env("SSL_CERT_FILE", authority.file());
    output(command).await
}

#[ignore = "what the test of Pipecat runs apart"]
#[tokio::test(flavor = "multi_thread")]
async fn pipecat_apart() {
    let bot = Bot::new(python).await;
    let _serving = bot.serve();
    let phone = Callee::open().await;
    let authority = Authority::new("the operator's own");
    let bridge = started(asking(&bot, &phone), &authority).await;
    let ca = authority.file();
    let placed = bot
        .asks(
            ("REQUESTS_CA_BUNDLE", &ca),
            &["call", CALLER_NUMBER, NUMBER],
        )
        .await;
    let call = placed.split(' ').next().unwrap();
    let invite = phone.invited().await;
    phone.answer(&invite).await;
    let mut worker = bot.streamed().await;
    let stream = worker.start()["streamSid"].as_str().unwrap().to_owned();
    let said = pipecat_ends(&authority, &stream, call).await;
    assert!(said.contains("INFO Successfully terminated"), "{said}");
    phone.request("BYE").await;
    worker.listen_to_end().await;

    // Once more, and of a call that nobody knows: neither is an error to it.
    let said = pipecat_ends(&authority, &stream, call).await;
    assert!(said.contains("INFO Successfully terminated"), "{said}");
    let nobody = "CA0123456789abcdef0123456789abcdef";
    let said = pipecat_ends(&authority, &stream, nobody).await;
    assert!(said.contains("DEBUG Twilio call"), "{said}");
    assert!(said.contains("was already terminated"), "{said}");
    bridge.shut_down().await;
}
