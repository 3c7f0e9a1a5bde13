//! `/api/admin/telephony/fallback`: the SIP server of lines that name none.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::api::audit::Changed;
use crate::api::body::JsonObject;
use crate::api::control::Control;
use crate::api::openapi::{Guarded, Stored, WithBody};
use crate::api::problem::{FieldError, Problem};

/// The global fallback server.
#[derive(Debug, Serialize, ToSchema)]
pub struct Fallback {
    /// Id of the SIP server that lines without one use; null for the `--sip-*` flags.
    #[schema(required = true)]
    sip_server_id: Option<String>,
}

/// Shows which SIP server lines use that name none.
#[utoipa::path(
    get,
    path = "/api/admin/telephony/fallback",
    tag = "admin",
    operation_id = "getFallback",
    responses(
        (status = 200, description = "The fallback server.", body = Fallback),
        Guarded, Stored,
    ),
)]
pub async fn get(State(control): State<Arc<Control>>) -> Result<Response, Problem> {
    let sip_server_id = control.store()?.fallback().await?;
    Ok(Json(Fallback { sip_server_id }).into_response())
}

/// Names that SIP server, or none.
#[utoipa::path(
    put,
    path = "/api/admin/telephony/fallback",
    tag = "admin",
    operation_id = "putFallback",
    request_body(content = Fallback, example = json!({"sip_server_id": "ovh"})),
    responses(
        (status = 200, description = "The fallback server as it is now.", body = Fallback),
        Guarded, WithBody, Stored,
    ),
)]
pub async fn put(
    State(control): State<Arc<Control>>,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    let store = control.store()?;
    let mut errors: Vec<_> = object
        .keys()
        .filter(|name| *name != "sip_server_id")
        .map(|name| {
            let name: String = name.chars().take(64).collect();
            FieldError::new(name, "is not a known field")
        })
        .collect();
    let mut at_fault = |reason| errors.push(FieldError::new("sip_server_id", reason));
    let id = match object.get("sip_server_id") {
        Some(Value::String(id)) if !id.is_empty() => Some(id.clone()),
        Some(Value::Number(id)) if !id.is_f64() => Some(id.to_string()),
        Some(Value::Null) => None,
        None => {
            at_fault("is required and missing: an id, or null");
            None
        }
        Some(_) => {
            at_fault("must be the id of a SIP server, or null");
            None
        }
    };
    if let Some(id) = &id {
        if store.server(id).await?.is_none() {
            at_fault("is not the id of a SIP server");
        }
    }
    if !errors.is_empty() {
        return Err(Problem::invalid(errors));
    }
    store.set_fallback(id.as_deref()).await?;
    control.lines.notify_changed();
    let answer = Json(Fallback { sip_server_id: id });
    Ok(Changed::fields(vec!["sip_server_id"]).to(answer))
}
