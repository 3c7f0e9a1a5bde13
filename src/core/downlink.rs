//! Worker to caller: the playout queue, comfort audio and digits become one RTP
//! packet each 20 ms, from the moment media is up to the BYE.
//!
//! Shared by the call's driver, which queues, and its pacer, which takes,
//! behind one mutex; every method is short. Order of preference in a tick:
//! digits (RFC 4733), worker audio, comfort audio, silence. What happens after
//! a stall is the rule of `catch_up`. Leaves out: when a tick is due.

use std::sync::Arc;

use bytes::Bytes;

use super::catch_up::{CatchUp, Drop as MayDrop};
use super::g711::{CodeTable, Gain, MULAW_SILENCE, MULAW_TO_LINEAR, is_quiet, translate};
use super::link::{Codec, MediaFormat};
use super::opus::{CLOCK_PER_SAMPLE, MAX_PAYLOAD_BYTES, OpusEncoder, OpusError};
use super::playout::{
    BYTES_PER_MS, Cleared, FRAME_BYTES, MAX_PENDING_MARKS, MarkEcho, MarkPlaced, Playout, Pushed,
};
use super::rtp::{HEADER_BYTES, RtpHeader};
use super::telephone_event::{EVENT_BYTES, EventSender, EventTick, are_digits};

/// The longest packet `poll_tick` builds: RTP header and an Opus payload.
pub const MAX_PACKET_BYTES: usize = HEADER_BYTES + MAX_PAYLOAD_BYTES;

/// What the caller hears while no worker audio is queued. Raw mu-law.
#[derive(Clone, Debug, Default)]
pub enum Comfort {
    /// Silence.
    #[default]
    Silence,
    /// Ringback or hold audio, again and again.
    Loop(Arc<[u8]>),
    /// A greeting or announcement, then silence. `is_drained` waits for it.
    Once(Arc<[u8]>),
}

/// What one tick produced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tick {
    /// Length of the RTP packet in `out`; 0 while the direction forbids sending (hold).
    pub packet_bytes: usize,
    /// Wake the driver: echoes are ready, or the drain it asked for is reached.
    pub wake_driver: bool,
}

/// Counters of one call's downlink, each only rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkStats {
    /// RTP packets built.
    pub packets: u64,
    /// Frames with worker audio in them.
    pub worker_frames: u64,
    /// Frames in which a live stream's audio was late.
    pub underruns: u64,
    /// Frames dropped by the stall rule.
    pub trimmed_frames: u64,
    /// Frames that the pacer gave up because it was late.
    pub skipped_frames: u64,
    /// Bytes of worker audio dropped because the queue was full.
    pub overflow_bytes: u64,
    /// Marks refused because too many waited.
    pub marks_refused: u64,
    /// Frames that the encoder refused.
    pub encode_errors: u64,
}

/// Why digits cannot be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DigitsRefused {
    /// The caller's side did not negotiate RFC 4733.
    #[error("the caller's phone did not negotiate RFC 4733 events")]
    NotNegotiated,
    /// Something else than 0-9 * # A-D.
    #[error("digits hold something else than 0-9 * # A-D")]
    Invalid,
    /// Too many digits wait.
    #[error("too many digits wait to be sent")]
    Full,
}

/// The downlink of one call.
#[derive(Debug)]
pub struct Downlink {
    playout: Playout,
    catch_up: CatchUp,
    comfort: Comfort,
    /// Next byte of `comfort`.
    comfort_at: usize,
    events: EventSender,
    encoder: Encoder,
    gain: Gain,
    format: MediaFormat,
    sequence: u16,
    timestamp: u32,
    /// The packet before had sound in it: no talk spurt begins.
    talking: bool,
    echoes: Vec<MarkEcho>,
    drain_awaited: bool,
    /// Something other than silence sounds until the next tick.
    sounding: bool,
    stats: DownlinkStats,
}

impl Downlink {
    /// `tx_gain` is applied to everything sent. `sequence` and `timestamp` are
    /// the first of the stream: random, as RFC 3550 asks.
    ///
    /// # Errors
    /// When the codec is Opus and libopus makes no encoder.
    pub fn new(
        format: &MediaFormat,
        tx_gain: Gain,
        sequence: u16,
        timestamp: u32,
    ) -> Result<Self, OpusError> {
        Ok(Self {
            playout: Playout::default(),
            catch_up: CatchUp::default(),
            comfort: Comfort::Silence,
            comfort_at: 0,
            events: EventSender::default(),
            encoder: Encoder::new(format.codec, &tx_gain)?,
            gain: tx_gain,
            format: *format,
            sequence,
            timestamp,
            talking: false,
            echoes: Vec::new(),
            drain_awaited: false,
            sounding: false,
            stats: DownlinkStats::default(),
        })
    }

    /// Media changed (re-INVITE): payload types, codec, SSRC, direction.
    /// Sequence, timestamp and what is queued go on.
    ///
    /// # Errors
    /// When the codec is Opus and libopus makes no encoder; nothing has changed.
    pub fn set_format(&mut self, format: &MediaFormat) -> Result<(), OpusError> {
        if format.codec != self.format.codec {
            self.encoder = Encoder::new(format.codec, &self.gain)?;
        }
        self.format = *format;
        Ok(())
    }

    /// Queues worker audio.
    pub fn push(&mut self, audio: Bytes) -> Pushed {
        self.playout.push(audio)
    }

    /// Places a mark behind the audio pushed so far.
    pub fn mark(&mut self, name: String) -> MarkPlaced {
        if self.playout.pending_marks() + self.echoes.len() >= MAX_PENDING_MARKS {
            self.stats.marks_refused += 1;
            return MarkPlaced::Refused;
        }
        match self.playout.mark(name) {
            Some(echo) => {
                self.echoes.push(echo);
                MarkPlaced::Ready
            }
            None => MarkPlaced::Waiting,
        }
    }

    /// Empties the queue; the echoes of all waiting marks are ready at once.
    pub fn clear(&mut self) -> Cleared {
        self.catch_up.handle_clear();
        self.playout.clear(&mut self.echoes)
    }

    /// Moves the ready echoes, in order, to the end of `echoes`.
    pub fn drain_echoes(&mut self, echoes: &mut Vec<MarkEcho>) {
        echoes.append(&mut self.echoes);
    }

    /// Sends digits by RFC 4733. They take the place of audio while they last;
    /// worker audio waits for them.
    ///
    /// # Errors
    /// When they cannot be sent; none of them is.
    pub fn send_digits(&mut self, digits: &str) -> Result<(), DigitsRefused> {
        if self.format.send_event_type.is_none() {
            return Err(DigitsRefused::NotNegotiated);
        }
        if !are_digits(digits) {
            return Err(DigitsRefused::Invalid);
        }
        let queued = self.events.queue(digits);
        queued.then_some(()).ok_or(DigitsRefused::Full)
    }

    /// What is heard while no worker audio is queued, from its beginning.
    pub fn set_comfort(&mut self, comfort: Comfort) {
        self.comfort = comfort;
        self.comfort_at = 0;
    }

    /// Whether everything queued (audio, marks, digits, a `Comfort::Once`) has
    /// been played to its last sample.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let announcing = match &self.comfort {
            Comfort::Once(audio) => self.comfort_at < audio.len() || self.sounding,
            Comfort::Silence | Comfort::Loop(_) => false,
        };
        self.playout.is_idle() && self.events.is_idle() && !announcing
    }

    /// Asks for one `wake_driver` at the next tick that finds it drained.
    pub fn notify_drained(&mut self) {
        self.drain_awaited = true;
    }

    /// Worker audio queued, in ms.
    #[must_use]
    pub fn queued_ms(&self) -> u64 {
        self.playout.queued_bytes() as u64 / BYTES_PER_MS
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> DownlinkStats {
        DownlinkStats {
            overflow_bytes: self.playout.overflow_bytes(),
            ..self.stats
        }
    }

    /// Builds the packet of the next 20 ms. The pacer calls it once per tick, on
    /// absolute deadlines.
    pub fn poll_tick(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> Tick {
        self.playout.begin_tick(&mut self.echoes);
        let packet_bytes = match self.events.poll_tick() {
            Some(tick) => self.build_event(tick, out),
            None => self.build_audio(out),
        };
        self.timestamp = self.timestamp.wrapping_add(self.encoder.frame_clock());
        let drained = self.drain_awaited && self.is_drained();
        self.drain_awaited &= !drained;
        Tick {
            packet_bytes,
            wake_driver: drained || !self.echoes.is_empty(),
        }
    }

    /// The pacer is late and gives up `frames` deadlines: the timestamp jumps,
    /// the sequence number does not. Call it before the tick that follows.
    pub fn skip(&mut self, frames: u32) {
        let jump = self.encoder.frame_clock().wrapping_mul(frames);
        self.timestamp = self.timestamp.wrapping_add(jump);
        self.stats.skipped_frames += u64::from(frames);
        self.catch_up.handle_skip(frames);
    }

    fn build_audio(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        let Some(frame) = out[HEADER_BYTES..].first_chunk_mut::<FRAME_BYTES>() else {
            return 0;
        };
        self.trim();
        let queued = self.playout.queued_bytes();
        let taken = self.playout.take_frame(frame);
        let late = self.catch_up.handle_taken(taken, queued, frame);
        self.stats.underruns += u64::from(late);
        self.stats.worker_frames += u64::from(taken > 0);
        self.sounding = taken > 0 || self.fill_comfort(out);
        let starts = self.sounding && !self.talking;
        self.talking = self.sounding;
        match self.encoder.encode(out) {
            Ok(payload_bytes) => {
                let payload_type = self.format.send_payload_type;
                self.finish_packet(out, payload_type, starts, self.timestamp, payload_bytes)
            }
            Err(_) => {
                self.stats.encode_errors += 1;
                0
            }
        }
    }

    /// Drops what the stall rule allows from the head of the queue.
    fn trim(&mut self) {
        let (frames, only_quiet) = match self.catch_up.poll_drop(self.playout.queued_bytes()) {
            MayDrop::Nothing => return,
            MayDrop::Quiet(frames) => (frames, true),
            MayDrop::Any(frames) => (frames, false),
        };
        let mut head = [0; FRAME_BYTES];
        let mut dropped = 0;
        while dropped < frames {
            if only_quiet && !(self.playout.peek_frame(&mut head) && is_quiet(&head)) {
                break;
            }
            self.playout.skip_frame();
            dropped += 1;
        }
        self.catch_up.handle_dropped(dropped);
        self.stats.trimmed_frames += u64::from(dropped);
    }

    /// Puts the next comfort audio into the frame; false when it is silence.
    fn fill_comfort(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> bool {
        let (audio, again) = match &self.comfort {
            Comfort::Silence => return false,
            Comfort::Loop(audio) => (audio, true),
            Comfort::Once(audio) => (audio, false),
        };
        let mut rest = &mut out[HEADER_BYTES..HEADER_BYTES + FRAME_BYTES];
        let mut sounding = false;
        while !rest.is_empty() {
            if self.comfort_at >= audio.len() {
                if !again || audio.is_empty() {
                    break;
                }
                self.comfort_at = 0;
            }
            let count = rest.len().min(audio.len() - self.comfort_at);
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&audio[self.comfort_at..self.comfort_at + count]);
            self.comfort_at += count;
            sounding = true;
            rest = later;
        }
        sounding
    }

    fn build_event(&mut self, tick: EventTick, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        self.catch_up.handle_skip(1);
        let (mut event, begun_ticks_ago, first) = match (tick, self.format.send_event_type) {
            (
                EventTick::Event {
                    event,
                    begun_ticks_ago,
                    first,
                },
                Some(_),
            ) => (event, begun_ticks_ago, first),
            // A re-INVITE took the events away, or two digits are kept apart.
            _ => return self.build_silence(out),
        };
        let clock = self.encoder.frame_clock();
        event.duration = event
            .duration
            .saturating_mul((clock / FRAME_BYTES as u32) as u16);
        out[HEADER_BYTES..HEADER_BYTES + EVENT_BYTES].copy_from_slice(&event.to_bytes());
        let begun = self
            .timestamp
            .wrapping_sub(clock * u32::from(begun_ticks_ago));
        let payload_type = self.format.send_event_type.unwrap_or_default();
        self.talking = false;
        self.finish_packet(out, payload_type, first, begun, EVENT_BYTES)
    }

    fn build_silence(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        out[HEADER_BYTES..HEADER_BYTES + FRAME_BYTES].fill(MULAW_SILENCE);
        let payload_bytes = self.encoder.encode(out).unwrap_or_default();
        let payload_type = self.format.send_payload_type;
        self.finish_packet(out, payload_type, false, self.timestamp, payload_bytes)
    }

    /// Writes the header before the payload; gives the packet's length.
    fn finish_packet(
        &mut self,
        out: &mut [u8; MAX_PACKET_BYTES],
        payload_type: u8,
        marker: bool,
        timestamp: u32,
        payload_bytes: usize,
    ) -> usize {
        if !self.format.direction.sends() || payload_bytes == 0 {
            return 0;
        }
        let header = RtpHeader {
            marker,
            payload_type,
            sequence: self.sequence,
            timestamp,
            ssrc: self.format.ssrc,
        };
        out[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
        self.sequence = self.sequence.wrapping_add(1);
        self.stats.packets += 1;
        HEADER_BYTES + payload_bytes
    }
}

/// From mu-law to the negotiated codec, in the packet buffer.
#[derive(Debug)]
enum Encoder {
    /// PCMU as it is.
    Plain,
    /// PCMU with a gain, or PCMA.
    Table(Box<CodeTable>),
    Opus {
        encoder: Box<OpusEncoder>,
        gain: Option<Box<CodeTable>>,
    },
}

impl Encoder {
    fn new(codec: Codec, gain: &Gain) -> Result<Self, OpusError> {
        Ok(match codec {
            Codec::Pcmu => gain
                .on_mulaw()
                .map_or(Self::Plain, |table| Self::Table(Box::new(table))),
            Codec::Pcma => Self::Table(Box::new(gain.to_alaw())),
            Codec::Opus => Self::Opus {
                encoder: Box::new(OpusEncoder::new()?),
                gain: gain.on_mulaw().map(Box::new),
            },
        })
    }

    /// RTP clock units in 20 ms.
    fn frame_clock(&self) -> u32 {
        match self {
            Self::Plain | Self::Table(_) => FRAME_BYTES as u32,
            Self::Opus { .. } => FRAME_BYTES as u32 * CLOCK_PER_SAMPLE,
        }
    }

    /// Encodes the mu-law frame behind the header in place; gives its length.
    fn encode(&mut self, packet: &mut [u8; MAX_PACKET_BYTES]) -> Result<usize, OpusError> {
        let payload = &mut packet[HEADER_BYTES..];
        let frame = &mut payload[..FRAME_BYTES];
        match self {
            Self::Plain => Ok(FRAME_BYTES),
            Self::Table(table) => {
                translate(frame, table);
                Ok(FRAME_BYTES)
            }
            Self::Opus { encoder, gain } => {
                if let Some(table) = gain {
                    translate(frame, table);
                }
                let mut samples = [0; FRAME_BYTES];
                for (sample, code) in samples.iter_mut().zip(frame) {
                    *sample = MULAW_TO_LINEAR[usize::from(*code)];
                }
                encoder.encode(&samples, payload)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::g711::MULAW_TO_ALAW;
    use crate::core::link::Direction;
    use crate::core::telephone_event::TelephoneEvent;

    const FORMAT: MediaFormat = MediaFormat {
        codec: Codec::Pcmu,
        send_payload_type: 0,
        receive_payload_type: 0,
        send_event_type: Some(101),
        receive_event_type: Some(101),
        ssrc: 0xABCD,
        direction: Direction::SendRecv,
    };

    fn downlink(format: MediaFormat) -> Downlink {
        Downlink::new(&format, Gain::default(), 65_535, 1_000).unwrap()
    }

    fn audio(frames: usize, code: u8) -> Bytes {
        vec![code; frames * FRAME_BYTES].into()
    }

    /// One tick; the packet's header and payload.
    fn tick(downlink: &mut Downlink) -> Option<(RtpHeader, Vec<u8>)> {
        let mut out = [0; MAX_PACKET_BYTES];
        let tick = downlink.poll_tick(&mut out);
        let (header, payload) = RtpHeader::parse(&out[..tick.packet_bytes])?;
        Some((header, payload.to_vec()))
    }

    fn echoes(downlink: &mut Downlink) -> Vec<String> {
        let mut echoes = Vec::new();
        downlink.drain_echoes(&mut echoes);
        echoes.into_iter().map(|echo| echo.name).collect()
    }

    #[test]
    fn a_packet_every_tick_and_a_marker_where_sound_begins() {
        let mut downlink = downlink(FORMAT);
        let (first, silence) = tick(&mut downlink).unwrap();
        assert_eq!(silence, [MULAW_SILENCE; FRAME_BYTES]);
        assert_eq!(
            (first.sequence, first.timestamp, first.ssrc),
            (65_535, 1_000, 0xABCD)
        );
        assert!(!first.marker);
        downlink.push(audio(2, 1));
        let (second, payload) = tick(&mut downlink).unwrap();
        assert_eq!((second.sequence, second.timestamp), (0, 1_160));
        assert_eq!(payload, [1; FRAME_BYTES]);
        assert!(second.marker);
        assert!(!tick(&mut downlink).unwrap().0.marker);
        assert!(!tick(&mut downlink).unwrap().0.marker);
    }

    #[test]
    fn comfort_is_heard_only_while_nothing_is_queued() {
        let mut downlink = downlink(FORMAT);
        let tone: Arc<[u8]> = (0..240).map(|n| n as u8).collect();
        downlink.set_comfort(Comfort::Loop(tone));
        assert!(downlink.is_drained());
        assert_eq!(tick(&mut downlink).unwrap().1[159], 159);
        downlink.push(audio(1, 7));
        assert_eq!(tick(&mut downlink).unwrap().1[0], 7);
        let wrapped = tick(&mut downlink).unwrap().1;
        assert_eq!((wrapped[79], wrapped[80]), (239, 0));
        downlink.set_comfort(Comfort::Once(vec![5; 200].into()));
        assert!(!downlink.is_drained());
        assert_eq!(tick(&mut downlink).unwrap().1, [5; FRAME_BYTES]);
        assert_eq!(tick(&mut downlink).unwrap().1[39..41], [5, MULAW_SILENCE]);
        assert!(!downlink.is_drained());
        tick(&mut downlink);
        assert!(downlink.is_drained());
    }

    #[test]
    fn the_driver_is_woken_for_marks_and_for_the_drain() {
        let (mut downlink, mut out) = (downlink(FORMAT), [0; MAX_PACKET_BYTES]);
        downlink.push(audio(1, 1));
        assert_eq!(downlink.mark("a".into()), MarkPlaced::Waiting);
        downlink.push(audio(1, 1));
        downlink.notify_drained();
        assert!(!downlink.poll_tick(&mut out).wake_driver);
        assert!(downlink.poll_tick(&mut out).wake_driver);
        assert_eq!(echoes(&mut downlink), ["a"]);
        assert!(downlink.poll_tick(&mut out).wake_driver, "drained");
        assert!(downlink.is_drained());
        assert!(!downlink.poll_tick(&mut out).wake_driver);
        assert_eq!(downlink.mark("b".into()), MarkPlaced::Ready);
        assert_eq!(echoes(&mut downlink), ["b"]);
    }

    #[test]
    fn clear_is_silence_at_the_next_tick() {
        let mut downlink = downlink(FORMAT);
        downlink.push(audio(30_000, 1));
        downlink.mark("a".into());
        tick(&mut downlink);
        let cleared = downlink.clear();
        assert_eq!((cleared.bytes, cleared.marks), (29_999 * FRAME_BYTES, 1));
        assert_eq!(echoes(&mut downlink), ["a"]);
        assert_eq!(tick(&mut downlink).unwrap().1, [MULAW_SILENCE; FRAME_BYTES]);
    }

    #[test]
    fn marks_are_bounded() {
        let mut downlink = downlink(FORMAT);
        downlink.push(audio(1, 1));
        for number in 0..MAX_PENDING_MARKS {
            assert_eq!(downlink.mark(number.to_string()), MarkPlaced::Waiting);
        }
        assert_eq!(downlink.mark("over".into()), MarkPlaced::Refused);
        assert_eq!(downlink.stats().marks_refused, 1);
    }

    #[test]
    fn digits_take_the_place_of_audio_and_no_audio_is_lost() {
        let mut downlink = downlink(FORMAT);
        assert_eq!(downlink.send_digits("1x"), Err(DigitsRefused::Invalid));
        downlink.push(audio(1, 9));
        downlink.send_digits("7").unwrap();
        let packets: Vec<_> = (0..12).map(|_| tick(&mut downlink).unwrap()).collect();
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
        downlink.set_format(&plain).unwrap();
        assert_eq!(downlink.send_digits("1"), Err(DigitsRefused::NotNegotiated));
    }

    #[test]
    fn on_hold_nothing_is_sent_and_time_runs_on() {
        let mut downlink = downlink(FORMAT);
        let held = MediaFormat {
            direction: Direction::Inactive,
            ..FORMAT
        };
        let first = tick(&mut downlink).unwrap().0;
        downlink.set_format(&held).unwrap();
        downlink.push(audio(1, 1));
        downlink.mark("a".into());
        assert_eq!(tick(&mut downlink), None);
        assert_eq!(tick(&mut downlink), None);
        assert_eq!(echoes(&mut downlink), ["a"]);
        downlink.set_format(&FORMAT).unwrap();
        let next = tick(&mut downlink).unwrap().0;
        assert_eq!(next.sequence, first.sequence.wrapping_add(1));
        assert_eq!(next.timestamp, first.timestamp + 3 * 160);
    }

    #[test]
    fn a_skip_moves_the_timestamp_alone() {
        let mut downlink = downlink(FORMAT);
        let first = tick(&mut downlink).unwrap().0;
        downlink.skip(25);
        let next = tick(&mut downlink).unwrap().0;
        assert_eq!(next.sequence, first.sequence.wrapping_add(1));
        assert_eq!(next.timestamp, first.timestamp + 26 * 160);
        assert_eq!(downlink.stats().skipped_frames, 25);
    }

    #[test]
    fn other_codecs_and_gain() {
        let pcma = MediaFormat {
            codec: Codec::Pcma,
            send_payload_type: 8,
            ..FORMAT
        };
        let mut alaw = downlink(pcma);
        alaw.push(audio(1, 0x12));
        let (header, payload) = tick(&mut alaw).unwrap();
        assert_eq!((header.payload_type, payload[0]), (8, MULAW_TO_ALAW[0x12]));
        let mut mute = Downlink::new(&FORMAT, Gain::from_factor(0.0), 0, 0).unwrap();
        mute.push(audio(1, 0x12));
        assert_eq!(tick(&mut mute).unwrap().1, [MULAW_SILENCE; FRAME_BYTES]);
        let opus = MediaFormat {
            codec: Codec::Opus,
            send_payload_type: 96,
            ..FORMAT
        };
        alaw.set_format(&opus).unwrap();
        let (first, payload) = tick(&mut alaw).unwrap();
        assert!(!payload.is_empty());
        assert_eq!(tick(&mut alaw).unwrap().0.timestamp, first.timestamp + 960);
    }
}
