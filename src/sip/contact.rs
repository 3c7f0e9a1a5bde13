//! Where requests within a dialog go when the caller is behind a NAT.
//!
//! A phone behind a NAT writes its private address into Via and Contact. RFC
//! 3581 (`rport`) brings our answers back to it, but our own requests in the
//! dialog (BYE, re-INVITE, REFER) go to the Contact, which nobody can reach
//! from here. So the address that its INVITE came from takes the place of
//! such a Contact. Nothing is done where a proxy asks for the requests
//! (Record-Route), or where the sender's Via names the address that it sends
//! from: then its Contact is meant as it is written.
//!
//! A caller that comes directly over TCP or TLS with a Contact that says no
//! transport would be called back over UDP (RFC 3263 section 4.1), where nobody
//! may listen, here or there: the connection that its request came over is
//! taken for the way back.

use std::net::{IpAddr, SocketAddr};

use crate::core::address::Transport;

/// What a request says about the way back to its sender.
#[derive(Clone, Copy, Debug)]
pub struct WayBack<'a> {
    /// Where the request came from.
    pub source: SocketAddr,
    /// Host of the topmost Via, without port.
    pub via_host: &'a str,
    /// How many hops it came over: its Via headers.
    pub hops: usize,
    /// Whether it carries a Record-Route.
    pub record_routed: bool,
    /// Host of its Contact, without port.
    pub contact_host: &'a str,
    /// The connection that it came over; `None` for a datagram.
    pub connection: Option<Transport>,
    /// Whether its Contact says how it is to be reached: a transport, or `sips:`.
    pub contact_has_transport: bool,
}

impl WayBack<'_> {
    /// The address to put into the Contact; `None` leaves it as it is.
    #[must_use]
    pub fn rewritten_contact(&self) -> Option<SocketAddr> {
        let elsewhere = |host: &str| literal(host).is_some_and(|ip| ip != self.source.ip());
        let behind_nat = elsewhere(self.via_host) && elsewhere(self.contact_host);
        let unreachable = behind_nat || self.missing_transport().is_some();
        (self.is_direct() && unreachable).then_some(self.source)
    }

    /// The transport to put into the Contact; `None` leaves it as it is.
    #[must_use]
    pub fn missing_transport(&self) -> Option<Transport> {
        let missing = self.is_direct() && !self.contact_has_transport;
        self.connection.filter(|_| missing)
    }

    const fn is_direct(&self) -> bool {
        self.hops == 1 && !self.record_routed
    }
}

/// An IP address as SIP writes it; a name is none.
fn literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|host| host.strip_suffix(']'));
    bare.unwrap_or(host).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn behind_nat() -> WayBack<'static> {
        WayBack {
            source: SocketAddr::from(([203, 0, 113, 9], 31_000)),
            via_host: "192.168.1.7",
            hops: 1,
            record_routed: false,
            contact_host: "192.168.1.7",
            connection: None,
            contact_has_transport: false,
        }
    }

    #[test]
    fn a_contact_without_a_transport_means_the_connection_it_came_over() {
        let direct = WayBack {
            via_host: "203.0.113.9",
            contact_host: "203.0.113.9",
            connection: Some(Transport::Tcp),
            ..behind_nat()
        };
        assert_eq!(direct.missing_transport(), Some(Transport::Tcp));
        assert_eq!(direct.rewritten_contact(), Some(direct.source));
        let [mut said, mut datagram, mut routed, mut relayed] = [direct; 4];
        said.contact_has_transport = true;
        datagram.connection = None;
        routed.record_routed = true;
        relayed.hops = 2;
        for other in [said, datagram, routed, relayed] {
            assert_eq!(other.missing_transport(), None, "{other:?}");
            assert_eq!(other.rewritten_contact(), None, "{other:?}");
        }
    }

    #[test]
    fn a_private_contact_from_behind_a_nat_becomes_the_source() {
        let source = behind_nat().source;
        assert_eq!(behind_nat().rewritten_contact(), Some(source));
        let v6 = WayBack {
            via_host: "[fd00::7]",
            contact_host: "[fd00::7]",
            ..behind_nat()
        };
        assert_eq!(v6.rewritten_contact(), Some(source));
    }

    #[test]
    fn a_contact_that_is_meant_stays() {
        let cases = [
            // A trunk that wants what follows at another of its hosts.
            WayBack {
                via_host: "203.0.113.9",
                contact_host: "203.0.113.20",
                ..behind_nat()
            },
            // The phone wrote its public address, as STUN told it.
            WayBack {
                contact_host: "203.0.113.9",
                ..behind_nat()
            },
            WayBack {
                contact_host: "pbx.example.com",
                ..behind_nat()
            },
            WayBack {
                via_host: "pbx.example.com",
                ..behind_nat()
            },
            WayBack {
                record_routed: true,
                ..behind_nat()
            },
            // A proxy that did not ask for the requests of the dialog.
            WayBack {
                hops: 2,
                ..behind_nat()
            },
            WayBack {
                contact_host: "",
                ..behind_nat()
            },
        ];
        for case in cases {
            assert_eq!(case.rewritten_contact(), None, "{case:?}");
        }
    }
}
