//! Whose turn it is: each line waits for something, or may register at its
//! registrar; each registrar has its own queue and pace.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::register_pace::RegisterPace;
use crate::core::ids::LineId;

/// REGISTERs sent per second to all registrars together.
pub const REGISTERS_PER_SECOND_ALL: u32 = 200;

/// When a line's timer is over. The number keeps lines of the same time in
/// order.
pub type TimerKey = (Instant, u64);

/// What a line's timer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimerPhase {
    /// It may register.
    Due,
    /// No answer has come.
    AwaitingAnswer,
    /// The refresh was not heard of.
    AwaitingRefresh,
}

/// All timers.
#[derive(Debug, Default)]
pub struct RegisterQueue {
    /// Waits for answers and refreshes.
    waits: BTreeMap<TimerKey, LineId>,
    registrars: BTreeMap<Arc<str>, Registrar>,
    next_number: u64,
    /// When the next REGISTER may be sent, to whichever registrar.
    next_slot: Option<Instant>,
}

#[derive(Debug, Default)]
struct Registrar {
    /// How many lines it has.
    lines: usize,
    due: BTreeMap<TimerKey, LineId>,
    pace: RegisterPace,
}

impl RegisterQueue {
    /// One more line has this registrar; the answer is its name, shared.
    pub fn join(&mut self, registrar: &str) -> Arc<str> {
        let name = match self.registrars.get_key_value(registrar) {
            Some((name, _)) => name.clone(),
            None => Arc::from(registrar),
        };
        self.registrars.entry(name.clone()).or_default().lines += 1;
        name
    }

    /// One line less has it.
    pub fn leave(&mut self, registrar: &str) {
        let Some(found) = self.registrars.get_mut(registrar) else {
            return;
        };
        found.lines = found.lines.saturating_sub(1);
        if found.lines == 0 {
            self.registrars.remove(registrar);
        }
    }

    /// The pace of a registrar.
    pub fn pace(&mut self, registrar: &str) -> Option<&mut RegisterPace> {
        Some(&mut self.registrars.get_mut(registrar)?.pace)
    }

    /// Starts a line's timer.
    pub fn start(
        &mut self,
        line: &LineId,
        registrar: &str,
        phase: TimerPhase,
        at: Instant,
    ) -> TimerKey {
        let key = (at, self.next_number);
        self.next_number += 1;
        if let Some(timers) = self.of(registrar, phase) {
            timers.insert(key, line.clone());
        }
        key
    }

    /// Stops it.
    pub fn stop(&mut self, registrar: &str, phase: TimerPhase, timer: TimerKey) {
        if let Some(timers) = self.of(registrar, phase) {
            timers.remove(&timer);
        }
    }

    fn of(
        &mut self,
        registrar: &str,
        phase: TimerPhase,
    ) -> Option<&mut BTreeMap<TimerKey, LineId>> {
        match phase {
            TimerPhase::Due => Some(&mut self.registrars.get_mut(registrar)?.due),
            TimerPhase::AwaitingAnswer | TimerPhase::AwaitingRefresh => Some(&mut self.waits),
        }
    }

    /// A line that has waited long enough. Its timer still runs.
    #[must_use]
    pub fn over(&self, now: Instant) -> Option<LineId> {
        let (&(at, _), line) = self.waits.first_key_value()?;
        (at <= now).then(|| line.clone())
    }

    /// A line that may register now; its registrar is not asked again before
    /// its pace allows it. Its timer still runs.
    pub fn take(&mut self, now: Instant) -> Option<LineId> {
        if self.next_slot.is_some_and(|slot| slot > now) {
            return None;
        }
        let registrars = self.registrars.values_mut();
        let next = registrars.filter(|registrar| registrar.next().is_some());
        // Among those that may be asked, the one that waits longest.
        let first = next.min_by_key(|registrar| registrar.next())?;
        if first.next()?.0 > now {
            return None;
        }
        let line = first.due.first_key_value()?.1.clone();
        first.pace.take(now);
        self.next_slot = Some(now + Duration::from_secs(1) / REGISTERS_PER_SECOND_ALL);
        Some(line)
    }

    /// When there is something to do next; `None` when there are no lines.
    #[must_use]
    pub fn next(&self) -> Option<Instant> {
        let wait = self.waits.first_key_value().map(|(&(at, _), _)| at);
        let due = self.registrars.values().filter_map(Registrar::next).min();
        let due = due.map(|(at, _)| self.next_slot.map_or(at, |slot| at.max(slot)));
        wait.into_iter().chain(due).min()
    }

    /// How many timers there are.
    #[cfg(test)]
    pub fn timers(&self) -> usize {
        let due = self
            .registrars
            .values()
            .map(|registrar| registrar.due.len());
        self.waits.len() + due.sum::<usize>()
    }
}

impl Registrar {
    /// When its next REGISTER may be sent.
    fn next(&self) -> Option<TimerKey> {
        let (&(at, number), _) = self.due.first_key_value()?;
        Some((self.pace.from(at), number))
    }
}
