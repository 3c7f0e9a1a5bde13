//! A worker as strict as any: takes jobs, dials back, or is dialled; checks the
//! numbering of every message that it gets.

use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::stream::{SplitSink, SplitStream};
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::{Redis, SOON, within};

/// The queue of the contract.
pub const QUEUE: &str = "queue:incoming_calls";

/// A job as it lies in Redis.
#[derive(Clone, Debug)]
pub struct Job {
    pub json: Value,
}

impl Job {
    /// Waits for the next job and takes it, as workers do.
    pub async fn take(redis: &Redis) -> Self {
        Self::take_within(redis, SOON).await
    }

    pub async fn take_within(redis: &Redis, limit: Duration) -> Self {
        let seconds = limit.as_secs().to_string();
        let taken: Option<(String, String)> = redis.query(&["BRPOP", QUEUE, &seconds]).await;
        let (_, text) = taken.unwrap_or_else(|| panic!("no job within {limit:?}"));
        Self {
            json: serde_json::from_str(&text).unwrap(),
        }
    }

    pub fn text(&self, field: &str) -> &str {
        self.json[field]
            .as_str()
            .unwrap_or_else(|| panic!("{field} is no text in {}", self.json))
    }

    pub fn url(&self) -> &str {
        self.text("audioStreamUrl")
    }

    pub fn token(&self) -> &str {
        self.url().split("token=").nth(1).unwrap()
    }
}

/// A message of the bridge and when it came.
#[derive(Clone, Debug)]
pub struct Heard {
    pub at: Instant,
    pub json: Value,
}

/// Type-erased writer half, so that dialled and dialling workers are one type.
type Outbox = mpsc::UnboundedSender<Message>;

/// A worker attached to one call.
pub struct Worker {
    outbox: Outbox,
    inbox: mpsc::UnboundedReceiver<Heard>,
    tasks: [JoinHandle<()>; 2],
    close_code: watch::Receiver<Option<u16>>,
    /// Every message so far, in order.
    pub heard: Vec<Heard>,
    pub stream_sid: String,
    pub call_sid: String,
}

impl Worker {
    /// Takes the next job, dials back and reads up to `start`.
    pub async fn serve(redis: &Redis) -> Self {
        let job = Job::take(redis).await;
        Self::attach(&job).await
    }

    /// Dials the job's address and reads up to `start`.
    pub async fn attach(job: &Job) -> Self {
        Self::dial(job.url()).await
    }

    /// Dials an address and reads up to `start`.
    pub async fn dial(url: &str) -> Self {
        // No Nagle on our side either: the tests look at milliseconds.
        let connected = tokio_tungstenite::connect_async_with_config(url, None, true).await;
        let (socket, _) = connected.unwrap_or_else(|error| panic!("dialling the bridge: {error}"));
        Self::over(socket).await.greeted().await
    }

    /// Waits until the bridge dials (push mode) and reads up to `start`.
    pub async fn accept(listener: &TcpListener) -> Self {
        let (stream, _) = within(SOON, "the bridge dials", listener.accept())
            .await
            .unwrap();
        stream.set_nodelay(true).unwrap();
        let socket = tokio_tungstenite::accept_async(stream).await.unwrap();
        Self::over(socket).await.greeted().await
    }

    /// Takes an upgraded socket and reads up to `start`.
    pub async fn greeted_over<S>(socket: WebSocketStream<S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        Self::over(socket).await.greeted().await
    }

    async fn over<S>(socket: WebSocketStream<S>) -> Self
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (sink, stream) = socket.split();
        let (outbox, outgoing) = mpsc::unbounded_channel();
        let (incoming, inbox) = mpsc::unbounded_channel();
        let (closed, close_code) = watch::channel(None);
        Self {
            tasks: [
                tokio::spawn(write(sink, outgoing)),
                tokio::spawn(read(stream, incoming, closed)),
            ],
            close_code,
            outbox,
            inbox,
            heard: Vec::new(),
            stream_sid: String::new(),
            call_sid: String::new(),
        }
    }

    /// Reads `connected` and `start`, which must be the first two.
    async fn greeted(mut self) -> Self {
        assert_eq!(self.next().await.json["event"], "connected");
        let start = self.next().await.json;
        assert_eq!(start["event"], "start", "{start}");
        self.stream_sid = start["streamSid"].as_str().unwrap().to_owned();
        self.call_sid = start["start"]["callSid"].as_str().unwrap().to_owned();
        self
    }

    /// The `start` message.
    pub fn start(&self) -> &Value {
        &self.heard[1].json
    }

    /// The next message.
    pub async fn next(&mut self) -> Heard {
        self.next_within(SOON, "a message of the bridge").await
    }

    async fn next_within(&mut self, limit: Duration, what: &str) -> Heard {
        let heard = within(limit, what, self.inbox.recv()).await;
        let heard = heard.unwrap_or_else(|| panic!("{what}: the bridge closed the socket"));
        self.heard.push(heard.clone());
        heard
    }

    /// The next message of that event; the others are kept in `heard`.
    pub async fn next_of(&mut self, event: &str) -> Heard {
        self.next_of_within(SOON, event).await
    }

    pub async fn next_of_within(&mut self, limit: Duration, event: &str) -> Heard {
        let deadline = Instant::now() + limit;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let heard = self.next_within(left, event).await;
            if heard.json["event"] == event {
                return heard;
            }
        }
    }

    /// Reads for so long, or until the socket closes.
    pub async fn listen(&mut self, duration: Duration) {
        let deadline = tokio::time::Instant::now() + duration;
        while let Ok(Some(heard)) = tokio::time::timeout_at(deadline, self.inbox.recv()).await {
            self.heard.push(heard);
        }
    }

    /// Reads until the bridge closes the socket.
    pub async fn listen_to_end(&mut self) {
        let reading = async {
            while let Some(heard) = self.inbox.recv().await {
                self.heard.push(heard);
            }
        };
        within(SOON, "the bridge closes the socket", reading).await;
    }

    /// Close code of the bridge, once its socket is closed; 1005 for none.
    pub fn close_code(&self) -> Option<u16> {
        *self.close_code.borrow()
    }

    /// Reads until the audio heard holds `part` without a break.
    pub async fn hears(&mut self, part: &[u8], limit: Duration) {
        let deadline = Instant::now() + limit;
        while !super::sound::contains(&self.audio(), part) {
            let left = deadline.saturating_duration_since(Instant::now());
            self.next_within(left, "the expected audio").await;
        }
    }

    /// All messages of one event so far.
    pub fn all(&self, event: &str) -> Vec<&Heard> {
        self.heard
            .iter()
            .filter(|heard| heard.json["event"] == event)
            .collect()
    }

    /// Payload of all `media` so far.
    pub fn audio(&self) -> Vec<u8> {
        let media = self.all("media");
        media
            .iter()
            .flat_map(|heard| payload(&heard.json))
            .collect()
    }

    /// Sends any JSON.
    pub fn send(&self, message: &Value) {
        self.send_raw(Message::text(message.to_string()));
    }

    /// Sends any WebSocket message; a closed socket is no error here.
    pub fn send_raw(&self, message: Message) {
        let _ = self.outbox.send(message);
    }

    /// Sends audio, any length, in one message.
    pub fn media(&self, audio: &[u8]) {
        self.send(&json!({
            "event": "media", "streamSid": self.stream_sid,
            "media": { "payload": BASE64.encode(audio) },
        }));
    }

    pub fn mark(&self, name: &str) {
        self.send(&json!({
            "event": "mark", "streamSid": self.stream_sid, "mark": { "name": name },
        }));
    }

    pub fn clear(&self) {
        self.send(&json!({ "event": "clear", "streamSid": self.stream_sid }));
    }

    /// Closes the socket normally (code 1000).
    pub fn close(&self) {
        use tokio_tungstenite::tungstenite::protocol::{CloseFrame, frame::coding::CloseCode};
        self.send_raw(Message::Close(Some(CloseFrame {
            code: CloseCode::Normal,
            reason: "".into(),
        })));
    }

    /// Checks the numbering of everything heard: `sequenceNumber` rises by 1 from
    /// `start`, `chunk` by 1 from 1, `timestamp` follows the audio.
    pub fn assert_numbered(&self) {
        let (mut audio_ms, mut chunk) = (None, 0_u64);
        for (index, heard) in self.heard[1..].iter().enumerate() {
            let message = &heard.json;
            assert_eq!(
                message["sequenceNumber"],
                (index + 1).to_string(),
                "{message}"
            );
            assert_eq!(message["streamSid"], self.stream_sid, "{message}");
            if message["event"] != "media" {
                continue;
            }
            chunk += 1;
            assert_eq!(message["media"]["chunk"], chunk.to_string(), "{message}");
            assert_eq!(message["media"]["track"], "inbound", "{message}");
            let stamp: u64 = message["media"]["timestamp"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
            let length = payload(message).len();
            assert_eq!(length, 160, "20 ms a message");
            if let Some(expected) = audio_ms {
                assert_eq!(stamp, expected, "timestamp follows the audio");
            }
            audio_ms = Some(stamp + 20);
        }
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// The raw mu-law of a `media` message.
pub fn payload(message: &Value) -> Vec<u8> {
    BASE64
        .decode(message["media"]["payload"].as_str().unwrap())
        .unwrap()
}

async fn write<S>(
    mut sink: SplitSink<WebSocketStream<S>, Message>,
    mut outgoing: mpsc::UnboundedReceiver<Message>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(message) = outgoing.recv().await {
        if sink.send(message).await.is_err() {
            return;
        }
    }
}

async fn read<S>(
    mut stream: SplitStream<WebSocketStream<S>>,
    inbox: mpsc::UnboundedSender<Heard>,
    closed: watch::Sender<Option<u16>>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(Ok(message)) = stream.next().await {
        let at = Instant::now();
        match message {
            Message::Text(text) => {
                let json = serde_json::from_str(&text).expect("the bridge sends JSON");
                let _ = inbox.send(Heard { at, json });
            }
            Message::Binary(_) => panic!("the bridge sent a binary message"),
            Message::Close(frame) => {
                closed.send_replace(Some(frame.map_or(1005, |frame| frame.code.into())));
                return;
            }
            _ => {}
        }
    }
}
