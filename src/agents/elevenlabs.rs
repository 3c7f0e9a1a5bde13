//! What ElevenLabs answers, read: of each voice and model what somebody needs who
//! chooses one. Fields that are not there are null; an entry without an id is left out.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

/// Most voices or models of an answer.
pub const ENTRIES_MAX: usize = 2_000;

/// A voice.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Voice {
    /// For `voice_id` of an agent.
    pub voice_id: String,
    /// What it is called.
    #[serde(default, deserialize_with = "text")]
    pub name: Option<String>,
    /// `premade`, `cloned`, `professional`, …
    #[serde(default, deserialize_with = "text")]
    pub category: Option<String>,
    /// How it sounds.
    #[serde(default, deserialize_with = "text")]
    pub description: Option<String>,
    /// Where it can be heard.
    #[serde(default, deserialize_with = "text")]
    pub preview_url: Option<String>,
    #[serde(default)]
    labels: Value,
    #[serde(default)]
    verified_languages: Value,
}

impl Voice {
    /// A label, such as `gender`, `accent` or `age`.
    #[must_use]
    pub fn label(&self, name: &str) -> Option<&str> {
        self.labels.get(name).and_then(Value::as_str)
    }

    /// The languages that it is known to speak, as the provider writes them: its own
    /// first, each once.
    #[must_use]
    pub fn languages(&self) -> Vec<&str> {
        let verified = self.verified_languages.as_array();
        let verified = verified.into_iter().flatten();
        let verified = verified.filter_map(|it| it.get("language").and_then(Value::as_str));
        let mut languages: Vec<&str> = Vec::new();
        for language in self.label("language").into_iter().chain(verified) {
            if !languages.contains(&language) {
                languages.push(language);
            }
        }
        languages
    }

    /// Whether it speaks a language: `fr-FR` is asked for by `fr` and by `fr-FR`, and
    /// spoken by who speaks `fr`.
    #[must_use]
    pub fn speaks(&self, language: &str) -> bool {
        let wanted = primary(language);
        let mut languages = self.languages().into_iter();
        languages.any(|spoken| primary(spoken).eq_ignore_ascii_case(wanted))
    }
}

/// The language of a tag, without its region.
fn primary(tag: &str) -> &str {
    tag.split(['-', '_']).next().unwrap_or(tag)
}

/// A model that makes speech.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Model {
    /// For `model_id` of an agent's `voice_settings`.
    pub model_id: String,
    /// What it is called.
    #[serde(default, deserialize_with = "text")]
    pub name: Option<String>,
    /// What it is good for.
    #[serde(default, deserialize_with = "text")]
    pub description: Option<String>,
    #[serde(default)]
    can_do_text_to_speech: Option<bool>,
    #[serde(default)]
    languages: Value,
}

impl Model {
    /// The languages that it speaks.
    #[must_use]
    pub fn languages(&self) -> Vec<&str> {
        let languages = self.languages.as_array().into_iter().flatten();
        let ids = languages.filter_map(|it| it.get("language_id").and_then(Value::as_str));
        ids.collect()
    }
}

/// A text; anything else counts as not there.
fn text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_str().map(str::to_owned))
}

/// `GET /v1/voices`.
pub(super) fn voices(body: &[u8]) -> Option<Vec<Voice>> {
    let mut answer: Value = serde_json::from_slice(body).ok()?;
    let voices = answer.get_mut("voices").map(Value::take)?;
    entries(voices)
}

/// `GET /v1/voices/{id}`.
pub(super) fn voice(body: &[u8]) -> Option<Voice> {
    serde_json::from_slice(body).ok()
}

/// `GET /v1/models`: those that make speech.
pub(super) fn models(body: &[u8]) -> Option<Vec<Model>> {
    let models = entries::<Model>(serde_json::from_slice(body).ok()?)?;
    let speaks = |model: &Model| model.can_do_text_to_speech != Some(false);
    Some(models.into_iter().filter(speaks).collect())
}

fn entries<T: for<'de> Deserialize<'de>>(list: Value) -> Option<Vec<T>> {
    let Value::Array(list) = list else {
        return None;
    };
    let read = list.into_iter();
    let read = read.filter_map(|entry| serde_json::from_value(entry).ok());
    Some(read.take(ENTRIES_MAX).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn voices_are_read_and_chosen_by_language() {
        let body = json!({"voices": [
            {"voice_id": "a", "name": "Rachel", "category": "premade", "labels": {"gender": "female", "language": "en"},
                "verified_languages": [{"language": "fr", "locale": "fr-FR"}, {"language": "en"}, 7], "samples": null},
            {"voice_id": "b", "name": 7, "labels": null, "verified_languages": null},
            {"name": "without an id"}, 7,
        ], "has_more": false});
        let voices = voices(body.to_string().as_bytes()).expect("voices");
        assert_eq!(voices.len(), 2);
        let rachel = &voices[0];
        assert_eq!(rachel.label("gender"), Some("female"));
        assert_eq!(rachel.languages(), ["en", "fr"]);
        assert!(
            ["fr", "fr-FR", "FR-ca", "en"]
                .iter()
                .all(|it| rachel.speaks(it))
        );
        assert!(!rachel.speaks("de") && !rachel.speaks("f"));
        assert_eq!(
            (voices[1].name.as_deref(), voices[1].languages().len()),
            (None, 0)
        );
    }

    #[test]
    fn models_that_make_no_speech_are_left_out() {
        let body = json!([
            {"model_id": "m", "name": "M", "can_do_text_to_speech": true, "languages": [{"language_id": "en", "name": "English"}]},
            {"model_id": "v", "can_do_text_to_speech": false}, {"model_id": "old"},
        ]);
        let models = models(body.to_string().as_bytes()).expect("models");
        let ids: Vec<_> = models.iter().map(|model| &*model.model_id).collect();
        assert_eq!(ids, ["m", "old"]);
        assert_eq!(models[0].languages(), ["en"]);
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for body in ["", "{}", "[]", "{\"voices\": {}}", "<html>"] {
            assert_eq!(voices(body.as_bytes()), None, "{body}");
        }
        assert_eq!(models(b"{}"), None);
        assert_eq!(voice(b"{}"), None);
    }
}
