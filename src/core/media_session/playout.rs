//! The playout queue of one call: the worker's audio, with its marks in it, as
//! bytes of mu-law at 8 kHz ([`crate::guide::media_streams`], "From the worker to the bridge").
//!
//! Audio may come in pieces of any size; it is played as one stream. Small
//! pieces are gathered in one buffer, so that a live stream allocates nothing;
//! big ones are kept as they are, so that nobody copies megabytes under a lock.
//!
//! A mark belongs to the position behind the audio queued before it. It is
//! due one tick after the frame with its last byte was taken: when that frame
//! has sounded. Leaves out: when a frame is due, and what plays when nothing
//! is queued (see `downlink`).

use std::collections::VecDeque;

use bytes::{Buf, Bytes, BytesMut};

use crate::core::g711::MULAW_SILENCE;

/// Bytes of mu-law in one 20 ms frame.
pub const FRAME_BYTES: usize = 160;
/// Bytes of mu-law in one ms.
pub const BYTES_PER_MS: u64 = 8;
/// What a call's queue holds: ten and a half minutes.
pub const PLAYOUT_CAPACITY_BYTES: usize = 5_040_000;
/// Most marks that wait, be it for their audio or for the driver to fetch them.
pub const MAX_PENDING_MARKS: usize = 10_000;

/// Pieces below this are copied into the gathering buffer.
const SMALL_PIECE_BYTES: usize = 4_096;
/// The gathering buffer is closed when it has grown to this.
const GATHER_BYTES: usize = 16_384;

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

/// What became of pushed audio. Drop it after the lock is released.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pushed {
    /// Bytes that found no room and were dropped from the end of the push.
    pub dropped_bytes: usize,
    /// Whether this is the first time that anything was dropped: log it now.
    pub first_drop: bool,
    /// A piece that was played out, for the caller to free.
    pub spent: Option<Bytes>,
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

/// What a `clear` dropped. Drop it after the lock is released: freeing
/// megabytes takes longer than a pacer may wait.
#[derive(Debug, Default)]
pub struct Cleared {
    /// Bytes that will not be heard.
    pub bytes: usize,
    /// Marks whose echo is ready now.
    pub marks: usize,
    /// The audio itself, for the caller to free.
    pub pieces: VecDeque<Bytes>,
}

#[derive(Debug)]
struct Mark {
    /// Position of the first byte behind it.
    at: u64,
    name: String,
}

/// The queue.
#[derive(Debug, Default)]
pub struct Playout {
    pieces: VecDeque<Bytes>,
    /// Gathers small pieces; behind all of `pieces`.
    tail: BytesMut,
    queued: usize,
    /// Position of the next byte to be taken.
    position: u64,
    marks: VecDeque<Mark>,
    /// Marks whose audio has been taken; echoed at the next tick.
    due: Vec<MarkEcho>,
    /// Bytes heard since the last mark was passed.
    heard: u64,
    /// The frame taken last is still sounding.
    sounding: bool,
    overflow_bytes: u64,
    spent: Option<Bytes>,
}

impl Playout {
    /// Bytes queued.
    #[must_use]
    pub fn queued_bytes(&self) -> usize {
        self.queued
    }

    /// Bytes dropped so far because the queue was full.
    #[must_use]
    pub fn overflow_bytes(&self) -> u64 {
        self.overflow_bytes
    }

    /// Marks that wait.
    #[must_use]
    pub fn pending_marks(&self) -> usize {
        self.marks.len() + self.due.len()
    }

    /// Whether everything queued has been played to its last sample.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queued == 0 && !self.sounding && self.due.is_empty()
    }

    /// Queues audio, as far as it fits.
    pub fn push(&mut self, mut audio: Bytes) -> Pushed {
        let room = PLAYOUT_CAPACITY_BYTES - self.queued;
        let dropped_bytes = audio.len().saturating_sub(room);
        let first_drop = dropped_bytes > 0 && self.overflow_bytes == 0;
        self.overflow_bytes += dropped_bytes as u64;
        audio.truncate(room);
        self.queued += audio.len();
        if audio.len() < SMALL_PIECE_BYTES {
            self.tail.extend_from_slice(&audio);
            if self.tail.len() >= GATHER_BYTES {
                self.close_tail();
            }
        } else {
            self.close_tail();
            self.pieces.push_back(audio);
        }
        Pushed {
            dropped_bytes,
            first_drop,
            spent: self.spent.take(),
        }
    }

    /// Places a mark behind the audio pushed so far; gives its echo when
    /// nothing is queued or sounding. The caller bounds the number of marks.
    pub fn mark(&mut self, name: String) -> Option<MarkEcho> {
        if self.queued > 0 {
            let at = self.position + self.queued as u64;
            self.marks.push_back(Mark { at, name });
            return None;
        }
        let echo = self.pass_mark(name, false);
        if self.sounding {
            self.due.push(echo);
            return None;
        }
        Some(echo)
    }

    /// Empties the queue. Appends the echoes of all waiting marks to `echoes`.
    pub fn clear(&mut self, echoes: &mut Vec<MarkEcho>) -> Cleared {
        let before = echoes.len();
        echoes.append(&mut self.due);
        for mark in std::mem::take(&mut self.marks) {
            let echo = self.pass_mark(mark.name, true);
            echoes.push(echo);
        }
        self.close_tail();
        let mut pieces = std::mem::take(&mut self.pieces);
        pieces.extend(self.spent.take());
        self.position += self.queued as u64;
        Cleared {
            bytes: std::mem::take(&mut self.queued),
            marks: echoes.len() - before,
            pieces,
        }
    }

    /// Empties the queue and forgets all marks: who set them is gone.
    pub fn abandon(&mut self) -> Cleared {
        let cleared = self.clear(&mut Vec::new());
        self.heard = 0;
        cleared
    }

    /// A tick begins: the frame before has sounded, and its marks are due.
    pub fn begin_tick(&mut self, echoes: &mut Vec<MarkEcho>) {
        self.sounding = false;
        echoes.append(&mut self.due);
    }

    /// Takes the next frame, padded with silence behind the last byte queued.
    /// Gives the bytes of audio in it.
    pub fn take_frame(&mut self, frame: &mut [u8; FRAME_BYTES]) -> usize {
        let taken = self.read(frame);
        frame[taken..].fill(MULAW_SILENCE);
        self.sounding = taken > 0;
        self.pass(taken, true);
        taken
    }

    /// Copies the next whole frame without taking it; false when less is queued.
    pub fn peek_frame(&self, frame: &mut [u8; FRAME_BYTES]) -> bool {
        let mut filled = 0;
        let pieces = self.pieces.iter().map(|piece| &piece[..]);
        for piece in pieces.chain([&self.tail[..]]) {
            let count = piece.len().min(FRAME_BYTES - filled);
            frame[filled..filled + count].copy_from_slice(&piece[..count]);
            filled += count;
            if filled == FRAME_BYTES {
                return true;
            }
        }
        false
    }

    /// Drops the next frame unheard. Marks in it are due at the next tick.
    pub fn skip_frame(&mut self) {
        let skipped = self.read(&mut [0; FRAME_BYTES]);
        self.pass(skipped, false);
    }

    fn close_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = std::mem::take(&mut self.tail);
            self.pieces.push_back(tail.freeze());
        }
    }

    /// Moves bytes from the head of the queue into `out`; gives how many.
    fn read(&mut self, out: &mut [u8]) -> usize {
        let wanted = out.len().min(self.queued);
        let mut rest = &mut out[..wanted];
        while !rest.is_empty() {
            let Some(front) = self.pieces.front_mut() else {
                self.tail.copy_to_slice(rest);
                break;
            };
            let count = front.len().min(rest.len());
            let (now, later) = rest.split_at_mut(count);
            now.copy_from_slice(&front[..count]);
            rest = later;
            if count < front.len() {
                front.advance(count);
            } else {
                self.retire_front();
            }
        }
        self.queued -= wanted;
        wanted
    }

    /// Removes the played-out front piece; freeing it is left to the driver,
    /// for it may be megabytes.
    fn retire_front(&mut self) {
        self.spent = self.pieces.pop_front();
    }

    /// The position moves; marks on the way are due.
    fn pass(&mut self, bytes: usize, heard: bool) {
        let end = self.position + bytes as u64;
        while self.marks.front().is_some_and(|mark| mark.at <= end) {
            let Some(mark) = self.marks.pop_front() else {
                break;
            };
            self.heard += if heard { mark.at - self.position } else { 0 };
            self.position = mark.at;
            let echo = self.pass_mark(mark.name, false);
            self.due.push(echo);
        }
        self.heard += if heard { end - self.position } else { 0 };
        self.position = end;
    }

    fn pass_mark(&mut self, name: String, cleared: bool) -> MarkEcho {
        MarkEcho {
            name,
            played_ms: std::mem::take(&mut self.heard) / BYTES_PER_MS,
            cleared,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn audio(bytes: usize, value: u8) -> Bytes {
        vec![value; bytes].into()
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
        let (mut echoes, mut frame) = (Vec::new(), [0; FRAME_BYTES]);
        playout.begin_tick(&mut echoes);
        let taken = playout.take_frame(&mut frame);
        (echoes, taken, frame)
    }

    #[test]
    fn odd_pieces_are_played_as_one_stream_and_the_last_frame_is_padded() {
        let mut playout = Playout::default();
        for value in 1..=4 {
            playout.push(audio(100, value));
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
        playout.push(audio(480, 1));
        playout.mark("old".into());
        tick(&mut playout);
        assert_eq!(playout.abandon().bytes, 320);
        playout.push(audio(160, 2));
        playout.mark("new".into());
        let frame = tick(&mut playout);
        assert_eq!((frame.0.len(), frame.2[0]), (0, 2));
        assert_eq!(tick(&mut playout).0, [echo("new", 20, false)]);
    }

    #[test]
    fn a_mark_is_echoed_when_the_frame_before_it_has_sounded() {
        let mut playout = Playout::default();
        playout.push(audio(240, 1));
        assert_eq!(playout.mark("a".into()), None);
        playout.push(audio(400, 2));
        assert_eq!(playout.mark("b".into()), None);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(tick(&mut playout).0, [echo("a", 30, false)]);
        assert_eq!(tick(&mut playout).0, []);
        assert_eq!(
            playout.mark("c".into()),
            None,
            "the last frame still sounds"
        );
        let both = [echo("b", 50, false), echo("c", 0, false)];
        assert_eq!(tick(&mut playout).0, both);
        assert_eq!(playout.mark("d".into()), Some(echo("d", 0, false)));
    }

    #[test]
    fn clear_echoes_every_mark_and_says_what_was_heard() {
        let mut playout = Playout::default();
        playout.push(audio(160, 1));
        playout.mark("heard".into());
        playout.push(audio(6_000_000, 2));
        playout.mark("cut".into());
        playout.mark("unheard".into());
        tick(&mut playout);
        let mut echoes = tick(&mut playout).0;
        tick(&mut playout);
        let cleared = playout.clear(&mut echoes);
        assert_eq!(cleared.bytes, PLAYOUT_CAPACITY_BYTES - 480);
        assert_eq!(cleared.marks, 2);
        let wanted = [
            echo("heard", 20, false),
            echo("cut", 40, true),
            echo("unheard", 0, true),
        ];
        assert_eq!(echoes, wanted);
        assert_eq!(playout.queued_bytes(), 0);
        playout.push(audio(160, 3));
        assert_eq!(playout.mark("next".into()), None);
        assert_eq!(tick(&mut playout).2[0], 3);
        assert_eq!(tick(&mut playout).0, [echo("next", 20, false)]);
    }

    #[test]
    fn a_mark_whose_audio_was_just_taken_is_not_cleared() {
        let mut playout = Playout::default();
        playout.push(audio(160, 1));
        playout.mark("a".into());
        tick(&mut playout);
        let mut echoes = Vec::new();
        playout.clear(&mut echoes);
        assert_eq!(echoes, [echo("a", 20, false)]);
    }

    #[test]
    fn skipped_audio_passes_its_marks_unheard() {
        let mut playout = Playout::default();
        playout.push(audio(160, 1));
        playout.mark("a".into());
        playout.push(audio(80, 2));
        playout.skip_frame();
        assert_eq!(playout.queued_bytes(), 80);
        assert_eq!(tick(&mut playout).0, [echo("a", 0, false)]);
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_reported_once() {
        let mut playout = Playout::default();
        let ten_minutes = 600 * 8_000;
        assert_eq!(playout.push(audio(ten_minutes, 1)).dropped_bytes, 0);
        let over = playout.push(audio(ten_minutes, 2));
        assert!(over.first_drop && over.dropped_bytes > 0);
        assert_eq!(playout.queued_bytes(), PLAYOUT_CAPACITY_BYTES);
        let again = playout.push(audio(160, 3));
        assert_eq!((again.dropped_bytes, again.first_drop), (160, false));
        assert_eq!(playout.overflow_bytes(), over.dropped_bytes as u64 + 160);
    }

    #[test]
    fn a_played_out_piece_is_given_back_to_be_freed() {
        let mut playout = Playout::default();
        playout.push(audio(SMALL_PIECE_BYTES, 1));
        while tick(&mut playout).1 > 0 {}
        assert!(playout.push(Bytes::new()).spent.is_some());
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
                playout.push(piece.into());
                if with_mark {
                    placed.push(sent.len());
                    let ready = playout.mark(placed.len().to_string());
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
