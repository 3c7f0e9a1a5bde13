//! Worker to caller: the playout queue, idle audio and digits become one RTP
//! packet each 20 ms, from the moment media is up to the BYE.
//!
//! Shared by the call's driver, which queues, and its pacer, which takes,
//! behind one mutex; every method is short. Order of preference in a tick:
//! digits (RFC 4733), worker audio, idle audio, silence. What happens after
//! a stall is the rule of `catch_up`. Leaves out: when a tick is due.

use std::sync::Arc;

use bytes::Bytes;

use super::latency_recovery::{CatchUp, MayDrop};
use super::playout::{
    BYTES_PER_MS, Cleared, FRAME_BYTES, MAX_PENDING_MARKS, MarkEcho, MarkPlaced, Playout, Pushed,
};
use super::transcode::Encoder;
use crate::core::g711::{Gain, MULAW_SILENCE, is_quiet};
use crate::core::link::MediaFormat;
use crate::core::opus::OpusError;
use crate::core::rtp::{HEADER_BYTES, RtpHeader};
use crate::core::telephone_event::{EVENT_BYTES, EventSender, EventTick, are_digits};

pub use super::transcode::MAX_PACKET_BYTES;

/// What the caller hears while no worker audio is queued. Raw mu-law.
#[derive(Clone, Debug, Default)]
pub enum IdleAudio {
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
    idle_audio: IdleAudio,
    /// Next byte of `idle_audio`.
    comfort_at: usize,
    /// While the other side is held: what it hears instead of all else, and
    /// the next byte of it.
    hold: Option<(Arc<[u8]>, usize)>,
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
            idle_audio: IdleAudio::Silence,
            comfort_at: 0,
            hold: None,
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

    /// The worker is lost: forgets its audio and its marks. Digits go on.
    pub fn abandon(&mut self) -> Cleared {
        self.catch_up.handle_clear();
        self.echoes.clear();
        self.playout.abandon()
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
    pub fn set_idle_audio(&mut self, idle_audio: IdleAudio) {
        self.idle_audio = idle_audio;
        self.comfort_at = 0;
    }

    /// The other side is held, and hears this again and again; the worker's
    /// audio and marks wait. `None`: it is back.
    pub fn set_hold(&mut self, audio: Option<Arc<[u8]>>) {
        self.catch_up.handle_clear();
        self.hold = audio.map(|audio| (audio, 0));
    }

    /// Whether everything queued (audio, marks, digits, an `IdleAudio::Once`) has
    /// been played to its last sample.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        let announcing = match &self.idle_audio {
            IdleAudio::Once(audio) => self.comfort_at < audio.len() || self.sounding,
            IdleAudio::Silence | IdleAudio::Loop(_) => false,
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
        if self.hold.is_none() {
            self.catch_up.handle_skip(frames);
        }
    }

    fn build_audio(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        let Some(frame) = out[HEADER_BYTES..].first_chunk_mut::<FRAME_BYTES>() else {
            return 0;
        };
        self.sounding = if let Some((audio, at)) = &mut self.hold {
            frame.fill(MULAW_SILENCE);
            fill(frame, audio, at, true)
        } else {
            self.trim();
            let queued = self.playout.queued_bytes();
            let taken = self.playout.take_frame(frame);
            let late = self.catch_up.handle_taken(taken, queued, frame);
            self.stats.underruns += u64::from(late);
            self.stats.worker_frames += u64::from(taken > 0);
            taken > 0 || self.fill_comfort(out)
        };
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

    /// Puts the next idle audio into the frame; false when it is silence.
    fn fill_comfort(&mut self, out: &mut [u8; MAX_PACKET_BYTES]) -> bool {
        let (audio, again) = match &self.idle_audio {
            IdleAudio::Silence => return false,
            IdleAudio::Loop(audio) => (audio, true),
            IdleAudio::Once(audio) => (audio, false),
        };
        let frame = &mut out[HEADER_BYTES..HEADER_BYTES + FRAME_BYTES];
        fill(frame, audio, &mut self.comfort_at, again)
    }

    fn build_event(&mut self, tick: EventTick, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        if self.hold.is_none() {
            self.catch_up.handle_skip(1);
        }
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

/// Puts what comes next of `audio` into the frame, from its beginning again
/// where it is over; false when there is nothing.
fn fill(mut rest: &mut [u8], audio: &[u8], at: &mut usize, again: bool) -> bool {
    let mut sounding = false;
    while !rest.is_empty() {
        if *at >= audio.len() {
            if !again || audio.is_empty() {
                break;
            }
            *at = 0;
        }
        let count = rest.len().min(audio.len() - *at);
        let (now, later) = rest.split_at_mut(count);
        now.copy_from_slice(&audio[*at..*at + count]);
        *at += count;
        sounding = true;
        rest = later;
    }
    sounding
}
