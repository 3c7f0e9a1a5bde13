//! Liveness of threads, and the hard exit when something hangs.
