//! The locks, atomics and wakers of code that `tests/loom` runs through every
//! order of its threads: that test puts loom's in their place.

pub use std::sync::atomic::{AtomicUsize, Ordering};
pub use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use futures_util::task::AtomicWaker;
