//! The WebSocket to the worker: accept (queue mode) and dial (push mode).
//!
//! | file | what it holds |
//! |---|---|
//! | [`socket`] | [`WorkerSocket`]: one worker's WebSocket, made for a driver that selects over it |
//! | [`received`] | [`Received`], [`Backlog`], [`CloseReason`]: what a socket brings and how it ends |
//! | [`lane`] | [`Lane`]: the short way to a worker, past the socket's queue |
//! | [`registry`] | [`Registry`] and [`Ticket`]: which call waits for a worker, and with which token |
//! | [`accept`] | [`StreamServer`]: the listener of queue mode |
//! | `request` | the HTTP request that opens a WebSocket, parsed and judged |
//! | [`dial`] | [`Dialer`]: push mode, `ws://` and `wss://` |
//! | `upgrade` | our side of the handshake in push mode |
//! | `wire` | a byte stream that knows when it last brought something |
//! | `tcp` | options of every TCP socket: no Nagle, keep-alive, bounded send buffer |
//! | [`error`] | [`WorkerError`] |
//!
//! Leaves out: what the messages mean (`core::media_streams`), and when a lost
//! worker is replaced (`bridge`).

pub mod accept;
pub mod dial;
pub mod error;
pub mod lane;
pub mod received;
pub mod registry;
mod request;
pub mod socket;
mod tcp;
mod upgrade;
mod wire;

pub use accept::{StreamServer, attach_url};
pub use dial::Dialer;
pub use error::WorkerError;
pub use lane::Lane;
pub use received::{Backlog, CloseReason, Ignored, Received};
pub use registry::{AlreadyClaimed, Registry, Ticket};
pub use socket::WorkerSocket;
