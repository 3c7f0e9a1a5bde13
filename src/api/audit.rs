//! One log line for each change that is asked for through the API: who, what,
//! with which result; the log adds when. Names of fields and ids, never a value.

use std::fmt;
use std::net::SocketAddr;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{MatchedPath, RawPathParams, Request};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use tracing::info;

use super::problem::{Problem, ProblemKind};

/// Longest id that is written out.
const ID_MAX: usize = 64;

/// Who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// Somebody who knows the token.
    Token(Option<SocketAddr>),
    /// A program on this machine; there is no token.
    Local(Option<SocketAddr>),
    /// Twilio, as far as a signature shows it.
    Twilio(Option<SocketAddr>),
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Token(Some(peer)) => write!(f, "token {peer}"),
            Self::Token(None) => f.write_str("token"),
            Self::Local(Some(peer)) => write!(f, "local {peer}"),
            Self::Local(None) => f.write_str("local"),
            Self::Twilio(Some(peer)) => write!(f, "twilio {peer}"),
            Self::Twilio(None) => f.write_str("twilio"),
        }
    }
}

/// What a change was about; its route puts it into the answer.
#[derive(Clone, Debug, Default)]
pub struct Changed {
    /// Id of what was made.
    pub id: Option<String>,
    /// Names of the fields that were given: known ones only, since others may
    /// be anything.
    pub fields: Vec<&'static str>,
}

impl Changed {
    /// Something new.
    #[must_use]
    pub fn made(id: &str, fields: Vec<&'static str>) -> Self {
        Self {
            id: Some(id.to_owned()),
            fields,
        }
    }

    /// Fields of what the path names.
    #[must_use]
    pub const fn fields(fields: Vec<&'static str>) -> Self {
        Self { id: None, fields }
    }

    /// Adds it to an answer.
    pub fn to(self, answer: impl IntoResponse) -> Response {
        let mut response = answer.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// Lets a change run to its end, also when the client goes away meanwhile, and
/// writes the line.
pub async fn record(
    params: Result<RawPathParams, RawPathParamsRejection>,
    request: Request,
    next: Next,
) -> Response {
    let method = request.method().clone();
    if matches!(method, Method::GET | Method::HEAD | Method::OPTIONS) {
        return next.run(request).await;
    }
    let ids = params.iter().flatten().map(|(_, value)| shown(value));
    let ids: Vec<String> = ids.collect();
    let change = tokio::spawn(async move {
        let who = request.extensions().get::<Who>().copied();
        let route = request.extensions().get::<MatchedPath>().cloned();
        let response = next.run(request).await;
        let route = route.as_ref().map_or("none", MatchedPath::as_str);
        write(who, &method, route, ids, &response);
        response
    });
    change.await.unwrap_or_else(|error| {
        tracing::error!(%error, "a change through the API failed");
        Problem::new(
            ProblemKind::INTERNAL,
            "the request failed; the log says how",
        )
        .into_response()
    })
}

fn write(who: Option<Who>, method: &Method, route: &str, mut ids: Vec<String>, answer: &Response) {
    let changed = answer.extensions().get::<Changed>();
    let changed = changed.cloned().unwrap_or_default();
    ids.extend(changed.id.as_deref().map(shown));
    info!(
        target: "sipbridge::audit",
        who = who.map(tracing::field::display),
        %method,
        route,
        id = ids.join(" "),
        fields = changed.fields.join(" "),
        status = answer.status().as_u16(),
        "a change through the API"
    );
}

/// An id as it may be written: what has the look of none may be anything.
fn shown(id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
    if id.len() <= ID_MAX && id.bytes().all(is_plain) {
        id.to_owned()
    } else {
        "(odd)".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_an_id_is_written_out() {
        assert_eq!(shown("6ba7b810-9dad"), "6ba7b810-9dad");
        assert_eq!(shown("a b"), "(odd)");
        assert_eq!(shown("x\ny"), "(odd)");
        assert_eq!(shown(&"a".repeat(65)), "(odd)");
    }

    #[test]
    fn who_it_was_is_short() {
        let peer = SocketAddr::from(([127, 0, 0, 1], 5));
        assert_eq!(Who::Token(Some(peer)).to_string(), "token 127.0.0.1:5");
        assert_eq!(Who::Token(None).to_string(), "token");
        assert_eq!(Who::Local(Some(peer)).to_string(), "local 127.0.0.1:5");
    }
}
