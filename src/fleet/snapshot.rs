//! Which lines are wanted: that of the flags, and those of the database or the
//! lines file, their credentials opened. Shared by `check`, `lines`, the
//! start of the bridge and each later reading of the database.

use std::cmp::Reverse;
use std::collections::hash_map::{self, HashMap};
use std::fmt;
use std::num::NonZero;
use std::thread;
use std::time::SystemTime;

use super::line::LineHealth;
use crate::config::Config;
use crate::core::address::Transport;
use crate::core::ids::LineId;
use crate::core::key::MasterKey;
use crate::core::private::{Private, Secret};
use crate::lines::credential_cache::{Opened, in_parallel};
use crate::lines::entry::{LineEntry, read_row};
use crate::lines::line::FieldIssue;
use crate::lines::{
    self, CredentialCache, FLAGS_LINE_ID, FileIssue, LinesFile, LoadedLines, PhoneLine, ReadyLine,
    Row, SealedLine, SipServers, UnusableLine, UnusableReason,
};
use crate::store::{Store, StoreError};

/// What the database holds about lines.
#[derive(Debug)]
pub struct StoredLines {
    /// What it is called in messages.
    pub shown: String,
    /// `phone_lines`.
    pub lines: Vec<Row>,
    /// `sip_servers`.
    pub servers: Vec<Row>,
    /// Id of the global fallback server.
    pub fallback: Option<String>,
}

/// Reads what is there.
///
/// # Errors
/// When the database fails.
pub async fn read(store: &Store) -> Result<StoredLines, StoreError> {
    let snapshot = store.snapshot().await?;
    Ok(StoredLines {
        shown: store.shown().to_owned(),
        lines: snapshot.lines,
        servers: snapshot.servers,
        fallback: snapshot.fallback,
    })
}

/// All lines of a configuration, and everything to say about them.
#[derive(Debug, Default)]
pub struct LineSnapshot {
    /// What is ready, what is unusable, and warnings.
    pub loaded: LoadedLines,
    /// Entries of the file that are left out.
    pub file_mistakes: Vec<FileIssue>,
    /// What is ignored in the file.
    pub file_warnings: Vec<FileIssue>,
    /// Lines of the database that are left out.
    pub stored_mistakes: Vec<StoredIssue>,
    /// Lines that are not to register, and why: not active, or another provider's.
    pub left_out: Vec<(LineId, Skipped)>,
    /// Lines that are Twilio's, whose webhook brings their calls.
    pub twilio: Vec<PhoneLine>,
    /// The lines' numbers, as far as they are known.
    pub numbers: HashMap<LineId, Private>,
    /// Where the lines come from, with a colon, for messages.
    pub source: String,
    /// Passwords of lines that were decrypted already, as they are stored.
    pub decrypted: Vec<(LineId, Secret, Opened)>,
    /// Credentials of servers that were opened.
    pub servers: CredentialCache,
}

/// Why a line is not to register.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Skipped {
    /// `isActive` is false.
    Inactive,
    /// `provider` is "twilio", and it has no `twilioAuthToken`.
    Twilio,
    /// It is Twilio's, and there is no `--public-url`.
    NoPublicUrl,
}

impl fmt::Display for Skipped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inactive => "not active",
            Self::Twilio => "of provider twilio, without a twilioAuthToken",
            Self::NoPublicUrl => "of provider twilio, and Twilio's webhook needs --public-url",
        })
    }
}

/// What is wrong with a line of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredIssue {
    /// The line.
    pub id: LineId,
    /// The field by its JSON name, and what is wrong with it.
    pub issue: FieldIssue,
}

impl fmt::Display for StoredIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {:?}: {}", self.id.as_str(), self.issue)
    }
}

/// Opens all lines, their passwords too. With a database they are its lines, those of
/// the file laid over them; without one those of the file. Takes about 20 ms of CPU for each
/// encrypted password, on all cores; blocks, so call it off the async threads.
#[must_use]
pub fn snapshot(config: &Config, file: LinesFile, stored: Option<StoredLines>) -> LineSnapshot {
    snapshot_with(config, file, stored, CredentialCaches::default())
}

/// The credentials that were opened before.
#[derive(Debug, Default)]
pub struct CredentialCaches {
    /// Of lines.
    pub lines: CredentialCache,
    /// Of servers.
    pub servers: CredentialCache,
}

/// The same with what was opened before; lines whose passwords the cache leaves to
/// others are sealed.
#[must_use]
pub fn snapshot_with(
    config: &Config,
    file: LinesFile,
    stored: Option<StoredLines>,
    mut caches: CredentialCaches,
) -> LineSnapshot {
    let mut start = LineSnapshot {
        file_mistakes: file.mistakes,
        file_warnings: file.warnings,
        ..LineSnapshot::default()
    };
    let servers = SipServers::from_flags(config.sip.domain.clone(), config.sip.transport);
    let (lines, servers) = match stored {
        None => {
            if let Some(path) = &config.lines_file {
                start.source = format!("lines file {}: ", path.display());
            }
            start.twilio = file.twilio_lines;
            let is_held = |id: &LineId| start.twilio.iter().any(|line| line.id == *id);
            let left_out = file.rows.iter().filter_map(left_out);
            start.left_out = left_out.filter(|(id, _)| !is_held(id)).collect();
            (file.lines, servers)
        }
        Some(stored) => {
            start.source = format!("database {}: ", stored.shown);
            let rows = laid_over(stored.lines, file.rows);
            let lines = rows.iter().filter_map(|row| start.take(row)).collect();
            let key = config.encryption_key.as_ref();
            let transport = config.sip.transport;
            let (table, warnings) =
                lines::open_servers(&stored.servers, key, transport, &mut caches.servers);
            start.loaded.warnings = warnings;
            (lines, servers.with_table(table, stored.fallback))
        }
    };
    start.without_public_url(config);
    for line in &lines {
        if let Some(number) = &line.phone_number {
            start.numbers.insert(line.id.clone(), number.clone());
        }
    }
    let key = config.encryption_key.as_ref();
    let mut loaded = lines::load_with(lines, key, &servers, &mut caches.lines);
    loaded
        .warnings
        .splice(0..0, std::mem::take(&mut start.loaded.warnings));
    start.loaded = loaded;
    add_flags_line(config, &mut start.loaded);
    start.servers = caches.servers;
    start
}

/// After an import there is nothing to lay over; `check` and `lines` import nothing.
fn laid_over(mut stored: Vec<Row>, file: Vec<Row>) -> Vec<Row> {
    let places: HashMap<String, usize> = stored
        .iter()
        .enumerate()
        .filter_map(|(place, row)| Some((row.id()?.to_owned(), place)))
        .collect();
    for row in file {
        match row.id().and_then(|id| places.get(id)) {
            Some(&place) => drop(stored[place].overlay(&row)),
            None => stored.push(row),
        }
    }
    stored
}

fn left_out(row: &Row) -> Option<(LineId, Skipped)> {
    let id = LineId::new(row.id()?);
    match (row.get("provider"), row.get("is_active")) {
        (Some("twilio"), _) => Some((id, Skipped::Twilio)),
        (_, Some("false")) => Some((id, Skipped::Inactive)),
        _ => None,
    }
}

impl LineSnapshot {
    /// Lines of Twilio's are left out where its webhooks cannot be verified.
    fn without_public_url(&mut self, config: &Config) {
        if config.twilio.is_none() {
            let without = std::mem::take(&mut self.twilio).into_iter();
            let left_out = without.map(|line| (line.id, Skipped::NoPublicUrl));
            self.left_out.extend(left_out);
        }
    }

    /// Sorts a row of the database.
    fn take(&mut self, row: &Row) -> Option<PhoneLine> {
        match read_row(row) {
            LineEntry::Line(line) => return Some(*line),
            LineEntry::TwilioLine(line) => self.twilio.push(*line),
            LineEntry::Inactive(id) => self.left_out.push((id, Skipped::Inactive)),
            LineEntry::Twilio(id) => self.left_out.push((id, Skipped::Twilio)),
            LineEntry::Mistaken(id, issues) => {
                let id = id.unwrap_or_else(|| LineId::new(row.id().unwrap_or_default()));
                let issues = issues.into_iter().map(|issue| StoredIssue {
                    id: id.clone(),
                    issue,
                });
                self.stored_mistakes.extend(issues);
            }
        }
        None
    }

    /// What is known of each line, for people.
    #[must_use]
    pub fn judged(&self) -> HashMap<LineId, LineHealth> {
        let mut judged = HashMap::new();
        let sealed = self.loaded.sealed.iter().map(|sealed| &sealed.ready);
        for ready in self.loaded.ready.iter().chain(sealed) {
            judged.insert(ready.line.id.clone(), usable(ready));
        }
        for line in &self.twilio {
            judged.insert(line.id.clone(), LineHealth::Twilio);
        }
        for (id, why) in &self.left_out {
            let reason = why.to_string();
            judged.insert(id.clone(), LineHealth::Skipped { reason });
        }
        for unusable in &self.loaded.unusable {
            let reason = unusable.reason.to_string();
            judged.insert(unusable.id.clone(), LineHealth::Unusable { reason });
        }
        for mistake in &self.stored_mistakes {
            add_mistake(&mut judged, &mistake.id, mistake.issue.to_string());
        }
        judged
    }

    /// Adds what is wrong with entries of the lines file: without a database
    /// they are lines like others. Returns how many mistakes are not
    /// shown with any line.
    pub fn judge_file(&self, judged: &mut HashMap<LineId, LineHealth>) -> usize {
        let is_left = |mistake: &&FileIssue| match &mistake.entry.id {
            Some(id) => !add_mistake(judged, id, mistake.issue.to_string()),
            None => true,
        };
        self.file_mistakes.iter().filter(is_left).count()
    }

    /// The transports of the lines' servers.
    pub fn transports(&self) -> impl Iterator<Item = Transport> {
        let sealed = self.loaded.sealed.iter().map(|sealed| &sealed.ready);
        let all = self.loaded.ready.iter().chain(sealed);
        all.map(|ready| ready.route.transport)
    }

    /// Puts the lines that had a call last first; those without one stay in their order.
    pub fn order_by_last_call(&mut self, last_calls: &HashMap<LineId, SystemTime>) {
        let last = |ready: &ReadyLine| Reverse(last_calls.get(&ready.line.id).copied());
        self.loaded.ready.sort_by_key(last);
        self.loaded.sealed.sort_by_key(|sealed| last(&sealed.ready));
    }

    /// Where no line can be used for sure, decrypts passwords in their order until
    /// one can, or none is left. Blocks for 20 ms as a rule.
    pub fn decrypt_first(&mut self, key: Option<&MasterKey>) {
        let at_once = thread::available_parallelism().map_or(1, NonZero::get);
        let LoadedLines {
            ready,
            unusable,
            sealed,
            ..
        } = &mut self.loaded;
        while ready.is_empty() && !sealed.is_empty() {
            let begun: Vec<SealedLine> = sealed.drain(..at_once.min(sealed.len())).collect();
            let opened = in_parallel(&begun, |sealed| sealed.open(key));
            for (sealed, opened) in begun.into_iter().zip(opened) {
                let id = sealed.ready.line.id.clone();
                let decrypted = (id.clone(), sealed.stored.clone(), opened.clone());
                self.decrypted.push(decrypted);
                match opened {
                    Ok(credential) => ready.push(sealed.unseal(credential)),
                    Err(error) => unusable.push(UnusableLine {
                        id,
                        reason: error.into(),
                    }),
                }
            }
        }
    }

    /// How many lines cannot be used.
    #[must_use]
    pub fn unusable(&self) -> usize {
        let stored: std::collections::BTreeSet<_> =
            self.stored_mistakes.iter().map(|issue| &issue.id).collect();
        self.file_mistakes.len() + stored.len() + self.loaded.unusable.len()
    }
}

/// What is known of a line that can be used.
#[must_use]
pub fn usable(ready: &ReadyLine) -> LineHealth {
    LineHealth::Usable {
        server: ready.route.server().to_owned(),
        transport: ready.route.transport,
        rule: ready.route.rule.to_string(),
    }
}

/// Adds a mistake of a line; false where a line of this id can be used, or is
/// left out.
fn add_mistake(judged: &mut HashMap<LineId, LineHealth>, id: &LineId, mistake: String) -> bool {
    match judged.entry(id.clone()) {
        hash_map::Entry::Vacant(place) => {
            place.insert(LineHealth::Unusable { reason: mistake });
            true
        }
        hash_map::Entry::Occupied(mut place) => match place.get_mut() {
            LineHealth::Unusable { reason } => {
                reason.push_str("; ");
                reason.push_str(&mistake);
                true
            }
            LineHealth::Usable { .. } | LineHealth::Twilio | LineHealth::Skipped { .. } => false,
        },
    }
}

/// Puts the line of the flags first. A line of the file with the same id is
/// set aside.
fn add_flags_line(config: &Config, loaded: &mut LoadedLines) {
    let Some(line) = &config.flags_line else {
        return;
    };
    let is_twin = |ready: &ReadyLine| ready.line.id.as_str() == FLAGS_LINE_ID;
    let before = loaded.ready.len() + loaded.sealed.len();
    loaded.ready.retain(|ready| !is_twin(ready));
    loaded.sealed.retain(|sealed| !is_twin(&sealed.ready));
    if loaded.ready.len() + loaded.sealed.len() < before {
        loaded.unusable.push(UnusableLine {
            id: LineId::new(FLAGS_LINE_ID),
            reason: UnusableReason::FlagsLineId,
        });
    }
    let ready = ReadyLine::from_flags(
        &line.domain,
        config.sip.transport,
        line.username.clone(),
        line.password.clone(),
    );
    loaded.ready.insert(0, ready);
}
