//! Where requests may go whose address a client of ours wrote: a call's own
//! `callbackUrl` and `wsTarget`, and what TwiML of a client names.
//!
//! Such an address must not become a way into the bridge's own machine and network
//! (server-side request forgery): cloud metadata at 169.254.169.254, Redis on loopback, devices in
//! the office. So only addresses that are public on the internet are reached, and what the
//! operator allows. What counts is the resolved address, at the moment of connecting.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::access::Cidr;

/// Who wrote an address that the bridge asks or dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WrittenBy {
    /// The operator: his flags, his lines, and the documents that those webhooks answer.
    Operator,
    /// A client of ours: it leads only where [`Outward`] permits, and what goes to hosts that are not the
    /// operator's is not signed.
    Client,
}

/// What the operator allows beyond public addresses, and which hosts are his.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outward {
    /// `--allow-callback`.
    pub allowed: Vec<Cidr>,
    /// Hosts of the operator's own URLs, in lower case: what goes there is signed.
    pub own_hosts: Vec<String>,
}

impl Outward {
    /// Whether a client's address may be connected to.
    #[must_use]
    pub fn may_reach(&self, address: IpAddr) -> bool {
        is_public(address) || self.allowed.iter().any(|network| network.contains(address))
    }

    /// Whether requests to this host are signed: the signature's key is the operator's, and what
    /// it signs is believed by all his receivers.
    #[must_use]
    pub fn may_sign(&self, host: &str) -> bool {
        let host = bare(host);
        self.own_hosts
            .iter()
            .any(|own| bare(own).eq_ignore_ascii_case(host))
    }
}

/// A host name without the root's dot.
fn bare(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// Whether an address is one of the public internet, for one host: neither
/// special (IANA's registries of special-purpose addresses, RFC 6890) nor multicast. Addresses
/// that stand for one of IPv4 are judged by that.
#[must_use]
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => is_public_v4(address),
        IpAddr::V6(address) => is_public_v6(address),
    }
}

fn is_public_v4(address: Ipv4Addr) -> bool {
    !matches!(
        address.octets(),
        [0 | 10 | 127, ..] // this network, private, loopback
            | [100, 64..=127, ..] // carrier-grade NAT
            | [169, 254, ..] // link-local: metadata of clouds
            | [172, 16..=31, ..] // private
            | [192, 0, 0 | 2, _] // protocols, documentation
            | [192, 88, 99, _] // 6to4 relays
            | [192, 168, ..] // private
            | [198, 18..=19, ..] // benchmarks
            | [198, 51, 100, _] // documentation
            | [203, 0, 113, _] // documentation
            | [224..=255, ..] // multicast, reserved, broadcast
    )
}

fn is_public_v6(address: Ipv6Addr) -> bool {
    let segments = address.segments();
    let v4 =
        |high: u16, low: u16| is_public_v4(Ipv4Addr::from(u32::from(high) << 16 | u32::from(low)));
    match segments {
        // Mapped IPv4.
        [0, 0, 0, 0, 0, 0xffff, high, low] => v4(high, low),
        // NAT64 (RFC 6052).
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => v4(high, low),
        // 6to4 (RFC 3056).
        [0x2002, high, low, ..] => v4(high, low),
        // Protocols, among them Teredo; documentation.
        [0x2001, 0..=0x1ff, ..] | [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => false,
        // Global unicast is what begins with the bits 001; all else is unspecified, loopback,
        // unique local, link-local, multicast, or nobody's.
        [first, ..] => first >> 13 == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_public_internet_are_public() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.0.1",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "223.255.255.254",
            "2606:4700::1111",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::808:808",
            "2002:808:808::1",
            "2001:200::1",
        ] {
            assert!(is_public(text.parse().unwrap()), "{text}");
        }
        for text in [
            "0.0.0.0",
            "0.1.2.3",
            "10.1.2.3",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::7f00:1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:127.0.0.1",
            "64:ff9b::7f00:1",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::808:808",
            "2002:7f00:1::",
            "2002:c0a8:101::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd12::1",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "4000::1",
        ] {
            assert!(!is_public(text.parse().unwrap()), "{text}");
        }
    }

    #[test]
    fn the_operator_allows_networks_and_signs_for_his_hosts() {
        let outward = Outward {
            allowed: vec!["127.0.0.0/8".parse().unwrap(), "fd00::/8".parse().unwrap()],
            own_hosts: vec!["hooks.example.com".into(), "10.0.0.5".into()],
        };
        for (address, may) in [
            ("127.0.0.1", true),
            ("::ffff:127.0.0.1", true),
            ("fd00::5", true),
            ("8.8.8.8", true),
            ("10.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(
                outward.may_reach(address.parse().unwrap()),
                may,
                "{address}"
            );
        }
        for (host, may) in [
            ("hooks.example.com", true),
            ("Hooks.Example.com.", true),
            ("10.0.0.5", true),
            ("evil.hooks.example.com", false),
            ("example.com", false),
            ("", false),
        ] {
            assert_eq!(outward.may_sign(host), may, "{host}");
        }
    }
}
