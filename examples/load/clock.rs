//! The one clock of a run.

use std::time::Instant;

/// Counts ns from the start of the run; never 0, which stands for never.
#[derive(Clone, Copy, Debug)]
pub struct Clock(Instant);

impl Clock {
    pub fn start() -> Self {
        Self(Instant::now())
    }

    pub fn now_ns(self) -> u64 {
        // 584 years fit.
        self.0.elapsed().as_nanos() as u64 + 1
    }
}
