//! The database against real SQLite files and a real, private PostgreSQL.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod agents;
mod call_log;
mod callbacks;
mod calls;
mod changes;
mod migrations;
mod postgres;
mod rows;
mod stage;
