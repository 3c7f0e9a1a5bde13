//! The worker's side of Twilio Media Streams over a WebSocket, whoever
//! dialled: what comes from the bridge, and what may be sent to it.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::protocol::CloseFrame;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

/// How long the bridge may take to answer a close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// The `start` message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Start {
    pub stream_sid: String,
    pub call_sid: String,
    pub account_sid: String,
    pub custom_parameters: BTreeMap<String, String>,
}

/// One message of the bridge.
#[derive(Clone, Debug, PartialEq)]
pub enum FromBridge {
    Connected,
    Start(Start),
    Media {
        chunk: u64,
        timestamp_ms: u64,
        audio: Vec<u8>,
    },
    Dtmf(String),
    Mark {
        name: String,
        played_ms: Option<u64>,
        cleared: Option<bool>,
    },
    Stop,
    /// An event that this worker does not know, or no such message at all.
    Other(String),
}

/// A WebSocket to the bridge.
pub struct WorkerStream<S> {
    socket: WebSocketStream<S>,
    /// From `start`; empty before it.
    pub stream_sid: String,
}

impl<S: AsyncRead + AsyncWrite + Unpin> WorkerStream<S> {
    /// Takes a WebSocket after its handshake.
    pub fn new(socket: WebSocketStream<S>) -> Self {
        Self {
            socket,
            stream_sid: String::new(),
        }
    }

    /// The next message; `None` when the bridge has closed.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn next(&mut self) -> Result<Option<FromBridge>, Error> {
        loop {
            match self.socket.next().await {
                Some(Ok(Message::Text(text))) => {
                    let message = parse(&text);
                    if let FromBridge::Start(start) = &message {
                        self.stream_sid.clone_from(&start.stream_sid);
                    }
                    return Ok(Some(message));
                }
                Some(Ok(Message::Close(_))) | None => return Ok(None),
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            }
        }
    }

    /// Plays mu-law audio of any length, after what is queued already.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn media(&mut self, ulaw: &[u8]) -> Result<(), Error> {
        let payload = STANDARD.encode(ulaw);
        self.event("media", json!({ "media": { "payload": payload } }))
            .await
    }

    /// Asks to be told when all audio so far has been played.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn mark(&mut self, name: &str) -> Result<(), Error> {
        self.event("mark", json!({ "mark": { "name": name } }))
            .await
    }

    /// Drops all audio that is queued.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn clear(&mut self) -> Result<(), Error> {
        self.event("clear", json!({})).await
    }

    /// Any other event: `dtmf`, `hangup`, `transfer`, or one that the bridge
    /// does not know.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn event(&mut self, name: &str, mut fields: Value) -> Result<(), Error> {
        fields["event"] = name.into();
        fields["streamSid"] = self.stream_sid.as_str().into();
        self.raw(Message::text(fields.to_string())).await
    }

    /// Any WebSocket message, for tests of bad input.
    ///
    /// # Errors
    /// When the connection broke.
    pub async fn raw(&mut self, message: Message) -> Result<(), Error> {
        self.socket.send(message).await
    }

    /// Closes normally: the bridge plays what is queued and ends the call.
    /// Waits for its answer, so that the system does not reset the connection.
    ///
    /// # Errors
    /// When the connection broke before.
    pub async fn close(&mut self) -> Result<(), Error> {
        self.close_with(CloseCode::Normal).await
    }

    /// Leaves the call to another worker: the bridge gives it to the next.
    ///
    /// # Errors
    /// When the connection broke before.
    pub async fn hand_over(&mut self) -> Result<(), Error> {
        self.close_with(CloseCode::Away).await
    }

    async fn close_with(&mut self, code: CloseCode) -> Result<(), Error> {
        let frame = CloseFrame {
            code,
            reason: Utf8Bytes::default(),
        };
        self.socket.close(Some(frame)).await?;
        let answered = async { while let Some(Ok(_)) = self.socket.next().await {} };
        // A bridge that does not answer is left behind.
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, answered).await;
        Ok(())
    }
}

fn parse(text: &str) -> FromBridge {
    let value: Value = serde_json::from_str(text).unwrap_or_default();
    let text_at = |path: &str| {
        value
            .pointer(path)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let number_at = |path: &str| text_at(path).parse().unwrap_or(0);
    match value["event"].as_str() {
        Some("connected") => FromBridge::Connected,
        Some("start") => FromBridge::Start(Start {
            stream_sid: text_at("/start/streamSid"),
            call_sid: text_at("/start/callSid"),
            account_sid: text_at("/start/accountSid"),
            custom_parameters: parameters(&value["start"]["customParameters"]),
        }),
        Some("media") => FromBridge::Media {
            chunk: number_at("/media/chunk"),
            timestamp_ms: number_at("/media/timestamp"),
            audio: STANDARD
                .decode(text_at("/media/payload"))
                .unwrap_or_default(),
        },
        Some("dtmf") => FromBridge::Dtmf(text_at("/dtmf/digit")),
        Some("mark") => FromBridge::Mark {
            name: text_at("/mark/name"),
            played_ms: value["mark"]["playedMs"].as_u64(),
            cleared: value["mark"]["cleared"].as_bool(),
        },
        Some("stop") => FromBridge::Stop,
        _ => FromBridge::Other(text.to_owned()),
    }
}

fn parameters(value: &Value) -> BTreeMap<String, String> {
    let fields = value.as_object().into_iter().flatten();
    fields
        .filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())))
        .collect()
}
