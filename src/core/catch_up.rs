//! The stall rule: how a live stream to the caller gets back to real time
//! after something was late, and why nothing else is ever shortened.
//!
//! # The rule
//! A worker's stream is **live** when over the last two seconds its queue never
//! held more than 200 ms, and at least half a second of it has been played. A
//! worker that sends ahead of real time (speech synthesis in bursts) is never
//! live, and loses nothing.
//!
//! While a stream is live, each frame of silence that the caller hears in its
//! place is a **debt**: the audio that comes late would be behind for the rest
//! of the call. There are two kinds of incident:
//! - *ours*: the pacer was late and skipped frames, or digits were sent in
//!   place of audio;
//! - *theirs*: the queue ran dry because the worker or its network was late.
//!
//! At each tick with a debt, frames at the head of the queue that exceed the
//! **baseline** are dropped, one for each frame of debt. The baseline is the
//! most that was queued in the two seconds before the incident; in an
//! incident of theirs at least 60 ms, so that jitter gets the buffer it needs.
//! - Quiet frames may be dropped as long as the debt lives.
//! - Frames with sound may be dropped for one second after an incident of ours;
//!   and, where the stream broke off in mid-sound, once it has been going on for
//!   five seconds without a break of 400 ms. A sentence that a worker sends in
//!   real time is shorter: it ends, and its delay with it, so it is better late
//!   than clipped.
//!
//! A debt is forgiven when a second without audio shows that the stream had
//! ended; when more than the debt and 100 ms comes at once, for that is audio
//! ahead of real time; and ten seconds after the last incident.

use super::g711::is_quiet;
use super::playout::FRAME_BYTES;

const FRAME: u32 = FRAME_BYTES as u32;
/// A live queue never holds more.
const LIVE_PEAK_BYTES: u32 = 10 * FRAME;
/// Ticks of audio before a stream can be live.
const LIVE_TICKS: u32 = 25;
/// Ticks of audio after which a stream is no single sentence.
const ENDLESS_TICKS: u32 = 250;
/// Ticks without audio that may be the pause between two sentences.
const BREAK_TICKS: u32 = 20;
/// The least baseline when the worker was late.
const JITTER_BYTES: u32 = 3 * FRAME;
/// What may come beyond debt and baseline before it counts as a burst.
const BURST_BYTES: u32 = 5 * FRAME;
/// Ticks without audio after which a stream has ended.
const ENDED_TICKS: u32 = 50;
/// Ticks in which sound may be dropped after an incident of ours.
const FORCED_TICKS: u32 = 50;
/// Ticks until a debt is forgiven.
const FORGIVEN_TICKS: u32 = 500;
/// The window of the peak: 8 slots of 13 ticks are 2.08 s.
const PEAK_SLOTS: usize = 8;
const PEAK_SLOT_TICKS: u32 = 13;

/// What may be dropped from the head of the queue at this tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drop {
    /// Nothing.
    Nothing,
    /// At most so many frames, as long as each is quiet.
    Quiet(u32),
    /// So many frames, whatever is in them.
    Any(u32),
}

/// The state of the rule for one call.
#[derive(Clone, Debug, Default)]
pub struct CatchUp {
    peaks: [u32; PEAK_SLOTS],
    slot: usize,
    slot_ticks: u32,
    /// Ticks of audio since the stream began.
    age: u32,
    /// Ticks of audio since its last break.
    unbroken: u32,
    /// Ticks without a full frame since the last one.
    dry: u32,
    /// The last full frame had sound in it.
    in_sound: bool,
    debt_bytes: u32,
    baseline_bytes: u32,
    /// The stream broke off in mid-sound.
    broke_off: bool,
    /// Ticks left in which sound may be dropped.
    forced: u32,
    /// Ticks until the debt is forgiven.
    forgiven_in: u32,
}

impl CatchUp {
    /// Whether the worker's stream is live.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.age >= LIVE_TICKS && self.peak() <= LIVE_PEAK_BYTES
    }

    /// The pacer skipped so many frames, or something else was sent in their place.
    pub fn handle_skip(&mut self, frames: u32) {
        if self.debt_bytes == 0 && !self.is_live() {
            return;
        }
        self.incur(frames.saturating_mul(FRAME), FRAME);
        self.forced = FORCED_TICKS;
    }

    /// A tick begins with so much queued; what may be dropped before its frame
    /// is taken.
    #[must_use]
    pub fn poll_drop(&mut self, queued_bytes: usize) -> Drop {
        if self.debt_bytes == 0 {
            return Drop::Nothing;
        }
        let queued = u32::try_from(queued_bytes).unwrap_or(u32::MAX);
        let excess = queued.saturating_sub(self.baseline_bytes);
        self.forgiven_in = self.forgiven_in.saturating_sub(1);
        self.forced = self.forced.saturating_sub(1);
        if self.forgiven_in == 0 || excess > self.debt_bytes + BURST_BYTES {
            self.debt_bytes = 0;
            return Drop::Nothing;
        }
        match excess.min(self.debt_bytes) / FRAME {
            0 => Drop::Nothing,
            frames if self.forced > 0 => Drop::Any(frames),
            frames if self.broke_off && self.unbroken >= ENDLESS_TICKS => Drop::Any(frames),
            frames => Drop::Quiet(frames),
        }
    }

    /// So many frames were dropped.
    pub fn handle_dropped(&mut self, frames: u32) {
        self.debt_bytes = self.debt_bytes.saturating_sub(frames * FRAME);
    }

    /// The frame of this tick was taken with so many bytes of audio in it,
    /// from a queue that held `queued_bytes` before. Gives whether a live
    /// stream was late.
    pub fn handle_taken(
        &mut self,
        taken: usize,
        queued_bytes: usize,
        frame: &[u8; FRAME_BYTES],
    ) -> bool {
        self.record_peak(u32::try_from(queued_bytes).unwrap_or(u32::MAX));
        if taken == FRAME_BYTES {
            self.age = self.age.saturating_add(1);
            self.unbroken = self.unbroken.saturating_add(1);
            self.dry = 0;
            // Only a frame that leaves the queue dry can be the last before a break.
            self.in_sound = queued_bytes < 2 * FRAME_BYTES && !is_quiet(frame);
            return false;
        }
        self.dry = self.dry.saturating_add(1);
        if self.dry > ENDED_TICKS {
            *self = Self::default();
            return false;
        }
        if self.dry == BREAK_TICKS {
            self.unbroken = 0;
        }
        let late = self.debt_bytes > 0 || self.is_live();
        if late {
            if self.dry == 1 {
                self.broke_off = self.in_sound;
            }
            self.incur(FRAME - taken as u32, JITTER_BYTES);
        }
        late
    }

    /// The queue was emptied by the worker: what comes next owes nothing.
    pub fn handle_clear(&mut self) {
        *self = Self::default();
    }

    fn incur(&mut self, bytes: u32, least_baseline: u32) {
        if self.debt_bytes == 0 {
            self.baseline_bytes = self.peak().max(least_baseline);
        }
        self.debt_bytes = self.debt_bytes.saturating_add(bytes);
        self.forgiven_in = FORGIVEN_TICKS;
    }

    fn peak(&self) -> u32 {
        self.peaks.iter().copied().max().unwrap_or(0)
    }

    fn record_peak(&mut self, queued: u32) {
        if self.slot_ticks == PEAK_SLOT_TICKS {
            self.slot_ticks = 0;
            self.slot = (self.slot + 1) % PEAK_SLOTS;
            self.peaks[self.slot] = 0;
        }
        self.slot_ticks += 1;
        self.peaks[self.slot] = self.peaks[self.slot].max(queued);
    }
}
