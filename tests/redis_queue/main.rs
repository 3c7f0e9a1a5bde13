//! The Redis contract against a real, private redis-server, in good and in
//! every bad state.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a failure here is a failed test"
)]

mod access;
mod crash;
mod failures;
mod jobs;
mod lease_stage;
mod leases;
mod line_limits;
mod lost_calls;
mod nodes;
mod probe;
mod proxy;
mod stage;
mod state;
mod taken;
