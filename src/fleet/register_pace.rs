//! How fast REGISTERs go to one registrar: it speeds up while the registrar
//! answers, and slows down when it does not or says that it is busy.

use std::time::{Duration, Instant};

/// REGISTERs a second that a registrar gets at first.
pub const REGISTERS_PER_SECOND: u32 = 50;
/// Most REGISTERs a second for one that has answered so far.
pub const REGISTERS_PER_SECOND_MAX: u32 = 100;
/// Fewest for one that is busy or away.
const REGISTERS_PER_SECOND_MIN: u32 = 10;

/// The pace of one registrar.
#[derive(Clone, Debug)]
pub struct RegisterPace {
    per_second: u32,
    next: Option<Instant>,
}

impl Default for RegisterPace {
    fn default() -> Self {
        Self {
            per_second: REGISTERS_PER_SECOND,
            next: None,
        }
    }
}

impl RegisterPace {
    /// When something that is due at `at` may be sent.
    #[must_use]
    pub fn from(&self, at: Instant) -> Instant {
        self.next.map_or(at, |next| next.max(at))
    }

    /// One was sent.
    pub fn take(&mut self, now: Instant) {
        self.next = Some(now + Duration::from_secs(1) / self.per_second);
    }

    /// One was answered with success.
    pub fn succeeded(&mut self) {
        self.per_second = (self.per_second + 1).min(REGISTERS_PER_SECOND_MAX);
    }

    /// One was not answered, or the registrar cannot serve now.
    pub fn failed(&mut self) {
        self.per_second = (self.per_second / 2).max(REGISTERS_PER_SECOND_MIN);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_grows_with_answers_and_shrinks_without() {
        let (mut pace, now) = (RegisterPace::default(), Instant::now());
        let gap = |pace: &mut RegisterPace| {
            pace.take(now);
            pace.from(now) - now
        };
        assert_eq!(gap(&mut pace), Duration::from_millis(20));
        (0..500).for_each(|_| pace.succeeded());
        assert_eq!(gap(&mut pace), Duration::from_millis(10));
        pace.failed();
        assert_eq!(gap(&mut pace), Duration::from_millis(20));
        (0..500).for_each(|_| pace.failed());
        assert_eq!(gap(&mut pace), Duration::from_millis(100));
        assert_eq!(
            pace.from(now + Duration::from_secs(1)),
            now + Duration::from_secs(1)
        );
    }
}
