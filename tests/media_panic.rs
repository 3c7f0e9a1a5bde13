//! A panic where a call takes its RTP, on pjsip's own media thread. A process of
//! its own: all other scenarios assert that there was none.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a failed step is a failed test"
)]

use std::sync::Arc;
use std::time::Instant;

use sipbridge::core::media_link::RtpTap;
use sipbridge::sip::engine::{EndedBy, SipEngine};

#[expect(dead_code, reason = "shared with the scenarios of pjsip")]
#[path = "pjsip/peer.rs"]
mod peer;
#[expect(dead_code, reason = "shared with the scenarios of pjsip")]
#[path = "pjsip/stage.rs"]
mod stage;

use peer::Peer;
use stage::{bye, ended, packet, stage, up};

/// What takes a call's RTP, and fails.
struct Panics;

impl RtpTap for Panics {
    fn handle_rtp(&self, _: Instant, _: &[u8]) {
        panic!("injected by the test");
    }
}

#[test]
fn a_panic_on_the_media_thread_ends_that_call_and_no_other() {
    let mut stage = stage();
    let (peer, other) = (stage.peer(), stage.peer());
    let (mut dialog, mut well, _link, bridge) = up(&mut stage, &other, &other.usual_sdp());
    let (failing, mut call, _, its_bridge) = up(&mut stage, &peer, &peer.usual_sdp());
    let before = stage.engine.stats().panics;
    call.rtp.tap(Arc::new(Panics));
    for sequence in 0..50 {
        let packet = Peer::rtp_packet(0, sequence, 1);
        peer.rtp.send_to(&packet, its_bridge).expect("loopback");
    }
    failing.serve("BYE", 200);
    assert_eq!(ended(&mut call).by, EndedBy::Failure);
    assert_eq!(stage.engine.stats().panics, before + 1, "once for the call");
    let packet_of_other = Peer::rtp_packet(0, 1, 1);
    other
        .rtp
        .send_to(&packet_of_other, bridge)
        .expect("loopback");
    packet(&mut well);
    bye(&mut dialog, &mut well);
}
