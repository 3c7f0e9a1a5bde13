//! What the bridge holds, compared with what the database has: a plan of what
//! to do. Blocks for passwords and sounds; asks and tells nobody.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::app::database::Stored;
use crate::app::line_sounds::SoundLoader;
use crate::app::profiles::{account, profile};
use crate::app::start_lines::{CredentialCaches, StartLines, start_lines_with, usable};
use crate::bridge::context::LineProfile;
use crate::bridge::line_directory::LineHealth;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::lines::credential_cache::Opened;
use crate::lines::sealed::SealedPassword;
use crate::lines::{
    Changes, LinesFile, ReadyLine, SealedLines, UnusableLine, UnusableReason, compare,
};
use crate::sip::engine::Account;

/// What is held.
#[derive(Debug)]
pub struct DesiredLines {
    /// The lines, as they were last handed to the engine.
    pub held: HashMap<LineId, ReadyLine>,
    /// Passwords that were opened.
    pub caches: CredentialCaches,
    /// Lines whose passwords are still to be decrypted.
    pub sealed: SealedLines,
    /// Sounds that were loaded.
    pub loader: SoundLoader,
    judged: HashMap<LineId, LineHealth>,
    /// Problems and warnings that were told.
    told: HashSet<String>,
    /// Where the lines come from, for messages.
    source: String,
}

/// What became of a line whose password was decrypted.
#[derive(Debug)]
pub enum Unsealed {
    /// It has its password.
    Usable(Box<Changed>),
    /// It cannot be used.
    Unusable {
        /// The line.
        line: LineId,
        /// Why, as the log says it.
        problem: String,
        /// Why, for people who look at the line.
        reason: String,
    },
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

impl Changed {
    fn new(config: &Config, loader: &mut SoundLoader, ready: ReadyLine) -> Self {
        Self {
            account: account(config, &ready),
            profile: profile(config, loader, &ready),
            limit: ready.line.max_concurrent_calls,
            ready,
        }
    }
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
    pub judged: HashMap<LineId, LineHealth>,
    /// Mistakes that were not told before.
    pub errors: Vec<String>,
    /// Warnings that were not told before.
    pub warnings: Vec<String>,
}

/// The lines that are wanted, whatever became of who held the lock before.
pub fn lock(desired: &Mutex<DesiredLines>) -> MutexGuard<'_, DesiredLines> {
    desired.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DesiredLines {
    /// No lines yet; sounds are loaded and passwords opened with these.
    #[must_use]
    pub fn new(loader: SoundLoader, caches: CredentialCaches) -> Self {
        Self {
            held: HashMap::new(),
            caches,
            sealed: SealedLines::default(),
            loader,
            judged: HashMap::new(),
            told: HashSet::new(),
            source: String::new(),
        }
    }

    /// Compares what is held with what the database has. Takes about 20 ms of
    /// CPU for each new encrypted password of a server; blocks.
    pub fn plan(&mut self, config: &Config, stored: Stored) -> Plan {
        let file = LinesFile::default();
        let mut start = start_lines_with(config, file, Some(stored), &mut self.caches);
        let (errors, warnings) = self.news(&start);
        let mut judged = start.judged();
        let sealed = std::mem::take(&mut start.loaded.sealed);
        let mut now = start.loaded.ready;
        now.extend(sealed.iter().map(|sealed| sealed.ready.clone()));
        for line in now.iter().filter(|line| line.is_sealed) {
            let id = &line.line.id;
            // It stays as it is until its new password is there.
            let is_open = self.held.get(id).is_some_and(|held| !held.is_sealed);
            if let (true, Some(before)) = (is_open, self.judged.get(id)) {
                judged.insert(id.clone(), before.clone());
            }
        }
        self.judged.clone_from(&judged);
        self.sealed.replace(sealed);
        let Changes {
            register,
            renumber,
            adjust,
            remove,
        } = compare(&self.held, now);
        self.loader.tidy();
        let mut make = |lines: Vec<ReadyLine>| -> Vec<Changed> {
            let changed = |ready| Changed::new(config, &mut self.loader, ready);
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
        }
    }

    /// Takes a line whose password was decrypted; `None` where it is another by now.
    pub fn unseal(
        &mut self,
        config: &Config,
        password: &SealedPassword,
        opened: Opened,
    ) -> Option<Unsealed> {
        let sealed = self.sealed.take(password)?;
        let line = password.line.clone();
        let stored = sealed.stored.clone();
        self.caches.lines.put(line.as_str(), stored, opened.clone());
        Some(match opened {
            Ok(credential) => {
                let ready = sealed.unseal(credential);
                self.judged.insert(line, usable(&ready));
                let changed = Changed::new(config, &mut self.loader, ready);
                Unsealed::Usable(Box::new(changed))
            }
            Err(error) => {
                let reason = UnusableReason::from(error);
                let unusable = UnusableLine {
                    id: line.clone(),
                    reason: reason.clone(),
                };
                let problem = format!("{}{unusable}", self.source);
                let reason = reason.to_string();
                let known = LineHealth::Unusable {
                    reason: reason.clone(),
                };
                self.judged.insert(line.clone(), known);
                self.told.insert(problem.clone());
                Unsealed::Unusable {
                    line,
                    problem,
                    reason,
                }
            }
        })
    }

    /// What was not told before.
    fn news(&mut self, start: &StartLines) -> (Vec<String>, Vec<String>) {
        let source = &start.source;
        self.source.clone_from(source);
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
