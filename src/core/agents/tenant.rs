//! Whose agent it is.

use std::fmt;

/// Longest id of a tenant.
pub const TENANT_MAX_CHARS: usize = 128;

/// The id of a tenant: the `restaurantId` of its lines, letter by letter.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(Box<str>);

impl TenantId {
    /// Any text of 1 to 128 characters without control characters: what
    /// restaurants are called is for another program to say.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let fits = !text.trim().is_empty()
            && text.chars().count() <= TENANT_MAX_CHARS
            && !text.contains(char::is_control);
        fits.then(|| Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for TenantId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_any_short_text() {
        for good in ["7", "r-42", "Chez Léon", &"x".repeat(TENANT_MAX_CHARS)] {
            assert_eq!(TenantId::parse(good).expect(good).as_str(), good);
        }
        for bad in ["", " ", "a\nb", "a\0", &"x".repeat(TENANT_MAX_CHARS + 1)] {
            assert_eq!(TenantId::parse(bad), None, "{bad:?}");
        }
    }
}
