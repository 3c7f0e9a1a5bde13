//! `/api/admin/telephony/phone-lines`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::line_body::LineBody;
use super::password;
use crate::api::audit::Changed;
use crate::api::body::JsonObject;
use crate::api::control::Control;
use crate::api::fields::{GivenFields, Spec};
use crate::api::nodes::Asked;
use crate::api::openapi::{Guarded, Missing, Read, Stored, WithBody, WithQuery};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::query::{Id, Query};
use crate::core::ids::LineId;
use crate::lines::entry::{LineEntry, read_entry};
use crate::lines::line::FieldIssue;
use crate::lines::row::{Column, LINE_COLUMNS};
use crate::lines::{FLAGS_LINE_ID, Row};
use crate::store::Store;

static SPEC: Spec = Spec {
    columns: LINE_COLUMNS,
    read_only: &[
        "createdAt",
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
/// How often parameters are merged anew, when another request changes them
/// meanwhile: each time one of those has got through.
const MERGES: usize = 20;
/// The column of the password.
const PASSWORD: Column = LINE_COLUMNS[6];
/// The field of a token of Twilio's.
const TOKEN: &str = "twilioAuthToken";
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
    let mut given = GivenFields::new(object, &SPEC);
    let store = control.store()?;
    let mut before = stored(store, &id).await?;
    let fields = given.names();
    given.keep_id(&id);
    let parameters = given.get("customParameters").cloned();
    merge_parameters(&mut given, parameters.as_ref(), &before);
    // What is wrong with other fields of an old row does not keep this from changing.
    let mut issues = issues(&given.over(&before), &id);
    issues.retain(|issue| {
        let field = issue.field.split('.').next().unwrap_or_default();
        given.get(field).is_some()
    });
    given.add_issues(issues);
    check_server(store, &mut given).await?;
    password::seal(&control, &id, PASSWORD.json, &mut given).await?;
    password::seal(&control, &id, TOKEN, &mut given).await?;
    given.check()?;
    for _ in 0..MERGES {
        if store.merge_line(&id, &given.row(), &before).await? {
            control.lines.notify_changed();
            let body = LineBody::of(&stored(store, &id).await?, &control);
            return Ok(Changed::fields(fields).to(Json(body)));
        }
        before = stored(store, &id).await?;
        merge_parameters(&mut given, parameters.as_ref(), &before);
    }
    let detail = "the line was changed by others again and again: try once more";
    Err(Problem::new(ProblemKind::CONFLICT, detail))
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

/// Everything wrong with a line's fields, also of one that is not to register.
fn issues(object: &Map<String, Value>, id: &str) -> Vec<FieldIssue> {
    let mut object = object.clone();
    object.insert("id".into(), id.into());
    if object.get("isActive").is_some_and(Value::is_boolean) {
        object.remove("isActive");
    }
    if object.get("provider").is_some_and(|it| it == "twilio") {
        object.remove("provider");
    }
    match read_entry(object) {
        (LineEntry::Mistaken(_, issues), _) => issues,
        _ => Vec::new(),
    }
}

/// Keys that are not given stay, and null removes one (RFC 7396).
fn merge_parameters(given: &mut GivenFields, changes: Option<&Value>, before: &Row) {
    let Some(Value::Object(changes)) = changes else {
        return;
    };
    let mut merged = match before
        .to_open_object(LINE_COLUMNS)
        .remove("customParameters")
    {
        Some(Value::Object(parameters)) => parameters,
        _ => Map::new(),
    };
    for (key, value) in changes {
        if value.is_null() {
            merged.remove(key);
        } else {
            merged.insert(key.clone(), value.clone());
        }
    }
    given.set("customParameters", Value::Object(merged));
}

async fn check_server(store: &Store, given: &mut GivenFields) -> Result<(), Problem> {
    let Some(server) = given.text("sipServerId").filter(|id| !id.is_empty()) else {
        return Ok(());
    };
    if store.server(&server).await?.is_none() {
        given.refuse("sipServerId", "is not the id of a SIP server".into());
    }
    Ok(())
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        value.as_object().expect("object").clone()
    }

    #[test]
    fn lines_that_are_not_to_register_are_checked_as_well() {
        for line in [
            json!({"isActive": false, "sipDomain": "sip:a@b"}),
            json!({"provider": "twilio", "sipDomain": "sip:a@b"}),
        ] {
            let found = issues(&object(line), "7");
            assert_eq!(found.len(), 1);
            assert_eq!(found[0].field, "sipDomain");
        }
        assert!(issues(&object(json!({"isActive": false})), "7").is_empty());
    }

    #[test]
    fn parameters_are_merged_key_by_key() {
        let merged = |changes: Value| {
            let mut given = GivenFields::new(object(json!({"customParameters": changes})), &SPEC);
            let before = json!({"customParameters": {"a": "1", "b": "2"}});
            let before = Row::from_object(LINE_COLUMNS, &object(before));
            merge_parameters(&mut given, Some(&changes), &before);
            given.get("customParameters").cloned()
        };
        let expected = json!({"b": "3", "c": "4"});
        assert_eq!(
            merged(json!({"a": null, "b": "3", "c": "4"})),
            Some(expected)
        );
        assert_eq!(merged(Value::Null), Some(Value::Null));
    }
}
