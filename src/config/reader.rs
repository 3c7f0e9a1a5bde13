//! Reads the texts of flags as typed values, and collects every mistake
//! instead of stopping at the first. After a mistake the default stands in,
//! so that what comes later can still be checked.

use std::net::IpAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use super::config_error::{ConfigError, FlagProblem, Warning};
use super::flags::flag;
use super::raw_args::RawArgs;
use super::url::ServiceUrl;
use crate::core::address::HostPort;
use crate::core::private::Secret;
use crate::files;

/// Longest duration of any flag: a week.
const SECONDS_MAX: u64 = 604_800;

pub(super) struct Reader {
    pub(super) given: RawArgs,
    pub(super) mistakes: Vec<ConfigError>,
    pub(super) warnings: Vec<Warning>,
}

impl Reader {
    pub(super) fn new(given: RawArgs) -> Self {
        const SHOWN: &str = "stands on the command line, where every user of this machine can read it: \
             give it by its variable, or in a file that the variable with _FILE behind its name names";
        let warning = |flag: &&'static str| Warning { flag, text: SHOWN };
        Self {
            mistakes: given.mistakes().collect(),
            warnings: given.shown_secrets().iter().map(warning).collect(),
            given,
        }
    }

    pub(super) fn mistake(&mut self, flag: &'static str, problem: FlagProblem) {
        self.mistakes.push(ConfigError::new(flag, problem));
    }

    pub(super) fn warn(&mut self, flag: &'static str, text: &'static str) {
        self.warnings.push(Warning { flag, text });
    }

    /// The text of a flag; an empty one is a mistake and counts as absent.
    pub(super) fn text(&mut self, name: &'static str) -> Option<String> {
        let text = self.given.explicit(name).map(str::to_owned);
        self.not_empty(name, text, String::is_empty)
    }

    pub(super) fn secret(&mut self, name: &'static str) -> Option<Secret> {
        let secret = self.given.take_secret(name);
        self.not_empty(name, secret, |secret| secret.expose().is_empty())
    }

    fn not_empty<T>(
        &mut self,
        name: &'static str,
        value: Option<T>,
        is_empty: impl Fn(&T) -> bool,
    ) -> Option<T> {
        if value.as_ref().is_some_and(is_empty) {
            self.mistake(name, FlagProblem::Empty);
            return None;
        }
        value
    }

    /// Parses a flag that has a default. What does not parse is reported, and
    /// the default taken.
    fn parsed<T>(
        &mut self,
        name: &'static str,
        problem: FlagProblem,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Option<T> {
        if let Some(text) = self.text(name) {
            match parse(&text) {
                Some(value) => return Some(value),
                None => self.mistake(name, problem),
            }
        }
        flag(name).and_then(|flag| flag.default).and_then(parse)
    }

    pub(super) fn whole(&mut self, name: &'static str, min: u64, max: u64) -> Option<u64> {
        self.parsed(name, FlagProblem::Whole(min, max), |text| {
            let number = text.parse().ok()?;
            (min..=max).contains(&number).then_some(number)
        })
    }

    pub(super) fn port(&mut self, name: &'static str) -> Option<u16> {
        let port = self.whole(name, 0, u64::from(u16::MAX))?;
        u16::try_from(port).ok()
    }

    /// Seconds, with decimals where wanted. Below `min_s` only 0 is taken,
    /// and only where `min_s` is 0.
    pub(super) fn seconds(&mut self, name: &'static str, min_s: f64) -> Duration {
        let problem = FlagProblem::Seconds(min_s.to_string(), SECONDS_MAX);
        let parse = |text: &str| {
            let seconds: f64 = text.parse().ok()?;
            (min_s..=SECONDS_MAX as f64)
                .contains(&seconds)
                .then(|| Duration::from_secs_f64(seconds))
        };
        self.parsed(name, problem, parse).unwrap_or_default()
    }

    /// A gain factor; 1 where it cannot be read.
    pub(super) fn gain(&mut self, name: &'static str) -> f32 {
        let parse = |text: &str| {
            let factor: f32 = text.parse().ok()?;
            (0.0..=10.0).contains(&factor).then_some(factor)
        };
        self.parsed(name, FlagProblem::Decimal(0, 10, "1.5"), parse)
            .unwrap_or(1.0)
    }

    /// One of some words, in any case. The first stands in for a mistake.
    pub(super) fn choice<T: Copy>(
        &mut self,
        name: &'static str,
        words: &'static str,
        choices: [T; 2],
    ) -> T {
        let parse = |text: &str| {
            let place = words
                .split(" or ")
                .position(|word| word.eq_ignore_ascii_case(text))?;
            choices.get(place).copied()
        };
        self.parsed(name, FlagProblem::OneOf(words), parse)
            .unwrap_or(choices[0])
    }

    pub(super) fn switch(&mut self, name: &'static str) -> bool {
        let parse = |text: &str| match text.to_ascii_lowercase().as_str() {
            "yes" | "true" | "on" | "1" => Some(true),
            "no" | "false" | "off" | "0" => Some(false),
            _ => None,
        };
        self.parsed(name, FlagProblem::YesNo, parse)
            .unwrap_or(false)
    }

    pub(super) fn host(&mut self, name: &'static str) -> Option<HostPort> {
        let text = self.text(name)?;
        match HostPort::parse(&text) {
            Ok(host) => Some(host),
            Err(error) => {
                self.mistake(name, error.into());
                None
            }
        }
    }

    pub(super) fn address(&mut self, name: &'static str) -> Option<IpAddr> {
        self.parsed(name, FlagProblem::Address, |text| {
            IpAddr::from_str(text).ok()
        })
    }

    pub(super) fn url(
        &mut self,
        name: &'static str,
        schemes: &'static [&'static str],
        example: &'static str,
    ) -> Option<ServiceUrl> {
        let text = self.secret(name)?;
        let url = ServiceUrl::parse(text.expose(), schemes);
        if url.is_none() {
            self.mistake(name, FlagProblem::Url(example));
        }
        url
    }

    /// A file that must be readable now.
    pub(super) fn file(&mut self, name: &'static str) -> Option<PathBuf> {
        let path = PathBuf::from(self.text(name)?);
        match files::open(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.mistake(name, FlagProblem::File(error.kind()));
                None
            }
        }
    }
}
