//! What the log says of strangers: a line for each source, seldom, and not
//! more in a second than a log can take, however many sources there are.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::buckets::{Buckets, Rate};

/// How often a source is told of at most.
const SOURCE_EVERY: Duration = Duration::from_secs(10);
/// Most sources that are remembered.
const SOURCES_MAX: usize = 1_024;
/// Most lines a second, and at once.
const LINES: (u32, u32) = (10, 50);

/// What is to be logged of strangers: at most one line for each source and interval.
#[derive(Debug, Default)]
pub struct Notices {
    sources: HashMap<IpAddr, Source>,
    lines: Buckets,
}

#[derive(Debug)]
struct Source {
    said: Instant,
    since: u64,
}

impl Notices {
    /// Something of a source was dropped. When it is time to say so: how many
    /// were, since the source was told of last, this one included.
    pub fn count(&mut self, now: Instant, source: IpAddr) -> Option<u64> {
        if let Some(known) = self.sources.get_mut(&source) {
            known.since += 1;
            if now.saturating_duration_since(known.said) < SOURCE_EVERY {
                return None;
            }
        }
        let (rate, burst) = LINES;
        let everybody = IpAddr::from([0, 0, 0, 0]);
        if !self
            .lines
            .take(now, everybody, Rate::per_second(rate, burst))
        {
            return None;
        }
        if self.sources.len() >= SOURCES_MAX {
            let is_quiet = |said: Instant| now.saturating_duration_since(said) >= SOURCE_EVERY;
            self.sources.retain(|_, source| !is_quiet(source.said));
        }
        let since = self.sources.get(&source).map_or(1, |known| known.since);
        if self.sources.len() < SOURCES_MAX || self.sources.contains_key(&source) {
            let said = Source {
                said: now,
                since: 0,
            };
            self.sources.insert(source, said);
        }
        Some(since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(number: u32) -> IpAddr {
        IpAddr::from(number.to_be_bytes())
    }

    #[test]
    fn a_source_is_told_of_at_once_and_then_seldom() {
        let mut notices = Notices::default();
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let said: Vec<_> = (0..250)
            .filter_map(|step| Some((step, notices.count(at(step * 100), source(1))?)))
            .collect();
        assert_eq!(said, [(0, 1), (100, 100), (200, 100)]);
    }

    #[test]
    fn many_sources_do_not_flood_the_log_or_the_memory() {
        let mut notices = Notices::default();
        let start = Instant::now();
        let said = (0..100_000).filter(|number| {
            let now = start + Duration::from_micros(u64::from(*number) * 100);
            notices.count(now, source(*number)).is_some()
        });
        let said = said.count();
        assert!((140..=160).contains(&said), "{said} lines in 10 s");
        assert!(notices.sources.len() <= SOURCES_MAX);
    }
}
