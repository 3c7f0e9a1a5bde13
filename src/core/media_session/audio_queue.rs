//! The bytes of the playout queue, between a thread that writes and a real-time
//! thread that reads, neither of which ever waits for the other one.
//!
//! A byte is addressed by its position since the stream began. Chunks of one
//! second hold the bytes; a directory says where the chunk of a position is.
//! Two counters say what belongs to whom:
//! - `pushed`: bytes before it are written. Only the writer moves it.
//! - `position`: bytes before it are taken. The reader moves it on by what it has
//!   copied, the writer moves it to `pushed` by a clear, and both by one
//!   compare-and-exchange: who comes second sees that the other was first. So a
//!   clear knows to the byte what was taken before it, and no byte is taken after it.
//!
//! A chunk that was played to its end is given back by the writer, and only once
//! the reader no longer holds it: the reader neither allocates nor frees.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

/// Bytes of a word, the unit in which a chunk is shared.
const WORD_BYTES: usize = 8;
const CHUNK_WORDS: usize = 1_024;
const CHUNK_BYTES: usize = CHUNK_WORDS * WORD_BYTES;

/// A second of audio. Words are atomic because a reader that a clear has
/// overtaken may still look at a chunk; what it copied counts for nothing then.
#[derive(Debug)]
pub struct Chunk {
    /// Its place among all chunks of the stream.
    number: u64,
    words: [AtomicU64; CHUNK_WORDS],
}

/// Makes a queue that holds at most `capacity` bytes.
pub fn audio_queue(capacity: usize) -> (AudioWriter, AudioReader) {
    // The first and the last chunk may be in use in part.
    let chunks = capacity.div_ceil(CHUNK_BYTES) + 2;
    let shared = Arc::new(Shared {
        directory: (0..chunks).map(|_| Mutex::new(None)).collect(),
        pushed: AtomicU64::new(0),
        position: AtomicU64::new(0),
    });
    let writer = AudioWriter {
        shared: shared.clone(),
        pushed: 0,
        open: None,
        oldest: 0,
        retired: Vec::new(),
        spare: None,
    };
    let reader = AudioReader {
        shared,
        current: None,
    };
    (writer, reader)
}

#[derive(Debug)]
struct Shared {
    /// The chunk with number `n` lies at `n` modulo the length.
    directory: Box<[Mutex<Option<Arc<Chunk>>>]>,
    pushed: AtomicU64,
    position: AtomicU64,
}

impl Shared {
    fn slot(&self, number: u64) -> &Mutex<Option<Arc<Chunk>>> {
        &self.directory[(number % self.directory.len() as u64) as usize]
    }
}

/// The side that writes; on a normal thread.
#[derive(Debug)]
pub struct AudioWriter {
    shared: Arc<Shared>,
    pushed: u64,
    /// The chunk that is not full yet.
    open: Option<Arc<Chunk>>,
    /// The number of the oldest chunk that may be in the directory.
    oldest: u64,
    /// Played out, and perhaps still held by the reader: one or two.
    retired: Vec<Arc<Chunk>>,
    /// One that was played out, for the next one that is needed.
    spare: Option<Arc<Chunk>>,
}

impl AudioWriter {
    /// Position behind the last byte written.
    pub fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Position of the next byte to be taken.
    pub fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Acquire)
    }

    /// Bytes that were written and not taken.
    pub fn queued_bytes(&self) -> usize {
        usize::try_from(self.pushed - self.position()).unwrap_or(usize::MAX)
    }

    /// Writes audio, for which the caller has seen that there is room.
    pub fn push(&mut self, mut audio: &[u8]) {
        while !audio.is_empty() {
            let offset = (self.pushed % CHUNK_BYTES as u64) as usize;
            let count = audio.len().min(CHUNK_BYTES - offset);
            let (now, later) = audio.split_at(count);
            write(self.open_chunk(offset), offset, now);
            audio = later;
            self.pushed += count as u64;
            if offset + count == CHUNK_BYTES {
                self.open = None;
            }
        }
        self.shared.pushed.store(self.pushed, Ordering::Release);
    }

    /// Drops what was not taken; gives the position of its first byte.
    pub fn clear(&mut self) -> u64 {
        let mut at = self.position();
        loop {
            let moved = self.shared.position.compare_exchange(
                at,
                self.pushed,
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match moved {
                Ok(_) => return at,
                // The reader took a frame, which it does each 20 ms at most.
                Err(now) => at = now,
            }
        }
    }

    /// Takes out at most `limit` chunks that were played out or cleared, to be freed
    /// without a lock held; one is kept for reuse.
    pub fn reclaim(&mut self, limit: usize) -> Vec<Arc<Chunk>> {
        let end = self.position() / CHUNK_BYTES as u64;
        let mut freed = Vec::new();
        while self.oldest < end && freed.len() < limit {
            let mut slot = lock(self.shared.slot(self.oldest));
            // The place may have been used again by a chunk that is in use.
            let old = slot.take_if(|held| held.number == self.oldest);
            drop(slot);
            self.oldest += 1;
            self.retired.extend(old);
            self.release(&mut freed);
        }
        self.release(&mut freed);
        freed
    }

    /// Moves retired chunks on, but for the one that the reader may hold yet: it
    /// must not be the one that frees it.
    fn release(&mut self, freed: &mut Vec<Arc<Chunk>>) {
        let is_free = |chunk: &mut Arc<Chunk>| Arc::get_mut(chunk).is_some();
        let mut index = 0;
        while index < self.retired.len() {
            if !is_free(&mut self.retired[index]) {
                index += 1;
                continue;
            }
            let chunk = self.retired.swap_remove(index);
            if self.spare.is_none() {
                self.spare = Some(chunk);
            } else {
                freed.push(chunk);
            }
        }
    }

    fn open_chunk(&mut self, offset: usize) -> &[AtomicU64] {
        // A chunk is begun where the one before was full, so at its first byte.
        debug_assert!(self.open.is_some() || offset == 0);
        let (shared, spare, pushed) = (&self.shared, &mut self.spare, self.pushed);
        let open = self.open.get_or_insert_with(|| {
            let chunk = begin_chunk(spare.take(), pushed / CHUNK_BYTES as u64);
            *lock(shared.slot(chunk.number)) = Some(chunk.clone());
            chunk
        });
        &open.words
    }
}

/// A chunk with this number; what is in it does not matter.
fn begin_chunk(spare: Option<Arc<Chunk>>, number: u64) -> Arc<Chunk> {
    if let Some(mut chunk) = spare
        && let Some(inner) = Arc::get_mut(&mut chunk)
    {
        inner.number = number;
        return chunk;
    }
    let words = [const { AtomicU64::new(0) }; CHUNK_WORDS];
    Arc::new(Chunk { number, words })
}

/// The side that reads; on the real-time thread.
#[derive(Debug)]
pub struct AudioReader {
    shared: Arc<Shared>,
    current: Option<Arc<Chunk>>,
}

impl AudioReader {
    /// Position of the next byte to be taken.
    pub fn position(&self) -> u64 {
        self.shared.position.load(Ordering::Acquire)
    }

    /// Position behind the last byte that can be taken.
    pub fn pushed(&self) -> u64 {
        self.shared.pushed.load(Ordering::Acquire)
    }

    /// Copies the bytes from `position` on; false where a clear has come in between.
    pub fn copy(&mut self, mut position: u64, mut out: &mut [u8]) -> bool {
        while !out.is_empty() {
            let offset = (position % CHUNK_BYTES as u64) as usize;
            let count = out.len().min(CHUNK_BYTES - offset);
            let (now, later) = out.split_at_mut(count);
            let Some(chunk) = self.chunk(position / CHUNK_BYTES as u64) else {
                return false;
            };
            read(chunk, offset, now);
            out = later;
            position += count as u64;
        }
        true
    }

    /// Takes `count` bytes from `position` on; false where a clear came first.
    pub fn take(&self, position: u64, count: usize) -> bool {
        let moved = self.shared.position.compare_exchange(
            position,
            position + count as u64,
            Ordering::AcqRel,
            Ordering::Acquire,
        );
        moved.is_ok()
    }

    fn chunk(&mut self, number: u64) -> Option<&[AtomicU64]> {
        if self.current.as_ref().map(|chunk| chunk.number) != Some(number) {
            // Contended only by the writer that reclaims it, after a clear.
            let slot = match self.shared.slot(number).try_lock() {
                Ok(slot) => slot,
                Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
                Err(TryLockError::WouldBlock) => return None,
            };
            let found = slot.as_ref().filter(|chunk| chunk.number == number);
            self.current = Some(found?.clone());
        }
        self.current.as_ref().map(|chunk| &chunk.words[..])
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes bytes at an offset. Words in part are written whole, with what was in
/// them: there is one writer.
fn write(words: &[AtomicU64], mut offset: usize, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let word = &words[offset / WORD_BYTES];
        let from = offset % WORD_BYTES;
        let count = bytes.len().min(WORD_BYTES - from);
        let (now, later) = bytes.split_at(count);
        if let Ok(whole) = <[u8; WORD_BYTES]>::try_from(now) {
            word.store(u64::from_ne_bytes(whole), Ordering::Relaxed);
        } else {
            let mut mixed = word.load(Ordering::Relaxed).to_ne_bytes();
            mixed[from..from + count].copy_from_slice(now);
            word.store(u64::from_ne_bytes(mixed), Ordering::Relaxed);
        }
        bytes = later;
        offset += count;
    }
}

fn read(words: &[AtomicU64], mut offset: usize, mut out: &mut [u8]) {
    while !out.is_empty() {
        let word = words[offset / WORD_BYTES].load(Ordering::Relaxed);
        let from = offset % WORD_BYTES;
        let count = out.len().min(WORD_BYTES - from);
        let (now, later) = out.split_at_mut(count);
        now.copy_from_slice(&word.to_ne_bytes()[from..from + count]);
        out = later;
        offset += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CAPACITY: usize = 20 * CHUNK_BYTES;

    fn code(position: u64) -> u8 {
        (position % 251) as u8
    }

    fn push(writer: &mut AudioWriter, count: usize) {
        let from = writer.pushed();
        let audio: Vec<u8> = (from..from + count as u64).map(code).collect();
        writer.push(&audio);
    }

    /// Takes what is there, at most `count`; whether each byte was the right one.
    fn take(reader: &mut AudioReader, count: usize) -> usize {
        let (at, mut out) = (reader.position(), vec![0; count]);
        let count = count.min((reader.pushed() - at) as usize);
        assert!(reader.copy(at, &mut out[..count]) && reader.take(at, count));
        for (position, byte) in (at..).zip(&out[..count]) {
            assert_eq!(*byte, code(position), "at {position}");
        }
        count
    }

    #[test]
    fn chunks_go_round_and_are_freed_by_the_writer_alone() {
        let (mut writer, mut reader) = audio_queue(CAPACITY);
        for _ in 0..300 {
            push(&mut writer, 5_000);
            push(&mut writer, 7);
            while take(&mut reader, 160) > 0 {}
            assert!(writer.reclaim(usize::MAX).is_empty(), "one is reused");
        }
        push(&mut writer, CAPACITY);
        writer.clear();
        let freed = writer.reclaim(3);
        assert_eq!(freed.len(), 3, "at most as many as asked for");
        assert!(writer.reclaim(usize::MAX).len() >= 15, "all others");
        assert_eq!(writer.retired.len(), 1, "the reader holds it yet");
        push(&mut writer, 160);
        take(&mut reader, 160);
        assert_eq!(writer.reclaim(usize::MAX).len(), 1);
    }

    #[test]
    fn a_reader_that_a_clear_has_overtaken_takes_nothing() {
        let (mut writer, mut reader) = audio_queue(CAPACITY);
        push(&mut writer, 1_000);
        let (at, mut out) = (reader.position(), [0; 160]);
        assert!(reader.copy(at, &mut out));
        assert_eq!(writer.clear(), 0);
        assert!(!reader.take(at, 160));
        assert_eq!((reader.position(), writer.queued_bytes()), (1_000, 0));
        // A chunk that is not there any more is no audio either.
        push(&mut writer, 10 * CHUNK_BYTES);
        writer.clear();
        let _freed = writer.reclaim(usize::MAX);
        assert!(!reader.copy(5 * CHUNK_BYTES as u64, &mut out));
    }

    #[test]
    fn the_reader_goes_on_while_the_writer_is_preempted_with_its_locks() {
        let (mut writer, mut reader) = audio_queue(CAPACITY);
        push(&mut writer, CHUNK_BYTES);
        let slot = lock(writer.shared.slot(0));
        assert!(!reader.copy(0, &mut [0; 160]), "nothing, and at once");
        drop(slot);
        assert_eq!(take(&mut reader, 160), 160);
    }

    /// Who clears and who takes meet at the same bytes again and again: each byte is
    /// either taken or cleared, and the writer knows which.
    #[test]
    fn a_clear_and_a_frame_at_the_same_moment_count_no_byte_twice() {
        let (mut writer, mut reader) = audio_queue(CAPACITY);
        let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let is_done = done.clone();
        let taking = std::thread::spawn(move || {
            let (mut taken, mut out) = (0_u64, [0; 160]);
            while !is_done.load(Ordering::Acquire) {
                let position = reader.position();
                let count = 160.min(reader.pushed().saturating_sub(position));
                let copied = reader.copy(position, &mut out[..count as usize]);
                if copied && reader.take(position, count as usize) {
                    taken += count;
                    let frame = (position..).zip(&out[..count as usize]);
                    frame.for_each(|(at, byte)| assert_eq!(*byte, code(at)));
                }
            }
            taken
        });
        let mut cleared = 0;
        for _ in 0..100_000 {
            push(&mut writer, 480);
            cleared += writer.pushed() - writer.clear();
            drop(writer.reclaim(usize::MAX));
        }
        done.store(true, Ordering::Release);
        assert_eq!(taking.join().unwrap() + cleared, writer.pushed());
    }

    proptest! {
        #[test]
        fn every_byte_comes_once_and_in_order(
            steps in proptest::collection::vec((0..40_000_usize, 0..30_000_usize), 1..40)
        ) {
            let (mut writer, mut reader) = audio_queue(CAPACITY);
            for (pushed, taken) in steps {
                let room = CAPACITY - writer.queued_bytes();
                push(&mut writer, pushed.min(room));
                take(&mut reader, taken);
                drop(writer.reclaim(2));
            }
        }
    }
}
