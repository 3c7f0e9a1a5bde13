//! Code that several threads share, run through every order in which they can
//! take its locks and meet at its atomics (<https://docs.rs/loom>).
//!
//! The files under test are those of the program: they take their locks from
//! `core::sync`, and here that is loom's. Nothing is built anew with `--cfg loom`,
//! under which tokio has no sockets.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a broken expectation is a failure"
)]

/// What the files under test import of the program's own.
mod core {
    pub mod ids {
        pub use sipbridge::core::ids::LegId;
    }
    /// As `src/core/sync.rs`, of loom.
    pub mod sync {
        pub use loom::sync::atomic::{AtomicUsize, Ordering};
        pub use loom::sync::{Arc, Mutex, MutexGuard};
        pub use std::sync::PoisonError;
        use std::task::Waker;

        /// Loom's takes the waker by value.
        #[derive(Debug)]
        pub struct AtomicWaker(loom::future::AtomicWaker);

        impl AtomicWaker {
            pub fn new() -> Self {
                Self(loom::future::AtomicWaker::new())
            }

            pub fn register(&self, waker: &Waker) {
                self.0.register(waker.clone());
            }

            pub fn wake(&self) {
                self.0.wake();
            }
        }
    }
}

#[path = "../../src/worker/direct_state.rs"]
mod direct_state;
#[path = "../../src/sip/pjsip/slots.rs"]
mod slots;
#[path = "../../src/worker/text_frame.rs"]
mod text_frame;

mod call_table;
mod direct_writer;
