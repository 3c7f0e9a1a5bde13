//! What can go wrong with a worker's WebSocket. Messages name hosts, never a
//! whole URL: paths, queries and user information may hold secrets.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use tokio_tungstenite::tungstenite::error::ProtocolError;

/// A failure of the room `worker`.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    // Starting up.
    /// The listener for workers could not be opened.
    #[error(
        "cannot listen for workers on {addr}: {source}; choose another --stream-port or stop the program that holds it"
    )]
    Listen {
        /// Where it was to listen.
        addr: SocketAddr,
        /// The system's reason.
        source: io::Error,
    },
    /// `--ws-target` is no usable address.
    #[error(
        "the worker's address (--ws-target) is unusable: {0}; expected ws://host:port/path or wss://…"
    )]
    BadTarget(&'static str),
    /// The extra CA file could not be used.
    #[error("cannot read CA certificates from {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    // Dialling.
    /// The name has no address.
    #[error("cannot resolve the worker's host {host}: {source}")]
    Resolve {
        /// Host name of the target.
        host: String,
        /// The resolver's reason.
        source: io::Error,
    },
    /// A call's own address that leads into the operator's network.
    #[error(
        "the worker at {host} is at {address}, which is no public address: allow its network with --allow-callback (ALLOW_CALLBACK) if it is yours"
    )]
    NotPermitted {
        /// Host and port of the target.
        host: String,
        /// Where it would lead.
        address: std::net::IpAddr,
    },
    /// No address of the worker took the connection.
    #[error("cannot connect to the worker at {host}: {source}")]
    Connect {
        /// Host and port of the target.
        host: String,
        /// The reason of the last attempt.
        source: io::Error,
    },
    /// The TLS handshake failed.
    #[error("TLS with the worker at {host} failed: {source}")]
    Tls {
        /// Host and port of the target.
        host: String,
        /// The reason, most often the certificate.
        source: io::Error,
    },
    /// The worker answered the WebSocket handshake with another status.
    #[error("the worker at {host} refused the WebSocket with HTTP status {status}")]
    Refused {
        /// Host and port of the target.
        host: String,
        /// Its HTTP status.
        status: u16,
    },
    /// The peer does not speak WebSocket as RFC 6455 asks.
    #[error("the worker at {host} did not complete the WebSocket handshake: {reason}")]
    Handshake {
        /// Host and port of the target.
        host: String,
        /// What is wrong with its answer.
        reason: String,
    },
    /// Connecting took too long as a whole.
    #[error("the worker at {host} was not connected within {} ms", after.as_millis())]
    DialTimeout {
        /// Host and port of the target.
        host: String,
        /// The time it was given.
        after: Duration,
    },

    // A connected worker is lost.
    /// The connection ended without a close frame.
    #[error("the worker's connection ended without a close frame")]
    Dropped,
    /// The connection failed: reset, or unacknowledged for too long.
    #[error("the worker's connection failed: {0}")]
    Io(#[source] io::Error),
    /// A message or frame is over the limit; the worker was sent 1009.
    #[error("the worker sent a message of {size_bytes} bytes, more than the {max_bytes} allowed")]
    MessageTooLarge {
        /// Announced size.
        size_bytes: usize,
        /// The limit.
        max_bytes: usize,
    },
    /// A text message is not UTF-8; the worker was sent 1007.
    #[error("the worker sent a text message that is not UTF-8")]
    NotUtf8,
    /// The worker broke RFC 6455; it was sent 1002.
    #[error("the worker broke the WebSocket protocol: {0}")]
    Protocol(#[source] ProtocolError),
    /// The socket was used after its end had been reported.
    #[error("the worker's socket is over already")]
    Over,
}
