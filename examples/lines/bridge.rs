//! The bridge as a process: its lines file, its start, its health, its end.

use std::error::Error;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::available_parallelism;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sipbridge::core::private::Secret;
use sipbridge::lines::MasterKey;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Every line's password.
pub const PASSWORD: &str = "a-password-of-lines";
/// A key for this program alone.
const MASTER_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
/// Patience with one answer of the health page.
const HEALTH_MAX: Duration = Duration::from_secs(2);
/// Patience with the end of the bridge, which waits for its unregistrations.
const STOP_MAX: Duration = Duration::from_secs(30);

/// User name of a line, counted from 1.
pub fn user_of(line: usize) -> String {
    format!("user-{line}")
}

/// What the bridge is started with.
pub struct Setup<'a> {
    pub program: &'a Path,
    pub lines: usize,
    pub encrypted: bool,
    pub expires_s: u64,
    pub registrar: SocketAddr,
    pub worker: SocketAddr,
    /// Keep the lines in a database, imported from the file at the start.
    pub database: bool,
    /// Further flags.
    pub more: &'a [&'a str],
}

/// A running bridge; killed when dropped without [`Bridge::stop`].
pub struct Bridge {
    child: Child,
    /// When the program was started: its lines were encrypted before.
    pub started: Instant,
    /// Where it takes HTTP.
    pub api: SocketAddr,
    /// Where it takes SIP.
    pub sip: SocketAddr,
    folder: TempDir,
}

impl Bridge {
    /// Starts it.
    ///
    /// # Errors
    /// When the program is not there, or files cannot be written.
    pub fn start(setup: &Setup) -> Result<Self, Box<dyn Error>> {
        let folder = tempfile::tempdir()?;
        let lines = folder.path().join("lines.json");
        std::fs::write(&lines, serde_json::to_vec(&lines_of(setup)?)?)?;
        let (sip, api) = free_ports()?;
        let mut command = Command::new(setup.program);
        if setup.database {
            command.arg("--data-dir").arg(folder.path());
        }
        let started = Instant::now();
        let child = command
            .env_clear()
            .env("ENCRYPTION_KEY", MASTER_KEY)
            .args(["--bind", "127.0.0.1", "--api-bind", "127.0.0.1"])
            .args(["--sip-port", &sip.port().to_string()])
            .args(["--api-port", &api.port().to_string()])
            .args(["--sip-reg-timeout", &setup.expires_s.to_string()])
            .args(["--ws-target", &format!("ws://{}/media", setup.worker)])
            .arg("--lines")
            .arg(&lines)
            .args(setup.more)
            .stdout(Stdio::null())
            .stderr(File::create(folder.path().join("bridge.log"))?)
            .spawn()
            .map_err(|error| format!("{}: {error}", setup.program.display()))?;
        Ok(Self {
            child,
            started,
            api,
            sip,
            folder,
        })
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What its health page says; `None` while it does not answer.
    pub async fn health(&self) -> Option<Value> {
        let ask = async {
            let mut stream = TcpStream::connect(self.api).await?;
            let request = "GET /health HTTP/1.1\r\nHost: bridge\r\nConnection: close\r\n\r\n";
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            std::io::Result::Ok(answer)
        };
        let answer = timeout(HEALTH_MAX, ask).await.ok()?.ok()?;
        serde_json::from_str(answer.split_once("\r\n\r\n")?.1).ok()
    }

    /// Ends it with SIGTERM.
    ///
    /// # Errors
    /// When it does not end well, with the end of its log.
    pub fn stop(mut self) -> Result<(), Box<dyn Error>> {
        let pid = i32::try_from(self.child.id())?;
        let pid = rustix::process::Pid::from_raw(pid).ok_or("no process id")?;
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        let asked = Instant::now();
        while asked.elapsed() < STOP_MAX {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => {
                    let log = std::fs::read_to_string(self.folder.path().join("bridge.log"))?;
                    let lines: Vec<&str> = log.lines().collect();
                    let end = lines[lines.len().saturating_sub(10)..].join("\n");
                    return Err(format!("the bridge ended with {status}:\n{end}").into());
                }
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        }
        Err("the bridge does not end".into())
    }
}

impl Drop for Bridge {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The lines file; passwords are encrypted on all cores.
fn lines_of(setup: &Setup) -> Result<Vec<Value>, Box<dyn Error>> {
    let key = MasterKey::parse(MASTER_KEY)?;
    let secret = Secret::new(PASSWORD.to_owned());
    let line = |index: usize| {
        let id = format!("line-{index}");
        let password = if setup.encrypted {
            key.encrypt(&id, &secret)
        } else {
            PASSWORD.to_owned()
        };
        json!({
            "id": id,
            "restaurantId": format!("restaurant-{index}"),
            "phoneNumber": format!("+339{index:08}"),
            "provider": "sip",
            "sipDomain": setup.registrar.to_string(),
            "sipUsername": user_of(index),
            "sipPassword": password,
        })
    };
    let cores = available_parallelism().map_or(1, std::num::NonZero::get);
    let all: Vec<usize> = (1..=setup.lines).collect();
    std::thread::scope(|scope| {
        let parts: Vec<_> = all
            .chunks(setup.lines.div_ceil(cores))
            .map(|part| scope.spawn(|| part.iter().map(|index| line(*index)).collect::<Vec<_>>()))
            .collect();
        let mut lines = Vec::with_capacity(setup.lines);
        for part in parts {
            lines.extend(part.join().map_err(|_| "an encryption thread panicked")?);
        }
        Ok(lines)
    })
}

/// A free UDP port for SIP and a free TCP port for the API; somebody else may
/// take them until the bridge does, and then it says so.
fn free_ports() -> std::io::Result<(SocketAddr, SocketAddr)> {
    let sip = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let api = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    Ok((sip.local_addr()?, api.local_addr()?))
}
