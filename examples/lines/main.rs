//! What many lines cost: starts a registrar and the bridge with N lines, waits
//! until all are registered, lets them idle, calls one of them, stops the
//! bridge. A first run with one line is what the others are counted from. Then,
//! with `--api-lines`, a bridge with calls in progress gets lines through its
//! API (see `control`).
//!
//! ```text
//! cargo build --release --examples --bins
//! cargo run --release --example lines -- --lines 1000 --encrypted --digest
//! cargo run --release --example lines -- --lines 5000 --encrypted --digest \
//!     --database --idle-seconds 60 --api-lines 1000 --calls 200
//! ```
//!
//! Loopback only; it stops by itself. Exit code 0: every line was registered,
//! within the limits, and no rule was broken.

mod api_client;
mod bridge;
mod control;
mod registrar;
mod report;

#[expect(dead_code, reason = "shared with the load generator")]
#[path = "../load/process.rs"]
mod process;
#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/sip_uac.rs"]
mod sip_uac;

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

use bridge::{Bridge, Setup};
use process::Usage;
use registrar::{Keeps, Registrar};
use report::{EarlyCall, Invites, Reading, Report};
use sip_uac::{CallOptions, Uac};

/// Looks at the bridge's health so often.
const POLL: Duration = Duration::from_millis(100);
/// An INVITE without an answer is given up.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// After the last registration: what follows it is over.
const SETTLE: Duration = Duration::from_secs(1);

/// Measures what many registered lines cost.
#[derive(Parser)]
pub struct Args {
    /// The bridge's program.
    #[arg(long, default_value = "target/release/sipbridge")]
    bridge: PathBuf,
    /// How many lines.
    #[arg(long, default_value_t = 1_000)]
    lines: usize,
    /// Store their passwords encrypted: 20 ms of CPU for each, twice.
    #[arg(long)]
    encrypted: bool,
    /// Ask for digest authentication.
    #[arg(long)]
    digest: bool,
    /// Expiry that the bridge asks for; shorter than the run, refreshes are seen.
    #[arg(long, default_value_t = 300)]
    expires: u64,
    /// Call the last line as soon as the bridge serves, before it can have registered.
    #[arg(long)]
    early_call: bool,
    /// How long the registered lines are watched.
    #[arg(long, default_value_t = 10)]
    idle_seconds: u64,
    /// INVITEs to the first and to the last line.
    #[arg(long, default_value_t = 50)]
    invites: usize,
    /// Keep the lines in a database (SQLite), where the file is imported.
    #[arg(long)]
    database: bool,
    /// After that, add so many lines through the API while calls go on; 0: none.
    /// With --digest or --encrypted they have passwords, which the API encrypts.
    #[arg(long, default_value_t = 0)]
    api_lines: usize,
    /// Calls in progress meanwhile.
    #[arg(long, default_value_t = 200)]
    calls: u16,
    /// How long these calls last at most; the new lines must be registered by then.
    #[arg(long, default_value_t = 90)]
    call_seconds: u64,
    /// The load generator's program, which makes these calls.
    #[arg(long, default_value = "target/release/examples/load")]
    load: PathBuf,
    /// Write the report here as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    let one = run(&args, 1).await?;
    let many = run(&args, args.lines).await?;
    let control = match args.api_lines {
        0 => None,
        _ => Some(control::run(&args).await?),
    };
    let report = Report::new(&args, &one, &many, control.as_ref());
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report.0)?)?;
    }
    Ok(ExitCode::from(u8::from(!report.is_good())))
}

/// One bridge with so many lines, from its start to its end.
async fn run(args: &Args, lines: usize) -> Result<Reading, Box<dyn Error>> {
    let registrar = Registrar::start(args.digest.then(|| bridge::PASSWORD.to_owned()), Keeps::One)?;
    let workers = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let setup = Setup {
        program: &args.bridge,
        lines,
        encrypted: args.encrypted,
        expires_s: args.expires,
        registrar: registrar.address,
        worker: workers.local_addr()?,
        database: args.database,
        more: &[],
    };
    tokio::spawn(serve_workers(workers));
    let bridge = Bridge::start(&setup)?;
    let started = bridge.started;

    let most = Duration::from_secs(60 + lines as u64 / 10);
    let serving = until(most, &bridge, |health| health.is_some()).await?;
    let early = match args.early_call {
        true => Some(early_call(&registrar, &bridge, lines, started).await?),
        false => None,
    };
    let registered = until(most, &bridge, |health| {
        health.is_some_and(|health| health["lines"]["registered"] == lines)
    })
    .await?;
    sleep(SETTLE).await;

    let usage = || Usage::of(bridge.pid()).ok_or("the bridge is gone");
    let before = usage()?;
    let refreshed = registrar.notes().arrivals.len();
    sleep(Duration::from_secs(args.idle_seconds)).await;
    let after = usage()?;
    let idle_registers = registrar.notes().arrivals.len() - refreshed;

    let first = invites(args, &registrar, &bridge, 1).await?;
    let last = invites(args, &registrar, &bridge, lines).await?;
    bridge.stop()?;
    let first_register = registrar.notes().arrivals.first().copied();
    let first_register = first_register.ok_or("no REGISTER came")?;
    Ok(Reading {
        lines,
        serving: serving - started,
        first_register: first_register - started,
        early,
        registered: registered - started,
        idle_cpu_ms: after.cpu_ms - before.cpu_ms,
        idle_registers,
        rss_kb: after.rss_kb,
        threads: after.threads,
        first,
        last,
        registrar,
    })
}

/// Waits until the bridge's health is as wanted; the answer is when.
async fn until(
    most: Duration,
    bridge: &Bridge,
    wanted: impl Fn(Option<&serde_json::Value>) -> bool,
) -> Result<Instant, Box<dyn Error>> {
    let start = Instant::now();
    loop {
        let health = bridge.health().await;
        if wanted(health.as_ref()) {
            return Ok(Instant::now());
        }
        if start.elapsed() > most {
            return Err(format!("not there after {most:?}: {health:?}").into());
        }
        if Usage::of(bridge.pid()).is_none_or(|usage| usage.threads == 0) {
            return Err("the bridge ended".into());
        }
        sleep(POLL).await;
    }
}

/// Calls a line by its user, which needs no registration.
async fn early_call(
    registrar: &Registrar,
    bridge: &Bridge,
    line: usize,
    started: Instant,
) -> Result<EarlyCall, Box<dyn Error>> {
    let health = bridge.health().await.unwrap_or_default();
    let uac = Uac::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let mut options = CallOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
    options.proxy = Some(bridge.sip);
    let uri = format!("sip:{}@{}", bridge::user_of(line), registrar.address);
    let mut call = uac.call(&uri, options).await?;
    timeout(ANSWER_MAX, call.wait_answer())
        .await?
        .map_err(|rejection| format!("line {line}, before it registered: {rejection}"))?;
    let answered = started.elapsed();
    call.hangup().await?;
    Ok(EarlyCall {
        answered,
        decrypting: health["lines"]["decrypting"].as_u64().unwrap_or_default(),
    })
}

/// Calls a line by the Contact it registered, one call after the other.
async fn invites(
    args: &Args,
    registrar: &Registrar,
    bridge: &Bridge,
    line: usize,
) -> Result<Invites, Box<dyn Error>> {
    let uac = Uac::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await?;
    let contact = {
        let notes = registrar.notes();
        let contact = notes.contacts(&bridge::user_of(line)).last();
        contact.ok_or("the line has no Contact")?.to_owned()
    };
    let mut answers = Vec::with_capacity(args.invites);
    for _ in 0..args.invites {
        let mut options = CallOptions::new(SocketAddr::from((Ipv4Addr::LOCALHOST, 9)));
        options.proxy = Some(bridge.sip);
        let from = Instant::now();
        let mut call = uac.call(&contact, options).await?;
        timeout(ANSWER_MAX, call.wait_answer())
            .await?
            .map_err(|rejection| format!("line {line}: {rejection}"))?;
        answers.push(from.elapsed());
        call.hangup().await?;
    }
    Ok(Invites::new(answers, uac.faults()))
}

/// Takes the bridge's WebSockets and says nothing.
async fn serve_workers(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            use futures_util::StreamExt;
            let Ok(mut socket) = tokio_tungstenite::accept_async(stream).await else {
                return;
            };
            while let Some(Ok(_)) = socket.next().await {}
        });
    }
}
