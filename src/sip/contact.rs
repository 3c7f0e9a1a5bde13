//! Where requests within a dialog go when the caller is behind a NAT.
//!
//! A phone behind a NAT writes its private address into Via and Contact. RFC
//! 3581 (`rport`) brings our answers back to it, but our own requests in the
//! dialog (BYE, re-INVITE, REFER) go to the Contact, which nobody can reach
//! from here. So the address that its INVITE came from takes the place of
//! such a Contact. Nothing is done where a proxy asks for the requests
//! (Record-Route), or where the sender's Via names the address that it sends
//! from: then its Contact is meant as it is written.

use std::net::{IpAddr, SocketAddr};

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
}

impl WayBack<'_> {
    /// The address to put into the Contact; `None` leaves it as it is.
    #[must_use]
    pub fn rewritten_contact(&self) -> Option<SocketAddr> {
        let direct = self.hops == 1 && !self.record_routed;
        let elsewhere = |host: &str| literal(host).is_some_and(|ip| ip != self.source.ip());
        (direct && elsewhere(self.via_host) && elsewhere(self.contact_host)).then_some(self.source)
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
