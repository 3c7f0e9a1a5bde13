//! The media thread writes to a worker while the worker's task does.

use std::future::poll_fn;
use std::io::{self, Write};
use std::task::Poll;

use loom::future::block_on;
use loom::thread;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::core::sync::{Arc, Mutex};
use crate::direct_state::{DirectState, Shared};

/// What the kernel was given, and how much of the next write it takes.
#[derive(Clone, Debug)]
struct Kernel(Arc<Mutex<(Vec<u8>, usize)>>);

impl Kernel {
    fn new(room: usize) -> Self {
        Self(Arc::new(Mutex::new((Vec::new(), room))))
    }

    fn taken(&self) -> Vec<u8> {
        self.0.lock().unwrap().0.clone()
    }

    /// The worker has read: there is room again.
    fn drain(&self) {
        self.0.lock().unwrap().1 = usize::MAX;
    }
}

impl Write for Kernel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut inner = self.0.lock().unwrap();
        let written = bytes.len().min(inner.1);
        if written == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        inner.0.extend_from_slice(&bytes[..written]);
        inner.1 -= written;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What `TimedStream` does under the lock before the socket writes anything.
fn write_rest(kernel: &mut Kernel, state: &mut DirectState<Kernel>) {
    while let Ok(written @ 1..) = kernel.write(state.rest()) {
        state.rest().drain(..written);
    }
}

fn frame(text: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    crate::text_frame::put_frame(&mut frame, text, Role::Server);
    frame
}

fn shared(kernel: &Kernel) -> Arc<Shared<Kernel>> {
    let shared = Shared::new(Some(kernel.clone()), Role::Server);
    shared.inner().reopen();
    Arc::new(shared)
}

/// Whether `bytes` are these frames, each whole, in one of both orders.
fn is_either_order(bytes: &[u8], one: &[u8], other: &[u8]) -> bool {
    bytes == [one, other].concat() || bytes == [other, one].concat()
}

/// The socket has a frame of its own to write, in two parts.
#[test]
fn no_frame_is_written_into_another() {
    loom::model(|| {
        let mut kernel = Kernel::new(usize::MAX);
        let shared = shared(&kernel);
        let media = Arc::clone(&shared);
        let direct = thread::spawn(move || media.try_send(b"direct"));
        let own = frame(b"own");
        // Handed over, written in two parts, and nothing under way any more.
        shared.inner().shut();
        for (part, is_whole) in [(&own[..2], false), (&own[2..], true)] {
            let mut state = shared.inner();
            write_rest(&mut kernel, &mut state);
            kernel.write_all(part).unwrap();
            state.note_write(is_whole);
        }
        shared.inner().reopen();
        let sent = direct.join().unwrap();
        let taken = kernel.taken();
        if sent {
            assert!(
                is_either_order(&taken, &own, &frame(b"direct")),
                "{taken:?}"
            );
        } else {
            assert_eq!(taken, own, "it takes the long way");
        }
    });
}

/// The kernel takes part of a frame: the task is woken for the rest, whenever that
/// happens while it goes to sleep.
#[test]
fn the_rest_of_a_frame_always_goes_out() {
    loom::model(|| {
        let mut kernel = Kernel::new(3);
        let shared = shared(&kernel);
        let media = Arc::clone(&shared);
        let direct = thread::spawn(move || media.try_send(b"direct"));
        let whole = frame(b"direct");
        let task = Arc::clone(&shared);
        // As `WorkerSocket::poll_received`: registers, then looks.
        block_on(poll_fn(|cx| {
            task.register(cx.waker());
            let mut state = task.inner();
            if !state.rest().is_empty() {
                kernel.drain();
                write_rest(&mut kernel, &mut state);
            }
            state.reopen();
            drop(state);
            if kernel.taken().len() == whole.len() {
                return Poll::Ready(());
            }
            Poll::Pending
        }));
        assert!(direct.join().unwrap());
        assert_eq!(kernel.taken(), whole);
        assert!(shared.busy_for().is_zero());
    });
}

/// Nothing may follow a close frame.
#[test]
fn nothing_is_written_after_the_end() {
    loom::model(|| {
        let mut kernel = Kernel::new(usize::MAX);
        let shared = shared(&kernel);
        let media = Arc::clone(&shared);
        let direct = thread::spawn(move || media.try_send(b"direct"));
        let mut state = shared.inner();
        state.end();
        write_rest(&mut kernel, &mut state);
        drop(state);
        kernel.write_all(b"close").unwrap();
        let sent = direct.join().unwrap();
        let mut expected = if sent { frame(b"direct") } else { Vec::new() };
        expected.extend(b"close");
        assert_eq!(kernel.taken(), expected);
        shared.inner().reopen();
        assert!(!shared.try_send(b"late"));
    });
}

/// Two legs' media threads cannot both be in the middle of a frame.
#[test]
fn two_direct_writers_take_turns() {
    loom::model(|| {
        let kernel = Kernel::new(usize::MAX);
        let shared = shared(&kernel);
        let media = Arc::clone(&shared);
        let other = thread::spawn(move || media.try_send(b"one"));
        assert!(shared.try_send(b"two"));
        assert!(other.join().unwrap());
        assert!(is_either_order(
            &kernel.taken(),
            &frame(b"one"),
            &frame(b"two")
        ));
    });
}
