//! The real `sipbridge` as a process: how a test sets it up, waits for it,
//! signals it, and looks at what it said and left behind.

use std::fs::File;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::http;
use super::peers::{Process, free_port, free_udp_range, local};

/// Master key of the tests, 64 hex digits.
pub const KEY: &str = "7a1f00c3d95be2864f0e6bd1a8c3957240e1f6ab83d2c95e17b4a6085fd3c921";
/// The line that every test has unless it says otherwise.
pub const LINE: &str = "line-1";
/// Its restaurant.
pub const RESTAURANT: &str = "resto-7";
/// Its user name at the trunk.
pub const USERNAME: &str = "trunkuser1";
/// Its number.
pub const NUMBER: &str = "+33972360682";
/// Its password at the trunk.
pub const PASSWORD: &str = "s3cr3t-Trunk-Pass";

/// UDP ports for RTP and RTCP of one bridge.
const RTP_PORTS: u16 = 120;

/// How a bridge is started.
#[derive(Clone)]
pub struct Setup {
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub lines: Vec<Value>,
    /// Where lines register; `None` starts with `--no-register`.
    pub trunk_port: Option<u16>,
    pub transport: &'static str,
    /// Hard limit of its file descriptors.
    pub descriptors: Option<u32>,
    /// A program that runs it, with its arguments; none where empty.
    pub under: Vec<String>,
}

impl Setup {
    /// One line, direct calls, no trunk, no queue.
    pub fn new() -> Self {
        Self {
            args: Vec::new(),
            env: Vec::new(),
            lines: vec![line(LINE, USERNAME, NUMBER)],
            trunk_port: None,
            transport: "udp",
            descriptors: None,
            under: Vec::new(),
        }
    }

    /// As [`Setup::new`], with a queue.
    pub fn queue(redis: &super::Redis) -> Self {
        Self::new().args(&["--redis-url", &redis.url()])
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Registers the lines at a trunk on this machine.
    pub fn trunk(mut self, port: u16) -> Self {
        self.trunk_port = Some(port);
        self
    }

    /// Adds a line.
    pub fn line(mut self, line: Value) -> Self {
        self.lines.push(line);
        self
    }

    /// Lets it have so many file descriptors and no more.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Sets a field of the first line.
    pub fn line_field(mut self, field: &str, value: Value) -> Self {
        self.lines[0][field] = value;
        self
    }

    /// Starts it and waits until it says that it is up: `/health` answers before
    /// SIP does. A port that was free a moment ago may be another test's by now:
    /// then it is started again, on others.
    pub async fn start(self) -> Bridge {
        for _ in 0..3 {
            let mut bridge = self.clone().spawn();
            let Err(output) = bridge.comes_up().await else {
                return bridge;
            };
            assert!(
                output.contains("Address already in use"),
                "the bridge did not come up:\n{output}"
            );
        }
        panic!("the bridge found three times a port in use");
    }

    /// Starts it without waiting.
    pub fn spawn(self) -> Bridge {
        self.spawn_saying(None)
    }

    /// As [`Setup::spawn`], with standard error somewhere else than in the log file.
    pub fn spawn_saying(mut self, stderr: Option<Stdio>) -> Bridge {
        let dir = TempDir::new().unwrap();
        for line in &mut self.lines {
            if line.get("sipDomain").is_none() {
                line["sipDomain"] = json!(match self.trunk_port {
                    Some(port) => format!("127.0.0.1:{port}"),
                    None => "127.0.0.1".to_owned(),
                });
            }
        }
        let lines_file = dir.path().join("lines.json");
        std::fs::write(&lines_file, Value::Array(self.lines.clone()).to_string()).unwrap();

        let (sip_port, api_port, stream_port) = (free_port(), free_port(), free_port());
        let rtp_first = free_udp_range(RTP_PORTS);
        let mut args: Vec<String> = vec![
            "--bind".into(),
            "127.0.0.1".into(),
            "--sip-port".into(),
            sip_port.to_string(),
            "--sip-transport".into(),
            self.transport.into(),
            "--api-port".into(),
            api_port.to_string(),
            "--stream-port".into(),
            stream_port.to_string(),
            "--rtp-ports".into(),
            format!("{rtp_first}-{}", rtp_first + RTP_PORTS - 1),
            "--node-id".into(),
            "node-e2e".into(),
        ];
        if !self.lines.is_empty() {
            args.extend(["--lines".into(), lines_file.display().to_string()]);
        }
        if self.trunk_port.is_none() {
            args.push("--no-register".into());
        }
        // A test's own flag comes instead of the usual one, not beside it.
        for flag in self.args.iter().filter(|arg| arg.starts_with("--")) {
            if let Some(at) = args.iter().position(|arg| arg == flag) {
                args.drain(at..at + 2);
            }
        }
        args.extend(self.args);

        let log = dir.path().join("bridge.log");
        let mut command = limited(clean_command(), self.descriptors);
        if !self.under.is_empty() {
            command = run_by(&self.under, &command);
        }
        command.args(&args).env("ENCRYPTION_KEY", KEY);
        command.envs(self.env);
        command.current_dir(dir.path());
        let out = File::create(&log).unwrap();
        // A minute, or as long as valgrind takes.
        let minutes = if self.under.is_empty() { 1 } else { 5 };
        let stderr = stderr.unwrap_or_else(|| out.try_clone().unwrap().into());
        Bridge {
            process: Process::start_into("sipbridge", command, out.into(), stderr),
            sip_port,
            api_port,
            stream_port,
            rtp_ports: (rtp_first, rtp_first + RTP_PORTS - 1),
            log,
            comes_up_within: Duration::from_secs(60 * minutes),
            _dir: dir,
        }
    }
}

/// The binary, with nothing of the tester's environment that it would read.
pub fn clean_command() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sipbridge"));
    command.env_clear();
    for name in ["PATH", "HOME", "TMPDIR", "LANG", "SIPBRIDGE_TEST_RUN"] {
        if let Ok(value) = std::env::var(name) {
            command.env(name, value);
        }
    }
    command.env("RUST_BACKTRACE", "1");
    command.env("RUST_LOG", "debug");
    // A test machine may well be late; only tests of an overload look at it.
    command.env("MAX_LATE_MS", "0");
    command
}

/// `sipbridge check` with one line, no port, and these flags.
pub fn check(more: &[&str]) -> Command {
    let mut command = clean_command();
    command.args(["check", "--sip-domain", "d.example", "--sip-username", "u"]);
    command.args(["--sip-port", "0", "--stream-port", "0", "--api-port", "0"]);
    command.args(more);
    command
}

/// The same command with a hard limit of file descriptors: `prlimit` sets it
/// and becomes the program, so that the process id is the bridge's.
fn limited(command: Command, descriptors: Option<u32>) -> Command {
    let Some(limit) = descriptors else {
        return command;
    };
    let prlimit = ["prlimit".to_owned(), format!("--nofile={limit}:{limit}")];
    run_by(&prlimit, &command)
}

/// A command as the last arguments of another one, in the same environment.
fn run_by(program: &[String], command: &Command) -> Command {
    let mut outer = Command::new(&program[0]);
    outer.args(&program[1..]);
    outer.arg(command.get_program()).args(command.get_args());
    outer.env_clear();
    let envs = command.get_envs();
    outer.envs(envs.filter_map(|(name, value)| Some((name, value?))));
    outer
}

/// A phone line as the lines file has it, with a plain password.
pub fn line(id: &str, username: &str, number: &str) -> Value {
    json!({
        "id": id,
        "restaurantId": RESTAURANT,
        "phoneNumber": number,
        "provider": "sip",
        "sipUsername": username,
        "sipPassword": PASSWORD,
        "isActive": true,
    })
}

/// What `sipbridge encrypt` makes of a password.
pub fn encrypt(line: &str, password: &str) -> String {
    use std::io::Write;
    let mut child = clean_command()
        .args(["encrypt", "--line-id", line])
        .env("ENCRYPTION_KEY", KEY)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    writeln!(stdin, "{password}").unwrap();
    drop(stdin);
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "sipbridge encrypt failed");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// How a process ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; `None` when a signal ended it.
    pub code: Option<i32>,
}

/// A running bridge.
pub struct Bridge {
    pub process: Process,
    pub sip_port: u16,
    pub api_port: u16,
    pub stream_port: u16,
    pub rtp_ports: (u16, u16),
    log: PathBuf,
    comes_up_within: Duration,
    _dir: TempDir,
}

impl Bridge {
    /// Waits until it says that it is up; else what it said.
    async fn comes_up(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + self.comes_up_within;
        while !self.output().contains("sipbridge is up") {
            if !self.process.is_running() || Instant::now() > deadline {
                return Err(self.output());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }

    pub fn sip(&self) -> SocketAddr {
        local(self.sip_port)
    }

    pub fn pid(&self) -> u32 {
        self.process.child.id()
    }

    /// The file that `--lines` names.
    pub fn lines_file(&self) -> PathBuf {
        self.log.with_file_name("lines.json")
    }

    /// Everything it wrote to standard output and standard error.
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap()).into_owned()
    }

    /// `/health`, whatever its status.
    pub async fn health(&self) -> http::Response {
        http::get(self.api_port, "/health").await.unwrap()
    }

    /// Waits for its end; panics with its output when it does not come.
    pub async fn exit(&mut self, limit: Duration) -> Exit {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.process.child.try_wait().unwrap() {
                return Exit {
                    code: status.code(),
                };
            }
            assert!(
                Instant::now() < deadline,
                "the bridge did not end within {limit:?}:\n{}",
                tail(&self.output(), 40)
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// TERM, and then its exit code must be 0 and nothing may be left.
    pub async fn shut_down(mut self) {
        self.process.signal("TERM");
        let exit = self.exit(Duration::from_secs(15)).await;
        assert_eq!(exit.code, Some(0), "{}", tail(&self.output(), 40));
        self.assert_nothing_left();
    }

    /// After its end: every port can be bound again, no child lives on.
    pub fn assert_nothing_left(&self) {
        for port in [self.sip_port, self.api_port, self.stream_port] {
            assert!(
                becomes_free(|| bind_tcp(port)),
                "TCP port {port} is still held"
            );
        }
        for port in std::iter::once(self.sip_port).chain(self.rtp_ports.0..=self.rtp_ports.1) {
            assert!(
                becomes_free(|| UdpSocket::bind(local(port)).is_ok()),
                "UDP port {port} is still held"
            );
        }
        let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", self.pid()));
        assert!(children.is_err(), "the process is still there");
    }
}

/// The system may have lent the port to a peer of another test for a while;
/// one that the bridge left behind would stay held.
fn becomes_free(can_bind: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !can_bind() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    true
}

/// A TIME_WAIT of a finished connection is no open port.
fn bind_tcp(port: u16) -> bool {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_reuse_address(true).unwrap();
    socket.bind(&local(port).into()).is_ok()
}

impl Drop for Bridge {
    /// A failing test shows what the bridge said.
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("-- the bridge's last words:\n{}", tail(&self.output(), 60));
        }
    }
}

/// The last lines of a text.
pub fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}
