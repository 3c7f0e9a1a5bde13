//! The table of all lines, and the questions to it that name no call and no
//! registration.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::admission::{BridgeCalls, Limits};
use super::changes::{LineChange, change_of};
use super::leases::Lease;
use super::line::{Held, Line, LineHealth, LineProfile};
use super::number_index::NumberIndex;
use super::register_queue::RegisterQueue;
use super::registration::RegistrationStage;
use crate::core::ids::LineId;
use crate::lines::ReadyLine;

/// All lines: the one table, and the pure decisions about them. Time is an argument.
///
/// Inputs: what lines there are ([`Fleet::hold`], [`Fleet::remove`], [`Fleet::judge`]), what REGISTERs came to
/// ([`Fleet::handle_result`]), passwords that were decrypted ([`Fleet::take_sealed`]), calls that come and go
/// ([`Fleet::admit`], [`Fleet::enter`], [`Fleet::leave`]). Outputs: how a wanted line differs
/// from the one that is held ([`Fleet::change_of`]), which password is decrypted next ([`Fleet::begin_decrypting`]), which
/// line registers now ([`Fleet::poll_register`]) and when to ask again ([`Fleet::poll_timeout`]).
#[derive(Debug)]
pub struct Fleet {
    pub(super) lines: HashMap<LineId, Line>,
    /// How many lines are held.
    held: usize,
    /// Index: lines by the number that they call from.
    numbers: NumberIndex,
    /// Index: lines by when they register.
    pub(super) turns: RegisterQueue,
    /// Index: lines in the order in which their passwords are decrypted.
    pub(super) sealed_order: VecDeque<LineId>,
    /// How many passwords are still to be decrypted.
    pub(super) sealed: usize,
    /// What concerns the calls of all lines together.
    pub(super) bridge: BridgeCalls,
    pub(super) random: StdRng,
    /// The lease of a line that is new.
    pub(super) new_lease: Lease,
}

impl Fleet {
    /// An empty table. The seed makes the jitter of registrations.
    #[must_use]
    pub fn new(limits: Limits, seed: u64) -> Self {
        Self {
            lines: HashMap::new(),
            held: 0,
            numbers: NumberIndex::default(),
            turns: RegisterQueue::default(),
            sealed_order: VecDeque::new(),
            sealed: 0,
            bridge: BridgeCalls::new(limits),
            random: StdRng::seed_from_u64(seed),
            new_lease: Lease::default(),
        }
    }

    // ---- which lines are held ----

    /// How a line that is wanted differs from the one that is held; `None` where
    /// nothing has to be done.
    #[must_use]
    pub fn change_of(&self, wanted: &ReadyLine) -> Option<LineChange> {
        let line = self.lines.get(&wanted.line.id);
        change_of(line.and_then(Line::ready), wanted)
    }

    /// Holds a line, or changes it for the calls to come. Its registration stays as it is
    /// until [`Fleet::register`] or one of its like is called.
    pub fn hold(&mut self, ready: ReadyLine, profile: Arc<LineProfile>) {
        let line = self.lines.entry(profile.id.clone()).or_default();
        if let Some(held) = &mut line.held {
            self.numbers.remove(&held.profile);
            held.ready = ready;
            held.profile = profile.clone();
        } else {
            self.held += 1;
            line.lease = self.new_lease;
            line.held = Some(Held {
                ready,
                profile: profile.clone(),
                registration: RegistrationStage::NotAsked,
            });
        }
        self.numbers.add(&profile);
    }

    /// Holds a line no more; its calls go on. Whether it took part in registering.
    pub fn remove(&mut self, id: &LineId) -> bool {
        let was_scheduled = self.unschedule(id).is_some();
        let Some(line) = self.lines.get_mut(id) else {
            return false;
        };
        if let Some(held) = line.held.take() {
            self.held -= 1;
            self.numbers.remove(&held.profile);
        }
        self.drop_empty(id);
        was_scheduled
    }

    /// Those of the lines held that are not among these, in the order of their ids.
    #[must_use]
    pub fn held_besides(&self, wanted: &HashSet<LineId>) -> Vec<LineId> {
        let held = self.held().map(|held| &held.profile.id);
        let mut others: Vec<LineId> = held.filter(|id| !wanted.contains(*id)).cloned().collect();
        others.sort_unstable();
        others
    }

    /// Whether a line is held with its password.
    #[must_use]
    pub fn is_open(&self, id: &LineId) -> bool {
        let ready = self.lines.get(id).and_then(Line::ready);
        ready.is_some_and(|ready| !ready.is_sealed)
    }

    pub(super) fn held(&self) -> impl Iterator<Item = &Held> {
        self.lines.values().filter_map(|line| line.held.as_ref())
    }

    pub(super) fn drop_empty(&mut self, id: &LineId) {
        if self.lines.get(id).is_some_and(Line::is_empty) {
            self.lines.remove(id);
        }
    }

    // ---- what is known of lines ----

    /// Replaces what is known of these lines.
    pub fn judge(&mut self, known: impl IntoIterator<Item = (LineId, LineHealth)>) {
        for (id, health) in known {
            self.lines.entry(id).or_default().health = Some(health);
        }
    }

    /// Forgets what was known of all lines but these, and passwords of lines that are no more.
    pub fn forget_others(&mut self, known: &HashSet<LineId>) {
        self.lines.retain(|id, line| {
            if !known.contains(id) {
                line.health = None;
                line.password = None;
            }
            !line.is_empty()
        });
    }

    /// Whether a line can be used; `None` for one that was never seen.
    #[must_use]
    pub fn health(&self, id: &LineId) -> Option<LineHealth> {
        self.lines.get(id)?.health.clone()
    }

    /// How many lines have something wrong with them.
    #[must_use]
    pub fn unusable(&self) -> usize {
        let lines = self.lines.values();
        lines.filter(|line| line.is_unusable()).count()
    }

    // ---- looking lines up ----

    /// One line that is held, or Twilio's.
    #[must_use]
    pub fn get(&self, id: &LineId) -> Option<Arc<LineProfile>> {
        let line = self.lines.get(id)?;
        let held = line.held.as_ref().map(|held| &held.profile);
        let profile = held.or(line.twilio.as_ref().map(|twilio| &twilio.profile))?;
        Some(profile.clone())
    }

    /// How many lines are held.
    #[must_use]
    pub const fn len(&self) -> usize {
        self.held
    }

    /// Whether none is held.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// The lines that have this number as their own, however it is written.
    #[must_use]
    pub fn with_number(&self, number: &str) -> Vec<Arc<LineProfile>> {
        let found = self.numbers.find(number).into_iter();
        found.filter_map(|id| self.get(id)).collect()
    }

    /// The only line that is held; `None` where there are several, or none.
    #[must_use]
    pub fn only(&self) -> Option<Arc<LineProfile>> {
        let first = self.held().next().filter(|_| self.held == 1)?;
        Some(first.profile.clone())
    }

    /// The ids of all lines that are held or that something is known of, those
    /// after an id, in their order; at most `most`.
    #[must_use]
    pub fn ids(&self, after: Option<&str>, most: usize) -> Vec<LineId> {
        let known = self.lines.iter();
        let known = known.filter(|(_, line)| line.held.is_some() || line.health.is_some());
        let ids = known.map(|(id, _)| id);
        let wanted = ids.filter(|id| after.is_none_or(|after| id.as_str() > after));
        let sorted: BTreeSet<&LineId> = wanted.collect();
        sorted.into_iter().take(most).cloned().collect()
    }
}

impl Line {
    fn ready(&self) -> Option<&ReadyLine> {
        self.held.as_ref().map(|held| &held.ready)
    }
}

#[cfg(test)]
#[path = "table_tests.rs"]
mod tests;
