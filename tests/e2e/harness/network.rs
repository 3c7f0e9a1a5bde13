//! A network of its own behind a NAT, in two network namespaces: a phone's
//! sockets are in the inner one, and the bridge sees the address and the ports
//! of the outer one. Needs root, as CI has; gone when dropped.
//!
//! ```text
//! bridge 10.x.y.1 ── 10.x.y.2 [router: NAT] 192.168.77.1 ── 192.168.77.2 phone
//! ```

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};

use rand::RngExt;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::net::UdpSocket;

/// Address of the phone in its own network.
pub const PHONE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);

/// A phone's network and the router in front of it.
pub struct BehindNat {
    /// The address of this machine that the router reaches: the bridge's.
    pub bridge: IpAddr,
    /// The router's outer address: all that the bridge sees of the phone.
    pub router: IpAddr,
    phone_space: String,
    router_space: String,
    link: String,
}

impl BehindNat {
    /// Builds the two networks; `None`, with a word on why, where this machine
    /// does not permit that.
    pub fn build() -> Option<Self> {
        let tag: u16 = rand::rng().random_range(0..65_000);
        let [high, low] = tag.to_be_bytes();
        let network = Self {
            bridge: IpAddr::from([10, 200 + high % 50, low, 1]),
            router: IpAddr::from([10, 200 + high % 50, low, 2]),
            phone_space: format!("sb-phone-{tag}"),
            router_space: format!("sb-nat-{tag}"),
            link: format!("sbn{tag}"),
        };
        if !network.can_add_spaces() {
            println!("not run: network namespaces and nft need root");
            return None;
        }
        network.connect();
        Some(network)
    }

    fn can_add_spaces(&self) -> bool {
        [&self.router_space, &self.phone_space]
            .iter()
            .all(|space| run("ip", &["netns", "add", space]))
    }

    fn connect(&self) {
        let (router, phone, link) = (&self.router_space, &self.phone_space, &self.link);
        let outer = format!("{}/30", self.bridge);
        let inner = format!("{}/30", self.router);
        let script = format!(
            "set -e
             ip link add {link} type veth peer name outer netns {router}
             ip addr add {outer} dev {link}
             ip link set {link} up
             ip -n {router} addr add {inner} dev outer
             ip -n {router} link set outer up
             ip -n {router} link add inner type veth peer name eth netns {phone}
             ip -n {router} addr add 192.168.77.1/24 dev inner
             ip -n {router} link set inner up
             ip -n {phone} addr add {PHONE}/24 dev eth
             ip -n {phone} link set eth up
             ip -n {phone} route add default via 192.168.77.1
             ip netns exec {router} sh -c 'echo 1 > /proc/sys/net/ipv4/ip_forward'
             ip netns exec {router} nft add table ip nat
             ip netns exec {router} nft 'add chain ip nat out {{ type nat hook postrouting priority 100; }}'
             ip netns exec {router} nft 'add rule ip nat out oifname outer meta l4proto udp masquerade to :40000-45000'"
        );
        let built = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(
            built.status.success(),
            "{}",
            String::from_utf8_lossy(&built.stderr)
        );
    }

    /// A TCP listener of the router, towards the bridge.
    pub fn router_listener(&self) -> std::net::TcpListener {
        let space = File::open(format!("/run/netns/{}", self.router_space)).unwrap();
        let address = SocketAddr::new(self.router, 0);
        let opened = std::thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            std::net::TcpListener::bind(address).unwrap()
        });
        opened.join().unwrap()
    }

    /// The router takes no packet any more, and says nothing of it.
    pub fn cut_router(&self) {
        let rules = "add table ip cut; add chain ip cut deaf { type filter hook input priority 0; policy drop; }";
        self.on_router(&["nft", rules]);
    }

    /// It takes them again.
    pub fn mend_router(&self) {
        self.on_router(&["nft", "delete table ip cut"]);
    }

    fn on_router(&self, command: &[&str]) {
        let arguments = [&["netns", "exec", &self.router_space], command].concat();
        assert!(run("ip", &arguments), "{command:?}");
    }

    /// A UDP socket of the phone.
    pub async fn socket(&self) -> UdpSocket {
        let space = File::open(format!("/run/netns/{}", self.phone_space)).unwrap();
        // A thread of its own moves there and ends; the socket stays there.
        let opened = std::thread::spawn(move || {
            move_into_link_name_space(space.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            std::net::UdpSocket::bind(SocketAddr::from((PHONE, 0))).unwrap()
        });
        let socket = opened.join().unwrap();
        socket.set_nonblocking(true).unwrap();
        UdpSocket::from_std(socket).unwrap()
    }
}

impl Drop for BehindNat {
    fn drop(&mut self) {
        run("ip", &["link", "del", &self.link]);
        for space in [&self.phone_space, &self.router_space] {
            run("ip", &["netns", "del", space]);
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> bool {
    let status = Command::new(program)
        .args(arguments)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    status.is_ok_and(|status| status.success())
}
