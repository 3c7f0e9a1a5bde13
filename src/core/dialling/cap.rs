//! How often a line may dial within an hour.
//!
//! Counts per line and minute: at most 61 of them for a line, whatever the
//! limit, and none for lines that have been quiet for an hour. A dial counts
//! until the end of the sixtieth minute after its own, so no hour, wherever it
//! begins, has more than the limit.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use crate::core::ids::LineId;

const MINUTE_S: u64 = 60;
/// Minutes for which a dial counts, its own included.
const COUNTED_MINUTES: u64 = 61;

/// Dials of every line.
#[derive(Debug)]
pub struct DialCap {
    most: Option<u32>,
    began: Instant,
    swept: u64,
    lines: HashMap<LineId, VecDeque<Minute>>,
}

#[derive(Clone, Copy, Debug)]
struct Minute {
    /// Minutes since `began`.
    number: u64,
    dials: u32,
}

impl DialCap {
    /// So many dials an hour; `None` for any number.
    #[must_use]
    pub fn new(most: Option<u32>, now: Instant) -> Self {
        Self {
            most,
            began: now,
            swept: 0,
            lines: HashMap::new(),
        }
    }

    /// The limit.
    #[must_use]
    pub const fn most(&self) -> Option<u32> {
        self.most
    }

    /// Counts one dial of a line.
    ///
    /// # Errors
    /// Where the line has had its dials: after how long one more is possible.
    pub fn take(&mut self, line: &LineId, now: Instant) -> Result<(), Duration> {
        let Some(most) = self.most else { return Ok(()) };
        let elapsed = now.saturating_duration_since(self.began);
        let number = elapsed.as_secs() / MINUTE_S;
        self.sweep(number);
        let minutes = self.lines.entry(line.clone()).or_default();
        forget(minutes, number);
        let dials: u32 = minutes.iter().map(|minute| minute.dials).sum();
        if dials >= most {
            let oldest = minutes.front().map_or(number, |minute| minute.number);
            let again = Duration::from_secs((oldest + COUNTED_MINUTES) * MINUTE_S);
            return Err(again.saturating_sub(elapsed));
        }
        match minutes.back_mut().filter(|minute| minute.number == number) {
            Some(minute) => minute.dials += 1,
            None => minutes.push_back(Minute { number, dials: 1 }),
        }
        Ok(())
    }

    /// The line's last dial did not take place.
    pub fn give_back(&mut self, line: &LineId) {
        let last = self.lines.get_mut(line).and_then(VecDeque::back_mut);
        if let Some(minute) = last {
            minute.dials = minute.dials.saturating_sub(1);
        }
    }

    /// Once a minute, lines that have been quiet are forgotten.
    fn sweep(&mut self, number: u64) {
        if number == self.swept {
            return;
        }
        self.swept = number;
        self.lines.retain(|_, minutes| {
            forget(minutes, number);
            !minutes.is_empty()
        });
    }
}

fn forget(minutes: &mut VecDeque<Minute>, now: u64) {
    let is_over = |minute: &Minute| minute.number + COUNTED_MINUTES <= now;
    while minutes.front().is_some_and(is_over) {
        minutes.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_next_dial_is_possible_when_it_says() {
        let start = Instant::now();
        let mut cap = DialCap::new(Some(2), start);
        let (a, b) = (LineId::new("a"), LineId::new("b"));
        let at = |s: u64| start + Duration::from_secs(s);
        assert_eq!(cap.take(&a, at(30)), Ok(()));
        assert_eq!(cap.take(&a, at(90)), Ok(()));
        assert_eq!(cap.take(&b, at(90)), Ok(()), "lines do not share");
        let again = cap.take(&a, at(100)).expect_err("both are used");
        assert_eq!(again, Duration::from_secs(61 * 60 - 100));
        assert!(cap.take(&a, at(61 * 60 - 1)).is_err());
        assert_eq!(cap.take(&a, at(61 * 60)), Ok(()));
        assert!(cap.take(&a, at(61 * 60)).is_err());
        cap.give_back(&a);
        assert_eq!(cap.take(&a, at(61 * 60)), Ok(()));
        assert_eq!(DialCap::new(None, start).take(&a, start), Ok(()));
    }

    #[test]
    fn quiet_lines_take_no_memory() {
        let start = Instant::now();
        let mut cap = DialCap::new(Some(5), start);
        for n in 0..1_000 {
            let line = LineId::new(n.to_string());
            assert_eq!(cap.take(&line, start), Ok(()));
        }
        let later = start + Duration::from_secs(62 * 60);
        assert_eq!(cap.take(&LineId::new("z"), later), Ok(()));
        assert_eq!(cap.lines.len(), 1);
    }

    proptest! {
        #[test]
        fn no_hour_has_more_than_the_limit(
            most in 1_u32..8,
            steps in prop::collection::vec(0_u64..1_500, 1..150),
        ) {
            let start = Instant::now();
            let mut cap = DialCap::new(Some(most), start);
            let line = LineId::new("7");
            let mut at = Duration::ZERO;
            let mut taken: Vec<Duration> = Vec::new();
            for step in steps {
                at += Duration::from_secs(step);
                let hour = Duration::from_secs(3_600);
                let recent = taken.iter().filter(|dial| at - **dial < hour).count();
                match cap.take(&line, start + at) {
                    Ok(()) => {
                        prop_assert!(recent < most as usize);
                        taken.push(at);
                    }
                    Err(again) => {
                        // Never held up by more than the minute it counts in.
                        let counted = Duration::from_secs(61 * 60);
                        let held = taken.iter().filter(|dial| at - **dial < counted).count();
                        prop_assert!(held >= most as usize);
                        prop_assert!(again > Duration::ZERO && again <= counted);
                        at += again;
                        prop_assert_eq!(cap.take(&line, start + at), Ok(()));
                        taken.push(at);
                    }
                }
                prop_assert!(cap.lines[&line].len() <= 61);
            }
        }
    }
}
