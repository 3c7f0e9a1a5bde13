//! A request as it came, for another bridge that may have to be asked, and whether a bridge has passed it on already.

use std::convert::Infallible;

use axum::extract::FromRequestParts;
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::response::Response;
use bytes::Bytes;

use super::{NodeError, NodeRequest, Nodes};
use crate::api::idempotency;
use crate::core::cluster::Node;

/// Names the bridge that a request is for, by its node id. That one answers for itself alone and asks no other; any other
/// bridge refuses it (421). Bridges send it to each other.
pub const NODE: HeaderName = HeaderName::from_static("sipbridge-node");

/// The head of a request.
#[derive(Clone, Debug)]
pub struct Asked {
    method: Method,
    path: String,
    headers: HeaderMap,
    is_for_this: bool,
}

impl Asked {
    /// What of a head another bridge needs.
    #[must_use]
    pub fn of(parts: &Parts) -> Self {
        let path = parts.uri.path_and_query();
        let mut headers = HeaderMap::new();
        for name in [CONTENT_TYPE, idempotency::KEY] {
            let value = parts.headers.get(&name).cloned();
            headers.extend(value.map(|value| (name, value)));
        }
        Self {
            method: parts.method.clone(),
            path: path.map_or_else(String::new, ToString::to_string),
            headers,
            is_for_this: parts.headers.contains_key(NODE),
        }
    }

    /// The bridges that may be asked in place of this one.
    #[must_use]
    pub fn nodes<'a>(&self, nodes: Option<&'a Nodes>) -> Option<&'a Nodes> {
        nodes.filter(|_| !self.is_for_this)
    }

    /// The same request, for another bridge.
    #[must_use]
    pub fn request(&self, body: Bytes) -> NodeRequest {
        NodeRequest {
            method: self.method.clone(),
            path: self.path.clone(),
            headers: self.headers.clone(),
            body,
        }
    }

    /// Has a bridge answer a request that has no body.
    ///
    /// # Errors
    /// As [`Nodes::ask`].
    pub async fn pass_on(&self, nodes: &Nodes, node: &Node) -> Result<Response, NodeError> {
        let answer = nodes.ask(node, &self.request(Bytes::new())).await?;
        Ok(answer.into_response())
    }
}

impl<S: Sync> FromRequestParts<S> for Asked {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(Self::of(parts))
    }
}
