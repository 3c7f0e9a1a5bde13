//! Digits of the caller, by RFC 4733 and by SIP INFO: one report per key press,
//! also from phones that send both.
//!
//! Each report of one way is paired with at most one of the other way. So two
//! presses of the same key stay two, and one press sent both ways stays one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Reports of one press by both ways come within this time: INFO is sent when
/// the key is released, and may be retransmitted once.
pub const PAIRING_WINDOW: Duration = Duration::from_millis(1_000);
/// Most reports that wait for their twin.
const MAX_UNPAIRED: usize = 16;

/// How a digit came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DigitWay {
    /// An RTP event.
    Event,
    /// A SIP INFO request.
    Info,
}

/// Pairs reports of the same key press.
#[derive(Debug, Default)]
pub struct DigitMerge {
    unpaired: VecDeque<(Instant, DigitWay, char)>,
}

impl DigitMerge {
    /// A digit came; whether it is a new key press.
    pub fn handle(&mut self, now: Instant, way: DigitWay, digit: char) -> bool {
        self.unpaired
            .retain(|(at, ..)| now.saturating_duration_since(*at) <= PAIRING_WINDOW);
        let twin = self
            .unpaired
            .iter()
            .position(|(_, other, same)| *other != way && *same == digit);
        if let Some(index) = twin {
            self.unpaired.remove(index);
            return false;
        }
        if self.unpaired.len() == MAX_UNPAIRED {
            self.unpaired.pop_front();
        }
        self.unpaired.push_back((now, way, digit));
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Feeds (ms, way, digit); gives what is reported.
    fn reported(presses: &[(u64, DigitWay, char)]) -> String {
        let (mut merge, start) = (DigitMerge::default(), Instant::now());
        let new = presses.iter().filter(|(ms, way, digit)| {
            merge.handle(start + Duration::from_millis(*ms), *way, *digit)
        });
        new.map(|(.., digit)| *digit).collect()
    }

    #[test]
    fn both_ways_are_one_press_whichever_comes_first() {
        use DigitWay::{Event, Info};
        assert_eq!(reported(&[(0, Event, '5'), (200, Info, '5')]), "5");
        assert_eq!(reported(&[(0, Info, '5'), (90, Event, '5')]), "5");
        let twice = [
            (0, Event, '5'),
            (50, Info, '5'),
            (200, Event, '5'),
            (250, Info, '5'),
        ];
        assert_eq!(reported(&twice), "55");
        let overlapping = [
            (0, Event, '5'),
            (200, Event, '5'),
            (250, Info, '5'),
            (450, Info, '5'),
        ];
        assert_eq!(reported(&overlapping), "55");
    }

    #[test]
    fn one_way_reports_every_press() {
        use DigitWay::{Event, Info};
        assert_eq!(reported(&[(0, Info, '1'), (100, Info, '1')]), "11");
        assert_eq!(reported(&[(0, Event, '1'), (100, Info, '2')]), "12");
        assert_eq!(reported(&[(0, Event, '1'), (1_100, Info, '1')]), "11");
    }
}
