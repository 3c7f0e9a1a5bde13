//! A line in the forms that others need: an account for the SIP engine and a profile for
//! the calls.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use tracing::{error, warn};

use super::line::LineProfile;
use super::sounds::SoundLoader;
use super::twilio::TwilioLine;
use crate::config::Config;
use crate::core::address::Transport;
use crate::core::dialling::DialLine;
use crate::core::numbers::{Country, Number};
use crate::core::private::Private;
use crate::lines::server::ContactOverride;
use crate::lines::{PhoneLine, ReadyLine, Route};
use crate::sip::engine::Account;

/// What calls of a line go by. Loads its sounds, which blocks on the disk.
pub fn profile(config: &Config, loader: &mut SoundLoader, ready: &ReadyLine) -> Arc<LineProfile> {
    profile_of(loader, &ready.line, dial_line(config, ready))
}

/// A line that is Twilio's, as its calls need it; `None` without its token. Loads its sounds, too.
pub(super) fn twilio_line(
    config: &Config,
    loader: &mut SoundLoader,
    line: &PhoneLine,
) -> Option<TwilioLine> {
    let number = line.phone_number.as_ref().map(Private::expose);
    let dial = DialLine {
        country: Country::of_line(number, config.dialling.country),
        hosts: Vec::new(),
    };
    Some(TwilioLine {
        profile: profile_of(loader, line, dial),
        max_concurrent_calls: line.max_concurrent_calls,
        stored_token: line.stored_twilio_token.clone()?,
        opened: OnceLock::new(),
    })
}

fn profile_of(loader: &mut SoundLoader, line: &PhoneLine, dial: DialLine) -> Arc<LineProfile> {
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
        way: line.way.clone(),
        sip_headers: line.sip_headers.clone(),
        friendly_name: line.friendly_name.clone(),
        status_callback: line.status_callback.clone(),
        dial,
    })
}

/// The line's country, and the hosts at which a SIP URI is a number of its own trunk.
pub(crate) fn dial_line(config: &Config, ready: &ReadyLine) -> DialLine {
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
