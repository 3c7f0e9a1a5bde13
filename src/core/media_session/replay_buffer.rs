//! The caller's audio on its way to the worker: what no worker has taken yet,
//! and behind it the last seconds that were delivered, for a worker that takes
//! over ([`crate::guide::call_queue`], "Life of a call", 1 and 5).
//!
//! Positions count bytes of mu-law since the stream began, one per sample.
//! Bounded: the oldest frames go first, and their positions with them.

use super::playout::{BYTES_PER_MS, FRAME_BYTES};
use crate::core::g711::MULAW_SILENCE;

/// How much is kept while no worker takes it, in ms.
pub const KEPT_MS: u64 = 35_000;
/// How much of what was delivered is kept, in ms.
pub const HISTORY_MS: u64 = 5_000;

const KEPT_BYTES: usize = (KEPT_MS * BYTES_PER_MS) as usize;
const HISTORY_BYTES: usize = (HISTORY_MS * BYTES_PER_MS) as usize;
/// History may grow so far beyond its bound before it is cut, so that cutting
/// costs little per frame.
const SLACK_BYTES: usize = 50 * FRAME_BYTES;
/// Room for all history and a second of audio that waits. Taken at once: grown
/// by doubling, a call would end up with 80 kB. What a burst needs beyond it is
/// given back once it has been delivered.
const USUAL_BYTES: usize = HISTORY_BYTES + 2 * SLACK_BYTES;

/// Audio not delivered yet, and some that was.
#[derive(Debug, Default)]
pub struct ReplayBuffer {
    /// Delivered bytes, then waiting ones.
    bytes: Vec<u8>,
    /// Index of the first waiting byte.
    head: usize,
    /// Position of `bytes[0]`.
    origin: u64,
    overflow_bytes: u64,
}

impl ReplayBuffer {
    /// Position of the next byte to deliver.
    #[must_use]
    pub fn head(&self) -> u64 {
        self.origin + self.head as u64
    }

    /// Position behind the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.origin + self.bytes.len() as u64
    }

    /// Bytes dropped because nobody took them in time.
    #[must_use]
    pub fn overflow_bytes(&self) -> u64 {
        self.overflow_bytes
    }

    /// Appends audio; gives the appended part for translation in place.
    pub fn push(&mut self, audio: &[u8]) -> &mut [u8] {
        self.make_room(audio.len());
        let start = self.bytes.len();
        self.bytes.extend_from_slice(audio);
        &mut self.bytes[start..]
    }

    /// Takes back the last `count` bytes pushed.
    pub fn unpush(&mut self, count: usize) {
        let kept = self.bytes.len().saturating_sub(count).max(self.head);
        self.bytes.truncate(kept);
    }

    /// Makes the last `count` bytes pushed silence.
    pub fn mute_last(&mut self, count: usize) {
        let from = self.bytes.len().saturating_sub(count);
        self.bytes[from..].fill(MULAW_SILENCE);
    }

    /// Appends silence.
    pub fn push_silence(&mut self, count: usize) {
        let waiting = self.bytes.len() - self.head;
        let excess = (waiting + count).saturating_sub(KEPT_BYTES);
        let dropped = excess.div_ceil(FRAME_BYTES) * FRAME_BYTES;
        let mut left = count;
        if dropped > waiting {
            // The silence itself is more than is kept: only its position counts.
            left -= (dropped - waiting).min(left);
            self.overflow_bytes += dropped as u64;
            self.origin = self.head() + dropped as u64;
            self.bytes.clear();
            self.head = 0;
        }
        self.make_room(left);
        self.bytes.resize(self.bytes.len() + left, MULAW_SILENCE);
    }

    /// The next whole frame and its position.
    pub fn next_frame(&mut self) -> Option<(u64, &[u8; FRAME_BYTES])> {
        let position = self.head();
        let frame = self.bytes[self.head..].first_chunk::<FRAME_BYTES>()?;
        self.head += FRAME_BYTES;
        Some((position, frame))
    }

    /// The frame at a position, whether it was delivered or not.
    #[must_use]
    pub fn frame_at(&self, position: u64) -> Option<&[u8; FRAME_BYTES]> {
        let from = usize::try_from(position.checked_sub(self.origin)?).ok()?;
        self.bytes.get(from..)?.first_chunk()
    }

    /// All whole frames that wait count as delivered.
    pub fn skip_waiting(&mut self) {
        let waiting = self.bytes.len() - self.head;
        self.head += waiting / FRAME_BYTES * FRAME_BYTES;
    }

    /// Goes back to deliver the last `ms` once more, as far as they are kept.
    pub fn rewind(&mut self, ms: u64) {
        let wanted = usize::try_from(ms.min(HISTORY_MS) * BYTES_PER_MS).unwrap_or(0);
        self.head -= wanted.min(self.head) / FRAME_BYTES * FRAME_BYTES;
    }

    fn make_room(&mut self, count: usize) {
        if self.bytes.capacity() == 0 {
            self.bytes.reserve_exact(USUAL_BYTES);
        }
        let waiting = self.bytes.len() - self.head + count;
        if waiting > KEPT_BYTES {
            let excess = (waiting - KEPT_BYTES).div_ceil(FRAME_BYTES) * FRAME_BYTES;
            let dropped = excess.min(self.bytes.len() - self.head);
            self.head += dropped;
            self.overflow_bytes += dropped as u64;
        }
        if self.head >= HISTORY_BYTES + SLACK_BYTES {
            let cut = self.head - HISTORY_BYTES;
            self.bytes.drain(..cut);
            self.head -= cut;
            self.origin += cut as u64;
            if self.bytes.capacity() > USUAL_BYTES {
                self.bytes.shrink_to(USUAL_BYTES);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn drain(backlog: &mut ReplayBuffer) -> Vec<(u64, u8)> {
        std::iter::from_fn(|| backlog.next_frame().map(|(at, frame)| (at, frame[0]))).collect()
    }

    #[test]
    fn frames_come_out_whole_whatever_the_packets_were() {
        let mut backlog = ReplayBuffer::default();
        backlog.push(&[1; 80]);
        assert_eq!(drain(&mut backlog), []);
        backlog.push(&[1; 240]);
        backlog.push(&[2; 100]);
        backlog.unpush(100);
        assert_eq!(drain(&mut backlog), [(0, 1), (160, 1)]);
        assert_eq!((backlog.head(), backlog.end()), (320, 320));
    }

    #[test]
    fn the_oldest_go_first_and_positions_stay_true() {
        let mut backlog = ReplayBuffer::default();
        for index in 0..1_800_u32 {
            backlog.push(&[(index % 250) as u8; FRAME_BYTES]);
        }
        let frames = drain(&mut backlog);
        assert_eq!(frames.len(), 1_750);
        assert_eq!(frames[0], (50 * 160, 50));
        assert_eq!(backlog.overflow_bytes(), 50 * 160);
    }

    #[test]
    fn the_last_seconds_can_be_had_again() {
        let mut backlog = ReplayBuffer::default();
        for index in 0..2_000_u32 {
            backlog.push(&[(index % 250) as u8; FRAME_BYTES]);
            backlog.next_frame();
        }
        backlog.rewind(u64::MAX);
        let frames = drain(&mut backlog);
        assert_eq!(frames.len(), 250);
        assert_eq!(frames[0].0, 1_750 * 160);
        assert!(backlog.bytes.capacity() <= USUAL_BYTES);
    }

    #[test]
    fn endless_silence_is_bounded() {
        let mut backlog = ReplayBuffer::default();
        backlog.push(&[1; 80]);
        backlog.push_silence(80 + 10 * KEPT_BYTES);
        assert_eq!(backlog.end(), 160 + 10 * KEPT_BYTES as u64);
        assert!(backlog.bytes.len() <= KEPT_BYTES);
        let frames = drain(&mut backlog);
        assert_eq!(frames.len(), KEPT_BYTES / FRAME_BYTES);
        assert_eq!(frames[0].0 % FRAME_BYTES as u64, 0);
    }

    proptest! {
        #[test]
        fn every_byte_once_and_in_order(sizes in proptest::collection::vec(1..2_000_usize, 1..60)) {
            let (mut backlog, mut sent, mut got) = (ReplayBuffer::default(), Vec::new(), Vec::new());
            for size in sizes {
                let audio: Vec<u8> = (0..size).map(|n| ((sent.len() + n) % 251) as u8).collect();
                sent.extend_from_slice(&audio);
                backlog.push(&audio);
                while let Some((at, frame)) = backlog.next_frame() {
                    prop_assert_eq!(at, got.len() as u64);
                    got.extend_from_slice(frame);
                }
            }
            prop_assert_eq!(&got[..], &sent[..sent.len() / FRAME_BYTES * FRAME_BYTES]);
        }
    }
}
