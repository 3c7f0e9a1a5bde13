//! DTMF digits as RTP events (RFC 4733, event codes 0 to 15).
//!
//! Leaves out: other events, volume, and events longer than one segment
//! (RFC 4733 2.5.1.3), which phones do not send.

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

/// Reports each digit once. All packets of an event share its RTP timestamp:
/// the first one seen reports it, be it the start, a later one, or the end.
#[derive(Clone, Copy, Debug, Default)]
pub struct EventReceiver {
    last: Option<(u32, u32, char)>,
}

impl EventReceiver {
    /// One event packet; the digit, when it is a new one.
    pub fn handle(&mut self, ssrc: u32, timestamp: u32, event: TelephoneEvent) -> Option<char> {
        let this = (ssrc, timestamp, event.digit);
        let new = self.last != Some(this);
        self.last = Some(this);
        new.then_some(event.digit)
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
#[derive(Clone, Debug, Default)]
pub struct EventSender {
    queue: std::collections::VecDeque<char>,
    /// Ticks into the digit at the front.
    tick: u16,
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

    /// Whether nothing is left to send.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// What to send in this tick; `None` when it belongs to audio.
    pub fn poll_tick(&mut self) -> Option<EventTick> {
        let digit = *self.queue.front()?;
        let tick = self.tick;
        self.tick += 1;
        if self.tick == TONE_FRAMES + GAP_FRAMES {
            self.queue.pop_front();
            self.tick = 0;
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
            .map(|(at, event)| receiver.handle(1, *at, *event));
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
