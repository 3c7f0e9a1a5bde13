//! Whose RTP a call takes and where it sends its own: strangers, callers behind
//! a NAT, ports that change, holds. All on the wire, from 127.0.0.x.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use sipbridge::core::media_link::{Codec, MediaLink};
use sipbridge::sip::engine::{IncomingCall, LegEvent, SipEngine};

use crate::outgoing::{ack, placed, trunk};
use crate::peer::{Dialog, PATIENCE, Peer, answer_with};
use crate::stage::{Stage, bye, eventually, packet, packet_of, stage, up};

/// The address in the SDP of a caller behind a NAT: nobody sends from there.
const PRIVATE: &str = "127.0.0.9";

fn socket(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("a free UDP port");
    let patience = Some(Duration::from_millis(20));
    socket.set_read_timeout(patience).expect("a timeout");
    socket
}

/// The caller's SDP, which names an address of no use.
fn private_sdp(peer: &Peer) -> String {
    let sdp = peer.usual_sdp();
    sdp.replace("c=IN IP4 127.0.0.1", &format!("c=IN IP4 {PRIVATE}"))
}

fn say(from: &UdpSocket, bridge: SocketAddr, sequence: u16) {
    let packet = Peer::rtp_packet(0, sequence, 1);
    from.send_to(&packet, bridge).expect("loopback");
}

/// Whether our RTP comes to the socket.
fn hears(link: &MediaLink, at: &UdpSocket) -> bool {
    let mut buffer = [0; 2_000];
    while at.recv_from(&mut buffer).is_ok() {}
    (0..25).any(|sequence| {
        let packet = Peer::rtp_packet(0, sequence, 5);
        link.sink.send(&packet).expect("an open sink");
        at.recv_from(&mut buffer).is_ok()
    })
}

/// Waits until so many more packets were dropped as foreign.
fn dropped(stage: &Stage, before: u64, count: u64) {
    eventually("the packets are dropped and counted", || {
        stage.engine.stats().rtp_foreign == before + count
    });
}

/// Renews the caller's media by a request, and gives what became of it.
fn renew(dialog: &mut Dialog<'_>, call: &mut IncomingCall, method: &str, sdp: &str) -> MediaLink {
    let answer = dialog.ask(method, sdp, "");
    assert_eq!(answer.status(), 200, "{method}");
    if method == "INVITE" {
        dialog.ack();
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "no media after {method}");
        match call.events.try_recv() {
            Ok(LegEvent::Media(link)) => return link,
            Ok(_) => {}
            Err(_) => std::thread::sleep(Duration::from_millis(1)),
        }
    }
}

#[test]
fn no_stranger_gets_a_call_whose_caller_is_behind_a_nat() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &private_sdp(&peer));
    let stranger = socket("127.0.0.66");
    let before = stage.engine.stats().rtp_foreign;
    for sequence in 0..3 {
        say(&stranger, bridge, sequence);
    }
    dropped(&stage, before, 3);
    assert!(
        !hears(&link, &stranger),
        "the bot's voice went to a stranger"
    );
    say(&peer.rtp, bridge, 1);
    packet(&mut call);
    for sequence in 3..6 {
        say(&stranger, bridge, sequence);
    }
    dropped(&stage, before, 6);
    assert!(call.rtp.try_recv().is_err(), "a stranger was heard");
    let caller = peer.rtp.try_clone().expect("a socket");
    let patience = Some(Duration::from_millis(20));
    caller.set_read_timeout(patience).expect("a timeout");
    assert!(hears(&link, &caller));
    bye(&mut dialog, &mut call);
}

#[test]
fn what_is_no_valid_rtp_makes_nobody_a_source() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &private_sdp(&peer));
    let other = socket("127.0.0.1");
    let good = Peer::rtp_packet(0, 1, 1);
    let broken = |first: u8, length: usize, at: usize, bytes: &[u8]| {
        let mut packet = good.clone();
        packet[0] = first;
        packet.truncate(length);
        packet[at..at + bytes.len()].copy_from_slice(bytes);
        packet
    };
    let bad = [
        broken(0x8f, 60, 0, &[]),
        broken(0x90, 172, 14, &[0xff, 0xff]),
        broken(0xa0, 172, 171, &[0xff]),
        broken(0xa0, 172, 171, &[0]),
        broken(0x80, 12, 0, &[]),
        broken(0x00, 172, 0, &[]),
        broken(0x80, 172, 1, &[97]),
    ];
    let before = stage.engine.stats().rtp_foreign;
    for packet in &bad {
        other.send_to(packet, bridge).expect("loopback");
    }
    dropped(&stage, before, bad.len() as u64);
    say(&peer.rtp, bridge, 1);
    assert_eq!(*packet(&mut call).bytes, *good);
    assert!(!hears(&link, &other));
    bye(&mut dialog, &mut call);
}

#[test]
fn a_caller_behind_a_nat_holds_and_comes_back_and_hears_us() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = private_sdp(&peer);
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &sdp);
    let caller = socket("127.0.0.1");
    say(&caller, bridge, 1);
    packet(&mut call);
    assert!(hears(&link, &caller));
    let with = |direction: &str| sdp.replace("sendrecv", direction);
    let old_hold = sdp.replace(PRIVATE, "0.0.0.0");
    let pcma = sdp.replace("8 0 101", "8 101");
    let port = peer.rtp.local_addr().expect("a bound socket").port();
    let other_port = sdp.replace(&format!("m=audio {port}"), &format!("m=audio {}", port ^ 2));
    let forms = [
        ("sendonly", "INVITE", with("sendonly")),
        ("inactive", "INVITE", with("inactive")),
        ("0.0.0.0", "INVITE", old_hold.clone()),
        ("UPDATE", "UPDATE", with("inactive")),
        ("UPDATE to 0.0.0.0", "UPDATE", old_hold),
        ("another codec", "INVITE", pcma),
    ];
    let mut sequence = 1;
    for (name, method, hold) in &forms {
        renew(&mut dialog, &mut call, method, hold);
        let back = renew(&mut dialog, &mut call, method, &sdp);
        // Without a packet of the caller, which waits for ours.
        assert!(hears(&back, &caller), "after {name}");
        sequence += 1;
        say(&caller, bridge, sequence);
        packet(&mut call);
    }
    // A new port behind the same NAT, which gives it another one as well.
    let link = renew(&mut dialog, &mut call, "INVITE", &other_port);
    let moved = socket("127.0.0.1");
    say(&moved, bridge, 9_000);
    packet(&mut call);
    eventually("we send to the new port", || hears(&link, &moved));
    assert_eq!(stage.engine.stats().panics, 0);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_stream_that_comes_from_another_port_is_followed() {
    let mut stage = stage();
    let peer = stage.peer();
    for (sdp, first) in [
        (peer.usual_sdp(), peer.rtp.try_clone().expect("a socket")),
        (private_sdp(&peer), socket("127.0.0.1")),
    ] {
        let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &sdp);
        for sequence in 1..=5 {
            say(&first, bridge, sequence);
            packet(&mut call);
        }
        let moved = socket("127.0.0.1");
        let started = Instant::now();
        let mut sequence = 5;
        let mut tried = 0;
        eventually("the new port is heard", || {
            sequence += 1;
            tried += 1;
            say(&moved, bridge, sequence);
            std::thread::sleep(Duration::from_millis(20));
            call.rtp.try_recv().is_ok()
        });
        let after = started.elapsed();
        assert!(after < Duration::from_secs(1), "{after:?}");
        assert!(tried > 2, "the old port was not silent yet");
        assert!(hears(&link, &moved));
        // Another stream of the same address does not get in while it talks.
        let other = socket("127.0.0.1");
        let mut foreign = Peer::rtp_packet(0, 1, 66);
        foreign[8] ^= 1;
        while call.rtp.try_recv().is_ok() {}
        let before = stage.engine.stats().rtp_foreign;
        other.send_to(&foreign, bridge).expect("loopback");
        dropped(&stage, before, 1);
        bye(&mut dialog, &mut call);
    }
}

#[test]
fn a_packet_in_the_other_codec_of_the_offer_is_heard_from_the_first_one() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &private_sdp(&peer));
    assert_eq!(link.format.codec, Codec::Pcmu);
    let sent = Peer::rtp_packet(8, 1, 1);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_flood_is_thinned_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    let before = stage.engine.stats().rtp_thinned;
    let mut taken = 0;
    let started = Instant::now();
    for sequence in 0..2_000 {
        say(&peer.rtp, bridge, sequence);
        if sequence % 20 == 0 {
            std::thread::sleep(Duration::from_millis(2));
        }
        while call.rtp.try_recv().is_ok() {
            taken += 1;
        }
    }
    let seconds = started.elapsed().as_secs() + 1;
    eventually("the flood is thinned", || {
        while call.rtp.try_recv().is_ok() {
            taken += 1;
        }
        let thinned = stage.engine.stats().rtp_thinned - before;
        thinned > 0 && thinned + taken > 1_500
    });
    assert!(taken <= 402 + 200 * seconds, "{taken} in {seconds} s");
    std::thread::sleep(Duration::from_millis(100));
    say(&peer.rtp, bridge, 2_001);
    packet(&mut call);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_callee_behind_a_nat_is_latched_by_where_its_answer_came_from() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "nat");
    let (mut leg, invite) = placed(&stage, &peer, "nat");
    let sdp = private_sdp(&peer).replace("8 0 101", "0 101");
    answer_with(&peer, &invite, 200, &sdp);
    ack(&peer);
    let mut dialog = peer.callee(&invite);
    let link = crate::outgoing::media(&mut leg);
    crate::outgoing::established(&mut leg);
    let bridge = invite.rtp_address().expect("an audio line");
    let before = stage.engine.stats().rtp_foreign;
    say(&socket("127.0.0.66"), bridge, 1);
    dropped(&stage, before, 1);
    let callee = socket("127.0.0.1");
    say(&callee, bridge, 1);
    packet_of(&mut leg.rtp);
    assert!(hears(&link, &callee));
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    crate::outgoing::ended(&mut leg);
}
