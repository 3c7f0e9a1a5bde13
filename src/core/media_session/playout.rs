//! The playout queue of one call: the worker's audio, with its marks in it, as
//! bytes of mu-law at 8 kHz ([`crate::guide::media_streams`], "From the worker to the bridge").
//!
//! Audio may come in pieces of any size; it is played as one stream. The writer,
//! on a normal thread, has the marks; the reader, on the real-time thread, only
//! moves on in the bytes ([`super::audio_queue`]) and says how far they have sounded.
//!
//! A mark belongs to the position behind the audio queued before it. It is
//! due one tick after the frame with its last byte was taken: when that frame
//! has sounded. Leaves out: when a frame is due, and what plays when nothing
//! is queued (see `downlink`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use super::audio_queue::{AudioWriter, Chunk, audio_queue};
use super::playout_reader::PlayoutReader;
use crate::core::ring::{Consumer, ring};

/// Bytes of mu-law in one 20 ms frame.
pub const FRAME_BYTES: usize = 160;
/// Bytes of mu-law in one ms.
pub const BYTES_PER_MS: u64 = 8;
/// What a call's queue holds: ten and a half minutes.
pub const PLAYOUT_CAPACITY_BYTES: usize = 5_040_000;
/// Most marks that wait, be it for their audio or for the driver to fetch them.
pub const MAX_PENDING_MARKS: usize = 10_000;

/// Spans of dropped audio that wait for the writer to see them.
const MAX_UNHEARD_SPANS: usize = 64;
/// Chunks that a push frees beyond what it may need itself.
const RECLAIMED_PER_PUSH: usize = 2;
/// No mark waits.
const NO_MARK: u64 = u64::MAX;

/// A mark to send back to the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkEcho {
    /// The name, as the worker sent it.
    pub name: String,
    /// How much of the audio since the previous mark was really heard, in ms.
    pub played_ms: u64,
    /// Whether a `clear` came before that audio had been played.
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
    /// Nothing was queued: its echo is ready now.
    Ready,
    /// Too many marks wait; it was dropped and counted.
    Refused,
}

/// What a `clear` dropped. Drop it after the lock is released: it frees megabytes.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Bytes that will not be heard.
    pub bytes: usize,
    /// Marks whose echo is ready now.
    pub marks: usize,
    /// The memory of the audio, for the caller to free.
    pub memory: Vec<Arc<Chunk>>,
}

/// How far the reader is, and what it must know of the writer.
#[derive(Debug)]
pub(super) struct PlayoutProgress {
    /// Everything before it has sounded, or was dropped.
    pub(super) sounded: AtomicU64,
    /// The first position with a mark: the writer wants to hear of it.
    pub(super) next_mark: AtomicU64,
    /// How often the queue was cleared.
    pub(super) clears: AtomicU32,
}

/// Audio that the reader dropped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unheard {
    pub(super) from: u64,
    pub(super) to: u64,
}

#[derive(Debug)]
struct Mark {
    /// Position of the first byte behind it.
    at: u64,
    name: String,
}

/// Makes an empty queue.
#[must_use]
pub fn playout() -> (PlayoutWriter, PlayoutReader) {
    let (audio, audio_reader) = audio_queue(PLAYOUT_CAPACITY_BYTES);
    let (unheard, spans) = ring(MAX_UNHEARD_SPANS);
    let progress = Arc::new(PlayoutProgress {
        sounded: AtomicU64::new(0),
        next_mark: AtomicU64::new(NO_MARK),
        clears: AtomicU32::new(0),
    });
    let reader = PlayoutReader::new(audio_reader, progress.clone(), unheard);
    let writer = PlayoutWriter {
        audio,
        progress,
        spans,
        unheard: VecDeque::new(),
        marks: VecDeque::new(),
        echoes: Vec::new(),
        silent_to: 0,
        counted_to: 0,
        heard: 0,
        overflow_bytes: 0,
    };
    (writer, reader)
}

/// The side of the queue that the worker's messages come in by.
#[derive(Debug)]
pub struct PlayoutWriter {
    audio: AudioWriter,
    progress: Arc<PlayoutProgress>,
    spans: Consumer<Unheard>,
    /// Dropped spans that lie behind `counted_to`, at least in part.
    unheard: VecDeque<Unheard>,
    marks: VecDeque<Mark>,
    /// Echoes that are ready.
    echoes: Vec<MarkEcho>,
    /// Nothing sounded when everything before it was cleared.
    silent_to: u64,
    /// Up to here it is known what was heard.
    counted_to: u64,
    /// Bytes heard since the last mark was passed, before `counted_to`.
    heard: u64,
    overflow_bytes: u64,
}

impl PlayoutWriter {
    /// Bytes queued.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.audio.queued_bytes()
    }

    /// Bytes dropped so far because the queue was full.
    #[must_use]
    pub fn overflow_bytes(&self) -> u64 {
        self.overflow_bytes
    }

    /// Whether everything queued has been played to its last sample.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.sounded() >= self.audio.pushed()
    }

    /// Queues audio, as far as it fits.
    pub fn push(&mut self, audio: &[u8]) -> Pushed {
        let room = PLAYOUT_CAPACITY_BYTES - self.queued_bytes();
        let dropped_bytes = audio.len().saturating_sub(room);
        let first_drop = dropped_bytes > 0 && self.overflow_bytes == 0;
        self.overflow_bytes += dropped_bytes as u64;
        let audio = &audio[..audio.len() - dropped_bytes];
        drop(self.audio.reclaim(RECLAIMED_PER_PUSH));
        self.audio.push(audio);
        Pushed {
            dropped_bytes,
            first_drop,
        }
    }

    /// Places a mark behind the audio pushed so far.
    pub fn mark(&mut self, name: String) -> MarkPlaced {
        if self.marks.len() + self.echoes.len() >= MAX_PENDING_MARKS {
            return MarkPlaced::Refused;
        }
        let at = self.audio.pushed();
        self.marks.push_back(Mark { at, name });
        self.collect_due();
        match self.marks.is_empty() {
            true => MarkPlaced::Ready,
            false => MarkPlaced::Waiting,
        }
    }

    /// Moves the ready echoes, in order, to the end of `echoes`.
    pub fn drain_echoes(&mut self, echoes: &mut Vec<MarkEcho>) {
        self.collect_due();
        echoes.append(&mut self.echoes);
    }

    /// Empties the queue. The echoes of all waiting marks are ready now.
    pub fn clear(&mut self) -> Cleared {
        let before = self.echoes.len();
        let at = self.audio.clear();
        self.progress.clears.fetch_add(1, Ordering::Release);
        let was_silent = self.sounded() >= at;
        // Marks whose audio was taken before are passed, though it may sound yet.
        self.pass_marks(at);
        self.count_heard(at);
        for mark in std::mem::take(&mut self.marks) {
            self.echo(mark.name, true);
        }
        let end = self.audio.pushed();
        self.counted_to = end;
        if was_silent {
            self.silent_to = end;
        }
        self.progress.next_mark.store(NO_MARK, Ordering::SeqCst);
        Cleared {
            bytes: usize::try_from(end - at).unwrap_or(usize::MAX),
            marks: self.echoes.len() - before,
            memory: self.audio.reclaim(usize::MAX),
        }
    }

    /// Empties the queue and forgets all marks and echoes: who set them is gone.
    pub fn abandon(&mut self) -> Cleared {
        let cleared = self.clear();
        self.echoes.clear();
        self.heard = 0;
        cleared
    }

    /// Memory of audio that was played out, to be freed without a lock held.
    #[must_use]
    pub fn take_spent(&mut self) -> Vec<Arc<Chunk>> {
        self.audio.reclaim(usize::MAX)
    }

    /// Everything before this position has sounded, or was dropped.
    fn sounded(&self) -> u64 {
        let sounded = self.progress.sounded.load(Ordering::SeqCst);
        sounded.max(self.silent_to)
    }

    /// Marks that are due become echoes; the reader learns of the next one.
    fn collect_due(&mut self) {
        self.pass_marks(self.sounded());
        if let Some(next) = self.marks.front().map(|mark| mark.at) {
            self.progress.next_mark.store(next, Ordering::SeqCst);
            // It may have sounded before the reader could know that it counts.
            self.pass_marks(self.sounded());
        } else {
            self.progress.next_mark.store(NO_MARK, Ordering::SeqCst);
        }
    }

    fn pass_marks(&mut self, end: u64) {
        while self.marks.front().is_some_and(|mark| mark.at <= end)
            && let Some(mark) = self.marks.pop_front()
        {
            self.count_heard(mark.at);
            self.echo(mark.name, false);
        }
    }

    fn echo(&mut self, name: String, cleared: bool) {
        self.echoes.push(MarkEcho {
            name,
            played_ms: std::mem::take(&mut self.heard) / BYTES_PER_MS,
            cleared,
        });
    }

    /// Counts what was heard up to a position that the reader has passed.
    fn count_heard(&mut self, to: u64) {
        while let Some(span) = self.spans.pop() {
            self.unheard.push_back(span);
        }
        let from = self.counted_to;
        self.counted_to = from.max(to);
        self.heard += self.counted_to - from;
        while let Some(span) = self.unheard.front().filter(|span| span.from < to) {
            let (begin, end) = (span.from.max(from), span.to.min(to));
            let unheard = end.saturating_sub(begin);
            self.heard = self.heard.saturating_sub(unheard);
            if span.to > to {
                break;
            }
            self.unheard.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::g711::MULAW_SILENCE;
    use proptest::prelude::*;

    fn audio(bytes: usize, value: u8) -> Vec<u8> {
        vec![value; bytes]
    }

    /// Both sides of a queue, on one thread.
    struct Playout {
        writer: PlayoutWriter,
        reader: PlayoutReader,
    }

    impl Default for Playout {
        fn default() -> Self {
            let (writer, reader) = playout();
            Self { writer, reader }
        }
    }

    impl Playout {
        fn echoes(&mut self) -> Vec<MarkEcho> {
            let mut echoes = Vec::new();
            self.writer.drain_echoes(&mut echoes);
            echoes
        }

        /// Places a mark; its echo where it is ready at once.
        fn mark(&mut self, name: &str) -> Option<MarkEcho> {
            match self.writer.mark(name.into()) {
                MarkPlaced::Ready => self.echoes().pop(),
                MarkPlaced::Waiting => None,
                MarkPlaced::Refused => panic!("too many marks"),
            }
        }

        fn is_idle(&self) -> bool {
            assert_eq!(self.writer.is_idle(), self.reader.is_idle());
            self.writer.is_idle()
        }
    }

    fn echo(name: &str, played_ms: u64, cleared: bool) -> MarkEcho {
        MarkEcho {
            name: name.into(),
            played_ms,
            cleared,
        }
    }

    /// One tick: the echoes due at its start, then the frame taken.
    fn tick(playout: &mut Playout) -> (Vec<MarkEcho>, usize, [u8; FRAME_BYTES]) {
        let mut frame = [0; FRAME_BYTES];
        let begun = playout.reader.begin_tick();
        let echoes = playout.echoes();
        assert!(begun.mark_due || echoes.is_empty(), "the writer is woken");
        let taken = playout.reader.take_frame(&mut frame);
        (echoes, taken, frame)
    }

    #[test]
    fn odd_pieces_are_played_as_one_stream_and_the_last_frame_is_padded() {
        let mut playout = Playout::default();
        for value in 1..=4 {
            playout.writer.push(&audio(100, value));
        }
        let (_, taken, frame) = tick(&mut playout);
        assert_eq!((taken, frame[99], frame[100], frame[159]), (160, 1, 2, 2));
        assert_eq!(tick(&mut playout).1, 160);
        let (_, taken, frame) = tick(&mut playout);
        assert_eq!((taken, frame[79], frame[80]), (80, 4, MULAW_SILENCE));
        assert!(!playout.is_idle());
        assert_eq!(tick(&mut playout).1, 0);
        assert!(playout.is_idle());
    }

    #[test]
    fn what_is_abandoned_leaves_nothing_to_the_next_worker() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(480, 1));
        playout.mark("old");
        tick(&mut playout);
        assert_eq!(playout.writer.abandon().bytes, 320);
        playout.writer.push(&audio(160, 2));
        playout.mark("new");
        let frame = tick(&mut playout);
        assert_eq!((frame.0.len(), frame.2[0]), (0, 2));
        assert_eq!(tick(&mut playout).0, [echo("new", 20, false)]);
    }

    #[test]
    fn a_mark_is_echoed_when_the_frame_before_it_has_sounded() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(240, 1));
        assert_eq!(playout.mark("a"), None);
        playout.writer.push(&audio(400, 2));
        assert_eq!(playout.mark("b"), None);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(tick(&mut playout).0, [echo("a", 30, false)]);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(playout.mark("c"), None, "the last frame still sounds");
        let both = [echo("b", 50, false), echo("c", 0, false)];
        assert_eq!(tick(&mut playout).0, both);
        assert_eq!(playout.mark("d"), Some(echo("d", 0, false)));
    }

    #[test]
    fn clear_echoes_every_mark_and_says_what_was_heard() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(160, 1));
        playout.mark("heard");
        playout.writer.push(&audio(6_000_000, 2));
        playout.mark("cut");
        playout.mark("unheard");
        tick(&mut playout);
        let mut echoes = tick(&mut playout).0;
        tick(&mut playout);
        let cleared = playout.writer.clear();
        echoes.extend(playout.echoes());
        assert_eq!(cleared.bytes, PLAYOUT_CAPACITY_BYTES - 480);
        assert_eq!(cleared.marks, 2);
        let wanted = [
            echo("heard", 20, false),
            echo("cut", 40, true),
            echo("unheard", 0, true),
        ];
        assert_eq!(echoes, wanted);
        assert_eq!(playout.writer.queued_bytes(), 0);
        playout.writer.push(&audio(160, 3));
        assert_eq!(playout.mark("next"), None);
        assert_eq!(tick(&mut playout).2[0], 3);
        assert_eq!(tick(&mut playout).0, [echo("next", 20, false)]);
    }

    #[test]
    fn a_mark_whose_audio_was_just_taken_is_not_cleared() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(160, 1));
        playout.mark("a");
        tick(&mut playout);
        playout.writer.clear();
        assert_eq!(playout.echoes(), [echo("a", 20, false)]);
    }

    #[test]
    fn skipped_audio_passes_its_marks_unheard() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(160, 1));
        playout.mark("a");
        playout.writer.push(&audio(80, 2));
        playout.reader.skip_frame();
        assert_eq!(playout.writer.queued_bytes(), 80);
        assert_eq!(tick(&mut playout).0, [echo("a", 0, false)]);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_reported_once() {
        let mut playout = Playout::default();
        let ten_minutes = 600 * 8_000;
        assert_eq!(playout.writer.push(&audio(ten_minutes, 1)).dropped_bytes, 0);
        let over = playout.writer.push(&audio(ten_minutes, 2));
        assert!(over.first_drop && over.dropped_bytes > 0);
        assert_eq!(playout.writer.queued_bytes(), PLAYOUT_CAPACITY_BYTES);
        let again = playout.writer.push(&audio(160, 3));
        assert_eq!((again.dropped_bytes, again.first_drop), (160, false));
        assert_eq!(
            playout.writer.overflow_bytes(),
            over.dropped_bytes as u64 + 160
        );
    }

    #[test]
    fn audio_that_was_played_out_is_freed_by_the_side_that_writes() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(200_000, 1));
        while tick(&mut playout).1 > 0 {}
        assert!(playout.writer.take_spent().len() > 8);
    }

    /// Where nothing sounded, nothing has to end sounding before a mark is due.
    #[test]
    fn a_mark_after_a_clear_is_ready_unless_a_frame_still_sounds() {
        let mut playout = Playout::default();
        playout.writer.push(&audio(1_600, 1));
        playout.writer.clear();
        assert_eq!(playout.mark("silent"), Some(echo("silent", 0, false)));
        playout.writer.push(&audio(1_600, 1));
        tick(&mut playout);
        playout.writer.clear();
        assert_eq!(playout.mark("sounds"), None);
        assert_eq!(tick(&mut playout).0, [echo("sounds", 20, false)]);
    }

    proptest! {
        /// Pieces of any size, marks anywhere: every byte once and in order,
        /// every mark once, in order, one tick after its last byte.
        #[test]
        fn every_byte_and_mark_comes_once(
            pieces in proptest::collection::vec((0..9_000_usize, any::<bool>(), 0..4_usize), 1..40)
        ) {
            let mut playout = Playout::default();
            let (mut sent, mut played) = (Vec::<u8>::new(), Vec::<u8>::new());
            let (mut placed, mut echoed) = (Vec::new(), Vec::new());
            for (size, with_mark, ticks) in pieces {
                let piece: Vec<u8> = (0..size).map(|n| ((sent.len() + n) % 251) as u8).collect();
                sent.extend(&piece);
                playout.writer.push(&piece);
                if with_mark {
                    placed.push(sent.len());
                    let ready = playout.mark(&placed.len().to_string());
                    echoed.extend(ready.map(|mark| mark.name));
                }
                for _ in 0..ticks {
                    let (echoes, taken, frame) = tick(&mut playout);
                    echoed.extend(echoes.into_iter().map(|mark| mark.name));
                    let due = placed.iter().filter(|at| **at <= played.len()).count();
                    prop_assert_eq!(echoed.len(), due);
                    played.extend(&frame[..taken]);
                }
            }
            while !playout.is_idle() {
                let (echoes, taken, frame) = tick(&mut playout);
                echoed.extend(echoes.into_iter().map(|mark| mark.name));
                played.extend(&frame[..taken]);
            }
            prop_assert_eq!(played, sent);
            let names: Vec<String> = (1..=placed.len()).map(|n| n.to_string()).collect();
            prop_assert_eq!(echoed, names);
        }
    }
}
