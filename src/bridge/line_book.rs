//! The phone lines that this bridge holds now, with what the calls need of
//! them. Lines come, change and go while calls are in progress; a call keeps
//! the profile that it began with.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use super::context::LineProfile;
use crate::core::ids::LineId;

/// Profiles by id.
#[derive(Debug, Default)]
pub struct LineBook {
    profiles: RwLock<HashMap<LineId, Arc<LineProfile>>>,
}

impl LineBook {
    /// The lines of the start.
    #[must_use]
    pub fn new(profiles: HashMap<LineId, Arc<LineProfile>>) -> Self {
        Self {
            profiles: RwLock::new(profiles),
        }
    }

    /// One line.
    #[must_use]
    pub fn get(&self, line: &LineId) -> Option<Arc<LineProfile>> {
        self.read().get(line).cloned()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.read().len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Adds a line, or changes it for the calls to come.
    pub fn put(&self, profile: Arc<LineProfile>) {
        let mut profiles = self
            .profiles
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        profiles.insert(profile.id.clone(), profile);
    }

    /// Takes a line away; its calls go on.
    pub fn remove(&self, line: &LineId) {
        let mut profiles = self
            .profiles
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        profiles.remove(line);
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, HashMap<LineId, Arc<LineProfile>>> {
        self.profiles.read().unwrap_or_else(PoisonError::into_inner)
    }
}
