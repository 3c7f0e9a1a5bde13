//! Caller to worker: RTP becomes Media Streams messages.
use std::time::{Duration, Instant};

use super::g711::Gain;
use super::link::MediaFormat;
use super::media_streams::MessageWriter;
use super::opus::OpusError;

/// How much of the caller's audio is kept while no worker takes it, in ms. The oldest goes first.
pub const KEPT_MS: u64 = 35_000;
/// How much delivered audio is kept for a worker that takes over, in ms.
pub const HISTORY_MS: u64 = 5_000;

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
    /// Audio dropped because nobody took it for too long, in bytes of mu-law.
    pub overflow_bytes: u64,
    /// Interarrival jitter (RFC 3550 6.4.1).
    pub jitter: Duration,
}

/// The uplink of one call; owned by its driver.
pub struct Uplink {}

impl Uplink {
    /// An uplink that has no worker yet: it keeps what the caller says.
    pub fn new(_format: &MediaFormat, _rx_gain: Gain) -> Result<Self, OpusError> {
        unimplemented!()
    }
    /// Media changed (re-INVITE). The stream goes on.
    pub fn set_format(&mut self, _format: &MediaFormat) -> Result<(), OpusError> {
        unimplemented!()
    }
    /// One RTP packet, with the time it was read from the socket. Poll messages after it.
    pub fn handle_rtp(&mut self, _arrived: Instant, _packet: &[u8]) {
        unimplemented!()
    }
    /// Time passes: call it every 20 to 100 ms, at least while no RTP comes in. Poll messages after it.
    pub fn handle_tick(&mut self, _now: Instant) {
        unimplemented!()
    }
    /// A digit by SIP INFO.
    pub fn handle_digit(&mut self, _now: Instant, _digit: char) {
        unimplemented!()
    }
    /// A worker is there, and `connected` and `start` are written: what was kept comes first, timestamps from 0.
    pub fn attach(&mut self, _writer: MessageWriter) {
        unimplemented!()
    }
    /// As `attach`, for a worker that takes over: begins `last_ms` (at most `HISTORY_MS`) before what was delivered last.
    pub fn resume(&mut self, _writer: MessageWriter, _last_ms: u64) {
        unimplemented!()
    }
    /// The worker is gone: gives its writer back, keeps the caller's audio from here on.
    pub fn detach(&mut self) -> Option<MessageWriter> {
        unimplemented!()
    }
    /// The attached worker's writer, for marks and `stop`: all messages share its numbering.
    pub fn writer(&mut self) -> Option<&mut MessageWriter> {
        unimplemented!()
    }
    /// Appends the next message (one complete JSON text) to `out`; false when there is none.
    pub fn poll_message(&mut self, _out: &mut Vec<u8>) -> bool {
        unimplemented!()
    }
    /// When the last RTP packet of any kind came in.
    pub fn last_rtp(&self) -> Option<Instant> {
        unimplemented!()
    }
    /// The counters.
    pub fn stats(&self) -> UplinkStats {
        unimplemented!()
    }
}
