//! Worker to caller: playout queue, comfort audio and digits become RTP.
use std::sync::Arc;

use bytes::Bytes;

use super::g711::Gain;
use super::link::MediaFormat;
use super::opus::OpusError;
use super::playout::{Cleared, MarkEcho, MarkPlaced, Pushed};

/// The longest packet `poll_tick` builds: RTP header and an Opus payload.
pub const MAX_PACKET_BYTES: usize = 12 + 1_275;

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
    /// Wake the driver: there are echoes to drain, or the drain it asked for is reached.
    pub wake_driver: bool,
}

/// Counters of one call's downlink, each only rising.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DownlinkStats {
    /// RTP packets built.
    pub packets: u64,
    /// Frames of worker audio played, partial ones included.
    pub worker_frames: u64,
    /// Frames missing inside a live stream because its audio was late.
    pub underruns: u64,
    /// Frames dropped by the stall rule.
    pub trimmed_frames: u64,
    /// Frames the pacer skipped because it was late.
    pub skipped_frames: u64,
    /// Bytes dropped because the queue was full.
    pub overflow_bytes: u64,
    /// Marks refused because too many waited.
    pub marks_refused: u64,
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

/// The downlink of one call; shared by its driver and its pacer behind a mutex.
pub struct Downlink {}

impl Downlink {
    /// `tx_gain` is applied to everything sent. `sequence` and `timestamp` are
    /// the first of the stream: random, as RFC 3550 asks.
    pub fn new(
        _format: &MediaFormat,
        _tx_gain: Gain,
        _sequence: u16,
        _timestamp: u32,
    ) -> Result<Self, OpusError> {
        unimplemented!()
    }
    /// Media changed (re-INVITE): new payload types, codec, direction. Sequence, timestamp and queue go on.
    pub fn set_format(&mut self, _format: &MediaFormat) -> Result<(), OpusError> {
        unimplemented!()
    }

    // ---- driver
    /// Queues worker audio.
    pub fn push(&mut self, _audio: Bytes) -> Pushed {
        unimplemented!()
    }
    /// Queues a mark behind the audio pushed so far.
    pub fn mark(&mut self, _name: String) -> MarkPlaced {
        unimplemented!()
    }
    /// Empties the queue; echoes of all waiting marks are ready at once.
    pub fn clear(&mut self) -> Cleared {
        unimplemented!()
    }
    /// Moves ready echoes, in order, to the end of `echoes`.
    pub fn drain_echoes(&mut self, _echoes: &mut Vec<MarkEcho>) {
        unimplemented!()
    }
    /// Sends digits by RFC 4733; they replace audio while they last, which is held, not lost.
    pub fn send_digits(&mut self, _digits: &str) -> Result<(), DigitsRefused> {
        unimplemented!()
    }
    /// What is heard while no worker audio is queued; starts from its beginning.
    pub fn set_comfort(&mut self, _comfort: Comfort) {
        unimplemented!()
    }
    /// Whether everything queued (audio, digits, a `Once`) has been played to its last sample.
    pub fn is_drained(&self) -> bool {
        unimplemented!()
    }
    /// Asks for one `wake_driver` when `is_drained` becomes (or is) true.
    pub fn notify_drained(&mut self) {
        unimplemented!()
    }
    /// Worker audio queued, in ms.
    pub fn queued_ms(&self) -> u64 {
        unimplemented!()
    }
    /// The counters.
    pub fn stats(&self) -> DownlinkStats {
        unimplemented!()
    }

    // ---- pacer
    /// Builds the packet of the next 20 ms. Once per tick, on absolute deadlines.
    pub fn poll_tick(&mut self, _out: &mut [u8; MAX_PACKET_BYTES]) -> Tick {
        unimplemented!()
    }
    /// The pacer was late and gives `frames` deadlines up: timestamp jumps, sequence does not.
    pub fn skip(&mut self, _frames: u32) {
        unimplemented!()
    }
}
