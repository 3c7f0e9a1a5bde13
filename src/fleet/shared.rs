//! The one table, shared: by the SIP engine's callback, which asks whether a call may
//! come in, by the tasks that reconcile and register, by calls and by the API.
//!
//! Lock rule: the lock is held for one question or one step. What is to be done with each of
//! thousands of lines is done in slices of `SLICE`, so that an INVITE does not wait for all of them; a walk
//! that only looks (counts, ids, who is no more) passes the table once. Nobody holds the lock across an
//! await, a log line or a call into another room.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admission::Limits;
use super::changes::LineChange;
use super::line::{LineHealth, LineProfile};
use super::table::Fleet;
use crate::core::ids::LineId;
use crate::lines::{CredentialCache, ReadyLine, SealedLine};

/// Lines that are compared or changed under one lock.
const SLICE: usize = 64;

/// A handle to the table.
#[derive(Clone, Debug)]
pub struct SharedFleet {
    fleet: Arc<Mutex<Fleet>>,
}

impl SharedFleet {
    /// An empty table.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            fleet: Arc::new(Mutex::new(Fleet::new(limits, rand::random()))),
        }
    }

    /// Bridges share the lines: those that are held from now on register only once their lease is taken.
    pub fn share_lines(&self) {
        self.lock().share_lines();
    }

    /// Holds a line, or changes it for the calls to come.
    pub fn hold(&self, ready: ReadyLine, profile: Arc<LineProfile>) {
        self.lock().hold(ready, profile);
    }

    /// For a moment; see the module for how long.
    pub(super) fn lock(&self) -> MutexGuard<'_, Fleet> {
        self.fleet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The lines that are to be held, less those that are as they are wanted; and the lines that are
    /// held and not wanted.
    pub(super) fn changes(
        &self,
        wanted: Vec<ReadyLine>,
    ) -> (Vec<(LineChange, ReadyLine)>, Vec<LineId>) {
        let ids: HashSet<LineId> = wanted.iter().map(|ready| ready.line.id.clone()).collect();
        let mut changed = Vec::new();
        for slice in Slices(wanted.into_iter()) {
            let fleet = self.lock();
            let differs = |ready| Some((fleet.change_of(&ready)?, ready));
            changed.extend(slice.into_iter().filter_map(differs));
        }
        let gone = self.lock().held_besides(&ids);
        (changed, gone)
    }

    /// These are the lines whose passwords are to be decrypted from now on.
    pub(super) fn seal(&self, lines: Vec<SealedLine>) {
        let ids: HashSet<LineId> = lines
            .iter()
            .map(|line| line.ready.line.id.clone())
            .collect();
        self.lock().unseal_others(&ids);
        for slice in Slices(lines.into_iter()) {
            self.lock().seal(slice);
        }
    }

    /// The passwords that were decrypted, to make lines ready with. One that is not among them
    /// is left sealed.
    pub(super) fn credentials(&self) -> CredentialCache {
        let mut cache = CredentialCache::deferring();
        let lines = self.lock().with_password();
        for slice in lines.chunks(SLICE) {
            let fleet = self.lock();
            for id in slice {
                if let Some((stored, opened)) = fleet.password(id) {
                    cache.put(id.as_str(), stored.clone(), opened.clone());
                }
            }
        }
        cache
    }

    /// Replaces what is known of all lines.
    pub(super) fn judge(&self, known: HashMap<LineId, LineHealth>) {
        let ids: HashSet<LineId> = known.keys().cloned().collect();
        for slice in Slices(known.into_iter()) {
            self.lock().judge(slice);
        }
        self.lock().forget_others(&ids);
    }
}

/// What an iterator yields, some at a time.
struct Slices<I>(I);

impl<I: Iterator> Iterator for Slices<I> {
    type Item = Vec<I::Item>;

    fn next(&mut self) -> Option<Self::Item> {
        let slice: Vec<I::Item> = self.0.by_ref().take(SLICE).collect();
        (!slice.is_empty()).then_some(slice)
    }
}
