//! One request to another bridge, and its answer: bounded in time and size.

use std::net::{Ipv4Addr, SocketAddr};

use axum::body::Body;
use axum::http::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderName, LOCATION, RETRY_AFTER};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::Response;
use bytes::{Bytes, BytesMut};
use reqwest::redirect::Policy;
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout_at};

use super::asked::NODE;
use super::trust::{TrustFiles, refused_certificate};
use crate::api::idempotency;
use crate::api::problem::{Problem, ProblemKind};
use crate::api::server::ApiError;
use crate::core::cluster::{Node, NodeId};
use crate::core::private::Secret;

/// Longest answer: a list of calls, of which one has about 1 kB.
const ANSWER_BYTES_MAX: usize = 8 << 20;
/// What of an answer's head is given on.
const HEADERS: [HeaderName; 6] = [
    ALLOW,
    CACHE_CONTROL,
    CONTENT_TYPE,
    LOCATION,
    RETRY_AFTER,
    idempotency::REPLAYED,
];

/// What is asked of another bridge.
#[derive(Clone, Debug)]
pub struct NodeRequest {
    /// GET, POST, …
    pub method: Method,
    /// Path and query, as they came.
    pub path: String,
    /// `Content-Type` and `Idempotency-Key`, where there are any.
    pub headers: HeaderMap,
    /// Empty where there is none.
    pub body: Bytes,
}

impl NodeRequest {
    /// GET of a path.
    #[must_use]
    pub fn get(path: impl Into<String>) -> Self {
        Self::bare(Method::GET, path)
    }

    /// A request without a body.
    #[must_use]
    pub fn bare(method: Method, path: impl Into<String>) -> Self {
        Self {
            method,
            path: path.into(),
            headers: HeaderMap::new(),
            body: Bytes::new(),
        }
    }
}

/// What another bridge answered.
#[derive(Clone, Debug)]
pub struct NodeAnswer {
    /// Which one.
    pub node: NodeId,
    at: SocketAddr,
    /// The HTTP status: 2xx, or the problem that it has.
    pub status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

impl NodeAnswer {
    /// Its body, where it is JSON of this form; `None` otherwise.
    #[must_use]
    pub fn json<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.body).ok()
    }

    /// That it is not what was asked for.
    #[must_use]
    pub fn odd(&self, what: &str) -> NodeError {
        NodeError::Odd {
            node: self.node.clone(),
            at: self.at,
            what: what.to_owned(),
        }
    }

    /// The same for whoever asked us.
    #[must_use]
    pub fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body));
        *response.status_mut() = self.status;
        *response.headers_mut() = self.headers;
        response
    }
}

/// Why there is no answer of another bridge.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// It has said no address, or one that is none.
    #[error(
        "the bridge {0} has no address at which other bridges can ask it: give it an --api-bind that they reach"
    )]
    Address(NodeId),
    /// It would get the token in clear.
    #[error(
        "the bridge {node} says that its API at {at} speaks HTTP, and as ours speaks HTTPS no token is sent in clear: give all bridges --api-tls-cert and --api-tls-key"
    )]
    Plain {
        /// Who was to be asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
    },
    /// Its certificate is not to be trusted.
    #[error(
        "the certificate of the bridge {node} at {at} is not taken ({why}): give all bridges one --api-tls-cert, or certificates of one --api-ca with a name in common"
    )]
    Certificate {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
        /// What is wrong with it.
        why: String,
    },
    /// It took too long. A change may have been made.
    #[error(
        "the bridge {node} does not answer at {at} within 2 s; what was asked of it may still be done: look before you try again"
    )]
    Slow {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
    },
    /// Nothing listens there.
    #[error(
        "the bridge {node} is not reached at {at}: it may have died a moment ago, or its --api-bind is no address for other bridges"
    )]
    Unreachable {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
    },
    /// Its token is another.
    #[error(
        "the bridge {node} at {at} does not take our API token: give all bridges the same --api-token (API_TOKEN)"
    )]
    Token {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
    },
    /// Its address is another bridge's.
    #[error(
        "at {at}, where the bridge {node} says that its API is, answers another: give each an --api-bind that the others reach"
    )]
    Other {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
    },
    /// What answers there is no bridge.
    #[error("what answers at {at} for the bridge {node} is not its API: {what}")]
    Odd {
        /// Who was asked.
        node: NodeId,
        /// Where.
        at: SocketAddr,
        /// What is odd.
        what: String,
    },
}

impl From<NodeError> for Problem {
    fn from(error: NodeError) -> Self {
        tracing::warn!(%error, "a request for another bridge failed");
        Self::new(ProblemKind::NODE, error.to_string()).retry_after(2)
    }
}

/// A client of bridges' APIs. The token goes to the address alone: no proxy, no
/// redirect. No connection is kept, as the server keeps idle ones for a few seconds only, and a request may not meet its end.
///
/// # Errors
/// When a file of certificates is of no use.
pub fn http_client(trust: TrustFiles<'_>) -> Result<reqwest::Client, ApiError> {
    let failed = |error: &dyn std::error::Error| ApiError::Client(error.to_string());
    let client = reqwest::Client::builder()
        .tls_backend_preconfigured(trust.client_config()?)
        .redirect(Policy::none())
        .no_proxy()
        .pool_max_idle_per_host(0);
    client.build().map_err(|error| failed(&error))
}

/// Asks other bridges.
#[derive(Clone, Debug)]
pub struct NodeClient {
    http: reqwest::Client,
    token: Option<Secret>,
    /// No token goes out in clear.
    only_tls: bool,
}

impl NodeClient {
    /// With the token that all bridges have. Where this bridge has a certificate, the others are asked over TLS alone.
    ///
    /// # Errors
    /// As [`http_client`].
    pub fn new(token: Option<Secret>, trust: TrustFiles<'_>) -> Result<Self, ApiError> {
        Ok(Self {
            http: http_client(trust)?,
            token,
            only_tls: trust.own.is_some(),
        })
    }

    /// Asks a bridge, until `by` at the latest.
    ///
    /// # Errors
    /// When there is no answer, or not one of this bridge.
    pub async fn ask(
        &self,
        node: &Node,
        request: &NodeRequest,
        by: Instant,
    ) -> Result<NodeAnswer, NodeError> {
        let url = node.info.api_url.as_deref();
        let (scheme, at) = url
            .and_then(address)
            .ok_or_else(|| NodeError::Address(node.id.clone()))?;
        if self.only_tls && scheme != HTTPS {
            let node = node.id.clone();
            return Err(NodeError::Plain { node, at });
        }
        let exchange = Exchange {
            node: &node.id,
            scheme,
            at,
        };
        let answer = timeout_at(by, exchange.run(self, request)).await;
        let slow = |_| NodeError::Slow {
            node: node.id.clone(),
            at,
        };
        answer.map_err(slow)?
    }
}

/// One request, and whose answer it has.
struct Exchange<'a> {
    node: &'a NodeId,
    scheme: &'static str,
    at: SocketAddr,
}

impl Exchange<'_> {
    async fn run(
        &self,
        client: &NodeClient,
        request: &NodeRequest,
    ) -> Result<NodeAnswer, NodeError> {
        let url = format!("{}{}{}", self.scheme, self.at, request.path);
        let name = HeaderValue::from_str(self.node.as_str());
        let name = name.map_err(|error| self.odd(error.to_string()))?;
        let mut asked = client
            .http
            .request(request.method.clone(), url)
            .headers(request.headers.clone())
            .header(NODE, name)
            .body(request.body.clone());
        if let Some(token) = &client.token {
            asked = asked.bearer_auth(token.expose());
        }
        let response = asked.send().await.map_err(|error| self.failed(&error))?;
        let status = response.status();
        let (node, at) = (self.node.clone(), self.at);
        match status {
            StatusCode::UNAUTHORIZED => return Err(NodeError::Token { node, at }),
            StatusCode::MISDIRECTED_REQUEST => return Err(NodeError::Other { node, at }),
            _ if status.is_redirection() || status.is_informational() => {
                return Err(self.odd(format!("it answers {status}")));
            }
            _ => {}
        }
        let mut headers = HeaderMap::new();
        for name in HEADERS {
            let value = response.headers().get(&name).cloned();
            headers.extend(value.map(|value| (name, value)));
        }
        Ok(NodeAnswer {
            node,
            at,
            status,
            headers,
            body: self.body(response).await?,
        })
    }

    async fn body(&self, mut response: reqwest::Response) -> Result<Bytes, NodeError> {
        let mut body = BytesMut::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.failed(&error))?
        {
            if body.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(self.odd("its answer is too long".to_owned()));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }

    fn failed(&self, error: &reqwest::Error) -> NodeError {
        let (node, at) = (self.node.clone(), self.at);
        if let Some(why) = refused_certificate(error) {
            return NodeError::Certificate { node, at, why };
        }
        if error.is_connect() {
            return NodeError::Unreachable { node, at };
        }
        // The text of the error may hold the path, and that a number.
        self.odd("no HTTP, or the connection broke".to_owned())
    }

    fn odd(&self, what: String) -> NodeError {
        let (node, at) = (self.node.clone(), self.at);
        NodeError::Odd { node, at, what }
    }
}

const HTTP: &str = "http://";
const HTTPS: &str = "https://";

/// Where a bridge says that its API is: the scheme, an IP address and a port. A name would be looked up, and whoever answers
/// for it would get the token.
fn address(url: &str) -> Option<(&'static str, SocketAddr)> {
    let (scheme, text) = [HTTP, HTTPS]
        .into_iter()
        .find_map(|scheme| Some((scheme, url.strip_prefix(scheme)?)))?;
    let at: SocketAddr = text.strip_suffix('/').unwrap_or(text).parse().ok()?;
    let ip = at.ip();
    let is_one_host = !ip.is_unspecified() && !ip.is_multicast() && ip != Ipv4Addr::BROADCAST;
    (is_one_host && at.port() != 0).then_some((scheme, at))
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
