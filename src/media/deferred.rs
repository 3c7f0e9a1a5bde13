//! Work that the pacer must not do itself: to wake a task of tokio takes locks that
//! normal threads hold, and to free a call's audio takes as long as there is audio.
//! The pacer puts it into a ring, and a thread of normal priority does it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle, Thread};
use std::time::Duration;

use tokio::sync::Notify;

use super::pacer::Paced;
use crate::core::ring::{Consumer, Producer, ring};

/// What may wait; the pacer keeps the rest and tries again 20 ms later.
const CAPACITY: usize = 4_096;
/// Longest sleep: a safeguard, for the pacer unparks the thread.
const IDLE: Duration = Duration::from_millis(250);

/// One piece of it.
pub(super) enum Deferred {
    /// A driver is to be woken.
    Wake(Arc<Notify>),
    /// A stream is over.
    Free(Box<dyn Paced>),
}

impl Deferred {
    fn run(self) {
        match self {
            Self::Wake(driver) => driver.notify_one(),
            Self::Free(stream) => drop(stream),
        }
    }
}

/// The pacer's end.
pub(super) struct DeferredQueue {
    ring: Producer<Deferred>,
    thread: Thread,
    has_new: bool,
}

impl DeferredQueue {
    /// Leaves work for the other thread. Never waits.
    ///
    /// # Errors
    /// When too much waits: gives it back.
    pub(super) fn push(&mut self, work: Deferred) -> Result<(), Deferred> {
        self.has_new = true;
        self.ring.push(work)
    }

    /// Lets the other thread run if there is anything for it.
    pub(super) fn flush(&mut self) {
        if std::mem::take(&mut self.has_new) {
            self.thread.unpark();
        }
    }
}

/// The thread that does it. Dropping it stops and joins it.
pub(super) struct DeferredThread {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl DeferredThread {
    pub(super) fn start() -> std::io::Result<(Self, DeferredQueue)> {
        let (ring, work) = ring(CAPACITY);
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::Builder::new()
            .name("pacer-deferred".into())
            .spawn(move || run(work, &stopped))?;
        let queue = DeferredQueue {
            ring,
            thread: thread.thread().clone(),
            has_new: false,
        };
        let thread = Some(thread);
        Ok((Self { stop, thread }, queue))
    }
}

impl Drop for DeferredThread {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic of the thread has been reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn run(mut work: Consumer<Deferred>, stopped: &AtomicBool) {
    loop {
        // Looked at first, so that what came before the stop is done.
        let stops = stopped.load(Ordering::Acquire);
        while let Some(work) = work.pop() {
            work.run();
        }
        if stops {
            return;
        }
        thread::park_timeout(IDLE);
    }
}
