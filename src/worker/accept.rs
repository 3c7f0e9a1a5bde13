//! Queue mode: the listener that workers dial, `GET
//! /media-stream/{callId}?token=…` ([`crate::guide::call_queue`], "Dialling the bridge").
//!
//! Leaves out TLS: a public address ends TLS at a proxy before it.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, sleep, timeout};
use tokio_tungstenite::MaybeTlsStream;
use tokio_tungstenite::tungstenite::protocol::Role;
use tracing::{debug, info, warn};

use super::attach_table::{AttachTable, Claim};
use super::direct_writer::DirectWriter;
use super::error::WorkerError;
use super::received::CloseReason;
use super::request::{
    self, AttachRequest, Attacher, HEAD_MAX_BYTES, PATH, TWILIO_PATH, UpgradeRefusal,
};
use super::socket::WorkerSocket;
use super::tcp;
use crate::core::ids::{CallId, Token};
use crate::core::log_limiter::LogLimiter;
use crate::core::private::Secret;

/// How long a worker may take to send its request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long writing an answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a refused worker may take to read its answer before the
/// connection is reset.
const LINGER: Duration = Duration::from_millis(500);
/// Connections that are not yet a WebSocket. When one more comes, the oldest
/// is dropped: honest workers need milliseconds, only idle ones grow old.
const HANDSHAKES_MAX: usize = 256;
/// Pause after `accept` fails, as it does when file descriptors run out.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);
/// At most one warning about refused or failed connections in this time.
const WARN_INTERVAL: Duration = Duration::from_secs(10);

/// The address of one attempt, for the job. `base` is `ws://host:port`, or
/// what a proxy answers to. It holds the token, hence the `Secret`.
#[must_use]
pub fn attach_url(base: &str, call: &CallId, token: &Token) -> Secret {
    let base = base.trim_end_matches('/');
    Secret::new(format!("{base}{PATH}{call}?token={}", token.expose()))
}

/// The same for Twilio, which opens a stream with a caller.
#[must_use]
pub fn twilio_url(base: &str, call: &CallId, token: &Token) -> Secret {
    let base = base.trim_end_matches('/');
    Secret::new(format!("{base}{TWILIO_PATH}{call}/{}", token.expose()))
}

/// Who may open a WebSocket at the stream port.
#[derive(Clone, Default)]
pub struct Expected {
    /// The workers of calls.
    pub workers: AttachTable,
    /// Twilio, for the callers of its calls.
    pub callers: AttachTable,
}

impl From<AttachTable> for Expected {
    fn from(workers: AttachTable) -> Self {
        let callers = AttachTable::default();
        Self { workers, callers }
    }
}

impl Expected {
    fn of(&self, by: Attacher) -> &AttachTable {
        match by {
            Attacher::Worker => &self.workers,
            Attacher::Twilio => &self.callers,
        }
    }
}

/// The listener for workers. Stops when dropped.
pub struct StreamServer {
    local: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<()>,
}

impl StreamServer {
    /// Listens, and hands whoever comes to the tickets of `expected` from now on.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn bind(
        addr: SocketAddr,
        expected: impl Into<Expected>,
    ) -> Result<Self, WorkerError> {
        let failed = |source| WorkerError::Listen { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(failed)?;
        let local = listener.local_addr().map_err(failed)?;
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(accept_until(listener, expected.into(), stopped));
        Ok(Self {
            local,
            stop: Some(stop),
            task,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Stops listening and drops unfinished handshakes. Attached workers stay.
    pub async fn stop(mut self) {
        drop(self.stop.take());
        let _ = (&mut self.task).await;
    }
}

impl Drop for StreamServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept_until(
    listener: TcpListener,
    expected: Expected,
    mut stopped: oneshot::Receiver<()>,
) {
    let mut handshakes = JoinSet::new();
    let mut young = Young::default();
    let mut refused = LogLimiter::new(WARN_INTERVAL);
    let mut failed = LogLimiter::new(WARN_INTERVAL);
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let evicted = young.admit();
                    handshakes.spawn(handshake(stream, peer, expected.clone(), evicted));
                }
                Err(error) => {
                    // The worker waits in the system's backlog meanwhile.
                    if let Some(count) = failed.count(Instant::now().into_std()) {
                        warn!(%error, count, "cannot accept a worker's connection; the count is since the last warning");
                    }
                    sleep(ACCEPT_RETRY).await;
                }
            },
            Some(ended) = handshakes.join_next() => {
                if let Ok(Some(refusal)) = ended {
                    note_refusal(&mut refused, refusal);
                }
            }
        }
    }
}

/// The connections that are not yet a WebSocket, oldest first.
#[derive(Default)]
struct Young {
    evictions: VecDeque<oneshot::Sender<()>>,
}

impl Young {
    /// Makes room for one more. It lives until what is returned resolves.
    fn admit(&mut self) -> oneshot::Receiver<()> {
        if self.evictions.len() >= HANDSHAKES_MAX {
            self.evictions.retain(|eviction| !eviction.is_closed());
        }
        if self.evictions.len() >= HANDSHAKES_MAX {
            // Dropping the sender resolves the receiver.
            self.evictions.pop_front();
        }
        let (eviction, evicted) = oneshot::channel();
        self.evictions.push_back(eviction);
        evicted
    }
}

/// A scan cannot flood the log.
fn note_refusal(refused: &mut LogLimiter, refusal: UpgradeRefusal) {
    if let Some(count) = refused.count(Instant::now().into_std()) {
        warn!(
            status = refusal.status(),
            count,
            "refused a worker's connection; the last status is shown, and how many since the last warning"
        );
    }
}

/// Takes one connection to its end: a WebSocket handed over, or a refusal.
async fn handshake(
    mut stream: TcpStream,
    peer: SocketAddr,
    expected: Expected,
    evicted: oneshot::Receiver<()>,
) -> Option<UpgradeRefusal> {
    if let Err(error) = tcp::tune(&stream) {
        debug!(%peer, %error, "worker was gone at once");
        return None;
    }
    let judged = async {
        match judge(&mut stream, &expected).await {
            Ok(Judged::Granted(granted)) => Some(Ok(granted)),
            Ok(Judged::Refused(refusal)) => {
                refuse(&mut stream, refusal).await;
                Some(Err(refusal))
            }
            // The peer closed without having asked for anything.
            Err(_) => None,
        }
    };
    // Biased: a token that has been claimed is used, eviction or not.
    let judged = tokio::select! {
        biased;
        judged = judged => judged?,
        _ = evicted => return Some(UpgradeRefusal::TooSlow),
    };
    match judged {
        Ok(granted) => {
            attach(stream, peer, *granted).await;
            None
        }
        Err(refusal) => {
            debug!(%peer, status = refusal.status(), "refused a worker");
            Some(refusal)
        }
    }
}

enum Judged {
    Granted(Box<Granted>),
    Refused(UpgradeRefusal),
}

/// A claim whose worker waits for the answer.
struct Granted {
    request: AttachRequest,
    claim: Claim,
    /// What the worker has sent past its request.
    part: Vec<u8>,
}

async fn judge(stream: &mut TcpStream, expected: &Expected) -> io::Result<Judged> {
    let (head, part) = match timeout(REQUEST_TIMEOUT, read_head(stream)).await {
        Err(_) => return Ok(Judged::Refused(UpgradeRefusal::TooSlow)),
        Ok(read) => match read? {
            Some(read) => read,
            None => return Ok(Judged::Refused(UpgradeRefusal::HeadTooLarge)),
        },
    };
    let granted = request::parse(&head).and_then(|request| {
        let claim = expected
            .of(request.by)
            .claim(&request.call, &request.token)?;
        Ok(Granted {
            request,
            claim,
            part,
        })
    });
    Ok(match granted {
        Ok(granted) => Judged::Granted(Box::new(granted)),
        Err(refusal) => Judged::Refused(refusal),
    })
}

/// Reads up to the empty line: the head, and what came after it. `None` when
/// the head is too large.
async fn read_head(stream: &mut TcpStream) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
    let mut head = Vec::with_capacity(1024);
    loop {
        let seen = head.len();
        if seen >= HEAD_MAX_BYTES {
            return Ok(None);
        }
        if (&mut *stream)
            .take((HEAD_MAX_BYTES - seen) as u64)
            .read_buf(&mut head)
            .await?
            == 0
        {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if let Some(end) = request::head_end(&head, seen) {
            let part = head.split_off(end);
            return Ok(Some((head, part)));
        }
    }
}

/// Answers a refusal and waits a moment for the peer to read it: closing with
/// unread input would reset the connection and take the answer with it.
async fn refuse(stream: &mut TcpStream, refusal: UpgradeRefusal) {
    let answer = async {
        stream.write_all(refusal.response().as_bytes()).await?;
        stream.shutdown().await?;
        let mut rest = [0; 1024];
        while stream.read(&mut rest).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = timeout(LINGER, answer).await;
}

/// Opens the WebSocket and hands it to the call's driver.
async fn attach(mut stream: TcpStream, peer: SocketAddr, granted: Granted) {
    let Granted {
        request,
        claim,
        part,
    } = granted;
    let response = request.response();
    let answer = timeout(ANSWER_TIMEOUT, stream.write_all(response.as_bytes()));
    if !matches!(answer.await, Ok(Ok(()))) {
        warn!(call = %request.call, %peer, "the worker left before it was attached; its token is still good");
        return;
    }
    let writer = DirectWriter::new(Some(&stream), Role::Server);
    let stream = MaybeTlsStream::Plain(stream);
    let socket = WorkerSocket::new(stream, writer, Role::Server, part).await;
    match claim.deliver(socket) {
        Ok(()) => info!(call = %request.call, %peer, by = ?request.by, "attached"),
        Err(socket) => {
            debug!(call = %request.call, %peer, "the call ended while its worker attached");
            socket.close(CloseReason::CallOver).await;
        }
    }
}
