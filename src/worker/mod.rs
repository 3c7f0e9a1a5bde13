//! The WebSocket to the worker: accept (queue mode) and dial (push mode).
//!
//! | file | what it holds |
//! |---|---|
//! | [`socket`] | [`WorkerSocket`]: one worker's WebSocket, made for a driver that selects over it |
//! | [`received`] | [`Received`], [`Backpressure`], [`CloseReason`]: what a socket brings and how it ends |
//! | [`direct_writer`] | [`DirectWriter`]: writes to a worker at once, past the socket's queue |
//! | `direct_state`, `text_frame` | what it shares with the socket; how it writes a frame |
//! | [`attach_table`] | [`AttachTable`] and [`Ticket`]: which call waits for a worker, and with which token |
//! | [`accept`] | [`StreamServer`]: the listener of queue mode |
//! | `request` | the HTTP request that opens a WebSocket, parsed and judged |
//! | [`dial`] | [`Dialer`]: push mode, `ws://` and `wss://` |
//! | `upgrade` | our side of the handshake in push mode |
//! | `timed_stream` | a byte stream that knows when it last brought something |
//! | `tcp` | options of every TCP socket: no Nagle, keep-alive, bounded send buffer |
//! | [`error`] | [`WorkerError`] |
//!
//! Leaves out: what the messages mean (`core::media_streams`), and when a lost
//! worker is replaced (`bridge`).

pub mod accept;
pub mod attach_table;
pub mod dial;
mod direct_state;
pub mod direct_writer;
pub mod error;
pub mod received;
mod request;
pub mod socket;
mod tcp;
mod text_frame;
mod timed_stream;
mod upgrade;

pub use accept::{Expected, StreamServer, attach_url, twilio_url};
pub use attach_table::{AlreadyClaimed, AttachTable, Ticket};
pub use dial::Dialer;
pub use direct_writer::DirectWriter;
pub use error::WorkerError;
pub use received::{Backpressure, CloseReason, Ignored, Received};
pub use socket::WorkerSocket;
