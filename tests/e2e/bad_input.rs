//! Foreign input that is wrong: each gets a clear message or is ignored, never
//! a crash, a hang or a silent wrong result.

use std::net::{TcpListener, UdpSocket};

use serde_json::{Value, json};
use tokio_tungstenite::tungstenite::Message;

use crate::harness::bridge::{KEY, LINE, NUMBER, Setup, clean_command, line};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::free_port;
use crate::harness::sipp::Sipp;
use crate::harness::{Caller, Exit, Job, Redis, SOON, Worker, http, sound, until};

#[tokio::test(flavor = "multi_thread")]
async fn malformed_sip_never_stops_it() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let me = socket.local_addr().unwrap();
    let good = format!(
        "INVITE sip:{NUMBER}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {me};branch=z9hG4bKbad\r\n\
         From: <sip:a@{me}>;tag=1\r\nTo: <sip:{NUMBER}@127.0.0.1>\r\nCall-ID: bad@test\r\n\
         CSeq: 1 INVITE\r\nContact: <sip:a@{me}>\r\nContent-Length: 0\r\n\r\n"
    );
    let mut bad: Vec<Vec<u8>> = vec![
        b"\r\n\r\n".to_vec(),
        vec![0; 1_400],
        vec![0xff; 60_000],
        b"INVITE".to_vec(),
        good.replace("CSeq: 1 INVITE\r\n", "").into_bytes(),
        good.replace("CSeq: 1", "CSeq: 99999999999999999999")
            .into_bytes(),
        good.replace("Content-Length: 0", "Content-Length: -1")
            .into_bytes(),
        good.replace("Content-Length: 0", "Content-Length: 999999")
            .into_bytes(),
        good.replace("Call-ID: bad@test\r\n", "").into_bytes(),
        good.replace("SIP/2.0\r\nVia", "SIP/9.9\r\nVia")
            .into_bytes(),
        good.replace("sip:+", "sip:%00%ff%zz+").into_bytes(),
        good.replace("INVITE", "\u{0}\u{1}FROB").into_bytes(),
        good.replace("<sip:a@", "<sip:[::::").into_bytes(),
        good.replace(
            "\r\n\r\n",
            &format!("\r\nX-Long: {}\r\n\r\n", "y".repeat(30_000)),
        )
        .into_bytes(),
    ];
    // Cut the good one short at every place, too.
    bad.extend(
        (1..good.len())
            .step_by(7)
            .map(|end| good.as_bytes()[..end].to_vec()),
    );
    for datagram in &bad {
        let _ = socket.send_to(datagram, bridge.sip());
    }
    Sipp::new("options", NUMBER).pass(bridge.sip()).await;
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    // What was not so bad after all may have become a call of its own.
    let mut job = Job::take(&redis).await;
    while job.text("from") != CALLER_NUMBER {
        job = Job::take(&redis).await;
    }
    let mut worker = Worker::attach(&job).await;
    call.bye().await;
    worker.listen_to_end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn malformed_worker_messages_are_ignored_and_the_call_goes_on() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    let stream = worker.stream_sid.clone();
    for text in [
        "",
        "{",
        "null",
        "[1]",
        "{\"event\":7}",
        "{\"event\":\"nonsense\"}",
    ] {
        worker.send_raw(Message::text(text));
    }
    worker.send_raw(Message::binary(vec![1, 2, 3]));
    worker.send_raw(Message::Ping(vec![7; 20].into()));
    for message in [
        json!({"event": "media", "media": {"payload": "AAAA"}}),
        json!({"event": "media", "streamSid": "MZother", "media": {"payload": "AAAA"}}),
        json!({"event": "media", "streamSid": stream}),
        json!({"event": "media", "streamSid": stream, "media": {"payload": "not base64!"}}),
        json!({"event": "media", "streamSid": stream, "media": {"payload": 5}}),
        json!({"event": "media", "streamSid": stream, "media": {"payload": ""}}),
        json!({"event": "mark", "streamSid": stream}),
        json!({"event": "mark", "streamSid": stream, "mark": {"name": null}}),
        json!({"event": "clear"}),
        json!({"event": "dtmf", "streamSid": stream, "dtmf": {"digits": "xyz!"}}),
        json!({"event": "transfer", "streamSid": stream, "transfer": {}}),
    ] {
        worker.send(&message);
    }
    let reply = sound::numbered(0, 20).concat();
    worker.media(&reply);
    worker.mark("still here");
    assert_eq!(
        worker.next_of("mark").await.json["mark"]["name"],
        "still here"
    );
    call.rtp.hears(&reply, SOON).await;
    assert!(call.ended_at().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_audio_is_bounded_and_other_calls_do_not_notice() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    let flooded = Caller::connect(bridge.sip(), NUMBER).await;
    let flooder = Worker::serve(&redis).await;
    let other = Caller::connect(bridge.sip(), NUMBER).await;
    let mut listener = Worker::serve(&redis).await;
    // 30 minutes of audio, in messages of 30 s.
    for _ in 0..60 {
        flooder.media(&[0x11; 240_000]);
    }
    let question = sound::numbered(0, 50);
    let mut player = other.player();
    player.play(&question).await;
    listener.hears(&question.concat(), SOON).await;
    assert!(flooded.ended_at().is_none());
    let memory = memory_bytes(bridge.pid());
    assert!(memory < 200 << 20, "{} MB", memory >> 20);
}

/// Resident memory of a process.
fn memory_bytes(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    let kilobytes: u64 = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    kilobytes << 10
}

#[tokio::test(flavor = "multi_thread")]
async fn strange_http_does_no_harm() {
    let redis = Redis::start();
    let bridge = Setup::queue(&redis).start().await;
    for path in [
        "/",
        "/media-stream/",
        "/media-stream/x?token=",
        "/media-stream/CA?token=%00",
    ] {
        let answer = http::upgrade(bridge.stream_port, path).await.unwrap();
        assert!(
            (400..500).contains(&answer.status),
            "{path}: {}",
            answer.status
        );
    }
    let long = format!("/{}", "a".repeat(100_000));
    let _ = http::get(bridge.stream_port, &long).await;
    let _ = http::get(bridge.api_port, &long).await;
    assert_eq!(
        http::get(bridge.api_port, "/nothing").await.unwrap().status,
        404
    );
    assert_eq!(bridge.health().await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_ends_it() {
    let redis = Redis::start();
    let tcp = TcpListener::bind("127.0.0.1:0").unwrap();
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    for (flag, port) in [
        ("--api-port", tcp.local_addr().unwrap().port()),
        ("--stream-port", tcp.local_addr().unwrap().port()),
        ("--sip-port", udp.local_addr().unwrap().port()),
    ] {
        let mut bridge = Setup::queue(&redis)
            .args(&[flag, &port.to_string()])
            .spawn();
        let exit = bridge.exit(SOON).await;
        assert_eq!(exit, Exit { code: Some(1) }, "{flag}: {}", bridge.output());
        let output = bridge.output();
        assert!(
            output.contains(&port.to_string()),
            "{flag}: names the port:\n{output}"
        );
        assert!(output.contains("in use"), "{flag}: says why:\n{output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn mistakes_in_the_lines_file_are_told_and_good_lines_start() {
    let redis = Redis::start();
    let mut setup = Setup::queue(&redis);
    let mut no_user = line("line-nouser", "x", "+33142000010");
    no_user.as_object_mut().unwrap().remove("sipUsername");
    let mut tampered = line("line-tampered", "u11", "+33142000011");
    tampered["sipPassword"] = json!("AAAAAAAAAAAAAAAA:AAAAAAAAAAAAAAAAAAAAAA==:AAAA");
    let mut odd = line("line-odd", "u12", "+33142000012");
    odd["isActive"] = json!("perhaps");
    setup.lines.extend([no_user, tampered, odd]);
    let bridge = setup.start().await;
    for (line, field) in [
        ("line-nouser", "sipUsername"),
        ("line-tampered", "sipPassword"),
        ("line-odd", "isActive"),
    ] {
        // A password is decrypted when the bridge is up already.
        until(
            SOON,
            &format!("{line} and {field} in one line"),
            async || {
                let output = bridge.output();
                let mut lines = output.lines();
                lines.any(|text| text.contains(line) && text.contains(field))
            },
        )
        .await;
    }
    assert!(bridge.output().contains("lines.json"), "the file is named");
    let mut call = Caller::connect(bridge.sip(), NUMBER).await;
    let mut worker = Worker::serve(&redis).await;
    call.bye().await;
    worker.listen_to_end().await;
}

/// Runs `sipbridge check` with a lines file; returns its exit code and output.
fn check(lines: &Value, extra: &[&str], key: Option<&str>) -> (Option<i32>, String) {
    let dir = tempfile::TempDir::new().unwrap();
    let file = dir.path().join("lines.json");
    std::fs::write(&file, lines.to_string()).unwrap();
    let mut command = clean_command();
    command.args(["check", "--lines"]).arg(&file).args(extra);
    if let Some(key) = key {
        command.env("ENCRYPTION_KEY", key);
    }
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.code(), text)
}

#[tokio::test(flavor = "multi_thread")]
async fn check_tells_good_from_bad_without_starting() {
    let redis = Redis::start();
    let mut good = line(LINE, "u1", NUMBER);
    good["sipDomain"] = json!("127.0.0.1");
    good["sipPassword"] = json!(crate::harness::bridge::encrypt(LINE, "pass"));
    let all_good = json!([good]);
    let url = redis.url();
    let (code, text) = check(&all_good, &["--redis-url", &url], Some(KEY));
    assert_eq!(code, Some(0), "{text}");

    let (code, text) = check(&all_good, &[], Some(&"0".repeat(64)));
    assert_eq!(code, Some(1), "wrong key: {text}");
    assert!(text.contains(LINE), "{text}");
    let (code, text) = check(&all_good, &[], Some("short"));
    assert_eq!(code, Some(1), "short key: {text}");
    assert!(text.contains("64"), "says what a key is: {text}");
    let (code, text) = check(&all_good, &[], None);
    assert_eq!(code, Some(1), "no key: {text}");
    let nobody = format!("redis://127.0.0.1:{}/", free_port());
    let (code, text) = check(&all_good, &["--redis-url", &nobody], Some(KEY));
    assert_eq!(code, Some(1), "no Redis: {text}");
    let (code, text) = check(&json!({"not": "a list"}), &[], Some(KEY));
    assert_eq!(code, Some(1), "{text}");
}
