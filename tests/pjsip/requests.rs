//! Requests inside a call that end nothing: each has its answer, and the call
//! goes on.

use sipbridge::core::private::Private;
use sipbridge::sip::engine::{Command, LegEvent, SipEngine};

use crate::peer::Peer;
use crate::stage::{CALLS_MAX, bye, ended, established, media, next, packet, stage, up};

#[test]
fn each_request_in_a_call_has_its_answer_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    let text = "Content-Type: text/plain\r\n";
    let json = "Content-Type: application/json\r\n";
    let state = "Subscription-State: active;expires=60\r\n";
    for (method, extra, body, status, header) in [
        ("OPTIONS", String::new(), "", 200, "allow"),
        (
            "OPTIONS",
            "Accept: application/sdp\r\n".into(),
            "",
            200,
            "allow",
        ),
        (
            "NOTIFY",
            format!("Event: keep-alive\r\n{state}"),
            "",
            489,
            "allow-events",
        ),
        (
            "NOTIFY",
            format!("Event: message-summary\r\n{state}"),
            "",
            489,
            "allow-events",
        ),
        (
            "NOTIFY",
            format!("o: talk\r\n{state}"),
            "",
            489,
            "allow-events",
        ),
        ("NOTIFY", state.into(), "", 489, "allow-events"),
        // There was no REFER of ours.
        ("NOTIFY", format!("Event: refer\r\n{state}"), "", 481, ""),
        ("MESSAGE", text.into(), "hello", 200, ""),
        ("MESSAGE", String::new(), "", 200, ""),
        ("MESSAGE", json.into(), "{}", 415, "accept"),
        ("PRACK", "RAck: 1 1 INVITE\r\n".into(), "", 481, ""),
        (
            "SUBSCRIBE",
            "Event: dialog\r\nExpires: 60\r\n".into(),
            "",
            405,
            "allow",
        ),
        ("PUBLISH", "Event: presence\r\n".into(), "", 405, "allow"),
        ("REGISTER", String::new(), "", 405, "allow"),
        ("FOO", String::new(), "", 501, "allow"),
        (
            "BENOTIFY",
            format!("Event: refer\r\n{state}"),
            "",
            501,
            "allow",
        ),
        ("INFO", json.into(), "{}", 415, "accept"),
    ] {
        let answered = dialog.ask(method, body, &extra);
        assert_eq!(answered.status(), status, "{method} {extra:?}");
        let has = header.is_empty() || answered.header(header).is_some();
        assert!(has, "{method} {extra:?}: {answered:?}");
    }
    let options = dialog.ask("OPTIONS", "", "");
    let allow = options.header("allow").expect("an Allow header");
    for method in ["INVITE", "BYE", "UPDATE", "INFO", "NOTIFY", "MESSAGE"] {
        assert!(allow.contains(method), "{allow}");
    }
    let sent = Peer::rtp_packet(0, 7, 7);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    assert!(
        call.events.try_recv().is_err(),
        "none of it is anybody's business"
    );
    bye(&mut dialog, &mut call);
    assert_eq!(stage.engine.stats().panics, 0);
}

#[test]
fn other_events_do_not_disturb_the_subscription_of_a_transfer() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    stage.submit(Command::Transfer {
        leg: call.leg,
        destination: Private::new("+33800"),
    });
    dialog.serve("REFER", 202);
    let mut notify = |event: &str, body: &str, state: &str| {
        let kind = match body {
            "" => "",
            _ => "Content-Type: message/sipfrag\r\n",
        };
        let extra = format!("Event: {event}\r\nSubscription-State: {state}\r\n{kind}");
        dialog.ask("NOTIFY", body, &extra).status()
    };
    assert_eq!(notify("keep-alive", "", "active"), 489);
    assert_eq!(notify("refer", "SIP/2.0 100 Trying\r\n", "active"), 200);
    assert_eq!(notify("message-summary", "", "terminated"), 489);
    let over = "terminated;reason=noresource";
    assert_eq!(notify("refer", "SIP/2.0 486 Busy\r\n", over), 200);
    let mut told = Vec::new();
    while told.last() != Some(&(486, true)) {
        match next(&mut call.events, "transfer") {
            LegEvent::Transfer { status, last } => told.push((status, last)),
            other => panic!("{other:?}"),
        }
        assert!(told.len() < 5, "{told:?}");
    }
    bye(&mut dialog, &mut call);
}

#[test]
fn requests_before_the_answer_have_one_too() {
    let mut stage = stage();
    let peer = stage.peer();
    let to = "<sip:alice@example.test>";
    let mut dialog = peer.invite(&stage.uri("alice"), to, &peer.usual_sdp(), "");
    let mut call = stage.incoming();
    stage.answer(&call, 180);
    let ringing = dialog.response(180);
    dialog.learn(&ringing);
    for (method, status) in [("OPTIONS", 200), ("MESSAGE", 200), ("FOO", 501)] {
        assert_eq!(dialog.ask(method, "", "").status(), status, "{method}");
    }
    stage.answer(&call, 200);
    dialog.response(200);
    dialog.ack_of(1);
    media(&mut call);
    established(&mut call);
    assert_eq!(dialog.ask("BYE", "", "").status(), 200);
    ended(&mut call);
}

#[test]
fn digits_by_info_in_the_forms_of_gateways_are_told_once() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    for (content_type, body, status, digits) in [
        (
            "application/dtmf-relay",
            "SIGNAL=7\r\nDURATION=160\r\n",
            200,
            "7",
        ),
        ("application/dtmf-relay", "signal = 7", 200, "7"),
        ("Application/DTMF-Relay", "Signal= 10\r\n", 200, "*"),
        (
            "application/dtmf-relay;charset=utf-8",
            "Signal=#\r\n",
            200,
            "#",
        ),
        (
            "application/dtmf-relay",
            "Signal=5\r\nDuration\r\n",
            200,
            "5",
        ),
        ("application/dtmf", "d=5", 200, "5"),
        ("application/dtmf", "12", 200, "12"),
        ("application/dtmf", " 9\r\n", 200, "9"),
        ("application/dtmf", "12345678901234567", 400, ""),
        ("application/dtmf-relay", "Signal=\r\n", 400, ""),
    ] {
        let answered = dialog.ask("INFO", body, &format!("Content-Type: {content_type}\r\n"));
        assert_eq!(answered.status(), status, "{content_type} {body:?}");
        for digit in digits.chars() {
            match next(&mut call.events, "digit") {
                LegEvent::Digit(got) => assert_eq!(got, digit, "{content_type} {body:?}"),
                other => panic!("{other:?}"),
            }
        }
        assert!(call.events.try_recv().is_err(), "{content_type} {body:?}");
    }
    bye(&mut dialog, &mut call);
}

/// pjsua gives a call's place to another call at once, while the dialog of the first lives on for
/// 32 s (RFC 3261 timer J). What comes in it then is no business of the call in its place.
#[test]
fn requests_in_the_dialog_of_an_ended_call_reach_no_other_call() {
    let mut stage = stage();
    let peer = stage.peer();
    let mut ended = Vec::new();
    // More than pjsua has places.
    for _ in 0..2 * CALLS_MAX {
        let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
        bye(&mut dialog, &mut call);
        ended.push(dialog);
    }
    let (mut live, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    for dialog in &mut ended {
        let body = "Signal=7\r\nDuration=160\r\n";
        let answered = dialog.ask("INFO", body, "Content-Type: application/dtmf-relay\r\n");
        assert!(answered.status() >= 400, "{}", answered.status());
        let refer = "Refer-To: <sip:other@127.0.0.1>\r\n";
        let answered = dialog.ask("REFER", "", refer);
        assert_ne!(
            answered.status(),
            603,
            "the call was asked, or a call at least"
        );
    }
    assert!(call.events.try_recv().is_err(), "a digit of another call");
    bye(&mut live, &mut call);
}
