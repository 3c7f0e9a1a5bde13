//! The command line as an operator meets it: the real program, its exit
//! codes, and what it says. No network but loopback; nothing is registered.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails there")]

use std::io::Write;
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sipbridge::lines::MasterKey;

const KEY: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const PASSWORD: &str = "hunter2-Pa§§";

/// A run of the program with an empty environment and this input.
fn run_with(arguments: &[&str], environment: &[(&str, &str)], input: &[u8]) -> Output {
    let mut child = Command::new(env!("CARGO_BIN_EXE_sipbridge"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut stdin = child.stdin.take().expect("piped");
    // A program that ends without reading closes the pipe.
    let _ = stdin.write_all(input);
    drop(stdin);
    child.wait_with_output().expect("the program ends")
}

fn run(arguments: &[&str]) -> Output {
    run_with(arguments, &[], b"")
}

fn out(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("UTF-8")
}

fn err(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("UTF-8")
}

fn code(output: &Output) -> i32 {
    output.status.code().expect("not killed by a signal")
}

struct LinesDir(tempfile::TempDir);

impl LinesDir {
    fn new(json: &str) -> Self {
        let directory = Self(tempfile::tempdir().expect("temporary directory"));
        std::fs::write(directory.path(), json).expect("written");
        directory
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("lines.json")
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// `check` on loopback with ports that the system chooses, and these flags.
fn check(flags: &[&str]) -> Output {
    let least = [
        "check",
        "--bind",
        "127.0.0.1",
        "--sip-port",
        "0",
        "--api-port",
        "0",
        "--ws-target",
        "ws://127.0.0.1:9/",
    ];
    run(&[&least[..], flags].concat())
}

#[test]
fn help_and_version_explain_themselves() {
    let help = run(&["--help"]);
    assert_eq!(code(&help), 0);
    for part in [
        "--sip-domain",
        "[env: REDIS_URL]",
        "[default: 10000-20000]",
        "check",
        "encrypt",
    ] {
        assert!(out(&help).contains(part), "{part} is missing from help");
    }
    let version = run(&["--version"]);
    assert_eq!(
        (code(&version), out(&version)),
        (0, format!("sipbridge {}\n", env!("CARGO_PKG_VERSION")))
    );
}

#[test]
fn help_never_shows_what_the_environment_holds() {
    let environment = [
        ("SIP_PASSWORD", PASSWORD),
        ("ENCRYPTION_KEY", KEY),
        ("REDIS_URL", "redis://:hunter2@h"),
    ];
    for arguments in [
        &["--help"][..],
        &["check", "--help"],
        &["encrypt", "--help"],
    ] {
        let help = out(&run_with(arguments, &environment, b""));
        assert!(!help.contains("hunter2") && !help.contains(KEY));
    }
}

#[test]
fn unknown_flags_are_wrong_usage() {
    let output = run(&["--sip-domian", "x"]);
    assert_eq!(code(&output), 2);
    assert!(err(&output).contains("--sip-domian"));
    assert_eq!(code(&run(&["--sip-domain"])), 2, "a flag without its value");
}

#[test]
fn every_mistake_is_named_at_once_and_nothing_starts() {
    let environment = [
        ("API_PORT", "high"),
        ("REDIS_URL", "localhost:6379"),
        ("SIP_PASSWORD", PASSWORD),
    ];
    let output = run_with(
        &["--vad", "--callback-timeout", "61", "--rtp-ports", "9"],
        &environment,
        b"",
    );
    assert_eq!(code(&output), 2);
    let shown = err(&output);
    for part in [
        "--vad (VAD) is not built yet",
        "--callback-timeout (CALLBACK_TIMEOUT) must be a number of seconds from 0.1 to 60",
        "--rtp-ports (RTP_PORTS) must be two ports",
        "--api-port (API_PORT) must be a whole number from 0 to 65535",
        "--redis-url (REDIS_URL) must be a URL such as redis://127.0.0.1:6379/0",
        "--sip-password (SIP_PASSWORD) needs --sip-username",
        "there is no phone line",
    ] {
        assert!(shown.contains(part), "{part} is missing from:\n{shown}");
    }
    assert!(!shown.contains("hunter2"));
}

#[test]
fn encrypt_prints_the_stored_form_and_nothing_else() {
    let key = MasterKey::parse(KEY).expect("valid");
    for (input, password) in [
        (format!("{PASSWORD}\n"), PASSWORD),
        (" a b ".into(), " a b "),
    ] {
        let output = run_with(
            &["encrypt", "--line-id", "line-7"],
            &[("ENCRYPTION_KEY", KEY)],
            input.as_bytes(),
        );
        assert_eq!((code(&output), err(&output)), (0, String::new()));
        let stored = out(&output);
        let opened = key.decrypt("line-7", stored.trim_end()).expect("decrypts");
        assert_eq!(opened.expose(), password);
    }
}

#[test]
fn encrypt_refuses_an_empty_password_and_a_bad_key() {
    let with = |environment: &[(&str, &str)], input: &[u8]| {
        run_with(&["encrypt", "--line-id", "1"], environment, input)
    };
    let empty = with(&[("ENCRYPTION_KEY", KEY)], b"\n");
    assert_eq!((code(&empty), out(&empty)), (1, String::new()));
    assert!(err(&empty).contains("is empty"));
    let missing = with(&[], b"pw");
    assert_eq!(code(&missing), 2);
    assert!(err(&missing).contains("--encryption-key (ENCRYPTION_KEY) is missing"));
    let short = with(
        &[("ENCRYPTION_KEY", "c0ffee"), ("SIP_PORT", "nonsense")],
        b"pw",
    );
    assert_eq!(code(&short), 2);
    assert!(err(&short).contains("must be 64 hex digits") && !err(&short).contains("c0ffee"));
    assert_eq!(
        code(&run_with(&["encrypt"], &[("ENCRYPTION_KEY", KEY)], b"pw")),
        2
    );
}

#[test]
fn check_is_content_with_what_is_usable() {
    let output = check(&[
        "--sip-domain",
        "sip.example.com",
        "--sip-username",
        "0033",
        "--sip-password",
        PASSWORD,
    ]);
    let shown = out(&output);
    assert_eq!(code(&output), 0, "{shown}");
    assert!(
        shown.contains("ok       line \"default\": at sip.example.com by udp, password usable"),
        "{shown}"
    );
    // Passwords on the command line are readable by everybody on the machine.
    assert!(shown.contains("warning  --sip-password (SIP_PASSWORD) stands on the command line"));
    assert!(shown.contains("usable, with 2 warning(s)"));
    assert!(!shown.contains("hunter2"));
}

/// Workers' transfers are judged by the country of the line.
#[test]
fn check_warns_where_every_transfer_would_be_refused() {
    let file = LinesDir::new(
        r#"[{"id":"known","sipDomain":"a.example","sipUsername":"1","phoneNumber":"+33972360682"},
            {"id":"national","sipDomain":"a.example","sipUsername":"2","phoneNumber":"0972360683"},
            {"id":"none","sipDomain":"a.example","sipUsername":"3"}]"#,
    );
    let path = file.path();
    let warns = |flags: &[&str]| {
        let shown = out(&check(&[&["--lines", text(&path)], flags].concat()));
        shown.contains("warning  line \"national\" (and 1 more): its country is not known")
    };
    assert!(warns(&[]));
    assert!(warns(&["--allow-dial", "own-country"]));
    for flags in [
        &["--country", "FR"][..],
        &["--allow-dial", "FR"],
        &["--trust-worker-transfers"],
    ] {
        assert!(!warns(flags), "{flags:?}");
    }
}

#[test]
fn check_reports_each_line_and_shows_no_password() {
    let key = MasterKey::parse(KEY).expect("valid");
    let stored = key.encrypt(
        "good",
        &sipbridge::core::private::Secret::new(PASSWORD.into()),
    );
    let file = LinesDir::new(&format!(
        r#"[{{"id":"good","sipDomain":"a.example","sipUsername":"1","sipPassword":"{stored}"}},
            {{"id":"moved","sipDomain":"a.example","sipUsername":"2","sipPassword":"{stored}"}},
            {{"id":"plain","sipDomain":"a.example","sipUsername":"3","sipPassword":"hunter2"}},
            {{"id":"typo","sipDomain":"a.example","sipUsername":4}},
            {{"id":"off","isActive":false}}]"#
    ));
    let path = file.path();
    let output = check(&["--lines", text(&path), "--encryption-key", KEY]);
    let shown = out(&output);
    assert_eq!(code(&output), 1, "{shown}");
    for part in [
        "ok       line \"good\": at a.example by udp, password usable",
        "error    line \"moved\": field \"sipPassword\": the encrypted password does not decrypt",
        "warning  line \"plain\": its password is stored in clear",
        "lines.json: line \"typo\" (entry 4): field \"sipUsername\" must be a string, is a number",
        "lines left out: 1 inactive, 0 of provider twilio",
        "not usable: 2 error(s), 3 warning(s)",
    ] {
        assert!(shown.contains(part), "{part} is missing from:\n{shown}");
    }
    assert!(!shown.contains("hunter2") && !shown.contains(&stored) && !shown.contains(KEY));
}

#[test]
fn check_reports_sounds_that_cannot_be_read() {
    let file = LinesDir::new(
        r#"[{"id":"a","sipDomain":"a.example","sipUsername":"1","greeting":"/no/hello.wav",
             "announcement":"/no/sorry.wav"},
            {"id":"b","sipDomain":"a.example","sipUsername":"2","announcement":7}]"#,
    );
    let output = check(&["--lines", text(&file.path())]);
    let shown = out(&output);
    assert_eq!(code(&output), 1, "{shown}");
    for part in [
        "error    line \"a\": field \"greeting\": /no/hello.wav: ",
        "error    line \"a\": field \"announcement\": /no/sorry.wav: ",
        "line \"b\" (entry 2): field \"announcement\" must be a string, is a number",
        "not usable: 3 error(s)",
    ] {
        assert!(shown.contains(part), "{part} is missing from:\n{shown}");
    }
}

#[test]
fn check_says_where_a_lines_file_is_broken() {
    let file = LinesDir::new("[\n{\"id\": 1\n\"x\": 2}]");
    let output = check(&["--lines", text(&file.path())]);
    assert_eq!(code(&output), 1);
    assert!(
        out(&output).contains("is not valid JSON: expected `,` or `}` at line 3 column 1"),
        "{}",
        out(&output)
    );
}

#[test]
fn check_finds_ports_that_are_taken() {
    let sip = UdpSocket::bind("127.0.0.1:0").expect("free port");
    let api = TcpListener::bind("127.0.0.1:0").expect("free port");
    let sip_port = sip.local_addr().expect("bound").port();
    let api_port = api.local_addr().expect("bound").port().to_string();
    let output = run(&[
        "check",
        "--bind",
        "127.0.0.1",
        "--sip-port",
        &sip_port.to_string(),
        "--api-port",
        &api_port,
        "--rtp-ports",
        "2000-2100",
        "--ws-target",
        "ws://h",
        "--sip-domain",
        "d.example",
        "--sip-username",
        "u",
    ]);
    let shown = out(&output);
    assert_eq!(code(&output), 1, "{shown}");
    assert!(shown.contains(&format!(
        "error    --sip-port: 127.0.0.1:{sip_port} UDP cannot be bound: another program"
    )));
    assert!(shown.contains(&format!(
        "error    --api-port: 127.0.0.1:{api_port} TCP cannot be bound: another program"
    )));
}

#[test]
fn check_asks_redis_and_shows_no_password_of_it() {
    // A port that nothing listens on: bound once, and let go.
    let port = TcpListener::bind("127.0.0.1:0")
        .and_then(|l| l.local_addr())
        .expect("free port")
        .port();
    let url = format!("redis://:hunter2@127.0.0.1:{port}/0");
    let output = check(&[
        "--sip-domain",
        "d.example",
        "--sip-username",
        "u",
        "--redis-url",
        &url,
        "--stream-port",
        "0",
    ]);
    let shown = out(&output);
    assert_eq!(code(&output), 1, "{shown}");
    let expected = format!(
        "error    --redis-url: redis://***@127.0.0.1:{port}/0: no job can be pushed: it cannot be reached"
    );
    assert!(shown.contains(&expected), "{shown}");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Whatever else is wrong, no secret given by flag or variable comes back.
    #[test]
    fn no_secret_is_ever_printed(secret in "Zz[a-z0-9:@/%?# ]{6,16}qQ", subcommand in any::<bool>(), by_flag in any::<bool>()) {
        let redis = format!("redis://:{secret}@127.0.0.1:1/{secret}");
        let ws = format!("ws://u:{secret}@h/?{secret}");
        let values = [
            ("sip-password", "SIP_PASSWORD", secret.as_str()),
            ("turn-password", "TURN_PASSWORD", &secret),
            ("encryption-key", "ENCRYPTION_KEY", &secret),
            ("redis-url", "REDIS_URL", &redis),
            ("ws-target", "WS_TARGET", &ws),
        ];
        let flags: Vec<String> = values.iter().map(|(flag, _, value)| format!("--{flag}={value}")).collect();
        let mut arguments = if subcommand { vec!["check", "--api-port", "0", "--sip-port", "0"] } else { vec![] };
        let environment: Vec<_> = values.iter().map(|(_, env, value)| (*env, *value)).collect();
        let output = if by_flag {
            arguments.extend(flags.iter().map(String::as_str));
            run_with(&arguments, &[], b"")
        } else {
            run_with(&arguments, &environment, b"")
        };
        prop_assert_ne!(code(&output), 0);
        let shown = format!("{}{}", out(&output), err(&output));
        prop_assert!(!shown.contains(&secret), "{}", shown);
        let core = secret.trim_start_matches("Zz").trim_end_matches("qQ").trim();
        prop_assert!(core.len() < 6 || !shown.contains(core), "{}", shown);
    }
}

/// A private Redis with a password, ended with the test.
struct Redis {
    child: std::process::Child,
    port: u16,
    _directory: tempfile::TempDir,
}

impl Redis {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let port = TcpListener::bind("127.0.0.1:0")
            .and_then(|listener| listener.local_addr())
            .expect("free port")
            .port();
        let child = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--save",
                "",
                "--requirepass",
                "hunter2",
            ])
            .args(["--port", &port.to_string(), "--daemonize", "no"])
            .current_dir(directory.path())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server is installed");
        let redis = Self {
            child,
            port,
            _directory: directory,
        };
        let is_up = || TcpStream::connect(("127.0.0.1", port)).is_ok();
        let deadline = Instant::now() + Duration::from_secs(10);
        while !is_up() {
            assert!(Instant::now() < deadline, "Redis does not start");
            std::thread::sleep(Duration::from_millis(10));
        }
        redis
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn check_talks_to_a_real_redis() {
    let redis = Redis::start();
    for (password, expected_code, expected) in [
        (
            "hunter2",
            0,
            "ok       --redis-url: redis://***@127.0.0.1:PORT/ answers, and takes jobs",
        ),
        (
            "hunter3",
            1,
            "error    --redis-url: redis://***@127.0.0.1:PORT/: no job can be pushed: user or password refused",
        ),
        (
            "",
            1,
            "error    --redis-url: redis://127.0.0.1:PORT/: no job can be pushed: user or password refused",
        ),
    ] {
        let user = if password.is_empty() {
            String::new()
        } else {
            format!(":{password}@")
        };
        let url = format!("redis://{user}127.0.0.1:{}/", redis.port);
        let output = check(&[
            "--sip-domain",
            "d.example",
            "--sip-username",
            "u",
            "--redis-url",
            &url,
            "--stream-port",
            "0",
        ]);
        let shown = out(&output);
        assert_eq!(code(&output), expected_code, "{shown}");
        let expected = expected.replace("PORT", &redis.port.to_string());
        assert!(
            shown.contains(&expected),
            "{expected} is missing from:\n{shown}"
        );
        assert!(!shown.contains("hunter"));
    }
}
