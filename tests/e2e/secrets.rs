//! No secret in any output: passwords, the master key, tokens and phone
//! numbers, at the highest log level, in text and in JSON, in good and bad
//! weather, and neither in the API nor (but for the job's token) in Redis.

use std::time::Duration;

use serde_json::json;

use crate::harness::bridge::{
    KEY, LINE, NUMBER, PASSWORD, Setup, USERNAME, check, clean_command, encrypt, line,
};
use crate::harness::caller::CALLER_NUMBER;
use crate::harness::peers::{TrunkLine, local};
use crate::harness::{Caller, Job, Kamailio, Redis, SOON, Worker, http, sound, until};

/// Fails when one of the secrets stands anywhere in the text; the message does
/// not repeat the text, only where it was.
fn assert_clean(place: &str, text: &str, secrets: &[(&str, &str)]) {
    for (name, secret) in secrets {
        if let Some(at) = text.find(secret) {
            let line = text[..at].matches('\n').count() + 1;
            let start = text[..at].rfind('\n').map_or(0, |newline| newline + 1);
            panic!(
                "{name} leaks into {place}, line {line}: {}…",
                &text[start..at]
            );
        }
    }
}

async fn run(format: &str) {
    let redis = Redis::start();
    let trunk = Kamailio::start(
        &[TrunkLine {
            username: USERNAME,
            password: PASSWORD,
            number: NUMBER,
        }],
        &[],
    );
    let data = tempfile::TempDir::new().unwrap();
    let mut setup = Setup::queue(&redis)
        .args(&[
            "--log-format",
            format,
            "--data-dir",
            data.path().to_str().unwrap(),
        ])
        .env("RUST_LOG", "trace")
        .line_field("sipPassword", json!(encrypt(LINE, PASSWORD)))
        .trunk(trunk.port);
    // A line with a plain password, and one whose credential is broken.
    let mut plain = line("line-plain", "trunkuser9", "+33142999999");
    plain["sipPassword"] = json!("plain-Pass-Word");
    let mut broken = line("line-broken", "trunkuser8", "+33142888888");
    broken["sipPassword"] = json!(encrypt("line-other", "hidden-Pass-Word"));
    setup.lines.extend([plain, broken]);
    let mut bridge = setup.start().await;
    until(SOON, "registered", async || {
        trunk.log().contains("registered at")
    })
    .await;

    let mut call = Caller::connect(local(trunk.port), NUMBER).await;
    let job = Job::take(&redis).await;
    let mut worker = Worker::attach(&job).await;
    let path = format!("/media-stream/{}?token={}", job.text("callId"), job.token());
    http::upgrade(bridge.stream_port, &path).await;
    call.player().play(&sound::numbered(0, 10)).await;
    worker.send(&json!({"event": "transfer", "streamSid": worker.stream_sid,
        "transfer": {"destination": "+33155667788"}}));
    worker.listen(Duration::from_millis(300)).await;
    if call.ended_at().is_none() {
        call.request("BYE", "", "").await;
    }
    let health = bridge.health().await.body;
    bridge.process.signal("TERM");
    bridge.exit(Duration::from_secs(15)).await;

    let secrets = [
        ("the line's password", PASSWORD),
        ("a plain password", "plain-Pass-Word"),
        ("a password that cannot be decrypted", "hidden-Pass-Word"),
        ("the master key", KEY),
        ("the token", job.token()),
        ("the caller's number", &CALLER_NUMBER[1..]),
        ("the line's number", &NUMBER[1..]),
        ("the transfer's destination", "33155667788"),
    ];
    let output = bridge.output();
    assert!(output.len() > 2_000, "the log was really on");
    assert_clean("the log", &output, &secrets);
    assert_clean("/health", &health, &secrets);
    let dump = redis_dump(&redis).await;
    assert!(dump.contains("call:"), "Redis was really read");
    assert_clean("Redis", &dump, &secrets[..5]);
    let output = output.to_lowercase();
    assert!(
        output.contains("line-broken"),
        "the broken line is told by its id"
    );
    assert!(
        output.contains("line-plain"),
        "the plain password is warned about by line id"
    );
    assert!(
        !output.contains("authorization: digest"),
        "no digest in the log"
    );
}

/// Every key with its value, as text.
async fn redis_dump(redis: &Redis) -> String {
    let keys: Vec<String> = redis.query(&["KEYS", "*"]).await;
    let mut dump = String::new();
    for key in keys {
        let kind: String = redis.query(&["TYPE", &key]).await;
        let value: redis::Value = match kind.as_str() {
            "hash" => redis.query(&["HGETALL", &key]).await,
            "set" => redis.query(&["SMEMBERS", &key]).await,
            "list" => redis.query(&["LRANGE", &key, "0", "-1"]).await,
            "stream" => redis.query(&["XRANGE", &key, "-", "+"]).await,
            _ => redis.query(&["GET", &key]).await,
        };
        dump += &format!("{key} = {value:?}\n");
    }
    dump
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_into_a_text_log() {
    run("text").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_leaks_into_a_json_log() {
    run("json").await;
}

#[test]
fn mistakes_on_the_command_line_do_not_repeat_secrets() {
    type Environment<'a> = &'a [(&'a str, &'a str)];
    let attempts: &[(&[&str], Environment<'_>)] = &[
        (&["--encryption-key", "abc123-too-short"], &[]),
        (
            &["--redis-url", "redis://user:redis-Pass@127.0.0.1:1/"],
            &[],
        ),
        (&["--sip-password", "flag-Pass-Word", "--no-such-flag"], &[]),
        (
            &["--sip-password", "flag-Pass-Word", "--api-port", "none"],
            &[],
        ),
        (
            &["check"],
            &[
                ("ENCRYPTION_KEY", "abc123-too-short"),
                ("SIP_PASSWORD", "flag-Pass-Word"),
                ("REDIS_URL", "redis://user:redis-Pass@127.0.0.1:1/"),
            ],
        ),
    ];
    for (args, env) in attempts {
        let output = clean_command()
            .args(*args)
            .args(["--rtp-ports", "nonsense"])
            .env("RUST_LOG", "trace")
            .envs(env.iter().copied())
            .output()
            .unwrap();
        assert!(!output.status.success(), "{args:?} must be refused");
        let text = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(!text.trim().is_empty(), "{args:?} is explained");
        assert_clean(
            &format!("the answer to {args:?}"),
            &text,
            &[
                ("the key", "abc123-too-short"),
                ("the Redis password", "redis-Pass"),
                ("the SIP password", "flag-Pass-Word"),
            ],
        );
    }
}

/// A password that a file holds in clear, of a lines file and of a variable's `_FILE`, goes
/// no further than into the memory of the bridge.
#[tokio::test(flavor = "multi_thread")]
async fn a_clear_password_is_encrypted_on_its_way_into_the_database() {
    let data = tempfile::TempDir::new().unwrap();
    let path = |name: &str| data.path().join(name);
    std::fs::write(path("password"), "file-Token-for-the-API\n").unwrap();
    let url = format!("sqlite://{}", path("lines.db").display());
    let bridge = Setup::new()
        .args(&["--ws-target", "ws://127.0.0.1:9/", "--database-url", &url])
        .env("API_TOKEN_FILE", &path("password").display().to_string())
        .line_field("sipPassword", json!("clear-Pass-Word"))
        .start()
        .await;
    let told = bridge.output();
    assert!(
        told.contains("passwords in the lines file are in clear"),
        "{told}"
    );
    bridge.shut_down().await;
    let mut stored = Vec::new();
    for entry in std::fs::read_dir(data.path()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "password" {
            stored.extend(std::fs::read(entry.path()).unwrap());
        }
    }
    let stored = String::from_utf8_lossy(&stored);
    assert!(stored.contains(USERNAME), "the line is stored");
    let secrets = [
        ("password", "clear-Pass-Word"),
        ("token", "file-Token-for-the-API"),
    ];
    assert_clean("the database", &stored, &secrets);
}

#[test]
fn a_secret_on_the_command_line_is_warned_of_and_its_variable_is_not() {
    let said = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = check(&["--ws-target", "ws://127.0.0.1:9/"]);
        let output = command.args(args).envs(env.iter().copied());
        let output = output.output().unwrap();
        String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr)
    };
    let warned = "--sip-password (SIP_PASSWORD) stands on the command line";
    let shown = said(&["--sip-password", "flag-Pass-Word"], &[]);
    assert!(shown.contains(warned), "{shown}");
    let shown = said(&[], &[("SIP_PASSWORD", "flag-Pass-Word")]);
    assert!(!shown.contains("command line"), "{shown}");
}
