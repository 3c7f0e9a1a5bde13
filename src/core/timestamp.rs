//! Times as the contracts write them: RFC 3339, UTC, milliseconds; as Twilio writes them: RFC 2822.

use std::time::{Duration, SystemTime};

use time::format_description::well_known::{Rfc2822, Rfc3339};
use time::{Date, Month, OffsetDateTime, Time};

/// `2026-01-15T14:30:00.123Z`.
#[must_use]
pub fn rfc3339_ms(at: SystemTime) -> String {
    let at = OffsetDateTime::from(at);
    format!(
        "{}T{:02}:{:02}:{:02}.{:03}Z",
        date(at),
        at.hour(),
        at.minute(),
        at.second(),
        at.millisecond()
    )
}

/// What [`rfc3339_ms`] wrote; `None` for any other form.
#[must_use]
pub fn parse_rfc3339_ms(text: &str) -> Option<SystemTime> {
    // 2026-01-15T14:30:00.123Z
    if text.len() != 24 || !text.is_ascii() || !text.ends_with('Z') {
        return None;
    }
    let number = |from: usize, to: usize| text[from..to].parse::<u16>().ok();
    let small = |from: usize| u8::try_from(number(from, from + 2)?).ok();
    let month = Month::try_from(small(5)?).ok()?;
    let date = Date::from_calendar_date(number(0, 4)?.into(), month, small(8)?).ok()?;
    let time = Time::from_hms_milli(small(11)?, small(14)?, small(17)?, number(20, 23)?).ok()?;
    Some(date.with_time(time).assume_utc().into())
}

/// A time as others write it by RFC 3339: with any fraction or none, in any
/// offset.
#[must_use]
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    let at = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    // A SystemTime reaches further, but nothing of ours was before 1970.
    (at.unix_timestamp() >= 0).then(|| at.into())
}

/// `Thu, 15 Jan 2026 14:30:00 +0000`; empty for a time that RFC 2822 cannot write,
/// before the year 1900.
#[must_use]
pub fn rfc2822(at: SystemTime) -> String {
    OffsetDateTime::from(at)
        .format(&Rfc2822)
        .unwrap_or_default()
}

/// The beginning of a UTC day that is written `2026-01-15`.
#[must_use]
pub fn parse_day(text: &str) -> Option<SystemTime> {
    let is_day = text.len() == 10 && text.is_ascii();
    let midnight = is_day.then(|| format!("{text}T00:00:00.000Z"))?;
    parse_rfc3339_ms(&midnight)
}

/// The UTC day, `2026-01-15`.
#[must_use]
pub fn utc_day(at: SystemTime) -> String {
    date(OffsetDateTime::from(at))
}

/// How long the UTC day of `at` still lasts; never zero.
#[must_use]
pub fn rest_of_day(at: SystemTime) -> Duration {
    const DAY_S: u64 = 86_400;
    let since_epoch = at
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    Duration::from_secs(DAY_S - since_epoch.as_secs() % DAY_S)
}

fn date(at: OffsetDateTime) -> String {
    format!(
        "{:04}-{:02}-{:02}",
        at.year(),
        u8::from(at.month()),
        at.day()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_in_the_contract() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        assert_eq!(rfc3339_ms(at), "2026-01-15T14:30:00.123Z");
        assert_eq!(parse_rfc3339_ms("2026-01-15T14:30:00.123Z"), Some(at));
        assert_eq!(utc_day(at), "2026-01-15");
        assert_eq!(rfc2822(at), "Thu, 15 Jan 2026 14:30:00 +0000");
        let day = parse_day("2026-01-15").expect("a day");
        assert_eq!(rfc3339_ms(day), "2026-01-15T00:00:00.000Z");
        for bad in ["2026-13-01", "2026-1-15", "15-01-2026", "2026-01-15T"] {
            assert_eq!(parse_day(bad), None, "{bad}");
        }
        assert_eq!(rest_of_day(at), Duration::from_secs(9 * 3600 + 1800));
    }

    #[test]
    fn times_of_others_are_read_in_all_their_forms() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1_768_487_400);
        for text in [
            "2026-01-15T14:30:00Z",
            "2026-01-15T14:30:00.000Z",
            "2026-01-15T16:30:00+02:00",
            "2026-01-15t14:30:00z",
        ] {
            assert_eq!(parse_rfc3339(text), Some(at), "{text}");
        }
        for text in [
            "",
            "2026-01-15",
            "2026-01-15T14:30:00",
            "1969-12-31T23:59:59Z",
            "now",
        ] {
            assert_eq!(parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_time_of_ours_is_not_read() {
        for text in [
            "",
            "2026-01-15T14:30:00Z",
            "2026-13-15T14:30:00.123Z",
            "2026-01-15T14:30:0\u{e9}.12Z",
        ] {
            assert_eq!(parse_rfc3339_ms(text), None, "{text}");
        }
    }
}
