//! What the end-to-end tests are made of: private peers, the bridge as a
//! process, a SIP caller and a worker.

pub mod api;
pub mod bridge;
pub mod callee;
pub mod caller;
pub mod cluster;
pub mod http;
pub mod location;
pub mod network;
pub mod pacing;
pub mod peers;
#[path = "../../store/postgres.rs"]
pub mod postgres;
pub mod receiver;
mod registrar;
pub mod rtp;
pub mod scripted_trunk;
pub mod sdp;
pub mod sip;
pub mod sipp;
pub mod sound;
pub mod tls;
pub mod twilio;
pub mod worker;

use std::future::Future;
use std::time::{Duration, Instant};

pub use api::Api;
pub use bridge::{Bridge, Exit};
pub use callee::Callee;
pub use caller::{Call, Caller};
pub use peers::{Kamailio, Redis};
pub use tls::Authority;
pub use worker::{Job, Worker};

/// How long anything may take that should take no time, on a busy machine.
pub const SOON: Duration = Duration::from_secs(20);

/// Waits for a future; the panic names what did not come.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    within(SOON, what, future).await
}

/// As [`soon`], with another limit.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Polls until the condition holds; for states that only can be asked for.
pub async fn until(limit: Duration, what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
