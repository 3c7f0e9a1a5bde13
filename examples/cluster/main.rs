//! How long lines are without a bridge: starts a private Redis, a registrar that keeps one
//! contact of a line, and several bridges that share N lines; then kills one (or stops it
//! with SIGSTOP), again and again, and measures until the last of its lines is registered
//! by another.
//!
//! ```text
//! cargo build --release --examples --bins
//! cargo run --release --example cluster -- --lines 1000 --bridges 3 --rounds 5
//! cargo run --release --example cluster -- --lines 1000 --bridges 3 --rounds 5 --freeze
//! ```
//!
//! Loopback only; needs `redis-server`. A bridge that comes back within a minute gets its share only after
//! a minute, so that a round takes that long.

#[expect(dead_code, reason = "shared with the program that measures one bridge")]
#[path = "../lines/bridge.rs"]
mod bridge;
#[expect(dead_code, reason = "shared with the program that measures one bridge")]
#[path = "../lines/registrar.rs"]
mod registrar;
#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/sip_uac.rs"]
mod sip_uac;

use std::collections::BTreeMap;
use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use clap::Parser;
use rustix::process::{Pid, Signal, kill_process};

use bridge::{Bridge, PASSWORD, Setup, user_of};
use registrar::Registrar;

/// Looks at the registrar so often.
const POLL: Duration = Duration::from_millis(20);
/// Patience with lines that find their bridges.
const SETTLE_MAX: Duration = Duration::from_secs(240);
/// Nothing has moved for so long: the lines have found their bridges.
const STILL: Duration = Duration::from_secs(8);
/// The limit of a takeover.
const TAKEOVER_MAX: Duration = Duration::from_secs(20);

/// Measures how long the lines of a dead bridge are without one.
#[derive(Parser)]
struct Args {
    /// The bridge's program.
    #[arg(long, default_value = "target/release/sipbridge")]
    bridge: PathBuf,
    /// How many lines all bridges share.
    #[arg(long, default_value_t = 1_000)]
    lines: usize,
    /// How many bridges.
    #[arg(long, default_value_t = 3)]
    bridges: usize,
    /// How often one dies.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// SIGSTOP and SIGCONT instead of SIGKILL and a restart.
    #[arg(long)]
    freeze: bool,
}

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A private Redis; killed when dropped.
struct Redis {
    child: Child,
    url: String,
}

impl Redis {
    fn start() -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
            .local_addr()?
            .port();
        let child = Command::new("redis-server")
            .args([
                "--bind",
                "127.0.0.1",
                "--port",
                &port.to_string(),
                "--save",
                "",
            ])
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("redis-server: {error}"))?;
        let redis = Self {
            child,
            url: format!("redis://127.0.0.1:{port}"),
        };
        let started = Instant::now();
        while TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err() {
            if started.elapsed() > Duration::from_secs(5) {
                return Err("redis-server does not answer".into());
            }
            sleep(POLL);
        }
        Ok(redis)
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What is measured.
struct Stage<'a> {
    args: &'a Args,
    redis: Redis,
    registrar: Registrar,
    worker: SocketAddr,
}

impl Stage<'_> {
    fn start(&self, number: usize) -> Result<Bridge> {
        let name = format!("bridge-{number}");
        Bridge::start(&Setup {
            program: &self.args.bridge,
            lines: self.args.lines,
            encrypted: false,
            expires_s: 300,
            registrar: self.registrar.address,
            worker: self.worker,
            database: false,
            more: &[
                "--redis-url",
                &self.redis.url,
                "--dispatch",
                "push",
                "--node-id",
                &name,
            ],
        })
    }

    /// How many lines are registered at which SIP port.
    fn lines_by_port(&self) -> BTreeMap<u16, usize> {
        let notes = self.registrar.notes();
        let mut by_port = BTreeMap::new();
        for line in 1..=self.args.lines {
            let contact = notes
                .bindings
                .get(&user_of(line))
                .map(|binding| &binding.contact);
            let port = contact
                .and_then(|contact| port_of(contact))
                .unwrap_or_default();
            *by_port.entry(port).or_default() += 1;
        }
        by_port
    }

    /// Waits until each line is at one of these bridges, each has its share, and nothing moves any more.
    fn settle(&self, bridges: &[Bridge]) -> Result<()> {
        let began = Instant::now();
        let (mut before, mut since) = (BTreeMap::new(), Instant::now());
        while began.elapsed() < SETTLE_MAX {
            let now = self.lines_by_port();
            if now != before {
                (before, since) = (now, Instant::now());
            }
            let share = self.args.lines / bridges.len() / 2;
            let has_share = |bridge: &Bridge| before.get(&bridge.sip.port()) >= Some(&share);
            if since.elapsed() > STILL
                && before.len() == bridges.len()
                && bridges.iter().all(has_share)
            {
                return Ok(());
            }
            sleep(POLL);
        }
        Err(format!("the lines did not find their bridges: {before:?}").into())
    }

    /// Waits until no line is at this port; how long that took, and how many lines it was about.
    fn taken_over(&self, port: u16) -> Result<(Duration, usize)> {
        let began = Instant::now();
        let lines = self.lines_by_port().get(&port).copied().unwrap_or_default();
        while began.elapsed() < TAKEOVER_MAX {
            if !self.lines_by_port().contains_key(&port) {
                return Ok((began.elapsed(), lines));
            }
            sleep(POLL);
        }
        Err(format!("not taken over within {TAKEOVER_MAX:?}").into())
    }
}

fn port_of(contact: &str) -> Option<u16> {
    let host = contact.split('@').nth(1)?.split(';').next()?;
    host.trim_end_matches('>').rsplit(':').next()?.parse().ok()
}

fn signal(bridge: &Bridge, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(bridge.pid())?).ok_or("no process id")?;
    Ok(kill_process(pid, signal)?)
}

fn run(args: &Args) -> Result<Vec<f64>> {
    // Nobody is ever dialled.
    let worker = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let stage = Stage {
        args,
        redis: Redis::start()?,
        registrar: Registrar::start(Some(PASSWORD.to_owned()))?,
        worker: worker.local_addr()?,
    };
    let mut bridges = Vec::new();
    for number in 0..args.bridges {
        bridges.push(stage.start(number)?);
    }
    let mut seconds = Vec::new();
    for round in 0..args.rounds {
        stage.settle(&bridges)?;
        let victim = round % bridges.len();
        let port = bridges[victim].sip.port();
        let dies_by = if args.freeze {
            Signal::STOP
        } else {
            Signal::KILL
        };
        signal(&bridges[victim], dies_by)?;
        let (took, lines) = stage.taken_over(port)?;
        println!(
            "round {}: {lines} lines, the last one answers again after {:.2} s",
            round + 1,
            took.as_secs_f64()
        );
        seconds.push(took.as_secs_f64());
        if args.freeze {
            signal(&bridges[victim], Signal::CONT)?;
        } else {
            bridges[victim] = stage.start(victim)?;
        }
    }
    Ok(seconds)
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(mut seconds) => {
            seconds.sort_by(f64::total_cmp);
            if let (Some(median), Some(worst)) = (seconds.get(seconds.len() / 2), seconds.last()) {
                println!("median {median:.2} s, worst {worst:.2} s");
            }
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}
