//! A worker that greets and then echoes.
//!
//! Queue mode takes jobs from Redis and dials the bridge; push mode listens
//! and the bridge dials (`--ws-target`), as with Twilio:
//!
//! ```text
//! cargo run --example worker -- --redis-url redis://127.0.0.1 --greeting hello.wav --record /tmp
//! cargo run --example worker -- --listen 9000 --greeting hello.wav
//! ```
//!
//! Digits: `*` clears what is being played, `#` hangs up. Ctrl+C hands the
//! calls in progress over to other workers and exits. `worker.py` is the same in Python.

#[expect(dead_code, reason = "shared with programs that use other parts of it")]
mod common;

use std::error::Error;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Parser;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_tungstenite::tungstenite;

use common::audio::{chime, from_ulaw, read_wav, to_ulaw, write_wav};
use common::worker_client::dial;
use common::worker_jobs::{Job, Jobs};
use common::worker_server::{WorkerServer, handshake};
use common::worker_stream::{FromBridge, WorkerStream};

/// Mark behind the greeting; the echo starts when it comes back.
const GREETED: &str = "greeted";
/// Pause before Redis is asked again.
const REDIS_RETRY: Duration = Duration::from_secs(1);
/// How long closing may take at the end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Greets callers and echoes what they say.
#[derive(Parser)]
struct Args {
    /// Take jobs from this Redis and dial the bridge.
    #[arg(long, env = "REDIS_URL", required_unless_present = "listen")]
    redis_url: Option<String>,
    /// Name of the queue.
    #[arg(long, default_value = "queue:incoming_calls")]
    queue: String,
    /// Listen here for a bridge that dials.
    #[arg(long, conflicts_with = "redis_url")]
    listen: Option<u16>,
    /// Address to listen on.
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    bind: IpAddr,
    /// Play this WAV first (PCM16, 8 or 16 kHz); three notes when not given.
    #[arg(long)]
    greeting: Option<PathBuf>,
    /// Send back what the caller says.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    echo: bool,
    /// Write what each caller says to DIR/callSid.wav.
    #[arg(long, value_name = "DIR")]
    record: Option<PathBuf>,
    /// Exit after so many calls.
    #[arg(long)]
    calls: Option<usize>,
}

/// What every call of this worker does.
struct Behaviour {
    greeting: Vec<u8>,
    echo: bool,
    record: Option<PathBuf>,
    /// True when all calls are to be closed.
    stop: watch::Sender<bool>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let args = Args::parse();
    let greeting = match &args.greeting {
        Some(path) => read_wav(path)?,
        None => chime(),
    };
    let behaviour = Arc::new(Behaviour {
        greeting: greeting.into_iter().map(to_ulaw).collect(),
        echo: args.echo,
        record: args.record.clone(),
        stop: watch::Sender::new(false),
    });
    let mut calls = JoinSet::new();
    let interrupted = tokio::select! {
        result = take_calls(&args, &behaviour, &mut calls) => { result?; false }
        signal = tokio::signal::ctrl_c() => { signal?; true }
    };
    if !interrupted {
        tokio::select! {
            () = all_over(&mut calls) => return Ok(()),
            signal = tokio::signal::ctrl_c() => signal?,
        }
    }
    println!("handing over {} calls", calls.len());
    behaviour.stop.send_replace(true);
    // A bridge that does not answer the close is left behind.
    let _ = timeout(CLOSE_TIMEOUT, all_over(&mut calls)).await;
    Ok(())
}

async fn all_over(calls: &mut JoinSet<()>) {
    while calls.join_next().await.is_some() {}
}

async fn take_calls(
    args: &Args,
    behaviour: &Arc<Behaviour>,
    calls: &mut JoinSet<()>,
) -> Result<(), Box<dyn Error>> {
    let limit = args.calls.unwrap_or(usize::MAX);
    if let Some(port) = args.listen {
        let server = WorkerServer::bind(SocketAddr::new(args.bind, port)).await?;
        println!("listening on ws://{}/", server.local_addr()?);
        for _ in 0..limit {
            let (stream, _) = server.accept().await?;
            spawn(calls, handshake(stream), behaviour);
        }
        return Ok(());
    }
    let url = args.redis_url.as_deref().unwrap_or_default();
    let mut jobs = Jobs::connect(url, &args.queue).await?;
    println!("waiting for jobs in {}", args.queue);
    for _ in 0..limit {
        let job = next_job(&mut jobs, url, &args.queue).await;
        println!("{}: job taken, attempt {}", job.call_id, job.attempt);
        let opening = async move { dial(&job.audio_stream_url).await };
        spawn(calls, opening, behaviour);
    }
    Ok(())
}

/// The next job, through as many losses of Redis as it takes.
async fn next_job(jobs: &mut Jobs, url: &str, queue: &str) -> Job {
    loop {
        match jobs.next().await {
            Ok(job) => return job,
            Err(error) => eprintln!("Redis: {error}; trying again"),
        }
        sleep(REDIS_RETRY).await;
        if let Ok(again) = Jobs::connect(url, queue).await {
            *jobs = again;
        }
    }
}

/// Opens a connection and runs its call, beside all others.
fn spawn<S, F>(calls: &mut JoinSet<()>, opening: F, behaviour: &Arc<Behaviour>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    F: Future<Output = Result<WorkerStream<S>, tungstenite::Error>> + Send + 'static,
{
    // Forgets calls that are over.
    while calls.try_join_next().is_some() {}
    let behaviour = Arc::clone(behaviour);
    calls.spawn(async move {
        let result = match opening.await {
            Ok(stream) => serve(stream, &behaviour).await,
            Err(error) => Err(error.into()),
        };
        if let Err(error) = result {
            eprintln!("call failed: {error}");
        }
    });
}

/// One call, from `start` to its end.
async fn serve<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: WorkerStream<S>,
    behaviour: &Behaviour,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let mut call_sid = String::new();
    let (mut heard, mut frames, mut echoing) = (Vec::new(), 0_u64, false);
    let mut stop = behaviour.stop.subscribe();
    loop {
        let message = tokio::select! {
            message = stream.next() => message?,
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some(message) = message else {
            // Ctrl+C: another worker takes the call over. A closed socket does
            // not mind.
            let _ = stream.hand_over().await;
            break;
        };
        match message {
            FromBridge::Start(start) => {
                println!(
                    "{}: start, {} parameters",
                    start.call_sid,
                    start.custom_parameters.len()
                );
                call_sid = start.call_sid;
                // Taken over from a worker that is gone: the caller was greeted.
                if !start.custom_parameters.contains_key("resumed") {
                    stream.media(&behaviour.greeting).await?;
                }
                stream.mark(GREETED).await?;
            }
            FromBridge::Media { audio, .. } => {
                frames += 1;
                if echoing {
                    stream.media(&audio).await?;
                }
                if behaviour.record.is_some() {
                    heard.extend(audio.into_iter().map(from_ulaw));
                }
            }
            FromBridge::Mark { name, .. } if name == GREETED => {
                println!("{call_sid}: greeting played");
                echoing = behaviour.echo;
            }
            FromBridge::Dtmf(digit) => {
                println!("{call_sid}: digit {digit}");
                match digit.as_str() {
                    "*" => stream.clear().await?,
                    "#" => stream.event("hangup", json!({})).await?,
                    _ => {}
                }
            }
            FromBridge::Stop => break,
            FromBridge::Connected | FromBridge::Mark { .. } | FromBridge::Other(_) => {}
        }
    }
    // The bridge may have closed first.
    let _ = stream.close().await;
    println!("{call_sid}: over, {frames} frames heard");
    if let (Some(directory), false) = (&behaviour.record, heard.is_empty()) {
        let path = directory.join(format!("{}.wav", file_name(&call_sid)));
        write_wav(&path, &heard)?;
        println!("{call_sid}: recorded to {}", path.display());
    }
    Ok(())
}

/// A call id came from outside; only letters and digits name a file.
fn file_name(call_sid: &str) -> String {
    let safe: String = call_sid
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .collect();
    if safe.is_empty() {
        "unknown".into()
    } else {
        safe
    }
}
