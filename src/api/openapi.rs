//! `/api/openapi.json`: OpenAPI 3.1, made from the descriptions that stand at
//! the routes.

use std::sync::LazyLock;

use axum::http::header::CONTENT_TYPE;
use axum::response::IntoResponse;
use bytes::Bytes;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::openapi::{
    Components, Content, InfoBuilder, OpenApi, Ref, RefOr, Response, ResponseBuilder,
    SecurityRequirement,
};
use utoipa::{IntoResponses, PartialSchema, ToSchema};

use super::problem::{FieldError, Problem};
use super::twilio::error::TwilioError;
use super::{idempotency, router, twilio, webhooks};

const ABOUT: &str = "Calls, phone lines and SIP servers of a bridge between SIP and Twilio Media \
     Streams. With --api-token every request but those to /health, /metrics and /api/openapi.json \
     needs it as a bearer token. Mistakes are answered as problem details (RFC 9457). What begins with \
     /2010-04-01 is Twilio's API, with --account-sid and --auth-token by Basic, and answers in Twilio's form.";

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| {
    // Made of the program's own types: this cannot fail.
    document().to_json().unwrap_or_default().into()
});

/// This document. Needs no token.
#[utoipa::path(
    get,
    path = "/api/openapi.json",
    tag = "health",
    operation_id = "openapi",
    security(()),
    responses((status = 200, description = "OpenAPI 3.1.", body = serde_json::Value)),
)]
pub(super) async fn answer() -> impl IntoResponse {
    ([(CONTENT_TYPE, "application/json")], DOCUMENT.clone())
}

/// The document.
#[must_use]
pub fn document() -> OpenApi {
    let (_, mut document) = router::described().split_for_parts();
    document.info = InfoBuilder::new()
        .title("sipbridge")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(ABOUT))
        .build();
    let components = document.components.get_or_insert_with(Components::new);
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    components.add_security_scheme("token", bearer);
    let basic = SecurityScheme::Http(Http::new(HttpAuthScheme::Basic));
    components.add_security_scheme("account", basic);
    for (name, schema) in [
        (Problem::name(), Problem::schema()),
        (FieldError::name(), FieldError::schema()),
        (TwilioError::name(), TwilioError::schema()),
    ] {
        components.schemas.insert(name.into(), schema);
    }
    document.security = Some(vec![SecurityRequirement::new("token", [""; 0])]);
    for (path, item) in &mut document.paths.paths {
        if let Some(post) = item
            .post
            .as_mut()
            .filter(|_| !twilio::is_twilios(path) && !webhooks::is_webhook(path))
        {
            idempotency::declare(post);
        }
    }
    document
}

/// How a database fails.
const FAILED: [(&str, &str); 2] = [
    ("500", "The database failed; the log says how."),
    ("503", "The database is away; try again."),
];

fn problem(description: &str) -> RefOr<Response> {
    let schema = Ref::from_schema_name(Problem::name());
    let response = ResponseBuilder::new()
        .description(description)
        .content("application/problem+json", Content::new(Some(schema)))
        .build();
    RefOr::T(response)
}

pub(super) fn problems<const N: usize>(
    all: [(&str, &str); N],
) -> std::collections::BTreeMap<String, RefOr<Response>> {
    let pair = |(status, text): (&str, &str)| (status.to_owned(), problem(text));
    all.into_iter().map(pair).collect()
}

/// What any request with access control may be answered.
pub struct Guarded;

impl IntoResponses for Guarded {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        problems([
            ("401", "The bearer token is missing or wrong."),
            (
                "403",
                "Without a token: the request may come from a web page. Calls: the number is not permitted.",
            ),
            ("421", "The header Sipbridge-Node names another bridge."),
        ])
    }
}

/// What any request with a body may be answered.
pub struct WithBody;

impl IntoResponses for WithBody {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        problems([
            ("400", "The body is not a JSON object."),
            ("408", "The body did not come within 5 s."),
            ("413", "The body is longer than 64 kB."),
            ("415", "The body is not said to be JSON."),
            ("422", "Fields are at fault, and `errors` lists them all."),
        ])
    }
}

/// What a request for one thing may be answered.
pub struct Missing;

impl IntoResponses for Missing {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        problems([("404", "There is no such thing.")])
    }
}

/// What a request with a query may be answered.
pub struct WithQuery;

impl IntoResponses for WithQuery {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        problems([("422", "Parameters are at fault; `errors` lists them all.")])
    }
}

/// What a request that also works without a database may be answered.
pub struct Read;

impl IntoResponses for Read {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        problems(FAILED)
    }
}

/// What any request to the database may be answered.
pub struct Stored;

impl IntoResponses for Stored {
    fn responses() -> std::collections::BTreeMap<String, RefOr<Response>> {
        let mut all = problems(FAILED);
        all.extend(problems([(
            "409",
            "The bridge has no database, or it does not go with what is in it: the id is taken, or what is to be removed is in use.",
        )]));
        all
    }
}
