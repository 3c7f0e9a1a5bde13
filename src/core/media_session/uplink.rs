//! Caller to worker: RTP packets become Media Streams messages, each the moment
//! its packet is in ([`crate::guide::media_streams`]).
//!
//! Input, by its source: RTP packets from pjsip's media thread, ticks and digits
//! by SIP INFO from the driver. Output: `poll_message`. Both threads share it
//! behind one short lock ([`super`]).
//!
//! # Time
//! A position counts samples at 8 kHz since the stream began. Three clocks meet:
//! - *RTP*: a packet belongs where its timestamp says. Lost packets are filled
//!   with silence, so that a loss never shifts what follows.
//! - *position*: what has been put into the stream. It never goes back: a packet
//!   whose place was already filled is appended, and timestamps count from it.
//! - *wall*: the position where a perfect caller would be now. It says how far
//!   pauses are filled: when no RTP comes for 300 ms of observed ticks, and when
//!   a timestamp jumps without a loss. So what jitter and clock skew added is
//!   taken back at the next pause.
//!
//! Where RTP was held up by the network and not by a pause, the silence put in
//! was too much. It is taken back, never more than it was, by leaving out packets
//! that are quiet themselves; nothing else is ever left out.
//!
//! Ticks are counted by how often they come, a long one as 100 ms at most: after
//! a stall of the process the packets that wait in the socket come first.
//!
//! Leaves out: a jitter buffer (the worker gets audio as it comes), concealment
//! of losses other than by silence.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::clock::{MediaClock, TapPlace, Taps};
use super::playout::{BYTES_PER_MS, FRAME_BYTES};
use super::reorder::{Placement, Reception, Reorder};
use super::replay_buffer::ReplayBuffer;
use super::timeline::{Jitter, Timeline};
use super::transcode::Decoders;
use crate::core::digits::{DigitMerge, DigitWay};
use crate::core::g711::{Gain, is_quiet};
use crate::core::media_link::{Codec, MediaFormat};
use crate::core::media_streams::MessageWriter;
use crate::core::opus::{CLOCK_PER_SAMPLE, OpusError};
use crate::core::rtp::RtpHeader;
use crate::core::telephone_event::{EventReceiver, TelephoneEvent};

/// Lost packets that are filled though the wall clock says that there was no
/// time for them, as long as the stream is not this far ahead of it.
const TRUSTED_LOSSES: u16 = 50;
const TRUSTED_AHEAD: u64 = 10_000 * BYTES_PER_MS;
/// Digits that wait for a worker.
const MAX_WAITING_DIGITS: usize = 128;
/// Comfort noise (RFC 3389), and the type it had in RFC 1890.
const COMFORT_NOISE_TYPES: [u8; 2] = [13, 19];
/// Static types of RFC 3551, which a caller may use whenever G.711 was agreed.
const STATIC_PCMU: u8 = 0;
const STATIC_PCMA: u8 = 8;

/// Counters of one call's uplink, each only rising, but for `jitter`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UplinkStats {
    /// RTP packets received, of any kind.
    pub packets: u64,
    /// Packets that never came, or came too late.
    pub lost: u64,
    /// Packets that came twice.
    pub duplicates: u64,
    /// Packets that came after their place had been filled.
    pub late: u64,
    /// Packets that came out of order and were put in place.
    pub reordered: u64,
    /// Not RTP, an unknown payload type, or a payload that does not decode.
    pub invalid: u64,
    /// New sources: SSRC changes and jumps.
    pub resyncs: u64,
    /// Silence put in for lost packets and pauses, in bytes of mu-law.
    pub filled_bytes: u64,
    /// Quiet audio left out because silence had been put in too early.
    pub taken_back_bytes: u64,
    /// Audio dropped because no worker took it in time, in bytes of mu-law.
    pub overflow_bytes: u64,
    /// Digits dropped because no worker took them.
    pub digits_dropped: u64,
    /// Interarrival jitter (RFC 3550 6.4.1).
    pub jitter: Duration,
}

/// The uplink of one leg.
#[derive(Debug)]
pub struct Uplink {
    format: MediaFormat,
    decoders: Decoders,
    reorder: Reorder,
    timeline: Timeline,
    backlog: ReplayBuffer,
    events: EventReceiver,
    merge: DigitMerge,
    /// Digits and the position behind which each belongs.
    digits: VecDeque<(u64, char)>,
    worker: Option<Worker>,
    /// What comes from the other side is for nobody: silence in its place.
    muted: bool,
    jitter: Jitter,
    last_rtp: Option<Instant>,
    stats: UplinkStats,
    clock: MediaClock,
    taps: Taps,
    /// The position of the next frame for the taps, while there are any.
    tapped: Option<u64>,
}

/// A format with what it takes to decode it, made before it is needed.
#[derive(Debug)]
pub struct PreparedFormat {
    format: MediaFormat,
    decoders: Decoders,
}

impl PreparedFormat {
    /// Makes the decoders, which takes some time.
    ///
    /// # Errors
    /// When the codec is Opus and libopus makes no decoder.
    pub fn new(format: &MediaFormat, gain: &Gain) -> Result<Self, OpusError> {
        Ok(Self {
            format: *format,
            decoders: Decoders::new(format.codec, gain)?,
        })
    }
}

#[derive(Debug)]
struct Worker {
    writer: MessageWriter,
    /// Position of its timestamp 0.
    start: u64,
}

impl Uplink {
    /// An uplink that has no worker yet: it keeps what the caller says.
    #[must_use]
    pub fn new(prepared: PreparedFormat, clock: MediaClock) -> Self {
        Self {
            format: prepared.format,
            decoders: prepared.decoders,
            reorder: Reorder::default(),
            timeline: Timeline::default(),
            backlog: ReplayBuffer::default(),
            events: EventReceiver::default(),
            merge: DigitMerge::default(),
            digits: VecDeque::new(),
            worker: None,
            muted: false,
            jitter: Jitter::default(),
            last_rtp: None,
            stats: UplinkStats::default(),
            clock,
            taps: Taps::default(),
            tapped: None,
        }
    }

    /// Puts a tap into one of the [`TAPS_MAX`](super::clock::TAPS_MAX) places, or takes it away: from now on it sees
    /// each frame and digit that comes in, whether or not there is a worker. Gives back what was there.
    #[must_use = "to be dropped after the lock is released"]
    pub fn set_tap(&mut self, place: usize, tap: TapPlace) -> TapPlace {
        let old = match self.taps.place(place) {
            Some(place) => std::mem::replace(place, tap),
            None => tap,
        };
        // A tap that comes to others gets their frames, from the next one on.
        let next = self.tapped.unwrap_or(self.backlog.end());
        self.tapped = (!self.taps.is_empty()).then_some(next);
        old
    }

    /// The clock of the leg, which is that of its downlink too.
    #[must_use]
    pub fn clock(&self) -> MediaClock {
        self.clock
    }

    /// Media changed (re-INVITE). The stream goes on. Gives back what is of no use
    /// any more, to be freed without a lock held.
    #[must_use = "to be dropped after the lock is released"]
    pub fn set_format(&mut self, mut prepared: PreparedFormat) -> PreparedFormat {
        if prepared.format.codec != self.format.codec {
            std::mem::swap(&mut self.decoders, &mut prepared.decoders);
            self.timeline.forget_source();
            self.jitter = Jitter::default();
        }
        self.format = prepared.format;
        prepared
    }

    /// One RTP packet, with the time it was read from the socket. Poll messages
    /// after it.
    pub fn handle_rtp(&mut self, arrived: Instant, packet: &[u8]) {
        self.stats.packets += 1;
        let Some((header, payload)) = RtpHeader::parse(packet) else {
            self.stats.invalid += 1;
            return;
        };
        self.last_rtp = Some(arrived);
        if let Placement::Now { lost, new_source } = self.reorder.handle(arrived, &header, payload)
        {
            self.use_packet(arrived, &header, payload, lost, new_source);
        }
        self.use_held(arrived);
        self.pass_frames();
    }

    /// Time passes: call it every 20 to 100 ms, at least while no RTP comes in.
    /// Poll messages after it.
    pub fn handle_tick(&mut self, now: Instant) {
        // After a stall the packet that others wait for may still be in the socket.
        if !self.timeline.is_stalled(now) {
            self.use_held(now);
        }
        let end = self.backlog.end();
        let pause_end = self.timeline.handle_tick(now, end);
        self.fill_until(pause_end);
        self.pass_frames();
    }

    /// A digit by SIP INFO.
    pub fn handle_digit(&mut self, now: Instant, digit: char) {
        self.report_digit(now, DigitWay::Info, digit);
    }

    /// A worker is there, and its `connected` and `start` are written: what was
    /// kept comes first, timestamps from 0.
    pub fn attach(&mut self, writer: MessageWriter) {
        self.resume(writer, 0);
    }

    /// As `attach`, for a worker that takes over: begins `last_ms` (at most
    /// `HISTORY_MS`) before what was delivered last.
    pub fn resume(&mut self, writer: MessageWriter, last_ms: u64) {
        self.backlog.rewind(last_ms);
        let start = self.backlog.head();
        self.worker = Some(Worker { writer, start });
    }

    /// The worker is gone: gives its writer back, and keeps what the caller says
    /// from here on.
    pub fn detach(&mut self) -> Option<MessageWriter> {
        self.worker.take().map(|worker| worker.writer)
    }

    /// The attached worker's writer, for marks and `stop`: all messages share
    /// its numbers.
    pub fn writer(&mut self) -> Option<&mut MessageWriter> {
        self.worker.as_mut().map(|worker| &mut worker.writer)
    }

    /// Appends the next message, one complete JSON text, to `out`; false when
    /// there is none.
    pub fn poll_message(&mut self, out: &mut Vec<u8>) -> bool {
        let Some(Worker { writer, start }) = &mut self.worker else {
            return false;
        };
        let behind = self.backlog.head() + FRAME_BYTES as u64;
        if self.digits.front().is_some_and(|(at, _)| *at < behind)
            && let Some((_, digit)) = self.digits.pop_front()
        {
            writer.write_dtmf(digit, out);
            return true;
        }
        let Some((position, frame)) = self.backlog.next_frame() else {
            return false;
        };
        writer.write_media((position - *start) / BYTES_PER_MS, frame, out);
        true
    }

    /// What the caller said so far is for nobody: goes on with live audio. For a
    /// leg that is joined with another one, and polled by `poll_frame` and
    /// `poll_digit`.
    pub fn go_live(&mut self) {
        self.worker = None;
        self.digits.clear();
        self.backlog.skip_waiting();
    }

    /// The next 20 ms of audio, for another leg.
    pub fn poll_frame(&mut self) -> Option<&[u8; FRAME_BYTES]> {
        self.backlog.next_frame().map(|(_, frame)| frame)
    }

    /// Whether [`Uplink::poll_digit`] has something.
    #[must_use]
    pub fn has_digit(&self) -> bool {
        !self.digits.is_empty()
    }

    /// The next digit, for another leg, or for whoever listens in place of a worker.
    pub fn poll_digit(&mut self) -> Option<char> {
        self.digits.pop_front().map(|(_, digit)| digit)
    }

    /// Whether silence takes the place of what comes from now on, and digits
    /// are ignored. Time goes on.
    pub fn set_muted(&mut self, muted: bool) {
        self.muted = muted;
    }

    /// Whether packets wait for a missing one, which only ticks will give up.
    #[must_use]
    pub fn is_holding(&self) -> bool {
        self.reorder.is_holding()
    }

    /// When the last RTP packet of any kind came in.
    #[must_use]
    pub fn last_rtp(&self) -> Option<Instant> {
        self.last_rtp
    }

    /// What has come from the caller's current source, and its jitter in RTP
    /// clock units, for receiver reports.
    #[must_use]
    pub fn reception(&self) -> Option<(Reception, u32)> {
        let counts = self.reorder.reception();
        counts.map(|counts| (counts, self.jitter.clock_units()))
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> UplinkStats {
        let order = self.reorder.stats();
        UplinkStats {
            lost: order.lost,
            duplicates: order.duplicates,
            late: order.late,
            reordered: order.reordered,
            resyncs: order.resyncs,
            overflow_bytes: self.backlog.overflow_bytes(),
            jitter: self.jitter.duration(self.format.codec.clock_rate_hz()),
            ..self.stats
        }
    }

    /// The one point that each frame from the caller passes, with its media time:
    /// once, in order, as it was put into the stream, whoever takes it when.
    fn pass_frames(&mut self) {
        let Some(next) = &mut self.tapped else { return };
        let Some(zero) = self.timeline.zero() else {
            return;
        };
        while *next + FRAME_BYTES as u64 <= self.backlog.end() {
            let at = self.clock.at(zero).plus_samples(*next);
            // What is more than is kept is gone already.
            if let Some(frame) = self.backlog.frame_at(*next) {
                self.taps.handle_frame(at, frame);
            }
            *next += FRAME_BYTES as u64;
        }
    }

    /// The taps have a digit in its turn: behind the frames before it.
    fn pass_digit(&mut self, now: Instant, digit: char) {
        if self.tapped.is_some() {
            self.pass_frames();
            let zero = self.timeline.zero().unwrap_or(now);
            let at = self.clock.at(zero).plus_samples(self.backlog.end());
            self.taps.handle_digit(at, digit);
        }
    }

    fn use_held(&mut self, now: Instant) {
        while let Some(held) = self.reorder.poll_held(now) {
            self.use_packet(now, &held.header, &held.payload, held.lost, held.new_source);
        }
    }

    /// One packet whose turn it is.
    fn use_packet(
        &mut self,
        now: Instant,
        header: &RtpHeader,
        payload: &[u8],
        lost: u16,
        new_source: bool,
    ) {
        if new_source {
            self.timeline.forget_source();
            self.jitter = Jitter::default();
        }
        if Some(header.payload_type) == self.format.receive_event_type {
            return self.use_event(now, header, payload);
        }
        if COMFORT_NOISE_TYPES.contains(&header.payload_type) {
            self.fill_before(now, header.timestamp, lost);
            self.timeline.anchor(header.timestamp, self.backlog.end());
            return;
        }
        let Some(codec) = self.codec_of(header.payload_type) else {
            self.stats.invalid += 1;
            return;
        };
        let clock_hz = self.format.codec.clock_rate_hz();
        self.jitter.handle(now, header.timestamp, clock_hz);
        self.fill_before(now, header.timestamp, lost);
        self.timeline.handle_audio(now, self.backlog.end());
        let Some(audio) = self.decoders.decode(codec, payload, &mut self.backlog) else {
            self.stats.invalid += 1;
            return;
        };
        let samples = audio.len() as u32;
        let quiet = self.timeline.has_surplus() && (self.muted || is_quiet(audio));
        if self.muted {
            self.backlog.mute_last(samples as usize);
        }
        let end = self.backlog.end();
        if self.timeline.has_surplus() && self.timeline.trim_overfill(now, end, samples, quiet) {
            self.backlog.unpush(samples as usize);
            self.stats.taken_back_bytes += u64::from(samples);
        }
        let duration = samples * self.clock_per_sample();
        self.timeline.packet_samples = samples;
        self.timeline
            .anchor(header.timestamp.wrapping_add(duration), self.backlog.end());
    }

    fn codec_of(&self, payload_type: u8) -> Option<Codec> {
        if payload_type == self.format.receive_payload_type {
            return Some(self.format.codec);
        }
        match payload_type {
            _ if self.format.codec == Codec::Opus => None,
            STATIC_PCMU => Some(Codec::Pcmu),
            STATIC_PCMA => Some(Codec::Pcma),
            _ => None,
        }
    }

    fn clock_per_sample(&self) -> u32 {
        match self.format.codec {
            Codec::Pcmu | Codec::Pcma => 1,
            Codec::Opus => CLOCK_PER_SAMPLE,
        }
    }

    fn use_event(&mut self, now: Instant, header: &RtpHeader, payload: &[u8]) {
        let Some(event) = TelephoneEvent::parse(payload) else {
            self.stats.invalid += 1;
            return;
        };
        let frame = FRAME_BYTES as u32 * self.clock_per_sample();
        let digit = self
            .events
            .handle(header.ssrc, header.timestamp, event, frame);
        // Phones that send audio beside the event are not further than this:
        // one frame before the end of what the event covers.
        let covered = u32::from(event.duration).saturating_sub(frame);
        self.fill_before(now, header.timestamp.wrapping_add(covered), 0);
        self.timeline.handle_audio(now, self.backlog.end());
        if let Some(digit) = digit {
            self.report_digit(now, DigitWay::Event, digit);
        }
    }

    fn report_digit(&mut self, now: Instant, way: DigitWay, digit: char) {
        if !self.merge.handle(now, way, digit) || self.muted {
            return;
        }
        self.pass_digit(now, digit);
        if self.digits.len() == MAX_WAITING_DIGITS {
            self.stats.digits_dropped += 1;
            return;
        }
        self.digits.push_back((self.backlog.end(), digit));
    }

    /// Fills what lies between the stream's end and a packet's place.
    fn fill_before(&mut self, now: Instant, timestamp: u32, lost: u16) {
        let per_sample = self.clock_per_sample();
        let end = self.backlog.end();
        let place = self.timeline.place(timestamp, per_sample).unwrap_or(end);
        self.timeline.settle_presumed(place, end);
        let wall = self.timeline.wall(now);
        let trusted = u64::from(lost.min(TRUSTED_LOSSES) + 1) * u64::from(lost > 0);
        let reach = end + trusted * u64::from(self.timeline.packet_samples);
        self.fill_until(place.min(wall.max(reach.min(wall + TRUSTED_AHEAD))));
    }

    fn fill_until(&mut self, position: u64) {
        let missing = position.saturating_sub(self.backlog.end());
        self.stats.filled_bytes += missing;
        self.backlog
            .push_silence(usize::try_from(missing).unwrap_or(usize::MAX));
    }
}
