//! Delays between sending a numbered frame and hearing it.

use std::time::Instant;

/// Median delay in milliseconds among frames numbered `range`, from sent to heard.
pub fn delay_ms(sent: &[Instant], heard: &[(u32, Instant)], range: std::ops::Range<u32>) -> u128 {
    let mut delays: Vec<u128> = heard
        .iter()
        .filter(|(number, _)| range.contains(number))
        .map(|(number, at)| (*at - sent[*number as usize]).as_millis())
        .collect();
    assert!(!delays.is_empty(), "no frame of {range:?} was heard");
    delays.sort_unstable();
    delays[delays.len() / 2]
}
