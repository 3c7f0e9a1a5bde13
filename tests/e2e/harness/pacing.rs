//! Delays between sending a numbered frame and hearing it.

use std::ops::Range;
use std::time::Instant;

/// Median delay in milliseconds among frames numbered `range`, from sent to heard.
pub fn delay_ms(sent: &[Instant], heard: &[(u32, Instant)], range: Range<u32>) -> u128 {
    let delays = delays_ms(sent, heard, range);
    delays[delays.len() / 2]
}

/// All delays in milliseconds among frames numbered `range`, lowest first.
pub fn delays_ms(sent: &[Instant], heard: &[(u32, Instant)], range: Range<u32>) -> Vec<u128> {
    let mut delays: Vec<u128> = heard
        .iter()
        .filter(|(number, _)| range.contains(number))
        .map(|(number, at)| (*at - sent[*number as usize]).as_millis())
        .collect();
    assert!(!delays.is_empty(), "no frame of {range:?} was heard");
    delays.sort_unstable();
    delays
}
