//! Values that must not leak into logs, errors or debug output: phone
//! numbers, addresses, secrets.

use std::fmt;

use zeroize::Zeroizing;

/// A phone number, SIP address or display name. `Debug` shows at most its
/// last two characters, so that an operator can tell two callers apart.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Private(String);

impl Private {
    /// Wraps a value.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The value itself, for the wire: SIP, jobs, `customParameters`.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Whether there is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Debug for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.chars().count();
        let tail = self.0.chars().skip(count.saturating_sub(2));
        if count < 6 {
            return f.write_str("…");
        }
        write!(f, "…{}", tail.collect::<String>())
    }
}

impl fmt::Display for Private {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// A password or key: wiped when dropped, never shown.
#[derive(Clone, Default)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes ownership of a clear-text secret.
    #[must_use]
    pub fn new(value: String) -> Self {
        Self(Zeroizing::new(value))
    }

    /// The clear text, for the one place that needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debug_shows_neither_numbers_nor_secrets() {
        let shown = format!(
            "{:?} {}",
            Private::new("+33612345678"),
            Private::new("+331")
        );
        assert_eq!(shown, "…78 …");
        assert_eq!(format!("{:?}", Secret::new("hunter2".into())), "***");
    }
}
