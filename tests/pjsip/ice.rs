//! Calls with ICE, where pjsua creates media behind our back: it returns first
//! and calls back later, from another thread. On a machine with loopback alone
//! there is no address that ICE could offer, and the same happens without it.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use sipbridge::sip::engine::{CallRefused, Command, EndedBy, SipEngine};

use crate::exhausted::{ports, refused, said_rarely};
use crate::outgoing::{call, ended, established, invite, media, pick_up, reply, trunk};
use crate::peer::Peer;
use crate::stage::{Stage, bye, eventually, packet_of, stage, take_log, up};

const ANYWHERE: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

/// A STUN server (RFC 5389) that takes its time.
struct Stun {
    socket: UdpSocket,
    delay_ms: AtomicU64,
    over: AtomicBool,
}

impl Stun {
    fn new() -> Self {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a free UDP port");
        let patience = Some(Duration::from_millis(20));
        socket.set_read_timeout(patience).expect("a timeout");
        Self {
            socket,
            delay_ms: AtomicU64::new(0),
            over: AtomicBool::new(false),
        }
    }

    fn serve(&self) {
        let mut request = [0; 600];
        while !self.over.load(Ordering::Relaxed) {
            let Ok((_, SocketAddr::V4(from))) = self.socket.recv_from(&mut request) else {
                continue;
            };
            std::thread::sleep(Duration::from_millis(self.delay_ms.load(Ordering::Relaxed)));
            // Binding success, 12 bytes of attributes, the request's cookie and id.
            let mut answer = vec![1, 1, 0, 12];
            answer.extend_from_slice(&request[4..20]);
            // XOR-MAPPED-ADDRESS.
            answer.extend_from_slice(&[0, 0x20, 0, 8, 0, 1]);
            answer.extend_from_slice(&(from.port() ^ 0x2112).to_be_bytes());
            answer.extend_from_slice(&(from.ip().to_bits() ^ 0x2112_a442).to_be_bytes());
            // The engine may be gone by now.
            let _ = self.socket.send_to(&answer, from);
        }
    }
}

/// Ends the server also when the scenario fails.
struct Over<'a>(&'a Stun);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.over.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_call_of_ours_waits_for_ice_and_can_be_hung_up_meanwhile() {
    let mut stage = stage();
    let stun = Stun::new();
    let server = stun.socket.local_addr().expect("a bound socket");
    std::thread::scope(|scope| {
        scope.spawn(|| stun.serve());
        let over = Over(&stun);
        stage.engine.shutdown();
        *stage = Stage::start_on(ANYWHERE, Some(server));
        let peer = trunk(&mut stage, "stun");
        stun.delay_ms.store(50, Ordering::Relaxed);

        let mut leg = reply(call(&stage, "stun", "+33800")).expect("it is placed");
        let request = invite(&peer);
        assert_eq!(request.header("call-id"), Some(leg.sip_call_id.as_str()));
        println!("ICE is offered: {}", request.body.contains("a=candidate"));
        let mut dialog = pick_up(&peer, &request);
        media(&mut leg);
        established(&mut leg);
        assert_eq!(dialog.ask("BYE", "", "").status(), 200);
        assert_eq!(ended(&mut leg).by, EndedBy::Remote);

        // Hung up while ICE is at work: no INVITE, and no leg when it is done.
        for round in 0..5 {
            let mut leg = reply(call(&stage, "stun", "+33801")).expect("it is placed");
            stage.submit(Command::Hangup {
                leg: leg.leg,
                status: 487,
            });
            assert_eq!(ended(&mut leg).by, EndedBy::Local, "round {round}");
        }
        let mut last = reply(call(&stage, "stun", "+33802")).expect("it is placed");
        let request = peer.wait("the last INVITE", |message| {
            message.start.contains("+33802")
        });
        assert_eq!(stage.engine.stats().legs, 1, "none came back to life");
        crate::peer::answer(&peer.sip, &request, 486, "");
        assert_eq!(ended(&mut last).status, 486);
        let stats = stage.engine.stats();
        assert_eq!((stats.legs, stats.panics), (0, 0));
        stage.engine.shutdown();
        drop(over);
    });
    *stage = Stage::start();
}

#[test]
fn calls_both_ways_with_ice_and_without_room() {
    let mut stage = stage();
    stage.engine.shutdown();
    *stage = Stage::start_on(ANYWHERE, None);
    let peer = trunk(&mut stage, "ice");

    let mut leg = reply(call(&stage, "ice", "+33800")).expect("it is placed");
    let request = invite(&peer);
    assert_eq!(request.header("call-id"), Some(leg.sip_call_id.as_str()));
    let mut dialog = pick_up(&peer, &request);
    let link = media(&mut leg);
    established(&mut leg);
    let port = request.rtp_address().expect("an audio line").port();
    let sent = Peer::rtp_packet(link.format.receive_payload_type, 1, 1);
    peer.rtp
        .send_to(&sent, ("127.0.0.1", port))
        .expect("loopback");
    assert_eq!(*packet_of(&mut leg.rtp).bytes, *sent);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    assert_eq!(ended(&mut leg).by, EndedBy::Remote);

    let caller = stage.peer();
    let taken = ports(Ipv4Addr::UNSPECIFIED);
    take_log();
    refused(&stage, &caller);
    match reply(call(&stage, "ice", "+33800")) {
        Err(refused) => assert_eq!(refused, CallRefused::Full),
        Ok(mut leg) => assert_eq!(ended(&mut leg).by, EndedBy::Failure),
    }
    said_rarely(&take_log());
    drop(taken);
    let (mut dialog, mut call, ..) = up(&mut stage, &caller, &caller.usual_sdp());
    bye(&mut dialog, &mut call);
    eventually("no leg is left", || stage.engine.stats().legs == 0);
    assert_eq!(stage.engine.stats().panics, 0);

    stage.engine.shutdown();
    *stage = Stage::start();
}
