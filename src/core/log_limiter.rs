//! Limits how often one thing is logged, so that trouble does not flood the
//! log.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lets one of many through in each interval.
#[derive(Debug)]
pub struct LogLimiter {
    interval: Duration,
    said: Option<Instant>,
    since: u64,
}

impl LogLimiter {
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
        self.say(now)
    }

    /// What happened since it was said last and can be said by now.
    fn say(&mut self, now: Instant) -> Option<u64> {
        if self.is_quiet(now) || self.since == 0 {
            return None;
        }
        self.said = Some(now);
        Some(std::mem::take(&mut self.since))
    }

    fn is_quiet(&self, now: Instant) -> bool {
        let quiet = |said: Instant| now.saturating_duration_since(said) < self.interval;
        self.said.is_some_and(quiet)
    }
}

/// [`LogLimiter`] for each of many kinds. Whoever sends us things may think up
/// kinds without end: so many are told apart, and the rest is one kind.
#[derive(Debug)]
pub struct SeldomKinds {
    interval: Duration,
    kinds_max: usize,
    kinds: HashMap<String, LogLimiter>,
    others: LogLimiter,
}

impl SeldomKinds {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(interval: Duration, kinds_max: usize) -> Self {
        Self {
            interval,
            kinds_max,
            kinds: HashMap::new(),
            others: LogLimiter::new(interval),
        }
    }

    /// Something of this kind happened again: as [`LogLimiter::count`].
    pub fn count(&mut self, now: Instant, kind: &str) -> Option<u64> {
        if let Some(limiter) = self.kinds.get_mut(kind) {
            return limiter.count(now);
        }
        if self.kinds.len() >= self.kinds_max {
            self.kinds
                .retain(|_, limiter| limiter.is_quiet(now) || limiter.since > 0);
        }
        if self.kinds.len() >= self.kinds_max {
            return self.others.count(now);
        }
        let limiter = self.kinds.entry(kind.to_owned());
        limiter.or_insert(LogLimiter::new(self.interval)).count(now)
    }

    /// Kinds of which some have not been told, and can be by now: those that
    /// stopped happening. `None` as the kind stands for all that are not told apart.
    pub fn overdue(&mut self, now: Instant) -> Vec<(Option<String>, u64)> {
        let kinds = self.kinds.iter_mut();
        let kinds =
            kinds.filter_map(|(kind, limiter)| Some((Some(kind.clone()), limiter.say(now)?)));
        let others = self.others.say(now).map(|count| (None, count));
        kinds.chain(others).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_is_said_and_the_rest_is_counted() {
        let start = Instant::now();
        let mut limiter = LogLimiter::new(Duration::from_secs(10));
        let said: Vec<(u64, u64)> = (0..250)
            .filter_map(|step| {
                Some((
                    step,
                    limiter.count(start + Duration::from_millis(100 * step))?,
                ))
            })
            .collect();
        assert_eq!(said, [(0, 1), (100, 100), (200, 100)]);
    }

    #[test]
    fn each_kind_is_said_by_itself_and_kinds_are_bounded() {
        let interval = Duration::from_secs(10);
        let start = Instant::now();
        let mut limiter = SeldomKinds::new(interval, 2);
        assert_eq!(limiter.count(start, "a"), Some(1));
        assert_eq!(limiter.count(start, "b"), Some(1));
        assert_eq!(limiter.count(start, "a"), None);
        let said = (0..1_000).filter_map(|n| limiter.count(start, &n.to_string()));
        assert_eq!(said.collect::<Vec<_>>(), [1], "one for all the rest");
        assert!(limiter.overdue(start).is_empty());

        let later = start + interval;
        let mut overdue = limiter.overdue(later);
        overdue.sort();
        assert_eq!(overdue, [(None, 999), (Some("a".into()), 1)]);
        assert!(limiter.overdue(later).is_empty());
        // What has been quiet makes room.
        assert_eq!(limiter.count(later + interval, "c"), Some(1));
        assert_eq!(limiter.kinds.len(), 1);
    }
}
