//! Worker to caller: the playout queue, idle audio and digits become one RTP
//! packet each 20 ms, from the moment media is up to the BYE.
//!
//! This is the half that the pacer owns: `handle_tick`, then `poll_transmit`. It
//! never waits, allocates or frees. What is to be sent, and what else is asked of
//! it, comes from [`DownlinkHandle`] on normal threads.
//!
//! Order of preference in a tick: digits (RFC 4733), worker audio, idle audio,
//! silence. What happens after a stall is the rule of `latency_recovery`. Leaves
//! out: when a tick is due.

use std::sync::Arc;
use std::time::Instant;

use super::clock::{MediaClock, MediaTime, Taps};
use super::downlink_handle::{DownlinkHandle, Shared};
use super::latency_recovery::{CatchUp, MayDrop};
use super::playout::{FRAME_BYTES, playout};
use super::playout_reader::PlayoutReader;
use super::transcode::Encoder;
use crate::core::g711::{Gain, MULAW_SILENCE, is_quiet};
use crate::core::media_link::MediaFormat;
use crate::core::opus::OpusError;
use crate::core::rtp::{HEADER_BYTES, RtpHeader};
use crate::core::telephone_event::{EVENT_BYTES, EventSender, EventTick};

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

/// Counters of one call's downlink, each only rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkStats {
    /// RTP packets built.
    pub packets: u64,
    /// Bytes of payload in them (RFC 3550 6.4.1).
    pub payload_bytes: u64,
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

/// How a leg's sending begins.
#[derive(Debug)]
pub struct DownlinkConfig {
    /// What was negotiated, as far as it was.
    pub format: MediaFormat,
    /// Applied to everything sent.
    pub gain: Gain,
    /// The first of the stream: random, as RFC 3550 asks.
    pub sequence: u16,
    /// The first of the stream: random too.
    pub timestamp: u32,
    /// The leg's own.
    pub clock: MediaClock,
}

/// Makes the two halves of a leg's downlink: the handle for normal threads, and
/// what the pacer owns.
///
/// # Errors
/// When the codec is Opus and libopus makes no encoder.
pub fn downlink(config: DownlinkConfig) -> Result<(DownlinkHandle, Downlink), OpusError> {
    let encoder = Encoder::new(config.format.codec, &config.gain)?;
    let (writer, playout) = playout();
    let shared = Arc::new(Shared::default());
    let handle = DownlinkHandle::new(writer, shared.clone(), config.gain, config.format);
    let sending = Sending {
        playout,
        catch_up: CatchUp::default(),
        idle_audio: IdleAudio::Silence,
        idle_number: 0,
        idle_at: 0,
        hold: None,
        hold_at: 0,
        events: EventSender::default(),
        encoder,
        format: config.format,
        sequence: config.sequence,
        timestamp: config.timestamp,
        talking: false,
        sounding: false,
        clock: config.clock,
        media_time: None,
        taps: Taps::default(),
        shared,
        stats: DownlinkStats::default(),
    };
    let downlink = Downlink {
        sending,
        packet: [0; MAX_PACKET_BYTES],
        packet_bytes: 0,
    };
    Ok((handle, downlink))
}

/// The half of the downlink that the pacer owns.
#[derive(Debug)]
pub struct Downlink {
    sending: Sending,
    /// The packet of this tick; only what is sent of it is written anew.
    packet: [u8; MAX_PACKET_BYTES],
    packet_bytes: usize,
}

impl Downlink {
    /// The pacer is late and gives up `frames` deadlines: the timestamp jumps,
    /// the sequence number does not. Call it before the tick that follows.
    pub fn skip(&mut self, frames: u32) {
        self.sending.skip(frames);
    }

    /// The next 20 ms are due, on absolute deadlines. Whether the driver is to be
    /// woken: a mark is due, or the drain that it asked for is reached. Poll the
    /// packet after it.
    pub fn handle_tick(&mut self, now: Instant) -> bool {
        let wake_driver;
        (self.packet_bytes, wake_driver) = self.sending.handle_tick(now, &mut self.packet);
        wake_driver
    }

    /// The RTP packet of this tick, once; `None` while the direction forbids
    /// sending (hold).
    pub fn poll_transmit(&mut self) -> Option<&[u8]> {
        let bytes = std::mem::take(&mut self.packet_bytes);
        (bytes > 0).then(|| &self.packet[..bytes])
    }
}

/// All of it but the packet.
#[derive(Debug)]
struct Sending {
    playout: PlayoutReader,
    catch_up: CatchUp,
    idle_audio: IdleAudio,
    /// How many were set before it.
    idle_number: u64,
    /// Next byte of `idle_audio`.
    idle_at: usize,
    /// While the other side is held: what it hears instead of all else.
    hold: Option<Arc<[u8]>>,
    /// Next byte of `hold`.
    hold_at: usize,
    events: EventSender,
    encoder: Encoder,
    format: MediaFormat,
    sequence: u16,
    timestamp: u32,
    /// The packet before had sound in it: no talk spurt begins.
    talking: bool,
    /// Something other than silence sounds until the next tick.
    sounding: bool,
    clock: MediaClock,
    /// Of the next frame; known from the first tick on.
    media_time: Option<MediaTime>,
    taps: Taps,
    shared: Arc<Shared>,
    stats: DownlinkStats,
}

impl Sending {
    fn handle_tick(&mut self, now: Instant, out: &mut [u8; MAX_PACKET_BYTES]) -> (usize, bool) {
        let begun = self.playout.begin_tick();
        if begun.cleared {
            self.catch_up.handle_clear();
        }
        self.take_changes();
        let at = *self.media_time.get_or_insert(self.clock.at(now));
        let packet_bytes = match self.events.poll_tick() {
            Some(tick) => self.build_event(at, tick, out),
            None => self.build_audio(at, out),
        };
        self.shared.publish_time(self.timestamp, at);
        self.media_time = Some(at.plus_frames(1));
        self.timestamp = self.timestamp.wrapping_add(self.encoder.frame_clock());
        let drained = self.publish();
        (packet_bytes, drained || begun.mark_due)
    }

    /// What has been changed by the handle since the last tick. Where a change is
    /// being made in this moment, it comes with the next tick.
    fn take_changes(&mut self) {
        self.shared.changes.try_take(|changes| {
            changes.encoder.exchange(&mut self.encoder);
            changes.format.exchange(&mut self.format);
            if changes.idle_audio.exchange(&mut self.idle_audio) {
                self.idle_at = 0;
                self.idle_number = changes.idle_number;
            }
            if changes.hold.exchange(&mut self.hold) {
                self.hold_at = 0;
                self.catch_up.handle_clear();
            }
            for (number, change) in changes.taps.iter_mut().enumerate() {
                if let Some(place) = self.taps.place(number) {
                    change.exchange(place);
                }
            }
            if std::mem::take(&mut changes.forgets_digits) {
                self.events.forget();
            }
            // The handle has seen that there is room.
            self.events.queue(&changes.digits);
            changes.digits.clear();
        });
    }

    fn skip(&mut self, frames: u32) {
        let jump = self.encoder.frame_clock().wrapping_mul(frames);
        self.timestamp = self.timestamp.wrapping_add(jump);
        self.media_time = self.media_time.map(|at| at.plus_frames(frames));
        self.stats.skipped_frames += u64::from(frames);
        if self.hold.is_none() {
            self.catch_up.handle_skip(frames);
        }
    }

    /// Lets the handle see how far it is; whether the drain is reached that the
    /// driver waits for.
    fn publish(&mut self) -> bool {
        let announcing = match &self.idle_audio {
            IdleAudio::Once(audio) => self.idle_at < audio.len() || self.sounding,
            IdleAudio::Silence | IdleAudio::Loop(_) => false,
        };
        let idle = (self.idle_number, announcing);
        self.shared
            .publish(&self.stats, self.events.finished(), idle);
        let drained = self.playout.is_idle() && self.events.is_idle() && !announcing;
        drained && self.shared.take_drained()
    }

    fn build_audio(&mut self, at: MediaTime, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        let Some(frame) = out[HEADER_BYTES..].first_chunk_mut::<FRAME_BYTES>() else {
            return 0;
        };
        self.sounding = if let Some(audio) = &self.hold {
            frame.fill(MULAW_SILENCE);
            fill(frame, audio, &mut self.hold_at, true)
        } else {
            self.take_audio(frame)
        };
        self.pass(at, frame);
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

    /// Worker audio, or idle audio, or silence; whether there is sound in it.
    fn take_audio(&mut self, frame: &mut [u8; FRAME_BYTES]) -> bool {
        self.trim();
        let queued = self.playout.queued_bytes();
        let taken = self.playout.take_frame(frame);
        let late = self.catch_up.handle_taken(taken, queued, frame);
        self.stats.underruns += u64::from(late);
        self.stats.worker_frames += u64::from(taken > 0);
        taken > 0 || self.fill_idle(frame)
    }

    /// The one point that each frame to the caller passes, with its media time.
    fn pass(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]) {
        self.taps.handle_frame(at, frame);
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
    fn fill_idle(&mut self, frame: &mut [u8; FRAME_BYTES]) -> bool {
        let (audio, again) = match &self.idle_audio {
            IdleAudio::Silence => return false,
            IdleAudio::Loop(audio) => (audio, true),
            IdleAudio::Once(audio) => (audio, false),
        };
        fill(frame, audio, &mut self.idle_at, again)
    }

    fn build_event(
        &mut self,
        at: MediaTime,
        tick: EventTick,
        out: &mut [u8; MAX_PACKET_BYTES],
    ) -> usize {
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
            _ => return self.build_silence(at, out),
        };
        self.pass(at, &[MULAW_SILENCE; FRAME_BYTES]);
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

    fn build_silence(&mut self, at: MediaTime, out: &mut [u8; MAX_PACKET_BYTES]) -> usize {
        self.pass(at, &[MULAW_SILENCE; FRAME_BYTES]);
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
        self.stats.payload_bytes += payload_bytes as u64;
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
