//! Where names are looked up. pjsip resolves on its own, without blocking and
//! with SRV records (RFC 3263), once it is told of name servers; without them
//! it would call the system's resolver and stall every call meanwhile. Its own
//! resolver does not read the hosts file, so servers named there are given to
//! it as addresses.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

/// Most name servers that pjsua takes.
const SERVERS_MAX: usize = 4;

/// What the system's files say.
#[derive(Debug, Default)]
pub struct Names {
    /// Name servers, IPv4 as pjsip wants them.
    pub servers: Vec<Ipv4Addr>,
    hosts: HashMap<String, IpAddr>,
}

impl Names {
    /// Reads the system's files; a missing one is an empty one.
    pub fn read() -> Self {
        let file = |path| std::fs::read_to_string(path).unwrap_or_default();
        Self::parse(&file("/etc/resolv.conf"), &file("/etc/hosts"))
    }

    fn parse(resolv_conf: &str, hosts: &str) -> Self {
        let servers = resolv_conf
            .lines()
            .filter_map(|line| line.trim().strip_prefix("nameserver")?.trim().parse().ok())
            .take(SERVERS_MAX)
            .collect();
        let mut names = Self {
            servers,
            hosts: HashMap::new(),
        };
        for line in hosts.lines() {
            let mut words = line
                .split('#')
                .next()
                .unwrap_or_default()
                .split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else {
                continue;
            };
            for name in words {
                // The first line for a name counts, but IPv4 goes first.
                let entry = names
                    .hosts
                    .entry(name.to_ascii_lowercase())
                    .or_insert(address);
                if address.is_ipv4() && entry.is_ipv6() {
                    *entry = address;
                }
            }
        }
        names
    }

    /// `host` or `host:port` with the address in place of a name of the hosts
    /// file.
    pub fn resolve_local(&self, server: &str) -> String {
        let (host, port) = match server.rsplit_once(':') {
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, Some(port))
            }
            _ => (server, None),
        };
        let address = match self.hosts.get(&host.to_ascii_lowercase()) {
            Some(IpAddr::V4(address)) => address.to_string(),
            Some(IpAddr::V6(address)) => format!("[{address}]"),
            None => return server.to_owned(),
        };
        port.map_or(address.clone(), |port| format!("{address}:{port}"))
    }
}

/// Whether ICE would find an address to offer: pjnath leaves loopback out, and
/// without any candidate it refuses every call.
pub fn has_ice_candidate(bind: IpAddr) -> bool {
    if bind.is_loopback() {
        return false;
    }
    if !bind.is_unspecified() {
        return true;
    }
    // Connecting a UDP socket sends nothing; it only asks for the route. The
    // address is reserved for documentation (RFC 5737).
    UdpSocket::bind((bind, 0))
        .and_then(|socket| {
            socket.connect(("192.0.2.1", 9))?;
            socket.local_addr()
        })
        .is_ok_and(|address| !address.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_files_are_read_as_they_are_written() {
        let names = Names::parse(
            "# x\nsearch lan\nnameserver 10.0.0.1\nnameserver fe80::1\n nameserver\t10.0.0.2 \n",
            "::1 localhost ip6-localhost\n127.0.0.1\tlocalhost # here\n10.0.0.7 SBC.lan sbc\nbad line\n",
        );
        assert_eq!(
            names.servers,
            [Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2)]
        );
        assert_eq!(names.resolve_local("localhost:5070"), "127.0.0.1:5070");
        assert_eq!(names.resolve_local("sbc.LAN"), "10.0.0.7");
        assert_eq!(names.resolve_local("ip6-localhost"), "[::1]");
        assert_eq!(
            names.resolve_local("sip.example.org:5060"),
            "sip.example.org:5060"
        );
        assert_eq!(names.resolve_local("10.0.0.9"), "10.0.0.9");
    }

    #[test]
    fn loopback_alone_is_no_ice_candidate() {
        assert!(!has_ice_candidate(IpAddr::from([127, 0, 0, 1])));
        assert!(has_ice_candidate(IpAddr::from([10, 0, 0, 1])));
    }
}
