//! What a worker's socket and its direct writer share: whose turn it is to write, and
//! what is left over of a frame. `tests/loom` runs this file through every order of
//! its threads.

use std::io::{self, Write};
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::protocol::Role;

use super::text_frame::put_frame;
use crate::core::sync::{AtomicWaker, Mutex, MutexGuard, PoisonError};

/// The lock that both share, and who is to be woken. `W` is a second handle of the
/// socket.
#[derive(Debug)]
pub(super) struct Shared<W> {
    inner: Mutex<DirectState<W>>,
    /// The task that polls the socket.
    waker: AtomicWaker,
}

/// What the lock guards.
#[derive(Debug)]
pub(super) struct DirectState<W> {
    /// `None` through TLS and after the end.
    direct: Option<W>,
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

impl<W: Write> Shared<W> {
    /// Shut at first.
    pub(super) fn new(direct: Option<W>, role: Role) -> Self {
        let inner = DirectState {
            direct,
            role,
            open: false,
            rest: Vec::new(),
            partial: false,
            frame: Vec::new(),
            busy_since: None,
        };
        Self {
            inner: Mutex::new(inner),
            waker: AtomicWaker::new(),
        }
    }

    /// Sends one text message if it is open. False: nothing was sent.
    pub(super) fn try_send(&self, text: &[u8]) -> bool {
        let mut inner = self.inner();
        let sent = inner.open && inner.send(text);
        if !inner.open {
            self.waker.wake();
        }
        sent
    }

    /// How long something has been under way without a break.
    pub(super) fn busy_for(&self) -> Duration {
        self.inner()
            .busy_since
            .map_or(Duration::ZERO, |since| since.elapsed())
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, DirectState<W>> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.waker.register(waker);
    }
}

impl<W: Write> DirectState<W> {
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
        let Some(direct) = self.direct.as_mut() else {
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
