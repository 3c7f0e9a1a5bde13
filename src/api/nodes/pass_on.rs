//! Requests for calls of other bridges: found out whose they are, and passed on.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures_util::{StreamExt, pin_mut};
use serde::Deserialize;
use tokio::time::timeout;
use tracing::debug;

use super::asked::{Asked, NODE};
use super::{NodeAnswer, NodeRequest, Nodes};
use crate::api::body;
use crate::api::control::Control;
use crate::api::problem::{Problem, ProblemKind};
use crate::core::cluster::Node;
use crate::core::ids::CallId;
use crate::store::CallRecord;

/// How long the database may take to say where a call is. After that all bridges are asked.
const RECORD_LIMIT: Duration = Duration::from_millis(500);

/// Has another bridge answer a request for a call that it has. Refuses a request that is for another bridge.
pub async fn pass_on(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    match judge(&control, request.headers(), request.uri().path()).await {
        Ok(None) => next.run(request).await,
        Ok(Some((nodes, node))) => match send(nodes, &node, request).await {
            Ok(response) => response,
            Err(problem) => problem.into_response(),
        },
        Err(problem) => problem.into_response(),
    }
}

/// Which other bridge is to answer, if any.
async fn judge<'a>(
    control: &'a Control,
    headers: &HeaderMap,
    path: &str,
) -> Result<Option<(&'a Nodes, Node)>, Problem> {
    if let Some(meant) = headers.get(NODE) {
        let is_this = meant.as_bytes() == control.node.as_bytes();
        return if is_this {
            Ok(None)
        } else {
            Err(misdirected(control))
        };
    }
    match call_of(path) {
        Some(call) => elsewhere(control, &call).await,
        None => Ok(None),
    }
}

/// The other bridge that has a call, if any, and how it is asked.
///
/// # Errors
/// When one that may have it does not answer.
pub(in crate::api) async fn elsewhere<'a>(
    control: &'a Control,
    call: &CallId,
) -> Result<Option<(&'a Nodes, Node)>, Problem> {
    let Some(nodes) = &control.nodes else {
        return Ok(None);
    };
    let others = nodes.others();
    if others.is_empty() || control.calls.get(call).is_some() {
        return Ok(None);
    }
    let holder = holder(control, nodes, &others, call).await?;
    Ok(holder.map(|node| (nodes, node)))
}

fn misdirected(control: &Control) -> Problem {
    let detail = format!(
        "this is the bridge {}, and the header Sipbridge-Node names another",
        control.node
    );
    Problem::new(ProblemKind::MISDIRECTED, detail)
}

/// The call that a path is about.
fn call_of(path: &str) -> Option<CallId> {
    let rest = path.strip_prefix("/api/calls/")?;
    CallId::parse(rest.split('/').next()?)
}

/// Which of the others has a call; `None` for one that is over, or that nobody knows.
async fn holder(
    control: &Control,
    nodes: &Nodes,
    others: &[Node],
    call: &CallId,
) -> Result<Option<Node>, Problem> {
    let named = |name: &str| others.iter().find(|node| node.id.as_str() == name).cloned();
    if let Some(record) = record(control, call).await {
        let is_over = record.call.state.ended.is_some();
        return Ok(named(&record.node).filter(|_| !is_over));
    }
    let request = NodeRequest::get(format!("/api/calls/{call}"));
    let answers = nodes.ask_each(others, &request);
    pin_mut!(answers);
    let mut silent = None;
    while let Some(answer) = answers.next().await {
        match answer {
            Ok(answer) if has(&answer) => return Ok(named(answer.node.as_str())),
            Ok(_) => {}
            Err(error) => silent = Some(error),
        }
    }
    // One that does not answer may have it.
    silent.map_or(Ok(None), |error| Err(error.into()))
}

/// What the database knows, where it says so soon enough.
async fn record(control: &Control, call: &CallId) -> Option<CallRecord> {
    let store = control.store.as_ref()?;
    timeout(RECORD_LIMIT, store.call(call)).await.ok()?.ok()?
}

/// A call, as far as it matters here.
#[derive(Deserialize)]
struct Whose {
    node: String,
}

/// Whether a bridge answers that a call is its own.
fn has(answer: &NodeAnswer) -> bool {
    let whose = answer.json::<Whose>();
    answer.status.is_success() && whose.is_some_and(|whose| whose.node == answer.node.as_str())
}

/// Has a bridge answer a request.
pub(super) async fn send(
    nodes: &Nodes,
    node: &Node,
    request: Request,
) -> Result<Response, Problem> {
    let (head, body) = request.into_parts();
    let body = body::whole(body).await?;
    debug!(node = %node.id, "a request is passed on");
    let asked = Asked::of(&head).request(body);
    Ok(nodes.ask(node, &asked).await?.into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_call_of_a_path_is_found() {
        let id = "CA0123456789abcdef0123456789abcdef";
        let call = CallId::parse(id);
        assert!(call.is_some());
        for (path, expected) in [
            (format!("/api/calls/{id}"), call.clone()),
            (format!("/api/calls/{id}/hold"), call),
            ("/api/calls".into(), None),
            ("/api/calls/".into(), None),
            ("/api/calls/../admin".into(), None),
            (format!("/api/other/{id}"), None),
        ] {
            assert_eq!(call_of(&path), expected, "{path}");
        }
    }
}
