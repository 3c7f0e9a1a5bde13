//! The phone lines that this bridge holds now, with what the calls need of
//! them, and what is known of the lines that it cannot hold. Lines come,
//! change and go while calls are in progress; a call keeps the profile that
//! it began with.
//!
//! Who changes the database says so here; the database watcher waits for that.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use tokio::sync::Notify;

use super::context::LineProfile;
use super::number_index::NumberIndex;
use crate::core::address::Transport;
use crate::core::ids::LineId;

/// Whether a line can be used, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineHealth {
    /// It takes calls, and registers where lines do.
    Usable {
        /// `host` or `host:port` of its server.
        server: String,
        /// Over which it is reached.
        transport: Transport,
        /// By which rule it has this server, in words.
        rule: String,
    },
    /// Something is wrong with it.
    Unusable {
        /// What, in words.
        reason: String,
    },
    /// It is not to register: not active, or of another provider.
    Skipped {
        /// Why, in words.
        reason: String,
    },
}

/// Lines by id.
#[derive(Debug, Default)]
pub struct LineDirectory {
    held: RwLock<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    profiles: HashMap<LineId, Arc<LineProfile>>,
    judged: HashMap<LineId, LineHealth>,
    numbers: NumberIndex,
}

impl LineDirectory {
    /// The lines of the start.
    #[must_use]
    pub fn new(profiles: HashMap<LineId, Arc<LineProfile>>) -> Self {
        let mut numbers = NumberIndex::default();
        profiles.values().for_each(|line| numbers.add(line));
        let held = Held {
            profiles,
            numbers,
            ..Held::default()
        };
        Self {
            held: RwLock::new(held),
            changed: Notify::new(),
        }
    }

    /// One line.
    #[must_use]
    pub fn get(&self, line: &LineId) -> Option<Arc<LineProfile>> {
        self.read().profiles.get(line).cloned()
    }

    /// All lines, in no order.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<LineProfile>> {
        self.read().profiles.values().cloned().collect()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().profiles.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().profiles.is_empty()
    }

    /// Adds a line, or changes it for the calls to come.
    pub fn put(&self, profile: Arc<LineProfile>) {
        let mut held = self.write();
        let before = held.profiles.insert(profile.id.clone(), profile.clone());
        if let Some(before) = before {
            held.numbers.remove(&before);
        }
        held.numbers.add(&profile);
    }

    /// The lines that have this number as their own, however it is written.
    #[must_use]
    pub fn with_number(&self, number: &str) -> Vec<Arc<LineProfile>> {
        let held = self.read();
        let found = held.numbers.find(number);
        let lines = found.into_iter().filter_map(|id| held.profiles.get(id));
        lines.cloned().collect()
    }

    /// The only line; `None` where there are several, or none.
    #[must_use]
    pub fn only(&self) -> Option<Arc<LineProfile>> {
        let held = self.read();
        let mut lines = held.profiles.values();
        lines.next().filter(|_| held.profiles.len() == 1).cloned()
    }

    /// Takes a line away; its calls go on.
    pub fn remove(&self, line: &LineId) {
        let mut held = self.write();
        if let Some(profile) = held.profiles.remove(line) {
            held.numbers.remove(&profile);
        }
    }

    /// Whether a line can be used; `None` for one that was never seen.
    #[must_use]
    pub fn usability(&self, line: &LineId) -> Option<LineHealth> {
        self.read().judged.get(line).cloned()
    }

    /// The ids of all lines that are held or that something is known of, those
    /// after an id, in their order; at most so many.
    #[must_use]
    pub fn ids(&self, after: Option<&str>, most: usize) -> Vec<LineId> {
        let held = self.read();
        let all = held.profiles.keys().chain(held.judged.keys());
        let wanted = all.filter(|id| after.is_none_or(|after| id.as_str() > after));
        let sorted: BTreeSet<&LineId> = wanted.collect();
        sorted.into_iter().take(most).cloned().collect()
    }

    /// How many lines have something wrong with them.
    #[must_use]
    pub fn unusable(&self) -> usize {
        let held = self.read();
        let is_unusable =
            |usability: &&LineHealth| matches!(usability, LineHealth::Unusable { .. });
        held.judged.values().filter(is_unusable).count()
    }

    /// Replaces what is known of all lines.
    pub fn judge(&self, judged: HashMap<LineId, LineHealth>) {
        self.write().judged = judged;
    }

    /// Replaces what is known of one line.
    pub fn judge_line(&self, line: &LineId, known: LineHealth) {
        self.write().judged.insert(line.clone(), known);
    }

    /// Tells that the database was changed: the lines are read again.
    pub fn notify_changed(&self) {
        self.changed.notify_one();
    }

    /// Returns once something was changed since the last time. For one listener.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }

    fn read(&self) -> RwLockReadGuard<'_, Held> {
        self.held.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Held> {
        self.held.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::private::Private;

    #[test]
    fn what_is_known_of_lines_is_told() {
        let directory = LineDirectory::default();
        let reason = "has no sipUsername".to_owned();
        let bad = LineHealth::Unusable { reason };
        let reason = "not active".to_owned();
        let paused = LineHealth::Skipped { reason };
        let [a, b] = ["a", "b"].map(LineId::new);
        directory.judge(HashMap::from([(a.clone(), bad.clone()), (b, paused)]));
        assert_eq!(
            (directory.usability(&a), directory.unusable()),
            (Some(bad), 1)
        );
        assert_eq!(directory.usability(&LineId::new("c")), None);
        assert_eq!(directory.ids(None, 1), [a]);
        assert_eq!(directory.ids(Some("a"), 9), [LineId::new("b")]);
        assert_eq!(directory.ids(Some("b"), 9), []);
    }

    #[test]
    fn lines_are_found_by_their_present_number() {
        let line = |number: &str| {
            Arc::new(LineProfile {
                id: LineId::new("7"),
                restaurant_id: None,
                phone_number: Some(Private::new(number)),
                fallback_number: None,
                greeting: None,
                announcement: None,
                custom_parameters: Default::default(),
                dial: Default::default(),
            })
        };
        let first = line("+33972360682");
        let directory = LineDirectory::new(HashMap::from([(first.id.clone(), first)]));
        assert_eq!(directory.with_number("+33 9 72 36 06 82").len(), 1);
        directory.put(line("+33972360683"));
        assert_eq!(directory.with_number("+33972360682").len(), 0);
        assert_eq!(directory.with_number("+33972360683").len(), 1);
        assert!(directory.only().is_some());
        directory.remove(&LineId::new("7"));
        assert_eq!(directory.with_number("+33972360683").len(), 0);
        assert!(directory.only().is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_told_before_is_heard_once() {
        let directory = LineDirectory::default();
        (0..3).for_each(|_| directory.notify_changed());
        directory.changed().await;
        let again = tokio::time::timeout(std::time::Duration::from_secs(1), directory.changed());
        assert!(again.await.is_err());
    }
}
