//! A call's life: answer, audio, hold, digits, transfer, every way to end.

use std::time::Duration;

use sipbridge::core::ids::LineId;
use sipbridge::core::media_link::{Codec, Direction, SinkError};
use sipbridge::core::private::Private;
use sipbridge::sip::engine::{Command, EndedBy, LegEvent, SipEngine};
use tokio::sync::mpsc;

use crate::peer::{PATIENCE, Peer};
use crate::stage::{
    bye, ended, established, eventually, line_token, media, next, packet, stage, up,
};

#[test]
fn an_answered_call_carries_audio_both_ways_bit_exact() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "X-Trunk-Id: 42\r\n",
    );
    let mut call = stage.incoming();
    assert_eq!(call.line, LineId::new("main"));
    assert_eq!(call.caller.shown, Private::new("+33612345678"));
    assert_eq!(call.to, Private::new("alice"));
    assert_eq!(call.sip_call_id, dialog.call_id);
    assert_eq!(
        call.headers.get("x-trunk-id").map(String::as_str),
        Some("42")
    );
    assert_eq!(call.peer, peer.address());
    stage.answer(&call, 180);
    dialog.response(180);
    stage.answer(&call, 200);
    let ok = dialog.establish();
    let link = media(&mut call);
    established(&mut call);
    assert_eq!(
        link.format.codec,
        Codec::Pcmu,
        "PCMU first, whatever the offer's order"
    );
    assert_eq!(link.format.receive_payload_type, 0);
    assert_eq!(link.format.send_event_type, Some(101));
    assert_eq!(link.format.direction, Direction::SendRecv);
    assert!(ok.body.contains("RTP/AVP 0"), "{}", ok.body);
    let contact = ok.header("contact").expect("a Contact");
    assert!(
        contact.contains(&format!(";line={}", line_token(&LineId::new("main")))),
        "{contact}"
    );

    let bridge = ok.rtp_address().expect("an audio line");
    for sequence in 0..50 {
        let sent = Peer::rtp_packet(0, sequence, sequence as u8);
        peer.rtp.send_to(&sent, bridge).expect("loopback");
        assert_eq!(*packet(&mut call).bytes, *sent);
        let back = Peer::rtp_packet(0, sequence, 200 - sequence as u8);
        link.sink.send(&back).expect("the sink is open");
        let mut buffer = [0; 2_000];
        peer.rtp
            .set_read_timeout(Some(PATIENCE))
            .expect("a timeout");
        let (length, from) = peer.rtp.recv_from(&mut buffer).expect("RTP back");
        assert_eq!((&buffer[..length], from), (&back[..], bridge));
    }
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    let end = ended(&mut call);
    assert_eq!((end.by, end.status), (EndedBy::Remote, 200));
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));
    assert!(matches!(
        call.rtp.try_recv(),
        Err(mpsc::error::TryRecvError::Disconnected)
    ));
}

#[test]
fn early_media_flows_before_the_answer() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let mut call = stage.incoming();
    stage.answer(&call, 183);
    let progress = dialog.response(183);
    assert!(progress.rtp_address().is_some());
    let link = media(&mut call);
    link.sink
        .send(&Peer::rtp_packet(0, 1, 1))
        .expect("open before the answer");
    let mut buffer = [0; 2_000];
    peer.rtp
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    assert_eq!(peer.rtp.recv_from(&mut buffer).expect("early RTP").0, 172);
    stage.answer(&call, 200);
    dialog.establish();
    established(&mut call);
    bye(&mut dialog, &mut call);
}

#[test]
fn an_invite_without_offer_gets_ours() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", "", "");
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.response(200);
    assert!(ok.body.contains("m=audio"), "{}", ok.body);
    let first = ok
        .body
        .lines()
        .find(|line| line.starts_with("m=audio"))
        .expect("audio");
    assert!(first.contains("RTP/AVP 0 8"), "{first}");
    dialog.learn(&ok);
    dialog.ack_with(&peer.sdp("0", "a=sendrecv\r\n"));
    let link = loop {
        match next(&mut call.events, "media") {
            LegEvent::Media(link) => break link,
            LegEvent::Established => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(link.format.codec, Codec::Pcmu);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    ended(&mut call);
}

#[test]
fn hold_and_resume_change_the_direction_and_the_stream_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, first, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    for (attribute, direction, answer) in [
        ("sendonly", Direction::RecvOnly, "a=recvonly"),
        ("inactive", Direction::Inactive, "a=inactive"),
        ("sendrecv", Direction::SendRecv, "a=sendrecv"),
        ("recvonly", Direction::SendOnly, "a=sendonly"),
        ("sendrecv", Direction::SendRecv, "a=sendrecv"),
    ] {
        let sdp = peer
            .usual_sdp()
            .replace("a=sendrecv", &format!("a={attribute}"))
            .replace("o=- 1 1", "o=- 1 2");
        let ok = dialog.ask("INVITE", &sdp, "");
        assert_eq!(ok.status(), 200, "{attribute}");
        dialog.ack();
        assert!(ok.body.contains(answer), "{attribute}: {}", ok.body);
        let link = media(&mut call);
        assert_eq!(link.format.direction, direction, "{attribute}");
        assert_eq!(link.format.ssrc, first.format.ssrc, "one stream, one SSRC");
        assert_eq!(ok.rtp_address(), Some(bridge), "our socket stays");
    }
    let sent = Peer::rtp_packet(0, 9, 3);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    first
        .sink
        .send(&sent)
        .expect("the first sink is still the leg's");
    let ok = dialog.ask("UPDATE", "", "");
    assert_eq!(ok.status(), 200, "UPDATE without SDP refreshes");
    bye(&mut dialog, &mut call);
}

#[test]
fn a_reinvite_without_audio_is_refused_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _, _) = up(&mut stage, &peer, &peer.usual_sdp());
    let port = peer.rtp.local_addr().expect("bound").port();
    let without = peer
        .usual_sdp()
        .replace(&format!("m=audio {port} "), "m=audio 0 ");
    let ok = dialog.ask("INVITE", &without, "");
    dialog.ack();
    // RFC 3261, 14.2: the session stays as it was.
    assert_eq!(ok.status(), 488);
    let ok = dialog.ask("INVITE", &peer.usual_sdp(), "");
    assert_eq!(ok.status(), 200, "audio comes back");
    dialog.ack();
    let link = loop {
        let link = media(&mut call);
        if link.format.direction == Direction::SendRecv {
            break link;
        }
    };
    let bridge = ok.rtp_address().expect("an address for RTP");
    let sent = Peer::rtp_packet(0, 9, 3);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    link.sink.send(&sent).expect("the sink is open again");
    bye(&mut dialog, &mut call);
}

#[test]
fn session_timers_are_agreed_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let extra = "Supported: timer\r\nSession-Expires: 1800;refresher=uac\r\nMin-SE: 90\r\n";
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        extra,
    );
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.establish();
    assert_eq!(ok.header("session-expires"), Some("1800;refresher=uac"));
    assert_eq!(dialog.ask("UPDATE", "", extra).status(), 200);
    media(&mut call);
    established(&mut call);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_cancel_ends_a_ringing_call_with_487() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let mut call = stage.incoming();
    stage.answer(&call, 180);
    dialog.response(180);
    dialog.cancel();
    let terminated = dialog.response(487);
    dialog.ack_refusal(&terminated);
    let end = ended(&mut call);
    assert_eq!((end.by, end.status), (EndedBy::Remote, 487));
}

#[test]
fn our_hangup_is_a_bye_and_a_reject_carries_retry_after() {
    let mut stage = stage();
    let peer = stage.peer();
    let (dialog, mut call, link, _) = up(&mut stage, &peer, &peer.usual_sdp());
    stage.submit(Command::Hangup {
        leg: call.leg,
        status: 200,
    });
    dialog.serve("BYE", 200);
    let end = ended(&mut call);
    assert_eq!((end.by, end.status), (EndedBy::Local, 200));
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));

    let mut dialog = peer.invite(
        &stage.uri("alice"),
        "<sip:alice@example.test>",
        &peer.usual_sdp(),
        "",
    );
    let mut call = stage.incoming();
    let retry_after = Some(Duration::from_secs(30));
    stage.submit(Command::Reject {
        leg: call.leg,
        status: 486,
        retry_after,
    });
    let refusal = dialog.response(486);
    dialog.ack_refusal(&refusal);
    assert_eq!(refusal.header("retry-after"), Some("30"));
    assert_eq!((ended(&mut call).by), EndedBy::Local);
}

#[test]
fn digits_by_info_and_other_info_are_answered() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    for (content_type, body, status, digit) in [
        (
            "application/dtmf-relay",
            "Signal=5\r\nDuration=160\r\n",
            200,
            Some('5'),
        ),
        (
            "application/dtmf-relay",
            "Signal= #\r\nDuration= 100\r\n",
            200,
            Some('#'),
        ),
        (
            "application/dtmf-relay",
            "Signal=10\r\nDuration=160\r\n",
            200,
            Some('*'),
        ),
        (
            "application/dtmf-relay",
            "Signal=11\r\nDuration=160\r\n",
            200,
            Some('#'),
        ),
        ("application/dtmf", "7", 200, Some('7')),
        ("application/dtmf", "*", 200, Some('*')),
        ("application/dtmf", "hello", 400, None),
        ("application/dtmf-relay", "nothing", 400, None),
        ("text/plain", "hello", 415, None),
        ("text/plain", "", 200, None),
    ] {
        let answered = dialog.ask("INFO", body, &format!("Content-Type: {content_type}\r\n"));
        assert_eq!(answered.status(), status, "{content_type} {body:?}");
        if let Some(digit) = digit {
            match next(&mut call.events, "digit") {
                LegEvent::Digit(got) => assert_eq!(got, digit),
                other => panic!("{other:?}"),
            }
        }
    }
    assert!(call.events.try_recv().is_err());
    bye(&mut dialog, &mut call);
}

#[test]
fn a_blind_transfer_reports_its_progress() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    stage.submit(Command::Transfer {
        leg: call.leg,
        destination: Private::new("+33800"),
    });
    let refer = dialog.serve("REFER", 202);
    assert_eq!(refer.header("refer-to"), Some("<sip:+33800@example.test>"));
    for (status, state) in [
        ("100 Trying", "active"),
        ("200 OK", "terminated;reason=noresource"),
    ] {
        let extra = format!(
            "Event: refer\r\nSubscription-State: {state}\r\nContent-Type: message/sipfrag\r\n"
        );
        let answered = dialog.ask("NOTIFY", &format!("SIP/2.0 {status}\r\n"), &extra);
        assert_eq!(answered.status(), 200);
    }
    let last = loop {
        match next(&mut call.events, "transfer") {
            LegEvent::Transfer { status, last: true } => break status,
            LegEvent::Transfer { .. } => {}
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(last, 200);
    bye(&mut dialog, &mut call);
}

#[test]
fn a_driver_that_is_gone_loses_its_leg() {
    let mut stage = stage();
    let peer = stage.peer();
    let (dialog, call, link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    drop(call);
    peer.rtp
        .send_to(&Peer::rtp_packet(0, 1, 1), bridge)
        .expect("loopback");
    dialog.serve("BYE", 200);
    eventually("the leg ends", || stage.engine.stats().legs == 0);
    assert_eq!(link.sink.send(&[0x80; 172]), Err(SinkError::Closed));

    // Without any RTP or event to notice it by.
    let (dialog, call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    drop(call);
    dialog.serve("BYE", 200);
}

#[test]
fn pjsip_threads_show_signs_of_life() {
    let stage = stage();
    let first = stage.engine.beats();
    eventually("both threads beat", || {
        let now = stage.engine.beats();
        now.worker > first.worker && now.control > first.control
    });
}

/// Refused by pjsip three times, as when the call is locked for too long: the
/// caller still gets his BYE.
#[test]
fn a_hang_up_that_is_refused_is_tried_until_the_call_is_gone() {
    let mut stage = stage();
    let peer = stage.peer();
    let (dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    let before = stage.engine.stats();
    stage.engine.fail_hangups(3);
    stage.submit(Command::Hangup {
        leg: call.leg,
        status: 480,
    });
    assert_eq!(ended(&mut call).by, EndedBy::Local, "for us it is over");
    eventually("it waits for another try", || {
        stage.engine.stats().hangups_pending == before.hangups_pending + 1
    });
    dialog.serve("BYE", 200);
    eventually("nothing waits any more", || {
        stage.engine.stats().hangups_pending == before.hangups_pending
    });
    assert_eq!(
        stage.engine.stats().hangups_refused,
        before.hangups_refused + 1
    );
}

/// What is over in the meantime is not tried again, and its id is another's.
#[test]
fn a_hang_up_that_is_refused_ends_no_other_call() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    stage.engine.fail_hangups(1);
    stage.submit(Command::Hangup {
        leg: call.leg,
        status: 480,
    });
    ended(&mut call);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    assert!(
        peer.try_wait(std::time::Duration::from_millis(1_200), |message| {
            message.method() == "BYE" && message.header("call-id") == Some(&dialog.call_id)
        })
        .is_none()
    );
    bye(&mut dialog, &mut call);
}
