//! The configuration of an agent, field by field.
//!
//! Its names are those of the API, of the database and of what the worker gets:
//! there is one JSON of it. A value that is not given is absent from it.

use std::fmt;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::voice_settings::VoiceSettings;

/// Who makes the voice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum VoiceProvider {
    /// ElevenLabs.
    ElevenLabs,
    /// Amazon Polly.
    Amazon,
    /// Google Cloud Text-to-Speech.
    Google,
}

impl VoiceProvider {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ElevenLabs, Self::Amazon, Self::Google];

    /// The name in JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ElevenLabs => "elevenlabs",
            Self::Amazon => "amazon",
            Self::Google => "google",
        }
    }

    /// The provider of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|it| it.as_str() == name)
    }
}

/// How the worker of a tenant's calls is to speak. Made by [`read`](super::read::read)
/// alone, which holds every field to its bounds. `Debug` shows the name alone: prompts
/// are the tenant's own.
#[derive(Clone, PartialEq, Serialize)]
pub struct AgentConfig {
    /// What the agent is called.
    pub agent_name: String,
    /// Its manner, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_personality: Option<String>,
    /// Who makes its voice.
    pub voice_provider: VoiceProvider,
    /// Which voice of the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice_id: Option<String>,
    /// The language it speaks: a BCP 47 tag such as `fr-FR`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub voice_language: Option<String>,
    /// Said to whoever calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub greeting_message: Option<String>,
    /// Said where the agent cannot go on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fallback_message: Option<String>,
    /// Said before the call is transferred.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transfer_message: Option<String>,
    /// Instructions for the language model.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub system_prompt: Option<String>,
    /// What the voice is told beside the text.
    #[serde(skip_serializing_if = "VoiceSettings::is_empty")]
    pub voice_settings: VoiceSettings,
    /// Longest call, in seconds from its answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_conversation_duration: Option<u32>,
    /// Whether the caller may interrupt the agent.
    pub interruption_enabled: bool,
    /// Whether the caller's mood is judged.
    pub sentiment_analysis_enabled: bool,
}

impl AgentConfig {
    /// As JSON, without spaces.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Strings, finite numbers and booleans: nothing that JSON lacks.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AgentConfig")
            .field("agent_name", &self.agent_name)
            .finish_non_exhaustive()
    }
}

/// An agent as calls have it: its configuration, and its JSON, written once for
/// all of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Agent {
    config: AgentConfig,
    json: AgentJson,
}

/// Not shown by `Debug`.
#[derive(Clone, PartialEq)]
struct AgentJson(String);

impl fmt::Debug for AgentJson {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Agent {
    /// An agent that is configured so.
    #[must_use]
    pub fn new(config: AgentConfig) -> Self {
        let json = AgentJson(config.to_json());
        Self { config, json }
    }

    /// How it is configured.
    #[must_use]
    pub const fn config(&self) -> &AgentConfig {
        &self.config
    }

    /// The configuration as JSON: `customParameters.agent`.
    #[must_use]
    pub fn json(&self) -> &str {
        &self.json.0
    }

    /// The longest call: the shorter of the agent's own limit and this one.
    #[must_use]
    pub fn longest_call(&self, limit: Option<Duration>) -> Option<Duration> {
        let own = self.config.max_conversation_duration;
        let own = own.map(|seconds| Duration::from_secs(seconds.into()));
        own.into_iter().chain(limit).min()
    }
}

/// The `agent` of a job.
impl Serialize for Agent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.config.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::agents::read;
    use serde_json::{Value, json};

    fn agent(value: &Value) -> Agent {
        let object = value.as_object().expect("an object").clone();
        Agent::new(read(object).expect("good"))
    }

    #[test]
    fn its_json_has_what_was_given_and_nothing_that_was_not() {
        let given = json!({"agent_name": "Léa", "voice_provider": "google", "interruption_enabled": false,
            "voice_settings": {"pitch": -2}, "greeting_message": null});
        let agent = agent(&given);
        let written: Value = serde_json::from_str(agent.json()).expect("JSON");
        assert_eq!(
            written,
            json!({"agent_name": "Léa", "voice_provider": "google",
                "voice_settings": {"pitch": -2}, "interruption_enabled": false,
                "sentiment_analysis_enabled": false})
        );
        assert_eq!(serde_json::to_value(&agent).expect("JSON"), written);
        let again = read(written.as_object().expect("an object").clone());
        assert_eq!(again.as_ref(), Ok(agent.config()));
    }

    #[test]
    fn the_shorter_limit_counts() {
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        let short = agent(&json!({"agent_name": "a", "max_conversation_duration": 60}));
        assert_eq!(short.longest_call(None), seconds(60));
        assert_eq!(short.longest_call(seconds(90)), seconds(60));
        assert_eq!(short.longest_call(seconds(30)), seconds(30));
        let endless = agent(&json!({"agent_name": "a"}));
        assert_eq!(endless.longest_call(seconds(30)), seconds(30));
        assert_eq!(endless.longest_call(None), None);
    }

    #[test]
    fn debug_output_shows_no_prompt() {
        let agent = agent(&json!({"agent_name": "Léa", "system_prompt": "hush"}));
        let shown = format!("{agent:?}");
        assert!(shown.contains("Léa") && !shown.contains("hush"), "{shown}");
    }
}
