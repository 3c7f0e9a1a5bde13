//! Lines that the SIP engine could not add, and when each is tried again. What
//! was in the way (no certificate, no free account) may be gone by then.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use super::ids::LineId;

/// Until a line is tried again for the first time.
pub const RETRY_MIN: Duration = Duration::from_secs(2);
/// Longest time between two tries.
pub const RETRY_MAX: Duration = Duration::from_secs(300);

/// The refused lines, each with what is needed to add it.
#[derive(Debug)]
pub struct RefusedLines<T> {
    waiting: HashMap<LineId, Waiting<T>>,
}

#[derive(Debug)]
struct Waiting<T> {
    line: T,
    tries: u32,
    next_try: Instant,
}

impl<T> Default for RefusedLines<T> {
    fn default() -> Self {
        Self {
            waiting: HashMap::new(),
        }
    }
}

impl<T> RefusedLines<T> {
    /// A line was refused, perhaps once more. Returns the time until it is due
    /// again: twice as long after each refusal in a row.
    pub fn refused(&mut self, id: LineId, line: T, now: Instant) -> Duration {
        let tries = self.waiting.get(&id).map_or(0, |waiting| waiting.tries);
        // Past 2^16 the delay is over the cap.
        let delay = RETRY_MIN.saturating_mul(1 << tries.min(16)).min(RETRY_MAX);
        let waiting = Waiting {
            line,
            tries: tries.saturating_add(1),
            next_try: now + delay,
        };
        self.waiting.insert(id, waiting);
        delay
    }

    /// Forgets a line: it was added, or is wanted no more. Returns whether it
    /// was refused before.
    pub fn forget(&mut self, id: &LineId) -> bool {
        self.waiting.remove(id).is_some()
    }

    /// At most so many lines that are to be tried now, those that have waited
    /// longest first. They stay refused until they are forgotten.
    pub fn due(&self, most: usize, now: Instant) -> Vec<&T> {
        let is_due = |waiting: &&Waiting<T>| waiting.next_try <= now;
        let mut due: Vec<_> = self.waiting.values().filter(is_due).collect();
        due.sort_unstable_by_key(|waiting| waiting.next_try);
        due.truncate(most);
        due.into_iter().map(|waiting| &waiting.line).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> LineId {
        LineId::new(name)
    }

    #[test]
    fn each_refusal_in_a_row_doubles_the_wait_up_to_five_minutes() {
        let (mut lines, now) = (RefusedLines::default(), Instant::now());
        let waits: Vec<u64> = (0..40)
            .map(|_| lines.refused(id("a"), (), now).as_secs())
            .collect();
        assert_eq!(waits[..9], [2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(waits[9..].iter().all(|wait| *wait == 300));
        assert!(lines.forget(&id("a")));
        assert!(!lines.forget(&id("a")));
        assert_eq!(lines.refused(id("a"), (), now), RETRY_MIN, "begins anew");
    }

    #[test]
    fn what_is_due_is_bounded_and_the_oldest_come_first() {
        let (mut lines, now) = (RefusedLines::default(), Instant::now());
        for (number, name) in ["a", "b", "c"].into_iter().enumerate() {
            let at = now + Duration::from_millis(10 * number as u64);
            lines.refused(id(name), name, at);
        }
        assert!(lines.due(9, now).is_empty(), "too early");
        let later = now + RETRY_MIN + Duration::from_millis(10);
        assert_eq!(lines.due(9, later), [&"a", &"b"]);
        assert_eq!(lines.due(1, later), [&"a"]);
        lines.refused(id("a"), "a2", later);
        assert_eq!(lines.due(9, later), [&"b"], "it waits for its next turn");
    }
}
