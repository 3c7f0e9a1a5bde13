//! An hour of call in virtual time: loss, reordering, duplicates, jitter,
//! network outages, stalls of the process and clock skew, from a printed seed.
//! The uplink, an echoing worker, and the downlink, ms by ms.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sipbridge::core::g711::{Gain, MULAW_SILENCE};
use sipbridge::core::ids::{AccountSid, CallId, StreamId};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::downlink::Downlink;
use sipbridge::core::media_session::playout::MarkPlaced;
use sipbridge::core::media_session::{MediaSession, SessionConfig};
use sipbridge::core::media_streams::MessageWriter;
use sipbridge::core::rtp::RtpHeader;

const HOUR_MS: u64 = 3_600_000;
const FORMAT: MediaFormat = MediaFormat {
    codec: Codec::Pcmu,
    send_payload_type: 0,
    receive_payload_type: 0,
    send_event_type: Some(101),
    receive_event_type: Some(101),
    ssrc: 1,
    direction: Direction::SendRecv,
};

/// A seed that is printed, or taken from `SEED` to repeat a run.
fn seed() -> u64 {
    let seed = std::env::var("SEED").map_or_else(|_| rand::random(), |seed| seed.parse().unwrap());
    println!("SEED={seed}");
    seed
}

/// 20 ms that carry their number in codes near zero, so that it is not heard.
fn frame(number: u64, loud: bool) -> [u8; 160] {
    let mut frame = [if loud { 0x90 } else { 0xFD }; 160];
    for (digit, code) in frame[..8].iter_mut().enumerate() {
        *code = 0xF8 | (number >> (3 * digit) & 7) as u8;
    }
    frame
}

/// The number in a frame; `None` for silence of ours.
fn number_of(frame: &[u8]) -> Option<u64> {
    let digits = frame[..8].iter().enumerate();
    let number = digits.fold(0, |sum, (digit, code)| {
        sum | u64::from(*code & 7) << (3 * digit)
    });
    frame
        .iter()
        .any(|code| *code != MULAW_SILENCE)
        .then_some(number)
}

/// Spans of time, rare and far apart.
fn spans(random: &mut StdRng, every_ms: u64, longest_ms: u64) -> Vec<(u64, u64)> {
    let (mut spans, mut at) = (Vec::new(), 5_000);
    while at < HOUR_MS - 60_000 {
        let length = random.random_range(40..longest_ms);
        spans.push((at, at + length));
        at += length + random.random_range(every_ms / 2..every_ms * 3 / 2);
    }
    spans
}

fn released_at(spans: &[(u64, u64)], ms: u64) -> u64 {
    let index = spans.partition_point(|(_, end)| *end <= ms);
    match spans.get(index) {
        Some((start, end)) if *start <= ms => *end,
        _ => ms,
    }
}

/// When each packet arrives: (ms, number), duplicates included.
fn arrivals(random: &mut StdRng, skew_ppm: f64) -> Vec<(u64, u64)> {
    let outages = spans(random, 90_000, 1_200);
    let mut arrivals = Vec::new();
    for number in 0..HOUR_MS / 20 {
        let sent_ms = (20.0 * number as f64 * (1.0 + skew_ppm / 1e6)) as u64;
        let odds: f64 = random.random();
        let jitter = random.random_range(0..15) + if odds < 0.005 { 25 } else { 0 };
        let at = released_at(&outages, sent_ms + jitter);
        if odds < 0.99 {
            arrivals.push((at, number));
        }
        if odds < 0.002 {
            arrivals.push((at + 3, number));
        }
    }
    // What an outage held back comes in the order it was sent.
    arrivals.sort_by_key(|(at, _)| *at);
    arrivals
}

fn value<'a>(text: &'a str, name: &str) -> &'a str {
    let start = text.find(name).unwrap() + name.len();
    text[start..].split('"').next().unwrap()
}

fn session() -> MediaSession {
    MediaSession::new(SessionConfig {
        format: FORMAT,
        rx_gain: Gain::default(),
        tx_gain: Gain::default(),
        sequence: 0,
        timestamp: 0,
        now: Instant::now(),
    })
    .unwrap()
}

/// The pacer: deadlines of 20 ms, re-anchored after a stall.
struct Pacer {
    next_ms: u64,
    packets: u64,
    skipped: u64,
    last: Option<RtpHeader>,
}

impl Pacer {
    fn new() -> Self {
        Self {
            next_ms: 3,
            packets: 0,
            skipped: 0,
            last: None,
        }
    }

    /// Frames heard up to `now_ms`.
    fn run(&mut self, now_ms: u64, downlink: &mut Downlink, mut heard: impl FnMut(&[u8])) {
        let late = now_ms.saturating_sub(self.next_ms) / 20;
        if late > 1 {
            downlink.skip(u32::try_from(late).unwrap());
            self.next_ms += late * 20;
            self.skipped += late;
        }
        while self.next_ms <= now_ms {
            downlink.handle_tick(Instant::now());
            let packet = downlink.poll_transmit().unwrap();
            let (header, payload) = RtpHeader::parse(packet).unwrap();
            if let Some(last) = self.last.replace(header) {
                assert_eq!(header.sequence, last.sequence.wrapping_add(1));
            }
            heard(payload);
            self.packets += 1;
            self.next_ms += 20;
        }
        if let Some(last) = self.last {
            let due = 160 * (self.packets + self.skipped - 1);
            assert_eq!(u64::from(last.timestamp), due);
        }
    }
}

#[test]
fn an_hour_of_echo_stays_whole_and_in_time() {
    let mut random = StdRng::seed_from_u64(seed());
    let skew_ppm = random.random_range(-200.0..200.0);
    let arrivals = arrivals(&mut random, skew_ppm);
    let stalls = spans(&mut random, 70_000, 700);
    let start = Instant::now();
    let MediaSession {
        mut uplink,
        mut handle,
        mut downlink,
    } = session();
    uplink.attach(MessageWriter::new(
        &StreamId::random(),
        &CallId::random(),
        &AccountSid::random(),
    ));
    let (mut pacer, mut text, mut payload) = (Pacer::new(), Vec::new(), Vec::new());
    let (mut chunks, mut received, mut last) = (0_u64, 0_u64, None);
    let (mut echo_delays, mut drifts) = (Vec::new(), Vec::new());
    let (mut next_arrival, mut next_tick) = (0, 0);
    let mut ms = 0;
    while ms < HOUR_MS {
        let now = start + Duration::from_millis(ms);
        pacer.run(ms, &mut downlink, |frame| {
            let delay =
                |number| ms.saturating_sub((20.0 * number as f64 * (1.0 + skew_ppm / 1e6)) as u64);
            echo_delays.extend(number_of(frame).map(delay));
        });
        if ms >= next_tick {
            uplink.handle_tick(now);
            next_tick = ms + 20;
        }
        while let Some((at, number)) = arrivals.get(next_arrival).filter(|(at, _)| *at <= ms) {
            let header = RtpHeader {
                sequence: *number as u16,
                timestamp: (*number as u32).wrapping_mul(160),
                ssrc: 5,
                ..RtpHeader::default()
            };
            // Three seconds of speech, one of quiet.
            let audio = frame(*number, number % 200 < 150);
            let packet = [&header.to_bytes()[..], &audio].concat();
            uplink.handle_rtp(start + Duration::from_millis(*at), &packet);
            next_arrival += 1;
        }
        while uplink.poll_message(&mut text) {
            let message = std::str::from_utf8(&text).unwrap();
            assert_eq!(value(message, r#""chunk":""#), (chunks + 1).to_string());
            assert_eq!(
                value(message, r#""timestamp":""#),
                (chunks * 20).to_string()
            );
            payload.clear();
            STANDARD
                .decode_vec(value(message, r#""payload":""#), &mut payload)
                .unwrap();
            if let Some(number) = number_of(&payload) {
                assert!(last < Some(number), "{number} after {last:?}");
                assert!(payload == frame(number, number % 200 < 150));
                drifts.push((chunks * 20) as i64 - (number * 20) as i64);
                last = Some(number);
                received += 1;
            }
            handle.push(&payload);
            chunks += 1;
            text.clear();
        }
        ms = released_at(&stalls, ms + 1);
    }

    let stats = uplink.stats();
    println!("{stats:?}\n{:?}", handle.stats());
    // Every packet that came was used once, or is accounted for.
    let left_out = stats.duplicates + stats.late + stats.taken_back_bytes / 160;
    assert_eq!(received + left_out, next_arrival as u64);
    assert!(stats.late < 200, "{} late", stats.late);
    // 50.0 packets a second, stalls included.
    assert_eq!(pacer.packets + pacer.skipped, HOUR_MS / 20);
    let (low, high) = (drifts.iter().min().unwrap(), drifts.iter().max().unwrap());
    assert!(
        *low >= -1_000 && *high <= 2_500,
        "position drifts by {low} to {high} ms"
    );
    assert!(
        drifts.last().unwrap().abs() < 900,
        "{:?} ms at the end",
        drifts.last()
    );
    let late = echo_delays.iter().filter(|delay| **delay > 300).count();
    println!(
        "{late} of {} echoed frames later than 300 ms",
        echo_delays.len()
    );
    assert!(late * 20 < echo_delays.len());
    let end = echo_delays.last().unwrap();
    assert!(*end <= 200, "{end} ms at the end");
}

/// A worker that speaks in bursts, with marks, and now and then clears.
#[test]
fn an_hour_of_bursts_is_heard_to_the_last_byte() {
    let mut random = StdRng::seed_from_u64(seed());
    let stalls = spans(&mut random, 20_000, 700);
    let MediaSession {
        mut handle,
        mut downlink,
        ..
    } = session();
    let (mut pacer, mut ms, mut next_ms) = (Pacer::new(), 0, 0);
    let (mut sent, mut heard) = (std::collections::VecDeque::new(), Vec::<u8>::new());
    let (mut marks, mut echoes, mut code) = (0_u64, Vec::new(), 0_u8);
    while ms < HOUR_MS {
        pacer.run(ms, &mut downlink, |frame| heard.extend_from_slice(frame));
        // What is heard is what was sent, in order, with silence around it.
        for byte in heard.drain(..).filter(|byte| *byte != MULAW_SILENCE) {
            assert_eq!(Some(byte), sent.pop_front());
        }
        if ms >= next_ms {
            if random.random_bool(0.05) {
                handle.clear();
                sent.clear();
            }
            for _ in 0..random.random_range(1..6) {
                let bytes = random.random_range(2_000..30_000);
                // Codes 0 to 250 are never silence.
                let audio: Vec<u8> = (0..bytes)
                    .map(|_| {
                        code = (code + 1) % 251;
                        code
                    })
                    .collect();
                sent.extend(&audio);
                handle.push(&audio);
                let placed = handle.mark(marks.to_string());
                assert_eq!(placed, MarkPlaced::Waiting);
                marks += 1;
            }
            next_ms = ms + random.random_range(500..20_000);
        }
        handle.drain_echoes(&mut echoes);
        ms = released_at(&stalls, ms + 1);
    }
    while handle.queued_ms() > 0 || !handle.is_drained() {
        ms += 20;
        pacer.run(ms, &mut downlink, |frame| heard.extend_from_slice(frame));
        handle.drain_echoes(&mut echoes);
    }
    for byte in heard.drain(..).filter(|byte| *byte != MULAW_SILENCE) {
        assert_eq!(Some(byte), sent.pop_front());
    }
    assert!(sent.is_empty(), "{} bytes never heard", sent.len());
    let names: Vec<u64> = echoes
        .iter()
        .map(|echo| echo.name.parse().unwrap())
        .collect();
    assert!(names == (0..marks).collect::<Vec<_>>());
    assert_eq!(handle.stats().trimmed_frames, 0);
}
