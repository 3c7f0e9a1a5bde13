//! HTTP: health, the calls, and the administration of lines and SIP servers.
//!
//! | file | what it holds |
//! |---|---|
//! | [`server`], `visitors` | hyper with its limits: head, connections, time; who asks nothing makes room |
//! | [`tls`] | our certificate, and the handshake |
//! | [`router`] | every route, and what each request passes through |
//! | [`control`] | what the routes act upon |
//! | [`access`] | the token, and who is let in without one |
//! | [`audit`] | a log line for each change |
//! | [`idempotency`] | a POST that is sent again is done once |
//! | [`body`], [`query`], [`fields`] | what a request says, bounded and checked |
//! | [`problem`] | what is answered otherwise: RFC 9457 |
//! | [`health`] | `GET /health` |
//! | [`metrics`], `exposition`, `process` | `GET /metrics` |
//! | [`call_list`] | `GET /api/calls`: the calls of all bridges, or records of the database |
//! | [`calls`] | `/api/calls`: a call placed, and what can be asked of each |
//! | [`call_body`] | a call and its record as JSON |
//! | [`new_call`] | what `POST /api/calls` takes |
//! | [`admin`] | `/api/admin/telephony` |
//! | [`agents`] | `/api/v1/omnichannel`: the agents of tenants |
//! | [`nodes`] | the other bridges: what is asked of them |
//! | [`twilio`] | `/2010-04-01`: Twilio's REST API, as far as bots use it |
//! | [`webhooks`] | `/webhooks/voice`: Twilio brings calls of numbers that stay there |
//! | [`openapi`] | `/api/openapi.json`, made from the routes |
//!
//! Bounded in header size, body size, time and connections.

pub mod access;
pub mod admin;
pub mod agents;
pub mod audit;
pub mod body;
pub mod call_body;
pub mod call_list;
pub mod calls;
pub mod control;
mod exposition;
pub mod fields;
pub mod health;
pub mod idempotency;
pub mod metrics;
pub mod new_call;
pub mod nodes;
pub mod openapi;
pub mod problem;
mod process;
pub mod query;
pub mod router;
pub mod server;
pub mod tls;
pub mod twilio;
mod visitors;
pub mod webhooks;

pub use control::{Control, HealthSource};
pub use health::{
    CallTotals, ClusterHealth, Health, HealthStatus, LineCounts, NodeHealth, RedisHealth,
};
pub use router::{health_only, routes};
pub use server::{ApiError, ApiListener, ApiServer};
pub use tls::ApiTls;
