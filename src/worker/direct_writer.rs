//! Writes to a worker without a detour: a text message goes to its socket at once,
//! from any thread, while nothing else waits for that socket.
//!
//! Socket and direct writer share one lock. Whoever holds it may write whole frames;
//! while the socket has anything under way the direct writer is shut, and the message
//! takes the long way through the socket's queue. What a full kernel buffer
//! leaves over of a frame is kept here and goes first.
//!
//! Nothing is written directly through TLS: its stream belongs to one task.

use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::task::AtomicWaker;
use rand::RngExt;
use tokio_tungstenite::tungstenite::protocol::Role;

/// FIN and the opcode of text (RFC 6455, 5.2).
const TEXT_FRAME: u8 = 0x81;
const MASKED: u8 = 0x80;

/// The direct writer of one socket. Cheap to clone; shut for good when the socket goes.
#[derive(Clone, Debug)]
pub struct DirectWriter {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    inner: Mutex<SharedSocket>,
    /// The task that polls the socket.
    waker: AtomicWaker,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct SharedSocket {
    /// A second handle of the socket; `None` through TLS and after the end.
    direct: Option<TcpStream>,
    role: Role,
    /// Nothing else is under way.
    open: bool,
    /// The rest of a frame that the kernel did not take whole.
    rest: Vec<u8>,
    /// The socket has written part of a frame; the direct writer must not cut in.
    partial: bool,
    frame: Vec<u8>,
    /// Since when something has been under way without a break.
    busy_since: Option<Instant>,
}

impl DirectWriter {
    /// A direct writer beside a socket of this role; shut at first.
    pub(super) fn new(socket: Option<&tokio::net::TcpStream>, role: Role) -> Self {
        // Without a second handle every message takes the long way.
        let direct = socket.and_then(|socket| duplicate(socket.as_fd().try_clone_to_owned()));
        let inner = SharedSocket {
            direct,
            role,
            open: false,
            rest: Vec::new(),
            partial: false,
            frame: Vec::new(),
            busy_since: None,
        };
        Self {
            shared: Arc::new(Shared {
                inner: Mutex::new(inner),
                waker: AtomicWaker::new(),
            }),
        }
    }

    /// Sends one text message if it is open. False: nothing was sent,
    /// and the message must take the long way.
    #[must_use]
    pub fn try_send(&self, text: &[u8]) -> bool {
        let mut inner = self.inner();
        let sent = inner.open && inner.send(text);
        if !inner.open {
            self.shared.waker.wake();
        }
        sent
    }

    /// How long something has been waiting for the worker without a break: no
    /// message waits longer.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        self.inner()
            .busy_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, SharedSocket> {
        self.shared
            .inner
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.shared.waker.register(waker);
    }
}

fn duplicate(handle: io::Result<OwnedFd>) -> Option<TcpStream> {
    handle.ok().map(TcpStream::from)
}

impl SharedSocket {
    /// The socket has something under way.
    pub(super) fn shut(&mut self) {
        self.open = false;
        self.busy_since.get_or_insert_with(Instant::now);
    }

    /// The socket has nothing under way.
    pub(super) fn reopen(&mut self) {
        let idle = self.rest.is_empty() && !self.partial;
        self.open = idle && self.direct.is_some();
        if idle {
            self.busy_since = None;
        }
    }

    /// The socket wrote frames of its own, the last one whole or not.
    pub(super) fn note_write(&mut self, whole: bool) {
        self.partial = !whole;
        self.open &= whole;
    }

    /// The socket is gone; its second handle must not keep it open.
    pub(super) fn end(&mut self) {
        self.open = false;
        self.busy_since = None;
        // What is left of a frame still goes before a close frame.
        self.direct = None;
    }

    /// What must be written before anything else.
    pub(super) fn rest(&mut self) -> &mut Vec<u8> {
        &mut self.rest
    }

    fn send(&mut self, text: &[u8]) -> bool {
        let Some(mut direct) = self.direct.as_ref() else {
            return false;
        };
        self.frame.clear();
        put_frame(&mut self.frame, text, self.role);
        let written = match direct.write(&self.frame) {
            Ok(written) => written,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            // The socket's own next write meets the error and tells of it.
            Err(_) => 0,
        };
        if written < self.frame.len() {
            self.shut();
        }
        if written == 0 {
            return false;
        }
        self.rest.extend_from_slice(&self.frame[written..]);
        true
    }
}

/// Appends one text frame (RFC 6455, 5.2); a client's is masked.
fn put_frame(frame: &mut Vec<u8>, text: &[u8], role: Role) {
    let mask = if role == Role::Client { MASKED } else { 0 };
    frame.push(TEXT_FRAME);
    match (u8::try_from(text.len()), u16::try_from(text.len())) {
        (Ok(length @ ..=125), _) => frame.push(mask | length),
        (_, Ok(length)) => {
            frame.push(mask | 126);
            frame.extend_from_slice(&length.to_be_bytes());
        }
        _ => {
            frame.push(mask | 127);
            frame.extend_from_slice(&(text.len() as u64).to_be_bytes());
        }
    }
    if role == Role::Server {
        return frame.extend_from_slice(text);
    }
    let key: [u8; 4] = rand::rng().random();
    frame.extend_from_slice(&key);
    let masked = text
        .iter()
        .zip(key.iter().cycle())
        .map(|(byte, key)| byte ^ key);
    frame.extend(masked);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tokio_tungstenite::tungstenite::protocol::WebSocket;

    proptest! {
        /// The library reads back what the direct writer writes, in either role.
        #[test]
        fn frames_are_those_of_the_rfc(text in ".{0,300}", repeat in 1_usize..400, server: bool) {
            let text = text.repeat(repeat);
            let (ours, theirs) = if server { (Role::Server, Role::Client) } else { (Role::Client, Role::Server) };
            let mut frame = Vec::new();
            put_frame(&mut frame, text.as_bytes(), ours);
            let mut reader = WebSocket::from_raw_socket(std::io::Cursor::new(frame), theirs, None);
            let message = reader.read().unwrap();
            prop_assert_eq!(message.into_text().unwrap().as_str().to_owned(), text);
        }
    }
}
