//! What is accepted of an SDP offer, and what is answered where nothing is.

use sipbridge::core::media_link::Codec;
use sipbridge::sip::engine::SipEngine;

use crate::peer::{PATIENCE, Peer};
use crate::stage::{bye, established, media, packet, stage, up};

#[test]
fn an_offer_with_pcma_alone_is_accepted() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.sdp("18 8", "a=rtpmap:18 G729/8000\r\na=rtpmap:8 PCMA/8000\r\n");
    let (mut dialog, mut call, link, bridge) = up(&mut stage, &peer, &sdp);
    assert_eq!(
        (link.format.codec, link.format.receive_payload_type),
        (Codec::Pcma, 8)
    );
    assert_eq!(
        (link.format.send_event_type, link.format.receive_event_type),
        (None, None)
    );
    let sent = Peer::rtp_packet(8, 1, 7);
    peer.rtp.send_to(&sent, bridge).expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    bye(&mut dialog, &mut call);
}

#[test]
fn static_payload_types_need_no_rtpmap_and_odd_event_types_are_kept() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.sdp("8 0 96", "a=rtpmap:96 telephone-event/8000\r\n");
    let (mut dialog, mut call, link, _) = up(&mut stage, &peer, &sdp);
    assert_eq!(link.format.codec, Codec::Pcmu);
    assert_eq!(link.format.send_event_type, Some(96));
    bye(&mut dialog, &mut call);
}

#[test]
fn opus_is_taken_where_nothing_else_is_offered() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = peer.sdp("111", "a=rtpmap:111 opus/48000/2\r\n");
    let (mut dialog, mut call, link, _) = up(&mut stage, &peer, &sdp);
    assert_eq!(
        (link.format.codec, link.format.send_payload_type),
        (Codec::Opus, 111)
    );
    bye(&mut dialog, &mut call);
}

#[test]
fn no_common_codec_is_488_and_leaves_nothing_behind() {
    let stage = stage();
    let peer = stage.peer();
    let sdp = peer.sdp("18", "a=rtpmap:18 G729/8000\r\n");
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", &sdp, "");
    let refusal = dialog.response(488);
    dialog.ack_refusal(&refusal);
    assert_eq!(stage.engine.stats().legs, 0);
}

/// What carriers and PBXs send that a strict reader would refuse.
#[test]
fn loose_forms_of_an_offer_are_understood() {
    let mut stage = stage();
    let peer = stage.peer();
    let usual = peer.usual_sdp();
    let many: String = (96..127).map(|format| format!(" {format}")).collect();
    let audio = usual.lines().find(|line| line.starts_with("m=audio"));
    let audio = audio.expect("an audio line");
    for offer in [
        usual.replace("s=-\r\n", "s=\r\n"),
        usual.replace("s=-\r\n", ""),
        usual.replace(audio, &format!("{audio} 111")),
        usual.replace(audio, &format!("{audio}{many}")),
    ] {
        assert_ne!(offer, usual);
        let (mut dialog, mut call, _, bridge) = up(&mut stage, &peer, &offer);
        let sent = Peer::rtp_packet(0, 1, 9);
        peer.rtp.send_to(&sent, bridge).expect("loopback");
        assert_eq!(*packet(&mut call).bytes, *sent, "{offer}");
        bye(&mut dialog, &mut call);
    }
}

#[test]
fn video_is_declined_and_audio_works() {
    let mut stage = stage();
    let peer = stage.peer();
    let sdp = format!(
        "{}m=video 5004 RTP/AVP 97\r\na=rtpmap:97 H264/90000\r\nm=text 5006 RTP/AVP 98\r\na=rtpmap:98 t140/1000\r\n\
         m=image 5008 udptl t38\r\n",
        peer.usual_sdp()
    );
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", &sdp, "");
    let mut call = stage.incoming();
    stage.answer(&call, 180);
    dialog.response(180);
    stage.answer(&call, 200);
    let ok = dialog.establish();
    media(&mut call);
    established(&mut call);
    assert!(ok.body.contains("m=video 0 "), "{}", ok.body);
    assert!(ok.body.contains("m=image 0 "), "{}", ok.body);
    assert!(ok.body.contains("m=text 0 "), "{}", ok.body);
    let sent = Peer::rtp_packet(0, 1, 9);
    peer.rtp
        .send_to(&sent, ok.rtp_address().expect("audio"))
        .expect("loopback");
    assert_eq!(*packet(&mut call).bytes, *sent);
    bye(&mut dialog, &mut call);
}

#[test]
fn srtp_by_sdes_is_accepted_where_it_is_offered() {
    let mut stage = stage();
    let peer = stage.peer();
    let crypto =
        "a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj\r\n";
    let sdp = format!("{}{crypto}", peer.usual_sdp()).replace("RTP/AVP", "RTP/SAVP");
    let mut dialog = peer.invite(&stage.uri("alice"), "<sip:alice@example.test>", &sdp, "");
    let mut call = stage.incoming();
    stage.answer(&call, 200);
    let ok = dialog.establish();
    assert!(
        ok.body.contains("RTP/SAVP 0") && ok.body.contains("a=crypto:1 AES_CM_128_HMAC_SHA1_80"),
        "{}",
        ok.body
    );
    let link = media(&mut call);
    established(&mut call);
    // What we send is protected: longer by the tag, payload unreadable.
    let plain = Peer::rtp_packet(0, 1, 1);
    link.sink.send(&plain).expect("open");
    let mut buffer = [0; 2_000];
    peer.rtp
        .set_read_timeout(Some(PATIENCE))
        .expect("a timeout");
    let length = peer.rtp.recv_from(&mut buffer).expect("SRTP").0;
    assert_eq!(length, plain.len() + 10);
    assert_ne!(buffer[12..172], plain[12..]);
    // Unprotected RTP is not taken in its place.
    peer.rtp
        .send_to(&plain, ok.rtp_address().expect("audio"))
        .expect("loopback");
    bye(&mut dialog, &mut call);
    assert!(call.rtp.try_recv().is_err(), "plain RTP got through");
}
