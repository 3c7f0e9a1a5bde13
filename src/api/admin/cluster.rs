//! `/api/admin/cluster/nodes`: the bridges that share lines, as this one sees them.

use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::control::Control;
use crate::api::nodes::{Asked, Nodes};
use crate::api::openapi::{Guarded, Missing};
use crate::api::problem::{Problem, ProblemKind};
use crate::api::query::Id;
use crate::cluster::ClusterHandle;
use crate::core::cluster::{Node, NodeStage};

/// A bridge that is alive.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeBody {
    /// Its `--node-id`.
    id: String,
    /// Whether it is the one that answers.
    is_this: bool,
    /// up, or draining: it gives its lines away.
    state: &'static str,
    version: String,
    /// How many calls it can have: its weight.
    capacity: u32,
    /// Lines that are registered at it.
    lines: u32,
    /// Calls in progress.
    calls: u32,
    /// Since its last heartbeat.
    heartbeat_age_ms: u64,
    /// Where its API answers, for the other bridges.
    api_url: Option<String>,
}

/// The bridges.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeList {
    items: Vec<NodeBody>,
    /// Lines of this bridge that no living bridge is registered for.
    lines_without_holder: usize,
}

impl NodeBody {
    fn of(node: &Node, cluster: &ClusterHandle) -> Self {
        Self {
            is_this: node.id == *cluster.node(),
            id: node.id.to_string(),
            state: node.info.stage.as_str(),
            version: node.info.version.to_string(),
            capacity: node.info.capacity,
            lines: node.info.lines,
            calls: node.info.calls,
            heartbeat_age_ms: u64::try_from(node.heartbeat_age.as_millis()).unwrap_or(u64::MAX),
            api_url: node.info.api_url.as_deref().map(str::to_owned),
        }
    }
}

/// What a bridge was asked to become.
#[derive(Debug, Serialize, ToSchema)]
pub struct NodeStateBody {
    /// Its `--node-id`.
    id: String,
    /// up, or draining. Others see it with its next heartbeat.
    state: &'static str,
}

fn nodes(control: &Control) -> Result<&Nodes, Problem> {
    const WHY: &str =
        "this bridge shares its lines with no other: that takes --redis-url, and --cluster on";
    let nodes = control.nodes.as_ref();
    nodes.ok_or_else(|| Problem::new(ProblemKind::CONFLICT, WHY))
}

/// Lists the bridges that are alive.
#[utoipa::path(
    get,
    path = "/api/admin/cluster/nodes",
    tag = "admin",
    operation_id = "listNodes",
    responses(
        (status = 200, description = "All of them.", body = NodeList),
        (status = 409, description = "This bridge shares its lines with no other.",
            body = Problem, content_type = "application/problem+json"),
        Guarded,
    ),
)]
pub async fn list(State(control): State<Arc<Control>>) -> Result<Response, Problem> {
    let cluster = nodes(&control)?.cluster();
    let nodes = cluster.nodes();
    let list = NodeList {
        items: nodes
            .iter()
            .map(|node| NodeBody::of(node, cluster))
            .collect(),
        lines_without_holder: cluster.lines_without_holder(),
    };
    Ok(Json(list).into_response())
}

/// Has a bridge give its lines to the others, and go on: calls in progress stay, and new ones are taken as long as
/// there are any. Each bridge passes it on to the one that is meant.
#[utoipa::path(
    post,
    path = "/api/admin/cluster/nodes/{id}/drain",
    tag = "admin",
    operation_id = "drainNode",
    params(("id" = String, Path, description = "Node id of the bridge.")),
    responses(
        (status = 202, description = "Its lines are being handed over.", body = NodeStateBody),
        (status = 409, description = "This bridge shares its lines with no other.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The other bridge does not answer within 2 s; the problem names it.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, Missing,
    ),
)]
pub async fn drain(
    State(control): State<Arc<Control>>,
    asked: Asked,
    Id(id): Id,
) -> Result<Response, Problem> {
    let nodes = nodes(&control)?;
    if let Some(answer) = by_other(nodes, &asked, &id).await? {
        return Ok(answer);
    }
    nodes.cluster().drain();
    Ok(asked_to_become(id, NodeStage::Draining))
}

/// Takes a drain back: the bridge gets its share of the lines again.
#[utoipa::path(
    post,
    path = "/api/admin/cluster/nodes/{id}/resume",
    tag = "admin",
    operation_id = "resumeNode",
    params(("id" = String, Path, description = "Node id of the bridge.")),
    responses(
        (status = 202, description = "It takes lines again.", body = NodeStateBody),
        (status = 409, description = "This bridge shares its lines with no other, or the one that is meant shuts down.",
            body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The other bridge does not answer within 2 s; the problem names it.",
            body = Problem, content_type = "application/problem+json"),
        Guarded, Missing,
    ),
)]
pub async fn resume(
    State(control): State<Arc<Control>>,
    asked: Asked,
    Id(id): Id,
) -> Result<Response, Problem> {
    let nodes = nodes(&control)?;
    if let Some(answer) = by_other(nodes, &asked, &id).await? {
        return Ok(answer);
    }
    if !nodes.cluster().resume() {
        let text = "the bridge shuts down: it takes no lines any more";
        return Err(Problem::new(ProblemKind::CONFLICT, text));
    }
    Ok(asked_to_become(id, NodeStage::Up))
}

fn asked_to_become(id: String, stage: NodeStage) -> Response {
    let state = stage.as_str();
    (StatusCode::ACCEPTED, Json(NodeStateBody { id, state })).into_response()
}

/// The answer of another bridge, where it is the one that is meant.
///
/// # Errors
/// When no bridge of this name is alive, or that one does not answer.
async fn by_other(nodes: &Nodes, asked: &Asked, id: &str) -> Result<Option<Response>, Problem> {
    if id == nodes.cluster().node().as_str() {
        return Ok(None);
    }
    let nodes = asked.nodes(Some(nodes));
    let other = nodes.and_then(|nodes| Some((nodes, nodes.other(id)?)));
    let (nodes, other) = other.ok_or_else(|| Problem::not_found("node"))?;
    Ok(Some(asked.pass_on(nodes, &other).await?))
}
