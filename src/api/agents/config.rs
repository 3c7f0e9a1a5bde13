//! `/api/v1/omnichannel/agent/config`: the agent of a tenant.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::{Agents, OfAgents};
use crate::api::audit::Changed;
use crate::api::body::JsonObject;
use crate::api::openapi::{Guarded, Missing, WithBody, WithQuery};
use crate::api::problem::{FieldError, Problem};
use crate::api::query::Query;
use crate::core::agents::{AgentConfig, AgentMistake, FIELDS, TenantId, read};

/// How the worker of a tenant's calls is to speak. What is null is not set.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = AgentConfig)]
pub struct AgentBody {
    /// 1 to 100 characters.
    agent_name: String,
    /// At most 2,000 characters.
    agent_personality: Option<String>,
    /// elevenlabs (the default), amazon or google.
    voice_provider: Option<&'static str>,
    /// Which voice of the provider; at most 200 characters without spaces.
    voice_id: Option<String>,
    /// A language tag, such as fr or fr-FR.
    voice_language: Option<String>,
    /// At most 1,000 characters.
    greeting_message: Option<String>,
    /// At most 1,000 characters.
    fallback_message: Option<String>,
    /// At most 1,000 characters.
    transfer_message: Option<String>,
    /// At most 16,000 characters.
    system_prompt: Option<String>,
    /// For every provider `model_id` and `speed` (0.25 to 4). elevenlabs: `stability`, `similarity_boost`,
    /// `style` (0 to 1), `use_speaker_boost`. google: `speaking_rate` (0.25 to 4), `pitch` (-20 to 20),
    /// `volume_gain_db` (-96 to 16). amazon: `engine` (standard, neural, long-form, generative).
    #[schema(value_type = Option<Object>)]
    voice_settings: Option<Value>,
    /// Longest call in seconds from its answer, 1 to 86,400; the bridge ends it then. Its own limit counts where it is shorter.
    max_conversation_duration: Option<u32>,
    /// True where it is not given.
    interruption_enabled: Option<bool>,
    /// False where it is not given.
    sentiment_analysis_enabled: Option<bool>,
}

impl From<AgentConfig> for AgentBody {
    fn from(config: AgentConfig) -> Self {
        let settings = config.voice_settings;
        let settings = (!settings.is_empty()).then(|| Value::Object(settings.as_map().clone()));
        Self {
            agent_name: config.agent_name,
            agent_personality: config.agent_personality,
            voice_provider: Some(config.voice_provider.as_str()),
            voice_id: config.voice_id,
            voice_language: config.voice_language,
            greeting_message: config.greeting_message,
            fallback_message: config.fallback_message,
            transfer_message: config.transfer_message,
            system_prompt: config.system_prompt,
            voice_settings: settings,
            max_conversation_duration: config.max_conversation_duration,
            interruption_enabled: Some(config.interruption_enabled),
            sentiment_analysis_enabled: Some(config.sentiment_analysis_enabled),
        }
    }
}

impl From<AgentMistake> for FieldError {
    fn from(mistake: AgentMistake) -> Self {
        Self::new(mistake.field, mistake.reason)
    }
}

/// `tenantId`, the one parameter of these routes.
fn tenant(mut query: Query) -> Result<TenantId, Problem> {
    const NAME: &str = "tenantId";
    const REQUIRED: &str = "is required: the restaurantId of the tenant's lines";
    let text = query.text(NAME);
    let tenant = text.as_deref().and_then(TenantId::parse);
    match (&text, &tenant) {
        (None, _) => query.mistake(NAME, REQUIRED),
        (Some(_), None) => query.mistake(
            NAME,
            "must be 1 to 128 characters without control characters",
        ),
        (Some(_), Some(_)) => {}
    }
    query.finish()?;
    tenant.ok_or_else(|| Problem::field(NAME, REQUIRED))
}

/// Shows the agent of a tenant.
#[utoipa::path(
    get,
    path = "/api/v1/omnichannel/agent/config",
    tag = "agents",
    operation_id = "getAgent",
    params(("tenantId" = String, Query, description = "The tenant: `restaurantId` of its lines.")),
    responses(
        (status = 200, description = "The agent.", body = AgentBody),
        Guarded, Missing, WithQuery, OfAgents,
    ),
)]
pub async fn get(Agents(agents): Agents, query: Query) -> Result<Response, Problem> {
    let tenant = tenant(query)?;
    let config = agents.get(&tenant).await?;
    let config = config.ok_or_else(|| Problem::not_found("agent"))?;
    Ok(Json(AgentBody::from(config)).into_response())
}

/// Gives a tenant an agent, in the place of the one that it had: what is not given is not set. Calls that
/// begin from now on have it; those of other bridges on the same database within 5 s.
#[utoipa::path(
    put,
    path = "/api/v1/omnichannel/agent/config",
    tag = "agents",
    operation_id = "putAgent",
    params(("tenantId" = String, Query, description = "The tenant: `restaurantId` of its lines.")),
    request_body(content = AgentBody, example = json!({
        "agent_name": "Léa", "voice_provider": "elevenlabs", "voice_language": "fr-FR",
        "greeting_message": "Bonjour, ici Chez Léon.", "max_conversation_duration": 600,
    })),
    responses(
        (status = 200, description = "The agent as it is now.", body = AgentBody),
        Guarded, WithBody, OfAgents,
    ),
)]
pub async fn put(
    Agents(agents): Agents,
    query: Query,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    let tenant = tenant(query)?;
    let given = FIELDS.into_iter();
    let given: Vec<&'static str> = given.filter(|name| object.contains_key(*name)).collect();
    let config = read(object).map_err(|mistakes| {
        Problem::invalid(mistakes.into_iter().map(FieldError::from).collect())
    })?;
    agents.put(&tenant, config.clone()).await?;
    let answer = Json(AgentBody::from(config));
    Ok(Changed::made(tenant.as_str(), given).to(answer))
}

/// Takes a tenant's agent away.
#[utoipa::path(
    delete,
    path = "/api/v1/omnichannel/agent/config",
    tag = "agents",
    operation_id = "removeAgent",
    params(("tenantId" = String, Query, description = "The tenant: `restaurantId` of its lines.")),
    responses(
        (status = 204, description = "It is gone."),
        Guarded, Missing, WithQuery, OfAgents,
    ),
)]
pub async fn remove(Agents(agents): Agents, query: Query) -> Result<Response, Problem> {
    let tenant = tenant(query)?;
    if !agents.delete(&tenant).await? {
        return Err(Problem::not_found("agent"));
    }
    Ok(Changed::made(tenant.as_str(), Vec::new()).to(StatusCode::NO_CONTENT))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// What is shown can be sent again.
    #[test]
    fn an_answer_is_a_request() {
        for given in [
            json!({"agent_name": "a"}),
            json!({"agent_name": "a", "voice_provider": "amazon", "voice_settings": {"engine": "neural"},
                "max_conversation_duration": 60, "interruption_enabled": false, "system_prompt": "x"}),
        ] {
            let object = |value: Value| match value {
                Value::Object(object) => object,
                other => panic!("no object: {other}"),
            };
            let config = read(object(given)).expect("good");
            let shown = serde_json::to_value(AgentBody::from(config.clone())).expect("JSON");
            let mut names: Vec<_> = FIELDS.to_vec();
            names.sort_unstable();
            assert_eq!(object(shown.clone()).keys().collect::<Vec<_>>(), names);
            assert_eq!(read(object(shown)), Ok(config));
        }
    }
}
