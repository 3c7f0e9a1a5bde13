//! One-way copies of a leg's audio: what they carry is taken where it passes ([`FrameTap`]) into a ring, and read
//! by the task of the copy. Neither thread waits for the other; a ring that is full drops what comes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::core::media_session::clock::{FrameTap, MediaTime, TapPlace};
use crate::core::media_session::playout::{BYTES_PER_MS, FRAME_BYTES};
use crate::core::media_streams::AudioTrack;
use crate::core::ring::{Consumer, Producer, ring};
use crate::core::twiml::document::Track;

/// What waits for a copy, per track: 5 s, as long as its socket may take to be opened.
const WAITING_FRAMES_MAX: usize = 256;

/// What passes a tap.
#[derive(Debug)]
pub(in crate::bridge) enum Piece {
    /// 20 ms of mu-law.
    Frame([u8; FRAME_BYTES]),
    /// A digit that the caller pressed.
    Digit(char),
}

type Timed = (MediaTime, Piece);

/// Puts what passes into the ring of one copy.
#[derive(Debug)]
struct CopyTap {
    pieces: Producer<Timed>,
    lost: Arc<AtomicU64>,
}

impl CopyTap {
    fn put(&mut self, at: MediaTime, piece: Piece) {
        if self.pieces.push((at, piece)).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl FrameTap for CopyTap {
    fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]) {
        self.put(at, Piece::Frame(*frame));
    }

    fn handle_digit(&mut self, at: MediaTime, digit: char) {
        self.put(at, Piece::Digit(digit));
    }
}

/// The taps of one copy, for the two directions.
#[derive(Debug, Default)]
pub(in crate::bridge) struct CopyTaps {
    pub(in crate::bridge) inbound: TapPlace,
    pub(in crate::bridge) outbound: TapPlace,
}

/// One track of a copy.
#[derive(Debug)]
struct Reader {
    track: AudioTrack,
    pieces: Consumer<Timed>,
    next: Option<Timed>,
}

/// What a copy carries, as it comes.
#[derive(Debug)]
pub(in crate::bridge) struct CopiedAudio {
    start: MediaTime,
    readers: Vec<Reader>,
    lost: Arc<AtomicU64>,
}

/// A piece of a copy, in its turn.
#[derive(Debug)]
pub(in crate::bridge) struct Copied {
    pub(in crate::bridge) track: AudioTrack,
    /// Since the copy began, on the clock of both tracks.
    pub(in crate::bridge) at_ms: u64,
    pub(in crate::bridge) piece: Piece,
}

impl CopiedAudio {
    /// A copy of these tracks that begins at this time, and its taps.
    pub(in crate::bridge) fn new(track: Track, start: MediaTime) -> (Self, CopyTaps) {
        let mut copied = Self {
            start,
            readers: Vec::with_capacity(2),
            lost: Arc::default(),
        };
        let mut taps = CopyTaps::default();
        if track != Track::Outbound {
            taps.inbound = Some(copied.tap(AudioTrack::Inbound));
        }
        if track != Track::Inbound {
            taps.outbound = Some(copied.tap(AudioTrack::Outbound));
        }
        (copied, taps)
    }

    fn tap(&mut self, track: AudioTrack) -> Box<dyn FrameTap> {
        let (producer, pieces) = ring(WAITING_FRAMES_MAX);
        self.readers.push(Reader {
            track,
            pieces,
            next: None,
        });
        Box::new(CopyTap {
            pieces: producer,
            lost: self.lost.clone(),
        })
    }

    /// What comes next: of what both tracks have, the earlier. Never waits.
    pub(in crate::bridge) fn poll_next(&mut self) -> Option<Copied> {
        for reader in &mut self.readers {
            if reader.next.is_none() {
                reader.next = reader.pieces.pop();
            }
        }
        let with_next = self
            .readers
            .iter_mut()
            .filter(|reader| reader.next.is_some());
        let reader = with_next.min_by_key(|reader| reader.next.as_ref().map(|(at, _)| *at))?;
        let (at, piece) = reader.next.take()?;
        Some(Copied {
            track: reader.track,
            at_ms: at.samples.saturating_sub(self.start.samples) / BYTES_PER_MS,
            piece,
        })
    }

    /// Frames and digits that found the ring full.
    pub(in crate::bridge) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at_ms(ms: u64) -> MediaTime {
        MediaTime {
            samples: ms * BYTES_PER_MS,
        }
    }

    fn shown(copied: &mut CopiedAudio) -> Vec<String> {
        let all = std::iter::from_fn(|| copied.poll_next());
        all.map(
            |Copied {
                 track,
                 at_ms,
                 piece,
             }| match piece {
                Piece::Frame(frame) => format!("{track:?} {at_ms} {}", frame[0]),
                Piece::Digit(digit) => format!("{track:?} {at_ms} digit {digit}"),
            },
        )
        .collect()
    }

    #[test]
    fn both_tracks_come_in_the_order_of_their_time() {
        let (mut copied, mut taps) = CopiedAudio::new(Track::Both, at_ms(1_000));
        let (inbound, outbound) = (
            taps.inbound.as_mut().unwrap(),
            taps.outbound.as_mut().unwrap(),
        );
        outbound.handle_frame(at_ms(1_010), &[3; FRAME_BYTES]);
        outbound.handle_frame(at_ms(1_030), &[4; FRAME_BYTES]);
        // One that began before the copy did.
        inbound.handle_frame(at_ms(995), &[1; FRAME_BYTES]);
        inbound.handle_frame(at_ms(1_015), &[2; FRAME_BYTES]);
        inbound.handle_digit(at_ms(1_030), '5');
        assert_eq!(
            shown(&mut copied),
            [
                "Inbound 0 1",
                "Outbound 10 3",
                "Inbound 15 2",
                "Inbound 30 digit 5",
                "Outbound 30 4"
            ]
        );
        // Neither waits for the other.
        outbound.handle_frame(at_ms(1_050), &[5; FRAME_BYTES]);
        assert_eq!(shown(&mut copied), ["Outbound 50 5"]);
    }

    #[test]
    fn a_copy_taps_what_it_carries_and_drops_what_nobody_takes() {
        let (_, taps) = CopiedAudio::new(Track::Inbound, at_ms(0));
        assert!(taps.inbound.is_some() && taps.outbound.is_none());
        let (mut copied, taps) = CopiedAudio::new(Track::Outbound, at_ms(0));
        assert!(taps.inbound.is_none());
        let mut outbound = taps.outbound.unwrap();
        for number in 0..WAITING_FRAMES_MAX as u64 + 3 {
            outbound.handle_frame(at_ms(20 * number), &[7; FRAME_BYTES]);
        }
        assert_eq!(copied.lost(), 3);
        assert_eq!(shown(&mut copied).len(), WAITING_FRAMES_MAX);
    }
}
