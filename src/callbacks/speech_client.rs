//! Texts of `<Say>`, spoken by a service that takes OpenAI's `POST /v1/audio/speech`; what was spoken once is kept
//! on disk, where there is a folder for it.

use std::path::PathBuf;
use std::sync::Arc;

use reqwest::header::CONTENT_TYPE;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tracing::warn;

use super::client::{builder, tls};
use super::error::CallbackError;
use super::speech_cache::SpeechCache;
use super::target::CallbackTarget;
use super::voice_client::failure;
use super::voice_sound::sound_of;
use crate::core::private::Secret;
use crate::core::voice::{FETCH_LIMIT, FetchFailure};

/// Longest text that is spoken, in characters: services take no more, and Twilio neither.
pub const TEXT_CHARS_MAX: usize = 4_096;
/// The path of the service, where the address names none.
const PATH: &str = "/v1/audio/speech";

/// Who speaks, and how.
#[derive(Clone, Debug)]
pub struct SpeechSettings {
    /// `--say-url`.
    pub url: Secret,
    /// `--say-key`: sent as a bearer token.
    pub key: Option<Secret>,
    /// `--say-model`.
    pub model: String,
    /// `--say-voice`: the voice of texts that name none that the service could know.
    pub voice: String,
    /// `--say-cache`: where what was spoken is kept.
    pub folder: Option<PathBuf>,
}

/// Has texts spoken. Clones share their connections.
#[derive(Clone, Debug)]
pub struct SpeechClient {
    http: reqwest::Client,
    target: CallbackTarget,
    settings: Arc<SpeechSettings>,
    cache: Option<SpeechCache>,
}

impl SpeechClient {
    /// # Errors
    /// When the address is unusable, or TLS cannot be set up.
    pub fn new(settings: SpeechSettings) -> Result<Self, CallbackError> {
        let http = builder(FETCH_LIMIT, tls(None)?).build();
        Ok(Self {
            http: http.map_err(|error| CallbackError::Client(error.to_string()))?,
            target: CallbackTarget::parse(&address(settings.url.expose()))?,
            cache: settings.folder.clone().map(SpeechCache::new),
            settings: Arc::new(settings),
        })
    }

    /// A WAV file of the spoken text. Takes [`FETCH_LIMIT`] at most. `voice` is as TwiML writes it.
    ///
    /// # Errors
    /// When the service gives none.
    pub async fn speak(&self, text: &str, voice: Option<&str>) -> Result<Vec<u8>, FetchFailure> {
        if text.chars().count() > TEXT_CHARS_MAX {
            let reason = format!("a text of more than {TEXT_CHARS_MAX} characters is not spoken");
            return Err(FetchFailure::NoAnswer(reason));
        }
        let voice = voice.filter(|voice| is_of_service(voice));
        let voice = voice.unwrap_or(&self.settings.voice);
        let name = self.name(text, voice);
        if let Some(cache) = &self.cache
            && let Some(kept) = cache.get(&name).await
        {
            return Ok(kept);
        }
        let spoken = match timeout(FETCH_LIMIT, self.ask(text, voice)).await {
            Ok(spoken) => spoken?,
            Err(_) => return Err(FetchFailure::TimedOut),
        };
        if let Some(cache) = &self.cache {
            cache.put(name, &spoken).await;
        }
        Ok(spoken)
    }

    /// The name of what is kept: of all that makes the sound what it is.
    fn name(&self, text: &str, voice: &str) -> String {
        let mut hash = Sha256::new();
        for part in [
            &self.target.with_query(&[]),
            &self.settings.model,
            voice,
            text,
        ] {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        let bytes = hash.finalize();
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    async fn ask(&self, text: &str, voice: &str) -> Result<Vec<u8>, FetchFailure> {
        let url = self.target.with_query(&[]);
        let url = self.target.with_login(&url);
        let no_url = || FetchFailure::NoAnswer("the address of --say-url cannot be asked".into());
        let body = json!({
            "model": self.settings.model,
            "voice": voice,
            "input": text,
            "response_format": "wav",
        });
        let request = self.http.post(url.ok_or_else(no_url)?);
        let mut request = request
            .header(CONTENT_TYPE, "application/json")
            .body(body.to_string());
        if let Some(key) = &self.settings.key {
            request = request.bearer_auth(key.expose());
        }
        let response = request.send().await.map_err(|error| failure(&error))?;
        if !response.status().is_success() {
            let status = response.status().as_u16();
            warn!(service = %self.target, status, "--say-url does not speak: see --say-key, --say-model and --say-voice");
            return Err(FetchFailure::Status(status));
        }
        sound_of(response).await
    }
}

/// A base address gets the path of OpenAI's API; one that names a path of its own below `audio/` is whole.
fn address(url: &str) -> String {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (url, String::new()),
    };
    let base = base.trim_end_matches('/');
    let path = if base.ends_with("/audio/speech") {
        ""
    } else if base.ends_with("/v1") {
        &PATH["/v1".len()..]
    } else {
        PATH
    };
    format!("{base}{path}{query}")
}

/// Twilio's own voices (`man`, `alice`, `Polly.Joanna`, `Google.en-US-Standard-A`) are no voices of other services.
fn is_of_service(voice: &str) -> bool {
    let is_old = |old: &str| voice.eq_ignore_ascii_case(old);
    !voice.is_empty() && !voice.contains('.') && !["man", "woman", "alice"].into_iter().any(is_old)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_be_a_base_or_whole() {
        for (given, whole) in [
            (
                "https://api.openai.com",
                "https://api.openai.com/v1/audio/speech",
            ),
            ("http://h:8000/", "http://h:8000/v1/audio/speech"),
            ("http://h/v1", "http://h/v1/audio/speech"),
            (
                "http://h/tts/audio/speech?k=1",
                "http://h/tts/audio/speech?k=1",
            ),
            ("http://h/tts?k=1", "http://h/tts/v1/audio/speech?k=1"),
        ] {
            assert_eq!(address(given), whole);
        }
    }

    #[test]
    fn twilios_own_voices_are_the_default_one() {
        for voice in [
            "alice",
            "Man",
            "WOMAN",
            "Polly.Joanna-Neural",
            "Google.fr-FR-A",
            "",
        ] {
            assert!(!is_of_service(voice), "{voice}");
        }
        for voice in ["nova", "af_bella", "fr-siwis-medium"] {
            assert!(is_of_service(voice), "{voice}");
        }
    }
}
