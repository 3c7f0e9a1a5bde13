//! The caller's audio reaches the worker whole, in order, at once and in its
//! place in time: the uplink, judged by the messages it writes, in virtual time.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::prelude::*;
use serde_json::Value;
use sipbridge::core::g711::{ALAW_TO_MULAW, Gain, MULAW_SILENCE};
use sipbridge::core::ids::{AccountSid, CallId, StreamId};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::clock::MediaClock;
use sipbridge::core::media_session::uplink::{PreparedFormat, Uplink};
use sipbridge::core::media_streams::MessageWriter;
use sipbridge::core::rtp::RtpHeader;
use sipbridge::core::telephone_event::TelephoneEvent;

const FRAME: Duration = Duration::from_millis(20);
const PCMU: MediaFormat = MediaFormat {
    codec: Codec::Pcmu,
    send_payload_type: 0,
    receive_payload_type: 0,
    send_event_type: Some(101),
    receive_event_type: Some(101),
    ssrc: 1,
    direction: Direction::SendRecv,
};

/// A message as the worker sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    Media { at_ms: u64, payload: Vec<u8> },
    Digit(String),
}

/// A caller, the uplink, and the worker that listens to it.
struct Call {
    uplink: Uplink,
    now: Instant,
    sequence: u16,
    timestamp: u32,
    next_number: u64,
    next_chunk: u64,
}

impl Call {
    fn with_format(format: &MediaFormat, gain: Gain) -> Self {
        let (prepared, now) = (PreparedFormat::new(format, &gain), Instant::now());
        Self {
            uplink: Uplink::new(prepared.unwrap(), MediaClock::starting_at(now)),
            now,
            sequence: 65_500,
            timestamp: u32::MAX - 2_000,
            next_number: 1,
            next_chunk: 1,
        }
    }

    fn attached() -> Self {
        let mut call = Self::with_format(&PCMU, Gain::default());
        call.attach(0);
        call
    }

    fn attach(&mut self, last_ms: u64) {
        let mut writer = MessageWriter::new(
            &StreamId::random(),
            &CallId::random(),
            &AccountSid::random(),
        );
        writer.write_start(&Default::default(), &mut Vec::new());
        self.uplink.resume(writer, last_ms);
        (self.next_number, self.next_chunk) = (2, 1);
    }

    /// Everything that is ready, its numbers checked.
    fn seen(&mut self) -> Vec<Seen> {
        let (mut seen, mut out) = (Vec::new(), Vec::new());
        while self.uplink.poll_message(&mut out) {
            let message: Value = serde_json::from_slice(&out).unwrap();
            out.clear();
            assert_eq!(message["sequenceNumber"], self.next_number.to_string());
            self.next_number += 1;
            if message["event"] == "dtmf" {
                let digit = message["dtmf"]["digit"].as_str().unwrap();
                seen.push(Seen::Digit(digit.into()));
                continue;
            }
            let media = &message["media"];
            assert_eq!(media["chunk"], self.next_chunk.to_string());
            self.next_chunk += 1;
            seen.push(Seen::Media {
                at_ms: media["timestamp"].as_str().unwrap().parse().unwrap(),
                payload: STANDARD.decode(media["payload"].as_str().unwrap()).unwrap(),
            });
        }
        seen
    }

    /// (timestamp, first byte) of each media message that is ready.
    fn media(&mut self) -> Vec<(u64, u8)> {
        let media = self.seen().into_iter().filter_map(|seen| match seen {
            Seen::Media { at_ms, payload } => {
                assert_eq!(payload.len(), 160);
                Some((at_ms, payload[0]))
            }
            Seen::Digit(_) => None,
        });
        media.collect()
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// Time passes with a tick each 20 ms.
    fn tick_for(&mut self, time: Duration) {
        for _ in 0..time.as_millis() / 20 {
            self.now += FRAME;
            self.uplink.handle_tick(self.now);
        }
    }

    fn header(&self, payload_type: u8) -> RtpHeader {
        RtpHeader {
            marker: false,
            payload_type,
            sequence: self.sequence,
            timestamp: self.timestamp,
            ssrc: 7,
        }
    }

    fn deliver(&mut self, header: &RtpHeader, payload: &[u8]) {
        let packet = [&header.to_bytes(), payload].concat();
        self.uplink.handle_rtp(self.now, &packet);
    }

    /// Makes the caller's next packet without delivering it.
    fn make(&mut self, payload: Vec<u8>) -> (RtpHeader, Vec<u8>) {
        let header = self.header(0);
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(payload.len() as u32);
        (header, payload)
    }

    /// 20 ms later the caller's next packet comes in.
    fn speak(&mut self, code: u8) {
        self.wait(FRAME);
        self.burst(code);
    }

    /// The caller's next packet comes in now.
    fn burst(&mut self, code: u8) {
        let (header, payload) = self.make(vec![code; 160]);
        self.deliver(&header, &payload);
    }

    /// The next packet is lost.
    fn lose(&mut self) {
        self.wait(FRAME);
        self.make(vec![0; 160]);
    }
}

const QUIET: u8 = MULAW_SILENCE;

#[test]
fn pcmu_passes_bit_for_bit_the_moment_it_is_in() {
    let mut call = Call::attached();
    for index in 0..100_u8 {
        call.wait(FRAME);
        let payload: Vec<u8> = (0..160)
            .map(|n| index.wrapping_mul(7).wrapping_add(n))
            .collect();
        let (header, _) = call.make(payload.clone());
        call.deliver(&header, &payload);
        let at_ms = u64::from(index) * 20;
        assert_eq!(call.seen(), [Seen::Media { at_ms, payload }]);
    }
    assert_eq!(call.uplink.stats().jitter, Duration::ZERO);
}

#[test]
fn pcma_and_gain_go_through_one_table() {
    let pcma = MediaFormat {
        codec: Codec::Pcma,
        receive_payload_type: 8,
        ..PCMU
    };
    let gain = Gain::from_factor(0.5);
    let halved = gain.on_mulaw().unwrap();
    for (gain, wanted) in [
        (Gain::default(), ALAW_TO_MULAW[0x12]),
        (gain, halved[usize::from(ALAW_TO_MULAW[0x12])]),
    ] {
        let mut call = Call::with_format(&pcma, gain);
        call.attach(0);
        let mut header = call.header(0);
        header.payload_type = 8;
        call.deliver(&header, &[0x12; 160]);
        assert_eq!(call.media(), [(0, wanted)]);
    }
}

#[test]
fn packets_of_other_lengths_lose_no_byte() {
    for length in [80, 160, 240, 320, 480, 33] {
        let mut call = Call::attached();
        let mut heard = Vec::new();
        for index in 0..48_usize {
            let payload: Vec<u8> = (0..length)
                .map(|n| ((index * length + n) % 251) as u8)
                .collect();
            let (header, payload) = call.make(payload);
            call.deliver(&header, &payload);
            let whole = (index + 1) * length / 160 * 160;
            for seen in call.seen() {
                let Seen::Media { at_ms, payload } = seen else {
                    panic!()
                };
                assert_eq!(at_ms * 8, heard.len() as u64);
                heard.extend(payload);
            }
            assert_eq!(heard.len(), whole, "packets of {length} bytes");
        }
        assert!(
            heard
                .iter()
                .enumerate()
                .all(|(n, byte)| *byte == (n % 251) as u8)
        );
    }
}

#[test]
fn a_lost_packet_is_filled_and_shifts_nothing() {
    let mut call = Call::attached();
    call.speak(1);
    call.lose();
    for code in 3..=6 {
        call.speak(code);
    }
    assert_eq!(
        call.media(),
        [(0, 1), (20, QUIET), (40, 3), (60, 4), (80, 5), (100, 6)]
    );
    assert_eq!(call.uplink.stats().lost, 1);
    assert_eq!(call.uplink.stats().filled_bytes, 160);
}

#[test]
fn swapped_packets_are_put_right_and_twins_dropped() {
    let mut call = Call::attached();
    call.speak(1);
    let second = call.make(vec![2; 160]);
    let third = call.make(vec![3; 160]);
    call.deliver(&third.0, &third.1);
    assert_eq!(call.media(), [(0, 1)]);
    call.deliver(&second.0, &second.1);
    call.deliver(&second.0, &second.1);
    assert_eq!(call.media(), [(20, 2), (40, 3)]);
    let stats = call.uplink.stats();
    assert_eq!((stats.reordered, stats.duplicates, stats.lost), (1, 1, 0));
}

#[test]
fn the_first_words_are_kept_for_the_worker() {
    let mut call = Call::with_format(&PCMU, Gain::default());
    for code in 0..50 {
        call.speak(code);
        assert_eq!(call.seen(), []);
    }
    call.uplink.handle_digit(call.now, '4');
    call.attach(0);
    let seen = call.seen();
    assert_eq!(seen.len(), 51);
    assert_eq!(seen[50], Seen::Digit("4".into()));
    assert!(matches!(&seen[49], Seen::Media { at_ms: 980, payload } if payload[0] == 49));
    call.speak(99);
    assert_eq!(call.media(), [(1_000, 99)]);
}

#[test]
fn what_nobody_takes_is_bounded_and_counts_from_0() {
    let mut call = Call::with_format(&PCMU, Gain::default());
    for _ in 0..2_000 {
        call.speak(5);
    }
    call.attach(0);
    let media = call.media();
    assert_eq!(
        (media.len(), media[0], media[1_749]),
        (1_750, (0, 5), (34_980, 5))
    );
    assert_eq!(call.uplink.stats().overflow_bytes, 250 * 160);
}

#[test]
fn a_worker_that_takes_over_hears_the_last_seconds_first() {
    let mut call = Call::attached();
    for code in 0..100 {
        call.speak(code);
    }
    call.media();
    assert!(call.uplink.detach().is_some());
    call.speak(100);
    assert_eq!(call.seen(), []);
    call.attach(1_000);
    let media = call.media();
    assert_eq!(
        (media[0], media[50], media.len()),
        ((0, 50), (1_000, 100), 51)
    );
}

#[test]
fn without_rtp_time_runs_on_after_300_ms() {
    let mut call = Call::attached();
    call.speak(1);
    call.tick_for(Duration::from_millis(280));
    assert_eq!(call.media(), [(0, 1)]);
    call.tick_for(Duration::from_millis(1_720));
    let media = call.media();
    assert_eq!(media.len(), 99);
    assert!(media.iter().all(|(_, code)| *code == QUIET));
    call.timestamp = call.timestamp.wrapping_add(100 * 160);
    call.speak(2);
    let last = call.media();
    assert_eq!(last.last(), Some(&(2_020, 2)));
    assert!(last.len() <= 2);
}

#[test]
fn after_a_long_hold_the_stream_goes_on_in_real_time() {
    let mut call = Call::attached();
    call.speak(1);
    let mut silence = 0;
    for _ in 0..600 {
        call.tick_for(Duration::from_secs(1));
        silence += call.media().len();
    }
    assert_eq!(silence, 30_000);
    // The phone's clock stood still during the hold, or ran on, or started anew.
    for jump in [0, 4_800_000, 3_000_000_000] {
        call.timestamp = call.timestamp.wrapping_add(jump);
        call.speak(2);
        let media = call.media();
        assert_eq!(media.last().unwrap().1, 2);
        assert!(media.len() <= 2, "{jump}");
    }
    call.speak(3);
    let (at_ms, code) = call.media()[0];
    assert_eq!(code, 3);
    assert!((600_040..=600_120).contains(&at_ms), "{at_ms}");
    // That the phone's clock stood still is no reason to leave anything out.
    for _ in 0..5_000 {
        call.wait(Duration::from_micros(19_980));
        call.burst(0xFE);
        assert_eq!(call.media().len(), 1);
    }
    assert_eq!(call.uplink.stats().taken_back_bytes, 0);
}

#[test]
fn a_stall_of_the_process_adds_no_silence() {
    let mut call = Call::attached();
    for code in 0..50 {
        call.speak(code);
        call.uplink.handle_tick(call.now);
    }
    call.wait(Duration::from_millis(500));
    // The timer fires first, then the packets that waited in the socket.
    call.uplink.handle_tick(call.now);
    for code in 50..75 {
        call.burst(code);
    }
    call.speak(75);
    let wanted: Vec<(u64, u8)> = (0..76).map(|n| (u64::from(n) * 20, n)).collect();
    assert_eq!(call.media(), wanted);
}

#[test]
fn what_a_network_stall_added_is_taken_back_at_the_next_pause() {
    let mut call = Call::attached();
    for code in 1..=50 {
        call.speak(code);
    }
    // The network holds 600 ms back, and ticks fill it; then all of it comes.
    call.tick_for(Duration::from_millis(600));
    for code in 51..=80 {
        call.burst(code);
    }
    let media = call.media();
    assert_eq!(media.len(), 50 + 29 + 30, "nothing of it is dropped");
    // The caller pauses for a second by DTX, then speaks.
    call.timestamp = call.timestamp.wrapping_add(50 * 160);
    call.tick_for(Duration::from_millis(1_000));
    call.speak(99);
    let last = *call.media().last().unwrap();
    assert_eq!(last.1, 99);
    let real_ms = 50 * 20 + 600 + 1_000;
    assert!(
        (real_ms..=real_ms + 40).contains(&last.0),
        "{} {real_ms}",
        last.0
    );
}

#[test]
fn silence_put_in_too_early_is_taken_back_from_quiet_audio_alone() {
    let mut call = Call::attached();
    for code in 1..=50 {
        call.speak(code);
    }
    call.tick_for(Duration::from_millis(600));
    for code in 51..=80 {
        call.burst(code);
    }
    assert_eq!(call.media().len(), 50 + 29 + 30);
    // This caller's phone never pauses; it just becomes quiet.
    for _ in 0..50 {
        call.speak(0xFE);
    }
    call.speak(99);
    let media = call.media();
    assert_eq!(media.len(), 51 - 29);
    let real_ms = (80 + 50) * 20;
    let last = *media.last().unwrap();
    assert_eq!(last.1, 99);
    assert!(
        (real_ms..=real_ms + 40).contains(&last.0),
        "{} {real_ms}",
        last.0
    );
    assert_eq!(call.uplink.stats().taken_back_bytes, 29 * 160);
}

#[test]
fn comfort_noise_is_time_and_no_sound() {
    let mut call = Call::attached();
    call.speak(1);
    for _ in 0..5 {
        call.wait(Duration::from_millis(200));
        let header = call.header(13);
        call.deliver(&header, &[40]);
        call.sequence = call.sequence.wrapping_add(1);
        call.timestamp = call.timestamp.wrapping_add(1_600);
    }
    call.speak(2);
    let media = call.media();
    assert_eq!(media.last(), Some(&(1_020, 2)));
    assert_eq!(media.len(), 52);
    assert_eq!(call.uplink.stats().invalid, 0);
}

#[test]
fn an_event_is_one_digit_and_its_time_passes_as_silence() {
    let mut call = Call::attached();
    call.speak(1);
    for (index, end) in [
        (1, false),
        (2, false),
        (3, false),
        (4, true),
        (4, true),
        (4, true),
    ] {
        call.wait(FRAME);
        let event = TelephoneEvent {
            digit: '5',
            end,
            duration: index * 160,
        };
        let header = call.header(101);
        call.deliver(&header, &event.to_bytes());
        call.sequence = call.sequence.wrapping_add(1);
    }
    call.uplink.handle_digit(call.now, '5');
    call.timestamp = call.timestamp.wrapping_add(6 * 160);
    call.speak(2);
    let seen = call.seen();
    let digits: Vec<_> = seen
        .iter()
        .filter(|seen| matches!(seen, Seen::Digit(_)))
        .collect();
    assert_eq!(digits, [&Seen::Digit("5".into())]);
    assert_eq!(seen[1], Seen::Digit("5".into()), "at its place in time");
    assert!(matches!(seen.last(), Some(Seen::Media { at_ms: 140, payload }) if payload[0] == 2));
}

#[test]
fn audio_sent_beside_events_is_not_shifted() {
    let mut call = Call::attached();
    call.speak(1);
    let begun = call.timestamp;
    for index in 1..=5 {
        call.wait(FRAME);
        let event = TelephoneEvent {
            digit: '#',
            end: index == 5,
            duration: u16::from(index) * 160,
        };
        let header = RtpHeader {
            timestamp: begun,
            ..call.header(101)
        };
        call.deliver(&header, &event.to_bytes());
        call.sequence = call.sequence.wrapping_add(1);
        call.burst(index + 1);
    }
    let wanted: Vec<(u64, u8)> = (0..6).map(|n| (u64::from(n) * 20, n + 1)).collect();
    assert_eq!(call.media(), wanted);
}

#[test]
fn a_new_source_and_a_new_codec_go_on_where_the_old_one_stopped() {
    let mut call = Call::attached();
    call.speak(1);
    let before = call.media();
    assert_eq!(before, [(0, 1)]);
    for index in 0..3_u16 {
        call.wait(FRAME);
        let header = RtpHeader {
            ssrc: 99,
            sequence: 5 + index,
            timestamp: 77_777 + u32::from(index) * 160,
            ..call.header(0)
        };
        call.deliver(&header, &[2; 160]);
    }
    assert_eq!(call.media(), [(20, 2), (40, 2), (60, 2)]);
    let opus = MediaFormat {
        codec: Codec::Opus,
        receive_payload_type: 96,
        ..PCMU
    };
    let opus = PreparedFormat::new(&opus, &Gain::default()).unwrap();
    drop(call.uplink.set_format(opus));
    let mut encoder = sipbridge::core::opus::OpusEncoder::new().unwrap();
    let mut payload = [0; 1_275];
    for index in 0..3_u16 {
        call.wait(FRAME);
        let length = encoder.encode(&[0; 160], &mut payload).unwrap();
        let header = RtpHeader {
            ssrc: 99,
            sequence: 8 + index,
            timestamp: 900_000 + u32::from(index) * 960,
            ..call.header(96)
        };
        call.deliver(&header, &payload[..length]);
    }
    let times: Vec<u64> = call.media().iter().map(|(at_ms, _)| *at_ms).collect();
    assert_eq!(times, [80, 100, 120]);
}

#[test]
fn bad_packets_are_counted_and_change_nothing() {
    let mut call = Call::attached();
    call.speak(1);
    call.uplink.handle_rtp(call.now, b"no RTP");
    call.uplink.handle_rtp(call.now, &[0; 172]);
    call.wait(FRAME);
    let stranger = call.header(55);
    call.deliver(&stranger, &[3; 160]);
    call.sequence = call.sequence.wrapping_add(1);
    let empty = call.header(0);
    call.deliver(&empty, &[]);
    call.sequence = call.sequence.wrapping_add(1);
    call.burst(2);
    assert_eq!(call.media(), [(0, 1), (20, 2)]);
    assert_eq!(call.uplink.stats().invalid, 4);
}

/// A caller who claims that a second was lost before each packet.
#[test]
fn claimed_losses_do_not_run_away() {
    let mut call = Call::attached();
    for _ in 0..1_000 {
        call.speak(1);
        call.sequence = call.sequence.wrapping_add(50);
        call.timestamp = call.timestamp.wrapping_add(50 * 160);
    }
    let heard_ms = call.media().len() as u64 * 20;
    assert!(
        heard_ms <= 2 * 20_000 + 10_000 + 100,
        "{heard_ms} ms in 20 s"
    );
}

proptest! {
    /// Whatever packets, ticks and digits come: no panic, chunks go on in steps
    /// of 20 ms, and the stream never runs away from the wall clock: at most the
    /// ten seconds that losses are trusted for, and what was really said.
    #[test]
    fn anything_may_come(
        steps in proptest::collection::vec(
            (0..6_u8, any::<u32>(), 0..80_u64, proptest::collection::vec(any::<u8>(), 0..60)), 1..200)
    ) {
        let mut call = Call::attached();
        let (start, mut next_ms, mut given) = (call.now, 0, 0_u64);
        for (kind, number, wait_ms, payload) in steps {
            call.wait(Duration::from_millis(wait_ms));
            match kind {
                0 => call.uplink.handle_rtp(call.now, &payload),
                1 => call.uplink.handle_tick(call.now),
                2 => call.uplink.handle_digit(call.now, '1'),
                3 => {
                    call.timestamp = number;
                    call.sequence = (number >> 7) as u16;
                }
                _ => {
                    let kinds = [0, 8, 13, 101, 55];
                    let header = call.header(kinds[number as usize % kinds.len()]);
                    call.deliver(&header, &payload);
                    call.sequence = call.sequence.wrapping_add(1 + number as u16 % 3);
                    call.timestamp = call.timestamp.wrapping_add(payload.len() as u32);
                    given += payload.len() as u64;
                }
            }
            for (at_ms, _) in call.media() {
                prop_assert_eq!(at_ms, next_ms);
                next_ms += 20;
            }
            let wall_ms = (call.now - start).as_millis() as u64;
            prop_assert!(next_ms <= wall_ms + 10_000 + given / 8 + 100, "{} {}", next_ms, wall_ms);
        }
    }
}

#[test]
fn a_caller_on_hold_is_silence_in_time_whatever_he_sends() {
    let mut call = Call::attached();
    (0..5).for_each(|_| call.speak(7));
    call.uplink.set_muted(true);
    // Some phones go on sending, others stop.
    (0..5).for_each(|_| call.speak(9));
    call.uplink.handle_digit(call.now, '5');
    call.tick_for(Duration::from_secs(2));
    call.uplink.set_muted(false);
    call.timestamp = call.timestamp.wrapping_add(8 * 2_000);
    call.speak(8);
    let heard = call.media();
    let codes: Vec<u8> = heard.iter().map(|(_, code)| *code).collect();
    assert_eq!(codes[..5], [7; 5]);
    assert_eq!(codes.last(), Some(&8));
    let held = &codes[5..codes.len() - 1];
    assert!(held.iter().all(|code| *code == MULAW_SILENCE));
    assert!(held.len().abs_diff(105) <= 2, "{} frames", held.len());
    let gapless = heard.windows(2).all(|pair| pair[1].0 == pair[0].0 + 20);
    assert!(gapless);
}
