//! HTTP: health.
//!
//! `GET /health` answers 200 while calls can be taken, else 503, with the same
//! JSON either way. Bounded in header size, time and connections. Leaves out
//! TLS and authentication: it listens on a local address unless told otherwise.

pub mod health;
pub mod server;

pub use health::{CallTotals, Health, HealthStatus, LineCounts, RedisHealth};
pub use server::{ApiError, ApiListener, ApiServer, HealthSource};
