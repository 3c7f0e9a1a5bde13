//! Who may talk SIP to us, and how much of it.
//!
//! | file | what it holds |
//! |---|---|
//! | [`cidr`] | networks, as `--allow-from` names them |
//! | [`glance`] | what a packet is, read before any SIP parser sees it |
//! | [`contact_key`] | the token in a line's Contact, which only its registrar knows |
//! | [`buckets`] | so many a second from each source |
//! | [`connections`] | so many connections from each source, and for how long |
//! | [`notices`] | what the log says of strangers, and how often |
//!
//! The rule: a known source (an address of a line's server, or of
//! `--allow-from`) may send what it likes. Everybody else needs the token of
//! a line in the request URI, or a dialog that stands. With `--accept any`
//! nobody is turned away, but who is not known gets less.

pub mod buckets;
pub mod cidr;
pub mod connections;
pub mod contact_key;
pub mod glance;
pub mod notices;

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

pub use cidr::Cidr;
use glance::{Glance, MessageKind};

/// `--accept`: from whom calls are taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Accept {
    /// From the lines' servers, `--allow-from`, and who knows a line's token.
    #[default]
    Trunks,
    /// From anybody.
    Any,
}

/// Why something from the network was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AccessReason {
    /// A request from an unknown source, without the token of a line.
    UnknownSource,
    /// A request within a dialog that does not stand.
    UnknownDialog,
    /// An answer to nothing that we sent.
    StrayResponse,
    /// No SIP at all.
    Unreadable,
    /// More connections than one source may have, or all strangers together.
    Connections,
    /// A connection that brought no whole message in time.
    Incomplete,
    /// More calls a second than one source may bring.
    SourceRate,
    /// More calls answered and not acknowledged than one source may have, or
    /// all together.
    Unacknowledged,
}

/// All reasons, in the order of their counters.
pub const REASONS: [AccessReason; 8] = [
    AccessReason::UnknownSource,
    AccessReason::UnknownDialog,
    AccessReason::StrayResponse,
    AccessReason::Unreadable,
    AccessReason::Connections,
    AccessReason::Incomplete,
    AccessReason::SourceRate,
    AccessReason::Unacknowledged,
];

impl AccessReason {
    /// Its name in the log and in metrics. Firewalls read it: it never changes.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownSource => "unknown_source",
            Self::UnknownDialog => "unknown_dialog",
            Self::StrayResponse => "stray_response",
            Self::Unreadable => "unreadable",
            Self::Connections => "connections",
            Self::Incomplete => "incomplete",
            Self::SourceRate => "source_rate",
            Self::Unacknowledged => "unacknowledged",
        }
    }
}

impl fmt::Display for AccessReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Judges what an unknown source sent, by what [`Glance`] sees of it.
/// `is_token` says whether a text is the token of a line.
///
/// What passes is judged again once it is parsed: this only spares the parser
/// what cannot pass.
///
/// # Errors
/// Why it is dropped.
pub fn judge_stranger(
    glance: Option<&Glance<'_>>,
    is_token: impl FnOnce(&str) -> bool,
) -> Result<(), AccessReason> {
    let Some(glance) = glance else {
        return Err(AccessReason::Unreadable);
    };
    match glance.kind {
        MessageKind::Response if glance.has_our_branch => Ok(()),
        MessageKind::Response => Err(AccessReason::StrayResponse),
        MessageKind::Request => {
            if glance.token.is_some_and(is_token) || glance.may_be_in_dialog() {
                Ok(())
            } else {
                Err(AccessReason::UnknownSource)
            }
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 that a host of IPv6
/// has for itself. An IPv4 address in IPv6 clothes is the IPv4 address.
#[must_use]
pub fn source_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            Ipv6Addr::new(a, b, c, d, 0, 0, 0, 0).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(message: &str) -> Result<(), AccessReason> {
        judge_stranger(Glance::of(message.as_bytes()).as_ref(), |token| {
            token == "secret"
        })
    }

    #[test]
    fn a_stranger_needs_a_token_a_dialog_or_a_question_of_ours() {
        let invite = |uri: &str, to: &str| format!("INVITE {uri} SIP/2.0\r\nTo: {to}\r\n\r\n");
        let unknown = Err(AccessReason::UnknownSource);
        assert_eq!(judge(&invite("sip:a@h;line=secret", "<sip:a@h>")), Ok(()));
        assert_eq!(judge(&invite("sip:a@h;line=secre", "<sip:a@h>")), unknown);
        assert_eq!(judge(&invite("sip:a@h", "<sip:a@h>")), unknown);
        assert_eq!(judge(&invite("sip:a@h", "<sip:a@h>;tag=1")), Ok(()));
        let options = "OPTIONS sip:h SIP/2.0\r\nTo: <sip:h>;tag=1\r\n\r\n";
        assert_eq!(judge(&options.replace(";tag=1", "")), unknown);
        assert_eq!(judge(options), Ok(()), "a dialog may be asked too");
        let register = options.replace("OPTIONS", "REGISTER");
        assert_eq!(judge(&register), unknown, "never within a dialog");
        assert_eq!(judge("\0\u{1}\u{2}"), Err(AccessReason::Unreadable));
        let ok = "SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKPjx\r\n\r\n";
        assert_eq!(judge(ok), Ok(()));
        let stray = ok.replace("z9hG4bKPj", "z9hG4bK-");
        assert_eq!(judge(&stray), Err(AccessReason::StrayResponse));
    }

    #[test]
    fn one_host_is_one_source() {
        let source = |text: &str| source_of(text.parse().expect("address"));
        assert_eq!(source("192.0.2.1"), source("::ffff:192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:1:2:3"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn reasons_have_names_of_their_own() {
        let names: std::collections::BTreeSet<_> = REASONS.iter().map(|r| r.as_str()).collect();
        assert_eq!(names.len(), REASONS.len());
    }
}
