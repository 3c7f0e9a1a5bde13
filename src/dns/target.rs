//! What is located, and in which order its servers are tried: the pure half
//! of RFC 3263 and RFC 2782.

use std::net::{IpAddr, SocketAddr};

use crate::core::address::{HostPort, HostPortError, Transport};

/// Most SRV records of a name that are used.
pub const SRV_MAX: usize = 16;
/// Most addresses of a target that are used; pjsip has room for 32.
pub const ADDRESSES_MAX: usize = 16;

/// A SIP server as a line or a URI names it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    host: String,
    port: Option<u16>,
    transport: Transport,
}

impl Target {
    /// Reads `host` or `host:port`.
    ///
    /// # Errors
    /// When it has neither form.
    pub fn parse(server: &str, transport: Transport) -> Result<Self, HostPortError> {
        let server = HostPort::parse(server)?;
        let host = server.host().trim_start_matches('[').trim_end_matches(']');
        Ok(Self {
            host: host.to_owned(),
            port: server.port(),
            transport,
        })
    }

    /// The host: a name in lower case, or an address without brackets.
    #[must_use]
    pub fn host(&self) -> &str {
        &self.host
    }

    /// The transport that it is asked for.
    #[must_use]
    pub const fn transport(&self) -> Transport {
        self.transport
    }

    /// The address, where it is no name.
    #[must_use]
    pub fn numeric(&self) -> Option<SocketAddr> {
        let ip: IpAddr = self.host.parse().ok()?;
        Some(SocketAddr::new(ip, self.port_or_default()))
    }

    /// The port that is written, else that of the transport.
    #[must_use]
    pub fn port_or_default(&self) -> u16 {
        self.port.unwrap_or(self.transport.default_port())
    }

    /// The name of its SRV records; none where a port is written or the host
    /// is an address (RFC 3263 4.2).
    #[must_use]
    pub fn srv_name(&self) -> Option<String> {
        if self.port.is_some() || self.numeric().is_some() {
            return None;
        }
        let service = match self.transport {
            Transport::Udp => "_sip._udp",
            Transport::Tcp => "_sip._tcp",
            Transport::Tls => "_sips._tcp",
        };
        Some(format!("{service}.{}", self.host))
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let host = match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        };
        match self.port {
            Some(port) => write!(f, "{host}:{port} over {}", self.transport),
            None => write!(f, "{host} over {}", self.transport),
        }
    }
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Srv {
    /// Lower is tried first.
    pub priority: u16,
    /// Share among those of one priority.
    pub weight: u16,
    /// Port of the service.
    pub port: u16,
    /// Name of the host, absolute.
    pub host: String,
}

/// Puts SRV records into the order in which they are tried: by priority, and
/// within one by lot, where each has its weight of the lots (RFC 2782).
/// `draw` gives a number from 0 up to and with its argument.
pub fn order(mut records: Vec<Srv>, mut draw: impl FnMut(u32) -> u32) -> Vec<Srv> {
    // Records without a weight first, so that they are drawn only by a 0.
    records.sort_by(|a, b| {
        (a.priority, a.weight, &a.host, a.port).cmp(&(b.priority, b.weight, &b.host, b.port))
    });
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(priority) = records.first().map(|record| record.priority) {
        let same = records.iter().take_while(|r| r.priority == priority);
        let total: u32 = same.map(|record| u32::from(record.weight)).sum();
        let drawn = draw(total).min(total);
        let mut sum = 0;
        let chosen = records.iter().position(|record| {
            sum += u32::from(record.weight);
            sum >= drawn
        });
        ordered.push(records.remove(chosen.unwrap_or(0)));
    }
    ordered.truncate(SRV_MAX);
    ordered
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(text: &str, transport: Transport) -> Target {
        Target::parse(text, transport).expect(text)
    }

    fn srv(priority: u16, weight: u16, host: &str) -> Srv {
        Srv {
            priority,
            weight,
            port: 5060,
            host: host.into(),
        }
    }

    #[test]
    fn a_written_port_or_an_address_has_no_srv() {
        let name = |text| target(text, Transport::Udp).srv_name();
        assert_eq!(
            name("Example.ORG").as_deref(),
            Some("_sip._udp.example.org")
        );
        assert_eq!(name("example.org:5060"), None);
        assert_eq!(name("10.0.0.1"), None);
        assert_eq!(name("::1"), None);
        let tls = target("example.org", Transport::Tls);
        assert_eq!(tls.srv_name().as_deref(), Some("_sips._tcp.example.org"));
        let numeric = |text, transport| target(text, transport).numeric().map(|a| a.to_string());
        assert_eq!(
            numeric("[::1]:5070", Transport::Udp).as_deref(),
            Some("[::1]:5070")
        );
        assert_eq!(
            numeric("10.0.0.1", Transport::Tls).as_deref(),
            Some("10.0.0.1:5061")
        );
        assert_eq!(numeric("example.org", Transport::Udp), None);
    }

    #[test]
    fn priority_goes_before_weight_and_weight_is_a_share() {
        let records = || vec![srv(20, 0, "last"), srv(10, 90, "big"), srv(10, 10, "small")];
        let first = |drawn| order(records(), |_| drawn).remove(0).host;
        assert_eq!(
            (first(0), first(10), first(11), first(100)),
            ("small".into(), "small".into(), "big".into(), "big".into())
        );
        let all: Vec<String> = order(records(), |total| total)
            .into_iter()
            .map(|r| r.host)
            .collect();
        assert_eq!(all, ["big", "small", "last"]);
    }

    proptest! {
        #[test]
        fn every_record_is_tried_once_and_priorities_rise(
            records in proptest::collection::vec((0u16..4, any::<u16>(), "[a-c]"), 0..SRV_MAX),
            seed in any::<u32>(),
        ) {
            let records: Vec<Srv> = records.iter().map(|(p, w, h)| srv(*p, *w, h)).collect();
            let ordered = order(records.clone(), |total| seed.checked_rem(total + 1).unwrap_or(0));
            prop_assert_eq!(ordered.len(), records.len());
            prop_assert!(ordered.windows(2).all(|pair| pair[0].priority <= pair[1].priority));
        }
    }
}
