//! What comes from the other side, and what has been heard by it: a leg whose
//! RTP stops without a BYE is over, unless it is on hold.

use std::time::Instant;

use super::{Call, Phase, Timer};
use crate::core::media_link::Direction;
use crate::core::outcome::Outcome;
use crate::core::voice::StreamEnd;

/// What is known of the other side's RTP.
#[derive(Debug, Default)]
pub(super) struct MediaWatch {
    /// When the last packet came, or when it was first waited for.
    last_rtp: Option<Instant>,
    /// Which way audio may flow, once media is up.
    direction: Option<Direction>,
}

impl Call {
    /// Media is up or changed its direction.
    pub fn handle_media(&mut self, now: Instant, direction: Direction) {
        if self.phase.is_ending() {
            return self.note_unexpected("media");
        }
        self.media.direction = Some(direction);
        // A callee that rings may send what it wants, or nothing.
        if !matches!(self.phase, Phase::Dialling { .. }) {
            self.watch_media(now);
        }
    }

    /// The other side's RTP is waited for, as far as it may send any.
    pub(super) fn watch_media(&mut self, now: Instant) {
        let Some(direction) = self.media.direction else {
            return;
        };
        self.media.last_rtp = Some(now);
        match self.policy.media_timeout {
            Some(limit) if !direction.is_hold() && !self.is_held() => {
                self.arm(Timer::Media, now + limit);
            }
            _ => self.timers.set(Timer::Media, None),
        }
    }

    /// A packet came from the caller. Cheap: called 50 times a second.
    pub fn handle_rtp(&mut self, now: Instant) {
        self.media.last_rtp = Some(now);
    }

    /// What was asked for by [`PlayOut`](super::Output::PlayOut) has been heard.
    pub fn handle_played_out(&mut self, now: Instant) {
        match self.phase {
            Phase::PlayingOut { settled, then, .. } if self.transfer.is_under_way() => {
                self.wait_for_transfer(now, settled, then);
            }
            Phase::PlayingOut { .. } => self.end_play_out(now),
            Phase::Announcing { reason } => self.announced(now, reason),
            _ => self.note_unexpected("played out"),
        }
    }

    /// The worker's last audio has been heard, or takes too long.
    pub(super) fn end_play_out(&mut self, now: Instant) {
        if self.returns_to_script() {
            self.stream_over(now, StreamEnd::Closed);
        } else {
            self.hang_up(now, Outcome::WorkerHungUp);
        }
    }

    pub(super) fn check_media(&mut self, now: Instant) {
        let (Some(last), Some(limit)) = (self.media.last_rtp, self.policy.media_timeout) else {
            return;
        };
        let due = last + limit;
        if due > now {
            self.arm(Timer::Media, due);
        } else {
            self.hang_up(now, Outcome::MediaTimeout);
        }
    }
}
