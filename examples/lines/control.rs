//! Lines that come through the API while calls are in progress: a bridge with
//! a database and one line, calls made by the load generator, then
//!
//! 1. `GET /api/calls` many times over one connection;
//! 2. `POST phone-lines` for each new line, until the registrar has them all.
//!
//! The load generator judges the calls' audio: the gap between packets to a
//! caller, over the whole time that the lines are added in.

use std::error::Error;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::time::sleep;

use crate::Args;
use crate::api_client::Client;
use crate::bridge::{self, Bridge, Setup};
use crate::registrar::{Keeps, Registrar};

const LINES: &str = "/api/admin/telephony/phone-lines";
/// Calls set up in a second; one of several lines has a share of 50.
const CALL_RATE: u32 = 40;
/// `GET /api/calls` so many times.
const GETS: usize = 1_000;
/// New lines are posted over so many connections at once.
const POSTERS: usize = 4;
/// Patience with the calls, beyond the time that setting them up takes.
const CALLS_UP_MAX: Duration = Duration::from_secs(20);

/// Limits of the issue.
const REGISTERED_MAX_S: f64 = 60.0;
const GAP_P99_MAX_MS: f64 = 23.0;
const GET_P99_MAX_MS: f64 = 5.0;

/// What was found.
pub struct Control {
    lines: usize,
    calls: u16,
    posted_s: f64,
    registered_s: f64,
    gets_ms: Vec<f64>,
    load: Value,
    faults: Vec<String>,
}

/// One bridge, from its start to its end.
///
/// # Errors
/// When something does not start, or does not come to what is waited for.
pub async fn run(args: &Args) -> Result<Control, Box<dyn Error>> {
    let registrar = Registrar::start(args.digest.then(|| bridge::PASSWORD.to_owned()), Keeps::One)?;
    let worker = free_tcp()?;
    let setup = Setup {
        program: &args.bridge,
        lines: 1,
        encrypted: args.encrypted,
        expires_s: args.expires,
        registrar: registrar.address,
        worker,
        database: true,
        more: &[],
    };
    let bridge = Bridge::start(&setup)?;
    let registered = |count: usize| {
        let registrar = &registrar;
        move || registrar.notes().bindings.len() >= count
    };
    wait("the first line", Duration::from_secs(20), registered(1)).await?;

    let folder = tempfile::tempdir()?;
    let report = folder.path().join("load.json");
    let mut load = Load::start(args, &bridge, worker, &report)?;
    let setting_up = Duration::from_secs(u64::from(args.calls) / u64::from(CALL_RATE));
    calls_up(&bridge, args.calls, setting_up + CALLS_UP_MAX).await?;

    let gets_ms = get_calls(&bridge, args.calls).await?;
    let begun = Instant::now();
    post_lines(args, &bridge, registrar.address).await?;
    let posted_s = begun.elapsed().as_secs_f64();
    let most = Duration::from_secs(args.call_seconds);
    wait("all lines", most, registered(args.api_lines + 1)).await?;
    let registered_s = begun.elapsed().as_secs_f64();

    let load = load.finish(&report).await?;
    let faults = registrar.notes().faults.clone();
    bridge.stop()?;
    Ok(Control {
        lines: args.api_lines,
        calls: args.calls,
        posted_s,
        registered_s,
        gets_ms,
        load,
        faults,
    })
}

async fn wait(
    what: &str,
    most: Duration,
    is_there: impl Fn() -> bool,
) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    while !is_there() {
        if begun.elapsed() > most {
            return Err(format!("{what}: not registered after {most:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

async fn calls_up(bridge: &Bridge, calls: u16, most: Duration) -> Result<(), Box<dyn Error>> {
    let begun = Instant::now();
    loop {
        let health = bridge.health().await.unwrap_or_default();
        if health["calls"]["active"] == calls {
            return Ok(());
        }
        if begun.elapsed() > most {
            let active = &health["calls"];
            return Err(format!("not {calls} calls after {most:?}: {active}").into());
        }
        sleep(Duration::from_millis(200)).await;
    }
}

/// How long each answer took, sorted.
async fn get_calls(bridge: &Bridge, calls: u16) -> Result<Vec<f64>, Box<dyn Error>> {
    let mut client = Client::connect(bridge.api).await?;
    let mut times = Vec::with_capacity(GETS);
    for _ in 0..GETS {
        let asked = Instant::now();
        let (status, body) = client.ask("GET", "/api/calls", None).await?;
        times.push(asked.elapsed().as_secs_f64() * 1_000.0);
        let shown = body.windows(6).filter(|six| six == b"\"sid\":").count();
        if status != 200 || shown != usize::from(calls) {
            return Err(format!("GET /api/calls: {status}, {shown} calls").into());
        }
    }
    times.sort_unstable_by(f64::total_cmp);
    Ok(times)
}

async fn post_lines(
    args: &Args,
    bridge: &Bridge,
    registrar: SocketAddr,
) -> Result<(), Box<dyn Error>> {
    let post = |first: usize| async move {
        let mut client = Client::connect(bridge.api).await?;
        // The bridge has line 1.
        for index in (2..args.api_lines + 2).skip(first).step_by(POSTERS) {
            let mut line = json!({
                "id": format!("line-{index}"),
                "phoneNumber": format!("+339{index:08}"),
                "provider": "sip",
                "sipDomain": registrar.to_string(),
                "sipUsername": bridge::user_of(index),
            });
            if args.digest || args.encrypted {
                line["sipPassword"] = json!(bridge::PASSWORD);
            }
            let (status, body) = client.ask("POST", LINES, Some(&line)).await?;
            if status != 201 {
                let body = String::from_utf8_lossy(&body).into_owned();
                return Err(format!("POST {LINES}: {status}: {body}").into());
            }
        }
        Ok::<(), Box<dyn Error>>(())
    };
    futures_util::future::try_join_all((0..POSTERS).map(post)).await?;
    Ok(())
}

/// The load generator, running; killed when dropped.
struct Load(Child);

impl Load {
    fn start(
        args: &Args,
        bridge: &Bridge,
        worker: SocketAddr,
        report: &Path,
    ) -> Result<Self, Box<dyn Error>> {
        let child = Command::new(&args.load)
            .args([
                "--target",
                &format!("sip:{}@{}", bridge::user_of(1), bridge.sip),
            ])
            .args(["--push-port", &worker.port().to_string()])
            .args(["--calls", &args.calls.to_string()])
            .args(["--rate", &CALL_RATE.to_string()])
            .args(["--seconds", &args.call_seconds.to_string()])
            .args(["--pid", &bridge.pid().to_string()])
            .args(["--clear-calls", "0"])
            .arg("--json")
            .arg(report)
            .stdout(Stdio::null())
            .spawn()
            .map_err(|error| format!("{}: {error}", args.load.display()))?;
        Ok(Self(child))
    }

    /// Waits for its end; its exit code judges other things than ours.
    async fn finish(&mut self, report: &Path) -> Result<Value, Box<dyn Error>> {
        while self.0.try_wait()?.is_none() {
            sleep(Duration::from_millis(200)).await;
        }
        Ok(serde_json::from_slice(&std::fs::read(report)?)?)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        // An error says that it is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_tcp() -> std::io::Result<SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}

impl Control {
    /// For the report.
    pub fn json(&self) -> Value {
        let at = |share: f64| {
            let last = self.gets_ms.len().saturating_sub(1);
            let time = self.gets_ms.get((last as f64 * share).round() as usize);
            time.map(|time| (time * 100.0).round() / 100.0)
        };
        json!({
            "lines": self.lines,
            "calls": self.calls,
            "postedAfterS": self.posted_s,
            "registeredAfterS": self.registered_s,
            "getCallsMs": {
                "count": self.gets_ms.len(), "p50": at(0.5), "p99": at(0.99), "max": at(1.0),
            },
            "rtpGapMs": self.load["rtpGapMs"],
            "rtpToWebSocketMs": self.load["latencyMs"]["rtpToWebSocket"],
            "generatorLateMs": self.load["generator"]["lateMs"],
            "callsUp": self.load["calls"]["up"],
            "callsEndedEarly": self.load["calls"]["endedEarly"],
            "framesLost": [
                self.load["frames"]["lostToWorker"], self.load["frames"]["lostToCaller"],
            ],
            "machineIdlePercent": self.load["machineIdlePercent"],
            "faults": self.faults,
        })
    }
}

/// Whether the limits were kept.
pub fn is_good(control: &Value) -> bool {
    let number = |path: &str| control.pointer(path).and_then(Value::as_f64);
    let below = |path: &str, most: f64| number(path).is_some_and(|value| value < most);
    below("/registeredAfterS", REGISTERED_MAX_S)
        && below("/rtpGapMs/p99", GAP_P99_MAX_MS)
        && below("/getCallsMs/p99", GET_P99_MAX_MS)
        && number("/callsEndedEarly") == Some(0.0)
        && control["callsUp"] == control["calls"]
        && control["faults"].as_array().is_some_and(Vec::is_empty)
}

/// The rows of the table.
pub fn print(control: &Value) {
    let at = |path: &str| control.pointer(path).cloned().unwrap_or_default();
    for (name, value) in [
        ("lines added through the API", at("/lines")),
        ("  calls in progress meanwhile", at("/calls")),
        ("  posted after, s", at("/postedAfterS")),
        ("  all registered after, s", at("/registeredAfterS")),
        ("  gap between RTP packets, ms", at("/rtpGapMs")),
        ("  RTP in to WebSocket out, ms", at("/rtpToWebSocketMs")),
        ("  the generator itself late, ms", at("/generatorLateMs")),
        ("  calls up", at("/callsUp")),
        ("  calls ended early", at("/callsEndedEarly")),
        ("  frames lost, to worker and caller", at("/framesLost")),
        ("  machine idle, %", at("/machineIdlePercent")),
        ("  faults", at("/faults")),
        ("GET /api/calls at these calls, ms", at("/getCallsMs")),
    ] {
        println!("{name:<34} {value}");
    }
}
