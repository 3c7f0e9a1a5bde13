//! What is late stays late only as long as it must: live streams to the caller
//! get back to real time after a stall, and nothing else is ever shortened
//! (the rule of `core::media_session::latency_recovery`). Simulated ms by ms, from a printed seed.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Instant;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sipbridge::core::g711::{Gain, MULAW_SILENCE};
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::{MediaSession, SessionConfig};
use sipbridge::core::rtp::RtpHeader;

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

/// What a frame sounds like.
#[derive(Clone, Copy, PartialEq)]
enum Sound {
    Loud,
    Quiet,
}

/// A frame that carries its number.
fn frame(number: u64, sound: Sound) -> Vec<u8> {
    let mut frame = vec![
        if sound == Sound::Loud {
            0x90
        } else {
            MULAW_SILENCE
        };
        160
    ];
    frame[..8].copy_from_slice(&number.to_be_bytes());
    frame
}

/// One pacer on a clock of ms, its frames numbered by the worker from 1.
struct Line {
    session: MediaSession,
    now_ms: u64,
    next_tick_ms: u64,
    /// (when, number) of each frame heard; number 0 is silence of ours.
    heard: Vec<(u64, u64)>,
    packets: u64,
    last: Option<RtpHeader>,
}

impl Line {
    fn new() -> Self {
        Self {
            session: MediaSession::new(SessionConfig {
                format: FORMAT,
                rx_gain: Gain::default(),
                tx_gain: Gain::default(),
                sequence: 0,
                timestamp: 0,
                now: Instant::now(),
            })
            .unwrap(),
            now_ms: 0,
            next_tick_ms: 7,
            heard: Vec::new(),
            packets: 0,
            last: None,
        }
    }

    fn push(&mut self, number: u64, sound: Sound) {
        self.session.handle_worker_audio(&frame(number, sound));
    }

    /// Time goes on to `ms`; the pacer ticks on its deadlines.
    fn run_until(&mut self, ms: u64) {
        while self.next_tick_ms <= ms {
            self.now_ms = self.next_tick_ms;
            self.tick();
        }
        self.now_ms = ms;
    }

    fn tick(&mut self) {
        self.session.handle_tick(Instant::now());
        let packet = self.session.poll_transmit().unwrap();
        let (header, payload) = RtpHeader::parse(packet).unwrap();
        if let Some(last) = self.last.replace(header) {
            assert_eq!(header.sequence, last.sequence.wrapping_add(1));
        }
        let silent = payload[..8] == [MULAW_SILENCE; 8];
        let number = u64::from_be_bytes(payload[..8].try_into().unwrap());
        let number = if silent { 0 } else { number };
        self.heard.push((self.now_ms, number));
        self.packets += 1;
        self.next_tick_ms += 20;
    }

    /// The process stands still; the pacer re-anchors when it wakes.
    fn stall(&mut self, ms: u64) {
        let wake_ms = self.now_ms + ms;
        let missed = wake_ms.saturating_sub(self.next_tick_ms) / 20;
        self.next_tick_ms += missed * 20;
        self.now_ms = wake_ms;
        if missed > 0 {
            self.session.downlink.skip(u32::try_from(missed).unwrap());
        }
    }

    /// Delay of the frames heard in a span of time, where frame `n` was made at
    /// `20 * n` ms.
    fn delays(&self, from_ms: u64, to_ms: u64) -> Vec<u64> {
        let in_span = |(at, number): &&(u64, u64)| (from_ms..to_ms).contains(at) && *number > 0;
        let heard = self.heard.iter().filter(in_span);
        heard.map(|(at, number)| at - 20 * number).collect()
    }

    fn max_delay(&self, from_ms: u64, to_ms: u64) -> u64 {
        self.delays(from_ms, to_ms).into_iter().max().unwrap()
    }

    fn numbers(&self) -> Vec<u64> {
        let heard = self.heard.iter().map(|(_, number)| *number);
        heard.filter(|number| *number > 0).collect()
    }
}

/// An endless live stream: frame `n` is made at `20 * n` ms and arrives with a
/// delay; what was made while the process stood still arrives when it wakes.
fn live(
    line: &mut Line,
    to_ms: u64,
    mut stall_at: impl FnMut(u64) -> u64,
    mut late_ms: impl FnMut(u64) -> u64,
    sound: impl Fn(u64) -> Sound,
) {
    let mut arrivals: Vec<(u64, u64)> = (line.now_ms / 20 + 1..to_ms / 20)
        .map(|number| (20 * number + late_ms(20 * number), number))
        .collect();
    // TCP keeps the order: a late frame holds up those behind it.
    let mut floor = 0;
    for (at, _) in &mut arrivals {
        floor = floor.max(*at);
        *at = floor;
    }
    for (at, number) in arrivals {
        line.run_until(at.max(line.now_ms));
        let stall_ms = stall_at(20 * number);
        if stall_ms > 0 {
            line.stall(stall_ms);
        }
        line.push(number, sound(number));
    }
}

const LOUD: fn(u64) -> Sound = |_| Sound::Loud;
const NEVER: fn(u64) -> u64 = |_| 0;

#[test]
fn an_echo_is_back_in_time_one_second_after_a_stall_of_500_ms() {
    for phase_ms in 0..20 {
        let mut line = Line::new();
        let stall = |at| if at == 5_000 { 500 + phase_ms } else { 0 };
        live(&mut line, 10_000, stall, NEVER, LOUD);
        let (before, after) = (line.max_delay(3_000, 5_000), line.max_delay(6_600, 10_000));
        assert!(after <= before, "{before} {after}");
        let lost = 498 - line.numbers().len();
        assert!(lost <= 27, "{lost} frames lost for 500 ms");
    }
}

#[test]
fn many_stalls_leave_no_delay_behind() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut line = Line::new();
    let mut next = 3_000;
    let stall = |at| {
        if at < next || at > 115_000 {
            return 0;
        }
        next = at + random.random_range(500..6_000);
        random.random_range(20..900)
    };
    live(&mut line, 120_000, stall, NEVER, LOUD);
    let after = line.max_delay(118_000, 120_000);
    assert!(after <= 60, "{after} ms");
}

#[test]
fn speech_ahead_of_real_time_loses_nothing_in_a_stall() {
    let seed = seed();
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..50 {
        let (mut line, mut number) = (Line::new(), 0);
        for _ in 0..20 {
            // A sentence comes as one burst, or as several, faster than real time.
            for _ in 0..random.random_range(1..6) {
                for _ in 0..random.random_range(20..120) {
                    number += 1;
                    line.push(number, Sound::Loud);
                }
                line.run_until(line.now_ms + random.random_range(0..200));
                if random.random_bool(0.3) {
                    line.stall(random.random_range(0..1_000));
                }
            }
            line.run_until(line.now_ms + random.random_range(0..4_000));
        }
        line.run_until(line.now_ms + 200_000);
        let all: Vec<u64> = (1..=number).collect();
        assert!(line.numbers() == all, "SEED={seed}");
    }
}

#[test]
fn jitter_costs_little_and_delay_stays_bounded() {
    let mut random = StdRng::seed_from_u64(seed());
    let mut line = Line::new();
    let late = |_| random.random_range(0..45);
    live(&mut line, 600_000, NEVER, late, LOUD);
    let after = line.max_delay(300_000, 600_000);
    assert!(after <= 45 + 80, "{after} ms");
    let lost = 600_000 / 20 - 1 - line.numbers().len();
    assert!(lost <= 20, "{lost} frames of 30,000");
}

#[test]
fn hiccups_of_an_endless_stream_do_not_add_up() {
    let seed = seed();
    for sound in [Sound::Loud, Sound::Quiet] {
        let mut random = StdRng::seed_from_u64(seed);
        let mut line = Line::new();
        let (mut next, mut until) = (1_000, 0);
        // Now and then everything is held up for a while, then comes at once.
        let late = |at| {
            if at >= next {
                until = at + random.random_range(40..400);
                next = until + random.random_range(1_000..12_000);
            }
            until.max(at) - at
        };
        live(&mut line, 300_000, NEVER, late, |_| sound);
        let delays = line.delays(100_000, 300_000);
        let long = delays.iter().filter(|delay| **delay > 80).count();
        assert!(
            long * 20 < delays.len(),
            "{long} of {} frames",
            delays.len()
        );
    }
}

#[test]
fn a_sentence_in_real_time_is_late_rather_than_clipped() {
    let mut line = Line::new();
    let mut number = 0;
    for sentence in 0..10 {
        // Four seconds in pieces of 100 ms; one comes 300 ms late, then the rest
        // catches up; 600 ms of nothing between two sentences.
        let start = sentence * 4_900 + 20;
        for piece in 0..40 {
            let late = if (20..24).contains(&piece) { 300 } else { 0 };
            line.run_until((start + piece * 100 + late).max(line.now_ms));
            for _ in 0..5 {
                number += 1;
                line.push(number, Sound::Loud);
            }
        }
    }
    line.run_until(60_000);
    let all: Vec<u64> = (1..=number).collect();
    assert!(line.numbers() == all);
    assert_eq!(line.session.handle.stats().trimmed_frames, 0);
}

#[test]
fn pieces_of_any_size_in_real_time_are_played_without_holes() {
    for bytes in [40, 100, 320, 800] {
        let mut line = Line::new();
        for piece in 0..4_000_u64 {
            let at = piece * bytes / 8;
            line.run_until(at);
            line.session
                .handle_worker_audio(&vec![0x90; bytes as usize]);
        }
        // What is heard from the second second on is all sound.
        let holes = line
            .heard
            .iter()
            .filter(|(at, number)| *at > 1_000 && *number == 0);
        assert_eq!(holes.count(), 0, "pieces of {bytes} bytes");
        assert!(line.session.handle.stats().underruns == 0);
    }
}

#[test]
fn after_a_clear_nothing_is_owed() {
    let mut line = Line::new();
    live(&mut line, 4_000, NEVER, NEVER, LOUD);
    line.stall(500);
    line.session.handle.clear();
    for number in 1_000..1_020 {
        line.push(number, Sound::Loud);
    }
    line.run_until(line.now_ms + 1_000);
    let wanted: Vec<u64> = (1_000..1_020).collect();
    assert!(line.numbers().ends_with(&wanted));
}
