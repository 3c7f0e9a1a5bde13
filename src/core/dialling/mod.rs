//! Who may be called: what `--allow-dial` permits, judged by a number's E.164
//! form in the line's country, and how often a line may dial.
//!
//! | file | what it holds |
//! |---|---|
//! | [`pattern`] | one pattern of `--allow-dial` |
//! | [`destination`] | what a client asks to call, taken apart |
//! | [`cap`] | dials of a line in an hour |
//!
//! Toll fraud is the classic attack on whoever can place calls, so everything
//! is refused that no pattern permits, and what is dialled is what was judged.

pub mod cap;
pub mod destination;
pub mod pattern;

use std::time::Duration;

use self::destination::{Destination, Malformed};
use self::pattern::{Pattern, PatternError};
use super::numbers::{Country, Number, NumberKind, Written};

/// What the policy must know of the line that dials.
#[derive(Clone, Debug, Default)]
pub struct DialLine {
    /// Its country, where known.
    pub country: Option<Country>,
    /// Its domain and its server: a SIP URI there is a number of its trunk.
    pub hosts: Vec<String>,
}

/// What may be dialled: `--allow-dial`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DialPolicy {
    patterns: Vec<Pattern>,
}

impl Default for DialPolicy {
    fn default() -> Self {
        Self {
            patterns: vec![Pattern::OwnCountry],
        }
    }
}

/// Why a destination may not be dialled. Never holds the number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAllowed {
    /// Not a number and not a SIP URI.
    #[error("the destination {0}")]
    Malformed(#[from] Malformed),
    /// `--allow-dial none`.
    #[error("this bridge dials nobody: --allow-dial is none")]
    Nothing,
    /// The default needs a country.
    #[error(
        "the country of the line is not known: write its phoneNumber in E.164 (+33…), set --country, or permit the destination with --allow-dial"
    )]
    NoCountry,
    /// No number of any numbering plan, emergency and short numbers among them.
    #[error(
        "the destination is no complete phone number (short and emergency numbers are none), and no pattern of --allow-dial names it"
    )]
    NoNumber,
    /// A number of another country than the line's.
    #[error("the destination is a number in {to}, and no pattern of --allow-dial permits it")]
    Abroad {
        /// Its country, or what it belongs to.
        to: String,
    },
    /// Premium rate and the like, which no country as a whole permits.
    #[error(
        "the destination is a {0} number: --allow-dial must name it, or a prefix of it, with its digits"
    )]
    Dear(&'static str),
    /// A SIP URI that no pattern permits.
    #[error(
        "the destination is a SIP URI at another host than the line's, and no pattern of --allow-dial permits it"
    )]
    Uri,
    /// Some other number.
    #[error("no pattern of --allow-dial permits the destination")]
    NotPermitted,
    /// The line has dialled too often.
    #[error(
        "the line has placed its {most} calls of this hour (--max-dials-per-hour); the next is possible in {} s",
        again_in.as_secs() + 1
    )]
    Cap {
        /// `--max-dials-per-hour`.
        most: u32,
        /// When the next is possible.
        again_in: Duration,
    },
}

impl NotAllowed {
    /// A word for counters.
    #[must_use]
    pub const fn as_str(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::Nothing | Self::NotPermitted => "not_permitted",
            Self::NoCountry => "no_country",
            Self::NoNumber => "no_number",
            Self::Abroad { .. } => "abroad",
            Self::Dear(_) => "premium_rate",
            Self::Uri => "uri",
            Self::Cap { .. } => "cap",
        }
    }
}

/// All words of [`NotAllowed::as_str`].
pub const REFUSALS: [&str; 8] = [
    "malformed",
    "not_permitted",
    "no_country",
    "no_number",
    "abroad",
    "premium_rate",
    "uri",
    "cap",
];

impl DialPolicy {
    /// Reads the values of `--allow-dial`; `none` stands alone.
    ///
    /// # Errors
    /// The first pattern that cannot be read.
    pub fn parse<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Self, PatternError> {
        let texts: Vec<&str> = texts.into_iter().map(str::trim).collect();
        let is_none = |text: &&str| text.eq_ignore_ascii_case("none");
        if texts.iter().any(is_none) {
            let patterns = Vec::new();
            let is_alone = texts.len() == 1;
            return is_alone
                .then_some(Self { patterns })
                .ok_or(PatternError::NoneAndMore);
        }
        let patterns: Result<_, _> = texts.into_iter().map(Pattern::parse).collect();
        patterns.map(|patterns| Self { patterns })
    }

    /// What to dial for this destination: a number or a name at the line's own
    /// trunk, or a SIP URI elsewhere.
    ///
    /// # Errors
    /// Why it may not be dialled.
    pub fn judge(&self, destination: &str, line: &DialLine) -> Result<String, NotAllowed> {
        let destination = Destination::parse(destination, &line.hosts)?;
        match &destination {
            Destination::Elsewhere { .. } => self.judge_uri(&destination),
            Destination::OwnTrunk { text, is_uri } => self.judge_own(text, *is_uri, line),
        }
    }

    /// Whether it permits nothing at all to a line whose country is not known,
    /// and something to one whose country is.
    #[must_use]
    pub fn needs_country(&self) -> bool {
        let mut patterns = self.patterns.iter();
        !self.patterns.is_empty() && patterns.all(|pattern| *pattern == Pattern::OwnCountry)
    }

    fn judge_uri(&self, destination: &Destination) -> Result<String, NotAllowed> {
        let Destination::Elsewhere { user, host, .. } = destination else {
            return Err(NotAllowed::NotPermitted);
        };
        let is_permitted = self
            .patterns
            .iter()
            .any(|pattern| pattern.permits_uri(user, host));
        match is_permitted {
            true => Ok(destination.to_string()),
            false if self.patterns.is_empty() => Err(NotAllowed::Nothing),
            false => Err(NotAllowed::Uri),
        }
    }

    fn judge_own(&self, text: &str, is_uri: bool, line: &DialLine) -> Result<String, NotAllowed> {
        let number = Number::read(text, line.country);
        let as_uri = |pattern: &Pattern| {
            let mut hosts = line.hosts.iter();
            // `sip:*` means other people's hosts, not premium-rate numbers of
            // the own trunk.
            let is_meant = number.is_none() || pattern.names_host();
            is_uri && is_meant && hosts.any(|host| pattern.permits_uri(text, host))
        };
        let is_permitted = self.patterns.iter().any(|pattern| {
            let as_number = match &number {
                Some(number) => pattern.permits_number(number, line.country),
                None => pattern.permits_text(text),
            };
            as_number || as_uri(pattern)
        });
        match (is_permitted, number) {
            (true, Some(number)) => Ok(dialled(text, &number)),
            (true, None) => Ok(text.to_owned()),
            (false, number) => Err(self.why_not(number.as_ref(), line)),
        }
    }

    fn why_not(&self, number: Option<&Number>, line: &DialLine) -> NotAllowed {
        let by_own_country = self.patterns.contains(&Pattern::OwnCountry);
        match number {
            _ if self.patterns.is_empty() => NotAllowed::Nothing,
            _ if by_own_country && line.country.is_none() => NotAllowed::NoCountry,
            None => NotAllowed::NoNumber,
            Some(number) => match number.kind {
                NumberKind::PremiumRate => NotAllowed::Dear("premium-rate"),
                NumberKind::SharedCost => NotAllowed::Dear("shared-cost"),
                NumberKind::Special => NotAllowed::Dear("personal, pager or voicemail"),
                _ if by_own_country => NotAllowed::Abroad {
                    to: country_of(number),
                },
                _ => NotAllowed::NotPermitted,
            },
        }
    }
}

fn country_of(number: &Number) -> String {
    let country = number.country.map(|country| country.code().to_owned());
    country.unwrap_or_else(|| "no country".to_owned())
}

/// As it was written, where a trunk in the line's country can only read it as
/// we did; else in E.164.
fn dialled(text: &str, number: &Number) -> String {
    let digits = super::numbers::without_separators(text).unwrap_or_default();
    let is_certain = match number.written {
        // Not with a carrier's code in its midst, which some countries have.
        Written::National => digits == number.national,
        Written::International => {
            let prefix = digits.strip_suffix(number.e164.trim_start_matches('+'));
            matches!(prefix, Some("+" | "00" | "011"))
        }
        Written::Bare => false,
    };
    if is_certain {
        digits
    } else {
        number.e164.clone()
    }
}

#[cfg(test)]
#[path = "policy_tests.rs"]
mod policy_tests;
