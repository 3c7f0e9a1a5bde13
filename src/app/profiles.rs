//! From flags and lines file to accounts for the SIP engine and profiles for
//! the calls. Mistakes in single lines are logged; the good lines start.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::compose::StartError;
use super::start_lines::{StartLines, start_lines};
use crate::bridge::context::LineProfile;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::lines::ReadyLine;
use crate::media::sounds::Sounds;
use crate::media::wav;
use crate::sip::engine::Account;

/// The lines that start, in the forms that others need.
pub struct Lines {
    /// For the SIP engine.
    pub accounts: Vec<Account>,
    /// For the calls.
    pub profiles: HashMap<LineId, Arc<LineProfile>>,
    /// `maxConcurrentCalls` of the lines that have one.
    pub call_limits: HashMap<LineId, u32>,
    /// How many lines were left out because of mistakes.
    pub unusable: usize,
    /// The sounds that greetings were made with.
    pub sounds: Sounds,
}

/// Loads everything that was given. Blocks for the key derivations.
///
/// # Errors
/// When the lines file as a whole cannot be used, or no line is left.
pub fn lines(config: &Config) -> Result<Lines, StartError> {
    let start = start_lines(config)?;
    tell(config, &start);
    let unusable = start.file_mistakes.len() + start.loaded.unusable.len();
    let ready = start.loaded.ready;
    if ready.is_empty() {
        return Err(StartError::NoLine { unusable });
    }
    info!(lines = ready.len(), unusable, "lines loaded");
    let mut lines = Lines {
        accounts: Vec::with_capacity(ready.len()),
        profiles: HashMap::with_capacity(ready.len()),
        call_limits: HashMap::new(),
        unusable,
        sounds: Sounds::built_in(),
    };
    for line in ready {
        lines.add(config, line);
    }
    Ok(lines)
}

fn tell(config: &Config, start: &StartLines) {
    let file = config.lines_file.as_ref();
    let file = file.map_or_else(String::new, |path| {
        format!("lines file {}: ", path.display())
    });
    start
        .file_mistakes
        .iter()
        .for_each(|mistake| error!("{mistake}"));
    start
        .loaded
        .unusable
        .iter()
        .for_each(|line| error!("{file}{line}"));
    start
        .file_warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
    start
        .loaded
        .warnings
        .iter()
        .for_each(|warning| warn!("{warning}"));
}

impl Lines {
    fn add(&mut self, config: &Config, ready: ReadyLine) {
        let id = ready.line.id.clone();
        if let Some(most) = ready.line.max_concurrent_calls {
            self.call_limits.insert(id.clone(), most);
        }
        let profile = LineProfile {
            id: id.clone(),
            restaurant_id: ready.line.restaurant_id.clone(),
            phone_number: ready.line.phone_number.clone(),
            fallback_number: ready.line.fallback_number.clone(),
            greeting: self.greeting(&ready),
            custom_parameters: ready.line.custom_parameters.clone(),
        };
        self.profiles.insert(id, Arc::new(profile));
        self.accounts.push(account(config, ready));
    }

    /// A greeting that cannot be read is reported; the line starts without.
    fn greeting(&self, ready: &ReadyLine) -> Option<Arc<[u8]>> {
        let path = ready.line.greeting.as_ref()?;
        match wav::load(Path::new(path)) {
            Ok(greeting) => Some(self.sounds.greeting(&greeting)),
            Err(error) => {
                error!(line = %ready.line.id, "the line starts without its greeting: {error}");
                None
            }
        }
    }
}

fn account(config: &Config, ready: ReadyLine) -> Account {
    let aliases = ready
        .line
        .phone_number
        .iter()
        .map(|number| number.expose().to_owned());
    Account {
        line: ready.line.id.clone(),
        domain: ready.route.domain,
        server: ready.route.server,
        transport: ready.route.transport,
        username: ready.route.username.expose().to_owned(),
        password: ready.password,
        aliases: aliases.collect(),
        register: config.sip.register,
        expires: config.sip.expires,
    }
}
