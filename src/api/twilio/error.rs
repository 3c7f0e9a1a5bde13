//! What Twilio's API answers when it does not do what was asked: its own codes.
//! No error holds a number or a secret.

use std::collections::BTreeMap;

use axum::extract::Request;
use axum::http::header::{CONNECTION, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::openapi::{self, Content, Ref, RefOr, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

use super::is_twilios;
use crate::api::problem::Problem;
use crate::core::twiml::TwimlError;
use crate::store::StoreError;

/// One of Twilio's error codes, and the status it goes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Code {
    status: StatusCode,
    code: u32,
}

const fn code(status: StatusCode, code: u32) -> Code {
    Code { status, code }
}

impl Code {
    /// No account and token, or wrong ones.
    pub(super) const UNAUTHORIZED: Self = code(StatusCode::UNAUTHORIZED, 20003);
    /// Nothing there, or not served.
    pub(super) const NOT_FOUND: Self = code(StatusCode::NOT_FOUND, 20404);
    /// Too much at once.
    const TOO_MANY: Self = code(StatusCode::TOO_MANY_REQUESTS, 20429);
    /// A parameter is at fault.
    pub(super) const PARAMETER: Self = code(StatusCode::BAD_REQUEST, 21218);
    /// A call to be placed names nobody to be called.
    pub(super) const NO_TO: Self = code(StatusCode::BAD_REQUEST, 21201);
    /// An address cannot be used.
    pub(super) const BAD_URL: Self = code(StatusCode::BAD_REQUEST, 21205);
    /// What is to be called is neither a number nor a SIP URI.
    pub(super) const BAD_TO: Self = code(StatusCode::BAD_REQUEST, 21211);
    /// The number to call from is no line's.
    pub(super) const FOREIGN_FROM: Self = code(StatusCode::BAD_REQUEST, 21212);
    /// A call to be placed does not say from which number.
    pub(super) const NO_FROM: Self = code(StatusCode::BAD_REQUEST, 21213);
    /// The dial rules do not permit the number.
    const NOT_PERMITTED: Self = code(StatusCode::BAD_REQUEST, 21215);
    /// The call's state does not allow it.
    pub(super) const CALL_STATE: Self = code(StatusCode::BAD_REQUEST, 21220);
    /// The body is too long.
    const TOO_LARGE: Self = code(StatusCode::PAYLOAD_TOO_LARGE, 21617);
    /// Our fault.
    const INTERNAL: Self = code(StatusCode::INTERNAL_SERVER_ERROR, 20500);
    /// Not now, later perhaps.
    const UNAVAILABLE: Self = code(StatusCode::SERVICE_UNAVAILABLE, 20503);

    /// TwiML cannot be read, with Twilio's number for the reason: 12100, but for addresses and lengths.
    pub(super) fn of_twiml(error: &TwimlError) -> Self {
        code(StatusCode::BAD_REQUEST, error.code().into())
    }

    /// What goes with a status of the other routes.
    fn of(status: StatusCode) -> Self {
        match status {
            StatusCode::UNAUTHORIZED => Self::UNAUTHORIZED,
            StatusCode::FORBIDDEN => Self::NOT_PERMITTED,
            StatusCode::NOT_FOUND => Self::NOT_FOUND,
            StatusCode::TOO_MANY_REQUESTS => Self::TOO_MANY,
            StatusCode::PAYLOAD_TOO_LARGE => Self::TOO_LARGE,
            StatusCode::CONFLICT => Self::CALL_STATE,
            StatusCode::SERVICE_UNAVAILABLE => Self::UNAVAILABLE,
            _ if status.is_server_error() => Self::INTERNAL,
            _ => Self::PARAMETER,
        }
    }
}

/// An error in Twilio's form.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TwilioError {
    /// What went wrong; programs decide by this.
    code: u32,
    /// The same in words, and what to do.
    message: String,
    /// Where more is written.
    more_info: String,
    /// The status of the answer.
    status: u16,
    #[serde(skip)]
    #[schema(ignore)]
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl TwilioError {
    /// An error of a kind, this time.
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        let challenge = HeaderValue::from_static("Basic realm=\"sipbridge\"");
        let is_challenge = code == Code::UNAUTHORIZED;
        Self {
            code: code.code,
            message: message.into(),
            more_info: format!("https://www.twilio.com/docs/errors/{}", code.code),
            status: code.status.as_u16(),
            headers: is_challenge
                .then_some((WWW_AUTHENTICATE, challenge))
                .into_iter()
                .collect(),
        }
    }

    /// 404 for a thing that is not there.
    pub(super) fn missing(what: &str) -> Self {
        Self::new(Code::NOT_FOUND, format!("there is no such {what}"))
    }

    /// Its status.
    #[must_use]
    pub const fn status(&self) -> u16 {
        self.status
    }
}

impl From<Problem> for TwilioError {
    fn from(problem: Problem) -> Self {
        let mut error = Self::new(Code::of(problem.status()), problem.detail());
        for name in [RETRY_AFTER, CONNECTION] {
            if let Some(value) = problem.header_value(&name) {
                error.headers.push((name, value.clone()));
            }
        }
        error
    }
}

impl From<StoreError> for TwilioError {
    fn from(error: StoreError) -> Self {
        Problem::from(error).into()
    }
}

impl IntoResponse for TwilioError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::BAD_REQUEST);
        // Strings and numbers only: this cannot fail.
        let body = serde_json::to_vec(&self).unwrap_or_default();
        let mut response = (status, [(CONTENT_TYPE, "application/json")], body).into_response();
        response.headers_mut().extend(self.headers);
        response
    }
}

/// What any request to Twilio's API may be answered.
pub(super) struct Errors;

impl IntoResponses for Errors {
    fn responses() -> BTreeMap<String, RefOr<openapi::Response>> {
        let described = |(status, text): (&str, &str)| {
            let schema = Ref::from_schema_name(TwilioError::name());
            let response = ResponseBuilder::new()
                .description(text)
                .content("application/json", Content::new(Some(schema)))
                .build();
            (status.to_owned(), RefOr::T(response))
        };
        let all = [
            (
                "400",
                "A parameter is at fault, or the call's state does not allow it.",
            ),
            ("401", "AccountSid and AuthToken are missing or wrong."),
            ("404", "There is no such thing, or it is not served."),
            ("413", "The body is longer than 64 kB."),
            ("429", "Too many requests wait for this call."),
            ("500", "The database failed; the log says how."),
            ("503", "The database is away; try again."),
        ];
        all.into_iter().map(described).collect()
    }
}

/// Turns what the layers around all routes answer (too slow, no such path, a wrong
/// method) into Twilio's form, for Twilio's paths.
pub(in crate::api) async fn in_twilios_form(request: Request, next: Next) -> Response {
    let is_twilios = is_twilios(request.uri().path());
    let mut response = next.run(request).await;
    if !is_twilios {
        return response;
    }
    match response.extensions_mut().remove::<Problem>() {
        Some(problem) => TwilioError::from(problem).into_response(),
        None => response,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::problem::ProblemKind;

    #[test]
    fn an_error_has_twilios_four_fields() {
        let error = TwilioError::missing("call");
        let body = serde_json::to_value(&error).expect("JSON");
        assert_eq!(
            body,
            serde_json::json!({
                "code": 20404,
                "message": "there is no such call",
                "more_info": "https://www.twilio.com/docs/errors/20404",
                "status": 404,
            })
        );
    }

    #[test]
    fn problems_keep_their_status_and_when_to_try_again() {
        let kinds = [
            (ProblemKind::NOT_FOUND, 404, 20404),
            (ProblemKind::TOO_MANY, 429, 20429),
            (ProblemKind::UNAVAILABLE, 503, 20503),
            (ProblemKind::INTERNAL, 500, 20500),
            (ProblemKind::INVALID, 400, 21218),
            (ProblemKind::CONFLICT, 400, 21220),
            (ProblemKind::NOT_ALLOWED, 400, 21215),
        ];
        for (kind, status, code) in kinds {
            let error = TwilioError::from(Problem::new(kind, "why").retry_after(7));
            assert_eq!((error.status, error.code), (status, code));
            assert_eq!(error.message, "why");
            let response = error.into_response();
            assert_eq!(response.headers()["retry-after"], "7");
        }
        let challenge = TwilioError::new(Code::UNAUTHORIZED, "").into_response();
        assert!(challenge.headers().contains_key(WWW_AUTHENTICATE));
    }
}
