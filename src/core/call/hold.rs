//! A hold of ours: the other side hears hold audio, and nothing of it reaches
//! the worker. It is asked for by a re-INVITE, one at a time: whoever changes
//! his mind meanwhile is served by the next one.

use std::time::{Duration, Instant};

use super::{Call, Denied, Output, Timer};
use crate::core::outcome::Outcome;

/// An INVITE transaction gives up after 32 s (RFC 3261 timer B).
const ANSWER_LIMIT: Duration = Duration::from_secs(35);

/// Where the hold of a call stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Hold {
    /// The other side is held, or is about to be.
    wanted: bool,
    /// What the last re-INVITE asked for.
    asked: bool,
    /// It is not answered yet.
    pending: bool,
}

impl Call {
    /// Hold the other side, or take it back. Once more is no mistake.
    ///
    /// # Errors
    /// When there is nobody to hold.
    pub fn handle_hold_request(&mut self, now: Instant, on: bool) -> Result<(), Denied> {
        if on {
            self.check_talking()?;
        } else {
            self.check_digits()?;
        }
        self.want_hold(now, on);
        Ok(())
    }

    /// The answer to [`Output::Reinvite`]: 200, or why all is as it was.
    pub fn handle_held(&mut self, now: Instant, status: u16) {
        if !self.hold.pending || self.phase.is_ending() {
            return self.note_unexpected("held");
        }
        self.hold.pending = false;
        self.timers.set(Timer::Hold, None);
        let taken = (200..300).contains(&status);
        if status == 408 && !self.hold.asked {
            // To be taken back, and not there: no media would tell it (RFC 3261, 14.1).
            return self.hang_up(now, Outcome::MediaTimeout);
        }
        let as_asked = self.hold.wanted == self.hold.asked;
        if taken && !as_asked {
            self.reinvite(now);
        } else if !taken && as_asked && self.phase.is_with_worker() {
            self.hold.wanted = !self.hold.asked;
            self.push(Output::Held(self.hold.wanted));
        }
        self.watch_media(now);
    }

    /// Nobody stays on hold for his worker's last words or the fallback.
    pub(super) fn release_hold(&mut self, now: Instant) {
        self.want_hold(now, false);
    }

    pub(super) const fn is_held(&self) -> bool {
        self.hold.wanted
    }

    fn want_hold(&mut self, now: Instant, on: bool) {
        if self.hold.wanted == on {
            return;
        }
        self.hold.wanted = on;
        self.push(Output::Held(on));
        self.watch_media(now);
        if !self.hold.pending {
            self.reinvite(now);
        }
    }

    fn reinvite(&mut self, now: Instant) {
        self.hold.asked = self.hold.wanted;
        self.hold.pending = true;
        self.arm(Timer::Hold, now + ANSWER_LIMIT);
        self.push(Output::Reinvite {
            hold: self.hold.asked,
        });
    }
}

#[cfg(test)]
#[path = "hold_tests.rs"]
mod tests;
