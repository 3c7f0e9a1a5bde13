//! From a JSON object to the configuration of an agent: known fields only, each
//! within its bounds, every mistake reported at once.
//!
//! The bounds keep `customParameters.agent` within what a job and a `start` may
//! hold: 32 KiB of JSON, at most twice as much where it stands as a string in
//! another JSON. A worker's socket takes 1 MiB at once.

use std::fmt;

use serde_json::{Map, Value};

use super::config::{AgentConfig, VoiceProvider};
use super::voice_settings::VoiceSettings;
use crate::core::json_type::type_name;

/// Longest configuration, as JSON without spaces.
pub const CONFIG_MAX_BYTES: usize = 32 * 1024;

/// Every field, in the order of the JSON.
pub const FIELDS: [&str; 13] = [
    "agent_name",
    "agent_personality",
    "voice_provider",
    "voice_id",
    "voice_language",
    "greeting_message",
    "fallback_message",
    "transfer_message",
    "system_prompt",
    "voice_settings",
    "max_conversation_duration",
    "interruption_enabled",
    "sentiment_analysis_enabled",
];

const NAME_MAX_CHARS: usize = 100;
const PERSONALITY_MAX_CHARS: usize = 2_000;
/// What a caller would hear for a minute.
const MESSAGE_MAX_CHARS: usize = 1_000;
const PROMPT_MAX_CHARS: usize = 16_000;
const VOICE_ID_MAX_CHARS: usize = 200;
/// Longest language tag (RFC 5646, 4.4.1).
const LANGUAGE_MAX_CHARS: usize = 35;
/// A day.
const DURATION_MAX_S: u32 = 86_400;
/// Longest name of a field that is repeated in an answer.
const FIELD_SHOWN_CHARS: usize = 64;

pub(super) const NOT_KNOWN: &str = "is not a known field";

/// What is wrong with one field. Holds no value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AgentMistake {
    /// The field, or `agent` for the configuration as a whole.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl AgentMistake {
    pub(super) fn new(field: &str, reason: impl Into<String>) -> Self {
        Self {
            field: field.chars().take(FIELD_SHOWN_CHARS).collect(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for AgentMistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.field, self.reason)
    }
}

/// Reads a configuration. A null, and a text of nothing but spaces, count as not
/// given. Only `agent_name` is required; the voice is ElevenLabs' and the caller may
/// interrupt unless it is said otherwise.
///
/// # Errors
/// With every mistake.
pub fn read(object: Map<String, Value>) -> Result<AgentConfig, Vec<AgentMistake>> {
    let mut fields = Fields {
        object,
        mistakes: Vec::new(),
    };
    let agent_name = fields.text("agent_name", NAME_MAX_CHARS, Shape::Line);
    if agent_name.is_none() && !fields.is_at_fault("agent_name") {
        fields.mistake("agent_name", "is required");
    }
    let voice_provider = fields.provider();
    let config = AgentConfig {
        agent_name: agent_name.unwrap_or_default(),
        agent_personality: fields.text("agent_personality", PERSONALITY_MAX_CHARS, Shape::Text),
        voice_provider: voice_provider.unwrap_or(VoiceProvider::ElevenLabs),
        voice_id: fields.text("voice_id", VOICE_ID_MAX_CHARS, Shape::Word),
        voice_language: fields.text("voice_language", LANGUAGE_MAX_CHARS, Shape::Language),
        greeting_message: fields.text("greeting_message", MESSAGE_MAX_CHARS, Shape::Text),
        fallback_message: fields.text("fallback_message", MESSAGE_MAX_CHARS, Shape::Text),
        transfer_message: fields.text("transfer_message", MESSAGE_MAX_CHARS, Shape::Text),
        system_prompt: fields.text("system_prompt", PROMPT_MAX_CHARS, Shape::Text),
        voice_settings: fields.voice_settings(voice_provider),
        max_conversation_duration: fields.seconds("max_conversation_duration", DURATION_MAX_S),
        interruption_enabled: fields.flag("interruption_enabled", true),
        sentiment_analysis_enabled: fields.flag("sentiment_analysis_enabled", false),
    };
    fields.finish(&config)?;
    Ok(config)
}

/// What a text may hold.
#[derive(Clone, Copy)]
enum Shape {
    /// One line.
    Line,
    /// Lines and tabs.
    Text,
    /// No spaces.
    Word,
    /// A language tag.
    Language,
}

impl Shape {
    /// What is wrong with a text.
    fn judge(self, text: &str) -> Result<(), &'static str> {
        let fits = match self {
            Self::Line => !text.contains(char::is_control),
            Self::Text => !text.contains(|c: char| c.is_control() && !"\n\r\t".contains(c)),
            Self::Word => !text.contains(|c: char| c.is_control() || c.is_whitespace()),
            Self::Language => is_language(text),
        };
        match self {
            _ if fits => Ok(()),
            Self::Line => Err("must be one line without control characters"),
            Self::Text => Err("must hold no control characters but line ends and tabs"),
            Self::Word => Err("must hold no spaces or control characters"),
            Self::Language => Err("must be a language tag, such as fr or fr-FR"),
        }
    }
}

/// Two or three letters, then parts of 2 to 8 letters and digits.
fn is_language(text: &str) -> bool {
    let mut parts = text.split('-');
    let first = parts.next().unwrap_or_default();
    let is_first = (2..=3).contains(&first.len()) && first.bytes().all(|b| b.is_ascii_alphabetic());
    is_first
        && parts.all(|part| {
            (2..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_alphanumeric())
        })
}

/// The fields that nobody has read yet, and what was wrong with the others.
struct Fields {
    object: Map<String, Value>,
    mistakes: Vec<AgentMistake>,
}

impl Fields {
    fn mistake(&mut self, field: &str, reason: impl Into<String>) {
        self.mistakes.push(AgentMistake::new(field, reason));
    }

    fn is_at_fault(&self, field: &str) -> bool {
        self.mistakes.iter().any(|mistake| mistake.field == field)
    }

    fn take(&mut self, name: &str) -> Option<Value> {
        self.object.remove(name).filter(|value| !value.is_null())
    }

    fn text(&mut self, name: &str, most: usize, shape: Shape) -> Option<String> {
        let text = match self.take(name)? {
            Value::String(text) => text,
            other => {
                self.mistake(name, format!("must be a string, is {}", type_name(&other)));
                return None;
            }
        };
        if text.trim().is_empty() {
            return None;
        }
        let count = text.chars().count();
        if count > most {
            self.mistake(name, format!("has {count} characters: {most} are the most"));
            return None;
        }
        if let Err(reason) = shape.judge(&text) {
            self.mistake(name, reason);
            return None;
        }
        Some(text)
    }

    fn flag(&mut self, name: &str, default: bool) -> bool {
        match self.take(name) {
            None => default,
            Some(Value::Bool(flag)) => flag,
            Some(other) => {
                let reason = format!("must be true or false, is {}", type_name(&other));
                self.mistake(name, reason);
                default
            }
        }
    }

    /// Whole seconds, 1 or more.
    fn seconds(&mut self, name: &str, most: u32) -> Option<u32> {
        let value = self.take(name)?;
        let whole = value.as_u64().and_then(|it| u32::try_from(it).ok());
        let seconds = whole.filter(|seconds| (1..=most).contains(seconds));
        if seconds.is_none() {
            let reason = format!("must be a whole number of seconds from 1 to {most}");
            self.mistake(name, reason);
        }
        seconds
    }

    /// `None` where what is given is at fault.
    fn provider(&mut self) -> Option<VoiceProvider> {
        let name = "voice_provider";
        let Some(value) = self.take(name) else {
            return Some(VoiceProvider::ElevenLabs);
        };
        let provider = value.as_str().and_then(VoiceProvider::parse);
        if provider.is_none() {
            let names = VoiceProvider::ALL.map(VoiceProvider::as_str);
            self.mistake(name, format!("must be one of {}", names.join(", ")));
        }
        provider
    }

    fn voice_settings(&mut self, provider: Option<VoiceProvider>) -> VoiceSettings {
        let name = "voice_settings";
        match self.take(name) {
            None => VoiceSettings::default(),
            Some(Value::Object(given)) => VoiceSettings::read(given, provider, &mut self.mistakes),
            Some(other) => {
                self.mistake(name, format!("must be an object, is {}", type_name(&other)));
                VoiceSettings::default()
            }
        }
    }

    /// Nothing is left that is not known, and the whole is not too long.
    fn finish(mut self, config: &AgentConfig) -> Result<(), Vec<AgentMistake>> {
        // A null that is not known is a mistake too.
        for (name, _) in std::mem::take(&mut self.object) {
            if !FIELDS.contains(&name.as_str()) {
                self.mistake(&name, NOT_KNOWN);
            }
        }
        let bytes = config.to_json().len();
        if bytes > CONFIG_MAX_BYTES {
            let reason = format!("has {bytes} bytes as JSON: {CONFIG_MAX_BYTES} are the most");
            self.mistake("agent", reason);
        }
        if self.mistakes.is_empty() {
            return Ok(());
        }
        Err(self.mistakes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(object) => object,
            other => panic!("no object: {other}"),
        }
    }

    fn whole() -> Value {
        json!({
            "agent_name": "Léa", "agent_personality": "warm,\nbrief", "voice_provider": "elevenlabs",
            "voice_id": "21m00Tcm4TlvDq8ikWAM", "voice_language": "fr-FR",
            "greeting_message": "Bonjour, Chez Léon.", "fallback_message": "Je n'ai pas compris.",
            "transfer_message": "Je vous passe quelqu'un.", "system_prompt": "Tu prends les réservations.",
            "voice_settings": {"stability": 0.5}, "max_conversation_duration": 600,
            "interruption_enabled": true, "sentiment_analysis_enabled": true,
        })
    }

    fn told(value: Value) -> Vec<String> {
        let mistakes = read(object(value)).expect_err("mistakes");
        mistakes.iter().map(ToString::to_string).collect()
    }

    /// What is said of the whole with one field changed.
    fn changed(field: &str, value: Value) -> Vec<String> {
        let mut whole = whole();
        whole[field] = value;
        match read(object(whole)) {
            Ok(_) => Vec::new(),
            Err(mistakes) => mistakes.iter().map(ToString::to_string).collect(),
        }
    }

    #[test]
    fn a_whole_agent_is_read_and_written_as_it_was() {
        let config = read(object(whole())).expect("good");
        let written: Value = serde_json::from_str(&config.to_json()).expect("JSON");
        assert_eq!(written, whole());
        let names: Vec<String> = object(whole()).keys().cloned().collect();
        let mut known = FIELDS.map(str::to_owned);
        known.sort();
        assert_eq!(names, known);
    }

    #[test]
    fn a_name_is_enough() {
        let config = read(object(json!({"agent_name": "Léa", "voice_id": " "}))).expect("good");
        assert_eq!(config.voice_provider, VoiceProvider::ElevenLabs);
        assert!(config.interruption_enabled && !config.sentiment_analysis_enabled);
        assert_eq!(
            (config.voice_id, config.max_conversation_duration),
            (None, None)
        );
        assert_eq!(told(json!({})), ["agent_name is required"]);
        assert_eq!(
            told(json!({"agent_name": null})),
            ["agent_name is required"]
        );
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let bad = json!({
            "agent_name": 7, "voice_provider": "siri", "voice_language": "français", "voice_id": "a b",
            "max_conversation_duration": 0, "interruption_enabled": "yes", "voice_settings": [],
            "greeting_message": "a\u{0}b", "agentName": "x", "y": null,
        });
        assert_eq!(
            told(bad),
            [
                "agent_name must be a string, is a number",
                "voice_provider must be one of elevenlabs, amazon, google",
                "voice_id must hold no spaces or control characters",
                "voice_language must be a language tag, such as fr or fr-FR",
                "greeting_message must hold no control characters but line ends and tabs",
                "voice_settings must be an object, is an array",
                "max_conversation_duration must be a whole number of seconds from 1 to 86400",
                "interruption_enabled must be true or false, is a string",
                "agentName is not a known field",
                "y is not a known field",
            ]
        );
    }

    #[test]
    fn every_text_has_its_bound() {
        for (field, most) in [
            ("agent_name", NAME_MAX_CHARS),
            ("agent_personality", PERSONALITY_MAX_CHARS),
            ("voice_id", VOICE_ID_MAX_CHARS),
            ("greeting_message", MESSAGE_MAX_CHARS),
            ("fallback_message", MESSAGE_MAX_CHARS),
            ("transfer_message", MESSAGE_MAX_CHARS),
            ("system_prompt", PROMPT_MAX_CHARS),
        ] {
            // Characters count, not bytes.
            let long = |count| Value::String("é".repeat(count));
            assert_eq!(changed(field, long(most)), [""; 0], "{field}");
            let expected = format!("{field} has {} characters: {most} are the most", most + 1);
            assert_eq!(changed(field, long(most + 1)), [expected]);
        }
        let language = |text: &str| changed("voice_language", json!(text)).len();
        for good in ["fr", "fr-FR", "zh-Hant-TW", "es-419", "fil"] {
            assert_eq!(language(good), 0, "{good}");
        }
        for bad in [
            "f",
            "french",
            "fr_FR",
            "fr-",
            "-fr",
            "fr-F",
            "12",
            &"fr-abcde".repeat(5),
        ] {
            assert_eq!(language(bad), 1, "{bad}");
        }
    }

    #[test]
    fn the_duration_is_whole_seconds_of_a_day_at_most() {
        let duration = |value: Value| changed("max_conversation_duration", value).len();
        for good in [json!(1), json!(86_400), Value::Null] {
            assert_eq!(duration(good.clone()), 0, "{good}");
        }
        for bad in [
            json!(0),
            json!(-1),
            json!(1.5),
            json!("60"),
            json!(86_401),
            json!(1e30),
        ] {
            assert_eq!(duration(bad.clone()), 1, "{bad}");
        }
    }

    /// Texts of three bytes a letter stay below every bound of characters.
    #[test]
    fn the_whole_is_bounded_in_bytes() {
        let mistakes = changed("system_prompt", json!("語".repeat(PROMPT_MAX_CHARS)));
        let [mistake] = &mistakes[..] else {
            panic!("{mistakes:?}")
        };
        assert!(mistake.starts_with("agent has "), "{mistake}");
        assert!(
            mistake.ends_with("bytes as JSON: 32768 are the most"),
            "{mistake}"
        );
    }

    proptest! {
        #[test]
        fn any_object_is_read_or_refused(
            field in prop::sample::select(&FIELDS[..]),
            text in "\\PC{0,40}",
            number in any::<f64>(),
        ) {
            for value in [json!(text), json!(number), json!([text]), json!({"speed": number, text.clone(): 1})] {
                if let Ok(config) = read(object(json!({"agent_name": "a", field: value}))) {
                    let written = serde_json::from_str(&config.to_json()).expect("JSON");
                    prop_assert_eq!(read(object(written)), Ok(config));
                }
            }
        }
    }
}
