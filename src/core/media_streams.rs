//! Messages of the WebSocket contract (Twilio Media Streams).
use std::collections::BTreeMap;

use bytes::Bytes;

use super::ids::{AccountSid, CallId, StreamId};
use super::playout::MarkEcho;
use super::private::Private;

/// Longest mark name taken, in bytes.
pub const MAX_MARK_NAME_BYTES: usize = 1_024;
/// Most digits in one `dtmf` message.
pub const MAX_DIGITS: usize = 64;
/// Longest transfer destination, in bytes.
pub const MAX_DESTINATION_BYTES: usize = 256;

/// Serialises the messages of one worker stream and numbers them. Each
/// `write_*` appends one complete JSON text to `out`.
#[derive(Debug)]
pub struct MessageWriter {}

impl MessageWriter {
    /// A writer for a new stream; the first numbered message is `start`, "1".
    pub fn new(_stream: &StreamId, _call: &CallId, _account: &AccountSid) -> Self {
        unimplemented!()
    }
    /// The stream this writer numbers.
    pub fn stream(&self) -> &StreamId {
        unimplemented!()
    }
    /// `connected`.
    pub fn write_connected(&self, _out: &mut Vec<u8>) {
        unimplemented!()
    }
    /// `start` with its custom parameters.
    pub fn write_start(
        &mut self,
        _custom_parameters: &BTreeMap<String, String>,
        _out: &mut Vec<u8>,
    ) {
        unimplemented!()
    }
    /// `media`: raw mu-law at `timestamp_ms` since the stream started. The hot path.
    pub fn write_media(&mut self, _timestamp_ms: u64, _payload: &[u8], _out: &mut Vec<u8>) {
        unimplemented!()
    }
    /// `dtmf`: one digit of the caller.
    pub fn write_dtmf(&mut self, _digit: char, _out: &mut Vec<u8>) {
        unimplemented!()
    }
    /// `mark`: the echo of a mark.
    pub fn write_mark(&mut self, _echo: &MarkEcho, _out: &mut Vec<u8>) {
        unimplemented!()
    }
    /// `stop`: the stream is over.
    pub fn write_stop(&mut self, _out: &mut Vec<u8>) {
        unimplemented!()
    }
}

/// A valid message from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerMessage {
    /// Raw mu-law to play, decoded.
    Media(Bytes),
    /// Echo this name when all media before it has been played.
    Mark(String),
    /// Empty the queue.
    Clear,
    /// Digits to send to the caller: 0-9 * # A-D, upper case.
    Dtmf(String),
    /// Play out what is queued, then BYE.
    Hangup,
    /// Blind transfer to a number or SIP URI.
    Transfer(Private),
    /// The worker is done: as a normal close.
    Stop,
}

/// Why a worker's message is ignored. The call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// Not JSON, or a field of another type than the contract's.
    #[error("not a JSON object of the expected form")]
    Json,
    /// `payload` is not standard base64.
    #[error("media.payload is not base64")]
    Base64,
    /// An event that the contract does not know.
    #[error("unknown event")]
    UnknownEvent,
    /// `streamSid` is missing.
    #[error("streamSid is missing")]
    NoStreamSid,
    /// `streamSid` names another stream.
    #[error("streamSid is that of another stream")]
    OtherStreamSid,
    /// A required field is missing or empty.
    #[error("field {0} is missing")]
    Missing(&'static str),
    /// A field is longer than the bridge takes.
    #[error("field {0} is too long")]
    TooLong(&'static str),
    /// `dtmf.digits` holds something else than 0-9 * # A-D.
    #[error("dtmf.digits holds something else than 0-9 * # A-D")]
    Digits,
}

/// Parses one text message of the worker of stream `stream`.
///
/// # Errors
/// The reason to ignore it.
pub fn parse_worker_message(_text: &str, _stream: &StreamId) -> Result<WorkerMessage, Rejected> {
    unimplemented!()
}
