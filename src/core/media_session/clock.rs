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
/// the place for a recorder. It is called on pjsip's media thread or on the pacer, so
/// it must not block, allocate or free: a ring to a thread of its own is right.
pub trait FrameTap: Send + std::fmt::Debug {
    /// 20 ms of sound that begin at this time on the leg's clock.
    fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]);
}
