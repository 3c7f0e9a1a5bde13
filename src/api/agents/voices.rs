//! `/api/v1/omnichannel/agent/voices` and `/agent/models`: what an agent can be
//! given to speak with, as its provider says.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::RefOr;
use utoipa::{IntoResponses, ToSchema};

use super::Agents;
use crate::agents::elevenlabs::{Model, Voice};
use crate::agents::{Voices, VoicesError};
use crate::api::control::Control;
use crate::api::openapi::{Guarded, Missing, WithQuery, problems};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::query::{Id, Query};

const PROVIDER: &str = "elevenlabs";
/// Longest id of a voice.
const ID_MAX: usize = 100;
/// Longest language tag (RFC 5646, 4.4.1).
const LANGUAGE_MAX: usize = 35;

/// A voice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Voice)]
pub struct VoiceBody {
    /// For `voice_id` of an agent.
    voice_id: String,
    name: Option<String>,
    /// elevenlabs.
    provider: &'static str,
    /// premade, cloned, professional or as the provider says.
    category: Option<String>,
    /// The languages that it is known to speak.
    languages: Vec<String>,
    gender: Option<String>,
    accent: Option<String>,
    age: Option<String>,
    description: Option<String>,
    /// Where it can be heard.
    preview_url: Option<String>,
}

/// The voices.
#[derive(Debug, Serialize, ToSchema)]
pub struct VoiceList {
    voices: Vec<VoiceBody>,
}

/// A model that makes speech.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = VoiceModel)]
pub struct ModelBody {
    /// For `model_id` of an agent's `voice_settings`.
    model_id: String,
    name: Option<String>,
    /// elevenlabs.
    provider: &'static str,
    description: Option<String>,
    languages: Vec<String>,
}

/// The models.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    models: Vec<ModelBody>,
}

impl From<&Voice> for VoiceBody {
    fn from(voice: &Voice) -> Self {
        let label = |name| voice.label(name).map(str::to_owned);
        Self {
            voice_id: voice.voice_id.clone(),
            name: voice.name.clone(),
            provider: PROVIDER,
            category: voice.category.clone(),
            languages: owned(&voice.languages()),
            gender: label("gender"),
            accent: label("accent"),
            age: label("age"),
            description: voice.description.clone(),
            preview_url: voice.preview_url.clone(),
        }
    }
}

impl From<&Model> for ModelBody {
    fn from(model: &Model) -> Self {
        Self {
            model_id: model.model_id.clone(),
            name: model.name.clone(),
            provider: PROVIDER,
            description: model.description.clone(),
            languages: owned(&model.languages()),
        }
    }
}

fn owned(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|text| (*text).to_owned()).collect()
}

/// The provider, where agents are on and its key is given.
pub struct Provider(Voices);

impl FromRequestParts<Arc<Control>> for Provider {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut Parts,
        control: &Arc<Control>,
    ) -> Result<Self, Problem> {
        let _on = Agents::from_request_parts(parts, control).await?;
        match &control.voices {
            Some(voices) => Ok(Self(voices.clone())),
            None => Err(VoicesError::NoKey.into()),
        }
    }
}

impl From<VoicesError> for Problem {
    fn from(error: VoicesError) -> Self {
        if error != VoicesError::NoKey && error != VoicesError::Missing {
            tracing::warn!(%error, "a request for voices failed");
        }
        let detail = error.to_string();
        match error {
            VoicesError::NoKey => Self::new(ProblemKind::NO_PROVIDER, detail),
            VoicesError::Missing => Self::not_found("voice"),
            error if error.is_transient() => {
                Self::new(ProblemKind::UNAVAILABLE, detail).retry_after(5)
            }
            _ => Self::new(ProblemKind::PROVIDER, detail),
        }
    }
}

/// What any request to the provider may be answered.
pub struct OfProvider;

impl IntoResponses for OfProvider {
    fn responses() -> BTreeMap<String, RefOr<utoipa::openapi::Response>> {
        problems([
            (
                "502",
                "The provider does not take the key, or its answer is of no use.",
            ),
            (
                "503",
                "The bridge runs without --agents or without the provider's key, or the provider does not answer within 10 s.",
            ),
        ])
    }
}

/// Lists the voices that the provider has, as it said within the last ten minutes.
#[utoipa::path(
    get,
    path = "/api/v1/omnichannel/agent/voices",
    tag = "agents",
    operation_id = "listVoices",
    params(
        ("language" = Option<String>, Query, description = "Only voices that are known to speak it: `fr` or `fr-FR`; the region does not matter."),
    ),
    responses(
        (status = 200, description = "The voices.", body = VoiceList),
        Guarded, WithQuery, OfProvider,
    ),
)]
pub async fn list(Provider(voices): Provider, mut query: Query) -> Result<Response, Problem> {
    const REASON: &str = "must be a language tag, such as fr or fr-FR";
    let language = query.parsed("language", REASON, |text| {
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        let fits = (2..=LANGUAGE_MAX).contains(&text.len()) && text.bytes().all(is_part);
        fits.then(|| text.to_owned())
    });
    query.finish()?;
    let all = voices.all().await?;
    let wanted = all.iter().filter(|voice| {
        let language = language.as_ref();
        language.is_none_or(|language| voice.speaks(language))
    });
    let voices = wanted.map(VoiceBody::from).collect();
    Ok(Json(VoiceList { voices }).into_response())
}

/// Shows one voice.
#[utoipa::path(
    get,
    path = "/api/v1/omnichannel/agent/voices/{voiceId}",
    tag = "agents",
    operation_id = "getVoice",
    params(("voiceId" = String, Path, description = "`voice_id` of the voice.")),
    responses(
        (status = 200, description = "The voice.", body = VoiceBody),
        Guarded, Missing, OfProvider,
    ),
)]
pub async fn get(Provider(voices): Provider, Id(id): Id) -> Result<Response, Problem> {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if id.len() > ID_MAX || !id.bytes().all(is_part) {
        return Err(VoicesError::Missing.into());
    }
    let voice = voices.one(&id).await?;
    Ok(Json(VoiceBody::from(&*voice)).into_response())
}

/// Lists the provider's models that make speech, as it said within the last ten minutes.
#[utoipa::path(
    get,
    path = "/api/v1/omnichannel/agent/models",
    tag = "agents",
    operation_id = "listVoiceModels",
    responses(
        (status = 200, description = "The models.", body = ModelList),
        Guarded, OfProvider,
    ),
)]
pub async fn models(Provider(voices): Provider) -> Result<Response, Problem> {
    let models = voices.models().await?;
    let models = models.iter().map(ModelBody::from).collect();
    Ok(Json(ModelList { models }).into_response())
}
