//! Answering-machine detection and recording of a call to be placed, as its form asks for them.

use super::error::TwilioError;
use super::form::Form;
use super::new_call::webhook;
use crate::bridge::place::PlacedDetection;
use crate::core::answering_machine::{DetectionSettings, PARAMETERS};
use crate::core::twiml::document::{Track, Webhook};

/// `MachineDetection` and what belongs to it; `None` where it is not asked for, whatever else stands there.
///
/// # Errors
/// When an address cannot be used. Other mistakes are left in the form.
pub(super) fn detection(form: &mut Form) -> Result<Option<PlacedDetection>, TwilioError> {
    let mut settings = DetectionSettings::default();
    let mut is_wanted = false;
    for name in PARAMETERS {
        let Some(text) = form.text(name) else {
            continue;
        };
        is_wanted |= name == "MachineDetection";
        if let Err(error) = settings.set(name, &text) {
            form.refuse(name, &error.to_string());
        }
    }
    let detection = PlacedDetection {
        settings,
        is_async: flag(form, "AsyncAmd"),
        callback: webhook(
            form,
            "AsyncAmdStatusCallback",
            "AsyncAmdStatusCallbackMethod",
        )?,
    };
    Ok(is_wanted.then_some(detection))
}

/// `Record`: the call is to be recorded from its answer on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Recording {
    /// `RecordingChannels`: whether each side has a channel of its own.
    pub(super) is_dual: bool,
    /// `RecordingTrack`; both by default.
    pub(super) track: Track,
    /// `Trim`: whether silence at both ends is left out.
    pub(super) trims_silence: bool,
    /// `RecordingStatusCallback`.
    pub(super) callback: Option<Webhook>,
    /// `RecordingStatusCallbackEvent`: what it is told of.
    pub(super) events: Vec<RecordingEvent>,
}

/// What becomes of a recording.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RecordingEvent {
    /// It has begun.
    InProgress,
    /// It can be had.
    Completed,
    /// There is none.
    Absent,
}

impl Recording {
    /// `None` where it is not asked for, whatever else stands there.
    ///
    /// # Errors
    /// When an address cannot be used. Other mistakes are left in the form.
    pub(super) fn read(form: &mut Form) -> Result<Option<Self>, TwilioError> {
        let is_wanted = flag(form, "Record");
        let channels = [("mono", false), ("dual", true)];
        let tracks = [
            ("both", Track::Both),
            ("inbound", Track::Inbound),
            ("outbound", Track::Outbound),
        ];
        let trims = [("do-not-trim", false), ("trim-silence", true)];
        let recording = Self {
            is_dual: choice(form, "RecordingChannels", &channels).unwrap_or_default(),
            track: choice(form, "RecordingTrack", &tracks).unwrap_or(Track::Both),
            trims_silence: choice(form, "Trim", &trims).unwrap_or_default(),
            callback: webhook(
                form,
                "RecordingStatusCallback",
                "RecordingStatusCallbackMethod",
            )?,
            events: recording_events(form),
        };
        Ok(is_wanted.then_some(recording))
    }
}

fn recording_events(form: &mut Form) -> Vec<RecordingEvent> {
    let known = [
        ("in-progress", RecordingEvent::InProgress),
        ("completed", RecordingEvent::Completed),
        ("absent", RecordingEvent::Absent),
    ];
    let read = |word: &str| known.iter().find(|(name, _)| *name == word);
    let read = |word: &str| read(word).map(|(_, event)| *event);
    let reason = "must be in-progress, completed or absent";
    let events = words(form, "RecordingStatusCallbackEvent", reason, read);
    if events.is_empty() {
        vec![RecordingEvent::Completed]
    } else {
        events
    }
}

/// What a parameter lists that may be repeated, and may name several with blanks between; each once.
pub(super) fn words<T: PartialEq>(
    form: &mut Form,
    name: &str,
    reason: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Vec<T> {
    let mut found = Vec::new();
    for text in form.all(name) {
        for word in text.split_ascii_whitespace() {
            match read(word) {
                Some(one) if !found.contains(&one) => found.push(one),
                Some(_) => {}
                None => form.refuse(name, reason),
            }
        }
    }
    found
}

/// One of several words, in whatever capitals.
pub(super) fn choice<T: Copy>(form: &mut Form, name: &str, words: &[(&str, T)]) -> Option<T> {
    let names: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    let reason = format!("must be {}", names.join(" or "));
    form.parsed(name, &reason, |text| {
        let is_it = |(word, _): &&(&str, T)| word.eq_ignore_ascii_case(text);
        words.iter().find(is_it).map(|(_, value)| *value)
    })
}

/// `true` or `false`; false by default.
fn flag(form: &mut Form, name: &str) -> bool {
    choice(form, name, &[("true", true), ("false", false)]).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::answering_machine::MachineDetection;
    use std::time::Duration;

    fn detection(text: &str) -> Result<Option<PlacedDetection>, TwilioError> {
        let mut form = Form::parse(text.as_bytes());
        let detection = super::detection(&mut form)?;
        form.finish().map(|()| detection)
    }

    fn recording(text: &str) -> Result<Option<Recording>, TwilioError> {
        let mut form = Form::parse(text.as_bytes());
        let recording = Recording::read(&mut form)?;
        form.finish().map(|()| recording)
    }

    fn code(error: TwilioError) -> u64 {
        let body = serde_json::to_value(error).expect("JSON");
        body["code"].as_u64().expect("a number")
    }

    #[test]
    fn a_detection_is_read_where_it_is_asked_for() {
        let asked = "MachineDetection=DetectMessageEnd&MachineDetectionTimeout=20&AsyncAmd=true\
                     &AsyncAmdStatusCallback=https://bot/amd&AsyncAmdStatusCallbackMethod=GET";
        let read = detection(asked).expect("no mistake").expect("asked for");
        assert_eq!(read.settings.mode, MachineDetection::DetectMessageEnd);
        assert_eq!(read.settings.timeout, Duration::from_secs(20));
        assert!(read.is_async);
        let callback = read.callback.expect("a callback");
        assert_eq!(callback.url.expose(), "https://bot/amd");
        for nothing in ["", "AsyncAmd=false", "MachineDetectionTimeout=20"] {
            assert_eq!(detection(nothing).expect("no mistake"), None);
        }
        let plain = detection("MachineDetection=Enable").expect("no mistake");
        let plain = plain.expect("asked for");
        assert_eq!(plain.settings, DetectionSettings::default());
        assert!(!plain.is_async && plain.callback.is_none());
        for (bad, expected) in [
            ("MachineDetection=yes", 21218),
            ("MachineDetectionTimeout=2", 21218),
            ("AsyncAmd=1", 21218),
            ("AsyncAmdStatusCallback=ftp://bot/", 21205),
            (
                "AsyncAmdStatusCallback=http://bot/&AsyncAmdStatusCallbackMethod=PUT",
                21218,
            ),
        ] {
            assert_eq!(detection(bad).map_err(code), Err(expected), "{bad}");
        }
    }

    #[test]
    fn a_recording_is_read_where_it_is_asked_for() {
        let asked = "Record=true&RecordingChannels=dual&RecordingTrack=inbound&Trim=trim-silence\
                     &RecordingStatusCallback=http://bot/r&RecordingStatusCallbackEvent=in-progress+completed\
                     &RecordingStatusCallbackEvent=completed";
        let read = recording(asked).expect("no mistake").expect("asked for");
        let expected = [RecordingEvent::InProgress, RecordingEvent::Completed];
        assert_eq!(read.events, expected);
        assert_eq!(read.track, Track::Inbound);
        assert!(read.is_dual && read.trims_silence && read.callback.is_some());
        let plain = recording("Record=TRUE").expect("no mistake");
        let plain = plain.expect("asked for");
        assert_eq!((plain.is_dual, plain.track), (false, Track::Both));
        assert_eq!(plain.events, [RecordingEvent::Completed]);
        for nothing in ["", "Record=false", "RecordingChannels=mono"] {
            assert_eq!(recording(nothing).expect("no mistake"), None);
        }
        for bad in [
            "Record=1",
            "RecordingChannels=3",
            "Trim=yes",
            "RecordingStatusCallbackEvent=x",
        ] {
            assert_eq!(recording(bad).map_err(code), Err(21218), "{bad}");
        }
    }
}
