//! One pattern of `--allow-dial`.

use super::destination::{is_host, is_user};
use crate::core::numbers::{Country, Number, NumberKind};

/// What one pattern permits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pattern {
    /// `own-country`: ordinary and toll-free numbers of the line's country.
    OwnCountry,
    /// `BE`: ordinary and toll-free numbers of that country.
    Country(Country),
    /// `*`: any number, any short number, any name at the line's trunk.
    Any,
    /// `+33*` or `+33612345678`: by E.164, whatever it costs.
    International(Text),
    /// `3639`, `36*` or `reception`: what is no complete number, as it is dialled.
    Plain(Text),
    /// `sip:*@pbx.example.com`.
    Uri {
        /// Before the `@`.
        user: Text,
        /// After it; `None` for any.
        host: Option<String>,
    },
}

/// A text, or what begins with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Text {
    text: String,
    is_prefix: bool,
}

/// Why a pattern cannot be read. Never holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// `none` beside others.
    #[error("has none beside other patterns: none permits nothing and stands alone")]
    NoneAndMore,
    /// A national number.
    #[error("has a number without its country: write +33* for 0*, +33612345678 for 0612345678")]
    National,
    /// Anything else.
    #[error(
        "must be own-country, none, a country (BE), *, a number or its beginning (+33*, +33612345678, 3639), or a SIP URI (sip:*@pbx.example.com)"
    )]
    Unreadable,
}

impl Text {
    /// With `*` at its end: what begins so.
    fn parse(text: &str) -> Self {
        let begin = text.strip_suffix('*');
        Self {
            text: begin.unwrap_or(text).to_owned(),
            is_prefix: begin.is_some(),
        }
    }

    fn matches(&self, text: &str) -> bool {
        if self.is_prefix {
            text.starts_with(&self.text)
        } else {
            text == self.text
        }
    }
}

impl Pattern {
    /// Reads a pattern.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(text: &str) -> Result<Self, PatternError> {
        if text == "*" {
            return Ok(Self::Any);
        }
        if text.eq_ignore_ascii_case("own-country") {
            return Ok(Self::OwnCountry);
        }
        if let Some(country) = Country::parse(text) {
            return Ok(Self::Country(country));
        }
        if let Some(uri) = text.strip_prefix("sip:") {
            return Self::parse_uri(uri);
        }
        let part = Text::parse(text);
        if let Some(digits) = part.text.strip_prefix('+') {
            let is_number = (1..=15).contains(&digits.len())
                && digits.bytes().all(|b| b.is_ascii_digit())
                && !digits.starts_with('0');
            return is_number
                .then_some(Self::International(part))
                .ok_or(PatternError::Unreadable);
        }
        let is_digits = part.text.bytes().all(|b| b.is_ascii_digit());
        if is_digits && part.text.starts_with('0') && (part.is_prefix || part.text.len() > 6) {
            return Err(PatternError::National);
        }
        // `*` within is a key of the phone: *69.
        let is_plain = is_user(&part.text) && !part.text.contains(':');
        is_plain
            .then_some(Self::Plain(part))
            .ok_or(PatternError::Unreadable)
    }

    fn parse_uri(uri: &str) -> Result<Self, PatternError> {
        let (user, host) = match uri {
            "*" => ("*", "*"),
            uri => uri.split_once('@').ok_or(PatternError::Unreadable)?,
        };
        let user = Text::parse(user);
        let is_sound = user.text.is_empty() && user.is_prefix || is_user(&user.text);
        let host = (host != "*").then(|| host.to_ascii_lowercase());
        if !is_sound || host.as_deref().is_some_and(|host| !is_host(host)) {
            return Err(PatternError::Unreadable);
        }
        Ok(Self::Uri { user, host })
    }

    /// Whether it permits this number to a line of this country.
    #[must_use]
    pub fn permits_number(&self, number: &Number, line: Option<Country>) -> bool {
        let is_of = |country: Option<Country>| {
            let is_cheap = matches!(number.kind, NumberKind::Ordinary | NumberKind::TollFree);
            is_cheap && country.is_some() && number.country == country
        };
        match self {
            Self::OwnCountry => is_of(line),
            Self::Country(country) => is_of(Some(*country)),
            Self::Any => true,
            Self::International(text) => text.matches(&number.e164),
            Self::Plain(_) | Self::Uri { .. } => false,
        }
    }

    /// Whether it permits what is no number of any plan.
    #[must_use]
    pub fn permits_text(&self, text: &str) -> bool {
        match self {
            Self::Any => true,
            // A number that its plan does not know yet.
            Self::International(pattern) => {
                let digits = text.strip_prefix('+');
                let is_e164 = |digits: &str| {
                    (7..=15).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit())
                };
                digits.is_some_and(is_e164) && pattern.matches(text)
            }
            Self::Plain(pattern) => pattern.matches(text),
            Self::OwnCountry | Self::Country(_) | Self::Uri { .. } => false,
        }
    }

    /// Whether it is for SIP URIs of one host.
    #[must_use]
    pub const fn names_host(&self) -> bool {
        matches!(self, Self::Uri { host: Some(_), .. })
    }

    /// Whether it permits this SIP URI.
    #[must_use]
    pub fn permits_uri(&self, user: &str, host: &str) -> bool {
        match self {
            Self::Uri {
                user: pattern,
                host: own,
            } => pattern.matches(user) && own.as_deref().is_none_or(|own| own == host),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_read_or_refused() {
        for sound in [
            "*",
            "own-country",
            "Own-Country",
            "BE",
            "fr",
            "+33*",
            "+33612345678",
            "+1*",
            "3639",
            "36*",
            "112",
            "0",
            "010",
            "*69",
            "reception",
            "sip:*",
            "sip:*@pbx.example.com",
            "sip:10*@PBX.example.com",
            "sip:alice@192.0.2.7",
            "sip:*@*",
            "sip:*@[2001:db8::7]",
        ] {
            assert!(Pattern::parse(sound).is_ok(), "{sound}");
        }
        for odd in [
            "",
            "+",
            "+*",
            "+0*",
            "+33 6*",
            "+33612345678901234",
            "+33x*",
            "a b",
            "sip:",
            "sip:alice",
            "sip:@host",
            "sip:a@ho st",
            "sip:a@b@c",
            "sip:a@",
            "a;b",
            "<a>",
        ] {
            let read = Pattern::parse(odd);
            assert_eq!(read, Err(PatternError::Unreadable), "{odd}");
        }
        for national in ["0*", "06*", "0612345678"] {
            let read = Pattern::parse(national);
            assert_eq!(read, Err(PatternError::National), "{national}");
        }
    }
}
