//! What strangers and broken equipment send.

use std::time::Duration;

use sipbridge::sip::engine::{Command, EndedBy, EngineEvent, SipEngine};

use crate::peer::Peer;
use crate::stage::{Stage, bye, ended, eventually, packet, stage, take_log, up, up_with};

#[test]
fn rtp_from_elsewhere_is_dropped_and_a_caller_behind_nat_is_followed() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    peer.rtp
        .send_to(&Peer::rtp_packet(0, 1, 1), bridge)
        .expect("loopback");
    packet(&mut call);
    let stranger = Peer::new(peer.engine);
    let before = stage.engine.stats().rtp_foreign;
    for sequence in 0..5 {
        stranger
            .rtp
            .send_to(&Peer::rtp_packet(0, sequence, 66), bridge)
            .expect("loopback");
    }
    eventually("the stranger's packets are counted", || {
        stage.engine.stats().rtp_foreign == before + 5
    });
    assert!(call.rtp.try_recv().is_err());
    bye(&mut dialog, &mut call);
    drop(link);

    // The SDP names an address that never sends: behind NAT.
    let sdp = peer
        .usual_sdp()
        .replace("c=IN IP4 127.0.0.1", "c=IN IP4 127.0.0.9");
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &sdp);
    let junk: [&[u8]; 5] = [b"", b"x", &[0; 40], &[0x80; 8], &Peer::rtp_packet(97, 1, 1)];
    for bytes in junk {
        stranger.rtp.send_to(bytes, bridge).expect("loopback");
    }
    peer.rtp
        .send_to(&Peer::rtp_packet(0, 1, 1), bridge)
        .expect("loopback");
    packet(&mut call);
    stranger
        .rtp
        .send_to(&Peer::rtp_packet(0, 1, 66), bridge)
        .expect("loopback");
    let mut buffer = [0; 2_000];
    peer.rtp
        .set_read_timeout(Some(Duration::from_millis(20)))
        .expect("a timeout");
    let got = (0..200).find_map(|sequence| {
        link.sink
            .send(&Peer::rtp_packet(0, sequence, 5))
            .expect("open");
        peer.rtp.recv_from(&mut buffer).ok()
    });
    assert!(
        got.is_some(),
        "we send to where the caller's RTP comes from"
    );
    bye(&mut dialog, &mut call);
}

#[test]
fn callers_cannot_make_us_call_or_take_over_calls() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    let refused = dialog.ask("REFER", "", "Refer-To: <sip:premium@127.0.0.1:9>\r\n");
    assert_eq!(refused.status(), 603);
    let local_tag = dialog.remote_tag();
    let replaces = format!(
        "Replaces: {};to-tag={local_tag};from-tag={}\r\n",
        dialog.call_id,
        dialog.local_tag()
    );
    let mut taker = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        &replaces,
    );
    let refusal = taker.response(603);
    taker.ack_refusal(&refusal);
    bye(&mut dialog, &mut call);
}

#[test]
fn options_is_answered_and_other_requests_are_not_allowed() {
    let stage = stage();
    let peer = stage.peer();
    for (method, status) in [
        ("OPTIONS", 200),
        ("REGISTER", 405),
        ("MESSAGE", 405),
        ("SUBSCRIBE", 405),
        ("REFER", 405),
    ] {
        let mut dialog = peer.invite_nothing(&stage.uri("alice"));
        let answered = dialog.ask(method, "", "");
        assert_eq!(answered.status(), status, "{method}");
        let allow = answered.header("allow").expect("Allow");
        assert!(allow.contains("INVITE, ACK"), "{allow}");
    }
}

#[test]
fn answers_go_to_where_the_request_came_from_whatever_its_via_says() {
    let mut stage = stage();
    let peer = stage.peer();
    let bystander = Peer::new(peer.engine);
    let good = peer.raw_invite(&stage.uri("alice"), "");
    let good = good.replace("INVITE", "OPTIONS");
    for (serial, maddr) in ["[::1]", "127.0.0.1", "198.51.100.7"].iter().enumerate() {
        let port = bystander.address().port();
        let via = format!("Via: SIP/2.0/UDP 127.0.0.1:{port};maddr={maddr};");
        let ours = good.find("Via: ").map(|at| {
            let end = good[at..].find(';').expect("a branch");
            &good[at..=at + end]
        });
        let request = good.replace(ours.expect("a Via"), &via);
        let serial = format!("maddr-{serial}");
        peer.send(request.replace("SERIAL", &serial));
        let answered = peer.wait("an answer", |message| {
            message.status() >= 200
                && message
                    .header("call-id")
                    .is_some_and(|id| id.ends_with(&serial))
        });
        assert_eq!(answered.status(), 200, "{maddr}");
    }
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
}

#[test]
fn malformed_messages_are_survived() {
    let mut stage = stage();
    let peer = stage.peer();
    take_log();
    let good = peer.raw_invite(&stage.uri("alice"), &peer.usual_sdp());
    let mut bad: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"\r\n\r\n".to_vec(),
        b"INVITE".to_vec(),
        vec![0; 100],
        vec![0xff; 3_000],
        good.replace("Via:", "Vla:").into_bytes(),
        good.replace("CSeq: 1", "CSeq: 99999999999999999999")
            .into_bytes(),
        good.replace("Content-Length:", "Content-Length: 99999999\r\nX:")
            .into_bytes(),
        good.replace("Content-Length:", "Content-Length: -5\r\nX:")
            .into_bytes(),
        good.replace("From:", "From: <sip:%%%@>;;;\r\nFrom:")
            .into_bytes(),
        good.replace("INVITE sip:", "INVITE sip:%00%ff%zz")
            .into_bytes(),
        good.replace("INVITE sip:", "INVITE tel:").into_bytes(),
        good.replace("m=audio", "m=audio 99999999").into_bytes(),
        good.replace("c=IN IP4 127.0.0.1", "c=IN IP6 127.0.0.1")
            .into_bytes(),
        good.replace("v=0", "v=").into_bytes(),
        good.replace("a=rtpmap:0", "a=rtpmap:").into_bytes(),
        good.replace("a=fmtp:101", &"a=fmtp:101 0-15\r\n".repeat(300))
            .into_bytes(),
        good.replace("User: ", &"A".repeat(7_000)).into_bytes(),
    ];
    // Every prefix, and a byte turned at every place: seeded by position.
    bad.extend(
        (0..good.len())
            .step_by(23)
            .map(|end| good.as_bytes()[..end].to_vec()),
    );
    bad.extend((0..good.len()).step_by(11).map(|at| {
        let mut bytes = good.clone().into_bytes();
        bytes[at] ^= 0x5a;
        bytes
    }));
    for (serial, bytes) in bad.iter().enumerate() {
        let text = String::from_utf8_lossy(bytes).replace("SERIAL", &serial.to_string());
        peer.send(if text.contains('\u{fffd}') {
            bytes.clone()
        } else {
            text.into_bytes()
        });
        refuse_what_came(&mut stage);
    }
    // The last of the junk is read before this is answered.
    let mut dialog = peer.invite_nothing(&stage.uri("alice"));
    assert_eq!(dialog.ask("OPTIONS", "", "").status(), 200);
    eventually("what was still a call is over", || {
        refuse_what_came(&mut stage);
        stage.engine.stats().legs == 0
    });
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
    assert_eq!(stage.engine.stats().panics, 0);
    let log = take_log();
    assert!(!log.contains("ERROR"), "nobody's to act on: {log}");
    assert!(log.contains("WARN pjsip: "), "{log}");
}

/// pjsip copies the INVITE of a call, and its copy of credentials of another
/// scheme than Digest is null.
#[test]
fn credentials_of_any_scheme_leave_a_call_like_any_other() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.usual_sdp();
    for header in [
        "Proxy-Authenticate: NTLM x",
        "WWW-Authenticate: Bearer realm=\"a\"",
        "Authorization: Bearer x",
        "Proxy-Authorization: Basic YTpi",
        "Authorization: Digest username=\"a\", realm=\"b\", nonce=\"c\", uri=\"sip:d\", response=\"e\"",
    ] {
        let headers = format!("{header}\r\n");
        let (mut dialog, mut call, ..) = up_with(&mut stage, &peer, &sdp, &headers);
        bye(&mut dialog, &mut call);
    }
}

#[test]
fn a_way_back_that_is_no_sip_address_is_refused_and_the_next_call_works() {
    let mut stage = stage();
    let peer = stage.peer();
    let (to, sdp) = ("<sip:alice@example.test>", peer.usual_sdp());
    for header in [
        "Record-Route: <tel:+33>",
        "Record-Route: <sip:127.0.0.1;lr>, <mailto:a@b.test>",
        "Route: <tel:+33>",
        "Contact: <tel:+33>",
    ] {
        for _ in 0..2 {
            let headers = format!("{header}\r\n");
            let mut dialog = peer.invite(&stage.uri("alice"), to, &sdp, &headers);
            let refused = dialog.response(400);
            dialog.ack_refusal(&refused);
        }
    }
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    bye(&mut dialog, &mut call);
}

/// A caller who never says where his audio goes is hung up on. That is nothing for
/// an operator to act on, and he may do it all day.
#[test]
fn calls_that_a_caller_leaves_without_media_are_no_error_and_told_seldom() {
    let mut stage = stage();
    let peer = stage.peer();
    take_log();
    for _ in 0..5 {
        let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", "", "");
        let mut call = stage.incoming();
        stage.answer(&call, 200);
        let ok = dialog.response(200);
        dialog.learn(&ok);
        dialog.ack();
        dialog.serve("BYE", 200);
        assert_eq!(ended(&mut call).by, EndedBy::Failure);
    }
    let log = take_log();
    assert!(!log.contains("ERROR"), "{log}");
    let told = log
        .lines()
        .filter(|line| line.contains("never agreed upon"));
    let told: Vec<_> = told.collect();
    // Another scenario may have had the word that there is in ten seconds.
    assert!(told.len() <= 1, "{log}");
    assert!(told.iter().all(|line| line.contains("WARN")), "{log}");
}

/// Junk that was still good enough is a call.
fn refuse_what_came(stage: &mut Stage) {
    while let Ok(event) = stage.events.try_recv() {
        if let EngineEvent::Incoming(call) = event {
            stage.submit(Command::Reject {
                leg: call.leg,
                status: 480,
                retry_after: None,
            });
        }
    }
}
