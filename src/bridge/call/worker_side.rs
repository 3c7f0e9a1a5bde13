//! The worker's side of one call: the attached socket, its stream's id, and
//! what is wrong with what it sends.

use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::core::ids::StreamId;
use crate::core::media_streams::{WorkerMessage, parse_worker_message};
use crate::worker::{CloseReason, DirectWriter, Ignored, Received, WorkerSocket};

/// How often the worker is pinged.
const PING_EVERY: Duration = Duration::from_secs(10);
/// A worker that has not been heard of for this long is dead on TCP: at least
/// one ping of ours has gone unanswered for 8 s. Noticed within 20 s.
const DEAD_AFTER: Duration = Duration::from_secs(18);
/// When a ping that found no room is tried again.
const PING_AGAIN: Duration = Duration::from_secs(1);
/// Shortest pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// What comes from the worker.
#[derive(Debug)]
pub(in crate::bridge) enum WorkerEvent {
    /// A valid message.
    Message(WorkerMessage),
    /// Something that is ignored; it is counted and logged.
    Ignored(String),
    /// The socket was closed normally.
    Closed,
    /// The socket dropped, or its peer stopped reading; why.
    Lost(String),
}

struct Attached {
    socket: WorkerSocket,
    stream: StreamId,
    ping_at: Instant,
    /// When to look again whether anything was heard.
    look_at: Instant,
    /// Why the socket must be given up, found while writing to it.
    failed: Option<String>,
}

/// The worker of one call, where there is one.
#[derive(Default)]
pub(in crate::bridge) struct WorkerSide {
    attached: Option<Attached>,
    ignored: u64,
    odd_audio: u64,
}

impl WorkerSide {
    pub(in crate::bridge) fn new() -> Self {
        Self::default()
    }

    /// Takes an attached socket for this stream.
    pub(in crate::bridge) fn attach(&mut self, socket: WorkerSocket, stream: StreamId) {
        let ping_at = Instant::now() + PING_EVERY;
        self.attached = Some(Attached {
            socket,
            stream,
            ping_at,
            look_at: ping_at,
            failed: None,
        });
    }

    /// The short way to the worker.
    pub(in crate::bridge) fn writer(&self) -> Option<DirectWriter> {
        self.attached
            .as_ref()
            .map(|attached| attached.socket.writer())
    }

    /// Queues one message; it leaves when [`WorkerSide::poll_next`] is called.
    pub(in crate::bridge) fn queue(&mut self, message: Vec<u8>) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.failed.is_some() {
            return;
        }
        let queued = match String::from_utf8(message) {
            Ok(text) => attached
                .socket
                .queue_text(text)
                .map_err(|backlog| backlog.to_string()),
            // The writers produce JSON, which is UTF-8.
            Err(error) => Err(error.to_string()),
        };
        attached.failed = queued.err();
    }

    /// What the worker says next, and sends what is queued; pending for ever while no worker
    /// is attached.
    pub(in crate::bridge) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<WorkerEvent> {
        let Some(attached) = &mut self.attached else {
            return Poll::Pending;
        };
        if let Some(reason) = attached.failed.take() {
            self.close(CloseReason::Stalled);
            return Poll::Ready(WorkerEvent::Lost(reason));
        }
        let event = match ready!(attached.socket.poll_recv(cx)) {
            Received::Text(text) => {
                let message = parse_worker_message(&text, &attached.stream);
                return Poll::Ready(message.map_or_else(
                    |rejected| WorkerEvent::Ignored(rejected.to_string()),
                    WorkerEvent::Message,
                ));
            }
            Received::Ignored(Ignored::Binary { size_bytes }) => {
                let why = format!("binary message of {size_bytes} bytes");
                return Poll::Ready(WorkerEvent::Ignored(why));
            }
            Received::Closed { normal: true, .. } => WorkerEvent::Closed,
            Received::Closed { code, .. } => {
                WorkerEvent::Lost(format!("closed with code {code:?}"))
            }
            Received::Lost(error) => WorkerEvent::Lost(error.to_string()),
        };
        self.attached = None;
        Poll::Ready(event)
    }

    /// Pings, and notices a peer that is dead on TCP.
    pub(in crate::bridge) fn handle_time(&mut self, now: Instant) {
        let Some(attached) = &mut self.attached else {
            return;
        };
        if attached.look_at > now {
            return;
        }
        // While this process was stalled nobody listened: no silence of the worker.
        let stalled = now.saturating_duration_since(attached.look_at);
        let silent = attached.socket.silent_for().saturating_sub(stalled);
        if silent >= DEAD_AFTER {
            attached.failed = Some(format!("nothing heard for {} s", silent.as_secs()));
        }
        if attached.ping_at <= now {
            let sent = attached.socket.ping();
            attached.ping_at = now + if sent { PING_EVERY } else { PING_AGAIN };
        }
        let dead_at = now + DEAD_AFTER.saturating_sub(silent).max(LOOK_AGAIN);
        attached.look_at = attached.ping_at.min(dead_at);
    }

    /// When [`WorkerSide::handle_time`] wants to be called.
    pub(in crate::bridge) fn poll_timeout(&self) -> Option<Instant> {
        self.attached.as_ref().map(|attached| attached.look_at)
    }

    /// Counts an ignored message; the log sees the 1st, 10th, 100th …
    pub(in crate::bridge) fn note_ignored(&mut self, why: &str) {
        self.ignored += 1;
        if 10_u64.pow(self.ignored.ilog10()) == self.ignored {
            warn!(ignored = self.ignored, why, "message of the worker ignored");
        }
    }

    /// Counts audio in odd base64, which is played; the log sees the 1st, 10th, 100th …
    pub(in crate::bridge) fn note_odd_audio(&mut self) {
        self.odd_audio += 1;
        if 10_u64.pow(self.odd_audio.ilog10()) == self.odd_audio {
            warn!(
                messages = self.odd_audio,
                "audio of the worker is in base64 with line feeds, blanks or the URL-safe alphabet: it is played, but standard base64 on one line costs less"
            );
        }
    }

    /// Sends what is queued and closes the socket, in a task of its own.
    pub(in crate::bridge) fn close(&mut self, reason: CloseReason) {
        if let Some(attached) = self.attached.take() {
            debug!("closing the worker's socket");
            tokio::spawn(attached.socket.close(reason));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::worker::Dialer;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn a_silent_worker_is_given_up_but_not_for_a_stall_of_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}/", listener.local_addr().unwrap());
        let dialer = Dialer::new(&url, None).unwrap();
        let accepting = async {
            let (stream, _) = listener.accept().await.unwrap();
            tokio_tungstenite::accept_async(stream).await.unwrap()
        };
        let (socket, _mute) = tokio::join!(dialer.dial(PING_EVERY), accepting);
        let mut worker = WorkerSide::new();
        worker.attach(socket.unwrap(), StreamId::random());

        tokio::time::pause();
        let failed = |worker: &WorkerSide| worker.attached.as_ref().unwrap().failed.is_some();
        tokio::time::advance(Duration::from_secs(60)).await;
        worker.handle_time(Instant::now());
        assert!(!failed(&worker), "we were stalled");
        // It was pinged now; a live worker would answer.
        let pinged = Instant::now();
        while !failed(&worker) {
            tokio::time::advance(Duration::from_millis(100)).await;
            worker.handle_time(Instant::now());
            assert!(pinged.elapsed() < Duration::from_secs(20), "nothing came");
        }
        assert!(pinged.elapsed() >= Duration::from_secs(8));
    }
}
