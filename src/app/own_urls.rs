//! Where others reach this bridge. Workers of the queue dial `--stream-url`, else `ws://` with
//! our address and `--stream-port`; other bridges ask the API at `--api-bind` and its port.
//!
//! Which address is ours is guessed only where `--bind` or `--api-bind` leaves it open: the
//! one that packets to Redis leave from, since workers and bridges read the same Redis.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs, UdpSocket};

use crate::config::{Config, QueueSettings, ServiceUrl};

/// The base of every job's `audioStreamUrl`, without a slash at its end.
/// `port` is the port that is really bound. Blocks for a DNS look-up of the
/// Redis host at most.
#[must_use]
pub fn stream_base_url(config: &Config, queue: &QueueSettings, port: u16) -> String {
    if let Some(url) = &queue.stream_url {
        return url.clone();
    }
    let ip = own_address(config.network.bind, config, queue);
    format!("ws://{}", SocketAddr::new(ip, port))
}

/// Where other bridges ask the API, without a slash at its end. `bound` is what it really listens on. Blocks as
/// [`stream_base_url`] does.
#[must_use]
pub fn api_base_url(config: &Config, queue: &QueueSettings, bound: SocketAddr) -> String {
    let ip = own_address(bound.ip(), config, queue);
    let scheme = match config.api_tls {
        Some(_) => "https",
        None => "http",
    };
    format!("{scheme}://{}", SocketAddr::new(ip, bound.port()))
}

/// The address that is bound, or the one of ours that is towards Redis.
fn own_address(bound: IpAddr, config: &Config, queue: &QueueSettings) -> IpAddr {
    if !bound.is_unspecified() {
        return bound;
    }
    address_towards(&queue.redis_url)
        .or(config.network.public_address)
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

/// Connecting a UDP socket chooses a route and sends nothing.
fn address_towards(url: &ServiceUrl) -> Option<IpAddr> {
    let host = url.host().trim_matches(['[', ']']);
    let port = url.port().unwrap_or(6379);
    let target = (host, port).to_socket_addrs().ok()?.next()?;
    let any: IpAddr = match target {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).ok()?;
    socket.connect(target).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{RawArgs, validate};

    fn base(pairs: &[(&'static str, &str)]) -> String {
        let least = [
            ("sip-domain", "sip.example.com"),
            ("sip-username", "u"),
            ("redis-url", "redis://127.0.0.1:6379"),
        ];
        let config = validate(RawArgs::from_pairs(&[&least[..], pairs].concat())).config;
        let queue = config.queue.clone().expect("Redis is given");
        stream_base_url(&config, &queue, 8081)
    }

    #[test]
    fn the_given_url_wins_then_the_bound_address_then_the_one_towards_redis() {
        let given = base(&[("stream-url", "wss://bridge.example.com/sip/")]);
        assert_eq!(given, "wss://bridge.example.com/sip");
        assert_eq!(base(&[("bind", "192.0.2.5")]), "ws://192.0.2.5:8081");
        assert_eq!(base(&[("bind", "2001:db8::5")]), "ws://[2001:db8::5]:8081");
        assert_eq!(base(&[]), "ws://127.0.0.1:8081");
    }

    #[test]
    fn the_api_is_where_it_listens_or_towards_redis() {
        let given = [
            ("sip-domain", "sip.example.com"),
            ("sip-username", "u"),
            ("redis-url", "redis://127.0.0.1:6379"),
        ];
        let config = validate(RawArgs::from_pairs(&given)).config;
        let queue = config.queue.clone().expect("Redis is given");
        for (bound, url) in [
            ("192.0.2.5:8080", "http://192.0.2.5:8080"),
            ("[2001:db8::5]:80", "http://[2001:db8::5]:80"),
            ("0.0.0.0:8080", "http://127.0.0.1:8080"),
        ] {
            let bound = bound.parse().expect("an address");
            assert_eq!(api_base_url(&config, &queue, bound), url);
        }
        let file = "/proc/version";
        let tls = [("api-tls-cert", file), ("api-tls-key", file)];
        let config = validate(RawArgs::from_pairs(&[&given[..], &tls].concat())).config;
        let bound = "192.0.2.5:8443".parse().expect("an address");
        let url = api_base_url(&config, &queue, bound);
        assert_eq!(url, "https://192.0.2.5:8443");
    }
}
