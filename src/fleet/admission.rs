//! Whether one more call may come in. Pure: time is an argument.
//!
//! What concerns one line alone is answered with 486: it is that line which is
//! busy. A 503 with Retry-After would make its trunk keep every line's calls
//! away (RFC 3261, 21.5.4), and one flooded restaurant would close the others.

use std::time::{Duration, Instant};

use serde::Serialize;

use super::line::Line;
use super::table::Fleet;
use crate::core::ids::LineId;
use crate::sip::engine::Refusal;

/// Busy bridge: when to try again (RFC 3261, 20.33).
const RETRY_BUSY: Duration = Duration::from_secs(5);
/// Draining bridge: another one should have taken over by then.
const RETRY_DRAINING: Duration = Duration::from_secs(30);
/// An overload lasts at least so long.
const RETRY_OVERLOADED: Duration = Duration::from_secs(5);
/// A line may hold this many calls for each free place (Choudhury and Hahne,
/// dynamic queue length thresholds): one line that floods ends at two thirds
/// of the bridge, two at 40 % each, and there is room for others at any time.
const CALLS_PER_FREE_PLACE: u32 = 2;
/// A line may use this part of the calls a second.
const LINES_AT_FULL_RATE: u32 = 2;
const SECOND: Duration = Duration::from_secs(1);
/// A call counts as being set up for so long after its INVITE: its provisional answers are out by then, and
/// its caller's proxies know where it goes. Longer, a line that is rung all the time would never move.
const SET_UP: Duration = Duration::from_millis(300);

/// Most calls of the bridge. A line's own limit is its `maxConcurrentCalls`; one line
/// alone need not share.
#[derive(Clone, Copy, Debug, Default)]
pub struct Limits {
    /// `--max-concurrent-calls`.
    pub calls: u32,
    /// `--max-calls-per-second`; 0 for any number.
    pub calls_per_second: u32,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalReason {
    /// The bridge shuts down.
    Draining,
    /// Audio is late already.
    Overloaded,
    /// As many calls as `--max-concurrent-calls`.
    BridgeFull,
    /// As many calls as the line's `maxConcurrentCalls`.
    LineBusy,
    /// The line holds its share of the places, and the rest is for others.
    LineShare,
    /// More calls a second than `--max-calls-per-second`.
    BridgeRate,
    /// More calls a second than one line may bring.
    LineRate,
}

/// Calls refused since the start, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RefusedCalls {
    /// See [`RefusalReason::Draining`].
    pub draining: u64,
    /// See [`RefusalReason::Overloaded`].
    pub overloaded: u64,
    /// See [`RefusalReason::BridgeFull`].
    pub bridge_full: u64,
    /// See [`RefusalReason::BridgeRate`].
    pub bridge_rate: u64,
    /// See [`RefusalReason::LineBusy`].
    pub line_busy: u64,
    /// See [`RefusalReason::LineShare`].
    pub line_share: u64,
    /// See [`RefusalReason::LineRate`].
    pub line_rate: u64,
}

impl RefusedCalls {
    fn count(&mut self, reason: RefusalReason) -> u64 {
        let count = match reason {
            RefusalReason::Draining => &mut self.draining,
            RefusalReason::Overloaded => &mut self.overloaded,
            RefusalReason::BridgeFull => &mut self.bridge_full,
            RefusalReason::BridgeRate => &mut self.bridge_rate,
            RefusalReason::LineBusy => &mut self.line_busy,
            RefusalReason::LineShare => &mut self.line_share,
            RefusalReason::LineRate => &mut self.line_rate,
        };
        *count += 1;
        *count
    }

    /// All of them.
    #[must_use]
    pub fn sum(&self) -> u64 {
        let bridge = self.draining + self.overloaded + self.bridge_full + self.bridge_rate;
        bridge + self.line_busy + self.line_share + self.line_rate
    }
}

/// The calls of all lines together.
#[derive(Debug, Default)]
pub(super) struct BridgeCalls {
    /// No new calls for good.
    pub(super) draining: bool,
    /// No new calls for now.
    pub(super) overloaded: bool,
    pub(super) limits: Limits,
    active: u32,
    taken: u64,
    refused: RefusedCalls,
    pace: TokenBucket,
}

impl BridgeCalls {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }
}

/// The calls of one line.
#[derive(Debug, Default)]
pub(super) struct LineCalls {
    active: u32,
    pace: TokenBucket,
    admitted_at: Option<Instant>,
}

impl LineCalls {
    pub(super) const fn is_none_in_progress(&self) -> bool {
        self.active == 0
    }
}

impl Fleet {
    /// Judges one INVITE, and counts it among the calls of this second when it
    /// may pass.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn admit(&mut self, now: Instant, line: &LineId) -> Result<(), Refusal> {
        let decision = self.check(line).and_then(|()| self.count(now, line));
        decision.map_err(|reason| self.refuse(reason))?;
        self.line(line).calls.admitted_at = Some(now);
        Ok(())
    }

    /// Whether a call of a line has just come in.
    #[must_use]
    pub fn is_being_set_up(&self, now: Instant, line: &LineId) -> bool {
        let admitted = self.lines.get(line).and_then(|line| line.calls.admitted_at);
        admitted.is_some_and(|at| now.saturating_duration_since(at) < SET_UP)
    }

    /// Takes a place. The rate was [`Fleet::admit`]'s business.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn enter(&mut self, line: &LineId) -> Result<(), Refusal> {
        self.check(line).map_err(|reason| self.refuse(reason))?;
        self.line(line).calls.active += 1;
        self.bridge.active += 1;
        self.bridge.taken += 1;
        Ok(())
    }

    /// A call that took a place is refused after all: other bridges have the rest of its line's calls.
    pub fn refuse_taken(&mut self) -> Refusal {
        self.bridge.taken = self.bridge.taken.saturating_sub(1);
        self.refuse(RefusalReason::LineBusy)
    }

    /// `maxConcurrentCalls` of a line.
    #[must_use]
    pub fn call_limit(&self, line: &LineId) -> Option<u32> {
        self.lines.get(line)?.call_limit()
    }

    /// Gives a place back.
    pub fn leave(&mut self, id: &LineId) {
        if let Some(line) = self.lines.get_mut(id) {
            line.calls.active = line.calls.active.saturating_sub(1);
        }
        self.drop_empty(id);
        self.bridge.active = self.bridge.active.saturating_sub(1);
    }

    /// No new calls from now on.
    pub fn drain(&mut self) {
        self.bridge.draining = true;
    }

    /// Whether new calls are refused for good.
    #[must_use]
    pub const fn is_draining(&self) -> bool {
        self.bridge.draining
    }

    /// No new calls while this is set; calls in progress go on.
    pub fn set_overloaded(&mut self, overloaded: bool) {
        self.bridge.overloaded = overloaded;
    }

    /// Whether new calls are refused because audio is late.
    #[must_use]
    pub const fn is_overloaded(&self) -> bool {
        self.bridge.overloaded
    }

    /// Calls that took a place since the start.
    #[must_use]
    pub const fn taken(&self) -> u64 {
        self.bridge.taken
    }

    /// Calls refused since the start.
    #[must_use]
    pub const fn refused_calls(&self) -> RefusedCalls {
        self.bridge.refused
    }

    fn check(&self, id: &LineId) -> Result<(), RefusalReason> {
        let line = self.lines.get(id);
        let calls = line.map_or(0, |line| line.calls.active);
        let own_limit = line.and_then(Line::call_limit);
        let bridge = &self.bridge;
        if bridge.draining {
            Err(RefusalReason::Draining)
        } else if bridge.overloaded {
            Err(RefusalReason::Overloaded)
        } else if bridge.active >= bridge.limits.calls {
            Err(RefusalReason::BridgeFull)
        } else if own_limit.is_some_and(|most| calls >= most) {
            Err(RefusalReason::LineBusy)
        } else if own_limit.is_none() && self.is_over_share(calls) {
            Err(RefusalReason::LineShare)
        } else {
            Ok(())
        }
    }

    /// A line's first call only needs a free place.
    fn is_over_share(&self, calls: u32) -> bool {
        let free_after = (self.bridge.limits.calls - self.bridge.active).saturating_sub(1);
        self.is_shared() && calls > 0 && calls + 1 > free_after.saturating_mul(CALLS_PER_FREE_PLACE)
    }

    fn count(&mut self, now: Instant, id: &LineId) -> Result<(), RefusalReason> {
        let Some(every) = SECOND.checked_div(self.bridge.limits.calls_per_second) else {
            return Ok(());
        };
        if !self.bridge.pace.has_room(now, every) {
            return Err(RefusalReason::BridgeRate);
        }
        if self.is_shared() {
            let every = every * LINES_AT_FULL_RATE;
            let calls = &mut self.line(id).calls;
            if !calls.pace.has_room(now, every) {
                return Err(RefusalReason::LineRate);
            }
            calls.pace.take(now, every);
        }
        self.bridge.pace.take(now, every);
        Ok(())
    }

    fn is_shared(&self) -> bool {
        self.len() > 1
    }

    /// The engine asks for lines that it knows, so there are not more than configured.
    fn line(&mut self, id: &LineId) -> &mut Line {
        // The key is shared text: cloning it allocates nothing.
        self.lines.entry(id.clone()).or_default()
    }

    fn refuse(&mut self, reason: RefusalReason) -> Refusal {
        let count = self.bridge.refused.count(reason);
        let (status, retry_after) = match reason {
            RefusalReason::Draining => (503, Some(RETRY_DRAINING)),
            RefusalReason::Overloaded => (503, Some(RETRY_OVERLOADED)),
            RefusalReason::BridgeFull => (503, Some(RETRY_BUSY)),
            // One second and two in turn: not all at once again.
            RefusalReason::BridgeRate => (503, Some(SECOND * (1 + u32::from(count % 2 == 0)))),
            RefusalReason::LineBusy | RefusalReason::LineShare | RefusalReason::LineRate => {
                (486, None)
            }
        };
        Refusal {
            status,
            retry_after,
        }
    }
}

impl Line {
    fn call_limit(&self) -> Option<u32> {
        match &self.twilio {
            Some(twilio) => twilio.max_concurrent_calls,
            None => self.held.as_ref()?.ready.line.max_concurrent_calls,
        }
    }
}

/// A token bucket that holds one second's worth, as the time at which it will
/// be full again.
#[derive(Debug, Default)]
struct TokenBucket {
    full_at: Option<Instant>,
}

impl TokenBucket {
    fn has_room(&self, now: Instant, every: Duration) -> bool {
        self.debt(now) + every <= SECOND.max(every)
    }

    fn take(&mut self, now: Instant, every: Duration) {
        self.full_at = Some(now + self.debt(now) + every);
    }

    /// What is missing in the bucket, as time.
    fn debt(&self, now: Instant) -> Duration {
        self.full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now))
    }
}

#[cfg(test)]
#[path = "admission_tests.rs"]
mod tests;
