//! So many a second from each source: a token bucket for each (as in RFC 2697,
//! without colours), in a table that cannot grow.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// Most sources that are told apart. When so many are in debt at once, those
/// that come later share one bucket.
pub const SOURCES_MAX: usize = 4_096;

/// One bucket for each source.
#[derive(Debug)]
pub struct Buckets {
    /// When each bucket is full again; those that are full are not kept.
    full_at: HashMap<IpAddr, Instant>,
    /// Of all that the table has no room for.
    others: Option<Instant>,
    capacity: usize,
}

/// How fast a bucket fills, and how much it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    every: Duration,
    burst: u32,
}

impl Rate {
    /// So many a second, and at most so many at once.
    #[must_use]
    pub fn per_second(count: u32, burst: u32) -> Self {
        Self {
            every: Duration::from_secs(1) / count.max(1),
            burst: burst.max(1),
        }
    }
}

impl Default for Buckets {
    fn default() -> Self {
        Self::with_capacity(SOURCES_MAX)
    }
}

impl Buckets {
    fn with_capacity(capacity: usize) -> Self {
        Self {
            full_at: HashMap::new(),
            others: None,
            capacity,
        }
    }

    /// Takes one token of a source ([`super::source_of`]), where it has one.
    pub fn take(&mut self, now: Instant, source: IpAddr, rate: Rate) -> bool {
        if !self.full_at.contains_key(&source) && self.full_at.len() >= self.capacity {
            self.full_at.retain(|_, full_at| *full_at > now);
            if self.full_at.len() >= self.capacity {
                return take(&mut self.others, now, rate);
            }
        }
        let mut full_at = self.full_at.get(&source).copied();
        let taken = take(&mut full_at, now, rate);
        if let Some(full_at) = full_at {
            self.full_at.insert(source, full_at);
        }
        taken
    }
}

fn take(full_at: &mut Option<Instant>, now: Instant, rate: Rate) -> bool {
    let debt = full_at.map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
    let has_room = debt + rate.every <= rate.every * rate.burst;
    if has_room {
        *full_at = Some(now + debt + rate.every);
    }
    has_room
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_burst_passes_and_then_so_many_a_second() {
        let mut buckets = Buckets::default();
        let start = Instant::now();
        let rate = Rate::per_second(10, 20);
        let mut passed = |from: Duration, tries: u32| {
            let take = |_: &u32| buckets.take(start + from, source(1), rate);
            (0..tries).filter(take).count()
        };
        assert_eq!(passed(Duration::ZERO, 300), 20);
        assert_eq!(passed(Duration::from_secs(1), 300), 10);
        assert_eq!(passed(Duration::from_secs(60), 300), 20);
    }

    #[test]
    fn one_source_takes_nothing_from_another() {
        let mut buckets = Buckets::default();
        let now = Instant::now();
        let rate = Rate::per_second(5, 5);
        let flood = (0..300).filter(|_| buckets.take(now, source(1), rate));
        assert_eq!(flood.count(), 5);
        assert!(buckets.take(now, source(2), rate));
    }

    #[test]
    fn the_table_does_not_grow_and_forgets_who_owes_nothing() {
        let mut buckets = Buckets::with_capacity(100);
        let now = Instant::now();
        let rate = Rate::per_second(1, 2);
        let passed = (0..10_000).filter(|number| buckets.take(now, source(*number), rate));
        assert_eq!(passed.count(), 102, "and two for all the others");
        assert_eq!(buckets.full_at.len(), 100);
        let later = now + Duration::from_secs(5);
        assert!(buckets.take(later, source(20_000), rate));
        assert_eq!(buckets.full_at.len(), 1);
    }
}
