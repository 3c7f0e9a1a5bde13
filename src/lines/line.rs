//! A phone line as the AlloResto database and its JSON write it
//! ([`crate::guide::phone_lines`]), and what can be wrong with one.
//!
//! Leaves out how JSON is read (`entry`), which server a line uses
//! (`resolve`) and what its password decrypts to (`load`).

use std::collections::BTreeMap;
use std::fmt;

use super::server::TrunkUriError;
use super::way::LineWay;
use crate::core::access::cidr::CidrError;
use crate::core::address::{HostPort, HostPortError};
use crate::core::ids::LineId;
use crate::core::private::{Private, Secret};
use crate::core::twiml::document::Webhook;

/// One phone number of one restaurant. `Debug` shows neither numbers nor
/// passwords.
#[derive(Clone, Debug)]
pub struct PhoneLine {
    /// `id`; the salt of its credential.
    pub id: LineId,
    /// `restaurantId`.
    pub restaurant_id: Option<String>,
    /// `phoneNumber`, as written.
    pub phone_number: Option<Private>,
    /// `sipServerId`: the trunk it must use.
    pub sip_server_id: Option<String>,
    /// `sipDomain`: `host` or `host:port`.
    pub sip_domain: Option<HostPort>,
    /// `sipUsername`: user part of its address, and for digest.
    pub sip_username: Option<Private>,
    /// `sipPassword` as stored: encrypted or plain.
    pub stored_password: Option<Secret>,
    /// `twilioAuthToken` as stored, of a line that is Twilio's: encrypted or plain.
    pub stored_twilio_token: Option<Secret>,
    /// `maxConcurrentCalls`.
    pub max_concurrent_calls: Option<u32>,
    /// `greeting`: path of a WAV file, for callers who wait.
    pub greeting: Option<String>,
    /// `announcement`: path of a WAV file, for callers whom no worker takes.
    pub announcement: Option<String>,
    /// `fallbackNumber`: where callers go when no worker comes.
    pub fallback_number: Option<Private>,
    /// `customParameters`, handed to the worker.
    pub custom_parameters: BTreeMap<String, String>,
    /// `wsTarget` or `voiceUrl`; `None`: the way of the flags.
    pub way: Option<LineWay>,
    /// `sipHeaders`: which headers the INVITE of a call that we place has, by the names of the parameters that they are made of.
    pub sip_headers: BTreeMap<String, String>,
    /// `friendlyName`: its name for people.
    pub friendly_name: Option<String>,
    /// `statusCallback`: told, in Twilio's form, when a call that came in is over.
    pub status_callback: Option<Webhook>,
}

impl PhoneLine {
    /// A line of which nothing but its user name is known.
    #[must_use]
    pub fn bare(id: LineId, username: Private) -> Self {
        Self {
            id,
            restaurant_id: None,
            phone_number: None,
            sip_server_id: None,
            sip_domain: None,
            sip_username: Some(username),
            stored_password: None,
            stored_twilio_token: None,
            max_concurrent_calls: None,
            greeting: None,
            announcement: None,
            fallback_number: None,
            custom_parameters: BTreeMap::new(),
            way: None,
            sip_headers: BTreeMap::new(),
            friendly_name: None,
            status_callback: None,
        }
    }
}

/// What is wrong with one field. Never holds the field's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// A required field is absent, null or empty.
    #[error("is required and missing")]
    Missing,
    /// The JSON type is another.
    #[error("must be {expected}, is {found}")]
    Type {
        /// What it should be.
        expected: &'static str,
        /// What it is.
        found: &'static str,
    },
    /// `provider` is neither of the two known.
    #[error("must be \"sip\" or \"twilio\"")]
    UnknownProvider,
    /// Not a host.
    #[error("{0}")]
    Host(#[from] HostPortError),
    /// Not the address of a trunk.
    #[error("{0}")]
    Trunk(#[from] TrunkUriError),
    /// Not a SIP transport.
    #[error("must be udp, tcp or tls")]
    Transport,
    /// Not a port.
    #[error("must be a port from 1 to 65535")]
    Port,
    /// A text that is too long.
    #[error("is longer than 4096 bytes")]
    TooLong,
    /// Control characters, spaces at the ends, or what ends a SIP user part.
    #[error(
        "holds a character that a SIP user name cannot have (space, control character, @, < or >)"
    )]
    BadCharacter,
    /// Not a list of networks.
    #[error("must be addresses or networks with commas between: one of them {0}")]
    Networks(#[from] CidrError),
    /// A number that is out of range.
    #[error("must be a whole number from 1 to 4294967295")]
    Range,
    /// Not an address with one of these schemes.
    #[error("must be a URL that begins with {0}")]
    Url(&'static str),
    /// Not a method of webhooks.
    #[error("must be POST or GET")]
    Method,
    /// Not a header that an INVITE of ours may have.
    #[error("must be the name of a SIP header: X-… or User-to-User")]
    SipHeader,
    /// More headers than one INVITE may have.
    #[error("has more than 24 SIP headers")]
    TooManyHeaders,
    /// The line has another way to its worker, by this field.
    #[error("is a second way to the line's worker beside {0}: a line has one of the two")]
    OtherWay(&'static str),
    /// A field that belongs to this one, which is not given.
    #[error("has no effect without {0}")]
    NoEffect(&'static str),
    /// Not a field of [`crate::guide::phone_lines`]; ignored.
    #[error("is not a known field and is ignored")]
    Unknown,
    /// The column's name where the JSON name belongs; ignored.
    #[error("is the name of the SQL column and is ignored here: write it as {0}")]
    SnakeCase(&'static str),
    /// An earlier line of the file has the same id.
    #[error("is the same as that of entry {first} (counted from 1): this one is left out")]
    Duplicate {
        /// Which entry came first, from 1.
        first: usize,
    },
}

/// A mistake or a warning about one field of one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldIssue {
    /// The field as the file writes it (or `customParameters.key`).
    pub field: String,
    /// What is wrong with it.
    pub problem: FieldProblem,
}

impl fmt::Display for FieldIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "field \"{}\" {}", self.field, self.problem)
    }
}
