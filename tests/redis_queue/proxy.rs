//! A TCP proxy between bridge and Redis that can be slow, silent, or lead
//! elsewhere.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::sleep;

/// What the proxy does with the connections it has and with new ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    Pass,
    /// Each answer comes later.
    Delay(Duration),
    /// Accepts, reads, and says nothing: a half-open connection.
    Swallow,
    /// What the bridge says arrives, the answers get lost.
    Mute,
    /// Cuts all connections, new ones too.
    Cut,
}

/// The proxy; ends when dropped.
pub struct Proxy {
    pub port: u16,
    mode: watch::Sender<Mode>,
    target: watch::Sender<u16>,
    accepting: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (mode, modes) = watch::channel(Mode::Pass);
        let (target, targets) = watch::channel(target);
        let accepting = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let target = *targets.borrow();
                tokio::spawn(relay(client, target, modes.clone()));
            }
        });
        Self {
            port,
            mode,
            target,
            accepting,
        }
    }

    pub fn set(&self, mode: Mode) {
        self.mode.send_replace(mode);
    }

    /// Cuts what is connected; new connections lead to another port.
    pub async fn turn_to(&self, port: u16) {
        self.set(Mode::Cut);
        self.target.send_replace(port);
        // Every connection has seen it once its task is gone.
        while self.mode.receiver_count() > 1 {
            sleep(Duration::from_millis(5)).await;
        }
        self.set(Mode::Pass);
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.set(Mode::Cut);
    }
}

async fn relay(client: TcpStream, target: u16, mut modes: watch::Receiver<Mode>) {
    if *modes.borrow() == Mode::Cut {
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let there = copy(from_client, to_server, modes.clone(), false);
    let back = copy(from_server, to_client, modes.clone(), true);
    tokio::select! {
        () = there => {}
        () = back => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    modes: watch::Receiver<Mode>,
    is_answer: bool,
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(length @ 1..) = from.read(&mut buffer).await else {
            return;
        };
        let mode = *modes.borrow();
        match mode {
            Mode::Swallow => continue,
            Mode::Mute if is_answer => continue,
            Mode::Delay(time) if is_answer => sleep(time).await,
            _ => {}
        }
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}
