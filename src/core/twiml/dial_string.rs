//! Digits to be sent, with pauses between them.

use std::fmt;
use std::time::Duration;

use crate::core::telephone_event::are_digits;

/// Longest text of digits and pauses.
pub const DIAL_STRING_CHARS_MAX: usize = 128;
/// The pause of a `w`; a `W` is two of them.
const PAUSE: Duration = Duration::from_millis(500);

/// Digits to be sent in their order, with pauses between them: `digits` of `<Play>`, `sendDigits` of `<Number>`.
/// `Debug` shows none of them: they may be a PIN.
#[derive(Clone, PartialEq, Eq)]
pub struct DialString(Vec<DialStep>);

/// A part of a [`DialString`].
#[derive(Clone, PartialEq, Eq)]
pub enum DialStep {
    /// Digits in a row: 0-9 * # A-D.
    Digits(String),
    /// Nothing is sent for so long.
    Wait(Duration),
}

impl DialString {
    /// Reads digits, `w` (half a second) and `W` (a second); `None` where something else stands there, or nothing,
    /// or more than [`DIAL_STRING_CHARS_MAX`].
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        if text.is_empty() || text.len() > DIAL_STRING_CHARS_MAX {
            return None;
        }
        let mut steps = Vec::new();
        for c in text.chars() {
            match (c, steps.last_mut()) {
                ('w' | 'W', last) => {
                    let pause = if c == 'w' { PAUSE } else { 2 * PAUSE };
                    match last {
                        Some(DialStep::Wait(before)) => *before += pause,
                        _ => steps.push(DialStep::Wait(pause)),
                    }
                }
                (digit, last) => {
                    let digit = digit.to_ascii_uppercase();
                    if !are_digits(digit.encode_utf8(&mut [0; 4])) {
                        return None;
                    }
                    match last {
                        Some(DialStep::Digits(before)) => before.push(digit),
                        _ => steps.push(DialStep::Digits(digit.into())),
                    }
                }
            }
        }
        Some(Self(steps))
    }

    /// The parts, in their order; at least one.
    #[must_use]
    pub fn steps(&self) -> &[DialStep] {
        &self.0
    }
}

impl fmt::Debug for DialString {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Debug for DialStep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Digits(_) => f.write_str("digits"),
            Self::Wait(pause) => write!(f, "wait {pause:?}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(ms: u64) -> DialStep {
        DialStep::Wait(Duration::from_millis(ms))
    }

    #[test]
    fn digits_and_pauses_are_told_apart() {
        let read = DialString::parse("ww12w#aW").unwrap();
        let digits = |text: &str| DialStep::Digits(text.into());
        assert_eq!(
            read.steps(),
            [
                wait(1_000),
                digits("12"),
                wait(500),
                digits("#A"),
                wait(1_000)
            ]
        );
        assert!(!format!("{read:?}").contains("12"), "{read:?}");
    }

    #[test]
    fn nothing_else_is_taken() {
        for text in ["", "1-2", "1 2", "é", "E", "1\r\n", "p"] {
            assert_eq!(DialString::parse(text), None, "{text}");
        }
        assert!(DialString::parse(&"1".repeat(DIAL_STRING_CHARS_MAX)).is_some());
        assert!(DialString::parse(&"1".repeat(DIAL_STRING_CHARS_MAX + 1)).is_none());
    }
}
