//! `/api/calls`: calls placed, and what can be asked of each. A request for a call of another bridge comes
//! here only where that one is gone: see [`super::nodes::pass_on`].

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, LOCATION};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::audit::Changed;
use super::body::JsonObject;
use super::call_body::CallBody;
use super::control::Control;
use super::new_call::{CallInput, CallOrder, destination_mistake};
use super::openapi::{Guarded, Missing, WithBody};
use super::problem::{FieldError, Problem, ProblemKind};
use super::query::Id;
use crate::bridge::call_store::{CallRequest, RequestError};
use crate::bridge::place::{NewCall, PlaceError};
use crate::core::call_object::CallObject;
use crate::core::dialling::NotAllowed;
use crate::core::ids::CallId;
use crate::core::private::Private;
use crate::sip::engine::CallRefused;
use crate::store::CallRecord;

/// Most digits of one request: 32 of them take 10 s to play.
const DIGITS_MAX: usize = 32;

/// Where to.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub struct TransferInput {
    /// A number, or a SIP URI.
    destination: String,
}

/// Which keys.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub struct DtmfInput {
    /// 1 to 32 of 0 to 9, *, #, A to D.
    #[schema(pattern = "^[0-9*#A-Da-d]{1,32}$")]
    digits: String,
}

/// Places a call from one of the lines, and streams it like one that came in.
#[utoipa::path(
    post,
    path = "/api/calls",
    tag = "calls",
    operation_id = "placeCall",
    request_body(content = CallInput, example = json!({
        "to": "+33612345678", "customParams": {"order": "1042"}, "timeoutSec": 30,
    })),
    responses(
        (status = 201, description = "The call, on its way.", body = CallBody,
            headers(("Location" = String, description = "Where it is."))),
        (status = 404, description = "The line went away meanwhile.",
            body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The line has placed its calls of this hour; Retry-After says when the next is possible.",
            body = Problem, content_type = "application/problem+json"),
        (status = 502, description = "The SIP stack did not place it.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "No place for one more call, or the bridge shuts down.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, WithBody,
    ),
)]
pub async fn place(
    State(control): State<Arc<Control>>,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    let fields = CallOrder::fields(&object);
    let order = CallOrder::read(object)?;
    let line = order.choose(&control.lines)?;
    let call = NewCall {
        line: line.id.clone(),
        to: order.to,
        custom_params: order.custom_params,
        ws_target: order.ws_target,
        callback_url: order.callback_url,
        ring_timeout: order.ring_timeout,
        voice: None,
        time_limit: None,
        caller_id: None,
    };
    let call = control.placer.place(call).await.map_err(not_placed)?;
    let mut response = shown(&control, StatusCode::CREATED, &call);
    let location = format!("/api/calls/{}", call.facts.id);
    if let Ok(location) = HeaderValue::from_str(&location) {
        response.headers_mut().insert(LOCATION, location);
    }
    Ok(Changed::made(call.facts.id.as_str(), fields).to(response))
}

/// Shows one call: in progress, ended a moment ago, or of the database.
#[utoipa::path(
    get,
    path = "/api/calls/{sid}",
    tag = "calls",
    operation_id = "getCall",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    responses(
        (status = 200, description = "The call.", body = CallBody),
        (status = 500, description = "The database failed; the log says how.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The database, or the bridge that has the call, does not answer; try again.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, Missing,
    ),
)]
pub async fn get(State(control): State<Arc<Control>>, Id(sid): Id) -> Result<Response, Problem> {
    let sid = CallId::parse(&sid).ok_or_else(missing)?;
    if let Some(call) = control.calls.get(&sid) {
        return Ok(shown(&control, StatusCode::OK, &call));
    }
    let record = match &control.store {
        Some(store) => store.call(&sid).await?,
        None => None,
    };
    let record = record.ok_or_else(missing)?;
    let body = CallBody::of_record(&record, SystemTime::now());
    Ok(answer(StatusCode::OK, &body))
}

/// Ends a call: CANCEL before the answer, BYE after it.
#[utoipa::path(
    delete,
    path = "/api/calls/{sid}",
    tag = "calls",
    operation_id = "hangUp",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    responses(
        (status = 200, description = "The call; its end shows a moment later.", body = CallBody),
        Guarded, Missing, CommandAnswers,
    ),
)]
pub async fn hang_up(
    State(control): State<Arc<Control>>,
    Id(sid): Id,
) -> Result<Response, Problem> {
    ask(&control, &sid, CallRequest::Hangup).await
}

/// Hands the call to another number by REFER (blind transfer). What becomes of
/// it shows in the call's status.
#[utoipa::path(
    post,
    path = "/api/calls/{sid}/transfer",
    tag = "calls",
    operation_id = "transfer",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    request_body(content = TransferInput, example = json!({"destination": "+33612345678"})),
    responses(
        (status = 200, description = "The call; the transfer is on its way.", body = CallBody),
        Guarded, Missing, WithBody, CommandAnswers,
    ),
)]
pub async fn transfer(
    State(control): State<Arc<Control>>,
    Id(sid): Id,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    let destination = only_text(object, "destination", destination_mistake)?;
    let request = CallRequest::Transfer(Private::new(destination.trim()));
    let answer = ask(&control, &sid, request).await?;
    Ok(Changed::fields(vec!["destination"]).to(answer))
}

/// Sends digits (RFC 4733).
#[utoipa::path(
    post,
    path = "/api/calls/{sid}/dtmf",
    tag = "calls",
    operation_id = "dtmf",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    request_body(content = DtmfInput, example = json!({"digits": "12#"})),
    responses(
        (status = 200, description = "The call; the digits are being sent.", body = CallBody),
        Guarded, Missing, WithBody, CommandAnswers,
    ),
)]
pub async fn dtmf(
    State(control): State<Arc<Control>>,
    Id(sid): Id,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    let digits = only_text(object, "digits", digits_mistake)?;
    let answer = ask(&control, &sid, CallRequest::Dtmf(digits)).await?;
    Ok(Changed::fields(vec!["digits"]).to(answer))
}

/// Holds the other side: it hears hold audio, and nothing of it reaches the worker.
#[utoipa::path(
    post,
    path = "/api/calls/{sid}/hold",
    tag = "calls",
    operation_id = "hold",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    responses(
        (status = 200, description = "The call.", body = CallBody),
        Guarded, Missing, CommandAnswers,
    ),
)]
pub async fn hold(State(control): State<Arc<Control>>, Id(sid): Id) -> Result<Response, Problem> {
    ask(&control, &sid, CallRequest::Hold).await
}

/// Takes the other side back.
#[utoipa::path(
    post,
    path = "/api/calls/{sid}/resume",
    tag = "calls",
    operation_id = "resume",
    params(("sid" = String, Path, description = "`sid` of the call.")),
    responses(
        (status = 200, description = "The call.", body = CallBody),
        Guarded, Missing, CommandAnswers,
    ),
)]
pub async fn resume(State(control): State<Arc<Control>>, Id(sid): Id) -> Result<Response, Problem> {
    ask(&control, &sid, CallRequest::Resume).await
}

async fn ask(control: &Control, sid: &str, request: CallRequest) -> Result<Response, Problem> {
    let sid = CallId::parse(sid).ok_or_else(missing)?;
    let calls = &control.calls;
    if let Err(error) = calls.ask(&sid, request).await {
        // Another bridge may have it, or it ended a while ago.
        let record = match (&error, &control.store) {
            (RequestError::Unknown, Some(store)) => store.call(&sid).await?,
            _ => None,
        };
        return Err(match record {
            Some(record) if is_elsewhere(control, &record) => elsewhere(&record.node),
            Some(_) => not_done(RequestError::Over),
            None => not_done(error),
        });
    }
    let call = calls.get(&sid).ok_or_else(missing)?;
    Ok(shown(control, StatusCode::OK, &call))
}

/// Whether another bridge has the call, as far as its record tells. A call of
/// this one that is not in the store is over, whatever its record lacks.
fn is_elsewhere(control: &Control, record: &CallRecord) -> bool {
    record.call.state.ended.is_none() && control.node != record.node
}

fn elsewhere(node: &str) -> Problem {
    let text = format!("the call is at the bridge {node:?}: ask that one");
    Problem::new(ProblemKind::CONFLICT, text)
}

pub(super) fn not_done(error: RequestError) -> Problem {
    let text = error.to_string();
    match error {
        RequestError::Unknown => missing(),
        RequestError::Over | RequestError::NotNow(_) => Problem::new(ProblemKind::CONFLICT, text),
        RequestError::Invalid(_) => Problem::new(ProblemKind::INVALID, text),
        RequestError::Busy => Problem::new(ProblemKind::TOO_MANY, text).retry_after(1),
        RequestError::NotAllowed(refused) => not_allowed("destination", &refused),
    }
}

/// A destination that the dial policy refuses.
fn not_allowed(field: &str, refused: &NotAllowed) -> Problem {
    let text = refused.to_string();
    match refused {
        NotAllowed::Malformed(malformed) => Problem::field(field, malformed.to_string()),
        NotAllowed::Cap { again_in, .. } => {
            let seconds = u32::try_from(again_in.as_secs()).unwrap_or(u32::MAX);
            Problem::new(ProblemKind::TOO_MANY, text).retry_after(seconds.saturating_add(1))
        }
        _ => Problem::new(ProblemKind::NOT_ALLOWED, text),
    }
}

pub(super) fn not_placed(error: PlaceError) -> Problem {
    let text = error.to_string();
    match error {
        PlaceError::UnknownLine => Problem::new(ProblemKind::NOT_FOUND, text),
        PlaceError::Refused(refusal) => {
            let after = refusal.retry_after.unwrap_or(Duration::from_secs(5));
            let seconds = u32::try_from(after.as_secs().max(1)).unwrap_or(u32::MAX);
            Problem::new(ProblemKind::UNAVAILABLE, text).retry_after(seconds)
        }
        PlaceError::BadTarget(reason) => Problem::field("wsTarget", reason),
        PlaceError::BadCallback(reason) => Problem::field("callbackUrl", reason),
        PlaceError::CallerId => Problem::field("callerId", text),
        PlaceError::NotAllowed(refused) => not_allowed("to", &refused),
        PlaceError::Sip(CallRefused::Full) => {
            Problem::new(ProblemKind::UNAVAILABLE, text).retry_after(5)
        }
        PlaceError::Sip(_) => Problem::new(ProblemKind::SIP, text),
        PlaceError::Closed => Problem::new(ProblemKind::UNAVAILABLE, text).retry_after(30),
    }
}

/// The one field that a request has.
fn only_text(
    mut object: Map<String, Value>,
    field: &'static str,
    mistake: impl Fn(&str) -> Option<&'static str>,
) -> Result<String, Problem> {
    let value = object.remove(field);
    let mut errors: Vec<_> = object
        .keys()
        .map(|name| name.chars().take(64).collect::<String>())
        .map(|name| FieldError::new(name, "is not a known field"))
        .collect();
    let reason = match &value {
        None | Some(Value::Null) => Some("is required and missing"),
        Some(Value::String(text)) => mistake(text),
        Some(_) => Some("must be a string"),
    };
    errors.extend(reason.map(|reason| FieldError::new(field, reason)));
    match value {
        Some(Value::String(text)) if errors.is_empty() => Ok(text),
        _ => Err(Problem::invalid(errors)),
    }
}

fn digits_mistake(digits: &str) -> Option<&'static str> {
    let is_digit = |byte: u8| matches!(byte, b'0'..=b'9' | b'*' | b'#' | b'A'..=b'D' | b'a'..=b'd');
    let fits = (1..=DIGITS_MAX).contains(&digits.len()) && digits.bytes().all(is_digit);
    (!fits).then_some("must be 1 to 32 of 0 to 9, *, #, A to D")
}

fn missing() -> Problem {
    Problem::not_found("call")
}

fn shown(control: &Control, status: StatusCode, call: &CallObject) -> Response {
    let body = CallBody::of(call, &control.node, SystemTime::now());
    answer(status, &body)
}

/// JSON that nobody may keep.
pub(super) fn answer(status: StatusCode, body: &impl Serialize) -> Response {
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    // Strings and numbers only: this cannot fail.
    let body = serde_json::to_vec(body).unwrap_or_default();
    (status, headers, body).into_response()
}

/// What a request to a call's driver may be answered.
pub struct CommandAnswers;

impl utoipa::IntoResponses for CommandAnswers {
    fn responses()
    -> std::collections::BTreeMap<String, utoipa::openapi::RefOr<utoipa::openapi::Response>> {
        super::openapi::problems([
            (
                "409",
                "The call is over, at another bridge, or not at the point where this can be done.",
            ),
            ("422", "The request is at fault."),
            (
                "429",
                "Too many requests wait for this call, or the line has dialled its share of this hour.",
            ),
            ("500", "The database failed; the log says how."),
            (
                "503",
                "The database, or the bridge that has the call, does not answer; try again.",
            ),
        ])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dialling::destination::Malformed;

    #[test]
    fn digits_are_those_of_a_keypad() {
        for good in ["1", "0123456789*#ABCDabcd", &"1".repeat(32)] {
            assert_eq!(digits_mistake(good), None, "{good}");
        }
        for bad in ["", "1 2", "E", "\u{661}", &"1".repeat(33)] {
            assert!(digits_mistake(bad).is_some(), "{bad}");
        }
    }

    #[test]
    fn each_error_has_its_status() {
        for (error, status) in [
            (RequestError::Unknown, 404),
            (RequestError::Over, 409),
            (RequestError::NotNow("no"), 409),
            (RequestError::Invalid("no".into()), 422),
            (RequestError::Busy, 429),
            (NotAllowed::Nothing.into(), 403),
        ] {
            assert_eq!(not_done(error).status(), status);
        }
        use crate::sip::engine::Refusal;
        let refusal = Refusal {
            status: 503,
            retry_after: None,
        };
        for (error, status) in [
            (PlaceError::UnknownLine, 404),
            (PlaceError::Refused(refusal), 503),
            (PlaceError::BadTarget("x".into()), 422),
            (PlaceError::CallerId, 422),
            (NotAllowed::Nothing.into(), 403),
            (NotAllowed::from(Malformed::Empty).into(), 422),
            (
                NotAllowed::Cap {
                    most: 1,
                    again_in: Duration::ZERO,
                }
                .into(),
                429,
            ),
            (PlaceError::Sip(CallRefused::Full), 503),
            (PlaceError::Sip(CallRefused::Failed(String::new())), 502),
            (PlaceError::Closed, 503),
        ] {
            assert_eq!(not_placed(error).status(), status);
        }
    }
}
