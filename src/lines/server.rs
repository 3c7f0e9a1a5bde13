//! A SIP server (trunk) as `sip_servers` has it, and what can be wrong with one.

use super::line::{FieldIssue, FieldProblem};
use super::row::Row;
use crate::core::access::cidr::{self, Cidr};
use crate::core::address::{HostPort, HostPortError, Transport};
use crate::core::private::{Private, Secret};

/// A trunk, its password as stored.
#[derive(Clone, Debug)]
pub struct StoredServer {
    /// `id`; the salt of its credential.
    pub id: String,
    /// `label`: its name for people.
    pub label: Option<String>,
    /// Where `trunk_uri` points.
    pub trunk: TrunkUri,
    /// `username`, for lines that have none of their own.
    pub username: Option<Private>,
    /// `password` as stored: encrypted or plain.
    pub stored_password: Option<Secret>,
    /// `contact_host`, `contact_port`, `contact_transport`.
    pub contact: ContactOverride,
    /// `allow_from`: networks that its calls come from, beside its own addresses.
    pub allow_from: Vec<Cidr>,
}

/// What REGISTER announces instead of our own address.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContactOverride {
    /// `contact_host`.
    pub host: Option<String>,
    /// `contact_port`.
    pub port: Option<u16>,
    /// `contact_transport`.
    pub transport: Option<Transport>,
}

/// `sip:host:port;transport=tcp`, `sips:host`, or `host:port` alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkUri {
    /// Where requests go.
    pub address: HostPort,
    /// Transport, where it is said.
    pub transport: Option<Transport>,
}

/// Why a text is no trunk URI. Never holds the text itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrunkUriError {
    /// Not a host, after `sip:`.
    #[error("must be like sip:host:port;transport=udp: the part after sip: {0}")]
    Host(HostPortError),
    /// A parameter other than `transport` and `lr`.
    #[error("has a parameter other than transport=udp, tcp or tls")]
    Parameter,
    /// `sips:` over UDP or TCP.
    #[error("says sips: and a transport other than tls")]
    NotSecure,
}

impl TrunkUri {
    /// Reads a trunk URI.
    ///
    /// # Errors
    /// When it has none of the forms.
    pub fn parse(text: &str) -> Result<Self, TrunkUriError> {
        let text = text.trim();
        let (scheme, rest) = match text.split_once(':') {
            Some((scheme, rest)) if is_scheme(scheme) => (scheme, rest),
            _ => ("", text),
        };
        let mut parts = rest.split(';');
        let host = parts.next().unwrap_or_default();
        let address = HostPort::parse(host).map_err(TrunkUriError::Host)?;
        let mut transport = None;
        for part in parts.filter(|part| !part.eq_ignore_ascii_case("lr")) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !name.eq_ignore_ascii_case("transport") {
                return Err(TrunkUriError::Parameter);
            }
            transport = Some(parse_transport(value).ok_or(TrunkUriError::Parameter)?);
        }
        if scheme.eq_ignore_ascii_case("sips")
            && *transport.get_or_insert(Transport::Tls) != Transport::Tls
        {
            return Err(TrunkUriError::NotSecure);
        }
        Ok(Self { address, transport })
    }
}

fn is_scheme(text: &str) -> bool {
    text.eq_ignore_ascii_case("sip") || text.eq_ignore_ascii_case("sips")
}

fn parse_transport(text: &str) -> Option<Transport> {
    [Transport::Udp, Transport::Tcp, Transport::Tls]
        .into_iter()
        .find(|transport| transport.as_str().eq_ignore_ascii_case(text))
}

/// Reads a whole row of `sip_servers`.
///
/// # Errors
/// Everything that is wrong with it.
pub fn read_server(row: &Row) -> Result<StoredServer, Vec<FieldIssue>> {
    let mut issues = Vec::new();
    let mut report = |field: &str, problem| {
        let field = field.to_owned();
        issues.push(FieldIssue { field, problem });
    };
    if row.id().is_none() {
        report("id", FieldProblem::Missing);
    }
    let trunk = match row.get("trunk_uri").map(TrunkUri::parse) {
        Some(Ok(trunk)) => Some(trunk),
        Some(Err(error)) => {
            report("trunk_uri", error.into());
            None
        }
        None => {
            report("trunk_uri", FieldProblem::Missing);
            None
        }
    };
    let username = row.get("username").map(str::trim);
    let breaks =
        |c: char| c.is_control() || c.is_whitespace() || matches!(c, '@' | '<' | '>' | '"' | '\\');
    if username.is_some_and(|name| name.is_empty() || name.contains(breaks)) {
        report("username", FieldProblem::BadCharacter);
    }
    let contact = contact(row, &mut report);
    let allow_from = cidr::parse_list(row.get("allow_from").unwrap_or_default());
    let allow_from = allow_from.unwrap_or_else(|error| {
        report("allow_from", error.into());
        Vec::new()
    });
    match trunk {
        Some(trunk) if issues.is_empty() => Ok(StoredServer {
            id: row.id().unwrap_or_default().to_owned(),
            label: row.get("label").map(str::to_owned),
            trunk,
            username: username.map(Private::new),
            stored_password: row
                .secret("password")
                .filter(|password| !password.expose().is_empty()),
            contact,
            allow_from,
        }),
        _ => Err(issues),
    }
}

fn contact(row: &Row, report: &mut impl FnMut(&str, FieldProblem)) -> ContactOverride {
    let host = row.get("contact_host").and_then(|text| {
        let host = HostPort::parse(text.trim());
        match host {
            Ok(host) if host.port().is_none() => Some(host.host().to_owned()),
            Ok(_) => {
                report("contact_host", HostPortError::NotAHost.into());
                None
            }
            Err(error) => {
                report("contact_host", error.into());
                None
            }
        }
    });
    let port = row.get("contact_port").and_then(|text| {
        let port = text.parse().ok().filter(|&port: &u16| port > 0);
        if port.is_none() {
            report("contact_port", FieldProblem::Port);
        }
        port
    });
    let transport = row.get("contact_transport").and_then(|text| {
        let transport = parse_transport(text.trim());
        if transport.is_none() {
            report("contact_transport", FieldProblem::Transport);
        }
        transport
    });
    ContactOverride {
        host,
        port,
        transport,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lines::row::SERVER_COLUMNS;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    fn read(value: Value) -> Result<StoredServer, Vec<String>> {
        let object = value.as_object().expect("object");
        read_server(&Row::from_object(SERVER_COLUMNS, object))
            .map_err(|issues| issues.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn trunk_uris_in_all_their_forms() {
        let parse =
            |text| TrunkUri::parse(text).map(|uri| (uri.address.to_string(), uri.transport));
        let ok = |address: &str, transport| Ok((address.to_owned(), transport));
        assert_eq!(parse("sip:a.example"), ok("a.example", None));
        assert_eq!(
            parse(" SIP:a.example:5070;transport=TCP;lr "),
            ok("a.example:5070", Some(Transport::Tcp))
        );
        assert_eq!(
            parse("sips:a.example"),
            ok("a.example", Some(Transport::Tls))
        );
        assert_eq!(parse("10.0.0.1:5060"), ok("10.0.0.1:5060", None));
        assert_eq!(parse("sips:a;transport=udp"), Err(TrunkUriError::NotSecure));
        assert_eq!(parse("sip:a;maddr=b"), Err(TrunkUriError::Parameter));
        assert_eq!(parse("sip:a;transport=sctp"), Err(TrunkUriError::Parameter));
        for text in ["", "sip:", "sip:bob:pw@a", "http://a", "sip:a?x=y"] {
            assert!(matches!(parse(text), Err(TrunkUriError::Host(_))), "{text}");
        }
    }

    #[test]
    fn a_whole_server_is_read() {
        let server = read(
            json!({"id": "s", "label": "OVH", "trunk_uri": "sip:a", "username": "u",
            "password": "hunter2", "contact_host": "c.example", "contact_port": 5071,
            "contact_transport": "tls", "allow_from": "192.0.2.0/24, 2001:db8::1"}),
        )
        .expect("valid");
        let networks: Vec<_> = server.allow_from.iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["192.0.2.0/24", "2001:db8::1"]);
        assert_eq!(server.label.as_deref(), Some("OVH"));
        assert_eq!(server.contact.host.as_deref(), Some("c.example"));
        assert_eq!(server.contact.port, Some(5071));
        assert_eq!(server.contact.transport, Some(Transport::Tls));
        assert!(!format!("{server:?}").contains("hunter2"));
    }

    #[test]
    fn every_mistake_is_named() {
        let issues = read(
            json!({"username": "a b", "contact_host": "h:1", "contact_port": 70000,
            "contact_transport": "sctp", "allow_from": "192.0.2.0/24,h"}),
        )
        .expect_err("mistakes");
        assert_eq!(
            issues,
            [
                "field \"id\" is required and missing",
                "field \"trunk_uri\" is required and missing",
                "field \"username\" holds a character that a SIP user name cannot have (space, control character, @, < or >)",
                "field \"contact_host\" must be a host or host:port alone, without scheme, user or path",
                "field \"contact_port\" must be a port from 1 to 65535",
                "field \"contact_transport\" must be udp, tcp or tls",
                "field \"allow_from\" must be addresses or networks with commas between: one of them must be an IP address, or a network such as 192.0.2.0/24",
            ]
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "(sips?:)?\\PC{0,30}") {
            let _ = TrunkUri::parse(&text);
        }
    }
}
