//! Private Redis and Kamailio: free ports, files in a temporary folder, ended
//! by process id when dropped.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::RngExt;
use tempfile::TempDir;

/// A process that ends with its owner.
pub struct Process {
    pub child: Child,
    name: &'static str,
}

impl Process {
    /// Starts a command with its output in `log`.
    pub fn start(name: &'static str, command: Command, log: &Path) -> Self {
        let out = File::create(log).unwrap();
        let err = out.try_clone().unwrap();
        Self::start_into(name, command, out.into(), err.into())
    }

    /// Starts a command with its output somewhere else.
    pub fn start_into(name: &'static str, mut command: Command, out: Stdio, err: Stdio) -> Self {
        command
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            // Its own children go with it when it must be killed.
            .process_group(0)
            // Kamailio lives in sbin, which is not on every user's path.
            .env(
                "PATH",
                format!(
                    "{}:/usr/sbin:/sbin",
                    std::env::var("PATH").unwrap_or_default()
                ),
            );
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}; run vendor/packages.sh test"));
        Self { child, name }
    }

    /// Sends a signal by its name, such as `TERM`.
    pub fn signal(&self, signal: &str) {
        send_signal(self.child.id(), signal);
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Ends it: TERM, then KILL after two seconds, for its children, too: those of a
    /// Kamailio that is killed alone go on for ever.
    pub fn stop(&mut self) {
        if !self.is_running() {
            return;
        }
        self.signal("CONT");
        self.signal("TERM");
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.is_running() {
            if Instant::now() > deadline {
                signal_to(format!("-{}", self.child.id()), "KILL");
                let _ = self.child.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.stop();
        let _ = self.name;
    }
}

/// Sends a signal to one process by its id.
pub fn send_signal(pid: u32, signal: &str) {
    signal_to(pid.to_string(), signal);
}

/// The same to what kill(1) calls a pid: with a minus before it, a whole process group.
fn signal_to(target: String, signal: &str) {
    let status = Command::new("kill")
        .args([format!("-{signal}"), "--".into(), target])
        .stderr(Stdio::null())
        .status();
    assert!(status.is_ok(), "kill is missing");
}

/// An address of this machine.
pub fn local(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// A port that is free for TCP and UDP, drawn below the ephemeral range so
/// that tests running side by side seldom meet.
pub fn free_port() -> u16 {
    loop {
        let port = rand::rng().random_range(20_000..32_000);
        if TcpListener::bind(local(port)).is_ok() && UdpSocket::bind(local(port)).is_ok() {
            return port;
        }
    }
}

/// The first of `count` ports that are free for UDP, even.
pub fn free_udp_range(count: u16) -> u16 {
    'draw: loop {
        let first = rand::rng().random_range(5_000..9_500) * 2;
        for port in first..first + count {
            if UdpSocket::bind(local(port)).is_err() {
                continue 'draw;
            }
        }
        return first;
    }
}

/// Blocks until a TCP port accepts.
pub fn wait_for_tcp(name: &str, port: u16) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while TcpStream::connect(local(port)).is_err() {
        assert!(Instant::now() < deadline, "{name} did not open port {port}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A Redis of one test.
pub struct Redis {
    pub port: u16,
    /// More of its command line.
    pub options: Vec<String>,
    process: Option<Process>,
    dir: TempDir,
}

impl Redis {
    /// Starts Redis on a free port.
    pub fn start() -> Self {
        loop {
            let mut redis = Self::absent();
            redis.come_up();
            // A port that was free when it was drawn may be another test's Redis by now.
            if redis.is_ours() {
                return redis;
            }
        }
    }

    /// Whether it is our process that answers on the port.
    fn is_ours(&self) -> bool {
        let ask = || -> std::io::Result<String> {
            let mut stream = TcpStream::connect(local(self.port))?;
            stream.write_all(b"INFO server\r\nQUIT\r\n")?;
            let mut told = String::new();
            stream.read_to_string(&mut told)?;
            Ok(told)
        };
        let pid = self.process.as_ref().map(|process| process.child.id());
        let own = format!("\r\nprocess_id:{}\r\n", pid.unwrap_or_default());
        ask().is_ok_and(|told| told.contains(&own))
    }

    /// A port where Redis may come up later.
    pub fn absent() -> Self {
        Self {
            port: free_port(),
            options: Vec::new(),
            process: None,
            dir: TempDir::new().unwrap(),
        }
    }

    /// Starts it on its port.
    pub fn come_up(&mut self) {
        let mut command = Command::new("redis-server");
        command
            .args(["--bind", "127.0.0.1", "--port", &self.port.to_string()])
            .args(["--save", "", "--appendonly", "no", "--daemonize", "no"])
            .args(&self.options)
            .current_dir(self.dir.path());
        let log = self.dir.path().join("redis.log");
        self.process = Some(Process::start("redis-server", command, &log));
        wait_for_tcp("redis-server", self.port);
    }

    /// Stops it; all data is lost.
    pub fn go_away(&mut self) {
        self.process = None;
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// A connection for the test's own commands.
    pub async fn connect(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.url()).unwrap();
        // The library's limit is shorter than BRPOP may wait.
        let config = redis::AsyncConnectionConfig::new().set_response_timeout(None);
        let connection = client.get_multiplexed_async_connection_with_config(&config);
        connection.await.unwrap()
    }

    /// Runs one command.
    pub async fn query<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut connection = self.connect().await;
        let mut query = redis::cmd(command[0]);
        for argument in &command[1..] {
            query.arg(*argument);
        }
        query.query_async(&mut connection).await.unwrap()
    }
}

/// A line that the trunk knows.
pub struct TrunkLine<'a> {
    pub username: &'a str,
    pub password: &'a str,
    pub number: &'a str,
}

/// A Kamailio of one test: registrar with digest authentication, and proxy.
pub struct Kamailio {
    /// UDP and TCP.
    pub port: u16,
    /// TLS, with the variant `WITH_TLS`.
    pub tls_port: u16,
    process: Option<Process>,
    dir: TempDir,
    variants: Vec<&'static str>,
}

impl Kamailio {
    /// Starts the trunk of `tests/real/kamailio.cfg`; see there for `variants`.
    pub fn start(lines: &[TrunkLine<'_>], variants: &[&'static str]) -> Self {
        let dir = TempDir::new().unwrap();
        let config = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/real/kamailio.cfg");
        std::fs::copy(config, dir.path().join("kamailio.cfg")).unwrap();
        let mut table = String::from("event_route[htable:mod-init] {\n");
        for line in lines {
            table += &format!(
                "$sht(passwords=>{}) = \"{}\";\n$sht(numbers=>{}) = \"{}\";\n",
                line.username, line.password, line.number, line.username
            );
        }
        std::fs::write(dir.path().join("trunk-lines.cfg"), table + "}\n").unwrap();
        if variants.contains(&"WITH_TLS") {
            make_certificate(dir.path());
        }
        let mut kamailio = Self {
            port: free_port(),
            tls_port: free_port(),
            process: None,
            dir,
            variants: variants.to_vec(),
        };
        kamailio.come_up();
        kamailio
    }

    /// Starts it on its port, with no registration known.
    pub fn come_up(&mut self) {
        let dir = self.dir.path();
        let mut command = Command::new("kamailio");
        command.args(["-DD", "-E", "-m", "32", "-M", "4"]);
        command.arg("-f").arg(dir.join("kamailio.cfg"));
        command.arg("-Y").arg(dir).arg("-w").arg(dir);
        for transport in ["udp", "tcp"] {
            command.args(["-l", &format!("{transport}:127.0.0.1:{}", self.port)]);
        }
        if self.variants.contains(&"WITH_TLS") {
            command.args(["-l", &format!("tls:127.0.0.1:{}", self.tls_port)]);
        }
        for variant in &self.variants {
            command.args(["-A", variant]);
        }
        let log = dir.join("kamailio.log");
        self.process = Some(Process::start("kamailio", command, &log));
        wait_for_tcp("kamailio", self.port);
    }

    /// Stops it: REGISTER and calls go unanswered.
    pub fn go_away(&mut self) {
        self.process = None;
    }

    /// Its own certificate, which is its own root.
    pub fn certificate(&self) -> String {
        self.dir.path().join("trunk.pem").display().to_string()
    }

    /// The key to it.
    pub fn key(&self) -> String {
        self.dir.path().join("trunk.key").display().to_string()
    }

    /// What it logged: registrations, and where calls were relayed.
    pub fn log(&self) -> String {
        let text = std::fs::read(self.dir.path().join("kamailio.log")).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }
}

/// Makes `trunk.pem` and `trunk.key` for localhost.
fn make_certificate(dir: &Path) {
    let output = Command::new("openssl")
        .args([
            "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2",
        ])
        .args([
            "-subj",
            "/CN=localhost",
            "-keyout",
            "trunk.key",
            "-out",
            "trunk.pem",
        ])
        .args(["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"])
        .current_dir(dir)
        .output()
        .unwrap_or_else(|error| panic!("openssl: {error}"));
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
