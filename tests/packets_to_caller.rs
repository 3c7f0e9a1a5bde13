//! What the caller hears and when: every tick a packet, comfort audio, marks,
//! digits, hold, skips, other codecs. The downlink, judged by its RTP packets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;
use std::time::Instant;

use sipbridge::core::g711::{Gain, MULAW_SILENCE, MULAW_TO_ALAW};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::downlink::{DigitsRefused, IdleAudio};
use sipbridge::core::media_session::playout::{FRAME_BYTES, MAX_PENDING_MARKS, MarkPlaced};
use sipbridge::core::media_session::{MediaSession, SessionConfig};
use sipbridge::core::rtp::RtpHeader;
use sipbridge::core::telephone_event::TelephoneEvent;

const FORMAT: MediaFormat = MediaFormat {
    codec: Codec::Pcmu,
    send_payload_type: 0,
    receive_payload_type: 0,
    send_event_type: Some(101),
    receive_event_type: Some(101),
    ssrc: 0xABCD,
    direction: Direction::SendRecv,
};

fn session(format: MediaFormat) -> MediaSession {
    with_gain(format, Gain::default())
}

fn with_gain(format: MediaFormat, tx_gain: Gain) -> MediaSession {
    MediaSession::new(SessionConfig {
        format,
        rx_gain: Gain::default(),
        tx_gain,
        sequence: 65_535,
        timestamp: 1_000,
        now: Instant::now(),
    })
    .unwrap()
}

fn audio(frames: usize, code: u8) -> Vec<u8> {
    vec![code; frames * FRAME_BYTES]
}

/// One tick; the packet's header and payload.
fn tick(session: &mut MediaSession) -> Option<(RtpHeader, Vec<u8>)> {
    session.handle_tick(Instant::now());
    let (header, payload) = RtpHeader::parse(session.poll_transmit()?)?;
    Some((header, payload.to_vec()))
}

fn echoes(session: &mut MediaSession) -> Vec<String> {
    let mut echoes = Vec::new();
    session.handle.drain_echoes(&mut echoes);
    echoes.into_iter().map(|echo| echo.name).collect()
}

#[test]
fn a_packet_every_tick_and_a_marker_where_sound_begins() {
    let mut session = session(FORMAT);
    let (first, silence) = tick(&mut session).unwrap();
    assert_eq!(silence, [MULAW_SILENCE; FRAME_BYTES]);
    assert_eq!(
        (first.sequence, first.timestamp, first.ssrc),
        (65_535, 1_000, 0xABCD)
    );
    assert!(!first.marker);
    session.handle_worker_audio(&audio(2, 1));
    let (second, payload) = tick(&mut session).unwrap();
    assert_eq!((second.sequence, second.timestamp), (0, 1_160));
    assert_eq!(payload, [1; FRAME_BYTES]);
    assert!(second.marker);
    assert!(!tick(&mut session).unwrap().0.marker);
    assert!(!tick(&mut session).unwrap().0.marker);
}

#[test]
fn comfort_is_heard_only_while_nothing_is_queued() {
    let mut session = session(FORMAT);
    let tone: Arc<[u8]> = (0..240).map(|n| n as u8).collect();
    session.handle.set_idle_audio(IdleAudio::Loop(tone));
    assert!(session.handle.is_drained());
    assert_eq!(tick(&mut session).unwrap().1[159], 159);
    session.handle_worker_audio(&audio(1, 7));
    assert_eq!(tick(&mut session).unwrap().1[0], 7);
    let wrapped = tick(&mut session).unwrap().1;
    assert_eq!((wrapped[79], wrapped[80]), (239, 0));
    session
        .handle
        .set_idle_audio(IdleAudio::Once(vec![5; 200].into()));
    assert!(!session.handle.is_drained());
    assert_eq!(tick(&mut session).unwrap().1, [5; FRAME_BYTES]);
    assert_eq!(tick(&mut session).unwrap().1[39..41], [5, MULAW_SILENCE]);
    assert!(!session.handle.is_drained());
    tick(&mut session);
    assert!(session.handle.is_drained());
}

#[test]
fn the_driver_is_woken_for_marks_and_for_the_drain() {
    let mut session = session(FORMAT);
    session.handle_worker_audio(&audio(1, 1));
    assert_eq!(session.handle.mark("a".into()), MarkPlaced::Waiting);
    session.handle_worker_audio(&audio(1, 1));
    session.handle.notify_drained();
    assert!(!session.handle_tick(Instant::now()));
    assert!(session.handle_tick(Instant::now()));
    assert_eq!(echoes(&mut session), ["a"]);
    assert!(session.handle_tick(Instant::now()), "drained");
    assert!(session.handle.is_drained());
    assert!(!session.handle_tick(Instant::now()));
    assert_eq!(session.handle.mark("b".into()), MarkPlaced::Ready);
    assert_eq!(echoes(&mut session), ["b"]);
}

#[test]
fn clear_is_silence_at_the_next_tick() {
    let mut session = session(FORMAT);
    session.handle_worker_audio(&audio(30_000, 1));
    session.handle.mark("a".into());
    tick(&mut session);
    let cleared = session.handle.clear();
    assert_eq!((cleared.bytes, cleared.marks), (29_999 * FRAME_BYTES, 1));
    assert_eq!(echoes(&mut session), ["a"]);
    assert_eq!(tick(&mut session).unwrap().1, [MULAW_SILENCE; FRAME_BYTES]);
}

#[test]
fn marks_are_bounded() {
    let mut session = session(FORMAT);
    session.handle_worker_audio(&audio(1, 1));
    for number in 0..MAX_PENDING_MARKS {
        assert_eq!(session.handle.mark(number.to_string()), MarkPlaced::Waiting);
    }
    assert_eq!(session.handle.mark("over".into()), MarkPlaced::Refused);
    assert_eq!(session.handle.stats().marks_refused, 1);
}

#[test]
fn digits_take_the_place_of_audio_and_no_audio_is_lost() {
    let mut session = session(FORMAT);
    assert_eq!(
        session.handle.send_digits("1x"),
        Err(DigitsRefused::Invalid)
    );
    session.handle_worker_audio(&audio(1, 9));
    session.handle.send_digits("7").unwrap();
    let packets: Vec<_> = (0..12).map(|_| tick(&mut session).unwrap()).collect();
    let events: Vec<_> = packets
        .iter()
        .filter(|(header, _)| header.payload_type == 101)
        .collect();
    assert_eq!(events.len(), 8);
    assert!(events.iter().all(|(header, _)| header.timestamp == 1_000));
    assert!(events[0].0.marker && !events[1].0.marker);
    let last = TelephoneEvent::parse(&events[7].1).unwrap();
    assert_eq!((last.digit, last.end, last.duration), ('7', true, 960));
    assert_eq!(packets[11].1, [9; FRAME_BYTES]);
    assert_eq!(packets[11].0.timestamp, 1_000 + 11 * 160);
    let plain = MediaFormat {
        send_event_type: None,
        ..FORMAT
    };
    session.handle.set_format(&plain).unwrap();
    assert_eq!(
        session.handle.send_digits("1"),
        Err(DigitsRefused::NotNegotiated)
    );
}

#[test]
fn on_hold_nothing_is_sent_and_time_runs_on() {
    let mut session = session(FORMAT);
    let held = MediaFormat {
        direction: Direction::Inactive,
        ..FORMAT
    };
    let first = tick(&mut session).unwrap().0;
    session.handle.set_format(&held).unwrap();
    session.handle_worker_audio(&audio(1, 1));
    session.handle.mark("a".into());
    assert_eq!(tick(&mut session), None);
    assert_eq!(tick(&mut session), None);
    assert_eq!(echoes(&mut session), ["a"]);
    session.handle.set_format(&FORMAT).unwrap();
    let next = tick(&mut session).unwrap().0;
    assert_eq!(next.sequence, first.sequence.wrapping_add(1));
    assert_eq!(next.timestamp, first.timestamp + 3 * 160);
}

#[test]
fn a_skip_moves_the_timestamp_alone() {
    let mut session = session(FORMAT);
    let first = tick(&mut session).unwrap().0;
    session.downlink.skip(25);
    let next = tick(&mut session).unwrap().0;
    assert_eq!(next.sequence, first.sequence.wrapping_add(1));
    assert_eq!(next.timestamp, first.timestamp + 26 * 160);
    assert_eq!(session.handle.stats().skipped_frames, 25);
}

#[test]
fn other_codecs_and_gain() {
    let pcma = MediaFormat {
        codec: Codec::Pcma,
        send_payload_type: 8,
        ..FORMAT
    };
    let mut alaw = session(pcma);
    alaw.handle_worker_audio(&audio(1, 0x12));
    let (header, payload) = tick(&mut alaw).unwrap();
    assert_eq!((header.payload_type, payload[0]), (8, MULAW_TO_ALAW[0x12]));
    let mut mute = with_gain(FORMAT, Gain::from_factor(0.0));
    mute.handle_worker_audio(&audio(1, 0x12));
    assert_eq!(tick(&mut mute).unwrap().1, [MULAW_SILENCE; FRAME_BYTES]);
    let opus = MediaFormat {
        codec: Codec::Opus,
        send_payload_type: 96,
        ..FORMAT
    };
    alaw.handle.set_format(&opus).unwrap();
    let (first, payload) = tick(&mut alaw).unwrap();
    assert!(!payload.is_empty());
    assert_eq!(tick(&mut alaw).unwrap().0.timestamp, first.timestamp + 960);
}

#[test]
fn on_hold_everything_of_the_worker_waits_and_only_digits_pass() {
    let mut session = session(FORMAT);
    session.handle_worker_audio(&audio(3, 1));
    session.handle.mark("heard".into());
    tick(&mut session);
    session
        .handle
        .set_hold(Some((0..240).map(|n| n as u8).collect()));
    for expected in [0, 160, 80, 0] {
        assert_eq!(tick(&mut session).unwrap().1[0], expected);
    }
    session.handle_worker_audio(&audio(1, 2));
    session.handle.mark("behind".into());
    session.handle.send_digits("5").unwrap();
    assert_eq!(tick(&mut session).unwrap().0.payload_type, 101);
    // An hour of hold and a pacer that was late cost nothing of what waits.
    (0..3_000).for_each(|_| drop(tick(&mut session)));
    session.downlink.skip(50);
    assert_eq!(echoes(&mut session), [""; 0]);
    assert_eq!(
        (session.handle.queued_ms(), session.handle.is_drained()),
        (60, false)
    );
    session.handle.set_hold(None);
    let heard: Vec<u8> = (0..4).map(|_| tick(&mut session).unwrap().1[0]).collect();
    assert_eq!(heard, [1, 1, 2, MULAW_SILENCE]);
    assert_eq!(echoes(&mut session), ["heard", "behind"]);
    assert_eq!(session.handle.stats().trimmed_frames, 0);
}
