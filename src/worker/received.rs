//! What a worker's socket brings, and how it ends, in the words of this room.

use std::time::Duration;

use tokio_tungstenite::tungstenite::Utf8Bytes;
use tokio_tungstenite::tungstenite::error::{CapacityError, Error as WsError, ProtocolError};
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use super::error::WorkerError;

/// What a worker's socket brought.
#[derive(Debug)]
pub enum Received {
    /// A text message.
    Text(Utf8Bytes),
    /// Something that is no text message. The call goes on.
    Ignored(Ignored),
    /// The worker sent a close frame. Nothing follows.
    Closed {
        /// Whether it meant to end the stream: code 1000 or none. Others (1001
        /// going away, 1011 internal error, 1012 restart) are a lost worker.
        normal: bool,
        /// The close code; 1005 when the frame had none.
        code: u16,
    },
    /// The connection is gone without a close frame. Nothing follows.
    Lost(WorkerError),
}

/// A message that is not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ignored {
    /// A binary message of so many bytes.
    Binary { size_bytes: usize },
}

/// The worker does not keep up and counts as stalled; the text was not queued.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker does not read: {queued_bytes} bytes wait, the oldest for {} ms", age.as_millis())]
pub struct Backpressure {
    /// What waits, the WebSocket's own batch not counted.
    pub queued_bytes: usize,
    /// How long the oldest text has waited.
    pub age: Duration,
}

/// Why we close a worker's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The call is over: 1000.
    CallOver,
    /// The bridge shuts down: 1001.
    Shutdown,
    /// The worker did not read what it was sent: 1008.
    Stalled,
    /// Something failed on our side: 1011.
    Failed,
}

impl CloseReason {
    pub(super) fn frame(self) -> CloseFrame {
        let (code, reason) = match self {
            Self::CallOver => (CloseCode::Normal, "call over"),
            Self::Shutdown => (CloseCode::Away, "bridge is shutting down"),
            Self::Stalled => (CloseCode::Policy, "worker does not read"),
            Self::Failed => (CloseCode::Error, "bridge failed"),
        };
        CloseFrame {
            code,
            reason: reason.into(),
        }
    }
}

/// Turns a failure into ours, with the close code that the worker should see.
pub(super) fn classify(error: WsError) -> (Option<CloseCode>, WorkerError) {
    match error {
        WsError::Io(error) => (None, WorkerError::Io(error)),
        WsError::Capacity(CapacityError::MessageTooLong { size, max_size }) => (
            Some(CloseCode::Size),
            WorkerError::MessageTooLarge {
                size_bytes: size,
                max_bytes: max_size,
            },
        ),
        WsError::Utf8(_) => (Some(CloseCode::Invalid), WorkerError::NotUtf8),
        WsError::Protocol(
            ProtocolError::ResetWithoutClosingHandshake | ProtocolError::SendAfterClosing,
        ) => (None, WorkerError::Dropped),
        WsError::Protocol(error) => (Some(CloseCode::Protocol), WorkerError::Protocol(error)),
        _ => (None, WorkerError::Dropped),
    }
}
