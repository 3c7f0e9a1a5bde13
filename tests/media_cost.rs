//! What the audio path costs per packet. Not a test of behaviour, so it is
//! ignored: `cargo test --release --test media_cost -- --ignored --nocapture`.
//! The budget is 1.5 µs per packet and direction.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

use std::hint::black_box;
use std::time::{Duration, Instant};

use sipbridge::core::g711::Gain;
use sipbridge::core::ids::{AccountSid, CallId, StreamId};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::{MediaSession, SessionConfig};
use sipbridge::core::media_streams::{MessageWriter, WorkerMessage, parse_worker_message};
use sipbridge::core::rtp::RtpHeader;

const ROUNDS: u32 = 500_000;

fn format(codec: Codec) -> MediaFormat {
    let payload_type = if codec == Codec::Pcma { 8 } else { 0 };
    MediaFormat {
        codec,
        send_payload_type: payload_type,
        receive_payload_type: payload_type,
        send_event_type: Some(101),
        receive_event_type: Some(101),
        ssrc: 1,
        direction: Direction::SendRecv,
    }
}

fn session(codec: Codec, gain: f32) -> MediaSession {
    MediaSession::new(SessionConfig {
        format: format(codec),
        rx_gain: Gain::from_factor(gain),
        tx_gain: Gain::from_factor(gain),
        sequence: 0,
        timestamp: 0,
        now: Instant::now(),
    })
    .unwrap()
}

fn report(what: &str, begun: Instant) {
    let each = begun.elapsed() / ROUNDS;
    println!("{what:<40} {:>6} ns per packet", each.as_nanos());
    if !cfg!(debug_assertions) {
        assert!(each < Duration::from_nanos(1_500), "{what} is over budget");
    }
}

fn uplink(codec: Codec, gain: f32) {
    let format = format(codec);
    let mut uplink = session(codec, gain).uplink;
    let (stream, call, account) = (StreamId::random(), CallId::random(), AccountSid::random());
    uplink.attach(MessageWriter::new(&stream, &call, &account));
    let start = Instant::now();
    let (mut out, mut packet) = (Vec::with_capacity(1_024), [0x5A; 172]);
    let begun = Instant::now();
    for index in 0..ROUNDS {
        let header = RtpHeader {
            payload_type: format.receive_payload_type,
            sequence: index as u16,
            timestamp: index.wrapping_mul(160),
            ssrc: 7,
            marker: false,
        };
        packet[..12].copy_from_slice(&header.to_bytes());
        uplink.handle_rtp(start + Duration::from_millis(20) * index, &packet);
        out.clear();
        while uplink.poll_message(&mut out) {}
        black_box(&out);
    }
    report(
        &format!("uplink {codec:?}, gain {gain}: RTP to JSON"),
        begun,
    );
}

fn downlink(codec: Codec, gain: f32) {
    let mut session = session(codec, gain);
    let (stream, call, account) = (StreamId::random(), CallId::random(), AccountSid::random());
    let mut writer = MessageWriter::new(&stream, &call, &account);
    let mut text = Vec::new();
    writer.write_media(0, &[0x5A; 160], &mut text);
    let text = std::str::from_utf8(&text).unwrap();
    let now = Instant::now();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let message = parse_worker_message(black_box(text), &stream);
        let Ok(WorkerMessage::Media(audio)) = message else {
            panic!("{message:?}");
        };
        session.handle_worker_audio(&audio);
        session.downlink.handle_tick(now);
        black_box(session.poll_transmit());
    }
    report(
        &format!("downlink {codec:?}, gain {gain}: JSON to RTP"),
        begun,
    );
}

#[test]
#[ignore = "a measurement, to be run in release"]
fn nanoseconds_per_packet() {
    for (codec, gain) in [(Codec::Pcmu, 1.0), (Codec::Pcmu, 0.7), (Codec::Pcma, 1.0)] {
        uplink(codec, gain);
        downlink(codec, gain);
    }
    let mut session = session(Codec::Pcmu, 1.0);
    let now = Instant::now();
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        session.handle_worker_audio(&[0x5A; 160]);
        session.downlink.handle_tick(now);
        black_box(session.poll_transmit());
    }
    report("queue and tick alone", begun);
}
