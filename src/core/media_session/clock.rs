//! One clock for both directions of a leg's sound.

use std::time::Instant;

use super::playout::{BYTES_PER_MS, FRAME_BYTES};

/// The media clock of a leg: begins with the leg, counts samples at 8 kHz.
#[derive(Clone, Copy, Debug)]
pub struct MediaClock {
    origin: Instant,
}

/// A time on the media clock of a leg.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct MediaTime {
    /// Samples at 8 kHz since the leg began.
    pub samples: u64,
}

impl MediaClock {
    /// A clock that begins now.
    #[must_use]
    pub const fn starting_at(now: Instant) -> Self {
        Self { origin: now }
    }

    /// The time on it; 0 for what was before it began.
    #[must_use]
    pub fn at(&self, now: Instant) -> MediaTime {
        let passed = now.saturating_duration_since(self.origin).as_micros();
        let passed = u64::try_from(passed).unwrap_or(u64::MAX / BYTES_PER_MS);
        MediaTime {
            samples: passed * BYTES_PER_MS / 1_000,
        }
    }
}

impl MediaTime {
    /// Later by so many frames of 20 ms.
    #[must_use]
    pub const fn plus_frames(self, frames: u32) -> Self {
        self.plus_samples(frames as u64 * FRAME_BYTES as u64)
    }

    /// Later by so many samples.
    #[must_use]
    pub const fn plus_samples(self, samples: u64) -> Self {
        Self {
            samples: self.samples.wrapping_add(samples),
        }
    }
}

/// Sees each frame of one direction where it passes, in order, as mu-law at 8 kHz:
/// the place for a copy of the sound, or a recorder. It is called on pjsip's media thread or on the pacer, so
/// it must not block, allocate or free: a ring to a thread of its own is right.
pub trait FrameTap: Send + std::fmt::Debug {
    /// 20 ms of sound that begin at this time on the leg's clock.
    fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]);

    /// A digit that came in, in its turn between the frames; what goes out has none.
    fn handle_digit(&mut self, at: MediaTime, digit: char) {
        let _ = (at, digit);
    }
}

/// Most taps of one direction at a time: as many as a call has copies, and one for the detection of machines.
pub const TAPS_MAX: usize = 5;

/// A tap, or a place for one.
pub type TapPlace = Option<Box<dyn FrameTap>>;

/// The taps of one direction, each in a place of its own.
#[derive(Debug, Default)]
pub(super) struct Taps([TapPlace; TAPS_MAX]);

impl Taps {
    /// The tap in this place; `None` where there is no such place.
    pub(super) fn place(&mut self, number: usize) -> Option<&mut TapPlace> {
        self.0.get_mut(number)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(Option::is_none)
    }

    pub(super) fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]) {
        for tap in self.0.iter_mut().flatten() {
            tap.handle_frame(at, frame);
        }
    }

    pub(super) fn handle_digit(&mut self, at: MediaTime, digit: char) {
        for tap in self.0.iter_mut().flatten() {
            tap.handle_digit(at, digit);
        }
    }
}
