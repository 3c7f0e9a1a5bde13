//! `phone-lines/{id}/register`: try now, instead of when the next try is due.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use super::line_body::{Standing, standing};
use super::lines::{by_holder, missing};
use crate::api::control::Control;
use crate::api::nodes::Asked;
use crate::api::openapi::{Guarded, Missing};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::query::Id;
use crate::core::ids::LineId;
use crate::fleet::LineHealth;

/// A line, and what became of it.
#[derive(Debug, Serialize, ToSchema)]
pub struct RegisterBody {
    id: String,
    #[serde(flatten)]
    standing: Standing,
}

/// Sends REGISTER for a line now, from the bridge that is registered for it. The answer is its state; what the registrar
/// says shows in the line's `state` and `lastError` later.
#[utoipa::path(
    post,
    path = "/api/admin/telephony/phone-lines/{id}/register",
    tag = "admin",
    operation_id = "registerLine",
    params(("id" = String, Path, description = "Id of the line.")),
    responses(
        (status = 202, description = "It is being registered.", body = RegisterBody),
        (status = 409, description = "The line does not register here; the problem says why.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The bridge that is registered for the line does not answer within 2 s; the problem names it.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, Missing,
    ),
)]
pub async fn of_phone_line(
    State(control): State<Arc<Control>>,
    asked: Asked,
    Id(id): Id,
) -> Result<Response, Problem> {
    register(&control, &asked, id).await
}

/// The same under a shorter name.
#[utoipa::path(
    post,
    path = "/api/admin/telephony/lines/{id}/register",
    tag = "admin",
    operation_id = "registerLineToo",
    params(("id" = String, Path, description = "Id of the line.")),
    responses(
        (status = 202, description = "It is being registered.", body = RegisterBody),
        (status = 409, description = "The line does not register here; the problem says why.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The bridge that is registered for the line does not answer within 2 s; the problem names it.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, Missing,
    ),
)]
pub async fn of_line(
    State(control): State<Arc<Control>>,
    asked: Asked,
    Id(id): Id,
) -> Result<Response, Problem> {
    register(&control, &asked, id).await
}

async fn register(control: &Control, asked: &Asked, id: String) -> Result<Response, Problem> {
    if let Some(answer) = by_holder(control, asked, &id).await? {
        return Ok(answer);
    }
    let line = LineId::new(id.as_str());
    if control.registrar.register_now(&line) {
        let standing = standing(&line, control);
        let body = RegisterBody { id, standing };
        return Ok((StatusCode::ACCEPTED, Json(body)).into_response());
    }
    Err(not_registering(control, &line).await)
}

/// Why a line does not register.
async fn not_registering(control: &Control, line: &LineId) -> Problem {
    let conflict = |why: String| Problem::new(ProblemKind::CONFLICT, why);
    if let Some(reason) = control.registrar.status(line).and_then(|it| it.last_error) {
        return conflict(format!("the SIP stack does not take the line: {reason}"));
    }
    match control.lines.health(line) {
        Some(LineHealth::Unusable { reason }) => {
            conflict(format!("the line is unusable: {reason}"))
        }
        Some(LineHealth::Skipped { reason }) => {
            conflict(format!("the line does not register here: {reason}"))
        }
        Some(LineHealth::Twilio) => conflict(
            "the line is Twilio's: it registers nowhere, and Twilio's webhook brings its calls"
                .into(),
        ),
        Some(LineHealth::Usable { .. }) => conflict("the bridge runs with --no-register".into()),
        None if control.lines.get(line).is_some() => {
            conflict("the bridge runs with --no-register".into())
        }
        None => match &control.store {
            Some(store) => match store.line(line.as_str()).await {
                Ok(Some(_)) => conflict("the line is not taken up yet: try again in 5 s".into()),
                Ok(None) => missing(),
                Err(error) => error.into(),
            },
            None => missing(),
        },
    }
}
