//! `/api/admin/telephony/phone-lines`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::line_body::LineBody;
use super::line_changes::{PASSWORD, TOKEN, change_line, check_server, issues};
use super::password;
use crate::api::audit::Changed;
use crate::api::body::JsonObject;
use crate::api::control::Control;
use crate::api::fields::{GivenFields, Spec};
use crate::api::nodes::Asked;
use crate::api::openapi::{Guarded, Missing, Read, Stored, WithBody, WithQuery};
use crate::api::problem::Problem;
use crate::api::query::{Id, Query};
use crate::core::ids::LineId;
use crate::core::outward::WrittenBy;
use crate::lines::row::{CLIENT_URLS, LINE_COLUMNS};
use crate::lines::{FLAGS_LINE_ID, Row};
use crate::store::Store;

/// What a request may say of a line.
pub(in crate::api) static SPEC: Spec = Spec {
    columns: LINE_COLUMNS,
    read_only: &[
        "createdAt",
        CLIENT_URLS.1,
        "updatedAt",
        "hasPassword",
        "hasTwilioAuthToken",
        "server",
        "transport",
        "rule",
        "state",
        "node",
        "expiresAt",
        "nextTryAt",
        "lastError",
    ],
};
const PATH: &str = "/api/admin/telephony/phone-lines";
/// Stands in for an id that the database will count.
const NEW: &str = "new";

/// What a phone line may be given. PATCH changes what is there: null clears a
/// field, and of `customParameters` only the keys that are given change.
#[derive(ToSchema)]
#[schema(rename_all = "camelCase")]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub struct LineInput {
    /// With POST only; made up when absent.
    id: Option<String>,
    restaurant_id: Option<String>,
    phone_number: Option<String>,
    /// "sip" or "twilio".
    provider: Option<String>,
    sip_domain: Option<String>,
    sip_username: Option<String>,
    /// In clear, or encrypted for this id as `iv:tag:ciphertext`. Stored encrypted.
    sip_password: Option<String>,
    twilio_trunk_sid: Option<String>,
    /// Of a line whose provider is "twilio": verifies its webhooks, and lets us into Twilio's REST API. Stored encrypted.
    twilio_auth_token: Option<String>,
    /// False pauses the line: it unregisters, and its calls go on.
    is_active: Option<bool>,
    sip_server_id: Option<String>,
    max_concurrent_calls: Option<u32>,
    greeting: Option<String>,
    announcement: Option<String>,
    fallback_number: Option<String>,
    /// For `customParameters` of the line's calls.
    #[schema(value_type = Option<Object>)]
    custom_parameters: Option<Value>,
    /// ws:// or wss://: the worker of this line's calls is dialled there. Not beside `voiceUrl`.
    ws_target: Option<String>,
    /// http:// or https://: a bot is asked there what to do with this line's calls, as by --voice-url.
    voice_url: Option<String>,
    /// POST (when absent) or GET.
    voice_method: Option<String>,
    /// Asked where `voiceUrl` gives no TwiML.
    voice_fallback_url: Option<String>,
    /// POST (when absent) or GET.
    voice_fallback_method: Option<String>,
    /// Told, in Twilio's form, when a call that came in is over.
    status_callback: Option<String>,
    /// POST (when absent) or GET.
    status_callback_method: Option<String>,
    /// Which SIP headers (X-… or User-to-User) the INVITE of a call that is placed has, by the names of the customParams that
    /// they are made of. PATCH changes the keys that are given.
    #[schema(value_type = Option<Object>)]
    sip_headers: Option<Value>,
    /// Its name for people.
    friendly_name: Option<String>,
}

/// One page of phone lines, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct LinePage {
    items: Vec<LineBody>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

/// Lists the phone lines: those of the database, or without one those that the
/// bridge was started with. Of a line that another bridge is registered for, its `node` is shown and
/// the state `elsewhere`: no other bridge is asked.
#[utoipa::path(
    get,
    path = "/api/admin/telephony/phone-lines",
    tag = "admin",
    operation_id = "listLines",
    params(
        ("limit" = Option<u32>, Query, description = "Most entries, 1 to 1000; 100 when absent."),
        ("after" = Option<String>, Query, description = "Only ids after this one: `next` of the page before."),
    ),
    responses(
        (status = 200, description = "One page.", body = LinePage),
        Guarded, WithQuery, Read,
    ),
)]
pub async fn list(
    State(control): State<Arc<Control>>,
    mut query: Query,
) -> Result<Response, Problem> {
    let (limit, after) = (query.limit(), query.text("after"));
    query.finish()?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    // One more, to know whether there is one.
    let mut items: Vec<LineBody> = match &control.store {
        Some(store) => {
            let rows = store.lines_page(after.as_deref(), limit + 1).await?;
            rows.iter().map(|row| LineBody::of(row, &control)).collect()
        }
        None => {
            let ids = control.lines.ids(after.as_deref(), wanted + 1);
            let held = ids.iter().filter_map(|id| LineBody::held(id, &control));
            held.collect()
        }
    };
    let has_more = items.len() > wanted;
    items.truncate(wanted);
    let last = items.last().filter(|_| has_more);
    let next = last.map(|line| line.id().to_owned());
    Ok(Json(LinePage { items, next }).into_response())
}

/// Shows one phone line: of the database, or without one of those that the
/// bridge was started with. The line of --sip-username is in no database. Where another bridge is registered
/// for the line, that one answers.
#[utoipa::path(
    get,
    path = "/api/admin/telephony/phone-lines/{id}",
    tag = "admin",
    operation_id = "getLine",
    params(("id" = String, Path, description = "Id of the line.")),
    responses(
        (status = 200, description = "The line.", body = LineBody),
        Guarded, Missing, Read,
        (status = 503, description = "The bridge that is registered for the line does not answer within 2 s, and the problem names it; or the database is away.",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn get(
    State(control): State<Arc<Control>>,
    asked: Asked,
    Id(id): Id,
) -> Result<Response, Problem> {
    if let Some(answer) = by_holder(&control, &asked, &id).await? {
        return Ok(answer);
    }
    let row = match &control.store {
        Some(store) => store.line(&id).await?,
        None => None,
    };
    let body = match row {
        Some(row) => Some(LineBody::of(&row, &control)),
        None if control.store.is_none() || id == FLAGS_LINE_ID => {
            LineBody::held(&LineId::new(id), &control)
        }
        None => None,
    };
    Ok(Json(body.ok_or_else(missing)?).into_response())
}

/// Adds a phone line; the bridge registers it at once.
#[utoipa::path(
    post,
    path = "/api/admin/telephony/phone-lines",
    tag = "admin",
    operation_id = "createLine",
    request_body(content = LineInput, example = json!({
        "phoneNumber": "+33972360682", "sipUsername": "0033972360682",
        "sipPassword": "secret", "sipServerId": "ovh",
    })),
    responses(
        (status = 201, description = "The new line.", body = LineBody,
            headers(("Location" = String, description = "Where it is."))),
        Guarded, WithBody, Stored,
    ),
)]
pub async fn create(
    State(control): State<Arc<Control>>,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    // First of all: it wipes what was sent.
    let mut given = GivenFields::new(object, &SPEC);
    let store = control.store()?;
    let fields = given.names();
    let id = match given.id() {
        Some(id) => Some(store.canonical_line_id(&id).await?),
        None => store.fresh_line_id(),
    };
    let issues = issues(given.object(), id.as_deref().unwrap_or(NEW));
    given.add_issues(issues);
    check_server(store, &mut given).await?;
    match &id {
        Some(id) => password::seal(&control, id, TOKEN, &mut given).await?,
        None if given.take_password(TOKEN).flatten().is_some() => {
            given.refuse(TOKEN, "is encrypted for the line's id, which the database has yet to count: PATCH it once the line is there".into());
        }
        None => {}
    }
    let waiting = password::seal_new(&control, id, PASSWORD.json, &mut given).await?;
    given.check()?;
    let id = match waiting {
        None => store.insert_line(&given.row()).await?,
        Some(password) => {
            let begun = store.begin_line(&given.row()).await?;
            password::insert_counted(&control, begun, password, PASSWORD).await?
        }
    };
    control.lines.notify_changed();
    let body = LineBody::of(&stored(store, &id).await?, &control);
    let location = [(LOCATION, format!("{PATH}/{id}"))];
    let answer = (StatusCode::CREATED, location, Json(body));
    Ok(Changed::made(&id, fields).to(answer))
}

/// Changes the fields that are given; null clears one.
#[utoipa::path(
    patch,
    path = "/api/admin/telephony/phone-lines/{id}",
    tag = "admin",
    operation_id = "changeLine",
    params(("id" = String, Path, description = "Id of the line.")),
    request_body(content = LineInput, example = json!({"isActive": false})),
    responses(
        (status = 200, description = "The line as it is now.", body = LineBody),
        Guarded, Missing, WithBody, Stored,
    ),
)]
pub async fn change(
    State(control): State<Arc<Control>>,
    Id(id): Id,
    JsonObject(object): JsonObject,
) -> Result<Response, Problem> {
    // First of all: it wipes what was sent.
    let given = GivenFields::new(object, &SPEC);
    let fields = given.names();
    let row = change_line(&control, &id, given, WrittenBy::Operator).await?;
    let body = LineBody::of(&row, &control);
    Ok(Changed::fields(fields).to(Json(body)))
}

/// Removes a phone line: it unregisters, and its calls run to their end.
#[utoipa::path(
    delete,
    path = "/api/admin/telephony/phone-lines/{id}",
    tag = "admin",
    operation_id = "removeLine",
    params(("id" = String, Path, description = "Id of the line.")),
    responses(
        (status = 204, description = "It is gone."),
        Guarded, Missing, Stored,
    ),
)]
pub async fn remove(State(control): State<Arc<Control>>, Id(id): Id) -> Result<Response, Problem> {
    if !control.store()?.delete_line(&id).await? {
        return Err(missing());
    }
    control.lines.notify_changed();
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// The answer of the bridge that is registered for a line, where that is another one, and the line is not new to it.
///
/// # Errors
/// When that one does not answer.
pub(super) async fn by_holder(
    control: &Control,
    asked: &Asked,
    id: &str,
) -> Result<Option<Response>, Problem> {
    let nodes = asked.nodes(control.nodes.as_ref());
    let holder = nodes.and_then(|nodes| Some((nodes, nodes.holder(&LineId::new(id))?)));
    let Some((nodes, holder)) = holder else {
        return Ok(None);
    };
    let answer = asked.pass_on(nodes, &holder).await?;
    Ok(Some(answer).filter(|answer| answer.status() != StatusCode::NOT_FOUND))
}

/// # Errors
/// When there is no such line.
pub(super) async fn stored(store: &Store, id: &str) -> Result<Row, Problem> {
    store.line(id).await?.ok_or_else(missing)
}

/// There is no such line.
pub(super) fn missing() -> Problem {
    Problem::not_found("phone line")
}
