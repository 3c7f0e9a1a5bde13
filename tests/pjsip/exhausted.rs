//! Nothing left: no RTP port, no file descriptor, no call id. New calls are
//! refused with 503 and Retry-After, calls in progress do not notice, and when
//! there is room again calls are taken again.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sipbridge::core::media_link::MediaLink;
use sipbridge::sip::engine::{CallRefused, Command, EndedBy, IncomingCall, SipEngine};

use crate::outgoing::{call, reply, trunk};
use crate::peer::{PATIENCE, Peer};
use crate::stage::{
    CALLS_MAX, Stage, bye, ended, eventually, fresh_stage, packet, rtp_ports, stage, take_log, up,
};

/// A caller who comes now gets 503 with Retry-After, and is counted.
pub fn refused(stage: &Stage, peer: &Peer) {
    let before = stage.engine.stats();
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let refusal = dialog.response(503);
    dialog.ack_refusal(&refusal);
    assert_eq!(refusal.header("retry-after"), Some("5"));
    eventually("the refusal is counted", || {
        stage.engine.stats().refused == before.refused + 1
    });
    assert_eq!(stage.engine.stats().legs, before.legs);
}

/// What the log says of calls without room: at most once why, and no error of
/// pjsip for each of them.
pub fn said_rarely(log: &str) {
    let mut said: Vec<_> = log
        .lines()
        .filter_map(|line| line.split_once("calls are refused")?.1.split_once("why="))
        .map(|(_, why)| why)
        .collect();
    let count = said.len();
    said.sort_unstable();
    said.dedup();
    assert_eq!(said.len(), count, "{log}");
    assert!(!log.contains("ERROR"), "{log}");
}

/// Audio of a call in progress, both ways.
fn is_well(peer: &Peer, call: &mut IncomingCall, link: &MediaLink, bridge: SocketAddr, at: u16) {
    let sent = Peer::rtp_packet(0, at, 1);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(call).bytes, *sent);
    let back = Peer::rtp_packet(0, at, 2);
    link.sink.send(&back).expect("the sink is open");
    let mut buffer = [0; 2_000];
    peer.rtp
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let length = peer.rtp.recv_from(&mut buffer).expect("RTP back").0;
    assert_eq!(buffer[..length], back);
}

/// Callers and calls of ours while there is no room, and after.
fn goes_without_room(stage: &mut Stage, line: &str, take_room: impl FnOnce() -> Vec<Room>) {
    let peers: Vec<Peer> = (0..4).map(|_| stage.peer()).collect();
    let callee = trunk(stage, line);
    let (mut dialog, mut call_up, link, bridge) = up(stage, &peers[0], &peers[0].usual_sdp());
    let taken = take_room();
    take_log();
    for (peer, at) in peers[1..].iter().zip(1..) {
        refused(stage, peer);
        is_well(&peers[0], &mut call_up, &link, bridge, at);
    }
    let ours = reply(call(stage, line, "+33800"));
    assert_eq!(ours.expect_err("no room"), CallRefused::Full);
    assert_eq!(stage.engine.stats().legs, 1);
    said_rarely(&take_log());
    drop(taken);
    let (mut second, mut second_call, ..) = up(stage, &peers[1], &peers[1].usual_sdp());
    let placed = reply(call(stage, line, "+33800")).expect("there is room again");
    callee.wait("INVITE", |message| message.method() == "INVITE");
    drop(placed);
    bye(&mut second, &mut second_call);
    bye(&mut dialog, &mut call_up);
    eventually("no leg is left", || stage.engine.stats().legs == 0);
    assert_eq!(stage.engine.stats().panics, 0);
}

/// What is taken from the engine until it is dropped.
#[expect(dead_code, reason = "held, never read")]
enum Room {
    Port(UdpSocket),
    File(File),
    Limit(Limit),
}

/// Every RTP port of the engine.
pub fn ports(bind: Ipv4Addr) -> Vec<UdpSocket> {
    let (first, last) = rtp_ports();
    let socket = |port| UdpSocket::bind((bind, port)).ok();
    (first..=last + 1).filter_map(socket).collect()
}

/// The soft limit of file descriptors, put back when dropped.
struct Limit(Rlimit);

impl Drop for Limit {
    fn drop(&mut self) {
        setrlimit(Resource::Nofile, self.0).expect("the limit was ours");
    }
}

#[test]
fn without_rtp_ports_callers_get_503_and_calls_go_on() {
    let mut stage = stage();
    goes_without_room(&mut stage, "no-ports", || {
        ports(Ipv4Addr::LOCALHOST)
            .into_iter()
            .map(Room::Port)
            .collect()
    });
}

#[test]
fn without_file_descriptors_callers_get_503_and_calls_go_on() {
    let mut stage = stage();
    goes_without_room(&mut stage, "no-files", || {
        // Every descriptor below the limit is taken, so that none is free.
        let before = getrlimit(Resource::Nofile);
        let limit = Rlimit {
            current: Some(512),
            maximum: before.maximum,
        };
        let mut taken = vec![Room::Limit(Limit(before))];
        setrlimit(Resource::Nofile, limit).expect("a lower limit");
        while let Ok(file) = File::open("/dev/null") {
            taken.push(Room::File(file));
        }
        assert!(taken.len() > 1, "the limit is below what is open");
        taken
    });
}

/// pjsua keeps the id of a call until its BYE is answered. A trunk that went
/// away answers none.
#[test]
fn without_call_ids_callers_get_503() {
    let mut stage = fresh_stage();
    let mut hung_up = Vec::new();
    let peers: Vec<Peer> = (0..CALLS_MAX + 64).map(|_| stage.peer()).collect();
    for peer in &peers {
        let (dialog, mut call, ..) = up(&mut stage, peer, &peer.usual_sdp());
        stage.submit(Command::Hangup {
            leg: call.leg,
            status: 200,
        });
        assert_eq!(ended(&mut call).by, EndedBy::Local);
        hung_up.push(dialog);
    }
    assert_eq!(stage.engine.stats().legs, 0);
    let peer = stage.peer();
    refused(&stage, &peer);
    for dialog in &hung_up {
        dialog.serve("BYE", 200);
    }
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
}

#[test]
fn more_calls_than_allowed_get_503() {
    let mut stage = stage();
    let line = "too-many";
    trunk(&mut stage, line);
    let peers: Vec<Peer> = (0..CALLS_MAX).map(|_| stage.peer()).collect();
    let mut calls: Vec<_> = peers
        .iter()
        .map(|peer| up(&mut stage, peer, &peer.usual_sdp()))
        .collect();
    let peer = stage.peer();
    refused(&stage, &peer);
    let ours = reply(call(&stage, line, "+33800"));
    assert_eq!(ours.expect_err("no room"), CallRefused::Full);
    for (dialog, call, ..) in &mut calls {
        bye(dialog, call);
    }
}
