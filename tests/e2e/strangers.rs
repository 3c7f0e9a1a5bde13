//! Only trunks may talk to us: who is not known hears nothing, costs nothing,
//! and takes nothing away from those who are. 127.0.0.1 is the lines' server
//! here; 127.0.0.66 is nobody.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sipbridge::core::access::contact_key::ContactKey;
use sipbridge::core::ids::LineId;
use sipbridge::core::key::MasterKey;

use crate::harness::bridge::{KEY, LINE, NUMBER, Setup, clean_command, line};
use crate::harness::sdp::Offer;
use crate::harness::sip::Message;
use crate::harness::{Bridge, Caller, Job, Redis, SOON, until};

const STRANGER: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 66);
const TRUNK: Ipv4Addr = Ipv4Addr::LOCALHOST;
const OTHER_TRUNK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long nothing must come to be silence.
const SILENCE: Duration = Duration::from_millis(700);

fn socket(ip: Ipv4Addr) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).unwrap();
    socket.set_read_timeout(Some(SILENCE)).unwrap();
    socket
}

/// A request outside of any dialog, without a body.
fn request(method: &str, uri: &str, to: &str, me: SocketAddr, id: &str) -> String {
    format!(
        "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/UDP {me};rport;branch=z9hG4bK{id}{method}\r\n\
         From: <sip:x@{me}>;tag=f{id}\r\nTo: {to}\r\nCall-ID: {id}@{me}\r\nCSeq: 1 {method}\r\n\
         Max-Forwards: 70\r\nContact: <sip:x@{me}>\r\nContent-Length: 0\r\n\r\n"
    )
}

/// The token of the usual line.
fn token() -> String {
    let master = MasterKey::parse(KEY).unwrap();
    ContactKey::derived(&master).token(&LineId::new(LINE))
}

/// What was dropped or held back for this reason.
async fn counted(bridge: &Bridge, reason: &str) -> u64 {
    let health = bridge.health().await.json();
    health["calls"]["strangers"][reason].as_u64().unwrap()
}

async fn jobs(redis: &Redis) -> usize {
    redis.query(&["LLEN", "queue:incoming_calls"]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_hears_nothing_whoever_he_calls_and_the_log_names_him() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let stranger = socket(STRANGER);
    let me = stranger.local_addr().unwrap();
    let known = format!("sip:{NUMBER}@{}", bridge.sip());
    let nobody = format!("sip:nobody@{}", bridge.sip());
    let mut sent = 0;
    for (place, method) in [
        "INVITE",
        "OPTIONS",
        "REGISTER",
        "SUBSCRIBE",
        "MESSAGE",
        "BYE",
        "CANCEL",
        "ACK",
        "FROB",
    ]
    .into_iter()
    .enumerate()
    {
        for (uri, id) in [(&known, "k"), (&nobody, "n")] {
            for to in [format!("<{uri}>"), format!("<{uri}>;tag=guessed")] {
                let id = format!("{id}{place}{}", to.len());
                let text = request(method, uri, &to, me, &id);
                stranger.send_to(text.as_bytes(), bridge.sip()).unwrap();
                sent += 1;
            }
        }
    }
    let forged = format!("{known};line={}", "0".repeat(32));
    let text = request("INVITE", &forged, &format!("<{known}>"), me, "forged");
    stranger.send_to(text.as_bytes(), bridge.sip()).unwrap();
    sent += 1;
    // Without our patch of pjproject these end in its parser, uncounted.
    let response = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bK1\r\n\r\n";
    for other in [response.as_bytes(), &[0; 900], &[0xff; 900]] {
        stranger.send_to(other, bridge.sip()).unwrap();
    }
    let mut buffer = [0; 2_000];
    let heard = stranger.recv(&mut buffer);
    assert!(
        heard.is_err(),
        "{}",
        String::from_utf8_lossy(&buffer[..heard.unwrap_or(0)])
    );
    let dropped = counted(&bridge, "unknown_source").await;
    let dropped = dropped + counted(&bridge, "unknown_dialog").await;
    assert_eq!(dropped, sent, "each request is counted");
    let health = bridge.health().await.json();
    assert_eq!(jobs(&redis).await, 0);
    assert_eq!(health["calls"]["active"], 0);

    // The lines' server is heard as before.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.bye().await;
    log_is_read_by_a_firewall(&bridge.output());
}

/// The regular expression of the manual finds the stranger, and once only.
fn log_is_read_by_a_firewall(log: &str) {
    let chapter = include_str!("../../src/guide/operating.md");
    let regex = chapter
        .lines()
        .find_map(|line| line.trim().strip_prefix("failregex = "))
        .expect("the chapter has a failregex");
    // As fail2ban does it: a host for <HOST>.
    let script = "import re,sys\n\
         regex = re.compile(sys.argv[1].replace('<HOST>', r'(?P<host>[0-9a-fA-F.:]+)'))\n\
         found = [m.group('host') for m in map(regex.search, sys.stdin) if m]\n\
         print(','.join(found))";
    let mut python = Command::new("python3")
        .args(["-c", script, regex])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3");
    let mut stdin = python.stdin.take().unwrap();
    stdin.write_all(log.as_bytes()).unwrap();
    drop(stdin);
    let output = python.wait_with_output().unwrap();
    let found = String::from_utf8(output.stdout).unwrap();
    assert_eq!(found.trim(), STRANGER.to_string(), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_knows_the_lines_token_may_call_from_anywhere() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let uri = format!("sip:whoever@{};line={}", bridge.sip(), token());
    let mut call = Caller::invite_uri_from(STRANGER, bridge.sip(), &uri, "whoever").await;
    call.answered().await;
    let _job = Job::take(&redis).await;

    // Nobody else ends it: a BYE from elsewhere needs the tags of the dialog.
    let elsewhere = socket(Ipv4Addr::new(127, 0, 0, 67));
    let me = elsewhere.local_addr().unwrap();
    let forged = request(
        "BYE",
        &format!("sip:{}", bridge.sip()),
        "<sip:a@h>;tag=1",
        me,
        &call.id,
    );
    let forged = forged.replace(&format!("@{me}\r\nCSeq"), "@test\r\nCSeq");
    elsewhere.send_to(forged.as_bytes(), bridge.sip()).unwrap();
    assert!(elsewhere.recv(&mut [0; 2_000]).is_err());
    assert_eq!(counted(&bridge, "unknown_dialog").await, 1);
    call.bye().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn networks_that_are_allowed_may_call() {
    let redis = Redis::start();
    let args = ["--allow-from", "127.0.0.64/30"];
    let bridge = Setup::queue(&redis).args(&args).start().await;
    let uri = format!("sip:{NUMBER}@{}", bridge.sip());
    let mut call = Caller::invite_uri_from(STRANGER, bridge.sip(), &uri, NUMBER).await;
    call.answered().await;
    call.bye().await;
    let outside = Ipv4Addr::new(127, 0, 0, 68);
    let mut call = Caller::invite_uri_from(outside, bridge.sip(), &uri, NUMBER).await;
    tokio::time::sleep(SILENCE).await;
    assert!(!call.has_response());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_from_one_trunk_leaves_the_other_its_calls() {
    let redis = Redis::start();
    let args = ["--allow-from", "127.0.0.2", "--max-calls-per-second", "20"];
    let bridge = Setup::queue(&redis).args(&args).start().await;
    let flood = socket(OTHER_TRUNK);
    let me = flood.local_addr().unwrap();
    let uri = format!("sip:{NUMBER}@{}", bridge.sip());
    let send = |number: u32| {
        let text = request(
            "INVITE",
            &uri,
            &format!("<{uri}>"),
            me,
            &format!("fl{number}"),
        );
        flood.send_to(text.as_bytes(), bridge.sip()).unwrap();
    };
    let mut taken = 0;
    for second in 0..4 {
        let next = Instant::now() + Duration::from_secs(1);
        (0..300).for_each(|number| send(second * 300 + number));
        // Five calls a second of the carrier.
        for _ in 0..5 {
            let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
            if call.final_response().await.status() == Some(200) {
                taken += 1;
                call.bye().await;
            }
        }
        tokio::time::sleep_until(next.into()).await;
    }
    assert_eq!(taken, 20, "every call of the carrier");
    assert!(counted(&bridge, "source_rate").await > 1_000);
    // None of the flood was acknowledged: none of it became a job. The carrier's
    // calls are over, and their jobs withdrawn.
    until(SOON, "no job is left", async || jobs(&redis).await == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_not_acknowledged_makes_no_job_and_ends_by_itself() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let began = Instant::now();
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    assert_eq!(call.unacknowledged().await.status(), Some(200));
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(jobs(&redis).await, 0);
    let active = async || bridge.health().await.json()["calls"]["active"].clone();
    assert_eq!(active().await, 1);
    // 64 * T1 is 32 s (RFC 3261 section 13.3.1.4).
    let over = async || active().await == 0;
    until(Duration::from_secs(40), "it ends", over).await;
    assert!(began.elapsed() > Duration::from_secs(25));
    assert_eq!(jobs(&redis).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_strangers_that_may_call_few_are_taken_and_the_line_stays_open() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--accept", "any"])
        .line_field("maxConcurrentCalls", serde_json::json!(4))
        .start()
        .await;
    let stranger = socket(STRANGER);
    let me = stranger.local_addr().unwrap();
    let uri = format!("sip:{NUMBER}@{}", bridge.sip());
    let mut bytes_sent = 0;
    for number in 0..300 {
        let text = request(
            "INVITE",
            &uri,
            &format!("<{uri}>"),
            me,
            &format!("st{number}"),
        );
        bytes_sent += stranger.send_to(text.as_bytes(), bridge.sip()).unwrap();
    }
    // Other lines and OPTIONS tell him nothing.
    let nobody = format!("sip:nobody@{}", bridge.sip());
    for method in ["INVITE", "OPTIONS", "REGISTER"] {
        let text = request(method, &nobody, &format!("<{nobody}>"), me, "nobody");
        stranger.send_to(text.as_bytes(), bridge.sip()).unwrap();
    }
    let mut calls = std::collections::BTreeSet::new();
    let mut bytes_heard = 0;
    let mut buffer = [0; 4_000];
    let end = Instant::now() + Duration::from_secs(3);
    while Instant::now() < end {
        let Ok(length) = stranger.recv(&mut buffer) else {
            continue;
        };
        bytes_heard += length;
        let message = Message::parse(&buffer[..length]).expect("SIP");
        assert!(message.status().is_some_and(|status| status <= 200));
        assert!(
            message
                .header("Server")
                .is_none_or(|server| server == "sipbridge")
        );
        calls.insert(message.header("Call-ID").unwrap().to_owned());
    }
    assert_eq!(calls.len(), 2, "{calls:?}");
    assert!(bytes_heard < bytes_sent, "{bytes_heard} for {bytes_sent}");
    // Two places are left, for the lines' server.
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    call.bye().await;
}

/// Whose address is forged is sent no more than was sent in his name, where
/// strangers are answered at all.
#[tokio::test(flavor = "multi_thread")]
async fn what_goes_back_to_a_forged_source_is_less_than_what_came() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis)
        .args(&["--accept", "any"])
        .start()
        .await;
    let victim = socket(STRANGER);
    let me = victim.local_addr().unwrap();
    let uri = format!("sip:{NUMBER}@{}", bridge.sip());
    let mut came_bytes = 0;
    for number in 0..100 {
        let method = ["OPTIONS", "INVITE", "SUBSCRIBE", "REGISTER"][number % 4];
        let text = request(method, &uri, &format!("<{uri}>"), me, &number.to_string());
        came_bytes += victim.send_to(text.as_bytes(), bridge.sip()).unwrap();
    }
    let (mut answers, mut back_bytes) = (0, 0);
    while let Ok(length) = victim.recv(&mut [0; 4_000]) {
        answers += 1;
        back_bytes += length;
    }
    assert!(answers > 0, "he is answered");
    assert!(back_bytes < came_bytes, "{back_bytes} for {came_bytes}");
}

/// A connection from an address.
fn connect(from: Ipv4Addr, to: SocketAddr) -> TcpStream {
    let kind = (socket2::Domain::IPV4, socket2::Type::STREAM);
    let socket = socket2::Socket::new(kind.0, kind.1, None).unwrap();
    socket.bind(&SocketAddr::from((from, 0)).into()).unwrap();
    socket.connect(&to.into()).unwrap();
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(SILENCE)).unwrap();
    stream
}

/// Whether the other side has closed it.
fn is_closed(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 100]) {
        Ok(0) => true,
        Ok(_) => false,
        Err(error) => error.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

fn tcp_options(stream: &TcpStream, number: u32) -> String {
    let me = stream.local_addr().unwrap();
    let text = request("OPTIONS", "sip:h", "<sip:h>", me, &format!("tcp{number}"));
    text.replace("SIP/2.0/UDP", "SIP/2.0/TCP")
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_of_a_stranger_are_few_and_short() {
    let mut setup = Setup::new();
    setup.transport = "tcp";
    let ws = ["--ws-target", "ws://127.0.0.1:9/"];
    let bridge = setup.args(&ws).start().await;
    let began = Instant::now();
    let mut idle: Vec<TcpStream> = (0..40).map(|_| connect(STRANGER, bridge.sip())).collect();
    for stream in &idle {
        let soon = Some(Duration::from_millis(20));
        stream.set_read_timeout(soon).unwrap();
    }
    until(SOON, "all but four are closed", async || {
        idle.retain_mut(|stream| !is_closed(stream));
        idle.len() <= 4
    })
    .await;
    assert_eq!(idle.len(), 4);
    assert_eq!(counted(&bridge, "connections").await, 36);

    // The lines' server has room.
    let mut trunk = connect(TRUNK, bridge.sip());
    trunk.write_all(tcp_options(&trunk, 1).as_bytes()).unwrap();
    let mut answer = [0; 200];
    let length = trunk.read(&mut answer).unwrap();
    assert!(answer[..length].starts_with(b"SIP/2.0 200"));

    // One of them drips: it is no better than those that say nothing.
    while began.elapsed() < Duration::from_secs(9) {
        assert!(idle[0].write_all(b"OPT").is_ok(), "not yet");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    until(SOON, "they are closed", async || {
        idle.retain_mut(|stream| !is_closed(stream));
        idle.is_empty()
    })
    .await;
    assert_eq!(counted(&bridge, "incomplete").await, 4);
    assert!(!is_closed(&mut trunk), "a message came over it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_first_message_over_tcp_closes_his_connection() {
    let mut setup = Setup::new();
    setup.transport = "tcp";
    let ws = ["--ws-target", "ws://127.0.0.1:9/"];
    let bridge = setup.args(&ws).start().await;
    let mut stranger = connect(STRANGER, bridge.sip());
    let text = tcp_options(&stranger, 1);
    stranger.write_all(text.as_bytes()).unwrap();
    assert!(is_closed(&mut stranger));
    assert_eq!(counted(&bridge, "unknown_source").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_list_of_methods_is_told_everywhere_and_no_version() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let trunk = socket(TRUNK);
    let me = trunk.local_addr().unwrap();
    let uri = format!("sip:{NUMBER}@{}", bridge.sip());
    let mut lists = std::collections::BTreeSet::new();
    let mut buffer = [0; 4_000];
    for (method, status) in [("OPTIONS", 200), ("SUBSCRIBE", 405), ("REGISTER", 405)] {
        let text = request(method, &uri, &format!("<{uri}>"), me, method);
        trunk.send_to(text.as_bytes(), bridge.sip()).unwrap();
        let length = trunk.recv(&mut buffer).unwrap();
        let message = Message::parse(&buffer[..length]).unwrap();
        assert_eq!(message.status(), Some(status));
        let version = env!("CARGO_PKG_VERSION");
        assert!(!String::from_utf8_lossy(&buffer[..length]).contains(version));
        lists.insert(message.header("Allow").unwrap().to_owned());
    }
    let mut call = Caller::invite(bridge.sip(), NUMBER, Offer::usual()).await;
    let answer = call.final_response().await;
    lists.insert(answer.header("Allow").unwrap().to_owned());
    call.bye().await;
    assert_eq!(lists.len(), 1, "{lists:?}");
    let list = lists.first().unwrap();
    assert!(
        !list.contains("SUBSCRIBE") && list.contains("INVITE"),
        "{list}"
    );
}

#[test]
fn a_line_whose_calls_nobody_would_hear_is_told_of() {
    let dir = tempfile::TempDir::new().unwrap();
    let file = |name: &str, text: String| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let mut line = line(LINE, "trunkuser1", NUMBER);
    line["sipDomain"] = "trunk.example.invalid".into();
    let lines = file(
        "lines.json",
        serde_json::Value::from(vec![line]).to_string(),
    );
    // Nobody listens there.
    let resolv_conf = file("resolv.conf", "nameserver 127.0.0.1:9\n".into());
    let told = "its calls would be refused: no address of its server trunk.example.invalid";
    let run = |subcommand: &str, more: &[&str]| {
        let mut command = clean_command();
        command.args([subcommand, "--lines", &lines, "--resolv-conf", &resolv_conf]);
        command.args(["--sip-port", "0", "--ws-target", "ws://127.0.0.1:9/"]);
        let output = command.args(more).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    for subcommand in ["check", "lines"] {
        let said = run(subcommand, &["--no-register"]);
        assert!(said.contains(told), "{said}");
        for enough in [
            &["--no-register", "--allow-from", "192.0.2.1"][..],
            &["--no-register", "--accept", "any"],
            &[],
        ] {
            let said = run(subcommand, enough);
            assert!(!said.contains(told), "{enough:?}: {said}");
        }
    }
}
