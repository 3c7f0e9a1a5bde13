//! The caller's playout queue: worker audio with marks in it.
use bytes::Bytes;

/// Bytes of mu-law in one 20 ms frame.
pub const FRAME_BYTES: usize = 160;
/// What a call's queue holds: 10 minutes and a half of mu-law at 8 kHz.
pub const PLAYOUT_CAPACITY_BYTES: usize = 5_040_000;
/// Most marks that wait for their audio, or for the driver to fetch their echo.
pub const MAX_PENDING_MARKS: usize = 10_000;

/// A mark to send back to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkEcho {
    /// The name, as the worker sent it.
    pub name: String,
    /// How much of the audio since the previous mark was really heard, in ms.
    pub played_ms: u64,
    /// Whether a `clear` cut that audio short.
    pub cleared: bool,
}

/// What became of pushed audio.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes that found no room and were dropped from the end of the push.
    pub dropped_bytes: usize,
    /// Whether this is the first time that anything was dropped: log it now.
    pub first_drop: bool,
}

/// What became of a mark.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MarkPlaced {
    /// It waits for the audio before it.
    Waiting,
    /// Nothing was queued: its echo is ready to be drained now.
    Ready,
    /// Too many marks wait; it was dropped and counted.
    Refused,
}

/// What a `clear` dropped. Drop it after the lock is released: freeing
/// megabytes takes longer than a pacer may wait.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Bytes that will not be heard.
    pub bytes: usize,
    /// Marks whose echo is now ready.
    pub marks: usize,
    /// The audio itself, to be freed by the caller.
    pub chunks: Vec<Bytes>,
}
