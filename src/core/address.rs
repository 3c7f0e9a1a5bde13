//! Addresses as operators write them: the SIP transport, and `host` or
//! `host:port`. Leaves out DNS: a name is checked for its form only.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};

/// The transport of SIP signalling.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 3261 over UDP.
    Udp,
    /// RFC 3261 over TCP.
    Tcp,
    /// RFC 3261 over TLS.
    Tls,
}

impl Transport {
    /// The name in a URI's `transport` parameter.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "udp",
            Self::Tcp => "tcp",
            Self::Tls => "tls",
        }
    }

    /// The port that RFC 3261 gives this transport.
    #[must_use]
    pub const fn default_port(self) -> u16 {
        match self {
            Self::Udp | Self::Tcp => 5060,
            Self::Tls => 5061,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why a text is not `host` or `host:port`. Never holds the text itself:
/// people paste whole URIs with passwords in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    /// Nothing there.
    #[error("is empty")]
    Empty,
    /// Something like `sip:user@host` or `http://host`.
    #[error("must be a host or host:port alone, without scheme, user or path")]
    NotAHost,
    /// A name that DNS cannot hold, or half an address.
    #[error("is not a valid host name or IP address")]
    BadName,
    /// The part after the colon.
    #[error("has a port that is not a number from 1 to 65535")]
    BadPort,
}

/// A host name or IP address with an optional port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    host: String,
    port: Option<u16>,
}

impl HostPort {
    /// Reads `host`, `host:port`, `[v6]`, `[v6]:port` or a bare IPv6 address.
    ///
    /// # Errors
    /// When it has none of these forms.
    pub fn parse(text: &str) -> Result<Self, HostPortError> {
        if text.is_empty() {
            return Err(HostPortError::Empty);
        }
        if text.contains(['/', '@', ' ', ';', '?']) || has_scheme(text) {
            return Err(HostPortError::NotAHost);
        }
        if let Ok(v6) = text.parse::<Ipv6Addr>() {
            return Ok(Self {
                host: format!("[{v6}]"),
                port: None,
            });
        }
        let (host, port) = split_port(text)?;
        if !is_host(host) {
            return Err(HostPortError::BadName);
        }
        Ok(Self {
            host: host.to_ascii_lowercase(),
            port,
        })
    }

    /// The host as a URI writes it: IPv6 in brackets, names in lower case.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The port, where one was written.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        self.port
    }

    /// `host:port`, with this port where none was written.
    #[must_use]
    pub fn with_port(&self, default: u16) -> String {
        format!("{}:{}", self.host, self.port.unwrap_or(default))
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.port {
            Some(port) => write!(f, "{}:{port}", self.host),
            None => f.write_str(&self.host),
        }
    }
}

/// `sip:host` would otherwise read as host `sip` with a bad port.
fn has_scheme(text: &str) -> bool {
    let scheme = text.split(':').next().unwrap_or_default();
    ["sip", "sips", "stun", "stuns", "turn", "turns", "tel"]
        .iter()
        .any(|known| scheme.eq_ignore_ascii_case(known))
        && text.contains(':')
}

fn split_port(text: &str) -> Result<(&str, Option<u16>), HostPortError> {
    let (host, port) = if text.starts_with('[') {
        let end = text.find(']').ok_or(HostPortError::BadName)?;
        let (host, rest) = text.split_at(end + 1);
        match rest.strip_prefix(':') {
            None if rest.is_empty() => (host, None),
            None => return Err(HostPortError::BadName),
            Some(port) => (host, Some(port)),
        }
    } else {
        match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        }
    };
    let port = port.map(parse_port).transpose()?;
    Ok((host, port))
}

fn parse_port(text: &str) -> Result<u16, HostPortError> {
    // `u16::from_str` takes a plus sign.
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => Err(HostPortError::BadPort),
    }
}

fn is_host(host: &str) -> bool {
    if let Some(inner) = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
        return inner.parse::<Ipv6Addr>().is_ok();
    }
    if host.parse::<IpAddr>().is_ok() {
        return true;
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_')
    };
    let last_is_number = name
        .rsplit('.')
        .next()
        .is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    name.len() <= 253 && name.split('.').all(is_label) && !last_is_number
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn hosts_and_ports_are_told_apart() {
        for (text, host, port) in [
            ("sip.example.com", "sip.example.com", None),
            ("SIP.Example.com:5080", "sip.example.com", Some(5080)),
            ("192.0.2.7:5060", "192.0.2.7", Some(5060)),
            ("::1", "[::1]", None),
            ("[::1]:5061", "[::1]", Some(5061)),
            ("trunk_1.internal.", "trunk_1.internal.", None),
            ("sip", "sip", None),
        ] {
            let parsed = HostPort::parse(text).expect(text);
            assert_eq!((parsed.host(), parsed.port()), (host, port), "{text}");
        }
    }

    #[test]
    fn what_is_no_host_says_why() {
        use HostPortError::{BadName, BadPort, Empty, NotAHost};
        for (text, error) in [
            ("", Empty),
            ("sip:sip.example.com", NotAHost),
            ("sip:7@host", NotAHost),
            ("https://host", NotAHost),
            ("host:0", BadPort),
            ("host:+5", BadPort),
            ("host:65536", BadPort),
            ("host:", BadPort),
            ("300.1.1.1", BadName),
            ("a..b", BadName),
            ("-a.b", BadName),
            ("[::1", BadName),
            ("[::1]x", BadName),
            ("é.fr", BadName),
        ] {
            assert_eq!(HostPort::parse(text), Err(error), "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused_and_what_is_read_stays_the_same(text in "[a-z0-9:.\\[\\]_-]{0,24}|\\PC{0,24}") {
            if let Ok(parsed) = HostPort::parse(&text) {
                prop_assert_eq!(HostPort::parse(&parsed.to_string()), Ok(parsed));
            }
        }
    }
}
