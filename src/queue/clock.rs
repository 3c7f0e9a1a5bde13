//! Times as the contract writes them: RFC 3339, UTC, milliseconds.

use std::time::{Duration, SystemTime};

use time::OffsetDateTime;

/// `2026-01-15T14:30:00.123Z`.
pub(super) fn rfc3339_ms(at: SystemTime) -> String {
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

/// The UTC day, `2026-01-15`.
pub(super) fn utc_day(at: SystemTime) -> String {
    date(OffsetDateTime::from(at))
}

/// How long the UTC day of `at` still lasts; never zero.
pub(super) fn rest_of_day(at: SystemTime) -> Duration {
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
        assert_eq!(utc_day(at), "2026-01-15");
        assert_eq!(rest_of_day(at), Duration::from_secs(9 * 3600 + 1800));
    }
}
