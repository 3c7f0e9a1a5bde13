//! Foreign session descriptions against the real stack: every one that ended
//! the process once, or could, at every place where one may come. Each is sent
//! twice to the same process; afterwards a call works. Here over UDP, in
//! `streams` over TCP and TLS.

use std::time::Duration;

use sipbridge::sip::engine::{Command, EndedBy, EngineEvent, LegEvent, SipEngine};

use crate::outgoing::{ack, call, reply, trunk};
use crate::peer::{Message, Peer, answer, answer_with};
use crate::stage::{Stage, bye, ended, established, eventually, media, packet, stage, up, up_with};

/// What may stand behind `v=0`, `o=`, `s=`, `t=`, with the audio port of a peer.
pub fn killers(port: u16) -> Vec<String> {
    let session = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n";
    let bare = "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=-\r\nt=0 0\r\n";
    let media = [
        "m=audio 9 RTP/AVP 00\r\n".to_owned(),
        format!("m=audio {port} RTP/AVP 00 0 8\r\nm=video 40002 RTP/AVP 96\r\n"),
        format!("m=audio {port} RTP/AVP 0VP 0 8\r\nm=video 40002 RTP/AVP 96\r\n"),
        format!("m=audio {port} RTP/AVP 0x 8\r\n"),
        format!("m=audio {port} RTP/AVP 00\r\nm=audio 40002 RTP/AVP 00\r\n"),
        format!("m=audio 0 RTP/AVP 00\r\nm=audio {port} RTP/AVP 00 8\r\n"),
        format!("m=audio {port} RTP/AVP 008 08 8\r\na=rtpmap:08 PCMA/8000\r\n"),
        format!("m=audio {port} RTP/AVP 101\r\na=rtpmap:101 telephone-event/8000\r\n"),
        format!("m=audio {port} RTP/AVP{}\r\n", " 0".repeat(2_000)),
        format!("m=audio {port} RTP/AVP\r\n"),
        format!("m=audio {port} RTP/AVP 0\r\na=ptime:0\r\na=maxptime:0\r\n"),
        format!("m=audio {port} RTP/AVP 0 96\r\na=rtpmap:96 opus/0/0\r\n"),
        format!("m=audio {port} RTP/SAVP 0\r\na=crypto:1 X inline:\r\n"),
        format!("m=audio {port} RTP/AVP 0\r\n{}", "a=x:y\r\n".repeat(500)),
        format!("m=audio {port} RTP/AVP 0\r\n").repeat(6),
        format!("m=audio {port} RTP/AVP 0\r\n").repeat(7),
    ];
    let mut all: Vec<String> = media
        .iter()
        .map(|media| format!("{session}{media}"))
        .collect();
    // No c= anywhere, or only at a line that is declined.
    all.extend(media.iter().take(4).map(|media| format!("{bare}{media}")));
    all.push(format!(
        "{bare}m=audio {port} RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\nm=video 0 RTP/AVP 96\r\n"
    ));
    all.push(format!(
        "{bare}m=video 0 RTP/AVP 96\r\nm=audio {port} RTP/AVP 0\r\nc=IN IP4 127.0.0.1\r\n"
    ));
    all.push(format!("{bare}m=audio 0 RTP/AVP 0\r\n"));
    all.extend(
        [
            "\r\n",
            "\n",
            "\n\n\n",
            "v=0",
            "v=0\r\nm=",
            "v=0\r\na=",
            "v=0\r\nc=",
            "x",
            "\0",
        ]
        .map(str::to_owned),
    );
    all
}

/// Refuses the calls that were good enough, until the stack has read everything.
pub fn settle(stage: &mut Stage, peer: &Peer) {
    let mut probe = peer.invite_nothing(&stage.uri("alice"));
    assert_eq!(probe.ask("OPTIONS", "", "").status(), 200);
    eventually("what was still a call is over", || {
        while let Ok(event) = stage.events.try_recv() {
            if let EngineEvent::Incoming(call) = event {
                let reject = Command::Reject {
                    leg: call.leg,
                    status: 480,
                    retry_after: None,
                };
                stage.submit(reject);
            }
        }
        stage.engine.stats().legs == 0
    });
}

pub fn a_call_works(stage: &mut Stage, peer: &Peer) {
    let (mut dialog, mut call, ..) = up(stage, peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
    assert_eq!(stage.engine.stats().panics, 0);
}

pub fn port(peer: &Peer) -> u16 {
    peer.rtp.local_addr().expect("a bound socket").port()
}

pub const SDP: &str = "Content-Type: application/sdp\r\n";

#[test]
fn no_offer_of_an_invite_ends_the_process() {
    let mut stage = stage();
    let peer = stage.peer();
    for (serial, body) in killers(port(&peer)).iter().enumerate() {
        for turn in 0..2 {
            let text = peer.raw_invite(&stage.uri("alice"), "");
            let text = text.replace("SERIAL", &format!("{serial}-{turn}")).replace(
                "Content-Length: 0",
                &format!("{SDP}Content-Length: {}", body.len()),
            );
            peer.send(text + body);
            // Answered too, for the answer is where some of them did it.
            if let Ok(EngineEvent::Incoming(call)) = stage.events.try_recv() {
                stage.answer(&call, 200);
            }
        }
        settle(&mut stage, &peer);
    }
    a_call_works(&mut stage, &peer);
}

#[test]
fn no_answered_offer_ends_the_process() {
    let mut stage = stage();
    let peer = stage.peer();
    for body in killers(port(&peer)) {
        for _ in 0..2 {
            let typed = if body.starts_with("v=0") { "" } else { SDP };
            let mut dialog = peer.invite(
                &stage.uri("alice"),
                "<sip:alice@example.test>",
                &body,
                typed,
            );
            let answer = peer.wait("100 or a refusal", |message| {
                message.status() >= 100 && message.header("call-id") == Some(&dialog.call_id)
            });
            if answer.status() >= 300 {
                dialog.ack_refusal(&answer);
                continue;
            }
            let mut call = stage.incoming();
            stage.answer(&call, 200);
            dialog.establish();
            assert_eq!(dialog.ask("BYE", "", "").status(), 200, "{body}");
            ended(&mut call);
        }
    }
    a_call_works(&mut stage, &peer);
}

#[test]
fn no_offer_within_a_call_ends_the_process_or_the_call() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    for body in killers(port(&peer)) {
        for method in ["INVITE", "INVITE", "UPDATE", "UPDATE"] {
            let typed = if body.starts_with("v=0") { "" } else { SDP };
            let status = dialog.ask(method, &body, typed).status();
            match (method, status) {
                ("INVITE", 200) => dialog.ack(),
                ("INVITE", _) => dialog.ack_refused_reinvite(),
                _ => {}
            }
            assert!(
                matches!(status, 200 | 400 | 488),
                "{status} to {method} {body}"
            );
        }
    }
    let good = dialog.ask("INVITE", &peer.usual_sdp(), "");
    assert_eq!(good.status(), 200);
    dialog.ack();
    bye(&mut dialog, &mut call);
    a_call_works(&mut stage, &peer);
}

#[test]
fn no_answer_in_an_ack_ends_the_process() {
    let mut stage = stage();
    let peer = stage.peer();
    for body in killers(port(&peer)) {
        for _ in 0..2 {
            let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", "", "");
            let mut call = stage.incoming();
            stage.answer(&call, 200);
            let ok = dialog.response(200);
            dialog.learn(&ok);
            let typed = if body.starts_with("v=0") { "" } else { SDP };
            dialog.ack_with_typed(&body, typed);
            // Good enough, or a BYE of ours.
            eventually("an end, or media", || match call.events.try_recv() {
                Ok(LegEvent::Media(_)) => {
                    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
                    true
                }
                Ok(LegEvent::Ended(_)) => {
                    dialog.serve("BYE", 200);
                    true
                }
                _ => false,
            });
            eventually("the leg is gone", || stage.engine.stats().legs == 0);
        }
    }
    a_call_works(&mut stage, &peer);
}

#[test]
fn no_answer_of_a_callee_ends_the_process() {
    let mut stage = stage();
    let peer = trunk(&mut stage, "killer");
    for body in killers(port(&peer)) {
        for early in [true, false] {
            let mut leg = reply(call(&stage, "killer", "+33800")).expect("it is placed");
            // Not a re-INVITE of the call before, which settles on one codec.
            let invite = peer.wait("INVITE", |message| {
                message.method() == "INVITE"
                    && message.header("to").is_some_and(|to| !to.contains("tag="))
            });
            if early {
                answer_with(&peer, &invite, 183, &body);
                answer_with(&peer, &invite, 183, &body);
            }
            answer_with(&peer, &invite, 200, &body);
            ack(&peer);
            let mut dialog = peer.callee(&invite);
            // Good enough, or a BYE of ours, with or without a CANCEL before it.
            let is_end = |message: &Message| {
                matches!(message.method(), "BYE" | "CANCEL")
                    && message.header("call-id") == invite.header("call-id")
            };
            eventually(
                &format!("an end, or media, after {body:?}, early: {early}"),
                || {
                    if let Some(end) = peer.try_wait(Duration::from_millis(1), is_end) {
                        answer(&peer.sip, &end, 200, "");
                        return end.method() == "BYE";
                    }
                    if let Ok(LegEvent::Established) = leg.events.try_recv() {
                        return matches!(dialog.ask("BYE", "", "").status(), 200 | 481);
                    }
                    false
                },
            );
            eventually(
                &format!("the leg is gone after {body:?}, early: {early}"),
                || stage.engine.stats().legs == 0,
            );
        }
    }
    let other = stage.peer();
    a_call_works(&mut stage, &other);
}

#[test]
fn a_caller_who_acknowledges_without_an_answer_gets_a_bye() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", "", "");
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    dialog.establish();
    dialog.serve("BYE", 200);
    assert_eq!(ended(&mut call).by, EndedBy::Failure);
}

#[test]
fn a_body_that_is_ignored_or_refused_is_counted_by_reason() {
    let stage = stage();
    let peer = stage.peer();
    let count = |stage: &Stage, label: &str| {
        let counts = stage.engine.stats().bodies_refused;
        counts
            .iter()
            .find(|(own, _)| *own == label)
            .map_or(0, |(_, count)| *count)
    };
    let sdes =
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n";
    let usual = peer.usual_sdp();
    let cases = [
        ("codec", 488, peer.sdp("18", "a=rtpmap:18 G729/8000\r\n")),
        ("keys", 488, usual.replace("RTP/AVP", "RTP/SAVP")),
        (
            "transport",
            488,
            usual.replace("RTP/AVP", "UDP/TLS/RTP/SAVPF") + sdes,
        ),
        (
            "address",
            488,
            usual.replace("c=IN IP4 127.0.0.1", "c=IN IP6 ::1"),
        ),
        (
            "address",
            488,
            usual.replace("c=IN IP4 127.0.0.1", "c=IN IP4 pbx.example"),
        ),
        ("no_audio", 488, usual.replace("m=audio", "m=video")),
        (
            "media_lines",
            488,
            usual.clone() + &"m=video 0 RTP/AVP 96\r\n".repeat(6),
        ),
        ("malformed", 400, usual.replace("m=audio", "m=audio x")),
    ];
    for (label, status, body) in cases {
        let before = count(&stage, label);
        let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", &body, "");
        let refusal = dialog.response(status);
        assert!(
            refusal
                .header("warning")
                .is_some_and(|text| text.contains("sipbridge")),
            "{refusal:?}"
        );
        dialog.ack_refusal(&refusal);
        assert_eq!(count(&stage, label), before + 1, "{label}");
    }
    let before = count(&stage, "body_type");
    let dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        "hello",
        "Content-Type: text/plain\r\n",
    );
    let refusal = dialog.response(415);
    assert_eq!(refusal.header("accept"), Some("application/sdp"));
    assert_eq!(count(&stage, "body_type"), before + 1);
    assert_eq!(stage.engine.stats().legs, 0);
}

#[test]
fn a_call_that_begins_on_hold_stands_and_gets_its_audio_later() {
    let mut stage = stage();
    let peer = stage.peer();
    let usual = peer.usual_sdp();
    let zero = usual.replace("c=IN IP4 127.0.0.1", "c=IN IP4 0.0.0.0");
    for held in [
        usual.replace("a=sendrecv", "a=inactive"),
        usual.replace("a=sendrecv", "a=sendonly"),
        zero.replace("a=sendrecv", "a=inactive"),
        zero,
    ] {
        let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", &held, "");
        let mut call = stage.incoming();
        stage.answer(&call, 200);
        let ok = dialog.establish();
        let link = media(&mut call);
        assert!(link.format.direction.is_hold(), "{held}: {:?}", link.format);
        established(&mut call);
        let resumed = dialog.ask("INVITE", &usual, "");
        assert_eq!(resumed.status(), 200, "{resumed:?}");
        dialog.ack();
        let link = media(&mut call);
        assert!(!link.format.direction.is_hold(), "{:?}", link.format);
        let bridge = ok.rtp_address().expect("an audio line");
        let said = Peer::rtp_packet(link.format.receive_payload_type, 1, 5);
        peer.rtp.send_to(&said, bridge).expect("loopback");
        assert_eq!(*packet(&mut call).bytes, *said);
        bye(&mut dialog, &mut call);
    }
}

#[test]
fn a_refused_offer_within_a_call_leaves_the_old_media() {
    let mut stage = stage();
    let peer = stage.peer();
    let usual = peer.usual_sdp();
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &usual);
    let foreign = peer.sdp("18", "a=rtpmap:18 G729/8000\r\n");
    for method in ["INVITE", "UPDATE"] {
        let refusal = dialog.ask(method, &foreign, "");
        assert_eq!(refusal.status(), 488);
        assert_eq!(refusal.header("retry-after"), None);
        if method == "INVITE" {
            dialog.ack_refused_reinvite();
        }
    }
    let said = Peer::rtp_packet(link.format.receive_payload_type, 1, 7);
    peer.rtp.send_to(&said, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *said);
    // A request that comes late, or again, is no overload of ours.
    assert_eq!(dialog.ask("INVITE", &usual, "").status(), 200);
    dialog.ack();
    let old = dialog.ask_again("INVITE", &usual);
    assert_eq!((old.status(), old.header("retry-after")), (500, None));
    bye(&mut dialog, &mut call);
}

#[test]
fn an_invite_of_sixty_thousand_bytes_is_understood() {
    let mut stage = stage();
    let peer = stage.peer();
    let padding = "X-Padding: ".to_owned() + &"p".repeat(900) + "\r\n";
    let crowded = peer.usual_sdp()
        + &"a=x-candidate:1 1 UDP 2130706431 192.0.2.1 4000 typ host\r\n".repeat(500);
    for (extra, sdp) in [
        (padding.repeat(60), peer.usual_sdp()),
        (String::new(), crowded),
    ] {
        let (mut dialog, mut call, ..) = up_with(&mut stage, &peer, &sdp, &extra);
        bye(&mut dialog, &mut call);
    }
}

#[test]
fn bytes_behind_the_body_of_a_datagram_are_ignored_and_a_short_body_is_refused() {
    let mut stage = stage();
    let peer = stage.peer();
    let usual = peer.usual_sdp();
    for (serial, behind, missing, status) in [(1, "\0\r\njunk\r\nm=x", 0, 180), (2, "", 10, 400)] {
        let text = peer.raw_invite(&stage.uri("alice"), &usual);
        let (length, wrong) = (usual.len(), usual.len() + missing);
        let text = text.replace("SERIAL", &format!("length-{serial}")).replace(
            &format!("Content-Length: {length}"),
            &format!("Content-Length: {wrong}"),
        );
        peer.send(text + behind);
        if status == 180 {
            let call = stage.incoming();
            stage.answer(&call, 180);
        }
        peer.wait("the answer", |message| message.status() == status);
    }
    settle(&mut stage, &peer);
}
