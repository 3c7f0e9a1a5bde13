//! Says something seldom that happens often, so that trouble does not flood
//! the log.

use std::time::{Duration, Instant};

/// Lets one of many through in each interval.
#[derive(Debug)]
pub struct Seldom {
    interval: Duration,
    said: Option<Instant>,
    since: u64,
}

impl Seldom {
    /// Nothing has happened yet.
    #[must_use]
    pub const fn new(interval: Duration) -> Self {
        Self {
            interval,
            said: None,
            since: 0,
        }
    }

    /// It happened again. When it is time to say so: how often since it was
    /// said last, this time included.
    pub fn count(&mut self, now: Instant) -> Option<u64> {
        self.since += 1;
        let is_quiet = |said: Instant| now.saturating_duration_since(said) < self.interval;
        if self.said.is_some_and(is_quiet) {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut seldom = Seldom::new(Duration::from_secs(10));
        let said: Vec<(u64, u64)> = (0..250)
            .filter_map(|step| {
                Some((
                    step,
                    seldom.count(start + Duration::from_millis(100 * step))?,
                ))
            })
            .collect();
        assert_eq!(said, [(0, 1), (100, 100), (200, 100)]);
    }
}
