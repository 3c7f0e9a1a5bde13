//! `--keep-records`: for how long records of calls are kept.

use std::time::Duration;

use super::reader::Reader;

/// A hundred years.
const DAYS_MAX: u64 = 36_500;
const DAY: Duration = Duration::from_secs(86_400);

/// `None` for ever.
pub(super) fn keep_records(reader: &mut Reader) -> Option<Duration> {
    let days = reader.whole("keep-records", 0, DAYS_MAX)?;
    let days = u32::try_from(days).ok().filter(|&days| days > 0)?;
    Some(DAY * days)
}

/// Without a database there are none.
pub(super) fn check(has_database: bool, reader: &mut Reader) {
    if !has_database && reader.given.explicit("keep-records").is_some() {
        reader.warn(
            "keep-records",
            "has no effect without --database-url or --data-dir",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    fn read(pairs: &[(&'static str, &str)]) -> (Option<Duration>, usize, usize) {
        let mut reader = Reader::new(RawArgs::from_pairs(pairs));
        let keep = keep_records(&mut reader);
        check(false, &mut reader);
        (keep, reader.mistakes.len(), reader.warnings.len())
    }

    #[test]
    fn days_are_whole_and_none_is_for_ever() {
        assert_eq!(read(&[]), (None, 0, 0));
        assert_eq!(read(&[("keep-records", "0")]), (None, 0, 1));
        assert_eq!(read(&[("keep-records", "90")]), (Some(DAY * 90), 0, 1));
        for bad in ["-1", "1.5", "90d", "36501"] {
            assert_eq!(read(&[("keep-records", bad)]).1, 1, "{bad}");
        }
    }
}
