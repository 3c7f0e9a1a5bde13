//! Queue mode: the worker dials the address in its job.

use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Error;
use tokio_tungstenite::{MaybeTlsStream, connect_async_with_config};

use super::worker_stream::WorkerStream;

/// Opens a job's `audioStreamUrl`, without Nagle's delay.
///
/// # Errors
/// When the bridge cannot be reached or refuses: 401, 404, 409 or 410, as
/// `Error::Http`.
pub async fn dial(url: &str) -> Result<WorkerStream<MaybeTlsStream<TcpStream>>, Error> {
    let (socket, _) = connect_async_with_config(url, None, true).await?;
    Ok(WorkerStream::new(socket))
}
