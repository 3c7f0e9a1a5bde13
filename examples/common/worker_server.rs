//! Push mode: the bridge dials the worker, as Twilio does.

use std::io;
use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite::Error;

use super::worker_stream::WorkerStream;

/// A listening worker.
pub struct WorkerServer(TcpListener);

impl WorkerServer {
    /// Listens; port 0 lets the system choose.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn bind(address: SocketAddr) -> io::Result<Self> {
        TcpListener::bind(address).await.map(Self)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// When the system does not tell.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.0.local_addr()
    }

    /// Waits for the next connection; its handshake is still to be made.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.0.accept().await
    }
}

/// Makes the handshake, without Nagle's delay.
///
/// # Errors
/// When it is no WebSocket client.
pub async fn handshake(stream: TcpStream) -> Result<WorkerStream<TcpStream>, Error> {
    stream.set_nodelay(true)?;
    Ok(WorkerStream::new(accept_async(stream).await?))
}
