//! Where worker connections come from: the bridge dials us (push mode), or we
//! take jobs from Redis and dial (queue mode). Handshakes only; the streams
//! go to the media thread.

use std::error::Error;
use std::net::IpAddr;
use std::sync::mpsc::SyncSender;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::echo::Worker;
use crate::engine::Command;
use crate::worker_jobs::Jobs;
use crate::ws;

/// Starts what was asked for; the task ends when it is aborted.
pub async fn start(
    local: IpAddr,
    push_port: Option<u16>,
    redis_url: Option<&str>,
    queue: &str,
    commands: SyncSender<Command>,
) -> Result<JoinHandle<()>, Box<dyn Error>> {
    if let Some(url) = redis_url {
        let jobs = Jobs::connect(url, queue).await?;
        return Ok(tokio::spawn(take_jobs(jobs, commands)));
    }
    let port = push_port.unwrap_or(0);
    let listener = TcpListener::bind((local, port)).await?;
    Ok(tokio::spawn(serve(listener, commands)))
}

async fn serve(listener: TcpListener, commands: SyncSender<Command>) {
    loop {
        let Ok((mut stream, _)) = listener.accept().await else {
            continue;
        };
        let commands = commands.clone();
        tokio::spawn(async move {
            let result = ws::accept(&mut stream).await;
            report(result.and_then(|rest| hand_over(stream, false, rest, &commands)));
        });
    }
}

async fn take_jobs(mut jobs: Jobs, commands: SyncSender<Command>) {
    loop {
        let job = match jobs.next().await {
            Ok(job) => job,
            Err(error) => return eprintln!("Redis: {error}"),
        };
        let commands = commands.clone();
        tokio::spawn(async move {
            let result = ws::dial(&job.audio_stream_url).await;
            report(result.and_then(|(stream, rest)| hand_over(stream, true, rest, &commands)));
        });
    }
}

fn hand_over(
    stream: TcpStream,
    client: bool,
    rest: Vec<u8>,
    commands: &SyncSender<Command>,
) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let worker = Worker::new(stream.into_std()?, client, rest);
    // A media thread that is gone has ended the run already.
    let _ = commands.send(Command::Worker(Box::new(worker)));
    Ok(())
}

fn report(result: std::io::Result<()>) {
    if let Err(error) = result {
        eprintln!("worker connection: {error}");
    }
}
