//! What comes from the other side, and what has been heard by it: a leg whose
//! RTP stops without a BYE is over, unless it is on hold.

use std::time::Instant;

use super::{Call, Phase, Timer};
use crate::core::link::Direction;
use crate::core::outcome::Outcome;

impl Call {
    /// Media is up or changed its direction.
    pub fn handle_media(&mut self, now: Instant, direction: Direction) {
        if matches!(self.phase, Phase::Ending | Phase::Over) {
            return;
        }
        self.direction = Some(direction);
        // A callee that rings may send what it wants, or nothing.
        if self.phase != Phase::Dialling {
            self.watch_media(now);
        }
    }

    /// The other side's RTP is waited for, as far as it may send any.
    pub(super) fn watch_media(&mut self, now: Instant) {
        let Some(direction) = self.direction else {
            return;
        };
        self.last_rtp = Some(now);
        match self.policy.media_timeout {
            Some(limit) if !direction.is_hold() && !self.is_held() => {
                self.arm(Timer::Media, now + limit)
            }
            _ => self.disarm(Timer::Media),
        }
    }

    /// A packet came from the caller. Cheap: called 50 times a second.
    pub fn handle_rtp(&mut self, now: Instant) {
        self.last_rtp = Some(now);
    }

    /// What was asked for by [`Output::PlayOut`] has been heard.
    pub fn handle_played_out(&mut self, now: Instant) {
        match self.phase {
            Phase::PlayingOut if self.transferring => self.wait_for_transfer(now),
            Phase::PlayingOut => self.hang_up(now, Outcome::WorkerHungUp),
            Phase::Announcing => self.announced(now),
            _ => {}
        }
    }

    pub(super) fn check_media(&mut self, now: Instant) {
        let (Some(last), Some(limit)) = (self.last_rtp, self.policy.media_timeout) else {
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
