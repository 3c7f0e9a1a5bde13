//! Writes to a worker without a detour: a text message goes to its socket at once,
//! from any thread, while nothing else waits for that socket.
//!
//! Socket and direct writer share one lock. Whoever holds it may write whole frames;
//! while the socket has anything under way the direct writer is shut, and the message
//! takes the long way through the socket's queue. What a full kernel buffer
//! leaves over of a frame is kept here and goes first.
//!
//! Nothing is written directly through TLS: its stream belongs to one task.

use std::io;
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use tokio_tungstenite::tungstenite::protocol::Role;

use super::direct_state::{DirectState, Shared};

/// What socket and direct writer share.
pub(super) type SharedSocket = DirectState<TcpStream>;

/// The direct writer of one socket. Cheap to clone; shut for good when the socket goes.
#[derive(Clone, Debug)]
pub struct DirectWriter {
    shared: Arc<Shared<TcpStream>>,
}

impl DirectWriter {
    /// A direct writer beside a socket of this role; shut at first.
    pub(super) fn new(socket: Option<&tokio::net::TcpStream>, role: Role) -> Self {
        // Without a second handle every message takes the long way.
        let direct = socket.and_then(|socket| duplicate(socket.as_fd().try_clone_to_owned()));
        Self {
            shared: Arc::new(Shared::new(direct, role)),
        }
    }

    /// Sends one text message if it is open. False: nothing was sent,
    /// and the message must take the long way.
    #[must_use]
    pub fn try_send(&self, text: &[u8]) -> bool {
        self.shared.try_send(text)
    }

    /// How long something has been waiting for the worker without a break: no
    /// message waits longer.
    #[must_use]
    pub fn busy_for(&self) -> Duration {
        self.shared.busy_for()
    }

    pub(super) fn inner(&self) -> MutexGuard<'_, SharedSocket> {
        self.shared.inner()
    }

    pub(super) fn register(&self, waker: &std::task::Waker) {
        self.shared.register(waker);
    }
}

fn duplicate(handle: io::Result<OwnedFd>) -> Option<TcpStream> {
    handle.ok().map(TcpStream::from)
}
