//! One phone line: all that this bridge knows of it, in one place.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::admission::LineCalls;
use super::leases::Lease;
use super::registration::RegistrationStage;
use super::sealed::Sealed;
use super::twilio::TwilioLine;
use crate::core::address::Transport;
use crate::core::dialling::DialLine;
use crate::core::ids::LineId;
use crate::core::private::{Private, Secret};
use crate::core::twiml::document::Webhook;
use crate::lines::credential_cache::Opened;
use crate::lines::{LineWay, ReadyLine};

/// What a call needs to know of its line. A call keeps the profile that it began with.
#[derive(Clone, Debug)]
pub struct LineProfile {
    /// `phoneLineId`.
    pub id: LineId,
    /// `restaurantId`.
    pub restaurant_id: Option<String>,
    /// The number callers dialled, where known.
    pub phone_number: Option<Private>,
    /// Where callers go when no worker comes.
    pub fallback_number: Option<Private>,
    /// Played while the caller waits: mu-law, ringback included.
    pub greeting: Option<Arc<[u8]>>,
    /// Played when no worker takes the call, instead of the built-in one: mu-law.
    pub announcement: Option<Arc<[u8]>>,
    /// For `customParameters`.
    pub custom_parameters: BTreeMap<String, String>,
    /// Its own way to its worker; `None`: that of the flags.
    pub way: Option<LineWay>,
    /// Which headers the INVITE of a call that we place has, by the names of the parameters that they are made of.
    pub sip_headers: BTreeMap<String, String>,
    /// Its name for people.
    pub friendly_name: Option<String>,
    /// Told, in Twilio's form, when a call that came in is over.
    pub status_callback: Option<Webhook>,
    /// Its country and its trunk: how numbers are read, and whom it may call.
    pub dial: DialLine,
}

impl LineProfile {
    /// A profile of which nothing is known but the line.
    #[must_use]
    pub fn bare(id: LineId) -> Self {
        Self {
            id,
            restaurant_id: None,
            phone_number: None,
            fallback_number: None,
            greeting: None,
            announcement: None,
            custom_parameters: BTreeMap::new(),
            way: None,
            sip_headers: BTreeMap::new(),
            friendly_name: None,
            status_callback: None,
            dial: DialLine::default(),
        }
    }
}

/// Whether a line can be used, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LineHealth {
    /// It takes calls, and registers where lines do.
    Usable {
        /// `host` or `host:port` of its server.
        server: String,
        /// Over which it is reached.
        transport: Transport,
        /// By which rule it has this server, in words.
        rule: String,
    },
    /// Something is wrong with it.
    Unusable {
        /// What, in words.
        reason: String,
    },
    /// It is Twilio's, and takes the calls that its webhook brings.
    Twilio,
    /// It is not to register: not active, or of another provider.
    Skipped {
        /// Why, in words.
        reason: String,
    },
}

/// One line of the table. There is an entry for every line that is held, that
/// something is known of, or that has calls.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Whether it can be used, for people.
    pub(super) health: Option<LineHealth>,
    /// The line as calls and the SIP engine have it; none for one that is not held.
    pub(super) held: Option<Held>,
    /// The line where it is Twilio's.
    pub(super) twilio: Option<Arc<TwilioLine>>,
    /// The line as it is wanted, while its password is being decrypted.
    pub(super) sealed: Option<Box<Sealed>>,
    /// Its password as it is stored, and what it was decrypted to.
    pub(super) password: Option<(Secret, Opened)>,
    /// Its calls in progress.
    pub(super) calls: LineCalls,
    /// Whether this bridge registers it.
    pub(super) lease: Lease,
}

/// A line that takes calls.
#[derive(Debug)]
pub(super) struct Held {
    /// As it was last handed to the SIP engine.
    pub(super) ready: ReadyLine,
    /// What its calls go by.
    pub(super) profile: Arc<LineProfile>,
    /// Where it stands with its registrar.
    pub(super) registration: RegistrationStage,
}

impl Line {
    /// Whether nothing is known of it: the entry may go.
    pub(super) fn is_empty(&self) -> bool {
        self.health.is_none()
            && self.held.is_none()
            && self.twilio.is_none()
            && self.sealed.is_none()
            && self.password.is_none()
            && self.calls.is_none_in_progress()
    }

    pub(super) fn is_unusable(&self) -> bool {
        matches!(self.health, Some(LineHealth::Unusable { .. }))
    }

    pub(super) fn registration_mut(&mut self) -> Option<&mut RegistrationStage> {
        self.held.as_mut().map(|held| &mut held.registration)
    }
}
