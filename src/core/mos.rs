//! How a call sounded: an estimate of the mean opinion score from lost
//! packets and jitter, by the E-model of ITU-T G.107 in its short form.
//!
//! R = 93.2 - Id - Ie-eff (G.107 with its defaults but for delay and loss).
//! Id = 0.024 d + 0.11 (d - 177.3) where d > 177.3 ms (Cole and Rosenbluth,
//! "Voice over IP performance monitoring", 2001). Ie-eff = (95 - Ie) Ppl /
//! (Ppl + Bpl) + Ie with random loss (G.107, 7-29); for G.711 whose lost
//! packets are filled with silence Ie = 0 and Bpl = 4.3 (G.113, appendix I).
//! MOS from R as G.107, annex B.
//!
//! Leaves out the network's own delay, which one side cannot see: packets and
//! a buffer of twice the jitter are what is counted. Other codecs are judged
//! as if they were G.711.

use std::time::Duration;

/// R of a call without delay or loss.
const R_BEST: f64 = 93.2;
/// How well G.711 without concealment bears loss.
const BPL: f64 = 4.3;
/// Audio of one packet.
const FRAME_MS: f64 = 20.0;
/// From here on, people notice the delay.
const DELAY_NOTICED_MS: f64 = 177.3;

/// Estimates the MOS, from 1 to 4.41. `None` when no packet ever came.
#[must_use]
pub fn estimate(packets: u64, lost: u64, jitter: Duration) -> Option<f64> {
    if packets == 0 {
        return None;
    }
    let expected = packets.saturating_add(lost) as f64;
    let loss_percent = 100.0 * lost as f64 / expected;
    let delay = FRAME_MS + 2.0 * jitter.as_secs_f64() * 1_000.0;
    let late = (delay - DELAY_NOTICED_MS).max(0.0);
    let delay_impairment = 0.024 * delay + 0.11 * late;
    let loss_impairment = 95.0 * loss_percent / (loss_percent + BPL);
    Some(mos(R_BEST - delay_impairment - loss_impairment))
}

/// G.107, annex B.
fn mos(r: f64) -> f64 {
    if r <= 0.0 {
        return 1.0;
    }
    let r = r.min(100.0);
    // Just above 0 the polynomial dips below 1.
    (1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(packets: u64, lost: u64, jitter_ms: u64) -> f64 {
        estimate(packets, lost, Duration::from_millis(jitter_ms)).expect("packets came")
    }

    #[test]
    fn known_values() {
        // R = 92.72, and R = 92.72 - 95/5.3 = 74.8, put into annex B by hand.
        assert!(
            (of(1_000, 0, 0) - 4.40).abs() < 0.005,
            "{}",
            of(1_000, 0, 0)
        );
        assert!((of(990, 10, 0) - 3.81).abs() < 0.01, "{}", of(990, 10, 0));
        assert!((of(500, 500, 0) - 1.0).abs() < 0.05, "{}", of(500, 500, 0));
        assert_eq!(estimate(0, 0, Duration::ZERO), None);
    }

    #[test]
    fn annex_b_at_its_marks() {
        for (r, expected) in [
            (90.0, 4.34),
            (80.0, 4.03),
            (70.0, 3.60),
            (60.0, 3.10),
            (50.0, 2.58),
        ] {
            assert!((mos(r) - expected).abs() < 0.01, "R {r}: {}", mos(r));
        }
        assert_eq!((mos(-5.0), mos(1.0)), (1.0, 1.0));
    }

    proptest! {
        #[test]
        fn more_loss_or_jitter_never_sounds_better(packets in 1..100_000_u64, lost in 0..100_000_u64, jitter in 0..5_000_u64) {
            let here = of(packets, lost, jitter);
            prop_assert!((1.0..=4.5).contains(&here));
            prop_assert!(of(packets, lost + 1, jitter) <= here);
            prop_assert!(of(packets, lost, jitter + 1) <= here);
        }
    }
}
