//! Wake-ups of one part of a task, told apart from those of its other parts.
//!
//! A task has one waker: whoever uses it has every future of the task polled. A call's driver waits
//! for a dozen things, and fifty times a second for one of them, its worker's audio: the others are
//! polled by a waker of their own, and only when that was used.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use futures_util::task::AtomicWaker;

/// The waker of one part of a task.
pub(in crate::bridge) struct Signal {
    state: Arc<State>,
    waker: Waker,
}

struct State {
    is_set: AtomicBool,
    task: AtomicWaker,
}

impl Wake for State {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.is_set.store(true, Ordering::Release);
        self.task.wake();
    }
}

impl Signal {
    pub(in crate::bridge) fn new() -> Self {
        let state = Arc::new(State {
            is_set: AtomicBool::new(true),
            task: AtomicWaker::new(),
        });
        Self {
            waker: state.clone().into(),
            state,
        }
    }

    /// The part is another by now, and was never polled.
    pub(in crate::bridge) fn set(&self) {
        self.state.is_set.store(true, Ordering::Release);
    }

    /// Whom the part's wake-ups wake. To be called before [`Signal::poll`], in each poll of the task.
    pub(in crate::bridge) fn register(&self, task: &Waker) {
        self.state.task.register(task);
    }

    /// Polls the part, if it was woken since the last time.
    pub(in crate::bridge) fn poll<T>(&self, part: Pin<&mut impl Future<Output = T>>) -> Poll<T> {
        if self.state.is_set.swap(false, Ordering::AcqRel) {
            part.poll(&mut Context::from_waker(&self.waker))
        } else {
            Poll::Pending
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::atomic::AtomicU32;
    use tokio::sync::Notify;

    #[tokio::test]
    async fn a_part_is_polled_when_it_was_woken_and_then_only() {
        let (signal, polls) = (Signal::new(), AtomicU32::new(0));
        let (others, worker) = (Notify::new(), Notify::new());
        let mut part = pin!(async {
            let mut notified = pin!(others.notified());
            poll_fn(|cx| {
                polls.fetch_add(1, Ordering::Relaxed);
                notified.as_mut().poll(cx)
            })
            .await;
        });
        let mut left = 3;
        let both = poll_fn(|cx| {
            signal.register(cx.waker());
            if signal.poll(part.as_mut()).is_ready() {
                return Poll::Ready(());
            }
            while left > 0 && pin!(worker.notified()).poll(cx).is_ready() {
                left -= 1;
            }
            // This future forgets that it waited for the worker: it is polled again by hand.
            match left {
                0 => others.notify_one(),
                _ => {
                    worker.notify_one();
                    cx.waker().wake_by_ref();
                }
            }
            Poll::Pending
        });
        both.await;
        assert_eq!(
            polls.load(Ordering::Relaxed),
            2,
            "the first time, and when it was woken"
        );
    }
}
