//! What these scenarios share with the end-to-end tests: private peers, audio
//! that can be recognised, and a strict worker.

use std::future::Future;
use std::time::{Duration, Instant};

use tokio_tungstenite::tungstenite::Error as WsError;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

#[expect(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness/peers.rs"]
pub mod peers;
#[expect(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness/sound.rs"]
pub mod sound;
#[expect(dead_code, reason = "shared with the end-to-end tests")]
#[path = "../e2e/harness/worker.rs"]
pub mod worker;

pub use peers::Redis;
pub use worker::{Job, Worker};

/// How long anything may take that should take no time, on a busy machine.
pub const SOON: Duration = Duration::from_secs(8);

/// Waits for a future; the panic names what did not come.
pub async fn within<T>(limit: Duration, what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(limit, future)
        .await
        .unwrap_or_else(|_| panic!("{what}: not within {limit:?}"))
}

/// Polls until the condition holds; for states that only can be asked for.
pub async fn until(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + SOON;
    while !condition().await {
        assert!(Instant::now() < deadline, "{what}: not within {SOON:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Dials a job's address without expecting anything: the socket, or the status
/// that the bridge refused with.
pub async fn dial(
    url: &str,
) -> Result<WebSocketStream<MaybeTlsStream<tokio::net::TcpStream>>, u16> {
    match within(SOON, "an answer to the worker", connect_async(url)).await {
        Ok((socket, _)) => Ok(socket),
        Err(WsError::Http(response)) => Err(response.status().as_u16()),
        Err(error) => panic!("dialling the bridge: {error}"),
    }
}
