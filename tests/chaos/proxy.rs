//! A TCP proxy between workers and the bridge that delays what passes, or
//! swallows it with both sockets open.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use crate::harness::peers::local;
use crate::stage::any_port;

/// Bytes on their way at once; past that the sender is made to wait.
const ON_THE_WAY: usize = 256 * 1024;

/// A running proxy; ends when dropped.
pub struct Proxy {
    pub port: u16,
    swallows: Arc<AtomicBool>,
    task: JoinHandle<()>,
}

impl Proxy {
    /// Forwards to `port`, everything so much later.
    pub async fn start(port: u16, delay: Duration) -> Self {
        let listener = TcpListener::bind(any_port()).await.unwrap();
        let swallows = Arc::new(AtomicBool::new(false));
        Self {
            port: listener.local_addr().unwrap().port(),
            task: tokio::spawn(accept(listener, port, delay, swallows.clone())),
            swallows,
        }
    }

    /// From now on nothing passes, and nobody is told.
    pub fn swallow(&self) {
        self.swallows.store(true, Ordering::Relaxed);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, port: u16, delay: Duration, swallows: Arc<AtomicBool>) {
    // Ends what it carries when it ends itself.
    let mut pairs = tokio::task::JoinSet::new();
    while let Ok((worker, _)) = listener.accept().await {
        let swallows = swallows.clone();
        pairs.spawn(async move {
            let Ok(bridge) = TcpStream::connect(local(port)).await else {
                return;
            };
            // The proxy must not add Nagle's delay to its own.
            let _ = (worker.set_nodelay(true), bridge.set_nodelay(true));
            let ((worker_in, worker_out), (bridge_in, bridge_out)) =
                (worker.into_split(), bridge.into_split());
            tokio::join!(
                carry(worker_in, bridge_out, delay, &swallows),
                carry(bridge_in, worker_out, delay, &swallows)
            );
        });
    }
}

/// One direction, up to its end or reset.
async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    delay: Duration,
    swallows: &AtomicBool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut waiting: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut bytes = 0;
    let mut open = true;
    while open || !waiting.is_empty() {
        let due = waiting.front().map(|(due, _)| *due);
        tokio::select! {
            read = from.read(&mut buffer), if open && bytes < ON_THE_WAY => match read {
                Ok(0) | Err(_) => open = false,
                Ok(count) => {
                    bytes += count;
                    waiting.push_back((Instant::now() + delay, buffer[..count].to_vec()));
                }
            },
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                let Some((_, part)) = waiting.pop_front() else { continue };
                bytes -= part.len();
                if !swallows.load(Ordering::Relaxed) && to.write_all(&part).await.is_err() {
                    return;
                }
            }
        }
    }
    // An end that is swallowed is not heard of: the socket stays as it is.
    while swallows.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}
