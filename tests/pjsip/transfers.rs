//! What becomes of a REFER: each transfer has one outcome, and one that fails
//! leaves the call up.

use std::time::Duration;

use sipbridge::core::private::Private;
use sipbridge::sip::engine::{Command, IncomingCall, LegEvent, SipEngine};

use crate::peer::{Dialog, PATIENCE, Peer};
use crate::stage::{CALLS_MAX, Stage, bye, fresh_stage, next, packet, stage, up};

/// Places that pjsua has beyond those of calls.
const SPARE_PLACES: usize = 64;

/// Body and Subscription-State of a NOTIFY.
type Notify = (&'static str, &'static str);

fn refer(stage: &Stage, call: &IncomingCall) {
    stage.submit(Command::Transfer {
        leg: call.leg,
        destination: Private::new("+33800"),
    });
}

/// The statuses of a transfer, up to its last one.
fn outcome(call: &mut IncomingCall) -> Vec<u16> {
    let mut statuses = Vec::new();
    loop {
        match next(&mut call.events, "transfer") {
            LegEvent::Transfer { status, last } => {
                statuses.push(status);
                if last {
                    return statuses;
                }
            }
            other => panic!("{other:?}"),
        }
    }
}

fn notify(dialog: &mut Dialog<'_>, body: &str, state: &str) {
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: message/sipfrag\r\n"
    };
    let extra = format!("Event: refer\r\nSubscription-State: {state}\r\n{kind}");
    assert_eq!(dialog.ask("NOTIFY", body, &extra).status(), 200);
}

/// The call goes on: no more events of the transfer, and audio.
fn goes_on(call: &mut IncomingCall, peer: &Peer, bridge: std::net::SocketAddr) {
    peer.rtp
        .send_to(&Peer::rtp_packet(0, 1, 1), bridge)
        .expect("loopback");
    packet(call);
    assert!(call.events.try_recv().is_err());
}

#[test]
fn a_refused_refer_is_told_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    for status in [405, 603, 481, 503] {
        refer(&stage, &call);
        dialog.serve("REFER", status);
        assert_eq!(outcome(&mut call), [status]);
        goes_on(&mut call, &peer, bridge);
    }
    bye(&mut dialog, &mut call);
}

#[test]
fn a_transfer_that_fails_after_202_is_told_and_the_call_goes_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    let over = "terminated;reason=noresource";
    let cases: &[(&[Notify], &[u16])] = &[
        (
            &[
                ("SIP/2.0 100 Trying\r\n", "active"),
                ("SIP/2.0 486 Busy Here\r\n", over),
            ],
            &[100, 100, 486],
        ),
        (&[("SIP/2.0 603 Decline\r\n", over)], &[100, 603]),
        // A final status without the end of the subscription.
        (
            &[
                ("SIP/2.0 503 Away\r\n", "active;expires=60"),
                ("SIP/2.0 503 Away\r\n", over),
            ],
            &[100, 503],
        ),
        // The end without an outcome.
        (&[("", over)], &[100, 500]),
        (&[("nonsense\r\n", over)], &[100, 500]),
        (
            &[("SIP/2.0 180 Ringing\r\n", "terminated;reason=timeout")],
            &[100, 500],
        ),
    ];
    for (notifies, expected) in cases {
        refer(&stage, &call);
        dialog.serve("REFER", 202);
        for (body, state) in *notifies {
            notify(&mut dialog, body, state);
        }
        assert_eq!(outcome(&mut call), *expected, "{notifies:?}");
        goes_on(&mut call, &peer, bridge);
    }
    bye(&mut dialog, &mut call);
}

#[test]
fn a_success_is_told_once_also_when_the_subscription_lives_on() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    refer(&stage, &call);
    dialog.serve("REFER", 202);
    notify(&mut dialog, "SIP/2.0 200 OK\r\n", "active;expires=60");
    assert_eq!(outcome(&mut call), [100, 200]);
    // pjsip takes its subscription back, and the other side knows of none.
    dialog.serve("SUBSCRIBE", 481);
    goes_on(&mut call, &peer, bridge);
    bye(&mut dialog, &mut call);
}

/// RFC 3261 gives a request 32 s.
#[test]
fn a_refer_that_is_never_answered_is_told() {
    let mut stage = stage();
    let peer = stage.peer();
    let (mut dialog, mut call, _link, bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    refer(&stage, &call);
    let began = std::time::Instant::now();
    let event = loop {
        match call.events.try_recv() {
            Ok(event) => break event,
            Err(_) => std::thread::sleep(Duration::from_millis(50)),
        }
        assert!(began.elapsed() < Duration::from_secs(32) + PATIENCE);
    };
    assert!(
        matches!(event, LegEvent::Transfer { status, last: true } if status >= 300),
        "{event:?}"
    );
    goes_on(&mut call, &peer, bridge);
    bye(&mut dialog, &mut call);
    assert_eq!(stage.engine.stats().panics, 0);
}

/// pjsua gives the place of a call that ended to another one, while the dialog and the
/// subscription of its REFER live on.
#[test]
fn the_news_of_an_ended_calls_transfer_end_no_other_calls_transfer() {
    let mut stage = fresh_stage();
    let peer = stage.peer();
    let (mut old_dialog, mut old, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    refer(&stage, &old);
    old_dialog.serve("REFER", 202);
    let accepted = next(&mut old.events, "accepted");
    assert!(matches!(accepted, LegEvent::Transfer { status: 100, .. }));
    bye(&mut old_dialog, &mut old);
    // Each takes the next place: then comes the old call's again.
    for _ in 1..CALLS_MAX + SPARE_PLACES {
        let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
        bye(&mut dialog, &mut call);
    }
    let (mut dialog, mut call, ..) = up(&mut stage, &peer, &peer.usual_sdp());
    refer(&stage, &call);
    dialog.serve("REFER", 202);
    let extra = "Event: refer\r\nSubscription-State: terminated;reason=noresource\r\nContent-Type: message/sipfrag\r\n";
    old_dialog.ask("NOTIFY", "SIP/2.0 200 OK\r\n", extra);
    notify(
        &mut dialog,
        "SIP/2.0 486 Busy Here\r\n",
        "terminated;reason=noresource",
    );
    assert_eq!(outcome(&mut call), [100, 486]);
    bye(&mut dialog, &mut call);
}
