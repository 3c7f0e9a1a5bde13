//! The session as a whole: in virtual time, and with its parts on threads of
//! their own.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::clock::{FrameTap, MediaTime};
use super::downlink::IdleAudio;
use super::playout::{FRAME_BYTES, MarkEcho, MarkPlaced};
use super::{MediaSession, SessionConfig};
use crate::core::g711::{Gain, MULAW_SILENCE};
use crate::core::media_link::{Codec, Direction, MediaFormat};
use crate::core::rtp::{HEADER_BYTES, RtpHeader};
use crate::core::telephone_event::TelephoneEvent;

const FRAME: Duration = Duration::from_millis(20);
const FORMAT: MediaFormat = MediaFormat {
    codec: Codec::Pcmu,
    send_payload_type: 0,
    receive_payload_type: 0,
    send_event_type: Some(101),
    receive_event_type: Some(101),
    ssrc: 9,
    direction: Direction::SendRecv,
};

fn session(now: Instant) -> MediaSession {
    let config = SessionConfig {
        format: FORMAT,
        rx_gain: Gain::default(),
        tx_gain: Gain::default(),
        sequence: 100,
        timestamp: 5_000,
        now,
    };
    MediaSession::new(config).unwrap()
}

fn rtp(sequence: u16, code: u8) -> Vec<u8> {
    let header = RtpHeader {
        marker: false,
        payload_type: 0,
        sequence,
        timestamp: u32::from(sequence) * 160,
        ssrc: 7,
    };
    [&header.to_bytes()[..], &[code; FRAME_BYTES]].concat()
}

/// One tick; the first byte of the frame that is sent.
fn sent(session: &mut MediaSession, now: Instant) -> u8 {
    session.handle_tick(now);
    session.poll_transmit().unwrap()[HEADER_BYTES]
}

/// A seed that is printed, or taken from `SEED` to repeat a run.
fn seed() -> u64 {
    let given = std::env::var("SEED").ok().map(|seed| seed.parse().unwrap());
    let seed = given.unwrap_or_else(rand::random);
    println!("SEED={seed}");
    seed
}

/// What a worker sent in one go when it attached has been heard: nothing of it
/// stays, so what it says next goes out with the next tick.
#[test]
fn an_utterance_begins_with_the_next_tick_whatever_was_heard_before() {
    let mut now = Instant::now();
    let mut session = session(now);
    let mut tick = |session: &mut MediaSession| {
        now += FRAME;
        sent(session, now)
    };
    for idle in [
        IdleAudio::Silence,
        IdleAudio::Loop(vec![0x21; 400].into()),
        IdleAudio::Once(vec![0x21; 400].into()),
    ] {
        session.handle.set_idle_audio(idle);
        // A burst of odd sizes, and its end within a frame.
        for bytes in [160, 1_000, 77, 3_000] {
            session.handle_worker_audio(&vec![0x11; bytes]);
        }
        let burst = (0..27).map(|_| tick(&mut session));
        assert!(burst.into_iter().all(|code| code == 0x11));
        for utterance in 0..50_usize {
            for _ in 0..utterance % 7 + 1 {
                assert_ne!(tick(&mut session), 0x11, "the burst is over");
            }
            session.handle_worker_audio(&[0x33; FRAME_BYTES]);
            assert_eq!(tick(&mut session), 0x33);
            assert_ne!(tick(&mut session), 0x33);
        }
    }
}

/// Keeps the frames of one direction.
#[derive(Clone, Debug, Default)]
struct Recorder(Arc<Mutex<Vec<(u64, u8)>>>);

impl FrameTap for Recorder {
    fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]) {
        self.0.lock().unwrap().push((at.samples, frame[0]));
    }
}

/// An echo that comes 100 ms after what it answers lies 100 ms behind it in a
/// recording, whatever happened before: both directions have one clock.
#[test]
fn both_directions_pass_their_taps_on_one_clock() {
    let start = Instant::now();
    let mut session = session(start);
    let (received, heard) = (Recorder::default(), Recorder::default());
    let nothing = session.uplink.set_tap(0, Some(Box::new(received.clone())));
    assert!(nothing.is_none());
    session.handle.set_tap(0, Some(Box::new(heard.clone())));
    let at_ms = |ms: u64| start + Duration::from_millis(ms);
    // The caller is heard from 40 ms on, and loses a packet; the pacer begins at
    // 300 ms and gives up ten frames.
    for sequence in 0..60_u16 {
        let ms = 40 + 20 * u64::from(sequence);
        if sequence != 5 {
            session.handle_rtp(at_ms(ms), &rtp(sequence, sequence as u8));
        }
        session.uplink.handle_tick(at_ms(ms));
        if ms == 500 {
            session.downlink.skip(10);
        }
        if ms >= 300 && !(500..700).contains(&ms) {
            // The worker's echo of the packet from 100 ms ago.
            session.handle_worker_audio(&[sequence as u8 - 5; FRAME_BYTES]);
            session.downlink.handle_tick(at_ms(ms));
        }
    }
    let received = received.0.lock().unwrap().clone();
    let wanted = (0..60_u64).map(|n| match n {
        5 => (320 + 160 * n, MULAW_SILENCE),
        _ => (320 + 160 * n, n as u8),
    });
    assert_eq!(received, wanted.collect::<Vec<_>>());
    let heard = heard.0.lock().unwrap().clone();
    assert_eq!(heard.len(), 48 - 10 - 1);
    for (at, code) in heard {
        let said = received.iter().find(|(_, said)| *said == code);
        assert_eq!(said.unwrap().0 + 5 * 160, at, "frame {code}");
    }
}

/// What a sender report and a receiver report need is at one place.
#[test]
fn both_directions_are_counted_at_one_place() {
    let start = Instant::now();
    let mut session = session(start);
    assert_eq!(session.stats(start).sent_at, None);
    for sequence in [1, 2, 4, 5] {
        session.handle_rtp(start, &rtp(sequence, 1));
    }
    for frame in 0..3 {
        session.downlink.handle_tick(start + FRAME * frame);
    }
    let stats = session.stats(start + FRAME * 3);
    let (reception, _) = stats.reception.unwrap();
    assert_eq!((reception.ssrc, reception.highest), (7, 2), "4 waits for 3");
    assert_eq!((stats.received.packets, stats.at.samples), (4, 480));
    assert_eq!((stats.sent.packets, stats.sent.payload_bytes), (3, 480));
    let sent_at = stats.sent_at.unwrap();
    assert_eq!((sent_at.rtp_timestamp, sent_at.at.samples), (5_320, 320));
    assert_eq!(stats.ssrc, 9);
}

/// A change that is being made in the moment of the tick comes with the next one;
/// the packet is right and on time.
#[test]
fn the_tick_never_waits_for_a_change_that_is_being_made() {
    let now = Instant::now();
    let mut session = session(now);
    session
        .handle
        .set_idle_audio(IdleAudio::Loop(vec![0x21; 160].into()));
    session.handle.send_digits("1").unwrap();
    session.handle_worker_audio(&[0x11; FRAME_BYTES]);
    {
        let _change = session.handle.hold_changes();
        let (handle, downlink) = (&session.handle, &mut session.downlink);
        downlink.handle_tick(now);
        let packet = downlink.poll_transmit().unwrap();
        let (header, payload) = RtpHeader::parse(packet).unwrap();
        assert_eq!((header.sequence, payload), (100, &[0x11; FRAME_BYTES][..]));
        assert!(!handle.is_drained(), "the digit waits");
    }
    session.handle_tick(now);
    let (header, _) = RtpHeader::parse(session.poll_transmit().unwrap()).unwrap();
    assert_eq!((header.sequence, header.payload_type), (101, 101));
}

/// The digits of the next so many ticks, each as often as it is sent, and how many of these were ends.
fn digits_of(session: &mut MediaSession, now: &mut Instant, ticks: u32) -> (String, usize) {
    let (mut digits, mut ends) = (String::new(), 0);
    for _ in 0..ticks {
        *now += FRAME;
        session.handle_tick(*now);
        let (header, payload) = RtpHeader::parse(session.poll_transmit().unwrap()).unwrap();
        if header.payload_type == 101 {
            let event = TelephoneEvent::parse(payload).unwrap();
            digits.push(event.digit);
            ends += usize::from(event.end);
        }
    }
    (digits, ends)
}

#[test]
fn digits_that_were_not_sent_are_taken_back() {
    let mut now = Instant::now();
    let mut session = session(now);
    session.handle.send_digits(&"1".repeat(128)).unwrap();
    let (sent, _) = digits_of(&mut session, &mut now, 3);
    assert_eq!(sent, "111");
    session.handle.drop_digits();
    assert!(!session.handle.is_drained(), "one sounds");
    // Room for others is there at once, also before the next tick.
    assert!(session.handle.send_digits(&"2".repeat(128)).is_err());
    session.handle.send_digits(&"2".repeat(127)).unwrap();
    session.handle.drop_digits();
    session.handle.send_digits("3").unwrap();
    let (sent, ends) = digits_of(&mut session, &mut now, 8 + 11);
    assert_eq!((sent.as_str(), ends), ("1111133333333", 6));
    assert!(session.handle.is_drained());
    // Some that the pacer has not seen, and none at all.
    session.handle.send_digits("45").unwrap();
    session.handle.drop_digits();
    session.handle.drop_digits();
    let (sent, _) = digits_of(&mut session, &mut now, 2);
    assert_eq!(sent, "");
    assert!(session.handle.is_drained());
}

/// Audio in which each four bytes say where they are; never silence.
fn numbered(from: u64, words: u64) -> Vec<u8> {
    let numbers = from..from + words;
    numbers.flat_map(|n| (n as u32).to_be_bytes()).collect()
}

/// The driver pushes, marks, clears and changes everything at random, on a thread of its
/// own, megabytes at a time; the pacer ticks meanwhile. Every byte is heard once and in
/// order or was cleared, nothing that was cleared is heard afterwards, each mark comes
/// back once and in order.
#[test]
fn a_driver_and_a_pacer_on_two_threads_lose_nothing() {
    const ROUNDS: u64 = 4_000;
    let mut random = StdRng::seed_from_u64(seed());
    let MediaSession {
        mut handle,
        mut downlink,
        ..
    } = session(Instant::now());
    let cleared_to = Arc::new(AtomicU64::new(0));
    let done = Arc::new(AtomicBool::new(false));
    let (first_heard, is_done) = (cleared_to.clone(), done.clone());
    let pacer = std::thread::spawn(move || {
        let (mut now, mut next, mut heard, mut packets) = (Instant::now(), 0_u64, 0_u64, 0_u64);
        loop {
            let stops = is_done.load(Ordering::SeqCst);
            let first = first_heard.load(Ordering::SeqCst);
            now += FRAME;
            downlink.handle_tick(now);
            let (header, payload) = RtpHeader::parse(downlink.poll_transmit().unwrap()).unwrap();
            assert_eq!(header.sequence, 100_u16.wrapping_add(packets as u16));
            packets += 1;
            let mut words = 0;
            for word in payload.chunks(4) {
                let number = u64::from(u32::from_be_bytes(word.try_into().unwrap()));
                if number == u64::from(u32::MAX) {
                    continue;
                }
                assert!(number >= first.max(next), "{number}, not {next} or {first}");
                next = number + 1;
                words += 1;
            }
            heard += words;
            if stops && words == 0 {
                return (heard, downlink);
            }
            if packets % 64 == 0 {
                std::thread::yield_now();
            }
        }
    });
    let (mut pushed, mut cleared, mut marks) = (0_u64, 0_u64, 0_u64);
    let mut echoes: Vec<MarkEcho> = Vec::new();
    for _ in 0..ROUNDS {
        match random.random_range(0..100) {
            0..60 => {
                let words = match random.random_range(0..20) {
                    0 => random.random_range(1..50_000),
                    _ => random.random_range(1..80),
                };
                let audio = numbered(pushed, words);
                let result = handle.push(&audio);
                pushed += words - result.dropped_bytes as u64 / 4;
            }
            60..85 => {
                let placed = handle.mark(marks.to_string());
                marks += u64::from(placed != MarkPlaced::Refused);
            }
            85..88 => {
                cleared += handle.clear().bytes as u64 / 4;
                cleared_to.store(pushed, Ordering::SeqCst);
            }
            88..92 => handle.set_idle_audio(IdleAudio::Loop(vec![0xff; 333].into())),
            92..94 => handle.set_hold(Some(vec![0xff; 500].into())),
            94..97 => handle.set_hold(None),
            _ => std::thread::yield_now(),
        }
        handle.drain_echoes(&mut echoes);
    }
    handle.set_hold(None);
    handle.notify_drained();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !handle.is_drained() {
        assert!(Instant::now() < deadline, "{} ms left", handle.queued_ms());
        std::thread::yield_now();
    }
    done.store(true, Ordering::SeqCst);
    let (heard, _downlink) = pacer.join().unwrap();
    handle.drain_echoes(&mut echoes);
    let names: Vec<u64> = echoes
        .iter()
        .map(|echo| echo.name.parse().unwrap())
        .collect();
    assert_eq!(names, (0..marks).collect::<Vec<_>>());
    let trimmed = handle.stats().trimmed_frames * FRAME_BYTES as u64 / 4;
    assert!(heard + cleared <= pushed && pushed <= heard + cleared + trimmed);
    let played: u64 = echoes.iter().map(|echo| echo.played_ms).sum();
    assert!(played <= heard / 2, "{played} ms of {heard} words");
}

/// Copies of a call come and go while others run: each has whole frames, and those of all are the same.
#[test]
fn taps_come_and_go_and_none_shifts_another() {
    let start = Instant::now();
    let mut session = session(start);
    let taps: [Recorder; 3] = Default::default();
    let put = |session: &mut MediaSession, place, tap: Option<&Recorder>| {
        let tap = || tap.map(|tap| Box::new(tap.clone()) as Box<dyn FrameTap>);
        let _old = session.uplink.set_tap(place, tap());
        session.handle.set_tap(place, tap());
    };
    // The caller's packets are 30 ms long: frames end within them.
    let say = |session: &mut MediaSession, number: u16| {
        let at = start + Duration::from_millis(30 * u64::from(number));
        let mut packet = rtp(number, number as u8);
        packet[4..8].copy_from_slice(&(u32::from(number) * 240).to_be_bytes());
        packet.extend([number as u8; 80]);
        session.handle_rtp(at, &packet);
        session.handle_worker_audio(&[0x40 | number as u8; FRAME_BYTES]);
        session.handle_tick(at);
    };
    put(&mut session, 0, Some(&taps[0]));
    say(&mut session, 1);
    put(&mut session, 3, Some(&taps[1]));
    say(&mut session, 2);
    put(&mut session, 0, None);
    say(&mut session, 3);
    // There is no such place.
    put(&mut session, super::clock::TAPS_MAX, Some(&taps[2]));
    put(&mut session, 3, None);
    say(&mut session, 4);
    let codes = taps.map(|tap| {
        let frames = tap.0.lock().unwrap().clone();
        frames.iter().map(|(_, code)| *code).collect::<Vec<_>>()
    });
    assert_eq!(
        codes,
        [vec![1, 0x41, 1, 2, 0x42], vec![1, 2, 0x42, 3, 0x43], vec![]]
    );
}
