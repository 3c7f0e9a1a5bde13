//! Servers are located by RFC 3263, against a name server of our own on the
//! wire: SRV, A, AAAA, search list, hosts file, a changed resolv.conf, name
//! servers that are away.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a broken expectation is a failure"
)]

#[path = "lib/name_server.rs"]
mod name_server;

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, Instant};

use name_server::{NameServer, Record};
use sipbridge::core::address::Transport;
use sipbridge::dns::{Files, LocateError, Servers, Target};
use tempfile::TempDir;

const V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 7);

fn files(folder: &Path, server: &NameServer, more: &str, hosts: &str) -> Files {
    let files = Files {
        resolv_conf: server.resolv_conf(folder, more),
        hosts: folder.join("hosts"),
    };
    std::fs::write(&files.hosts, hosts).unwrap();
    files
}

fn target(server: &str) -> Target {
    Target::parse(server, Transport::Udp).unwrap()
}

fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

async fn find(servers: &Servers, server: &str) -> Result<Vec<SocketAddr>, LocateError> {
    servers.find(&target(server)).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn srv_names_the_servers_and_a_port_or_no_srv_leads_to_the_host_itself() {
    let server = NameServer::start(
        60,
        &[
            (
                "_sip._udp.trunk.example",
                Record::Srv(20, 0, 5070, "b.trunk.example"),
            ),
            (
                "_sip._udp.trunk.example",
                Record::Srv(10, 0, 5080, "a.trunk.example"),
            ),
            ("_sip._tcp.trunk.example", Record::Srv(0, 0, 0, ".")),
            ("a.trunk.example", Record::A([10, 0, 0, 1])),
            ("a.trunk.example", Record::Aaaa(V6)),
            ("b.trunk.example", Record::A([10, 0, 0, 2])),
            ("trunk.example", Record::A([10, 0, 0, 9])),
            ("plain.example", Record::A([10, 0, 0, 3])),
        ],
    );
    let dir = TempDir::new().unwrap();
    let servers = Servers::start(files(dir.path(), &server, "", "")).unwrap();

    let located = find(&servers, "Trunk.example").await.unwrap();
    let expected = addresses(&["10.0.0.1:5080", "[2001:db8::7]:5080", "10.0.0.2:5070"]);
    assert_eq!(located, expected);
    let by_port = find(&servers, "trunk.example:5099").await.unwrap();
    assert_eq!(by_port, addresses(&["10.0.0.9:5099"]));
    let plain = find(&servers, "plain.example").await.unwrap();
    assert_eq!(plain, addresses(&["10.0.0.3:5060"]));
    let tcp = Target::parse("trunk.example", Transport::Tcp).unwrap();
    assert_eq!(servers.find(&tcp).await, Err(LocateError::NotOffered));
    assert_eq!(
        find(&servers, "no.example").await,
        Err(LocateError::NoAddress)
    );
    assert_eq!(
        find(&servers, "[::1]:5070").await.unwrap(),
        addresses(&["[::1]:5070"])
    );

    // What is known is there without waiting, and a failure is tried last.
    let failed = expected[0];
    assert!(servers.note_failure(failed));
    let known = servers.known(&target("trunk.example")).unwrap();
    assert_eq!(known, [&expected[1..], &[failed]].concat());
    servers.note_answer(failed);
    assert_eq!(servers.known(&target("trunk.example")), Some(expected));
}

#[tokio::test]
async fn short_names_are_searched_and_the_hosts_file_goes_first() {
    let server = NameServer::start_on(
        "[::1]:0".parse().unwrap(),
        60,
        &[
            ("sbc.corp.example", Record::A([10, 0, 1, 1])),
            ("deep.name", Record::A([10, 0, 1, 2])),
            ("deep.name.corp.example", Record::A([10, 0, 1, 3])),
            ("pbx.example", Record::A([10, 0, 1, 4])),
        ],
    );
    let dir = TempDir::new().unwrap();
    let hosts = "10.0.2.1 pbx.example\n10.0.2.2 localname\n";
    let more = "search other.example corp.example\noptions ndots:2\n";
    let servers = Servers::start(files(dir.path(), &server, more, hosts)).unwrap();
    for (name, found) in [
        ("sbc:5060", "10.0.1.1:5060"),
        // One dot is less than ndots: with a search domain first.
        ("deep.name:5060", "10.0.1.3:5060"),
        ("pbx.example", "10.0.2.1:5060"),
        ("localname:5071", "10.0.2.2:5071"),
    ] {
        assert_eq!(
            find(&servers, name).await.unwrap(),
            addresses(&[found]),
            "{name}"
        );
    }
    assert_eq!(server.asked("pbx.example"), 0);
}

#[tokio::test]
async fn the_servers_of_lines_are_kept_fresh_and_forgotten_with_them() {
    let old: IpAddr = [10, 0, 3, 1].into();
    let new: IpAddr = [10, 0, 3, 2].into();
    let server = NameServer::start(1, &[("moving.example", Record::A([10, 0, 3, 1]))]);
    let dir = TempDir::new().unwrap();
    let servers = Servers::start(files(dir.path(), &server, "", "")).unwrap();
    let moving = target("moving.example");
    let first = servers.watch(&moving);
    let second = servers.watch(&moving);
    let numeric = servers.watch(&target("10.0.9.9"));
    assert!(servers.contains([10, 0, 9, 9].into()) && numeric.contains([10, 0, 9, 9].into()));
    until("located", || servers.contains(old)).await;
    assert_eq!(first.addresses(), [old]);

    // No answer: what was known stays.
    server.fall_silent(true);
    let srv = "_sip._udp.moving.example";
    let asked = server.asked(srv);
    until("asked again", || server.asked(srv) > asked).await;
    server.set(&[("moving.example", Record::A([10, 0, 3, 2]))]);
    assert!(servers.contains(old) && servers.known(&moving).is_some());
    server.fall_silent(false);
    until("moved", || servers.addresses(&moving) == [new]).await;
    assert!(!servers.contains(old) && second.contains(new));

    drop(first);
    assert!(servers.contains(new));
    drop(second);
    assert!(!servers.contains(new) && servers.contains([10, 0, 9, 9].into()));
}

#[tokio::test]
async fn a_changed_resolv_conf_is_noticed() {
    let before = NameServer::start(300, &[("a.example", Record::A([10, 0, 4, 1]))]);
    let after = NameServer::start(300, &[("a.example", Record::A([10, 0, 4, 2]))]);
    let dir = TempDir::new().unwrap();
    let servers = Servers::start(files(dir.path(), &before, "", "")).unwrap();
    let line = servers.watch(&target("a.example"));
    until("located", || line.contains([10, 0, 4, 1].into())).await;
    after.resolv_conf(dir.path(), "# other\n");
    until("asked elsewhere", || line.contains([10, 0, 4, 2].into())).await;
}
