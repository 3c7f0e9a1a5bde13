//! A snapshot of the lines that are wanted, compared with those that are held: a plan of what
//! to do. Blocks for sounds and for passwords of servers; changes nothing but what is sealed.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::changes::LineChange;
use super::forms::{account, profile, twilio_line};
use super::line::{LineHealth, LineProfile};
use super::sealed::SealedPassword;
use super::shared::SharedFleet;
use super::snapshot::{CredentialCaches, LineSnapshot, StoredLines, snapshot_with, usable};
use super::sounds::SoundLoader;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::lines::credential_cache::Opened;
use crate::lines::{CredentialCache, LinesFile, ReadyLine, UnusableLine, UnusableReason};
use crate::sip::engine::Account;

/// What snapshots are made and compared with.
#[derive(Debug)]
pub(super) struct DesiredLines {
    /// Credentials of servers that were opened.
    servers: CredentialCache,
    /// Sounds that were loaded.
    loader: SoundLoader,
    /// Problems and warnings that were logged.
    logged: HashSet<String>,
    /// Where the lines come from, for messages.
    source: String,
}

/// A line that is new or changed, in all its forms.
#[derive(Debug)]
pub(super) struct WantedLine {
    /// What has to be done.
    pub(super) change: LineChange,
    /// For the SIP engine.
    pub(super) account: Account,
    /// For the calls.
    pub(super) profile: Arc<LineProfile>,
    /// To be held.
    pub(super) ready: ReadyLine,
}

/// What has to be done.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Lines to be held, or held otherwise: those that register first.
    pub(super) hold: Vec<WantedLine>,
    /// Lines that are held no more.
    pub(super) remove: Vec<LineId>,
    /// What is known of all lines.
    pub(super) known: HashMap<LineId, LineHealth>,
    /// Problems that were not logged before.
    pub(super) errors: Vec<String>,
    /// Warnings that were not logged before.
    pub(super) warnings: Vec<String>,
    /// How many mistakes of the lines file are shown with no line; of the start alone.
    pub(super) unshown_file_mistakes: usize,
}

/// What became of a line whose password was decrypted.
#[derive(Debug)]
pub(super) enum Unsealed {
    /// It has its password.
    Usable(Box<WantedLine>),
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

/// The lock, whatever became of who held it before.
pub(super) fn lock(desired: &Mutex<DesiredLines>) -> MutexGuard<'_, DesiredLines> {
    desired.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DesiredLines {
    /// Nothing wanted yet; sounds are loaded with this.
    pub(super) fn new(loader: SoundLoader) -> Self {
        Self {
            servers: CredentialCache::default(),
            loader,
            logged: HashSet::new(),
            source: String::new(),
        }
    }

    /// The plan of the start, whose problems were logged already.
    pub(super) fn plan_start(
        &mut self,
        config: &Config,
        fleet: &SharedFleet,
        mut start: LineSnapshot,
    ) -> Plan {
        let _ = self.news(&start);
        self.servers = std::mem::take(&mut start.servers);
        for (line, stored, opened) in std::mem::take(&mut start.decrypted) {
            fleet.lock().keep_password(line, stored, opened);
        }
        let mut known = start.judged();
        let unshown_file_mistakes = match config.database {
            None => start.judge_file(&mut known),
            // The file's own mistakes are no lines of the database.
            Some(_) => start.file_mistakes.len(),
        };
        Plan {
            unshown_file_mistakes,
            ..self.compare(config, fleet, start, known)
        }
    }

    /// Compares what is held with what the database has. Takes about 20 ms of
    /// CPU for each new encrypted password of a server; blocks.
    pub(super) fn plan(
        &mut self,
        config: &Config,
        fleet: &SharedFleet,
        stored: StoredLines,
    ) -> Plan {
        let caches = CredentialCaches {
            lines: fleet.credentials(),
            servers: std::mem::take(&mut self.servers),
        };
        let mut now = snapshot_with(config, LinesFile::default(), Some(stored), caches);
        self.servers = std::mem::take(&mut now.servers);
        let (errors, warnings) = self.news(&now);
        let known = now.judged();
        Plan {
            errors,
            warnings,
            ..self.compare(config, fleet, now, known)
        }
    }

    fn compare(
        &mut self,
        config: &Config,
        fleet: &SharedFleet,
        now: LineSnapshot,
        mut known: HashMap<LineId, LineHealth>,
    ) -> Plan {
        let (sealed, mut wanted) = (now.loaded.sealed, now.loaded.ready);
        for sealed in &sealed {
            let id = &sealed.ready.line.id;
            let held = fleet.lock();
            // It stays as it is until its new password is there.
            if let (true, Some(before)) = (held.is_open(id), held.health(id)) {
                known.insert(id.clone(), before);
            }
        }
        wanted.extend(sealed.iter().map(|sealed| sealed.ready.clone()));
        fleet.seal(sealed);
        let twilio = now.twilio.iter();
        let twilio = twilio.filter_map(|line| twilio_line(config, &mut self.loader, line));
        fleet.hold_twilio(twilio.collect());
        let (mut changed, remove) = fleet.changes(wanted);
        changed.sort_by_key(|(change, _)| *change);
        self.loader.tidy();
        let make = |(change, ready)| self.make(config, change, ready);
        Plan {
            hold: changed.into_iter().map(make).collect(),
            remove,
            known,
            ..Plan::default()
        }
    }

    fn make(&mut self, config: &Config, change: LineChange, ready: ReadyLine) -> WantedLine {
        WantedLine {
            change,
            account: account(config, &ready),
            profile: profile(config, &mut self.loader, &ready),
            ready,
        }
    }

    /// Takes a line whose password was decrypted; `None` where it is another by now.
    pub(super) fn unseal(
        &mut self,
        config: &Config,
        fleet: &SharedFleet,
        password: &SealedPassword,
        opened: Opened,
    ) -> Option<Unsealed> {
        let sealed = fleet.lock().take_sealed(password, &opened)?;
        let line = password.line.clone();
        Some(match opened {
            Ok(credential) => {
                let ready = sealed.unseal(credential);
                let wanted = self.make(config, LineChange::Register, ready);
                Unsealed::Usable(Box::new(wanted))
            }
            Err(error) => {
                let reason = UnusableReason::from(error);
                let unusable = UnusableLine {
                    id: line.clone(),
                    reason: reason.clone(),
                };
                let problem = format!("{}{unusable}", self.source);
                self.logged.insert(problem.clone());
                Unsealed::Unusable {
                    line,
                    problem,
                    reason: reason.to_string(),
                }
            }
        })
    }

    /// The problems and the warnings that were not logged before.
    fn news(&mut self, now: &LineSnapshot) -> (Vec<String>, Vec<String>) {
        let source = &now.source;
        self.source.clone_from(source);
        let mistakes = now.stored_mistakes.iter().map(ToString::to_string);
        let unusable = now.loaded.unusable.iter().map(ToString::to_string);
        let errors = mistakes
            .chain(unusable)
            .map(|text| format!("{source}{text}"));
        let errors: Vec<String> = errors.collect();
        let warnings: Vec<String> = now
            .loaded
            .warnings
            .iter()
            .map(ToString::to_string)
            .collect();
        let all: HashSet<String> = errors.iter().chain(&warnings).cloned().collect();
        let before = std::mem::replace(&mut self.logged, all);
        let is_new = |text: &String| !before.contains(text);
        let new = |texts: Vec<String>| texts.into_iter().filter(is_new).collect();
        (new(errors), new(warnings))
    }
}

impl WantedLine {
    /// What is known of it, for people.
    pub(super) fn health(&self) -> LineHealth {
        usable(&self.ready)
    }
}
