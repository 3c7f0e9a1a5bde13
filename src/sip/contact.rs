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
//!
//! Its answer to a request of ours names its Contact anew, and is read the same
//! way. It has no Via of its own: only a private address is taken for one that
//! cannot be reached, and only a Contact at the answer's source for the same host.

use std::net::{IpAddr, SocketAddr};

use crate::core::address::Transport;

/// What a message says about the way back to its sender.
#[derive(Clone, Copy, Debug)]
pub struct WayBack<'a> {
    /// Where the message came from.
    pub source: SocketAddr,
    /// Host of the topmost Via of a request, without port; `None` for a response.
    pub via_host: Option<&'a str>,
    /// Whether no proxy stands between that stays in the dialog: a request of one
    /// Via without a Record-Route, a response without one that no Route led to.
    pub is_direct: bool,
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
        let unreachable = self.is_behind_nat() || self.missing_transport().is_some();
        (self.is_direct && unreachable).then_some(self.source)
    }

    /// The transport to put into the Contact; `None` leaves it as it is.
    #[must_use]
    pub fn missing_transport(&self) -> Option<Transport> {
        let is_sender = self.via_host.is_some()
            || self.is_behind_nat()
            || literal(self.contact_host) == Some(self.source.ip());
        let missing = self.is_direct && is_sender && !self.contact_has_transport;
        self.connection.filter(|_| missing)
    }

    fn is_behind_nat(&self) -> bool {
        let elsewhere = |host: &str| literal(host).filter(|ip| *ip != self.source.ip());
        elsewhere(self.contact_host).is_some_and(|contact| match self.via_host {
            Some(via) => elsewhere(via).is_some(),
            None => is_private(contact) && !is_private(self.source.ip()),
        })
    }
}

/// Whether a response tells its dialog anew where requests go (RFC 3261 section
/// 12.2.1.2; RFC 3262 for PRACK). A 200 to REGISTER lists our own Contacts.
#[must_use]
pub fn refreshes_target(method: &str, status: u16) -> bool {
    names_target(method) && (101..300).contains(&status)
}

/// Whether the Contact of a request of this method, and of its responses, is where
/// the requests of a dialog go.
#[must_use]
pub fn names_target(method: &str) -> bool {
    let methods = ["INVITE", "UPDATE", "SUBSCRIBE", "NOTIFY", "REFER"];
    methods.iter().any(|own| own.eq_ignore_ascii_case(method))
}

/// Whether an address means another host behind each NAT (RFC 1918, RFC 6598,
/// RFC 4193).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [first, second, ..] = ip.octets();
            ip.is_private() || (first == 100 && (64..128).contains(&second))
        }
        IpAddr::V6(ip) => ip.is_unique_local(),
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
            via_host: Some("192.168.1.7"),
            is_direct: true,
            contact_host: "192.168.1.7",
            connection: None,
            contact_has_transport: false,
        }
    }

    #[test]
    fn a_contact_without_a_transport_means_the_connection_it_came_over() {
        let direct = WayBack {
            via_host: Some("203.0.113.9"),
            contact_host: "203.0.113.9",
            connection: Some(Transport::Tcp),
            ..behind_nat()
        };
        assert_eq!(direct.missing_transport(), Some(Transport::Tcp));
        assert_eq!(direct.rewritten_contact(), Some(direct.source));
        let [mut said, mut datagram, mut relayed] = [direct; 3];
        said.contact_has_transport = true;
        datagram.connection = None;
        relayed.is_direct = false;
        for other in [said, datagram, relayed] {
            assert_eq!(other.missing_transport(), None, "{other:?}");
            assert_eq!(other.rewritten_contact(), None, "{other:?}");
        }
    }

    #[test]
    fn a_private_contact_from_behind_a_nat_becomes_the_source() {
        let source = behind_nat().source;
        assert_eq!(behind_nat().rewritten_contact(), Some(source));
        let v6 = WayBack {
            via_host: Some("[fd00::7]"),
            contact_host: "[fd00::7]",
            ..behind_nat()
        };
        assert_eq!(v6.rewritten_contact(), Some(source));
    }

    #[test]
    fn the_contact_of_an_answer_is_read_without_a_via() {
        let answer = WayBack {
            via_host: None,
            connection: Some(Transport::Tls),
            ..behind_nat()
        };
        let here = WayBack {
            contact_host: "203.0.113.9",
            ..answer
        };
        for unreachable in [answer, here] {
            assert_eq!(unreachable.rewritten_contact(), Some(answer.source));
            assert_eq!(unreachable.missing_transport(), Some(Transport::Tls));
        }
        // A trunk moves a call to another of its hosts, or has a name; the other
        // network is ours, too; a proxy stands between.
        let [mut moved, mut named, mut inside, mut relayed] = [answer; 4];
        moved.contact_host = "203.0.113.20";
        named.contact_host = "pbx.example.com";
        inside.source = SocketAddr::from(([10, 0, 0, 9], 5060));
        relayed.is_direct = false;
        for meant in [moved, named, inside, relayed] {
            assert_eq!(meant.rewritten_contact(), None, "{meant:?}");
            assert_eq!(meant.missing_transport(), None, "{meant:?}");
        }
    }

    #[test]
    fn only_answers_that_a_dialog_reads_are_read() {
        for (method, status) in [("INVITE", 183), ("INVITE", 200), ("update", 200)] {
            assert!(refreshes_target(method, status), "{method} {status}");
        }
        for (method, status) in [
            ("REGISTER", 200),
            ("OPTIONS", 200),
            ("INVITE", 100),
            ("INVITE", 302),
        ] {
            assert!(!refreshes_target(method, status), "{method} {status}");
        }
    }

    #[test]
    fn a_contact_that_is_meant_stays() {
        let cases = [
            // A trunk that wants what follows at another of its hosts.
            WayBack {
                via_host: Some("203.0.113.9"),
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
                via_host: Some("pbx.example.com"),
                ..behind_nat()
            },
            WayBack {
                is_direct: false,
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
