//! Lines by the number that they call from, so that a call with `from` reads
//! one number for each country that the lines have, not one for each line.

use std::collections::{BTreeSet, HashMap};

use super::line::LineProfile;
use crate::core::ids::LineId;
use crate::core::numbers::{self, Country};

/// A number as the lines of one country read it.
type Key = (Option<Country>, String);

/// Lines by number.
#[derive(Debug, Default)]
pub(super) struct NumberIndex {
    by_number: HashMap<Key, BTreeSet<LineId>>,
    /// How many lines have a number and this country.
    countries: HashMap<Option<Country>, usize>,
}

impl NumberIndex {
    /// Adds a line that is not in it.
    pub(super) fn add(&mut self, line: &LineProfile) {
        if let Some(key) = key_of(line) {
            *self.countries.entry(key.0).or_default() += 1;
            self.by_number
                .entry(key)
                .or_default()
                .insert(line.id.clone());
        }
    }

    /// Takes a line out, as it was added.
    pub(super) fn remove(&mut self, line: &LineProfile) {
        let Some(key) = key_of(line) else { return };
        let Some(lines) = self.by_number.get_mut(&key) else {
            return;
        };
        if !lines.remove(&line.id) {
            return;
        }
        if lines.is_empty() {
            self.by_number.remove(&key);
        }
        if let Some(count) = self.countries.get_mut(&key.0) {
            *count -= 1;
            if *count == 0 {
                self.countries.remove(&key.0);
            }
        }
    }

    /// The lines whose number this is, however it is written, in their order.
    pub(super) fn find(&self, number: &str) -> BTreeSet<&LineId> {
        let countries = self.countries.keys();
        let keys = countries.filter_map(|country| Some((*country, comparable(number, *country)?)));
        let found = keys.filter_map(|key| self.by_number.get(&key));
        found.flatten().collect()
    }
}

fn key_of(line: &LineProfile) -> Option<Key> {
    let (number, country) = (line.phone_number.as_ref()?, line.dial.country);
    Some((country, comparable(number.expose(), country)?))
}

/// A number in the one form in which it is compared: E.164 where the country
/// knows it, else its digits.
fn comparable(number: &str, country: Option<Country>) -> Option<String> {
    let e164 = numbers::to_e164(number, country);
    e164.or_else(|| numbers::without_separators(number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dialling::DialLine;
    use crate::core::private::Private;
    use std::time::{Duration, Instant};

    fn line(id: usize, number: &str, country: &str) -> LineProfile {
        LineProfile {
            phone_number: Some(Private::new(number)),
            dial: DialLine {
                country: Country::parse(country),
                hosts: Vec::new(),
            },
            ..LineProfile::bare(LineId::new(id.to_string()))
        }
    }

    fn found(index: &NumberIndex, number: &str) -> Vec<String> {
        let found = index.find(number);
        found.into_iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_number_is_the_same_however_it_is_written() {
        let mut index = NumberIndex::default();
        let lines = [
            line(1, "+33972360682", "FR"),
            line(2, "09 72 36 06 82", "FR"),
            line(3, "0972360682", "GB"),
            line(4, "101", ""),
        ];
        lines.iter().for_each(|line| index.add(line));
        for (number, ids) in [
            ("09 72 36 06 82", &["1", "2", "3"][..]),
            ("+33 (0)9 72 36 06 82", &["1", "2"]),
            ("+33972360683", &[]),
            ("1-0-1", &["4"]),
            ("", &[]),
            ("sip:a@b", &[]),
        ] {
            assert_eq!(found(&index, number), ids, "{number}");
        }
        index.remove(&lines[0]);
        index.remove(&lines[0]);
        assert_eq!(found(&index, "+33972360682"), ["2"]);
        lines.iter().for_each(|line| index.remove(line));
        assert!(index.by_number.is_empty() && index.countries.is_empty());
    }

    #[test]
    fn thousands_of_lines_cost_no_more_than_one() {
        let mut index = NumberIndex::default();
        for id in 0..5_000 {
            index.add(&line(id, &format!("+339723{id:05}"), "FR"));
        }
        let start = Instant::now();
        for id in 0..100 {
            assert_eq!(found(&index, &format!("09723{id:05}")).len(), 1);
        }
        // Reading every number of every line took seconds for each.
        assert!(
            start.elapsed() < Duration::from_secs(2),
            "{:?}",
            start.elapsed()
        );
    }
}
