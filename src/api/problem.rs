//! What the API answers when it does not do what was asked: problem details
//! (RFC 9457). No problem holds a password or a number.

use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::store::StoreError;

/// A kind of problem: its status, its type and its title go together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProblemKind {
    status: StatusCode,
    urn: &'static str,
    title: &'static str,
}

const fn kind(status: StatusCode, urn: &'static str, title: &'static str) -> ProblemKind {
    ProblemKind { status, urn, title }
}

impl ProblemKind {
    /// The body is no JSON.
    pub const MALFORMED: Self = kind(
        StatusCode::BAD_REQUEST,
        "urn:sipbridge:problem:malformed-json",
        "The body is not a JSON object",
    );
    /// No HTTP as it has to be.
    pub const BAD_REQUEST: Self = kind(
        StatusCode::BAD_REQUEST,
        "urn:sipbridge:problem:bad-request",
        "The request is not as HTTP has it",
    );
    /// An Idempotency-Key that came with another body before.
    pub const KEY_REUSED: Self = kind(
        StatusCode::UNPROCESSABLE_ENTITY,
        "urn:sipbridge:problem:idempotency-key-reused",
        "The Idempotency-Key belongs to another request",
    );
    /// No token, or a wrong one.
    pub const UNAUTHORIZED: Self = kind(
        StatusCode::UNAUTHORIZED,
        "urn:sipbridge:problem:unauthorized",
        "A bearer token is needed",
    );
    /// A request that a web page may have sent.
    pub const FOREIGN: Self = kind(
        StatusCode::FORBIDDEN,
        "urn:sipbridge:problem:foreign-request",
        "Refused without a token",
    );
    /// A call to a number that is not permitted.
    pub const NOT_ALLOWED: Self = kind(
        StatusCode::FORBIDDEN,
        "urn:sipbridge:problem:not-allowed",
        "Calls to this number are not permitted",
    );
    /// Nothing there.
    pub const NOT_FOUND: Self = kind(
        StatusCode::NOT_FOUND,
        "urn:sipbridge:problem:not-found",
        "There is nothing here",
    );
    /// The path is there, the method is not.
    pub const METHOD: Self = kind(
        StatusCode::METHOD_NOT_ALLOWED,
        "urn:sipbridge:problem:method-not-allowed",
        "This path does not take this method",
    );
    /// The body came too slowly.
    pub const SLOW: Self = kind(
        StatusCode::REQUEST_TIMEOUT,
        "urn:sipbridge:problem:timeout",
        "The body did not come in time",
    );
    /// It is as it is, and that does not go with what was asked.
    pub const CONFLICT: Self = kind(
        StatusCode::CONFLICT,
        "urn:sipbridge:problem:conflict",
        "This cannot be done now",
    );
    /// A server that lines use.
    pub const IN_USE: Self = kind(
        StatusCode::CONFLICT,
        "urn:sipbridge:problem:in-use",
        "The SIP server is in use",
    );
    /// An id that is there already.
    pub const TAKEN: Self = kind(
        StatusCode::CONFLICT,
        "urn:sipbridge:problem:taken",
        "The id is taken",
    );
    /// There is no database.
    pub const NO_DATABASE: Self = kind(
        StatusCode::CONFLICT,
        "urn:sipbridge:problem:no-database",
        "This bridge has no database",
    );
    /// Agents are not turned on.
    pub const AGENTS_OFF: Self = kind(
        StatusCode::SERVICE_UNAVAILABLE,
        "urn:sipbridge:problem:agents-off",
        "This bridge keeps no agents",
    );
    /// There is no key for the provider of voices.
    pub const NO_PROVIDER: Self = kind(
        StatusCode::SERVICE_UNAVAILABLE,
        "urn:sipbridge:problem:no-voice-provider",
        "This bridge has no provider of voices",
    );
    /// The provider of voices failed.
    pub const PROVIDER: Self = kind(
        StatusCode::BAD_GATEWAY,
        "urn:sipbridge:problem:voice-provider",
        "The provider of voices failed",
    );
    /// The body is too long.
    pub const TOO_LARGE: Self = kind(
        StatusCode::PAYLOAD_TOO_LARGE,
        "urn:sipbridge:problem:too-large",
        "The body is too long",
    );
    /// The body is not said to be JSON.
    pub const MEDIA_TYPE: Self = kind(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "urn:sipbridge:problem:media-type",
        "The body must be JSON",
    );
    /// Fields are at fault.
    pub const INVALID: Self = kind(
        StatusCode::UNPROCESSABLE_ENTITY,
        "urn:sipbridge:problem:invalid",
        "The request has mistakes",
    );
    /// Too much at once.
    pub const TOO_MANY: Self = kind(
        StatusCode::TOO_MANY_REQUESTS,
        "urn:sipbridge:problem:too-many",
        "Too many requests",
    );
    /// Our fault.
    pub const INTERNAL: Self = kind(
        StatusCode::INTERNAL_SERVER_ERROR,
        "urn:sipbridge:problem:internal",
        "The bridge failed",
    );
    /// The SIP side would not.
    pub const SIP: Self = kind(
        StatusCode::BAD_GATEWAY,
        "urn:sipbridge:problem:sip",
        "The call could not be placed",
    );
    /// Another bridge has what was asked for, and does not answer.
    pub const NODE: Self = kind(
        StatusCode::SERVICE_UNAVAILABLE,
        "urn:sipbridge:problem:node-unavailable",
        "Another bridge does not answer",
    );
    /// A request for another bridge.
    pub const MISDIRECTED: Self = kind(
        StatusCode::MISDIRECTED_REQUEST,
        "urn:sipbridge:problem:misdirected",
        "This is not the bridge that the request is for",
    );
    /// Not now, later perhaps.
    pub const UNAVAILABLE: Self = kind(
        StatusCode::SERVICE_UNAVAILABLE,
        "urn:sipbridge:problem:unavailable",
        "Not possible for the moment",
    );
}

/// What is wrong with one field.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field, as the request writes it.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

impl FieldError {
    /// A mistake.
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

/// Problem details (RFC 9457).
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Problem {
    /// Names the kind of problem; programs decide by this.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The same in words.
    title: &'static str,
    /// The status of the answer.
    status: u16,
    /// What went wrong this time, and what to do.
    detail: String,
    /// Every mistake of the request; with status 422.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false, value_type = Vec<FieldError>)]
    errors: Box<[FieldError]>,
    /// Ids of the lines that use the SIP server; with `in-use`.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    #[schema(required = false, value_type = Vec<String>)]
    lines: Box<[String]>,
    #[serde(skip)]
    #[schema(ignore)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A problem of a kind, this time.
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self {
            kind: kind.urn,
            title: kind.title,
            status: kind.status.as_u16(),
            detail: detail.into(),
            errors: Box::default(),
            lines: Box::default(),
            headers: Vec::new(),
        }
    }

    /// 422 with every mistake.
    #[must_use]
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match &errors[..] {
            [one] => format!("{}: {}", one.field, one.reason),
            several => format!("{} fields are at fault, see errors", several.len()),
        };
        Self {
            errors: errors.into(),
            ..Self::new(ProblemKind::INVALID, detail)
        }
    }

    /// 422 for one field.
    #[must_use]
    pub fn field(field: &str, reason: impl Into<String>) -> Self {
        Self::invalid(vec![FieldError::new(field, reason)])
    }

    /// 404.
    #[must_use]
    pub fn not_found(what: &str) -> Self {
        Self::new(ProblemKind::NOT_FOUND, format!("there is no such {what}"))
    }

    /// 401, with what the client must send.
    #[must_use]
    pub fn unauthorized(challenge: &'static str, detail: &str) -> Self {
        let challenge = HeaderValue::from_static(challenge);
        Self::new(ProblemKind::UNAUTHORIZED, detail).header(WWW_AUTHENTICATE, challenge)
    }

    /// With ids of lines.
    #[must_use]
    pub fn with_lines(self, lines: Vec<String>) -> Self {
        Self {
            lines: lines.into(),
            ..self
        }
    }

    /// With the seconds after which another try makes sense.
    #[must_use]
    pub fn retry_after(self, seconds: u32) -> Self {
        self.header(RETRY_AFTER, HeaderValue::from(seconds))
    }

    /// The connection has a rest of a body in it, and is of no more use.
    #[must_use]
    pub fn closing(self) -> Self {
        self.header(CONNECTION, HeaderValue::from_static("close"))
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    /// Whether it is of this kind.
    pub(super) fn is(&self, kind: ProblemKind) -> bool {
        self.kind == kind.urn
    }

    /// Every mistake of the request, where fields are at fault.
    pub(super) fn errors(&self) -> &[FieldError] {
        &self.errors
    }

    /// What went wrong this time.
    pub(super) fn detail(&self) -> &str {
        &self.detail
    }

    /// The value of a header that it is sent with.
    pub(super) fn header_value(&self, name: &HeaderName) -> Option<&HeaderValue> {
        let mut headers = self.headers.iter();
        headers.find_map(|(known, value)| (known == name).then_some(value))
    }

    fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let json = HeaderValue::from_static("application/problem+json");
        let mut response = (self.status(), [(CONTENT_TYPE, json)], body).into_response();
        response.headers_mut().extend(self.headers.clone());
        // For a layer that answers in another form.
        response.extensions_mut().insert(self);
        response
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match &error {
            StoreError::Taken(_) => Self::new(ProblemKind::TAKEN, error.to_string()),
            StoreError::Referenced(_) => Self::new(ProblemKind::CONFLICT, error.to_string()),
            StoreError::Values { reason, .. } => {
                let detail = format!("the database does not take these values: {reason}");
                Self::new(ProblemKind::INVALID, detail)
            }
            StoreError::Agent { .. } => {
                tracing::error!(%error, "an API request failed");
                Self::new(ProblemKind::INTERNAL, error.to_string())
            }
            _ if error.is_transient() => {
                tracing::warn!(%error, "an API request failed");
                Self::new(ProblemKind::UNAVAILABLE, error.to_string()).retry_after(2)
            }
            _ => {
                tracing::error!(%error, "an API request failed");
                Self::new(
                    ProblemKind::INTERNAL,
                    "the database failed; the log says how",
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_has_its_type_and_leaves_out_what_it_has_not() {
        let problem = Problem::new(ProblemKind::CONFLICT, "the call is over").retry_after(1);
        let body = serde_json::to_value(&problem).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "type": "urn:sipbridge:problem:conflict",
                "title": "This cannot be done now",
                "status": 409,
                "detail": "the call is over",
            })
        );
        let response = problem.into_response();
        assert_eq!(response.status(), 409);
        assert_eq!(response.headers()["retry-after"], "1");
        assert_eq!(
            response.headers()["content-type"],
            "application/problem+json"
        );
    }

    #[test]
    fn every_mistake_is_listed() {
        let errors = vec![FieldError::new("a", "is odd"), FieldError::new("b", "too")];
        let problem = Problem::invalid(errors);
        let body = serde_json::to_value(&problem).expect("JSON");
        assert_eq!(body["errors"][1]["field"], "b");
        assert_eq!(body["detail"], "2 fields are at fault, see errors");
        assert_eq!(Problem::field("a", "is odd").detail, "a: is odd");
    }
}
