//! What a client asks to call, taken apart: a number, a name at the line's own
//! trunk, a SIP URI elsewhere. Foreign input: nothing that could end a SIP URI,
//! begin a header or carry parameters of its own gets through.

use std::fmt;

use crate::core::numbers::without_separators;

/// Longest destination.
const TEXT_MAX: usize = 256;
/// Longest user part of a SIP URI, and longest name.
const USER_MAX: usize = 64;
/// Longest host name (RFC 1035).
const HOST_MAX: usize = 253;

/// What is wrong with a destination. Never holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Too long.
    #[error("is longer than 256 bytes")]
    TooLong,
    /// Another character than the permitted ones.
    #[error(
        "holds a character that is not possible there: a number has digits, + and separators, a name letters, digits and any of . _ - ~ * #"
    )]
    Character,
    /// Not `sip:user@host`.
    #[error("must be a number or a SIP URI such as sip:100@pbx.example.com")]
    NoUri,
    /// A parameter that we do not pass on.
    #[error("has a URI parameter other than transport=udp, tcp or tls and user=phone")]
    Parameter,
}

/// A destination. `Display` is what the SIP engine dials.
#[derive(Clone, PartialEq, Eq)]
pub enum Destination {
    /// A number, or a name at the line's own trunk.
    OwnTrunk {
        /// Without separators where it is a number.
        text: String,
        /// It was written as a SIP URI of the line's own domain.
        is_uri: bool,
    },
    /// A SIP URI at another host.
    Elsewhere {
        /// `sip` or `sips`.
        scheme: &'static str,
        /// Before the `@`.
        user: String,
        /// Lower case, without port.
        host: String,
        /// Where it has one.
        port: Option<u16>,
        /// Where it names one.
        transport: Option<&'static str>,
    },
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OwnTrunk { text, .. } => f.write_str(text),
            Self::Elsewhere {
                scheme,
                user,
                host,
                port,
                transport,
            } => {
                write!(f, "{scheme}:{user}@{host}")?;
                if let Some(port) = port {
                    write!(f, ":{port}")?;
                }
                transport.map_or(Ok(()), |transport| write!(f, ";transport={transport}"))
            }
        }
    }
}

impl Destination {
    /// Takes a destination apart. `own_hosts`: the line's domain and server.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str, own_hosts: &[String]) -> Result<Self, Malformed> {
        let text = text.trim();
        if text.is_empty() {
            return Err(Malformed::Empty);
        }
        if text.len() > TEXT_MAX {
            return Err(Malformed::TooLong);
        }
        let scheme = text.split_once(':').map(|(scheme, rest)| {
            let scheme = scheme.to_ascii_lowercase();
            (scheme, rest)
        });
        match scheme {
            None => Self::own_trunk(text),
            Some((scheme, rest)) => match scheme.as_str() {
                "tel" => Self::telephone(rest),
                "sip" => Self::uri("sip", rest, own_hosts),
                "sips" => Self::uri("sips", rest, own_hosts),
                _ => Err(Malformed::NoUri),
            },
        }
    }

    fn own_trunk(text: &str) -> Result<Self, Malformed> {
        let is_uri = false;
        if let Some(text) = without_separators(text) {
            return Ok(Self::OwnTrunk { text, is_uri });
        }
        let text = text.to_owned();
        match is_user(&text) {
            true => Ok(Self::OwnTrunk { text, is_uri }),
            false => Err(Malformed::Character),
        }
    }

    /// A tel URI is its number; its parameters change what is dialled.
    fn telephone(number: &str) -> Result<Self, Malformed> {
        let text = without_separators(number).ok_or(Malformed::Character)?;
        let is_uri = false;
        Ok(Self::OwnTrunk { text, is_uri })
    }

    fn uri(scheme: &'static str, rest: &str, own_hosts: &[String]) -> Result<Self, Malformed> {
        let (user, rest) = rest.split_once('@').ok_or(Malformed::NoUri)?;
        if !is_user(user) || user.contains('#') {
            return Err(Malformed::Character);
        }
        let mut parts = rest.split(';');
        let (host, port) = host_and_port(parts.next().unwrap_or_default())?;
        let mut transport = None;
        for parameter in parts {
            match parameter.to_ascii_lowercase().as_str() {
                "transport=udp" => transport = Some("udp"),
                "transport=tcp" => transport = Some("tcp"),
                "transport=tls" => transport = Some("tls"),
                "user=phone" => {}
                _ => return Err(Malformed::Parameter),
            }
        }
        if own_hosts.iter().any(|own| bare_host(own) == host) {
            let text = without_separators(user).unwrap_or_else(|| user.to_owned());
            let is_uri = true;
            return Ok(Self::OwnTrunk { text, is_uri });
        }
        Ok(Self::Elsewhere {
            scheme,
            user: user.to_owned(),
            host,
            port,
            transport,
        })
    }
}

/// A host in the form in which hosts are compared: lower case, no port.
fn bare_host(text: &str) -> String {
    let host = match text.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map(|(v6, _)| format!("[{v6}]")),
        None => text.split(':').next().map(str::to_owned),
    };
    let host = host.unwrap_or_default().to_ascii_lowercase();
    host.trim_end_matches('.').to_owned()
}

fn host_and_port(text: &str) -> Result<(String, Option<u16>), Malformed> {
    let host = bare_host(text);
    if !is_host(&host) {
        return Err(Malformed::NoUri);
    }
    let rest = match text.strip_prefix('[') {
        Some(v6) => v6.split_once(']').map_or("", |(_, rest)| rest),
        None => text.find(':').map_or("", |at| &text[at..]),
    };
    if rest.is_empty() {
        return Ok((host, None));
    }
    let port = rest.strip_prefix(':').and_then(|port| port.parse().ok());
    let port = port.filter(|&port: &u16| port > 0);
    port.map(|port| (host, Some(port))).ok_or(Malformed::NoUri)
}

/// Whether it may stand before the `@`, and as a name.
pub(super) fn is_user(text: &str) -> bool {
    let is_possible = |b: u8| b.is_ascii_alphanumeric() || b"+-_.~*#".contains(&b);
    (1..=USER_MAX).contains(&text.len()) && text.bytes().all(is_possible)
}

/// Whether it is a host: a name, an address, a v6 address in brackets.
pub(super) fn is_host(text: &str) -> bool {
    if let Some(v6) = text.strip_prefix('[').and_then(|v6| v6.strip_suffix(']')) {
        return v6.parse::<std::net::Ipv6Addr>().is_ok();
    }
    let is_label = |label: &str| {
        let is_possible = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(is_possible)
    };
    text.len() <= HOST_MAX && text.split('.').all(is_label)
}
