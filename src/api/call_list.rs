//! `GET /api/calls`: the calls of all bridges, or a page of the database's records.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use futures_util::TryStreamExt;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::call_body::{CallBody, CallList, CallPageBody};
use super::calls::answer;
use super::control::Control;
use super::nodes::{Asked, NodeAnswer, NodeError, NodeRequest, Nodes};
use super::openapi::{Guarded, Stored, WithQuery};
use super::problem::Problem;
use super::query::Query;
use crate::core::call_object::CallObject;
use crate::core::ids::{CallId, LineId};
use crate::core::timestamp::parse_rfc3339;
use crate::store::CallQuery;

const PATH: &str = "/api/calls";

/// Calls, or with `all=1` a page of records.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
enum Calls<'a> {
    Now(CallList<'a>),
    Page(CallPageBody<'a>),
}

/// Lists calls: those in progress and those that ended within 30 s, of all bridges that share
/// lines, the newest first; with `all=1` the records of the database, page by page, oldest first.
#[utoipa::path(
    get,
    path = "/api/calls",
    tag = "calls",
    operation_id = "listCalls",
    params(
        ("node" = Option<String>, Query, description = "Have only the bridge with this node id answer."),
        ("all" = Option<String>, Query, description = "1: the records of the database. The parameters below need it."),
        ("line" = Option<String>, Query, description = "Only calls of the line with this id."),
        ("since" = Option<String>, Query, description = "Only calls that began at this time (RFC 3339) or later."),
        ("after" = Option<String>, Query, description = "Only what follows: `next` of the page before."),
        ("limit" = Option<u32>, Query, description = "Most entries, 1 to 1000; 100 when absent."),
    ),
    responses(
        (status = 200, description = "The calls.", body = Calls),
        Guarded, WithQuery, Stored,
        (status = 503, description = "A bridge does not answer within 2 s, and the problem names it; or the database is away.",
            body = Problem, content_type = "application/problem+json"),
    ),
)]
pub async fn list(
    State(control): State<Arc<Control>>,
    asked: Asked,
    mut query: Query,
) -> Result<Response, Problem> {
    let nodes = asked.nodes(control.nodes.as_ref());
    let node = query.text("node");
    if let Some(id) = node.as_ref().filter(|id| **id != control.node) {
        if let Some((nodes, other)) = nodes.and_then(|nodes| Some((nodes, nodes.other(id)?))) {
            return Ok(asked.pass_on(nodes, &other).await?);
        }
        query.mistake("node", "is not the id of a bridge that is alive");
    }
    let all = query.parsed("all", "must be 1 or 0", |text| match text {
        "1" | "true" => Some(true),
        "0" | "false" => Some(false),
        _ => None,
    });
    if all == Some(true) {
        return records(&control, query).await;
    }
    for name in ["line", "since", "after", "limit"] {
        if query.text(name).is_some() {
            query.mistake(name, "has no effect without all=1");
        }
    }
    query.finish()?;
    match nodes.filter(|_| node.is_none()) {
        Some(nodes) => of_all_nodes(&control, nodes).await,
        None => Ok(of_this_node(&control)),
    }
}

fn of_this_node(control: &Control) -> Response {
    let calls = control.calls.list();
    answer(StatusCode::OK, &Calls::Now(body(control, &calls)))
}

fn body<'a>(control: &'a Control, calls: &'a [CallObject]) -> CallList<'a> {
    let now = SystemTime::now();
    let calls = calls.iter();
    CallList(
        calls
            .map(|call| CallBody::of(call, &control.node, now))
            .collect(),
    )
}

async fn of_all_nodes(control: &Control, nodes: &Nodes) -> Result<Response, Problem> {
    let others = nodes.others();
    if others.is_empty() {
        return Ok(of_this_node(control));
    }
    let request = NodeRequest::get(PATH);
    let answers = nodes.ask_each(&others, &request);
    let answers: Vec<NodeAnswer> = answers.try_collect().await?;
    let own = control.calls.list();
    let own = body(control, &own);
    // Strings and numbers only: this cannot fail.
    let own = serde_json::to_value(own).unwrap_or_default();
    let mut calls = match own {
        Value::Array(calls) => calls,
        _ => Vec::new(),
    };
    for answer in &answers {
        calls.extend(listed(answer)?);
    }
    sort(&mut calls);
    Ok(answer(StatusCode::OK, &calls))
}

/// The calls of another bridge, each with its name.
fn listed(answer: &NodeAnswer) -> Result<Vec<Value>, NodeError> {
    let odd = || answer.odd("its list of calls is none");
    if !answer.status.is_success() {
        return Err(odd());
    }
    let mut calls: Vec<Value> = answer.json().ok_or_else(odd)?;
    for call in &mut calls {
        let is_call = CallId::parse(text(call, "sid")).is_some();
        let call = call.as_object_mut().filter(|_| is_call).ok_or_else(odd)?;
        call.insert("node".to_owned(), answer.node.as_str().into());
    }
    Ok(calls)
}

/// The newest first.
fn sort(calls: &mut [Value]) {
    calls.sort_by(|a, b| {
        // 2026-01-15T14:30:00.123Z: in the order of its text.
        let newest = text(b, "createdAt").cmp(text(a, "createdAt"));
        newest.then_with(|| text(a, "sid").cmp(text(b, "sid")))
    });
}

fn text<'a>(call: &'a Value, field: &str) -> &'a str {
    call.get(field).and_then(Value::as_str).unwrap_or_default()
}

async fn records(control: &Control, mut query: Query) -> Result<Response, Problem> {
    let wanted = CallQuery {
        since: query.parsed(
            "since",
            "must be a time such as 2026-01-15T14:30:00Z",
            |text| {
                // A plus sign that was not escaped is a space in a query.
                parse_rfc3339(&text.replace(' ', "+"))
            },
        ),
        line: query.text("line").map(LineId::new),
        after: query.parsed("after", "must be the `next` of a page", read_cursor),
        limit: query.limit(),
    };
    query.finish()?;
    let page = control.store()?.calls(&wanted).await?;
    let now = SystemTime::now();
    let records = page.calls.iter();
    let body = CallPageBody {
        items: records
            .map(|record| CallBody::of_record(record, now))
            .collect(),
        next: page.next.map(|next| write_cursor(&next)),
    };
    Ok(answer(StatusCode::OK, &Calls::Page(body)))
}

/// `1768487400123.CA…`: where a page ended.
pub(super) fn write_cursor((time, call): &(SystemTime, CallId)) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}.{call}", since.as_millis())
}

pub(super) fn read_cursor(text: &str) -> Option<(SystemTime, CallId)> {
    let (millis, call) = text.split_once('.')?;
    let time = UNIX_EPOCH.checked_add(Duration::from_millis(millis.parse().ok()?))?;
    Some((time, CallId::parse(call)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_page_goes_on_where_the_last_one_ended() {
        let at = UNIX_EPOCH + Duration::from_millis(1_768_487_400_123);
        let end = (at, CallId::random());
        assert_eq!(read_cursor(&write_cursor(&end)), Some(end));
        for text in ["", "1", "1.CA", "x.CA0123456789abcdef0123456789abcdef"] {
            assert_eq!(read_cursor(text), None, "{text}");
        }
    }

    #[test]
    fn the_newest_call_comes_first_whoever_has_it() {
        let call = |sid: &str, at: &str| json!({"sid": sid, "createdAt": at});
        let mut calls = [
            call("b", "2026-01-15T14:30:00.123Z"),
            call("a", "2026-01-15T14:30:00.123Z"),
            call("c", "2026-01-15T14:30:01.000Z"),
        ];
        sort(&mut calls);
        let sids: Vec<_> = calls.iter().map(|call| text(call, "sid")).collect();
        assert_eq!(sids, ["c", "a", "b"]);
    }
}
