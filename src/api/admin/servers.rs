//! `/api/admin/telephony/sip-servers`.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::password;
use crate::api::audit::Changed;
use crate::api::body::JsonObject;
use crate::api::control::Control;
use crate::api::fields::{GivenFields, Spec};
use crate::api::openapi::{Guarded, Missing, Stored, WithBody, WithQuery};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::query::{Id, Query};
use crate::lines::Row;
use crate::lines::line::FieldIssue;
use crate::lines::row::{Column, SERVER_COLUMNS};
use crate::lines::server::read_server;
use crate::store::{Removal, Store};

static SPEC: Spec = Spec {
    columns: SERVER_COLUMNS,
    read_only: &["has_password"],
};
const PATH: &str = "/api/admin/telephony/sip-servers";
/// The column of the password.
const PASSWORD: Column = SERVER_COLUMNS[4];
/// Stands in for an id that the database will count.
const NEW: &str = "new";

/// A SIP server. Its password is never shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerBody {
    id: String,
    /// Its name for people.
    label: Option<String>,
    /// Such as `sip:trunk.example.com:5060;transport=tcp`.
    trunk_uri: Option<String>,
    /// For lines that have none of their own.
    username: Option<String>,
    /// Whether a password is stored.
    has_password: bool,
    /// Announced by REGISTER instead of our own address.
    contact_host: Option<String>,
    /// As `contact_host`.
    contact_port: Option<u16>,
    /// As `contact_host`: udp, tcp or tls.
    contact_transport: Option<String>,
    /// Addresses and networks that its calls come from beside its own, with
    /// commas between: `192.0.2.0/24, 198.51.100.7`.
    allow_from: Option<String>,
}

/// What a SIP server may be given. POST needs `trunk_uri`; PATCH changes what
/// is there, and null clears.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: requests are read field by field")]
pub struct ServerInput {
    /// With POST only; made up when absent.
    id: Option<String>,
    label: Option<String>,
    trunk_uri: Option<String>,
    username: Option<String>,
    /// In clear, or encrypted for this id as `iv:tag:ciphertext`. Stored encrypted.
    password: Option<String>,
    contact_host: Option<String>,
    contact_port: Option<u16>,
    contact_transport: Option<String>,
    /// Addresses and networks that its calls come from beside its own, with
    /// commas between.
    allow_from: Option<String>,
}

/// One page of SIP servers, in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct ServerPage {
    items: Vec<ServerBody>,
    /// `after` of the next page; null on the last.
    next: Option<String>,
}

impl ServerBody {
    fn of(row: &Row) -> Self {
        let text = |name| row.get(name).map(str::to_owned);
        Self {
            id: row.id().unwrap_or_default().to_owned(),
            label: text("label"),
            trunk_uri: text("trunk_uri"),
            username: text("username"),
            has_password: row.get("password").is_some_and(|stored| !stored.is_empty()),
            contact_host: text("contact_host"),
            contact_port: row.get("contact_port").and_then(|port| port.parse().ok()),
            contact_transport: text("contact_transport"),
            allow_from: text("allow_from"),
        }
    }
}

/// Lists the SIP servers.
#[utoipa::path(
    get,
    path = "/api/admin/telephony/sip-servers",
    tag = "admin",
    operation_id = "listServers",
    params(
        ("limit" = Option<u32>, Query, description = "Most entries, 1 to 1000; 100 when absent."),
        ("after" = Option<String>, Query, description = "Only ids after this one: `next` of the page before."),
    ),
    responses(
        (status = 200, description = "One page.", body = ServerPage),
        Guarded, WithQuery, Stored,
    ),
)]
pub async fn list(
    State(control): State<Arc<Control>>,
    mut query: Query,
) -> Result<Response, Problem> {
    let store = control.store()?;
    let (limit, after) = (query.limit(), query.text("after"));
    query.finish()?;
    let rows = store.servers_page(after.as_deref(), limit + 1).await?;
    let wanted = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = rows.len() > wanted;
    let items: Vec<_> = rows.iter().take(wanted).map(ServerBody::of).collect();
    let last = items.last().filter(|_| has_more);
    let next = last.map(|server| server.id.clone());
    Ok(Json(ServerPage { items, next }).into_response())
}

/// Shows one SIP server.
#[utoipa::path(
    get,
    path = "/api/admin/telephony/sip-servers/{id}",
    tag = "admin",
    operation_id = "getServer",
    params(("id" = String, Path, description = "Id of the server.")),
    responses(
        (status = 200, description = "The server.", body = ServerBody),
        Guarded, Missing, Stored,
    ),
)]
pub async fn get(State(control): State<Arc<Control>>, Id(id): Id) -> Result<Response, Problem> {
    let row = stored(control.store()?, &id).await?;
    Ok(Json(ServerBody::of(&row)).into_response())
}

/// Adds a SIP server.
#[utoipa::path(
    post,
    path = "/api/admin/telephony/sip-servers",
    tag = "admin",
    operation_id = "createServer",
    request_body(content = ServerInput, example = json!({
        "id": "ovh", "label": "OVH", "trunk_uri": "sip:sip.ovh.example;transport=udp",
    })),
    responses(
        (status = 201, description = "The new server.", body = ServerBody,
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
        Some(id) => Some(store.canonical_server_id(&id).await?),
        None => store.fresh_server_id(),
    };
    let issues = issues(given.object(), id.as_deref().unwrap_or(NEW));
    given.add_issues(issues);
    let waiting = password::seal_new(&control, id, PASSWORD.json, &mut given).await?;
    given.check()?;
    let id = match waiting {
        None => store.insert_server(&given.row()).await?,
        Some(password) => {
            let begun = store.begin_server(&given.row()).await?;
            password::insert_counted(&control, begun, password, PASSWORD).await?
        }
    };
    control.lines.notify_changed();
    let body = ServerBody::of(&stored(store, &id).await?);
    let location = [(LOCATION, format!("{PATH}/{id}"))];
    let answer = (StatusCode::CREATED, location, Json(body));
    Ok(Changed::made(&id, fields).to(answer))
}

/// Changes the fields that are given; null clears one.
#[utoipa::path(
    patch,
    path = "/api/admin/telephony/sip-servers/{id}",
    tag = "admin",
    operation_id = "changeServer",
    params(("id" = String, Path, description = "Id of the server.")),
    request_body(content = ServerInput, example = json!({"label": "OVH, second site"})),
    responses(
        (status = 200, description = "The server as it is now.", body = ServerBody),
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
    let before = stored(store, &id).await?;
    let fields = given.names();
    given.keep_id(&id);
    let mut issues = issues(&given.over(&before), &id);
    issues.retain(|issue| given.get(&issue.field).is_some());
    given.add_issues(issues);
    password::seal(&control, &id, PASSWORD.json, &mut given).await?;
    given.check()?;
    if !store.update_server(&id, &given.row()).await? {
        return Err(missing());
    }
    control.lines.notify_changed();
    let body = ServerBody::of(&stored(store, &id).await?);
    Ok(Changed::fields(fields).to(Json(body)))
}

/// Removes a SIP server that no line uses, and that is not the fallback.
#[utoipa::path(
    delete,
    path = "/api/admin/telephony/sip-servers/{id}",
    tag = "admin",
    operation_id = "removeServer",
    params(("id" = String, Path, description = "Id of the server.")),
    responses(
        (status = 204, description = "It is gone."),
        Guarded, Missing, Stored,
    ),
)]
pub async fn remove(State(control): State<Arc<Control>>, Id(id): Id) -> Result<Response, Problem> {
    match control.store()?.delete_server(&id).await? {
        Removal::Done => {
            control.lines.notify_changed();
            Ok(StatusCode::NO_CONTENT.into_response())
        }
        Removal::Missing => Err(missing()),
        Removal::InUse { lines, fallback } => Err(in_use(lines, fallback)),
    }
}

fn in_use(lines: Vec<String>, fallback: bool) -> Problem {
    let and_fallback = if fallback {
        " and it is the fallback server: name another with PUT fallback first"
    } else {
        ""
    };
    let detail = format!("{} lines use it, see lines{and_fallback}", lines.len());
    Problem::new(ProblemKind::IN_USE, detail).with_lines(lines)
}

/// Everything wrong with a server's fields.
fn issues(object: &Map<String, Value>, id: &str) -> Vec<FieldIssue> {
    let mut row = Row::from_object(SERVER_COLUMNS, object);
    row.set(SERVER_COLUMNS[0], Some(id.to_owned()));
    read_server(&row).err().unwrap_or_default()
}

async fn stored(store: &Store, id: &str) -> Result<Row, Problem> {
    store.server(id).await?.ok_or_else(missing)
}

fn missing() -> Problem {
    Problem::not_found("SIP server")
}
