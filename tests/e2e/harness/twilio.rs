//! A stand-in for Twilio with a number of its own, as strict as Twilio: it signs its webhook, reads the TwiML, opens the
//! stream that this names, and takes requests to its REST API.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use futures_util::stream::SplitSink;
use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream};
use url::form_urlencoded;

use super::api::{Answer, Api};
use super::receiver::{Receiver, Reply, python_signature};
use super::{SOON, sound, until};

/// The account that the number belongs to.
pub const ACCOUNT: &str = "AC00112233445566778899aabbccddeeff";
/// Its auth token.
pub const TOKEN: &str = "twilios-t0ken-of-the-tests";
/// Where Twilio believes that the bridge is.
pub const PUBLIC_URL: &str = "https://bridge.example.com";
/// Who calls.
pub const CALLER: &str = "+33612345678";

/// See the module.
pub struct Twilio {
    pub rest: Receiver,
}

/// A call of Twilio's.
pub struct TwilioCall {
    pub sid: String,
    socket: SplitSink<WebSocketStream<MaybeTlsStream<TcpStream>>, Message>,
    stream: String,
    /// Chunks sent.
    sent: u64,
    heard: Arc<Mutex<Vec<u8>>>,
    /// Ends when the bridge closes the stream: whether it did so by a close frame.
    reading: JoinHandle<bool>,
}

impl Twilio {
    pub async fn start() -> Self {
        let rest = Receiver::start().await;
        Self { rest }
    }

    /// A call id that was never there before.
    pub fn new_call() -> String {
        format!("CA{:032x}", rand::random::<u128>())
    }

    /// The path of a call in the REST API.
    pub fn path(call: &str) -> String {
        format!("/2010-04-01/Accounts/{ACCOUNT}/Calls/{call}.json")
    }

    /// Requests for a call from now on are answered so.
    pub fn answers(&self, call: &str, status: u16) {
        let reply = Reply {
            body: json!({"sid": call, "status": "completed"}).to_string(),
            ..Reply::status(status)
        };
        self.rest.script(&Self::path(call), [reply]);
    }

    /// The form of the next request about a call.
    pub async fn asked(&self, call: &str, count: usize) -> HashMap<String, String> {
        let requests = self.rest.receives(&Self::path(call), count).await;
        let request = &requests[count - 1];
        assert_eq!(request.method, "POST");
        let login = BASE64.encode(format!("{ACCOUNT}:{TOKEN}"));
        let expected = format!("Basic {login}");
        assert_eq!(request.header("authorization"), Some(expected.as_str()));
        let kind = request.header("content-type").unwrap();
        assert!(
            kind.starts_with("application/x-www-form-urlencoded"),
            "{kind}"
        );
        form_urlencoded::parse(request.body.as_bytes())
            .into_owned()
            .collect()
    }

    /// Asks the webhook of a line about a call, signed with this token.
    pub async fn asks(api: &Api, line: &str, call: &str, token: &str) -> Answer {
        let form = [
            ("AccountSid", ACCOUNT),
            ("ApiVersion", "2010-04-01"),
            ("CallSid", call),
            ("CallStatus", "ringing"),
            ("Called", "+33142000001"),
            ("Caller", CALLER),
            ("Direction", "inbound"),
            ("From", CALLER),
            ("FromCity", "Orléans & more"),
            ("To", "+33142000001"),
        ];
        Self::asks_with(api, line, &form, token).await
    }

    /// The same with any form.
    pub async fn asks_with(api: &Api, line: &str, form: &[(&str, &str)], token: &str) -> Answer {
        let path = format!("/webhooks/voice/{line}");
        let signature = python_form_signature(token, &format!("{PUBLIC_URL}{path}"), form);
        let body = form_urlencoded::Serializer::new(String::new())
            .extend_pairs(form)
            .finish();
        let headers = format!(
            "Host: bridge.example.com\r\nX-Twilio-Signature: {signature}\r\n\
             Content-Type: application/x-www-form-urlencoded; charset=UTF-8\r\n"
        );
        api.send("POST", &path, &headers, &body).await
    }

    /// A call to the line: its webhook, and the stream that this asks for.
    pub async fn call(&self, api: &Api, line: &str) -> TwilioCall {
        let sid = Self::new_call();
        self.answers(&sid, 200);
        let answer = Self::asks(api, line, &sid, TOKEN).await;
        let url = stream_url(&answer);
        TwilioCall::connect(&url, &sid).await
    }
}

/// The address in `<Connect><Stream>`, where Twilio would take the document.
pub fn stream_url(answer: &Answer) -> String {
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert_eq!(answer.headers["content-type"], "text/xml");
    let document = roxmltree::Document::parse(&answer.body).unwrap();
    let root = document.root_element();
    assert_eq!(root.tag_name().name(), "Response");
    let verbs: Vec<&str> = root.children().map(|verb| verb.tag_name().name()).collect();
    assert_eq!(verbs, ["Connect", "Hangup"]);
    let connect = root.first_element_child().unwrap();
    let stream = connect.first_element_child().unwrap();
    assert_eq!(stream.tag_name().name(), "Stream");
    let url = stream.attribute("url").unwrap();
    assert!(!url.contains('?'), "Twilio's streams have no query: {url}");
    url.to_owned()
}

impl TwilioCall {
    /// Opens the stream of a call, and begins it.
    pub async fn connect(url: &str, sid: &str) -> Self {
        let connected = tokio_tungstenite::connect_async_with_config(url, None, true).await;
        let (socket, _) = connected.unwrap_or_else(|error| panic!("{url}: {error}"));
        let (sink, mut incoming) = socket.split();
        let stream = format!("MZ{:032x}", rand::random::<u128>());
        let heard = Arc::new(Mutex::new(Vec::new()));
        let reading = tokio::spawn({
            let (heard, stream) = (heard.clone(), stream.clone());
            async move {
                while let Some(Ok(message)) = incoming.next().await {
                    match message {
                        Message::Text(text) => {
                            let audio = played(&text, &stream);
                            heard.lock().unwrap().extend(audio);
                        }
                        Message::Close(_) => return true,
                        Message::Ping(_) | Message::Pong(_) => {}
                        other => panic!("Twilio takes no {other:?}"),
                    }
                }
                false
            }
        });
        let mut call = Self {
            sid: sid.to_owned(),
            socket: sink,
            stream,
            sent: 0,
            heard,
            reading,
        };
        call.begin(sid).await;
        call
    }

    async fn begin(&mut self, sid: &str) {
        let connected = json!({"event": "connected", "protocol": "Call", "version": "1.0.0"});
        self.send(&connected).await;
        let start = json!({"event": "start", "sequenceNumber": "1", "streamSid": self.stream, "start": {
            "accountSid": ACCOUNT, "streamSid": self.stream, "callSid": sid, "tracks": ["inbound"],
            "customParameters": {},
            "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}}});
        self.send(&start).await;
    }

    async fn send(&mut self, message: &Value) {
        let text = Message::text(message.to_string());
        self.socket.send(text).await.unwrap();
    }

    /// The caller says this, a frame every 20 ms.
    pub async fn says(&mut self, frames: &[Vec<u8>]) {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        for frame in frames {
            ticks.tick().await;
            let (chunk, timestamp) = ((self.sent + 1).to_string(), (self.sent * 20).to_string());
            self.sent += 1;
            let media = json!({"event": "media", "sequenceNumber": (self.sent + 1).to_string(),
                "streamSid": self.stream, "media": {"track": "inbound", "chunk": chunk,
                "timestamp": timestamp, "payload": BASE64.encode(frame)}});
            self.send(&media).await;
        }
    }

    /// The caller presses a key.
    pub async fn presses(&mut self, digit: &str) {
        let digit = json!({"event": "dtmf", "sequenceNumber": "9", "streamSid": self.stream,
            "dtmf": {"track": "inbound_track", "digit": digit}});
        self.send(&digit).await;
    }

    /// Waits until the caller has heard this without a break.
    pub async fn hears(&self, part: &[u8]) {
        until(SOON, "the caller hears it", async || self.has_heard(part)).await;
    }

    pub fn has_heard(&self, part: &[u8]) -> bool {
        sound::contains(&self.heard.lock().unwrap(), part)
    }

    /// The caller hangs up.
    pub async fn hangs_up(mut self) {
        let stop = json!({"event": "stop", "sequenceNumber": "99", "streamSid": self.stream,
            "stop": {"accountSid": ACCOUNT, "callSid": self.sid}});
        self.send(&stop).await;
        let _ = self.socket.close().await;
    }

    /// Waits until the bridge closes the stream, as it should.
    pub async fn is_closed(&mut self) {
        let closed = super::soon("the end of Twilio's stream", &mut self.reading).await;
        assert!(closed.unwrap(), "without a close frame");
    }
}

impl Drop for TwilioCall {
    fn drop(&mut self) {
        self.reading.abort();
    }
}

/// The audio of a message, where Twilio would take it.
fn played(text: &str, stream: &str) -> Vec<u8> {
    let message: Value = serde_json::from_str(text).unwrap();
    assert_eq!(message["streamSid"], stream, "{text}");
    let event = message["event"].as_str().unwrap();
    assert!(matches!(event, "media" | "mark" | "clear"), "{text}");
    let keys = message.as_object().unwrap().len();
    match event {
        "media" => {
            assert_eq!(keys, 3, "{text}");
            let payload = message["media"]["payload"].as_str().unwrap();
            BASE64.decode(payload).unwrap()
        }
        _ => Vec::new(),
    }
}

/// The signature of a form, computed by Python: its fields sorted, names and values without anything between.
fn python_form_signature(token: &str, url: &str, form: &[(&str, &str)]) -> String {
    let mut sorted = form.to_vec();
    sorted.sort_unstable();
    let pairs = sorted.iter().map(|(name, value)| format!("{name}{value}"));
    python_signature(token, &format!("{url}{}", pairs.collect::<String>()))
}
