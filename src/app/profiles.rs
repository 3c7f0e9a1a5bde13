//! From flags, lines file and database to accounts for the SIP engine and profiles for
//! the calls. Mistakes in single lines are logged; the good lines start.

use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::compose::StartError;
use super::line_reconciler::DesiredLines;
use super::line_sounds::SoundLoader;
use super::start_lines::StartLines;
use crate::bridge::context::LineProfile;
use crate::bridge::line_directory::LineHealth;
use crate::config::Config;
use crate::core::address::Transport;
use crate::core::dialling::DialLine;
use crate::core::ids::LineId;
use crate::core::numbers::{self, Country, Number};
use crate::core::private::Private;
use crate::lines::server::ContactOverride;
use crate::lines::{LoadedLines, ReadyLine, Route};
use crate::media::sounds::Sounds;
use crate::sip::engine::Account;

/// The lines that start, in the forms that others need.
pub struct Lines {
    /// For the SIP engine, in the order in which they register.
    pub accounts: Vec<Account>,
    /// Those of them whose passwords are still to be decrypted.
    pub sealed: HashSet<LineId>,
    /// For the calls.
    pub profiles: HashMap<LineId, Arc<LineProfile>>,
    /// `maxConcurrentCalls` of the lines that have one.
    pub call_limits: HashMap<LineId, u32>,
    /// Mistakes of the lines file that are not shown with any line.
    pub file_mistakes: usize,
    /// What is known of each line, for people.
    pub judged: HashMap<LineId, LineHealth>,
    /// The sounds that greetings were made with.
    pub sounds: Sounds,
    /// What tells later changes from this.
    pub desired: DesiredLines,
}

/// Tells what is to be told, and loads the sounds.
///
/// # Errors
/// When no line is left, unless a database may get one later.
pub fn lines(config: &Config, mut start: StartLines) -> Result<Lines, StartError> {
    numbers::prepare();
    log_start_lines(&start);
    let unusable = start.unusable();
    let mut judged = start.judged();
    let mut file_mistakes = start.file_mistakes.len();
    if config.database.is_none() {
        file_mistakes = start.judge_file(&mut judged);
    }
    let sounds = Sounds::built_in();
    let caches = std::mem::take(&mut start.caches);
    let mut desired = DesiredLines::new(SoundLoader::new(sounds.clone()), caches);
    desired.note_told(&start);
    let LoadedLines { ready, sealed, .. } = start.loaded;
    if ready.is_empty() && config.database.is_none() {
        return Err(StartError::NoLine { unusable });
    }
    if ready.is_empty() {
        warn!("the database holds no phone line that can be used: no call can come");
    }
    let held = ready.len() + sealed.len();
    info!(
        lines = held,
        sealed = sealed.len(),
        unusable,
        "lines loaded"
    );
    let mut accounts = Vec::with_capacity(held);
    let mut profiles = HashMap::with_capacity(held);
    let mut call_limits = HashMap::new();
    let mut sealed_ids = HashSet::with_capacity(sealed.len());
    let without_passwords: Vec<_> = sealed.iter().map(|sealed| sealed.ready.clone()).collect();
    desired.sealed.replace(sealed);
    for line in ready.into_iter().chain(without_passwords) {
        let id = line.line.id.clone();
        accounts.push(account(config, &line));
        if line.is_sealed {
            sealed_ids.insert(id.clone());
        }
        profiles.insert(id.clone(), profile(config, &mut desired.loader, &line));
        if let Some(most) = line.line.max_concurrent_calls {
            call_limits.insert(id.clone(), most);
        }
        // Without a database nothing changes later.
        if config.database.is_some() {
            desired.held.insert(id, line);
        }
    }
    Ok(Lines {
        accounts,
        sealed: sealed_ids,
        profiles,
        call_limits,
        file_mistakes,
        judged,
        sounds,
        desired,
    })
}

fn log_start_lines(start: &StartLines) {
    let source = &start.source;
    start
        .stored_mistakes
        .iter()
        .for_each(|mistake| error!("{source}{mistake}"));
    start
        .file_mistakes
        .iter()
        .for_each(|mistake| error!("{mistake}"));
    start
        .loaded
        .unusable
        .iter()
        .for_each(|line| error!("{source}{line}"));
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

/// What calls of a line go by. Loads its sounds, which blocks on the disk.
pub fn profile(config: &Config, loader: &mut SoundLoader, ready: &ReadyLine) -> Arc<LineProfile> {
    let line = &ready.line;
    let sounds = loader.load(line);
    sounds
        .problems
        .iter()
        .for_each(|problem| error!("{problem}"));
    Arc::new(LineProfile {
        id: line.id.clone(),
        restaurant_id: line.restaurant_id.clone(),
        phone_number: line.phone_number.clone(),
        fallback_number: line.fallback_number.clone(),
        greeting: sounds.greeting,
        announcement: sounds.announcement,
        custom_parameters: line.custom_parameters.clone(),
        dial: dial_line(config, ready),
    })
}

/// The line's country, and the hosts at which a SIP URI is a number of its own trunk.
pub(super) fn dial_line(config: &Config, ready: &ReadyLine) -> DialLine {
    let number = ready.line.phone_number.as_ref().map(Private::expose);
    let domain = std::iter::once(&ready.route.domain);
    DialLine {
        country: Country::of_line(number, config.dialling.country),
        hosts: domain.chain(&ready.route.server).cloned().collect(),
    }
}

/// How trunks may write the line's number into To or the request URI.
fn number_forms(config: &Config, ready: &ReadyLine) -> Vec<String> {
    let country = dial_line(config, ready).country;
    let number = ready.line.phone_number.as_ref();
    let number = number.and_then(|number| Number::read(number.expose(), country));
    number.map_or_else(Vec::new, |number| number.forms())
}

/// A line as the SIP engine needs it.
#[must_use]
pub fn account(config: &Config, ready: &ReadyLine) -> Account {
    let aliases = ready
        .line
        .phone_number
        .iter()
        .map(|number| number.expose().to_owned());
    Account {
        line: ready.line.id.clone(),
        domain: ready.route.domain.clone(),
        server: ready.route.server.clone(),
        transport: ready.route.transport,
        contact: contact(config, &ready.route),
        username: ready.route.username.expose().to_owned(),
        password: ready.password.clone(),
        aliases: aliases.collect(),
        number_forms: number_forms(config, ready),
        register: config.sip.register,
        expires: config.sip.expires,
        allow_from: ready.route.allow_from.clone(),
    }
}

/// What the server of a line wants Contact to announce. Where it names no
/// host, ours is taken as far as it is known beforehand; where no port, ours,
/// if the line goes over the transport that it belongs to.
fn contact(config: &Config, route: &Route) -> Option<String> {
    let wanted = &route.contact;
    if *wanted == ContactOverride::default() {
        return None;
    }
    let bound = Some(config.network.bind).filter(|bind| !bind.is_unspecified());
    let ours = config.network.public_address.or(bound);
    let ours = ours.map(|address| match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => format!("[{address}]"),
    });
    let Some(host) = wanted.host.clone().or(ours) else {
        warn!(
            "a SIP server has a contact_port or contact_transport and no contact_host: it has no \
             effect without --public-address or --bind"
        );
        return None;
    };
    let is_ours = route.transport == config.sip.transport && config.sip.port > 0;
    let port = wanted.port.or(is_ours.then_some(config.sip.port));
    let port = port.map_or_else(String::new, |port| format!(":{port}"));
    let transport = match wanted.transport.unwrap_or(route.transport) {
        Transport::Udp => String::new(),
        other => format!(";transport={other}"),
    };
    Some(format!("{host}{port}{transport}"))
}
