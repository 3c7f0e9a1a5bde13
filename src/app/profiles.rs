//! From flags, lines file and database to accounts for the SIP engine and profiles for
//! the calls. Mistakes in single lines are logged; the good lines start.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;

use tracing::{error, info, warn};

use super::compose::StartError;
use super::line_sounds::SoundLoader;
use super::start_lines::StartLines;
use crate::bridge::context::LineProfile;
use crate::config::Config;
use crate::core::address::Transport;
use crate::core::dialling::DialLine;
use crate::core::ids::LineId;
use crate::core::numbers::{self, Country, Number};
use crate::core::private::Private;
use crate::lines::server::ContactOverride;
use crate::lines::{ReadyLine, Route};
use crate::media::sounds::Sounds;
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

/// Tells what is to be told, and loads the sounds.
///
/// # Errors
/// When no line is left, unless a database may get one later.
pub fn lines(config: &Config, start: StartLines) -> Result<Lines, StartError> {
    numbers::prepare();
    tell(&start);
    let unusable = start.unusable();
    let ready = start.loaded.ready;
    if ready.is_empty() && config.database.is_none() {
        return Err(StartError::NoLine { unusable });
    }
    if ready.is_empty() {
        warn!("the database holds no phone line that can be used: no call can come");
    }
    info!(lines = ready.len(), unusable, "lines loaded");
    let mut lines = Lines {
        accounts: Vec::with_capacity(ready.len()),
        profiles: HashMap::with_capacity(ready.len()),
        call_limits: HashMap::new(),
        unusable,
        sounds: Sounds::built_in(),
    };
    let mut loader = SoundLoader::new(lines.sounds.clone());
    for line in ready {
        lines.add(config, &mut loader, line);
    }
    Ok(lines)
}

fn tell(start: &StartLines) {
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

impl Lines {
    fn add(&mut self, config: &Config, loader: &mut SoundLoader, ready: ReadyLine) {
        let id = ready.line.id.clone();
        let sounds = loader.load(&ready.line);
        sounds
            .problems
            .iter()
            .for_each(|problem| error!("{problem}"));
        if let Some(most) = ready.line.max_concurrent_calls {
            self.call_limits.insert(id.clone(), most);
        }
        let profile = LineProfile {
            id: id.clone(),
            restaurant_id: ready.line.restaurant_id.clone(),
            phone_number: ready.line.phone_number.clone(),
            fallback_number: ready.line.fallback_number.clone(),
            greeting: sounds.greeting,
            announcement: sounds.announcement,
            custom_parameters: ready.line.custom_parameters.clone(),
            dial: dial_line(config, &ready),
        };
        self.profiles.insert(id, Arc::new(profile));
        self.accounts.push(account(config, ready));
    }
}

/// The line's country, and the hosts at which a SIP URI is a number of its own trunk.
fn dial_line(config: &Config, ready: &ReadyLine) -> DialLine {
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

fn account(config: &Config, ready: ReadyLine) -> Account {
    let number_forms = number_forms(config, &ready);
    let aliases = ready
        .line
        .phone_number
        .iter()
        .map(|number| number.expose().to_owned());
    let contact = contact(config, &ready.route);
    Account {
        line: ready.line.id.clone(),
        domain: ready.route.domain,
        server: ready.route.server,
        transport: ready.route.transport,
        contact,
        username: ready.route.username.expose().to_owned(),
        password: ready.password,
        aliases: aliases.collect(),
        number_forms,
        register: config.sip.register,
        expires: config.sip.expires,
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
