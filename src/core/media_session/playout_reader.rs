//! The side of the playout queue that the real-time thread reads: frames, and
//! how far they have sounded. It never waits, allocates or frees.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::audio_queue::AudioReader;
use super::playout::{FRAME_BYTES, PlayoutProgress, Unheard};
use crate::core::g711::MULAW_SILENCE;
use crate::core::ring::Producer;

/// How often a frame is looked for in one tick: a clear and new audio may both come
/// while it is copied. A worker that does so again loses one tick, not its audio.
const TRIES: usize = 2;

/// What a tick finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TickBegun {
    /// A mark is due: its writer is to be woken.
    pub mark_due: bool,
    /// The queue was cleared since the tick before.
    pub cleared: bool,
}

/// The side that is read.
#[derive(Debug)]
pub struct PlayoutReader {
    audio: AudioReader,
    progress: Arc<PlayoutProgress>,
    unheard: Producer<Unheard>,
    /// Dropped audio that found no room in the ring.
    unsaid: Option<Unheard>,
    /// The frame taken last is still sounding.
    sounding: bool,
    clears: u32,
}

impl PlayoutReader {
    pub(super) fn new(
        audio: AudioReader,
        progress: Arc<PlayoutProgress>,
        unheard: Producer<Unheard>,
    ) -> Self {
        Self {
            audio,
            progress,
            unheard,
            unsaid: None,
            sounding: false,
            clears: 0,
        }
    }

    /// Bytes queued.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        let queued = self.audio.pushed().saturating_sub(self.audio.position());
        usize::try_from(queued).unwrap_or(usize::MAX)
    }

    /// Whether everything queued has been played to its last sample.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queued_bytes() == 0 && !self.sounding
    }

    /// A tick begins: the frame before has sounded, and marks behind it are due.
    pub fn begin_tick(&mut self) -> TickBegun {
        self.sounding = false;
        let position = self.audio.position();
        self.progress.sounded.store(position, Ordering::SeqCst);
        let clears = self.progress.clears.load(Ordering::Acquire);
        TickBegun {
            mark_due: position >= self.progress.next_mark.load(Ordering::SeqCst),
            cleared: std::mem::replace(&mut self.clears, clears) != clears,
        }
    }

    /// Takes the next frame, padded with silence behind the last byte queued.
    /// Gives the bytes of audio in it.
    pub fn take_frame(&mut self, frame: &mut [u8; FRAME_BYTES]) -> usize {
        let taken = (0..TRIES).find_map(|_| self.try_frame(frame)).unwrap_or(0);
        frame[taken..].fill(MULAW_SILENCE);
        self.sounding = taken > 0;
        taken
    }

    /// Copies the next whole frame without taking it; false when less is queued.
    pub fn peek_frame(&mut self, frame: &mut [u8; FRAME_BYTES]) -> bool {
        let position = self.audio.position();
        self.queued_bytes() >= FRAME_BYTES && self.audio.copy(position, frame)
    }

    /// Drops the next frame unheard. Marks in it are due at the next tick.
    pub fn skip_frame(&mut self) {
        let from = self.audio.position();
        let queued = self.audio.pushed().saturating_sub(from);
        let count = queued.min(FRAME_BYTES as u64);
        if self.audio.take(from, count as usize) {
            self.say_unheard(from, from + count);
        }
    }

    /// One attempt to take a frame; `None` where a clear came in between.
    fn try_frame(&mut self, frame: &mut [u8; FRAME_BYTES]) -> Option<usize> {
        let position = self.audio.position();
        let queued = self.audio.pushed().saturating_sub(position);
        let count = usize::try_from(queued).map_or(FRAME_BYTES, |queued| queued.min(FRAME_BYTES));
        let copied = self.audio.copy(position, &mut frame[..count]);
        (copied && self.audio.take(position, count)).then_some(count)
    }

    /// Where the writer has not looked for long, later spans are said as one: which
    /// of its marks they count for is not exact then.
    fn say_unheard(&mut self, from: u64, to: u64) {
        let span = match self.unsaid.take() {
            Some(unsaid) => Unheard {
                from: unsaid.from,
                to: unsaid.to + (to - from),
            },
            None => Unheard { from, to },
        };
        self.unsaid = self.unheard.push(span).err();
    }
}
