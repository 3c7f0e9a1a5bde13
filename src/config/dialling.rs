//! `--country`, `--allow-dial`, `--max-dials-per-hour`, `--trust-worker-transfers`: whom the
//! lines may call.

use super::config_error::FlagProblem;
use super::reader::Reader;
use crate::core::dialling::DialPolicy;
use crate::core::numbers::Country;

/// Nobody means more than this.
const DIALS_PER_HOUR_MAX: u64 = 100_000;

/// Whom the lines may call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiallingConfig {
    /// `--country`: of lines whose own number does not tell.
    pub country: Option<Country>,
    /// `--allow-dial`.
    pub policy: DialPolicy,
    /// `--max-dials-per-hour`; `None` for any number.
    pub max_per_hour: Option<u32>,
    /// Workers may transfer to nobody else either, but with `--trust-worker-transfers`.
    pub judges_workers: bool,
}

pub(super) fn dialling(reader: &mut Reader) -> DiallingConfig {
    DiallingConfig {
        country: country(reader),
        policy: policy(reader),
        max_per_hour: reader
            .whole("max-dials-per-hour", 0, DIALS_PER_HOUR_MAX)
            .and_then(|dials| u32::try_from(dials).ok())
            .filter(|&dials| dials > 0),
        judges_workers: judges_workers(reader),
    }
}

/// `--judge-transfers` is of a time when workers were trusted by default.
fn judges_workers(reader: &mut Reader) -> bool {
    let is_trusted = reader.switch("trust-worker-transfers");
    let asked = reader.given.explicit("judge-transfers").is_some();
    match (reader.switch("judge-transfers"), is_trusted) {
        (true, true) => reader.mistake("judge-transfers", FlagProblem::Contradicts("trust-worker-transfers")),
        (true, false) => reader.warn("judge-transfers", "is not needed any more: transfers of workers are judged by default"),
        (false, false) if asked => reader.warn("judge-transfers", "does not turn judging off any more: transfers of workers are judged unless --trust-worker-transfers (TRUST_WORKER_TRANSFERS) is given"),
        (false, _) => {}
    }
    !is_trusted
}

fn country(reader: &mut Reader) -> Option<Country> {
    let text = reader.text("country")?;
    let country = Country::parse(&text);
    if country.is_none() {
        reader.mistake("country", FlagProblem::Country);
    }
    country
}

fn policy(reader: &mut Reader) -> DialPolicy {
    let given = reader.given.all("allow-dial");
    let patterns: Vec<String> = given
        .iter()
        .flat_map(|text| text.split(','))
        .map(str::to_owned)
        .collect();
    if patterns.is_empty() {
        return DialPolicy::default();
    }
    match DialPolicy::parse(patterns.iter().map(String::as_str)) {
        Ok(policy) => policy,
        Err(error) => {
            reader.mistake("allow-dial", error.into());
            DialPolicy::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    fn read(pairs: &[(&'static str, &str)]) -> (DiallingConfig, Vec<String>) {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let config = dialling(&mut reader);
        let mistakes = reader.mistakes.iter().map(ToString::to_string);
        (config, mistakes.collect())
    }

    #[test]
    fn the_default_is_the_own_country_sixty_times_an_hour() {
        let (config, mistakes) = read(&[]);
        assert!(mistakes.is_empty());
        assert_eq!(config.country, None);
        assert_eq!(config.policy, DialPolicy::default());
        assert_eq!(config.max_per_hour, Some(60));
        assert!(config.judges_workers);
    }

    #[test]
    fn workers_are_judged_unless_they_are_trusted() {
        let trust = ("trust-worker-transfers", "yes");
        for (pairs, judges, mistakes) in [
            (&[("judge-transfers", "yes")][..], true, 0),
            (&[("judge-transfers", "no")], true, 0),
            (&[trust], false, 0),
            (&[trust, ("judge-transfers", "no")], false, 0),
            (&[trust, ("judge-transfers", "yes")], false, 1),
        ] {
            let (config, found) = read(pairs);
            assert_eq!(
                (config.judges_workers, found.len()),
                (judges, mistakes),
                "{pairs:?}"
            );
        }
        let mut reader = Reader::new(RawArgs::from_pairs(&[("judge-transfers", "no")]));
        dialling(&mut reader);
        let said = format!("{:?}", reader.warnings);
        assert!(said.contains("--trust-worker-transfers"), "{said}");
    }

    #[test]
    fn patterns_stand_in_one_flag_or_in_many() {
        let one = read(&[
            ("allow-dial", "own-country, +32*"),
            ("max-dials-per-hour", "0"),
        ]);
        let many = read(&[
            ("allow-dial", "own-country"),
            ("allow-dial", "+32*"),
            ("max-dials-per-hour", "0"),
        ]);
        assert_eq!(one, many);
        assert!(one.1.is_empty());
        assert_eq!(one.0.max_per_hour, None);
        assert_ne!(one.0.policy, DialPolicy::default());
    }

    #[test]
    fn mistakes_name_the_flag_and_not_the_value() {
        for (flag, value, says) in [
            ("country", "XX", "--country (COUNTRY) must be"),
            ("country", "France", "--country (COUNTRY) must be"),
            ("allow-dial", "0612345678", "write +33*"),
            ("allow-dial", "none,+33*", "stands alone"),
            ("allow-dial", "a b", "own-country"),
            ("allow-dial", "", "own-country"),
            ("max-dials-per-hour", "-1", "whole number"),
        ] {
            let (_, mistakes) = read(&[(flag, value)]);
            assert_eq!(mistakes.len(), 1, "{flag} {value}");
            assert!(mistakes[0].contains(says), "{mistakes:?}");
        }
    }
}
