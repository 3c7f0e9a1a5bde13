//! Calls that we place: a callee at the other end, every way to end.

use sipbridge::core::ids::LineId;
use sipbridge::core::media_link::{Codec, Direction, SinkError};
use sipbridge::core::private::{Private, Secret};
use sipbridge::core::sip_header::{SIP_HEADERS_BYTES_MAX, SIP_HEADERS_MAX, SipHeader};
use sipbridge::sip::engine::{
    CallRefused, Command, EndedBy, LegEnd, LegEvent, OutgoingCall, OutgoingLeg, SipEngine,
};
use tokio::sync::{mpsc, oneshot};

use crate::peer::{Dialog, Message, PATIENCE, Peer, answer, answer_with};
use crate::shutdown::sockets;
use crate::stage::{Stage, account, eventually, next, packet_of, stage};

type Reply = oneshot::Receiver<Result<OutgoingLeg, CallRefused>>;

/// Sends the command.
pub fn call(stage: &Stage, line: &str, destination: &str) -> Reply {
    call_with(stage, line, destination, Vec::new())
}

/// The same, with these headers in the INVITE.
fn call_with(stage: &Stage, line: &str, destination: &str, headers: Vec<SipHeader>) -> Reply {
    let no_number = None;
    call_as(stage, line, destination, headers, no_number)
}

/// The same, with another number than the line's in From.
fn call_as(
    stage: &Stage,
    line: &str,
    destination: &str,
    headers: Vec<SipHeader>,
    shown: Option<&str>,
) -> Reply {
    let (reply, answer) = oneshot::channel();
    stage.submit(Command::Call(Box::new(OutgoingCall {
        line: LineId::new(line),
        destination: Private::new(destination),
        shown: shown.map(Private::new),
        headers,
        reply,
    })));
    answer
}

/// What became of the command.
pub fn reply(mut reply: Reply) -> Result<OutgoingLeg, CallRefused> {
    let mut got = None;
    eventually("the call is placed or refused", || {
        got = reply.try_recv().ok();
        got.is_some()
    });
    got.expect("a reply")
}

/// A peer that is the server of a new line.
pub fn trunk(stage: &mut Stage, line: &str) -> Peer {
    let peer = stage.peer();
    let mut own = account(line, "bob", Some(peer.address()));
    own.password = Some(Secret::new("secret".to_owned()));
    stage.add_line(own);
    peer
}

pub fn invite(peer: &Peer) -> Message {
    peer.wait("INVITE", |message| message.method() == "INVITE")
}

pub fn ack(peer: &Peer) -> Message {
    peer.wait("ACK", |message| message.method() == "ACK")
}

/// A placed call whose INVITE has come.
pub fn placed(stage: &Stage, peer: &Peer, line: &str) -> (OutgoingLeg, Message) {
    let leg = reply(call(stage, line, "+33800")).expect("it is placed");
    (leg, invite(peer))
}

/// The answer of a callee: one codec.
fn answer_sdp(peer: &Peer) -> String {
    peer.sdp(
        "0 101",
        "a=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n",
    )
}

/// Answers an INVITE with 200 and SDP, and waits for the ACK.
pub fn pick_up<'a>(peer: &'a Peer, invite: &Message) -> Dialog<'a> {
    answer_with(peer, invite, 200, &answer_sdp(peer));
    ack(peer);
    peer.callee(invite)
}

pub fn media(leg: &mut OutgoingLeg) -> sipbridge::core::media_link::MediaLink {
    match next(&mut leg.events, "media") {
        LegEvent::Media(link) => link,
        other => panic!("expected media, got {other:?}"),
    }
}

pub fn progress(leg: &mut OutgoingLeg) -> u16 {
    match next(&mut leg.events, "progress") {
        LegEvent::Progress(status) => status,
        other => panic!("expected progress, got {other:?}"),
    }
}

pub fn established(leg: &mut OutgoingLeg) {
    match next(&mut leg.events, "established") {
        LegEvent::Established => {}
        other => panic!("expected established, got {other:?}"),
    }
}

pub fn ended(leg: &mut OutgoingLeg) -> LegEnd {
    loop {
        if let LegEvent::Ended(end) = next(&mut leg.events, "end") {
            assert!(matches!(
                leg.events.try_recv(),
                Err(mpsc::error::TryRecvError::Disconnected)
            ));
            return end;
        }
    }
}

fn remove(stage: &Stage, line: &str) {
    assert_eq!(stage.engine.stats().legs, 0, "no leg is left");
    assert_eq!(stage.engine.stats().panics, 0);
    stage.submit(Command::RemoveLine(LineId::new(line)));
}

#[test]
fn an_answered_call_carries_audio_both_ways_and_the_callee_hangs_up() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "out");
    let (mut leg, invite) = placed(&stage, &peer, "out");
    assert_eq!(stage.engine.stats().legs, 1);
    assert_eq!(invite.start, "INVITE sip:+33800@example.test SIP/2.0");
    assert_eq!(invite.header("call-id"), Some(leg.sip_call_id.as_str()));
    assert_eq!(invite.header("route"), None);
    let from = invite.header("from").expect("From");
    assert!(from.starts_with("<sip:bob@example.test>"), "{from}");
    assert_eq!(invite.body.matches("m=").count(), 1, "{}", invite.body);
    assert!(!invite.body.contains("a=crypto"), "{}", invite.body);
    answer(&peer.sip, &invite, 180, "");
    assert_eq!(progress(&mut leg), 180);
    let mut dialog = pick_up(&peer, &invite);
    let link = media(&mut leg);
    established(&mut leg);
    assert_eq!(link.format.direction, Direction::SendRecv);

    let bridge = invite.rtp_address().expect("an audio line");
    let payload_type = link.format.receive_payload_type;
    let mut buffer = [0; 2_000];
    peer.rtp
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    for sequence in 0..20 {
        let sent = Peer::rtp_packet(payload_type, sequence, sequence as u8);
        peer.rtp.send_to(&sent, bridge).expect("loopback");
        assert_eq!(*packet_of(&mut leg.rtp).bytes, *sent);
        let back = Peer::rtp_packet(link.format.send_payload_type, sequence, 7);
        link.sink.send(&back).expect("the sink is open");
        let (length, from) = peer.rtp.recv_from(&mut buffer).expect("RTP back");
        assert_eq!((&buffer[..length], from), (&back[..], bridge));
    }

    // Hold and resume by the callee.
    for (direction, ours) in [
        ("sendonly", Direction::RecvOnly),
        ("sendrecv", Direction::SendRecv),
    ] {
        let offer = answer_sdp(&peer).replace("sendrecv", direction);
        assert_eq!(dialog.ask("INVITE", &offer, "").status(), 200);
        dialog.ack();
        assert_eq!(media(&mut leg).format.direction, ours);
    }
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    let end = ended(&mut leg);
    assert_eq!((end.by, end.status), (EndedBy::Remote, 200));
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));
    assert!(matches!(
        leg.rtp.try_recv(),
        Err(mpsc::error::TryRecvError::Disconnected)
    ));
    remove(&stage, "out");
}

#[test]
fn early_media_is_up_before_the_answer_and_our_hangup_is_a_bye() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "early");
    let (mut leg, invite) = placed(&stage, &peer, "early");
    answer(&peer.sip, &invite, 180, "");
    assert_eq!(progress(&mut leg), 180);
    answer_with(&peer, &invite, 183, &answer_sdp(&peer));
    assert_eq!(progress(&mut leg), 183);
    let link = media(&mut leg);
    let bridge = invite.rtp_address().expect("an audio line");
    let sent = Peer::rtp_packet(link.format.receive_payload_type, 1, 9);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet_of(&mut leg.rtp).bytes, *sent);
    let dialog = pick_up(&peer, &invite);
    // The 200 repeats the SDP: it is looked at again.
    media(&mut leg);
    established(&mut leg);
    stage.submit(Command::Hangup {
        leg: leg.leg,
        status: 200,
    });
    dialog.serve("BYE", 200);
    assert_eq!(ended(&mut leg).by, EndedBy::Local);
    remove(&stage, "early");
}

#[test]
fn a_refusal_is_the_callees_own_status() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "refused");
    for status in [486, 603, 404, 408, 480, 302, 503] {
        let (mut leg, invite) = placed(&stage, &peer, "refused");
        if status == 486 {
            answer(&peer.sip, &invite, 180, "");
            assert_eq!(progress(&mut leg), 180);
        }
        answer(&peer.sip, &invite, status, "");
        ack(&peer);
        let end = ended(&mut leg);
        assert_eq!((end.by, end.status), (EndedBy::Remote, status));
    }
    remove(&stage, "refused");
}

#[test]
fn nobody_answers_and_we_cancel() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "cancel");
    let (mut leg, invite) = placed(&stage, &peer, "cancel");
    answer(&peer.sip, &invite, 180, "");
    assert_eq!(progress(&mut leg), 180);
    stage.submit(Command::Hangup {
        leg: leg.leg,
        status: 487,
    });
    let cancel = peer.wait("CANCEL", |message| message.method() == "CANCEL");
    assert_eq!(cancel.header("call-id"), Some(leg.sip_call_id.as_str()));
    let end = ended(&mut leg);
    assert_eq!((end.by, end.status), (EndedBy::Local, 487));
    answer(&peer.sip, &cancel, 200, "");
    answer(&peer.sip, &invite, 487, "");
    ack(&peer);
    remove(&stage, "cancel");
}

#[test]
fn an_answer_that_crosses_our_cancel_is_ended_with_a_bye() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "crossing");
    let (mut leg, invite) = placed(&stage, &peer, "crossing");
    answer(&peer.sip, &invite, 180, "");
    assert_eq!(progress(&mut leg), 180);
    stage.submit(Command::Hangup {
        leg: leg.leg,
        status: 487,
    });
    assert_eq!(ended(&mut leg).by, EndedBy::Local);
    let dialog = pick_up(&peer, &invite);
    dialog.serve("BYE", 200);
    remove(&stage, "crossing");
}

#[test]
fn a_hangup_right_after_the_call_reaches_the_callee() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "race");
    let before = sockets();
    for _ in 0..20 {
        let mut leg = reply(call(&stage, "race", "+33800")).expect("it is placed");
        stage.submit(Command::Hangup {
            leg: leg.leg,
            status: 487,
        });
        assert_eq!(ended(&mut leg).by, EndedBy::Local);
        // The CANCEL waits for a provisional response (RFC 3261 9.1).
        let invite = peer.wait("INVITE", |message| {
            message.method() == "INVITE"
                && message.header("call-id") == Some(leg.sip_call_id.as_str())
        });
        answer(&peer.sip, &invite, 180, "");
        let cancel = peer.wait("CANCEL", |message| message.method() == "CANCEL");
        answer(&peer.sip, &cancel, 200, "");
        answer(&peer.sip, &invite, 487, "");
        ack(&peer);
    }
    eventually("every port is free again", || sockets() == before);
    remove(&stage, "race");
}

#[test]
fn a_call_that_nobody_waits_for_is_ended() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "unwanted");
    // The receiver goes while the command is under way, or a little later.
    drop(call(&stage, "unwanted", "+33800"));
    let unwanted = reply(call(&stage, "unwanted", "+33801")).expect("it is placed");
    let is_second = |message: &Message| message.start.contains("+33801");
    let invite = peer.wait("INVITE", is_second);
    answer(&peer.sip, &invite, 180, "");
    drop(unwanted);
    let cancel = peer.wait("CANCEL", |message| {
        message.method() == "CANCEL" && is_second(message)
    });
    answer(&peer.sip, &cancel, 200, "");
    answer(&peer.sip, &invite, 487, "");
    eventually("both legs end", || stage.engine.stats().legs == 0);
    remove(&stage, "unwanted");
}

#[test]
fn headers_of_a_call_are_in_its_invite_and_in_the_one_after_a_challenge() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "headers");
    let long = "v".repeat(SIP_HEADERS_BYTES_MAX - 100);
    let header = |name: &str, value: &str| SipHeader::new(name, value).expect("a header");
    let headers = vec![
        header("X-Order", "42; \"caf\u{e9}\" <x>, y"),
        header("User-to-User", "0a;encoding=hex"),
        header("X-Empty", ""),
        header("X-Long", &long),
    ];
    let uri = "sip:door@pbx.example;transport=udp";
    let mut leg = reply(call_with(&stage, "headers", uri, headers)).expect("it is placed");
    let first = invite(&peer);
    assert!(
        first.start.starts_with("INVITE sip:door@pbx.example"),
        "{}",
        first.start
    );
    let extra = "WWW-Authenticate: Digest realm=\"trunk\", nonce=\"n\", algorithm=MD5\r\n";
    answer(&peer.sip, &first, 401, extra);
    ack(&peer);
    let second = invite(&peer);
    assert!(second.header("authorization").is_some());
    for invite in [&first, &second] {
        assert_eq!(invite.header("x-order"), Some("42; \"caf\u{e9}\" <x>, y"));
        assert_eq!(invite.header("user-to-user"), Some("0a;encoding=hex"));
        assert_eq!(invite.header("x-empty"), Some(""));
        assert_eq!(invite.header("x-long"), Some(long.as_str()));
        assert_eq!(invite.body.matches("m=").count(), 1, "{}", invite.body);
    }
    let mut dialog = pick_up(&peer, &second);
    media(&mut leg);
    established(&mut leg);
    // They belong to the call's beginning alone.
    stage.submit(Command::Hold {
        leg: leg.leg,
        on: true,
    });
    let hold = invite(&peer);
    assert_eq!(hold.header("x-order"), None);
    answer_with(
        &peer,
        &hold,
        200,
        &answer_sdp(&peer).replace("sendrecv", "recvonly"),
    );
    ack(&peer);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    assert_eq!(ended(&mut leg).status, 200);
    remove(&stage, "headers");
}

#[test]
fn a_call_may_show_another_number_and_nothing_but_a_number() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "shown");
    for shown in ["alice", "", "+", "+33\r\nX-Evil: 1", "+33>;tag=1", "1@evil"] {
        let refused = reply(call_as(&stage, "shown", "+33800", Vec::new(), Some(shown)));
        assert!(
            matches!(refused, Err(CallRefused::Failed(_))),
            "{shown:?}: {refused:?}"
        );
    }
    let number = "+33612345678";
    let mut leg =
        reply(call_as(&stage, "shown", "+33801", Vec::new(), Some(number))).expect("it is placed");
    let invite = peer.wait("any INVITE", |message| message.method() == "INVITE");
    let from = invite.header("from").expect("From");
    assert!(from.starts_with("<sip:+33612345678@"), "{from}");
    answer(&peer.sip, &invite, 486, "");
    ack(&peer);
    assert_eq!(ended(&mut leg).status, 486);
    remove(&stage, "shown");
}

#[test]
fn what_could_forge_a_message_does_not_get_into_an_invite() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "forged");
    let forged = |name: &str, value: &str| SipHeader {
        name: name.to_owned(),
        value: Private::new(value),
    };
    for headers in [
        vec![forged("X-A", "1\r\nX-Evil: 2")],
        vec![forged("X-A", "1\nX-Evil: 2")],
        vec![forged("X-A", "1\r\n\r\nv=0")],
        vec![forged("X-A", "1\0")],
        vec![forged("X-A: 1\r\nX-Evil", "2")],
        vec![forged("Route", "<sip:evil.example;lr>")],
        vec![forged("Content-Length", "0")],
        vec![forged("X-A", "1"); SIP_HEADERS_MAX + 1],
        vec![forged("X-A", &"1".repeat(SIP_HEADERS_BYTES_MAX))],
    ] {
        let refused = reply(call_with(&stage, "forged", "+33800", headers));
        assert!(
            matches!(refused, Err(CallRefused::Failed(_))),
            "{refused:?}"
        );
    }
    // The next INVITE that comes is that of a good call: none was sent before it.
    let good = vec![forged("X-A", "good")];
    let mut leg = reply(call_with(&stage, "forged", "+33801", good)).expect("it is placed");
    let invite = peer.wait("any INVITE", |message| message.method() == "INVITE");
    assert_eq!(invite.header("x-a"), Some("good"));
    assert_eq!(invite.header("x-evil"), None);
    answer(&peer.sip, &invite, 486, "");
    ack(&peer);
    assert_eq!(ended(&mut leg).status, 486);
    remove(&stage, "forged");
}

#[test]
fn a_challenge_is_answered_with_the_lines_credentials() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "digest");
    for (status, challenge, reply) in [
        (401, "WWW-Authenticate", "authorization"),
        (407, "Proxy-Authenticate", "proxy-authorization"),
    ] {
        let (mut leg, first) = placed(&stage, &peer, "digest");
        assert_eq!(first.header(reply), None);
        let extra =
            format!("{challenge}: Digest realm=\"trunk\", nonce=\"n{status}\", algorithm=MD5\r\n");
        answer(&peer.sip, &first, status, &extra);
        ack(&peer);
        let second = invite(&peer);
        let credentials = second.header(reply).expect("credentials");
        assert!(credentials.contains("username=\"bob\""), "{credentials}");
        assert!(credentials.contains("realm=\"trunk\""), "{credentials}");
        let mut dialog = pick_up(&peer, &second);
        media(&mut leg);
        established(&mut leg);
        assert_eq!(dialog.ask("BYE", "", "").status(), 200);
        assert_eq!(ended(&mut leg).status, 200);
    }

    // The same credentials are refused: no third attempt.
    let (mut leg, first) = placed(&stage, &peer, "digest");
    let extra = "WWW-Authenticate: Digest realm=\"trunk\", nonce=\"x\", algorithm=MD5\r\n";
    answer(&peer.sip, &first, 401, extra);
    ack(&peer);
    let second = invite(&peer);
    answer(&peer.sip, &second, 403, "");
    ack(&peer);
    let end = ended(&mut leg);
    assert_eq!((end.by, end.status), (EndedBy::Remote, 403));
    remove(&stage, "digest");
}

#[test]
fn what_cannot_be_called_is_refused_with_its_reason() {
    let mut stage = stage();
    let unknown = reply(call(&stage, "nobody", "+33800"));
    assert_eq!(unknown.expect_err("no such line"), CallRefused::UnknownLine);
    let peer = trunk(&mut stage, "bad");
    for destination in ["sip:", "sip:@:::", "sip:a@b:port"] {
        let refused = reply(call(&stage, "bad", destination)).expect_err("no URI");
        assert!(
            matches!(&refused, CallRefused::Failed(reason) if !reason.is_empty()),
            "{destination}: {refused:?}"
        );
        assert_eq!(stage.engine.stats().legs, 0);
    }
    // A URI goes as it is, through the line's server.
    let mut leg = reply(call(&stage, "bad", "sip:desk@pbx.example;user=phone")).expect("a URI");
    let request = invite(&peer);
    assert_eq!(
        request.start,
        "INVITE sip:desk@pbx.example;user=phone SIP/2.0"
    );
    answer(&peer.sip, &request, 600, "");
    ack(&peer);
    assert_eq!(ended(&mut leg).status, 600);
    remove(&stage, "bad");
}

#[test]
fn a_callee_that_keeps_two_codecs_is_asked_for_one() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "two");
    let (mut leg, invite) = placed(&stage, &peer, "two");
    answer_with(&peer, &invite, 200, &peer.usual_sdp());
    ack(&peer);
    let mut dialog = peer.callee(&invite);
    assert_eq!(media(&mut leg).format.codec, Codec::Pcma, "its first one");
    established(&mut leg);
    let update = peer.wait("re-offer", |message| {
        matches!(message.method(), "UPDATE" | "INVITE")
            && message.header("cseq") != invite.header("cseq")
    });
    assert!(!update.body.contains("PCMU"), "{}", update.body);
    let pcma = peer.sdp("8", "a=rtpmap:8 PCMA/8000\r\na=sendrecv\r\n");
    answer_with(&peer, &update, 200, &pcma);
    if update.method() == "INVITE" {
        ack(&peer);
    }
    assert_eq!(media(&mut leg).format.codec, Codec::Pcma);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    assert_eq!(ended(&mut leg).by, EndedBy::Remote);
    remove(&stage, "two");
}

#[test]
fn a_callee_without_our_codecs_fails_the_call() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "codec");
    let (mut leg, invite) = placed(&stage, &peer, "codec");
    answer_with(
        &peer,
        &invite,
        200,
        &peer.sdp("18", "a=rtpmap:18 G729/8000\r\n"),
    );
    ack(&peer);
    peer.callee(&invite).serve("BYE", 200);
    assert_ne!(ended(&mut leg).by, EndedBy::Remote);
    remove(&stage, "codec");
}

#[test]
fn calls_both_ways_at_once_share_the_slots() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "both");
    let callers: Vec<Peer> = (0..8).map(|_| stage.peer()).collect();
    let mut legs = Vec::new();
    let mut incoming = Vec::new();
    for caller in &callers {
        let pending = call(&stage, "both", "+33800");
        let dialog = caller.invite(
            &stage.uri("alice"),
            "<sip:alice@example.test>",
            &caller.usual_sdp(),
            "",
        );
        let leg = reply(pending).expect("it is placed");
        let request = peer.wait("INVITE", |message| {
            message.method() == "INVITE"
                && message.header("call-id") == Some(leg.sip_call_id.as_str())
        });
        let call = stage.incoming();
        assert_eq!(call.sip_call_id, dialog.call_id);
        legs.push((leg, request));
        incoming.push((call, dialog));
    }
    assert_eq!(stage.engine.stats().legs, 16);
    for (leg, request) in &mut legs {
        answer(&peer.sip, request, 486, "");
        assert_eq!(ended(leg).status, 486);
    }
    for (call, dialog) in &mut incoming {
        dialog.cancel();
        let refusal = dialog.response(487);
        dialog.ack_refusal(&refusal);
        assert_eq!(crate::stage::ended(call).status, 487);
    }
    remove(&stage, "both");
}
