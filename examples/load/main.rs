//! The load generator: N calls with RTP, and a worker that echoes them, in one
//! process with one clock. Every frame carries a stamp, so that each one's
//! way is known: caller, worker, caller.
//!
//! Against a bridge with `--ws-target ws://127.0.0.1:9000/media`:
//!
//! ```text
//! cargo run --release --example load -- --target sip:load@127.0.0.1:5060 \
//!     --push-port 9000 --calls 100 --rate 50 --seconds 30 --pid $(pidof sipbridge)
//! ```
//!
//! With `--redis-url` instead of `--push-port` it takes jobs and dials. PCMU
//! only, loopback or a local network only; it stops by itself.

mod clock;
mod compare;
mod echo;
mod engine;
mod leg;
mod process;
mod report;
mod stamp;
mod workers;
mod ws;

#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/sip_uac.rs"]
mod sip_uac;
#[expect(dead_code, reason = "shared with programs that use other parts of it")]
#[path = "../common/worker_jobs.rs"]
mod worker_jobs;

use std::error::Error;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::sync::mpsc;
use std::time::Duration;

use clap::{Parser, Subcommand};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use clock::Clock;
use engine::Command;
use leg::Leg;
use process::{Usage, machine_ticks};
use report::{Readings, Report, Signalling};
use sip_uac::{Call, CallEvent, CallOptions, Credentials, OfferCodec, Uac};

/// Commands that wait for the media thread, which looks every 2 ms.
const COMMANDS_QUEUED: usize = 1_024;
/// From the last call's answer to the steady part.
const SETTLE: Duration = Duration::from_secs(1);
/// From the last frame sent to the BYEs: what is on its way arrives.
const DRAIN: Duration = Duration::from_millis(700);

/// Calls a bridge many times at once and measures what it does.
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct Args {
    #[command(subcommand)]
    compare: Option<Task>,
    /// Who is called.
    #[arg(long, required = true, default_value = "")]
    target: String,
    /// How many calls.
    #[arg(long, default_value_t = 100)]
    calls: u16,
    /// How many calls are set up in a second.
    #[arg(long, default_value_t = 50.0)]
    rate: f64,
    /// Length of the steady part, when all calls are up.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Serve workers here, for a bridge that dials (push mode).
    #[arg(long, required_unless_present = "redis_url")]
    push_port: Option<u16>,
    /// Take jobs from here and dial (queue mode).
    #[arg(long)]
    redis_url: Option<String>,
    /// Name of the queue.
    #[arg(long, default_value = "queue:incoming_calls")]
    queue: String,
    /// The bridge's process, for its CPU time and memory.
    #[arg(long)]
    pid: Option<u32>,
    /// Our address, for SIP, RTP and workers.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    local: IpAddr,
    /// How many calls play the `clear` test; a twentieth when not given. 0 for
    /// a peer that cannot, such as the floor.
    #[arg(long)]
    clear_calls: Option<u16>,
    /// Digest user name.
    #[arg(long)]
    username: Option<String>,
    /// Digest password.
    #[arg(long, env = "SIP_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    /// Seconds to wait for each answer.
    #[arg(long, default_value_t = 40)]
    answer_timeout: u64,
    /// Heading of the table.
    #[arg(long, default_value = "bridge")]
    label: String,
    /// Write the report here as JSON too.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What else there is to do.
#[derive(Subcommand)]
enum Task {
    /// Puts reports of earlier runs side by side and judges the bridge's.
    Compare {
        /// Reports of the floor.
        #[arg(long, num_args = 1.., required = true)]
        floor: Vec<PathBuf>,
        /// Reports of the bridge.
        #[arg(long, num_args = 1.., required = true)]
        bridge: Vec<PathBuf>,
    },
}

/// Exit code 0: every call was up to the end and no frame was lost.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<std::process::ExitCode, Box<dyn Error>> {
    let args = Args::parse();
    if let Some(Task::Compare { floor, bridge }) = &args.compare {
        let met = compare::run(floor, bridge)?;
        return Ok(std::process::ExitCode::from(u8::from(!met)));
    }
    let report = measure(&args).await?;
    report.print();
    if let Some(path) = &args.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report.0)?)?;
    }
    let value = &report.0;
    let clean = value["calls"]["up"] == value["calls"]["asked"]
        && [
            "/frames/lostToWorker",
            "/frames/lostToCaller",
            "/calls/endedEarly",
        ]
        .iter()
        .all(|path| value.pointer(path).is_some_and(|count| count == 0));
    Ok(std::process::ExitCode::from(u8::from(!clean)))
}

async fn measure(args: &Args) -> Result<Report, Box<dyn Error>> {
    let clock = Clock::start();
    let (commands, inbox) = mpsc::sync_channel(COMMANDS_QUEUED);
    let clear_calls = args.clear_calls.unwrap_or((args.calls / 20).max(1));
    let calls = usize::from(args.calls);
    let media = std::thread::Builder::new()
        .name("media".into())
        .spawn(move || engine::run(clock, &inbox, calls, clear_calls))?;
    let workers = workers::start(
        args.local,
        args.push_port,
        args.redis_url.as_deref(),
        &args.queue,
        commands.clone(),
    )
    .await?;

    let uac = Uac::bind(SocketAddr::new(args.local, 0)).await?;
    let idle = args.pid.and_then(Usage::of);
    if let (Some(pid), None) = (args.pid, idle) {
        return Err(format!("no process {pid}").into());
    }
    let mut signalling = Signalling {
        calls,
        ..Signalling::default()
    };
    let mut up = ramp_up(args, &uac, clock, &commands, &mut signalling).await;
    sleep(SETTLE).await;
    let readings = steady_part(args, clock, &commands, idle).await;
    commands.send(Command::StopSending)?;
    sleep(DRAIN).await;
    for call in &mut up {
        while let Some(event) = call.try_event() {
            signalling.ended_early += u64::from(matches!(event, CallEvent::Bye { .. }));
        }
    }
    hang_up(up, &mut signalling).await;
    signalling.faults = uac.faults();
    commands.send(Command::Finish)?;
    workers.abort();
    let notes = media.join().map_err(|_| "the media thread panicked")??;
    Ok(Report::new(&args.label, &signalling, &notes, &readings))
}

/// Sets up all calls at the wanted rate; returns those that were answered.
async fn ramp_up(
    args: &Args,
    uac: &Uac,
    clock: Clock,
    commands: &mpsc::SyncSender<Command>,
    signalling: &mut Signalling,
) -> Vec<Call> {
    let start = Instant::now();
    let mut pending = JoinSet::new();
    for index in 0..args.calls {
        sleep_until(start + Duration::from_secs_f64(f64::from(index) / args.rate)).await;
        let credentials = args.username.clone().map(|username| Credentials {
            username,
            password: args.password.clone().unwrap_or_default(),
        });
        let (uac, commands) = (uac.clone(), commands.clone());
        let target = args.target.clone();
        let wait = Duration::from_secs(args.answer_timeout);
        let frames =
            (args.seconds as usize + 10 + usize::from(args.calls) / args.rate as usize) * 50;
        let local = args.local;
        pending.spawn(async move {
            let call = set_up(
                index,
                &uac,
                &target,
                local,
                credentials,
                clock,
                &commands,
                frames,
            );
            timeout(wait, call)
                .await
                .map_err(|_| "no answer in time".to_owned())?
        });
    }
    let mut up = Vec::new();
    while let Some(result) = pending.join_next().await {
        match result
            .map_err(|error| error.to_string())
            .and_then(|call| call)
        {
            Ok(call) => up.push(call),
            Err(reason) => *signalling.failures.entry(reason).or_default() += 1,
        }
    }
    signalling.up = up.len();
    up
}

#[expect(
    clippy::too_many_arguments,
    reason = "one call's whole setup, used once"
)]
async fn set_up(
    index: u16,
    uac: &Uac,
    target: &str,
    local: IpAddr,
    credentials: Option<Credentials>,
    clock: Clock,
    commands: &mpsc::SyncSender<Command>,
    frames: usize,
) -> Result<Call, String> {
    let failed = |error: std::io::Error| format!("RTP socket: {error}");
    let socket = UdpSocket::bind((local, 0)).map_err(failed)?;
    socket.set_nonblocking(true).map_err(failed)?;
    let mut options = CallOptions::new(socket.local_addr().map_err(failed)?);
    options.codecs = vec![OfferCodec::pcmu()];
    options.from_user = format!("+3361{index:07}");
    options.credentials = credentials;
    let invited_ns = clock.now_ns();
    let mut call = uac
        .call(target, options)
        .await
        .map_err(|error| error.to_string())?;
    let answer = call
        .wait_answer()
        .await
        .map_err(|rejection| rejection.to_string())?;
    let answered_ns = clock.now_ns();
    let media = answer.media.ok_or("answer without usable SDP")?;
    let payload_type = media
        .audio_payload_type()
        .ok_or("answer without audio codec")?;
    let mut leg = Leg::new(index, socket, media.address, payload_type, frames);
    (leg.invited_ns, leg.answered_ns) = (invited_ns, answered_ns);
    commands
        .send(Command::Call(Box::new(leg)))
        .map_err(|_| "the media thread is gone")?;
    Ok(call)
}

async fn steady_part(
    args: &Args,
    clock: Clock,
    commands: &mpsc::SyncSender<Command>,
    idle: Option<Usage>,
) -> Readings {
    let usage = || {
        (
            args.pid.and_then(Usage::of),
            Usage::of(std::process::id()).unwrap_or_default(),
        )
    };
    let length = Duration::from_secs(args.seconds);
    let (bridge_from, generator_from) = usage();
    let (idle_from, total_from) = machine_ticks();
    let from_ns = clock.now_ns();
    // A media thread that ended early shows when it is joined.
    let _ = commands.send(Command::Measure {
        until_ns: from_ns + length.as_nanos() as u64,
    });
    sleep(length).await;
    let until_ns = clock.now_ns();
    let (bridge_until, generator_until) = usage();
    let (idle_until, total_until) = machine_ticks();
    let total = (total_until - total_from).max(1) as f64;
    Readings {
        from_ns,
        until_ns,
        bridge: idle
            .zip(bridge_from.zip(bridge_until))
            .map(|(idle, (from, until))| [idle, from, until]),
        generator: [generator_from, generator_until],
        machine_idle: (idle_until - idle_from) as f64 / total,
    }
}

async fn hang_up(calls: Vec<Call>, signalling: &mut Signalling) {
    let mut pending = JoinSet::new();
    for call in calls.into_iter().filter(|call| !call.is_over()) {
        pending.spawn(async move { call.hangup().await });
        // 2 ms apart: 500 BYEs a second.
        sleep(Duration::from_millis(2)).await;
    }
    while let Some(result) = pending.join_next().await {
        if let Ok(Err(error)) = result {
            *signalling
                .failures
                .entry(format!("BYE: {error}"))
                .or_default() += 1;
        }
    }
}
