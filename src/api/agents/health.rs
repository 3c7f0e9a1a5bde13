//! `/api/v1/omnichannel/health`: whether agents can be had now.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{Agents, OfAgents};
use crate::api::control::Control;
use crate::api::openapi::Guarded;
use crate::api::problem::Problem;
use crate::store::StoreError;

/// How long the database may take.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// Agents can be had.
#[derive(Debug, Serialize, ToSchema)]
pub struct AgentsHealth {
    /// ok; what is not is answered as a problem.
    status: &'static str,
    /// Whether there is a provider's key, so that voices can be asked for.
    voices: bool,
}

/// Tells whether agents can be had: they are on, and the database answers within 1 s.
#[utoipa::path(
    get,
    path = "/api/v1/omnichannel/health",
    tag = "agents",
    operation_id = "agentsHealth",
    responses(
        (status = 200, description = "They can.", body = AgentsHealth),
        Guarded, OfAgents,
    ),
)]
pub async fn answer(
    Agents(agents): Agents,
    State(control): State<Arc<Control>>,
) -> Result<Response, Problem> {
    let probed = timeout(ANSWER_MAX, agents.probe()).await;
    probed.unwrap_or_else(|_| Err(StoreError::no_answer("looking for agents")))?;
    let health = AgentsHealth {
        status: "ok",
        voices: control.voices.is_some(),
    };
    Ok(Json(health).into_response())
}
