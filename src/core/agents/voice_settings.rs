//! What a voice can be told beside its text: each setting with its bounds, and
//! the providers that know it. What a worker's provider would refuse in
//! mid-call is refused here, when it is written.

use serde::{Serialize, Serializer};
use serde_json::{Map, Number, Value};

use super::config::VoiceProvider;
use super::read::{AgentMistake, NOT_KNOWN};
use crate::core::json_type::type_name;

/// Longest text of a setting.
const TEXT_MAX_CHARS: usize = 100;

/// What a setting may be.
enum Kind {
    /// A number from one to another.
    Number(f64, f64),
    /// true or false.
    Flag,
    /// One of some words.
    OneOf(&'static [&'static str]),
    /// A short text without spaces.
    Name,
}

/// One setting.
struct Setting {
    name: &'static str,
    kind: Kind,
    /// Who knows it.
    providers: &'static [VoiceProvider],
}

const fn setting(name: &'static str, kind: Kind, providers: &'static [VoiceProvider]) -> Setting {
    Setting {
        name,
        kind,
        providers,
    }
}

const EVERY: &[VoiceProvider] = &VoiceProvider::ALL;
const ELEVENLABS: &[VoiceProvider] = &[VoiceProvider::ElevenLabs];
const GOOGLE: &[VoiceProvider] = &[VoiceProvider::Google];
const AMAZON: &[VoiceProvider] = &[VoiceProvider::Amazon];
const ENGINES: &[&str] = &["standard", "neural", "long-form", "generative"];

/// All settings: of ElevenLabs' `voice_settings`, Google's `AudioConfig` and
/// Amazon's `Engine`.
const SETTINGS: &[Setting] = &[
    setting("model_id", Kind::Name, EVERY),
    setting("speed", Kind::Number(0.25, 4.0), EVERY),
    setting("stability", Kind::Number(0.0, 1.0), ELEVENLABS),
    setting("similarity_boost", Kind::Number(0.0, 1.0), ELEVENLABS),
    setting("style", Kind::Number(0.0, 1.0), ELEVENLABS),
    setting("use_speaker_boost", Kind::Flag, ELEVENLABS),
    setting("speaking_rate", Kind::Number(0.25, 4.0), GOOGLE),
    setting("pitch", Kind::Number(-20.0, 20.0), GOOGLE),
    setting("volume_gain_db", Kind::Number(-96.0, 16.0), GOOGLE),
    setting("engine", Kind::OneOf(ENGINES), AMAZON),
];

/// The settings of a voice, each known and within its bounds.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VoiceSettings(Map<String, Value>);

impl VoiceSettings {
    /// Takes what is right, and reports the rest as `voice_settings.name`. A null
    /// counts as not given. Which settings a voice has depends on its provider;
    /// where that is itself at fault there is none, and only the bounds are judged.
    pub(super) fn read(
        given: Map<String, Value>,
        provider: Option<VoiceProvider>,
        mistakes: &mut Vec<AgentMistake>,
    ) -> Self {
        let mut kept = Map::new();
        for (name, value) in given {
            if value.is_null() {
                continue;
            }
            match judge(&name, &value, provider) {
                Ok(()) => drop(kept.insert(name, value)),
                Err(reason) => {
                    let field = format!("voice_settings.{name}");
                    mistakes.push(AgentMistake::new(&field, reason));
                }
            }
        }
        Self(kept)
    }

    /// Whether nothing is set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The settings by name.
    #[must_use]
    pub const fn as_map(&self) -> &Map<String, Value> {
        &self.0
    }
}

impl Serialize for VoiceSettings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

fn judge(name: &str, value: &Value, provider: Option<VoiceProvider>) -> Result<(), String> {
    let known = SETTINGS.iter().find(|setting| setting.name == name);
    let setting = known.ok_or(NOT_KNOWN)?;
    if let Some(provider) = provider.filter(|it| !setting.providers.contains(it)) {
        return Err(format!("is no setting of {}", provider.as_str()));
    }
    let is = type_name(value);
    match (&setting.kind, value) {
        (Kind::Flag, Value::Bool(_)) => Ok(()),
        (Kind::Flag, _) => Err(format!("must be true or false, is {is}")),
        (Kind::Number(least, most), Value::Number(number)) if is_within(number, *least, *most) => {
            Ok(())
        }
        (Kind::Number(least, most), Value::Number(_)) => {
            Err(format!("must be a number from {least} to {most}"))
        }
        (Kind::Number(least, most), _) => {
            Err(format!("must be a number from {least} to {most}, is {is}"))
        }
        (Kind::OneOf(words), Value::String(text)) if words.contains(&text.as_str()) => Ok(()),
        (Kind::OneOf(words), _) => Err(format!("must be one of {}", words.join(", "))),
        (Kind::Name, Value::String(text)) if is_name(text) => Ok(()),
        (Kind::Name, _) => Err(format!(
            "must be a string of 1 to {TEXT_MAX_CHARS} characters without spaces"
        )),
    }
}

fn is_within(number: &Number, least: f64, most: f64) -> bool {
    number
        .as_f64()
        .is_some_and(|number| (least..=most).contains(&number))
}

fn is_name(text: &str) -> bool {
    let is_odd = |c: char| c.is_whitespace() || c.is_control();
    !text.is_empty() && text.chars().count() <= TEXT_MAX_CHARS && !text.contains(is_odd)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is kept, and what is said of the rest.
    fn read(value: Value, provider: Option<VoiceProvider>) -> (Value, Vec<String>) {
        let Value::Object(given) = value else {
            panic!("no object")
        };
        let mut mistakes = Vec::new();
        let settings = VoiceSettings::read(given, provider, &mut mistakes);
        let told = mistakes.iter().map(ToString::to_string).collect();
        (serde_json::to_value(settings).expect("JSON"), told)
    }

    #[test]
    fn each_provider_has_its_own_settings() {
        for (provider, good) in [
            (
                VoiceProvider::ElevenLabs,
                json!({"stability": 0.5, "similarity_boost": 0.75, "style": 0, "use_speaker_boost": true,
                    "speed": 1.1, "model_id": "eleven_flash_v2_5"}),
            ),
            (
                VoiceProvider::Google,
                json!({"speaking_rate": 1.25, "pitch": -20, "volume_gain_db": 16.0}),
            ),
            (VoiceProvider::Amazon, json!({"engine": "long-form"})),
        ] {
            assert_eq!(read(good.clone(), Some(provider)), (good.clone(), vec![]));
            let others = VoiceProvider::ALL.into_iter().filter(|it| *it != provider);
            for other in others {
                let (_, told) = read(good.clone(), Some(other));
                let refused = format!("is no setting of {}", other.as_str());
                assert!(told.iter().any(|it| it.ends_with(&refused)), "{told:?}");
            }
        }
    }

    #[test]
    fn every_mistake_is_named_with_what_is_right() {
        let bad = json!({"stability": 1.01, "style": "0", "use_speaker_boost": 1, "speed": 0, "model_id": "a b",
            "engine": "steam", "x": 1, "pitch": null});
        let (kept, mut told) = read(bad, None);
        told.sort();
        assert_eq!(kept, json!({}));
        assert_eq!(
            told,
            [
                "voice_settings.engine must be one of standard, neural, long-form, generative",
                "voice_settings.model_id must be a string of 1 to 100 characters without spaces",
                "voice_settings.speed must be a number from 0.25 to 4",
                "voice_settings.stability must be a number from 0 to 1",
                "voice_settings.style must be a number from 0 to 1, is a string",
                "voice_settings.use_speaker_boost must be true or false, is a number",
                "voice_settings.x is not a known field",
            ]
        );
    }
}
