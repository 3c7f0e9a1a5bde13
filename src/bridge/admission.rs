//! Whether one more call may come in. Pure: time is an argument.
//!
//! What concerns one line alone is answered with 486: it is that line which is
//! busy. A 503 with Retry-After would make its trunk keep every line's calls
//! away (RFC 3261, 21.5.4), and one flooded restaurant would close the others.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde::Serialize;

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

/// Most calls, per bridge and per line.
#[derive(Clone, Debug, Default)]
pub struct Limits {
    /// `--max-concurrent-calls`.
    pub calls: u32,
    /// `--max-calls-per-second`; 0 for any number.
    pub calls_per_second: u32,
    /// `maxConcurrentCalls` of the lines that have one.
    pub per_line: HashMap<LineId, u32>,
    /// How many lines there are. One line alone need not share.
    pub lines: usize,
}

/// Why a call is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
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
pub struct Refused {
    /// See [`Reason::Draining`].
    pub draining: u64,
    /// See [`Reason::Overloaded`].
    pub overloaded: u64,
    /// See [`Reason::BridgeFull`].
    pub bridge_full: u64,
    /// See [`Reason::BridgeRate`].
    pub bridge_rate: u64,
    /// See [`Reason::LineBusy`].
    pub line_busy: u64,
    /// See [`Reason::LineShare`].
    pub line_share: u64,
    /// See [`Reason::LineRate`].
    pub line_rate: u64,
}

impl Refused {
    fn count(&mut self, reason: Reason) -> u64 {
        let count = match reason {
            Reason::Draining => &mut self.draining,
            Reason::Overloaded => &mut self.overloaded,
            Reason::BridgeFull => &mut self.bridge_full,
            Reason::BridgeRate => &mut self.bridge_rate,
            Reason::LineBusy => &mut self.line_busy,
            Reason::LineShare => &mut self.line_share,
            Reason::LineRate => &mut self.line_rate,
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

/// Who is inside, and the rules for who comes next.
#[derive(Debug, Default)]
pub struct AdmissionRules {
    /// No new calls for good.
    pub draining: bool,
    /// No new calls for now.
    pub overloaded: bool,
    limits: Limits,
    active: u32,
    taken: u64,
    refused: Refused,
    /// Of every line that was called.
    lines: HashMap<LineId, Line>,
    pace: TokenBucket,
}

#[derive(Debug, Default)]
struct Line {
    calls: u32,
    pace: TokenBucket,
    /// Its line is gone; it goes with its last call.
    gone: bool,
}

impl AdmissionRules {
    /// A gate with nobody inside.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            ..Self::default()
        }
    }

    /// Judges one INVITE, and counts it among the calls of this second when it
    /// may pass.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn admit(&mut self, now: Instant, line: &LineId) -> Result<(), Refusal> {
        let decision = self.check(line).and_then(|()| self.count(now, line));
        decision.map_err(|reason| self.refuse(reason))
    }

    /// Takes a place. The rate was [`AdmissionRules::admit`]'s business.
    ///
    /// # Errors
    /// The refusal to send.
    pub fn enter(&mut self, line: &LineId) -> Result<(), Refusal> {
        self.check(line).map_err(|reason| self.refuse(reason))?;
        self.line(line).calls += 1;
        self.active += 1;
        self.taken += 1;
        Ok(())
    }

    /// Gives a place back.
    pub fn leave(&mut self, id: &LineId) {
        if let Some(line) = self.lines.get_mut(id) {
            line.calls = line.calls.saturating_sub(1);
            if line.gone && line.calls == 0 {
                self.lines.remove(id);
            }
        }
        self.active = self.active.saturating_sub(1);
    }

    /// Sets a line's own limit, or none, for the calls to come.
    pub fn set_limit(&mut self, id: &LineId, most: Option<u32>) {
        match most {
            Some(most) => self.limits.per_line.insert(id.clone(), most),
            None => self.limits.per_line.remove(id),
        };
        if let Some(line) = self.lines.get_mut(id) {
            line.gone = false;
        }
    }

    /// Forgets a line; its calls keep their places.
    pub fn forget(&mut self, id: &LineId) {
        self.limits.per_line.remove(id);
        if let Some(line) = self.lines.get_mut(id) {
            line.gone = true;
            if line.calls == 0 {
                self.lines.remove(id);
            }
        }
    }

    /// Sets how many lines there are.
    pub fn set_lines(&mut self, lines: usize) {
        self.limits.lines = lines;
    }

    /// Calls that took a place since the start.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Calls refused since the start.
    #[must_use]
    pub fn refused(&self) -> Refused {
        self.refused
    }

    fn check(&self, id: &LineId) -> Result<(), Reason> {
        let calls = self.lines.get(id).map_or(0, |line| line.calls);
        let own_limit = self.limits.per_line.get(id);
        if self.draining {
            Err(Reason::Draining)
        } else if self.overloaded {
            Err(Reason::Overloaded)
        } else if self.active >= self.limits.calls {
            Err(Reason::BridgeFull)
        } else if own_limit.is_some_and(|most| calls >= *most) {
            Err(Reason::LineBusy)
        } else if own_limit.is_none() && self.is_over_share(calls) {
            Err(Reason::LineShare)
        } else {
            Ok(())
        }
    }

    /// A line's first call only needs a free place.
    fn is_over_share(&self, calls: u32) -> bool {
        let free_after = (self.limits.calls - self.active).saturating_sub(1);
        self.is_shared() && calls > 0 && calls + 1 > free_after.saturating_mul(CALLS_PER_FREE_PLACE)
    }

    fn count(&mut self, now: Instant, id: &LineId) -> Result<(), Reason> {
        let Some(every) = SECOND.checked_div(self.limits.calls_per_second) else {
            return Ok(());
        };
        if !self.pace.has_room(now, every) {
            return Err(Reason::BridgeRate);
        }
        if self.is_shared() {
            let every = every * LINES_AT_FULL_RATE;
            let line = self.line(id);
            if !line.pace.has_room(now, every) {
                return Err(Reason::LineRate);
            }
            line.pace.take(now, every);
        }
        self.pace.take(now, every);
        Ok(())
    }

    fn is_shared(&self) -> bool {
        self.limits.lines > 1
    }

    /// Lines are known to the engine, so there are not more than configured.
    fn line(&mut self, id: &LineId) -> &mut Line {
        // The key is shared text: cloning it allocates nothing.
        self.lines.entry(id.clone()).or_default()
    }

    fn refuse(&mut self, reason: Reason) -> Refusal {
        let count = self.refused.count(reason);
        let (status, retry_after) = match reason {
            Reason::Draining => (503, Some(RETRY_DRAINING)),
            Reason::Overloaded => (503, Some(RETRY_OVERLOADED)),
            Reason::BridgeFull => (503, Some(RETRY_BUSY)),
            // One second and two in turn: not all at once again.
            Reason::BridgeRate => (503, Some(SECOND * (1 + u32::from(count % 2 == 0)))),
            Reason::LineBusy | Reason::LineShare | Reason::LineRate => (486, None),
        };
        Refusal {
            status,
            retry_after,
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn line(number: usize) -> LineId {
        LineId::new(format!("line-{number}"))
    }

    fn gate(calls: u32, lines: usize) -> AdmissionRules {
        AdmissionRules::new(Limits {
            calls,
            lines,
            ..Limits::default()
        })
    }

    /// As many calls as the line gets.
    fn flood(gate: &mut AdmissionRules, id: &LineId) -> u32 {
        std::iter::from_fn(|| gate.enter(id).ok())
            .count()
            .try_into()
            .unwrap()
    }

    /// How many of `count` INVITEs at once pass.
    fn burst(gate: &mut AdmissionRules, now: Instant, id: &LineId, count: u32) -> u32 {
        (0..count)
            .map(|_| u32::from(gate.admit(now, id).is_ok()))
            .sum()
    }

    #[test]
    fn one_flooding_line_gets_two_thirds_and_two_get_40_percent_each() {
        let mut one = gate(900, 10);
        assert_eq!(flood(&mut one, &line(0)), 600);
        assert_eq!(one.enter(&line(0)).unwrap_err().status, 486);
        assert_eq!(one.refused().line_share, 2);

        let mut two = gate(1_000, 10);
        let mut got = [0; 2];
        for turn in 0..2_000 {
            got[turn % 2] += u32::from(two.enter(&line(turn % 2)).is_ok());
        }
        assert_eq!(got, [400, 400]);
    }

    #[test]
    fn a_line_alone_may_fill_the_bridge_and_so_may_one_with_a_limit_of_its_own() {
        assert_eq!(flood(&mut gate(30, 1), &line(0)), 30);
        let mut limited = gate(30, 2);
        limited.limits.per_line.insert(line(0), 25);
        assert_eq!(flood(&mut limited, &line(0)), 25);
        assert_eq!(limited.refused().line_busy, 1);
        assert_eq!(flood(&mut gate(1, 2), &line(0)), 1, "a bridge of one place");
    }

    #[test]
    fn limits_change_and_lines_go_while_calls_are_inside() {
        let mut gate = gate(30, 2);
        gate.set_limit(&line(0), Some(2));
        assert_eq!(flood(&mut gate, &line(0)), 2);
        gate.set_limit(&line(0), Some(3));
        assert_eq!(flood(&mut gate, &line(0)), 1);
        gate.forget(&line(0));
        assert_eq!((gate.active, gate.lines.len()), (3, 1));
        (0..3).for_each(|_| gate.leave(&line(0)));
        assert_eq!((gate.active, gate.lines.len()), (0, 0));
        assert!(gate.limits.per_line.is_empty());
        // A line that comes back before its calls are over stays.
        gate.enter(&line(1)).expect("a place");
        gate.forget(&line(1));
        gate.set_limit(&line(1), None);
        gate.leave(&line(1));
        assert_eq!(gate.lines.len(), 1);
        gate.set_lines(1);
        assert_eq!(flood(&mut gate, &line(1)), 30, "alone it need not share");
    }

    #[test]
    fn a_burst_of_one_second_passes_and_then_so_many_a_second() {
        let start = Instant::now();
        for rate in [1, 3, 7, 100, 1_000] {
            let mut gate = gate(10_000, 1);
            gate.limits.calls_per_second = rate;
            assert_eq!(
                burst(&mut gate, start, &line(0), 2 * rate),
                rate,
                "rate {rate}"
            );
            let refusal = gate.admit(start, &line(0)).unwrap_err();
            assert_eq!(refusal.status, 503);
            assert!((1..=2).contains(&refusal.retry_after.unwrap().as_secs()));
            // Two hundred tries in each of ten seconds.
            let later = (1..=2_000).filter(|step| {
                let now = start + Duration::from_millis(5) * *step;
                gate.admit(now, &line(0)).is_ok()
            });
            let passed = u32::try_from(later.count()).unwrap();
            assert!(
                passed.abs_diff((10 * rate).min(2_000)) <= 1,
                "{passed} at {rate}"
            );
        }
    }

    #[test]
    fn one_line_uses_half_of_the_rate_and_leaves_the_rest_to_others() {
        let now = Instant::now();
        let mut gate = gate(10_000, 5);
        gate.limits.calls_per_second = 100;
        assert_eq!(burst(&mut gate, now, &line(0), 500), 50);
        assert_eq!(gate.admit(now, &line(0)).unwrap_err().status, 486);
        assert_eq!(burst(&mut gate, now, &line(1), 20), 20);
        assert_eq!(gate.refused().line_rate, 451);
        // The slowest of rates still lets a line have its first call.
        gate.limits.calls_per_second = 1;
        assert_eq!(burst(&mut gate, now + 9 * SECOND, &line(2), 3), 1);
    }

    #[test]
    fn an_overloaded_bridge_takes_nothing_until_it_is_told_otherwise() {
        let mut gate = gate(10, 1);
        gate.overloaded = true;
        let refusal = gate.enter(&line(0)).unwrap_err();
        assert_eq!(
            (refusal.status, refusal.retry_after),
            (503, Some(RETRY_OVERLOADED))
        );
        gate.overloaded = false;
        assert!(gate.enter(&line(0)).is_ok());
        assert_eq!((gate.taken(), gate.refused().sum()), (1, 1));
    }

    proptest! {
        /// Whatever came and went before: while lines flood, a quiet line's
        /// first call finds a place, and what a line may not have is there.
        #[test]
        fn no_flood_takes_the_last_place(
            calls in 3_u32..200,
            steps in proptest::collection::vec((0_usize..3, any::<bool>()), 0..600),
        ) {
            let mut gate = gate(calls, 8);
            let mut held = [0_u32; 3];
            for (who, comes) in steps {
                if !comes && held[who] > 0 {
                    gate.leave(&line(who));
                    held[who] -= 1;
                } else if gate.enter(&line(who)).is_ok() {
                    held[who] += 1;
                    let free = calls - held.iter().sum::<u32>();
                    prop_assert!(held[who] == 1 || held[who] <= 2 * free);
                }
            }
            // As long as one line alone floods, the last place is never its own.
            for (who, held) in held.into_iter().enumerate().skip(1) {
                (0..held).for_each(|_| gate.leave(&line(who)));
            }
            flood(&mut gate, &line(0));
            prop_assert!(gate.enter(&line(7)).is_ok());
            prop_assert_eq!(gate.active, gate.lines.values().map(|line| line.calls).sum::<u32>());
        }

        /// Any number of flooding lines in turn leave a place for one more, as
        /// long as there are three places for each of them and one.
        #[test]
        fn floods_in_turn_leave_room(floods in 1_usize..20, spare in 0_u32..50) {
            let calls = 3 * u32::try_from(floods).unwrap() + 1 + spare;
            let mut gate = gate(calls, 40);
            let mut refused = 0;
            while refused < floods {
                refused = (0..floods).filter(|who| gate.enter(&line(*who)).is_err()).count();
            }
            prop_assert!(gate.enter(&line(39)).is_ok());
        }

        /// A bucket never gives more than its rate and one burst.
        #[test]
        fn never_more_than_the_rate(
            rate in 1_u32..200,
            gaps_us in proptest::collection::vec(0_u64..60_000, 1..800),
        ) {
            let start = Instant::now();
            let (mut now, mut passed) = (start, 0_u32);
            let mut gate = gate(10_000, 1);
            gate.limits.calls_per_second = rate;
            for gap_us in gaps_us {
                now += Duration::from_micros(gap_us);
                passed += u32::from(gate.admit(now, &line(0)).is_ok());
            }
            let most = f64::from(rate) * (1.0 + (now - start).as_secs_f64());
            prop_assert!(f64::from(passed) <= most + 1e-3, "{} of {}", passed, most);
        }
    }
}
