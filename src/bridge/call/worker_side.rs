//! The worker's side of one call: the attached socket, its stream's id, and
//! what is wrong with what it sends.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::keep_alive::KeepAlive;
use crate::core::ids::StreamId;
use crate::core::media_streams::{WorkerMessage, parse_worker_message};
use crate::worker::{CloseReason, DirectWriter, Ignored, Received, WorkerSocket};

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
    keep_alive: KeepAlive,
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
        self.attached = Some(Attached {
            socket,
            stream,
            keep_alive: KeepAlive::new(Instant::now()),
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
        let dead = attached.keep_alive.handle_time(now, &mut attached.socket);
        if let Some(silent) = dead {
            attached.failed = Some(format!("nothing heard for {} s", silent.as_secs()));
        }
    }

    /// When [`WorkerSide::handle_time`] wants to be called.
    pub(in crate::bridge) fn poll_timeout(&self) -> Option<Instant> {
        let attached = self.attached.as_ref();
        attached.map(|attached| attached.keep_alive.poll_timeout())
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
    use super::super::keep_alive::PING_EVERY;
    use super::*;
    use crate::worker::Dialer;
    use std::time::Duration;
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
