//! `POST /api/calls` with an `Idempotency-Key` that comes again at another bridge: the one that got it first answers, which
//! keeps the answer, so that nobody is called twice. Other requests need none of it: those for a call come to the bridge that
//! has the call, and the others change the database.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Nodes;
use super::asked::NODE;
use super::pass_on::send;
use crate::api::control::Control;
use crate::api::idempotency;
use crate::api::problem::{Problem, ProblemKind};
use crate::core::cluster::Node;
use crate::core::ids::hex;
use crate::queue::FirstAsked;

/// Has the bridge answer that got a request first.
pub async fn to_the_first(
    State(control): State<Arc<Control>>,
    request: Request,
    next: Next,
) -> Response {
    let Some((nodes, digest)) = placing(&control, &request) else {
        return next.run(request).await;
    };
    match nodes.leases.asked_before(&digest).await {
        Some(first) => {
            let answered = pass_on_to(nodes, &first, request).await;
            answered.unwrap_or_else(IntoResponse::into_response)
        }
        None => {
            let response = next.run(request).await;
            if idempotency::is_for_now(response.status()) {
                nodes.leases.forget_asked(&digest).await;
            }
            response
        }
    }
}

/// The bridges and the digest of the key, where a call is to be placed, once, by any bridge.
fn placing<'a>(control: &'a Control, request: &Request) -> Option<(&'a Nodes, String)> {
    let is_placing = request.method() == Method::POST && request.uri().path() == "/api/calls";
    let (nodes, headers) = (control.nodes.as_ref()?, request.headers());
    if !is_placing || headers.contains_key(NODE) || nodes.others().is_empty() {
        return None;
    }
    let digest = Sha256::digest(headers.get(idempotency::KEY)?.as_bytes());
    Some((nodes, hex(&digest)))
}

async fn pass_on_to(
    nodes: &Nodes,
    first: &FirstAsked,
    request: Request,
) -> Result<Response, Problem> {
    let node = nodes.other(first.node.as_str());
    let is_same_life = |node: &Node| *node.instance == *first.instance;
    let node = node.filter(is_same_life).ok_or_else(|| {
        let detail = format!(
            "the bridge {} got the first request with this Idempotency-Key, and is gone: look whether the call was placed before you send it with another key",
            first.node
        );
        Problem::new(ProblemKind::CONFLICT, detail)
    })?;
    send(nodes, &node, request).await
}
