//! Where worker connections come from: the bridge dials us (push mode), or we
//! take jobs from Redis and dial (queue mode). Handshakes only; the streams
//! go to the media thread.

use std::error::Error;
use std::net::Ipv4Addr;
use std::sync::mpsc::Sender;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::echo::Worker;
use crate::engine::Command;
use crate::ws;

/// Seconds that BRPOP waits before it is asked again.
const POP_WAIT_S: f64 = 2.0;

/// Starts what was asked for; the task ends when it is aborted.
pub async fn start(
    push_port: Option<u16>,
    redis_url: Option<&str>,
    queue: &str,
    commands: Sender<Command>,
) -> Result<JoinHandle<()>, Box<dyn Error>> {
    if let Some(url) = redis_url {
        let connection = redis::Client::open(url)?
            .get_multiplexed_async_connection()
            .await?;
        return Ok(tokio::spawn(take_jobs(
            connection,
            queue.to_owned(),
            commands,
        )));
    }
    let port = push_port.unwrap_or(0);
    let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).await?;
    Ok(tokio::spawn(serve(listener, commands)))
}

async fn serve(listener: TcpListener, commands: Sender<Command>) {
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

async fn take_jobs(
    mut connection: redis::aio::MultiplexedConnection,
    queue: String,
    commands: Sender<Command>,
) {
    loop {
        let popped: redis::RedisResult<Option<(String, String)>> = redis::cmd("BRPOP")
            .arg(&queue)
            .arg(POP_WAIT_S)
            .query_async(&mut connection)
            .await;
        let job = match popped {
            Ok(Some((_, job))) => job,
            Ok(None) => continue,
            Err(error) => return eprintln!("Redis: {error}"),
        };
        let commands = commands.clone();
        tokio::spawn(async move { report(dial(&job, &commands).await) });
    }
}

async fn dial(job: &str, commands: &Sender<Command>) -> std::io::Result<()> {
    let job: serde_json::Value = serde_json::from_str(job)?;
    let address = job["audioStreamUrl"].as_str().unwrap_or_default();
    let (stream, rest) = ws::dial(address).await?;
    hand_over(stream, true, rest, commands)
}

fn hand_over(
    stream: TcpStream,
    client: bool,
    rest: Vec<u8>,
    commands: &Sender<Command>,
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
