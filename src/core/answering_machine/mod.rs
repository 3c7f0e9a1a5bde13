//! Answering-machine detection: whether a person, a machine or a fax has answered a call that
//! was placed, by the sound of the callee alone. Terms, parameters and results are those of
//! Twilio's `MachineDetection`.
//!
//! | file | what it holds |
//! |---|---|
//! | `detector` | what the sound comes to, and when |
//! | `speech` | how long somebody has spoken and been quiet, over the noise of the line |
//! | `tone` | single tones: the beep of a machine, the tones of a fax |
//!
//! A [`Detector`] is given each frame of 20 ms with its time on the leg's media clock, as a
//! [`FrameTap`](super::media_session::clock::FrameTap) is: it neither allocates nor waits, and its
//! state does not grow.
//!
//! # How it decides
//!
//! - A person answers briefly and waits: less than [`DetectionSettings::speech_threshold`] of
//!   speech, then silence for [`DetectionSettings::speech_end_threshold`].
//! - A machine speaks on. Speech is counted without its longer pauses, so that "Hello? … Hello?"
//!   is still brief.
//! - A single tone that is held is the machine's beep, whatever was said before it.
//! - A fax answers with 2,100 Hz (ITU-T T.30, V.8), or calls with 1,100 Hz.
//!
//! # What it cannot tell
//!
//! A person who speaks for longer than the threshold without a pause is taken for a machine, and a
//! machine that says one short sentence and never beeps for a person. Of words it understands
//! nothing. Beeps of two tones at once are not recognised.

mod detector;
mod speech;
mod tone;

use std::ops::RangeInclusive;
use std::time::Duration;

pub use detector::Detector;

/// Limits of [`DetectionSettings::timeout`], in seconds.
pub const TIMEOUT_S: RangeInclusive<u64> = 3..=59;
/// Limits of [`DetectionSettings::speech_threshold`], in milliseconds.
pub const SPEECH_THRESHOLD_MS: RangeInclusive<u64> = 1_000..=6_000;
/// Limits of [`DetectionSettings::speech_end_threshold`], in milliseconds.
pub const SPEECH_END_THRESHOLD_MS: RangeInclusive<u64> = 500..=5_000;
/// Limits of [`DetectionSettings::silence_timeout`], in milliseconds.
pub const SILENCE_TIMEOUT_MS: RangeInclusive<u64> = 2_000..=10_000;

/// Names of the parameters that [`DetectionSettings::set`] reads.
pub const PARAMETERS: [&str; 5] = [
    "MachineDetection",
    "MachineDetectionTimeout",
    "MachineDetectionSpeechThreshold",
    "MachineDetectionSpeechEndThreshold",
    "MachineDetectionSilenceTimeout",
];

/// What is asked for: `MachineDetection`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MachineDetection {
    /// A machine is told as soon as it is recognised.
    #[default]
    Enable,
    /// A machine is told when its greeting is over and a message can be left.
    DetectMessageEnd,
}

impl MachineDetection {
    /// Reads the parameter as clients write it; `None` for any other text.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "Enable" => Some(Self::Enable),
            "DetectMessageEnd" => Some(Self::DetectMessageEnd),
            _ => None,
        }
    }
}

/// The parameters of a detection, each under the name that Twilio gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetectionSettings {
    /// `MachineDetection`.
    pub mode: MachineDetection,
    /// `MachineDetectionTimeout`: when the detection gives up, counted from the answer.
    pub timeout: Duration,
    /// `MachineDetectionSpeechThreshold`: who speaks for longer is a machine.
    pub speech_threshold: Duration,
    /// `MachineDetectionSpeechEndThreshold`: how much silence ends what was said.
    pub speech_end_threshold: Duration,
    /// `MachineDetectionSilenceTimeout`: when the detection gives up with nothing heard at all.
    pub silence_timeout: Duration,
}

impl Default for DetectionSettings {
    /// Twilio's own.
    fn default() -> Self {
        Self {
            mode: MachineDetection::Enable,
            timeout: Duration::from_secs(30),
            speech_threshold: Duration::from_millis(2_400),
            speech_end_threshold: Duration::from_millis(1_200),
            silence_timeout: Duration::from_millis(5_000),
        }
    }
}

/// What is wrong with a parameter, as the rest of a sentence that begins with its name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    /// There is no such parameter.
    #[error("is no parameter of a detection")]
    Unknown,
    /// Neither mode.
    #[error("must be Enable or DetectMessageEnd")]
    Mode,
    /// No number, or one beyond its limits.
    #[error("must be a whole number from {} to {}", .0.start(), .0.end())]
    Range(RangeInclusive<u64>),
}

impl DetectionSettings {
    /// Takes the value of one of [`PARAMETERS`], as clients write it.
    ///
    /// # Errors
    /// What is wrong with it; nothing has changed.
    pub fn set(&mut self, name: &str, text: &str) -> Result<(), ParameterError> {
        let number = |limits: RangeInclusive<u64>| {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
            let number = is_number.then(|| text.parse().ok()).flatten();
            let served = number.filter(|number| limits.contains(number));
            served.ok_or(ParameterError::Range(limits))
        };
        let ms = |limits| number(limits).map(Duration::from_millis);
        match name {
            "MachineDetection" => {
                self.mode = MachineDetection::parse(text).ok_or(ParameterError::Mode)?;
            }
            "MachineDetectionTimeout" => self.timeout = Duration::from_secs(number(TIMEOUT_S)?),
            "MachineDetectionSpeechThreshold" => self.speech_threshold = ms(SPEECH_THRESHOLD_MS)?,
            "MachineDetectionSpeechEndThreshold" => {
                self.speech_end_threshold = ms(SPEECH_END_THRESHOLD_MS)?;
            }
            "MachineDetectionSilenceTimeout" => self.silence_timeout = ms(SILENCE_TIMEOUT_MS)?,
            _ => return Err(ParameterError::Unknown),
        }
        Ok(())
    }
}

/// Who has answered: `AnsweredBy`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AnsweredBy {
    /// A person.
    Human,
    /// A machine; its greeting may still go on.
    MachineStart,
    /// A machine, whose beep is over.
    MachineEndBeep,
    /// A machine that has fallen silent without a beep.
    MachineEndSilence,
    /// A machine that was still speaking when the detection gave up.
    MachineEndOther,
    /// A fax.
    Fax,
    /// The detection gave up.
    Unknown,
}

impl AnsweredBy {
    const ALL: [Self; 7] = [
        Self::Human,
        Self::MachineStart,
        Self::MachineEndBeep,
        Self::MachineEndSilence,
        Self::MachineEndOther,
        Self::Fax,
        Self::Unknown,
    ];

    /// The one of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.as_str() == name)
    }

    /// As clients read it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Human => "human",
            Self::MachineStart => "machine_start",
            Self::MachineEndBeep => "machine_end_beep",
            Self::MachineEndSilence => "machine_end_silence",
            Self::MachineEndOther => "machine_end_other",
            Self::Fax => "fax",
            Self::Unknown => "unknown",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_lie_within_the_limits() {
        let settings = DetectionSettings::default();
        assert!(TIMEOUT_S.contains(&settings.timeout.as_secs()));
        for (limits, value) in [
            (SPEECH_THRESHOLD_MS, settings.speech_threshold),
            (SPEECH_END_THRESHOLD_MS, settings.speech_end_threshold),
            (SILENCE_TIMEOUT_MS, settings.silence_timeout),
        ] {
            let value_ms = u64::try_from(value.as_millis()).unwrap();
            assert!(limits.contains(&value_ms), "{value:?}");
        }
    }

    #[test]
    fn parameters_are_taken_within_their_limits() {
        let mut settings = DetectionSettings::default();
        let values = ["DetectMessageEnd", "59", "1000", "0500", "10000"];
        for (name, text) in PARAMETERS.into_iter().zip(values) {
            assert_eq!(settings.set(name, text), Ok(()), "{name}");
        }
        let expected = DetectionSettings {
            mode: MachineDetection::DetectMessageEnd,
            timeout: Duration::from_secs(59),
            speech_threshold: Duration::from_secs(1),
            speech_end_threshold: Duration::from_millis(500),
            silence_timeout: Duration::from_secs(10),
        };
        assert_eq!(settings, expected);
        for (name, text) in [
            ("MachineDetection", "enable"),
            ("MachineDetectionTimeout", "60"),
            ("MachineDetectionTimeout", "+30"),
            ("MachineDetectionTimeout", ""),
            ("MachineDetectionTimeout", "99999999999999999999999"),
            ("MachineDetectionSpeechThreshold", "999"),
            ("MachineDetectionSpeechEndThreshold", "1.5"),
            ("MachineDetectionSilenceTimeout", "-2000"),
            ("AsyncAmd", "true"),
        ] {
            assert!(settings.set(name, text).is_err(), "{name}={text}");
        }
        assert_eq!(settings, expected, "nothing has changed");
        let told = settings
            .set(PARAMETERS[1], "2")
            .map_err(|error| error.to_string());
        assert_eq!(told, Err("must be a whole number from 3 to 59".into()));
    }

    #[test]
    fn the_mode_is_read_as_clients_write_it() {
        let read = ["Enable", "DetectMessageEnd", "enable", ""].map(MachineDetection::parse);
        let known = [MachineDetection::Enable, MachineDetection::DetectMessageEnd];
        assert_eq!(read, [Some(known[0]), Some(known[1]), None, None]);
    }
}
