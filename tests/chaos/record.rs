//! What one caller went through, and the questions that the books ask of it.

use std::time::{Duration, Instant};

use crate::stamp::Stamp;

/// 20 ms that a caller heard.
pub struct Heard {
    pub at: Instant,
    pub at_ms: u64,
    pub kind: Kind,
}

/// What was in them.
pub enum Kind {
    /// A worker's voice.
    Worker(Stamp),
    /// Ringback, hold audio or an announcement.
    Sound(Box<[u8]>),
    Silence,
}

/// How a call ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The caller hung up.
    HungUp,
    /// The caller hung up, and the BYE found nobody or was refused.
    Unanswered(String),
    ByBridge,
    /// A final status instead of an answer.
    Refused(u16),
    /// No final response to the INVITE.
    NotAnswered,
}

/// One caller's account.
pub struct Record {
    pub index: u16,
    pub answered_at: Option<Instant>,
    pub ended_at: Instant,
    pub end: End,
    pub heard: Vec<Heard>,
    /// Frames that its network brought to the bridge, or lost.
    pub said: u32,
}

/// Audio of one packet.
const FRAME: Duration = Duration::from_millis(20);

impl Record {
    /// An account that begins now.
    pub fn new(index: u16) -> Self {
        Self {
            index,
            answered_at: None,
            ended_at: Instant::now(),
            end: End::NotAnswered,
            heard: Vec::new(),
            said: 0,
        }
    }

    pub fn finish(&mut self, end: End) {
        self.end = end;
        self.ended_at = Instant::now();
    }

    /// From the answer to the end.
    pub fn talked(&self) -> Duration {
        self.answered_at
            .map_or(Duration::ZERO, |answered| self.ended_at - answered)
    }

    fn worker_times(&self) -> impl DoubleEndedIterator<Item = Instant> + '_ {
        let times = self.heard.iter().map(|heard| match heard.kind {
            Kind::Worker(_) => Some(heard.at),
            _ => None,
        });
        times.flatten()
    }

    pub fn first_worker_at(&self) -> Option<Instant> {
        self.worker_times().next()
    }

    /// When another sound followed the worker's voice first.
    pub fn held_at(&self) -> Option<Instant> {
        let mut after = self.heard.iter();
        after.find(|heard| matches!(heard.kind, Kind::Worker(_)))?;
        after
            .find(|heard| matches!(heard.kind, Kind::Sound(_)))
            .map(|heard| heard.at)
    }

    /// Whether a worker's voice came again after `since`.
    pub fn heard_worker_after(&self, since: Instant) -> bool {
        self.worker_times().next_back().is_some_and(|at| at > since)
    }

    /// Whether a worker's voice came in that time.
    pub fn heard_worker_between(&self, from: Instant, to: Instant) -> bool {
        self.worker_times().any(|at| (from..to).contains(&at))
    }

    /// Frames of the worker's voice that were another caller's.
    pub fn foreign_frames(&self) -> usize {
        let stamps = self.heard.iter().filter_map(|heard| match heard.kind {
            Kind::Worker(stamp) => Some(stamp),
            _ => None,
        });
        stamps.filter(|stamp| stamp.caller != self.index).count()
    }

    /// Whether this audio was heard without a break.
    pub fn heard_part(&self, part: &[u8]) -> bool {
        let mut sound = Vec::new();
        for heard in &self.heard {
            match &heard.kind {
                Kind::Sound(audio) => sound.extend_from_slice(audio),
                Kind::Silence => sound.extend_from_slice(&[0xFF; 160]),
                Kind::Worker(_) => sound.clear(),
            }
        }
        // Mu-law has two zeros, and silent frames are not kept.
        let plain = |audio: &[u8]| -> Vec<u8> {
            let one_zero = |byte: &u8| if *byte == 0x7F { 0xFF } else { *byte };
            audio.iter().map(one_zero).collect()
        };
        crate::harness::sound::contains(&plain(&sound), &plain(part))
    }

    /// The longest time without RTP between answer and end. A BYE may be on its
    /// way for a moment.
    pub fn longest_gap(&self) -> Duration {
        let times = self.heard.iter().map(|heard| heard.at);
        let times: Vec<_> = self
            .answered_at
            .into_iter()
            .chain(times)
            .chain([self.ended_at])
            .collect();
        let gaps = times
            .windows(2)
            .map(|pair| pair[1].saturating_duration_since(pair[0]));
        gaps.max().unwrap_or_default()
    }

    /// The longest time without any sound once the worker had spoken.
    pub fn longest_quiet(&self) -> Duration {
        let Some(mut last) = self.first_worker_at() else {
            return Duration::ZERO;
        };
        let mut longest = Duration::ZERO;
        for heard in &self.heard {
            if heard.at > last && !matches!(heard.kind, Kind::Silence) {
                longest = longest.max(heard.at - last);
                last = heard.at;
            }
        }
        longest.max(self.ended_at.saturating_duration_since(last))
    }

    /// For each time that another sound followed the worker's voice: how long
    /// the silence between was, in time of the audio: packets that come late on
    /// a busy machine say nothing of what was sent. A worker that was killed may
    /// have been silent before: silence counts from the kill.
    pub fn breaks(&self, kills: &[Instant]) -> Vec<Duration> {
        let mut breaks = Vec::new();
        let mut kills = kills.iter().peekable();
        let (mut silent, mut spoke) = (0, false);
        for heard in &self.heard {
            while kills.next_if(|kill| **kill <= heard.at).is_some() {
                silent = 0;
            }
            match heard.kind {
                Kind::Silence => silent += 1,
                Kind::Worker(_) => (silent, spoke) = (0, true),
                Kind::Sound(_) if spoke => {
                    breaks.push(FRAME * silent);
                    (silent, spoke) = (0, false);
                }
                Kind::Sound(_) => {}
            }
        }
        breaks
    }

    /// Median of the echo's delay in ms, of frames said between two times.
    pub fn echo_delay_ms(&self, from_ms: u64, to_ms: u64) -> Option<u64> {
        let mut delays: Vec<u64> = self
            .heard
            .iter()
            .filter_map(|heard| match heard.kind {
                Kind::Worker(stamp) if (from_ms..to_ms).contains(&stamp.sent_ms) => {
                    Some(heard.at_ms.saturating_sub(stamp.sent_ms))
                }
                _ => None,
            })
            .collect();
        delays.sort_unstable();
        delays.get(delays.len() / 2).copied()
    }
}
