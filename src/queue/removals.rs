//! Jobs that must leave the queue. Kept while Redis is away, so that no worker
//! ever gets a call that is over.

use std::collections::VecDeque;
use std::time::{Duration, SystemTime};

/// Most jobs remembered; past that the oldest is forgotten and counted.
const MAX: usize = 10_000;
/// Jobs removed at once.
const BATCH: usize = 64;
/// How long after its expiry a job is still looked for. Workers leave expired
/// jobs alone; this keeps the queue tidy.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(3_600);
/// How often a job that may still be on its way to Redis is looked for.
const UNCERTAIN_TRIES: u32 = 5;

/// A job to remove.
#[derive(Debug)]
pub(super) struct KeyRemoval {
    pub(super) payload: String,
    pub(super) expires: SystemTime,
    /// How often to look again when it is not in the queue.
    tries: u32,
}

/// The jobs to remove, oldest first.
#[derive(Debug, Default)]
pub(super) struct Removals {
    waiting: VecDeque<KeyRemoval>,
    /// Not found yet, though they may come: for the next round.
    again: Vec<KeyRemoval>,
    forgotten: u64,
}

impl Removals {
    /// Adds a job. `uncertain`: its push failed in a way that may still have
    /// brought it into the queue.
    pub(super) fn add(&mut self, payload: String, expires: SystemTime, uncertain: bool) {
        let tries = if uncertain { UNCERTAIN_TRIES } else { 0 };
        self.put(KeyRemoval {
            payload,
            expires,
            tries,
        });
    }

    fn put(&mut self, removal: KeyRemoval) {
        if self.waiting.len() >= MAX {
            self.waiting.pop_front();
            self.forgotten += 1;
        }
        self.waiting.push_back(removal);
    }

    /// The next jobs to remove, those given up left out.
    pub(super) fn batch(&mut self, now: SystemTime) -> Vec<KeyRemoval> {
        let mut batch = Vec::new();
        while batch.len() < BATCH {
            let Some(removal) = self.waiting.pop_front() else {
                break;
            };
            if now < removal.expires + KEPT_AFTER_EXPIRY {
                batch.push(removal);
            }
        }
        batch
    }

    /// Redis failed on them: the same again, first.
    pub(super) fn failed(&mut self, batch: Vec<KeyRemoval>) {
        for removal in batch.into_iter().rev() {
            self.waiting.push_front(removal);
        }
    }

    /// It was not in the queue: taken by a worker, or still on its way.
    pub(super) fn not_found(&mut self, mut removal: KeyRemoval) {
        if removal.tries > 0 {
            removal.tries -= 1;
            self.again.push(removal);
        }
    }

    /// Starts another round for those that were not found.
    pub(super) fn look_again(&mut self) {
        for removal in std::mem::take(&mut self.again) {
            self.put(removal);
        }
    }

    /// How many have been forgotten for want of room.
    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: SystemTime = SystemTime::UNIX_EPOCH;

    #[test]
    fn a_removal_is_kept_until_done_or_long_expired() {
        let mut removals = Removals::default();
        removals.add("a".into(), NOW, false);
        removals.add("b".into(), NOW, false);
        let batch = removals.batch(NOW);
        assert!(removals.batch(NOW).is_empty());
        removals.failed(batch);
        let again = removals.batch(NOW);
        assert_eq!((&*again[0].payload, &*again[1].payload), ("a", "b"));
        removals.failed(again);
        assert!(removals.batch(NOW + KEPT_AFTER_EXPIRY).is_empty());
    }

    #[test]
    fn an_uncertain_job_is_looked_for_again_a_few_times() {
        let mut removals = Removals::default();
        removals.add("sure".into(), NOW, false);
        removals.add("maybe".into(), NOW, true);
        let mut looked = Vec::new();
        for _ in 0..10 {
            for removal in removals.batch(NOW) {
                looked.push(removal.payload.clone());
                removals.not_found(removal);
            }
            removals.look_again();
        }
        assert_eq!(looked.iter().filter(|job| *job == "sure").count(), 1);
        assert_eq!(looked.iter().filter(|job| *job == "maybe").count(), 6);
    }

    #[test]
    fn the_oldest_is_forgotten_when_there_are_too_many() {
        let mut removals = Removals::default();
        for number in 0..=MAX {
            removals.add(number.to_string(), NOW, false);
        }
        assert_eq!(removals.forgotten(), 1);
        assert_eq!(removals.batch(NOW)[0].payload, "1");
    }
}
