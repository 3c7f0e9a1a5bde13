//! What the bridge holds, compared with what the database has: a plan of what
//! to do. Blocks for passwords and sounds; asks and tells nobody.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::app::database::Stored;
use crate::app::line_sounds::SoundLoader;
use crate::app::profiles::{account, profile};
use crate::app::start_lines::{StartLines, Vaults, start_lines_with};
use crate::bridge::context::LineProfile;
use crate::bridge::line_book::Usability;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::lines::{Changes, LinesFile, ReadyLine, compare};
use crate::sip::engine::Account;

/// What is held.
#[derive(Debug)]
pub struct Books {
    /// The lines, as they were last handed to the engine.
    pub held: HashMap<LineId, ReadyLine>,
    /// Passwords that were opened.
    pub vaults: Vaults,
    /// Sounds that were loaded.
    pub loader: SoundLoader,
    judged: HashMap<LineId, Usability>,
    /// Problems and warnings that were told.
    told: HashSet<String>,
}

/// A line that is new or changed, in all its forms.
#[derive(Debug)]
pub struct Changed {
    /// For the SIP engine.
    pub account: Account,
    /// For the calls.
    pub profile: Arc<LineProfile>,
    /// `maxConcurrentCalls`.
    pub limit: Option<u32>,
    /// To be held.
    pub ready: ReadyLine,
}

/// What has to be done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Lines that register, for the first time or anew.
    pub register: Vec<Changed>,
    /// Lines that the engine must know by other numbers.
    pub renumber: Vec<Changed>,
    /// Lines whose calls go by other values.
    pub adjust: Vec<Changed>,
    /// Lines that are held no more.
    pub remove: Vec<LineId>,
    /// What is known of all lines.
    pub judged: HashMap<LineId, Usability>,
    /// Mistakes that were not told before.
    pub errors: Vec<String>,
    /// Warnings that were not told before.
    pub warnings: Vec<String>,
    /// Whether passwords are left to be opened.
    pub more: bool,
}

/// The books, whatever became of who held them before.
pub fn lock(books: &Mutex<Books>) -> MutexGuard<'_, Books> {
    books.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Books {
    /// Empty books that load sounds and open passwords with these.
    #[must_use]
    pub fn new(loader: SoundLoader, vaults: Vaults) -> Self {
        Self {
            held: HashMap::new(),
            vaults,
            loader,
            judged: HashMap::new(),
            told: HashSet::new(),
        }
    }

    /// Compares what is held with what the database has. Takes about 20 ms of
    /// CPU for each new encrypted password; blocks.
    pub fn plan(&mut self, config: &Config, stored: Stored) -> Plan {
        let file = LinesFile::default();
        let mut start = start_lines_with(config, file, Some(stored), &mut self.vaults);
        let (errors, warnings) = self.news(&start);
        let mut judged = start.judged();
        let pending = std::mem::take(&mut start.loaded.pending);
        for id in &pending {
            if let Some(before) = self.judged.get(id) {
                judged.insert(id.clone(), before.clone());
            }
        }
        self.judged.clone_from(&judged);
        let Changes {
            register,
            renumber,
            adjust,
            remove,
        } = compare(&self.held, start.loaded.ready, &pending);
        self.loader.tidy();
        let mut make = |lines: Vec<ReadyLine>| -> Vec<Changed> {
            let changed = |ready: ReadyLine| Changed {
                account: account(config, &ready),
                profile: profile(config, &mut self.loader, &ready),
                limit: ready.line.max_concurrent_calls,
                ready,
            };
            lines.into_iter().map(changed).collect()
        };
        Plan {
            register: make(register),
            renumber: make(renumber),
            adjust: make(adjust),
            remove,
            judged,
            errors,
            warnings,
            more: !pending.is_empty(),
        }
    }

    /// What was not told before.
    fn news(&mut self, start: &StartLines) -> (Vec<String>, Vec<String>) {
        let source = &start.source;
        let mistakes = start.stored_mistakes.iter().map(ToString::to_string);
        let unusable = start.loaded.unusable.iter().map(ToString::to_string);
        let errors = mistakes
            .chain(unusable)
            .map(|text| format!("{source}{text}"));
        let errors: Vec<String> = errors.collect();
        let warnings: Vec<String> = start
            .loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect();
        let all: HashSet<String> = errors.iter().chain(&warnings).cloned().collect();
        let before = std::mem::replace(&mut self.told, all);
        let is_new = |text: &String| !before.contains(text);
        let new = |texts: Vec<String>| texts.into_iter().filter(is_new).collect();
        (new(errors), new(warnings))
    }

    /// Notes what was told at the start.
    pub fn note_told(&mut self, start: &StartLines) {
        let _ = self.news(start);
    }
}
