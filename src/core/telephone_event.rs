//! DTMF digits as RTP events (RFC 4733, event codes 0 to 15).
//!
//! Leaves out: other events, volume, and sending events that are longer than one
//! segment (RFC 4733 2.5.1.3).

use std::collections::VecDeque;

/// Digits in the order of their event codes.
const DIGITS: &[u8; 16] = b"0123456789*#ABCD";
/// Bytes of one event payload.
pub const EVENT_BYTES: usize = 4;
/// Most digits that wait to be sent.
pub const MAX_QUEUED_DIGITS: usize = 128;

/// Samples in 20 ms at the 8 kHz clock of events beside G.711.
const FRAME_SAMPLES: u16 = 160;
/// A digit sounds for 120 ms, well above the 40 ms that RFC 4733 and phones ask for.
const TONE_FRAMES: u16 = 6;
/// The end packet is sent three times in all (RFC 4733 2.5.1.4).
const END_REPEATS: u16 = 2;
/// From the first end packet to the next digit at least 100 ms pass.
const GAP_FRAMES: u16 = 5;

/// Whether a text holds only digits that an event can carry: 0-9 * # A-D.
#[must_use]
pub fn are_digits(text: &str) -> bool {
    text.bytes().all(|byte| DIGITS.contains(&byte))
}

/// One event payload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TelephoneEvent {
    /// 0-9 * # A-D.
    pub digit: char,
    /// Whether the key was released.
    pub end: bool,
    /// How long it sounded up to this packet, in RTP clock units.
    pub duration: u16,
}

impl TelephoneEvent {
    /// Reads a payload; `None` when it is cut short or no DTMF digit.
    #[must_use]
    pub fn parse(payload: &[u8]) -> Option<Self> {
        let [code, flags, high, low] = *payload.first_chunk::<EVENT_BYTES>()?;
        Some(Self {
            digit: char::from(*DIGITS.get(usize::from(code))?),
            end: flags & 0x80 != 0,
            duration: u16::from_be_bytes([high, low]),
        })
    }

    /// The payload as it goes on the wire, at -10 dBm0.
    #[must_use]
    pub fn to_bytes(&self) -> [u8; EVENT_BYTES] {
        let code = DIGITS
            .iter()
            .position(|digit| char::from(*digit) == self.digit);
        let [high, low] = self.duration.to_be_bytes();
        let flags = 10 | u8::from(self.end) << 7;
        [code.unwrap_or_default() as u8, flags, high, low]
    }
}

/// Reports each press of a key once.
///
/// All packets of an event share its RTP timestamp: the first one seen reports
/// it, be it the start, a later one, or the end. Two exceptions:
/// - An event longer than its duration field holds goes on in a segment with a
///   timestamp of its own, where the one before ended (RFC 4733 2.5.1.3).
/// - Some senders raise the timestamp with each packet of one press.
///
/// In both the next packet begins no later than the one before covers, and the
/// key was not released in between. Between two real presses there is a pause,
/// also where every packet that would tell of the release was lost.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventReceiver {
    press: Option<Press>,
}

/// The latest packet of a press.
#[derive(Clone, Copy, Debug)]
struct Press {
    ssrc: u32,
    timestamp: u32,
    digit: char,
    /// The longest duration seen with this timestamp.
    duration: u16,
    /// Whether the key was released.
    released: bool,
}

impl EventReceiver {
    /// One event packet; the digit, when it is a new one. `frame` is 20 ms in RTP
    /// clock units.
    pub fn handle(
        &mut self,
        ssrc: u32,
        timestamp: u32,
        event: TelephoneEvent,
        frame: u32,
    ) -> Option<char> {
        let known = self.press.filter(|press| {
            press.ssrc == ssrc
                && press.digit == event.digit
                && (press.timestamp == timestamp || press.goes_on(timestamp, event, frame))
        });
        let same = known.filter(|press| press.timestamp == timestamp);
        self.press = Some(Press {
            ssrc,
            timestamp,
            digit: event.digit,
            duration: same.map_or(0, |press| press.duration).max(event.duration),
            released: event.end || known.is_some_and(|press| press.released),
        });
        known.is_none().then_some(event.digit)
    }
}

impl Press {
    /// Whether an event of the same key with another timestamp is this press.
    fn goes_on(&self, timestamp: u32, event: TelephoneEvent, frame: u32) -> bool {
        let ahead = timestamp.wrapping_sub(self.timestamp);
        let covered = u32::from(self.duration).saturating_add(frame + frame / 2);
        // Where the next segment begins even when the last packets of this one are lost.
        let is_segment = ahead == u32::from(u16::MAX);
        // After the release only its repetitions come; a new press begins without.
        (ahead <= covered || is_segment) && (event.end || !self.released)
    }
}

/// What a tick of the sender puts in place of audio.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventTick {
    /// An event packet.
    Event {
        /// Its payload.
        event: TelephoneEvent,
        /// How many ticks ago the event began: its timestamp is that of then.
        begun_ticks_ago: u16,
        /// The first packet of the event, which carries the marker bit.
        first: bool,
    },
    /// Silence between two digits.
    Gap,
}

/// Sends digits one after another, one packet per 20 ms tick.
#[derive(Clone, Debug)]
pub struct EventSender {
    /// With room for all: it is filled on the pacer's thread.
    queue: VecDeque<char>,
    /// Ticks into the digit at the front.
    tick: u16,
    finished: u64,
}

impl Default for EventSender {
    fn default() -> Self {
        Self {
            queue: VecDeque::with_capacity(MAX_QUEUED_DIGITS),
            tick: 0,
            finished: 0,
        }
    }
}

impl EventSender {
    /// Queues digits that `are_digits` has accepted; false, and none queued,
    /// when there is no room.
    pub fn queue(&mut self, digits: &str) -> bool {
        let room = self.queue.len() + digits.len() <= MAX_QUEUED_DIGITS;
        if room {
            self.queue.extend(digits.chars());
        }
        room
    }

    /// Forgets the digits that have not begun. One that sounds goes on to its end and its gap: cut short, it might be no digit to
    /// the other side, and without its end packets one that is held.
    pub fn forget(&mut self) {
        let begun = usize::from(self.tick > 0);
        let forgotten = self.queue.len().saturating_sub(begun);
        self.queue.truncate(begun);
        self.finished += forgotten as u64;
    }

    /// Whether nothing is left to send.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Digits that were sent to their end, or forgotten, so far.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.finished
    }

    /// What to send in this tick; `None` when it belongs to audio.
    pub fn poll_tick(&mut self) -> Option<EventTick> {
        let digit = *self.queue.front()?;
        let tick = self.tick;
        self.tick += 1;
        if self.tick == TONE_FRAMES + GAP_FRAMES {
            self.queue.pop_front();
            self.tick = 0;
            self.finished += 1;
        }
        if tick >= TONE_FRAMES + END_REPEATS {
            return Some(EventTick::Gap);
        }
        let frames = (tick + 1).min(TONE_FRAMES);
        Some(EventTick::Event {
            event: TelephoneEvent {
                digit,
                end: frames == TONE_FRAMES,
                duration: frames * FRAME_SAMPLES,
            },
            begun_ticks_ago: tick,
            first: tick == 0,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The packets of a digit string: (timestamp, payload), 20 ms apart.
    fn sent(digits: &str) -> Vec<(u32, TelephoneEvent)> {
        let mut sender = EventSender::default();
        assert!(sender.queue(digits));
        let ticks = std::iter::from_fn(|| sender.poll_tick());
        ticks
            .enumerate()
            .filter_map(|(now, tick)| match tick {
                EventTick::Event {
                    event,
                    begun_ticks_ago,
                    first,
                } => {
                    assert_eq!(first, begun_ticks_ago == 0);
                    let begun = now as u32 - u32::from(begun_ticks_ago);
                    Some((begun * 160, event))
                }
                EventTick::Gap => None,
            })
            .collect()
    }

    fn received(packets: &[(u32, TelephoneEvent)]) -> String {
        let mut receiver = EventReceiver::default();
        let digits = packets
            .iter()
            .map(|(at, event)| receiver.handle(1, *at, *event, 160));
        digits.flatten().collect()
    }

    #[test]
    fn one_timestamp_growing_duration_three_ends() {
        let packets = sent("5");
        assert!(packets.iter().all(|(at, _)| *at == 0));
        let durations: Vec<u16> = packets.iter().map(|(_, event)| event.duration).collect();
        assert_eq!(durations, [160, 320, 480, 640, 800, 960, 960, 960]);
        assert_eq!(packets.iter().filter(|(_, event)| event.end).count(), 3);
    }

    fn event(digit: char, duration: u16, end: bool) -> TelephoneEvent {
        TelephoneEvent {
            digit,
            end,
            duration,
        }
    }

    #[test]
    fn an_event_in_two_segments_is_told_once() {
        let mut packets: Vec<_> = (1..=409)
            .map(|frame| (1_000, event('7', frame * 160, false)))
            .collect();
        packets.push((1_000, event('7', u16::MAX, false)));
        let second = 1_000 + u32::from(u16::MAX);
        packets.extend((1..=50).map(|frame| (second, event('7', frame * 160, false))));
        packets.extend([(second, event('7', 8_160, true)); 3]);
        assert_eq!(received(&packets), "7");
        // The last packets of the first segment, and the first of the second are lost.
        packets.drain(408..412);
        assert_eq!(received(&packets), "7");
        // The same key again, 40 ms after the release.
        packets.push((second + 8_160 + 320, event('7', 160, false)));
        assert_eq!(received(&packets), "77");
    }

    #[test]
    fn one_press_with_rising_timestamps_is_told_once() {
        let at = |packet: u32| 5_000 + packet * 160;
        let growing = |packet: u32| (packet as u16 + 1) * 160;
        let constant = |_: u32| 160;
        let none = |_: u32| 0;
        for duration in [&growing as &dyn Fn(u32) -> u16, &constant, &none] {
            let press = |from: u32| {
                (0..8).map(move |packet| {
                    let event = event('3', duration(packet), packet >= 5);
                    (at(from + packet), event)
                })
            };
            let once: Vec<_> = press(0).collect();
            assert_eq!(received(&once), "3");
            let all_ends: Vec<_> = press(0)
                .map(|(at, it)| (at, event('3', it.duration, true)))
                .collect();
            assert_eq!(received(&all_ends), "3");
            // Again at once, and after a pause.
            let twice: Vec<_> = press(0).chain(press(8)).collect();
            assert_eq!(received(&twice), "33");
            let paused: Vec<_> = press(0).chain(press(20)).collect();
            assert_eq!(received(&paused), "33");
        }
    }

    #[test]
    fn fast_presses_of_one_key_are_as_many_as_there_are() {
        // 40 ms of tone, 40 ms of pause.
        let press = |number: u32| {
            let at = number * 640;
            [(at, event('1', 160, false)), (at, event('1', 320, true))]
        };
        let packets: Vec<_> = (0..10).flat_map(press).collect();
        assert_eq!(received(&packets), "1".repeat(10));
        let without_ends: Vec<_> = packets.into_iter().filter(|(_, it)| !it.end).collect();
        assert_eq!(received(&without_ends), "1".repeat(10));
    }

    #[test]
    fn digits_keep_their_distance() {
        let packets = sent("55");
        let second = packets.iter().map(|(at, _)| *at).max().unwrap();
        assert!(second - u32::from(TONE_FRAMES * FRAME_SAMPLES) >= 40 * 8);
    }

    #[test]
    fn the_sender_is_idle_after_the_gap_and_bounded() {
        let mut sender = EventSender::default();
        assert!(!sender.queue(&"1".repeat(MAX_QUEUED_DIGITS + 1)));
        assert!(sender.is_idle());
        assert!(sender.queue("1"));
        let ticks = std::iter::from_fn(|| sender.poll_tick()).count();
        assert_eq!(ticks, usize::from(TONE_FRAMES + GAP_FRAMES));
        assert!(sender.is_idle());
    }

    #[test]
    fn digits_are_forgotten_but_for_the_one_that_sounds() {
        let mut sender = EventSender::default();
        assert!(sender.queue("123"));
        sender.forget();
        assert!(sender.is_idle() && sender.poll_tick().is_none());
        assert_eq!(sender.finished(), 3);
        assert!(sender.queue("123"));
        assert!(sender.poll_tick().is_some());
        sender.forget();
        // Room is for all but the one that sounds.
        assert!(!sender.queue(&"4".repeat(MAX_QUEUED_DIGITS)));
        let ticks: Vec<_> = std::iter::from_fn(|| sender.poll_tick()).collect();
        let is_of_one = |tick: &EventTick| match tick {
            EventTick::Event { event, .. } => event.digit == '1',
            EventTick::Gap => true,
        };
        let is_end =
            |tick: &&EventTick| matches!(tick, EventTick::Event { event, .. } if event.end);
        assert!(ticks.iter().all(is_of_one));
        assert_eq!(ticks.iter().filter(is_end).count(), 3);
        assert_eq!(ticks.len(), usize::from(TONE_FRAMES + GAP_FRAMES) - 1);
        assert_eq!(sender.finished(), 6);
    }

    proptest! {
        #[test]
        fn parsing_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..9)) {
            let parsed = TelephoneEvent::parse(&bytes);
            prop_assert_eq!(parsed.is_some(), bytes.len() >= 4 && bytes[0] < 16);
        }

        /// Any loss that leaves one packet of each event: every digit, once.
        #[test]
        fn digits_survive_loss(digits in "[0-9*#A-D]{1,20}", keep: u64) {
            let packets = sent(&digits);
            let mut kept = Vec::new();
            for event in packets.chunk_by(|a, b| a.0 == b.0) {
                let always = (keep as usize ^ event[0].0 as usize) % event.len();
                kept.extend(event.iter().enumerate().filter_map(|(index, packet)| {
                    (index == always || keep >> index & 1 == 1).then_some(*packet)
                }));
            }
            for packet in &mut kept {
                packet.1 = TelephoneEvent::parse(&packet.1.to_bytes()).unwrap();
            }
            prop_assert_eq!(received(&kept), digits);
        }
    }
}
