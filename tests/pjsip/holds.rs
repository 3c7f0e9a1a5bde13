//! Hold and resume by real re-INVITEs of ours: what they say, what becomes of
//! the audio, and that a refused one leaves the call as it was.

use std::net::SocketAddr;

use sipbridge::core::ids::LegId;
use sipbridge::core::media_link::{Direction, MediaLink};
use sipbridge::sip::engine::{Command, LegEvent, SipEngine};
use sipbridge::sip::rtp_channel::RtpReceiver;
use tokio::sync::mpsc;

use crate::outgoing::{ack, established, media, pick_up, placed, trunk};
use crate::peer::{Message, PATIENCE, Peer, answer, answer_with};
use crate::stage::{Stage, bye, ended, eventually, next, packet_of, stage, up};

fn hold(stage: &Stage, leg: LegId, on: bool) {
    stage.submit(Command::Hold { leg, on });
}

/// Our re-INVITE, which a 100 keeps from being sent again.
pub fn reinvite(peer: &Peer, direction: &str) -> Message {
    let request = peer.wait("re-INVITE", |message| {
        message.method() == "INVITE" && message.header("to").is_some_and(|to| to.contains("tag="))
    });
    let attribute = format!("a={direction}");
    let body = &request.body;
    assert!(body.lines().any(|line| line == attribute), "{body}");
    request
}

/// Answers with SDP of this direction.
pub fn take(peer: &Peer, request: &Message, direction: &str) {
    let audio = "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n";
    let sdp = peer.sdp("0 101", &format!("{audio}a={direction}\r\n"));
    answer_with(peer, request, 200, &sdp);
    ack(peer);
}

/// Our media and the answer to our re-INVITE, in whatever order they come.
fn taken(events: &mut mpsc::Receiver<LegEvent>) -> MediaLink {
    let (mut link, mut held) = (None, false);
    while link.is_none() || !held {
        match next(events, "media and the answer") {
            LegEvent::Media(media) => link = Some(media),
            LegEvent::Held { status } => held = status == 200,
            other => panic!("{other:?}"),
        }
    }
    link.expect("media")
}

fn refused(events: &mut mpsc::Receiver<LegEvent>) -> u16 {
    match next(events, "the answer") {
        LegEvent::Held { status } => status,
        other => panic!("{other:?}"),
    }
}

/// Audio both ways, bit for bit.
fn talk(peer: &Peer, bridge: SocketAddr, link: &MediaLink, rtp: &mut RtpReceiver, seed: u8) {
    let sent = Peer::rtp_packet(link.format.receive_payload_type, u16::from(seed), seed);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet_of(rtp).bytes, *sent);
    speak(peer, link, seed);
}

/// Audio of ours, bit for bit.
fn speak(peer: &Peer, link: &MediaLink, seed: u8) {
    let said = Peer::rtp_packet(link.format.send_payload_type, u16::from(seed), seed ^ 0x55);
    link.sink.send(&said).expect("the sink is open");
    let mut buffer = [0; 2_000];
    let timeout = peer.rtp.set_read_timeout(Some(PATIENCE));
    timeout.expect("a timeout");
    let (length, _) = peer.rtp.recv_from(&mut buffer).expect("RTP");
    assert_eq!(&buffer[..length], &said[..]);
}

#[test]
fn a_caller_is_held_and_taken_back_and_hears_us_meanwhile() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.usual_sdp().replace("8 0 101", "0 101");
    let (mut dialog, mut call, _, bridge) = up(&mut stage, &peer, &sdp);
    for round in 0..2 {
        hold(&stage, call.leg, true);
        take(&peer, &reinvite(&peer, "sendonly"), "recvonly");
        let link = taken(&mut call.events);
        assert_eq!(link.format.direction, Direction::SendOnly);
        speak(&peer, &link, 10 + round);
        hold(&stage, call.leg, false);
        take(&peer, &reinvite(&peer, "sendrecv"), "sendrecv");
        let link = taken(&mut call.events);
        assert_eq!(link.format.direction, Direction::SendRecv);
        talk(&peer, bridge, &link, &mut call.rtp, 20 + round);
    }
    bye(&mut dialog, &mut call);
    assert_eq!(stage.engine.stats().panics, 0);
}

#[test]
fn a_callee_is_held_and_taken_back() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "hold");
    let (mut leg, invite) = placed(&stage, &peer, "hold");
    let mut dialog = pick_up(&peer, &invite);
    media(&mut leg);
    established(&mut leg);
    hold(&stage, leg.leg, true);
    // Some trunks answer as if they had not read it.
    take(&peer, &reinvite(&peer, "sendonly"), "sendrecv");
    assert!(taken(&mut leg.events).format.direction.sends());
    hold(&stage, leg.leg, false);
    take(&peer, &reinvite(&peer, "sendrecv"), "sendrecv");
    let link = taken(&mut leg.events);
    let bridge = invite.rtp_address().expect("an audio line");
    talk(&peer, bridge, &link, &mut leg.rtp, 1);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    crate::outgoing::ended(&mut leg);
}

#[test]
fn a_refused_reinvite_is_told_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.usual_sdp().replace("8 0 101", "0 101");
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &sdp);
    for (number, status) in (1..).zip([488, 491, 503, 603]) {
        hold(&stage, call.leg, true);
        answer(&peer.sip, &reinvite(&peer, "sendonly"), status, "");
        ack(&peer);
        assert_eq!(refused(&mut call.events), status);
        talk(&peer, bridge, &link, &mut call.rtp, number);
    }
    // A resume that is refused may be tried again.
    hold(&stage, call.leg, true);
    take(&peer, &reinvite(&peer, "sendonly"), "recvonly");
    taken(&mut call.events);
    hold(&stage, call.leg, false);
    answer(&peer.sip, &reinvite(&peer, "sendrecv"), 491, "");
    ack(&peer);
    assert_eq!(refused(&mut call.events), 491);
    hold(&stage, call.leg, false);
    take(&peer, &reinvite(&peer, "sendrecv"), "sendrecv");
    let link = taken(&mut call.events);
    talk(&peer, bridge, &link, &mut call.rtp, 9);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_second_reinvite_before_the_answer_is_refused_by_us() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.usual_sdp().replace("8 0 101", "0 101");
    let (dialog, mut call, ..) = up(&mut stage, &peer, &sdp);
    hold(&stage, call.leg, true);
    let request = reinvite(&peer, "sendonly");
    hold(&stage, call.leg, false);
    assert_eq!(refused(&mut call.events), 500);
    // A call with a re-INVITE under way can be ended.
    stage.submit(Command::Hangup {
        leg: call.leg,
        status: 200,
    });
    ended(&mut call);
    answer(&peer.sip, &request, 487, "");
    dialog.serve("BYE", 200);
    eventually("no leg is left", || stage.engine.stats().legs == 0);
    let late = stage.engine.submit(Command::Hold {
        leg: call.leg,
        on: true,
    });
    late.expect("a dead leg is no error");
}

#[test]
fn a_challenge_to_a_reinvite_is_answered() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "challenged");
    let (mut leg, invite) = placed(&stage, &peer, "challenged");
    let mut dialog = pick_up(&peer, &invite);
    media(&mut leg);
    established(&mut leg);
    let challenge =
        "WWW-Authenticate: Digest realm=\"example.test\", nonce=\"1\", algorithm=MD5\r\n";
    hold(&stage, leg.leg, true);
    answer(&peer.sip, &reinvite(&peer, "sendonly"), 401, challenge);
    ack(&peer);
    let second = reinvite(&peer, "sendonly");
    assert!(second.header("authorization").is_some());
    take(&peer, &second, "recvonly");
    taken(&mut leg.events);

    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    crate::outgoing::ended(&mut leg);
}
