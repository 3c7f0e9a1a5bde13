//! `resolv.conf` and the hosts file as text: what they say, read as the C
//! library reads them. Reads no files itself.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// Most name servers that are used; the C library takes three.
const NAME_SERVERS_MAX: usize = 8;
/// Most search domains that are used.
const SEARCH_MAX: usize = 8;
/// Most addresses of one name of the hosts file.
const HOST_ADDRESSES_MAX: usize = 16;
/// The port of a name server.
const DNS_PORT: u16 = 53;
/// Highest `ndots`, as in the C library.
const NDOTS_MAX: usize = 15;
/// The longest wait for one answer; a call waits for it.
const TIMEOUT_MAX_S: u64 = 5;
/// Most tries.
const ATTEMPTS_MAX: usize = 5;

/// A name server. The scope of a link-local address is a name or a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NameServer {
    /// Its address and port.
    pub address: SocketAddr,
    /// What stands after `%` in the address of an interface's own network.
    pub scope: Option<String>,
}

/// What `resolv.conf` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResolvConf {
    /// In the order they are asked; the local one where none is written.
    pub name_servers: Vec<NameServer>,
    /// Domains that are tried behind a short name.
    pub search: Vec<String>,
    /// So many dots make a name one that is first tried as it is.
    pub ndots: usize,
    /// How long one name server may take.
    pub timeout: Duration,
    /// How often each is asked.
    pub attempts: usize,
    /// Whether the servers take turns.
    pub rotate: bool,
}

impl ResolvConf {
    /// Reads the file's text. What it does not know is left out, as the C
    /// library does it. A port may be written behind an address, `127.0.0.1:5353`
    /// or `[::1]:5353`, which the C library does not know.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut conf = Self {
            name_servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(TIMEOUT_MAX_S),
            attempts: 2,
            rotate: false,
        };
        for line in text.lines() {
            let line = line.split(['#', ';']).next().unwrap_or_default();
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(name_server);
                    let has_room = conf.name_servers.len() < NAME_SERVERS_MAX;
                    conf.name_servers.extend(server.filter(|_| has_room));
                }
                // The last one counts, whichever of the two it is.
                Some("search") => {
                    conf.search = words.take(SEARCH_MAX).map(str::to_owned).collect();
                }
                Some("domain") => conf.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| conf.set(word)),
                _ => {}
            }
        }
        if conf.name_servers.is_empty() {
            conf.name_servers.extend(name_server("127.0.0.1"));
        }
        conf
    }

    fn set(&mut self, option: &str) {
        let (name, value) = option.split_once(':').unwrap_or((option, ""));
        let number = value.parse::<u64>().ok();
        let small = number.and_then(|number| usize::try_from(number).ok());
        match (name, number, small) {
            ("ndots", _, Some(ndots)) => self.ndots = ndots.min(NDOTS_MAX),
            ("timeout", Some(seconds), _) => {
                self.timeout = Duration::from_secs(seconds.clamp(1, TIMEOUT_MAX_S));
            }
            ("attempts", _, Some(attempts)) => self.attempts = attempts.clamp(1, ATTEMPTS_MAX),
            ("rotate", ..) => self.rotate = true,
            _ => {}
        }
    }
}

fn name_server(text: &str) -> Option<NameServer> {
    if let Ok(address) = text.parse::<SocketAddr>() {
        let scope = None;
        return Some(NameServer { address, scope });
    }
    let (address, scope) = match text.split_once('%') {
        Some((address, scope)) => (address, Some(scope)),
        None => (text, None),
    };
    let address = match (address.parse().ok()?, scope) {
        (IpAddr::V4(_), Some(_)) => return None,
        (IpAddr::V6(ip), Some(scope)) => scoped(ip, scope),
        (ip, None) => SocketAddr::new(ip, DNS_PORT),
    };
    Some(NameServer {
        address,
        scope: scope.map(str::to_owned),
    })
}

/// The number of a scope that is written as a name is the caller's to find.
fn scoped(ip: Ipv6Addr, scope: &str) -> SocketAddr {
    SocketAddrV6::new(ip, DNS_PORT, 0, scope.parse().unwrap_or(0)).into()
}

/// What the hosts file says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Hosts(HashMap<String, Vec<IpAddr>>);

impl Hosts {
    /// Reads the file's text; a line that makes no sense is left out.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut hosts: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default();
            let mut words = line.split_whitespace();
            let Some(address) = words.next().and_then(|word| word.parse().ok()) else {
                continue;
            };
            for name in words {
                let addresses = hosts.entry(plain(name)).or_default();
                if addresses.len() < HOST_ADDRESSES_MAX && !addresses.contains(&address) {
                    addresses.push(address);
                }
            }
        }
        // IPv4 first, as a bridge on one IPv4 address needs it.
        hosts
            .values_mut()
            .for_each(|addresses| addresses.sort_by_key(IpAddr::is_ipv6));
        Self(hosts)
    }

    /// The addresses of a name; none where the file does not know it.
    #[must_use]
    pub fn get(&self, name: &str) -> &[IpAddr] {
        self.0.get(&plain(name)).map_or(&[], Vec::as_slice)
    }
}

fn plain(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn resolv_conf_is_read_as_the_c_library_reads_it() {
        let conf = ResolvConf::parse(
            "# x\ndomain first.example\nsearch lan corp.example ; y\nnameserver 10.0.0.1\n\
             nameserver 2001:db8::53\n nameserver\t10.0.0.2 # z\nnameserver bad\n\
             nameserver fe80::1%7\nnameserver [::1]:5353\nnameserver 127.0.0.1:5354\n\
             options ndots:3 timeout:1 attempts:9 rotate edns0\noptions timeout:600\n",
        );
        let servers: Vec<String> = conf
            .name_servers
            .iter()
            .map(|server| server.address.to_string())
            .collect();
        assert_eq!(
            servers,
            [
                "10.0.0.1:53",
                "[2001:db8::53]:53",
                "10.0.0.2:53",
                "[fe80::1%7]:53",
                "[::1]:5353",
                "127.0.0.1:5354"
            ]
        );
        assert_eq!(conf.search, ["lan", "corp.example"]);
        assert_eq!((conf.ndots, conf.attempts, conf.rotate), (3, 5, true));
        assert_eq!(conf.timeout, Duration::from_secs(TIMEOUT_MAX_S));
        let named = ResolvConf::parse("nameserver fe80::1%eth0");
        assert_eq!(named.name_servers[0].scope.as_deref(), Some("eth0"));
    }

    #[test]
    fn without_a_name_server_the_local_one_is_asked() {
        let conf = ResolvConf::parse("domain example.org\n");
        assert_eq!(conf.name_servers[0].address.to_string(), "127.0.0.1:53");
        assert_eq!((conf.ndots, conf.search.len()), (1, 1));
    }

    #[test]
    fn a_name_of_the_hosts_file_has_all_its_addresses() {
        let hosts = Hosts::parse(
            "::1 localhost ip6-localhost\n127.0.0.1\tlocalhost # here\n10.0.0.7 SBC.lan sbc\nbad line\n",
        );
        let localhost: [IpAddr; 2] = [[127, 0, 0, 1].into(), Ipv6Addr::LOCALHOST.into()];
        assert_eq!(hosts.get("Localhost."), localhost);
        assert_eq!(hosts.get("sbc.LAN"), [IpAddr::from([10, 0, 0, 7])]);
        assert!(hosts.get("here").is_empty() && hosts.get("line").is_empty());
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "((nameserver|options|search|::1) )?\\PC{0,40}") {
            prop_assert!(!ResolvConf::parse(&text).name_servers.is_empty());
            let _ = Hosts::parse(&text);
        }
    }
}
