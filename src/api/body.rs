//! The body of a request: a JSON object, bounded in size and time. Wiped once
//! it is read, since it may hold a password.

use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use futures_util::StreamExt;
use serde_json::{Map, Value};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::problem::{Problem, ProblemKind};

/// Longest body.
pub const BODY_MAX_BYTES: usize = 64 * 1024;
/// How long a client may take to send its body.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A JSON object.
#[derive(Debug)]
pub struct JsonObject(pub Map<String, Value>);

impl<S: Sync> FromRequest<S> for JsonObject {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let detail = "send the header Content-Type: application/json";
            return Err(Problem::new(ProblemKind::MEDIA_TYPE, detail).closing());
        }
        if announced(request.headers()) > BODY_MAX_BYTES {
            return Err(too_large());
        }
        let bytes = match timeout(BODY_TIMEOUT, read(request.into_body())).await {
            Ok(read) => read?,
            Err(_) => {
                let detail = format!("it must come within {} s", BODY_TIMEOUT.as_secs());
                return Err(Problem::new(ProblemKind::SLOW, detail).closing());
            }
        };
        parse(&bytes).map(Self)
    }
}

/// A body as it came, whatever is in it.
///
/// # Errors
/// When it is too long, ends early, or comes too slowly.
pub(super) async fn whole(body: Body) -> Result<Bytes, Problem> {
    match timeout(BODY_TIMEOUT, to_bytes(body, BODY_MAX_BYTES)).await {
        Ok(Ok(body)) => Ok(body),
        Ok(Err(_)) => {
            let detail = format!("it may have {BODY_MAX_BYTES} bytes, and must come whole");
            Err(Problem::new(ProblemKind::TOO_LARGE, detail).closing())
        }
        Err(_) => Err(Problem::new(ProblemKind::SLOW, "it came too slowly").closing()),
    }
}

async fn read(body: Body) -> Result<Zeroizing<Vec<u8>>, Problem> {
    let mut bytes = Zeroizing::new(Vec::new());
    let mut chunks = body.into_data_stream();
    while let Some(chunk) = chunks.next().await {
        let cut = |_| Problem::new(ProblemKind::MALFORMED, "the body ended early").closing();
        let chunk = chunk.map_err(cut)?;
        if bytes.len() + chunk.len() > BODY_MAX_BYTES {
            return Err(too_large());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// What serde says of a mistake names a place, never a value.
fn parse(bytes: &[u8]) -> Result<Map<String, Value>, Problem> {
    match serde_json::from_slice(bytes) {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(Problem::new(
            ProblemKind::MALFORMED,
            "the body must be an object",
        )),
        Err(error) => {
            let (line, column) = (error.line(), error.column());
            let detail = format!("no JSON, at line {line}, column {column}");
            Err(Problem::new(ProblemKind::MALFORMED, detail))
        }
    }
}

/// A web page can send other types without asking, this one it cannot.
fn is_json(headers: &HeaderMap) -> bool {
    is_of_type(
        headers,
        &["application/json", "application/merge-patch+json"],
    )
}

/// Whether a body is said to be of one of these types.
pub(super) fn is_of_type(headers: &HeaderMap, types: &[&str]) -> bool {
    let text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok());
    let essence = text.and_then(|text| text.split(';').next());
    essence.is_some_and(|essence| {
        let essence = essence.trim();
        types.iter().any(|it| essence.eq_ignore_ascii_case(it))
    })
}

fn announced(headers: &HeaderMap) -> usize {
    let text = headers
        .get(CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok());
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}

fn too_large() -> Problem {
    let detail = format!("it may have {BODY_MAX_BYTES} bytes");
    Problem::new(ProblemKind::TOO_LARGE, detail).closing()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(content_type: &str, body: impl Into<Body>) -> Request {
        let request = Request::builder().header(CONTENT_TYPE, content_type);
        request.body(body.into()).expect("a request")
    }

    async fn status(request: Request) -> u16 {
        match JsonObject::from_request(request, &()).await {
            Ok(_) => 200,
            Err(problem) => problem.status().as_u16(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_a_json_object_of_bounded_size_and_time_is_read() {
        let json = "application/json; charset=utf-8";
        assert_eq!(status(request(json, "{\"a\": 1}")).await, 200);
        assert_eq!(
            status(request("Application/Merge-Patch+JSON", "{}")).await,
            200
        );
        assert_eq!(status(request("text/plain", "{}")).await, 415);
        assert_eq!(status(request(json, "{\"a\":")).await, 400);
        assert_eq!(status(request(json, "[]")).await, 400);
        assert_eq!(status(request(json, "")).await, 400);
        let deep = "[".repeat(BODY_MAX_BYTES);
        assert_eq!(status(request(json, deep)).await, 400);
        let long = format!("{{\"a\": \"{}\"}}", "x".repeat(BODY_MAX_BYTES));
        assert_eq!(status(request(json, long)).await, 413);
        let endless = futures_util::stream::repeat_with(|| Ok::<_, std::io::Error>("    "));
        assert_eq!(status(request(json, Body::from_stream(endless))).await, 413);
        let stuck = futures_util::stream::pending::<Result<String, std::io::Error>>();
        assert_eq!(status(request(json, Body::from_stream(stuck))).await, 408);
    }
}
