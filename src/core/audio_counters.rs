//! What went wrong with a call's audio, counted: one list of name, help and
//! value, for the log at the end of a call, its record in the database, the API
//! and `/metrics`. A counter that is entered here is seen in all of them.

use std::fmt;

use serde_json::{Map, Value};

use super::media_session::downlink::DownlinkStats;
use super::media_session::uplink::UplinkStats;

/// How many counters there are.
const COUNT: usize = 15;

/// Name and help of each, in the order of the values.
const NAMES: [(&str, &str); COUNT] = [
    (
        "rtp_late",
        "RTP packets that came after their place had been filled.",
    ),
    ("rtp_duplicates", "RTP packets that came twice."),
    (
        "rtp_reordered",
        "RTP packets that came out of order and were put in place.",
    ),
    (
        "rtp_invalid",
        "RTP packets of an unknown payload type, or that did not decode.",
    ),
    (
        "rtp_resyncs",
        "New RTP streams in mid-call: another SSRC, or a jump.",
    ),
    (
        "caller_audio_filled_bytes",
        "Silence put in for lost packets and pauses of callers, in bytes of 8 kHz mu-law.",
    ),
    (
        "caller_audio_taken_back_bytes",
        "Quiet audio of callers left out where silence had been put in too early, in bytes of 8 kHz mu-law.",
    ),
    (
        "caller_audio_overflow_bytes",
        "Audio of callers dropped because no worker took it in time, in bytes of 8 kHz mu-law.",
    ),
    (
        "caller_digits_dropped",
        "Digits of callers dropped because no worker took them.",
    ),
    (
        "worker_audio_overflow_bytes",
        "Audio of workers dropped because too much waited, in bytes of 8 kHz mu-law.",
    ),
    (
        "worker_audio_underruns",
        "Frames of 20 ms in which a live worker's audio was late.",
    ),
    (
        "worker_audio_frames",
        "Frames of 20 ms with audio of workers in them.",
    ),
    (
        "frames_dropped",
        "Frames to callers dropped to take back a delay.",
    ),
    (
        "frames_skipped",
        "Frames to callers given up because the pacer was late.",
    ),
    ("encode_errors", "Frames that the encoder refused."),
];

/// The counters of one call, or of several.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AudioCounters([u64; COUNT]);

impl AudioCounters {
    /// Those of one call.
    #[must_use]
    pub fn of(up: &UplinkStats, down: &DownlinkStats) -> Self {
        Self([
            up.late,
            up.duplicates,
            up.reordered,
            up.invalid,
            up.resyncs,
            up.filled_bytes,
            up.taken_back_bytes,
            up.overflow_bytes,
            up.digits_dropped,
            down.overflow_bytes,
            down.underruns,
            down.worker_frames,
            down.trimmed_frames,
            down.skipped_frames,
            down.encode_errors,
        ])
    }

    /// Adds those of another call.
    pub fn add(&mut self, other: &Self) {
        for (sum, value) in self.0.iter_mut().zip(other.0) {
            *sum += value;
        }
    }

    /// Name, help and value of each.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        let values = NAMES.into_iter().zip(self.0);
        values.map(|((name, help), value)| (name, help, value))
    }

    /// As a JSON object of those that are not zero, by name.
    #[must_use]
    pub fn to_json(&self) -> String {
        let counted = self.iter().filter(|(.., value)| *value > 0);
        let counted = counted.map(|(name, _, value)| (name.to_owned(), Value::from(value)));
        Value::Object(counted.collect()).to_string()
    }

    /// Of what [`Self::to_json`] wrote, in this version or another one: a name
    /// that is not known is left out. `None` when it is no JSON object.
    #[must_use]
    pub fn from_json(text: &str) -> Option<Self> {
        let counted: Map<String, Value> = serde_json::from_str(text).ok()?;
        let value = |(name, _)| counted.get(name).and_then(Value::as_u64);
        Some(Self(NAMES.map(|name| value(name).unwrap_or_default())))
    }
}

/// Those that are not zero: `rtp_late=2 encode_errors=1`.
impl fmt::Display for AudioCounters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = self.iter().filter(|(.., value)| *value > 0);
        for (place, (name, _, value)) in counted.enumerate() {
            let space = if place == 0 { "" } else { " " };
            write!(f, "{space}{name}={value}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn each_counter_is_told_by_its_own_name() {
        let up = UplinkStats {
            late: 1,
            duplicates: 2,
            reordered: 3,
            invalid: 4,
            resyncs: 5,
            filled_bytes: 6,
            taken_back_bytes: 7,
            overflow_bytes: 8,
            digits_dropped: 9,
            ..UplinkStats::default()
        };
        let down = DownlinkStats {
            overflow_bytes: 10,
            underruns: 11,
            worker_frames: 12,
            trimmed_frames: 13,
            skipped_frames: 14,
            encode_errors: 15,
            ..DownlinkStats::default()
        };
        let mut counters = AudioCounters::of(&up, &down);
        let values: Vec<_> = counters.iter().map(|(.., value)| value).collect();
        assert_eq!(values, (1..=15).collect::<Vec<_>>());
        let names: BTreeSet<_> = counters.iter().map(|(name, ..)| name).collect();
        assert_eq!(names.len(), COUNT);
        let same = counters;
        counters.add(&same);
        assert!(
            counters
                .to_string()
                .starts_with("rtp_late=2 rtp_duplicates=4 ")
        );
        assert!(counters.to_string().ends_with(" encode_errors=30"));
        assert_eq!(AudioCounters::default().to_string(), "");
        assert_eq!(
            AudioCounters::from_json(&counters.to_json()),
            Some(counters)
        );
    }

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_is_known() {
        let read = AudioCounters::from_json;
        assert_eq!(read("{}"), Some(AudioCounters::default()));
        let more = read(r#"{"encode_errors": 3, "of_a_later_version": 4, "rtp_late": "5"}"#);
        let more = more.expect("an object");
        assert_eq!(more.to_json(), r#"{"encode_errors":3}"#);
        assert_eq!((read(""), read("[1]"), read("7")), (None, None, None));
    }
}
