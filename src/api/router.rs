//! Every route, and what each request passes through: a limit of time, access,
//! audit, the bridge that has the call, the route. A route is added here with its description (`utoipa::path`), so that
//! there is none outside of `/api/openapi.json`.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, Request};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use tokio::time::timeout;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::admin::{cluster, fallback, lines, register, servers};
use super::control::{Control, HealthSource};
use super::idempotency::{self, Answers};
use super::nodes::pass_on::pass_on;
use super::nodes::repeated::to_the_first;
use super::problem::{Problem, ProblemKind};
use super::{access, agents, audit, call_list, calls, health, metrics, openapi, twilio, webhooks};

/// How long an answer may take; longer than a connection to the database.
const ANSWER_LIMIT: Duration = Duration::from_secs(15);

/// All routes.
pub fn routes(control: Arc<Control>) -> Router {
    let (router, _) = described().split_for_parts();
    with_fallbacks(router)
        .layer(from_fn_with_state(control.clone(), pass_on))
        .layer(from_fn_with_state(control.clone(), to_the_first))
        .layer(from_fn_with_state(Answers::default(), idempotency::once))
        .layer(from_fn(audit::record))
        .layer(from_fn_with_state(control.clone(), access::guard))
        .layer(from_fn(in_time))
        .layer(from_fn(twilio::in_twilios_form))
        .with_state(control)
}

/// `GET /health` alone.
pub fn health_only(source: HealthSource) -> Router {
    let (router, _) = open().split_for_parts();
    with_fallbacks(router).with_state(source)
}

/// The routes with their descriptions.
pub(super) fn described() -> OpenApiRouter<Arc<Control>> {
    open()
        .routes(routes!(openapi::answer))
        .routes(routes!(call_list::list, calls::place))
        .routes(routes!(calls::get, calls::hang_up))
        .routes(routes!(calls::transfer))
        .routes(routes!(calls::dtmf))
        .routes(routes!(calls::hold))
        .routes(routes!(calls::resume))
        .routes(routes!(servers::list, servers::create))
        .routes(routes!(servers::get, servers::change, servers::remove))
        .routes(routes!(lines::list, lines::create))
        .routes(routes!(lines::get, lines::change, lines::remove))
        .routes(routes!(register::of_phone_line))
        .routes(routes!(register::of_line))
        .routes(routes!(fallback::get, fallback::put))
        .routes(routes!(
            agents::config::get,
            agents::config::put,
            agents::config::remove
        ))
        .routes(routes!(agents::health::answer))
        .routes(routes!(agents::voices::list))
        .routes(routes!(agents::voices::get))
        .routes(routes!(agents::voices::models))
        .routes(routes!(twilio::calls::list, twilio::calls::create))
        .routes(routes!(
            twilio::calls::get,
            twilio::calls::update,
            twilio::calls::remove
        ))
        .routes(routes!(twilio::numbers::list))
        .routes(routes!(twilio::numbers::get, twilio::numbers::update))
        .routes(routes!(webhooks::voice))
        .routes(routes!(cluster::list))
        .routes(routes!(cluster::drain))
        .routes(routes!(cluster::resume))
}

/// What needs no token.
fn open<S>() -> OpenApiRouter<S>
where
    S: Clone + Send + Sync + 'static,
    HealthSource: FromRef<S>,
{
    OpenApiRouter::new()
        .routes(routes!(health::answer))
        .routes(routes!(metrics::answer))
}

/// A database that hangs keeps nobody waiting for ever. A change that has
/// begun goes on, and is logged when it ends.
async fn in_time(request: Request, next: Next) -> Response {
    let answer = timeout(ANSWER_LIMIT, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let detail = format!(
            "there was no answer within {} s; a change may still be made: look before you try again",
            ANSWER_LIMIT.as_secs()
        );
        let problem = Problem::new(ProblemKind::UNAVAILABLE, detail);
        problem.retry_after(5).into_response()
    })
}

fn with_fallbacks<S: Clone + Send + Sync + 'static>(router: Router<S>) -> Router<S> {
    router
        .fallback(
            async |request: Request| match twilio::is_twilios(request.uri().path()) {
                true => twilio::not_served(),
                false => Problem::not_found("path"),
            },
        )
        // axum adds the header Allow. Twilio's paths tell what is left out, as for a path that is not there.
        .method_not_allowed_fallback(async |request: Request| {
            let detail = "the header Allow lists the methods that it takes";
            match twilio::is_twilios(request.uri().path()) {
                true => twilio::not_served(),
                false => Problem::new(ProblemKind::METHOD, detail),
            }
        })
}
