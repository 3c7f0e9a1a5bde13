//! Messages of the WebSocket contract, Twilio Media Streams: what the bridge
//! sends, written straight into the socket's buffer, and what workers send,
//! parsed and bounded.
//!
//! Leaves out: WebSocket framing, and when a message is due (see `uplink` and
//! the driver).

use std::borrow::Cow;
use std::collections::BTreeMap;

use base64::Engine;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;
use serde_json::json;

use super::ids::{AccountSid, CallId, StreamId};
use super::playout::MarkEcho;
use super::private::Private;
use super::telephone_event::are_digits;

/// Longest mark name taken, in bytes.
pub const MAX_MARK_NAME_BYTES: usize = 1_024;
/// Most digits in one `dtmf` message.
pub const MAX_DIGITS: usize = 64;
/// Longest transfer destination, in bytes.
pub const MAX_DESTINATION_BYTES: usize = 256;

/// Serialises the messages of one worker stream and numbers them. Each
/// `write_*` appends one complete JSON text to `out`.
#[derive(Debug)]
pub struct MessageWriter {
    stream: StreamId,
    call: CallId,
    account: AccountSid,
    /// The number of the next message.
    sequence: u64,
    /// The number of the next `media` chunk.
    chunk: u64,
    /// The part of every `media` message between its two first numbers.
    media_middle: String,
}

impl MessageWriter {
    /// A writer for a new stream; its first numbered message, `start`, gets "1".
    #[must_use]
    pub fn new(stream: &StreamId, call: &CallId, account: &AccountSid) -> Self {
        Self {
            stream: stream.clone(),
            call: call.clone(),
            account: account.clone(),
            sequence: 1,
            chunk: 1,
            media_middle: format!(
                r#"","streamSid":"{stream}","media":{{"track":"inbound","chunk":""#
            ),
        }
    }

    /// The stream it numbers.
    #[must_use]
    pub fn stream(&self) -> &StreamId {
        &self.stream
    }

    /// `connected`: the first message, without a number.
    pub fn write_connected(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"event":"connected","protocol":"Call","version":"1.0.0"}"#);
    }

    /// `start`: the second message.
    pub fn write_start(&mut self, custom_parameters: &BTreeMap<String, String>, out: &mut Vec<u8>) {
        let body = json!({
            "event": "start",
            "sequenceNumber": self.next_sequence(),
            "streamSid": self.stream.as_str(),
            "start": {
                "streamSid": self.stream.as_str(),
                "accountSid": self.account.as_str(),
                "callSid": self.call.as_str(),
                "tracks": ["inbound"],
                "customParameters": custom_parameters,
                "mediaFormat": { "encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1 },
            },
        });
        write_json(&body, out);
    }

    /// `media`: raw mu-law, at `timestamp_ms` since the stream started.
    pub fn write_media(&mut self, timestamp_ms: u64, payload: &[u8], out: &mut Vec<u8>) {
        let encoded = payload.len().div_ceil(3) * 4;
        out.reserve(self.media_middle.len() + encoded + 160);
        out.extend_from_slice(br#"{"event":"media","sequenceNumber":""#);
        write_decimal(self.sequence, out);
        out.extend_from_slice(self.media_middle.as_bytes());
        write_decimal(self.chunk, out);
        out.extend_from_slice(br#"","timestamp":""#);
        write_decimal(timestamp_ms, out);
        out.extend_from_slice(br#"","payload":""#);
        let start = out.len();
        out.resize(start + encoded, b'=');
        // The slice has exactly the encoded length, so this cannot fail.
        let written = STANDARD.encode_slice(payload, &mut out[start..]);
        debug_assert_eq!(written, Ok(encoded));
        out.extend_from_slice(br#""}}"#);
        self.sequence += 1;
        self.chunk += 1;
    }

    /// `dtmf`: one digit that the caller pressed.
    pub fn write_dtmf(&mut self, digit: char, out: &mut Vec<u8>) {
        let body = json!({
            "event": "dtmf",
            "streamSid": self.stream.as_str(),
            "sequenceNumber": self.next_sequence(),
            "dtmf": { "track": "inbound_track", "digit": digit },
        });
        write_json(&body, out);
    }

    /// `mark`: the echo of a worker's mark.
    pub fn write_mark(&mut self, echo: &MarkEcho, out: &mut Vec<u8>) {
        let body = json!({
            "event": "mark",
            "sequenceNumber": self.next_sequence(),
            "streamSid": self.stream.as_str(),
            "mark": { "name": echo.name, "playedMs": echo.played_ms, "cleared": echo.cleared },
        });
        write_json(&body, out);
    }

    /// `stop`: the last message.
    pub fn write_stop(&mut self, out: &mut Vec<u8>) {
        let body = json!({
            "event": "stop",
            "sequenceNumber": self.next_sequence(),
            "streamSid": self.stream.as_str(),
            "stop": { "accountSid": self.account.as_str(), "callSid": self.call.as_str() },
        });
        write_json(&body, out);
    }

    fn next_sequence(&mut self) -> String {
        let number = self.sequence.to_string();
        self.sequence += 1;
        number
    }
}

fn write_json(body: &serde_json::Value, out: &mut Vec<u8>) {
    // A Value with string keys, written to memory: neither can fail.
    let written = serde_json::to_writer(out, body);
    debug_assert!(written.is_ok());
}

fn write_decimal(mut number: u64, out: &mut Vec<u8>) {
    let mut digits = [0; 20];
    let mut start = digits.len();
    loop {
        start -= 1;
        digits[start] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[start..]);
}

/// A valid message from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerMessage {
    /// Raw mu-law to play, decoded. May be empty.
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
    /// The worker is done, as by a normal close.
    Stop,
}

/// Why a worker's message is ignored. The call goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Rejected {
    /// Not JSON, or a field of another type than the contract's.
    #[error("it is not a JSON object of the contract's form")]
    Json,
    /// `payload` is not standard base64.
    #[error("media.payload is not base64")]
    Base64,
    /// An event that the contract does not know.
    #[error("its event is unknown")]
    UnknownEvent,
    /// `streamSid` is missing.
    #[error("streamSid is missing")]
    NoStreamSid,
    /// `streamSid` names another stream.
    #[error("streamSid names another stream")]
    OtherStreamSid,
    /// A required field is missing or empty.
    #[error("{0} is missing or empty")]
    Missing(&'static str),
    /// A field is longer than the bridge takes.
    #[error("{0} is too long")]
    TooLong(&'static str),
    /// `dtmf.digits` holds something else than digits.
    #[error("dtmf.digits holds something else than 0-9 * # A-D")]
    Digits,
}

/// Standard alphabet, padded or not: both are seen in the wild.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD_ALPHABET,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// A text that borrows from the message unless it holds escapes.
#[derive(Deserialize)]
#[serde(transparent)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Envelope<'a> {
    #[serde(borrow)]
    event: Option<Text<'a>>,
    #[serde(borrow)]
    stream_sid: Option<Text<'a>>,
    #[serde(borrow)]
    media: Option<MediaBody<'a>>,
    #[serde(borrow)]
    mark: Option<MarkBody<'a>>,
    #[serde(borrow)]
    dtmf: Option<DtmfBody<'a>>,
    #[serde(borrow)]
    transfer: Option<TransferBody<'a>>,
}

#[derive(Deserialize)]
struct MediaBody<'a> {
    #[serde(borrow)]
    payload: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct MarkBody<'a> {
    #[serde(borrow)]
    name: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct DtmfBody<'a> {
    #[serde(borrow)]
    digits: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct TransferBody<'a> {
    #[serde(borrow)]
    destination: Option<Text<'a>>,
}

/// Parses one text message of the worker of stream `stream`. Fields that the
/// contract does not know are ignored. Twilio's three messages must carry the
/// stream's `streamSid`; our additions may leave it out.
///
/// # Errors
/// The reason to ignore the message.
pub fn parse_worker_message(text: &str, stream: &StreamId) -> Result<WorkerMessage, Rejected> {
    // serde would also take the fields as an array.
    if !text.trim_start().starts_with('{') {
        return Err(Rejected::Json);
    }
    let envelope: Envelope = serde_json::from_str(text).map_err(|_| Rejected::Json)?;
    let event = envelope.event.as_ref().map_or("", |event| &event.0);
    let is_twilio = matches!(event, "media" | "mark" | "clear");
    if !is_twilio && !matches!(event, "dtmf" | "hangup" | "transfer" | "stop") {
        return Err(if event.is_empty() {
            Rejected::Missing("event")
        } else {
            Rejected::UnknownEvent
        });
    }
    match &envelope.stream_sid {
        Some(sid) if sid.0 != stream.as_str() => return Err(Rejected::OtherStreamSid),
        None if is_twilio => return Err(Rejected::NoStreamSid),
        _ => {}
    }
    match event {
        "media" => parse_media(&envelope),
        "mark" => parse_mark(envelope),
        "clear" => Ok(WorkerMessage::Clear),
        "dtmf" => parse_dtmf(envelope),
        "transfer" => parse_transfer(envelope),
        "hangup" => Ok(WorkerMessage::Hangup),
        _ => Ok(WorkerMessage::Stop),
    }
}

fn parse_media(envelope: &Envelope) -> Result<WorkerMessage, Rejected> {
    let body = envelope.media.as_ref();
    let payload = body.and_then(|media| media.payload.as_ref());
    let payload = payload.ok_or(Rejected::Missing("media.payload"))?;
    let audio = BASE64
        .decode(payload.0.as_bytes())
        .map_err(|_| Rejected::Base64)?;
    Ok(WorkerMessage::Media(audio.into()))
}

fn parse_mark(envelope: Envelope) -> Result<WorkerMessage, Rejected> {
    let name = envelope.mark.and_then(|mark| mark.name);
    // An empty name is a name: some bots send it, and expect it back.
    let name = name.ok_or(Rejected::Missing("mark.name"))?;
    if name.0.len() > MAX_MARK_NAME_BYTES {
        return Err(Rejected::TooLong("mark.name"));
    }
    Ok(WorkerMessage::Mark(name.0.into_owned()))
}

fn parse_dtmf(envelope: Envelope) -> Result<WorkerMessage, Rejected> {
    let digits = envelope.dtmf.and_then(|dtmf| dtmf.digits);
    let digits = digits.map_or(String::new(), |digits| digits.0.to_ascii_uppercase());
    if digits.is_empty() {
        return Err(Rejected::Missing("dtmf.digits"));
    }
    if digits.len() > MAX_DIGITS {
        return Err(Rejected::TooLong("dtmf.digits"));
    }
    if !are_digits(&digits) {
        return Err(Rejected::Digits);
    }
    Ok(WorkerMessage::Dtmf(digits))
}

fn parse_transfer(envelope: Envelope) -> Result<WorkerMessage, Rejected> {
    let destination = envelope.transfer.and_then(|transfer| transfer.destination);
    let destination = destination.map_or(String::new(), |text| text.0.trim().to_owned());
    if destination.is_empty() {
        return Err(Rejected::Missing("transfer.destination"));
    }
    if destination.len() > MAX_DESTINATION_BYTES {
        return Err(Rejected::TooLong("transfer.destination"));
    }
    Ok(WorkerMessage::Transfer(Private::new(destination)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    fn writer() -> MessageWriter {
        MessageWriter::new(
            &StreamId::random(),
            &CallId::random(),
            &AccountSid::random(),
        )
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn messages_have_exactly_the_fields_of_the_contract() {
        let mut writer = writer();
        let (stream, call, account) = (
            writer.stream.to_string(),
            writer.call.to_string(),
            writer.account.to_string(),
        );
        assert_eq!(
            written(|out| writer.write_connected(out)),
            json!({"event": "connected", "protocol": "Call", "version": "1.0.0"})
        );
        let parameters = BTreeMap::from([("to".to_owned(), "\"x\"".to_owned())]);
        assert_eq!(
            written(|out| writer.write_start(&parameters, out)),
            json!({"event": "start", "sequenceNumber": "1", "streamSid": stream, "start": {
                "streamSid": stream, "accountSid": account, "callSid": call,
                "tracks": ["inbound"], "customParameters": {"to": "\"x\""},
                "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}}})
        );
        assert_eq!(
            written(|out| writer.write_media(0, &[0xFF, 0x00, 0x7F, 0x80], out)),
            json!({"event": "media", "sequenceNumber": "2", "streamSid": stream, "media": {
                "track": "inbound", "chunk": "1", "timestamp": "0", "payload": "/wB/gA=="}})
        );
        assert_eq!(
            written(|out| writer.write_dtmf('#', out)),
            json!({"event": "dtmf", "streamSid": stream, "sequenceNumber": "3",
                "dtmf": {"track": "inbound_track", "digit": "#"}})
        );
        let echo = MarkEcho {
            name: "é\"\n".into(),
            played_ms: 20,
            cleared: true,
        };
        assert_eq!(
            written(|out| writer.write_mark(&echo, out)),
            json!({"event": "mark", "sequenceNumber": "4", "streamSid": stream,
                "mark": {"name": "é\"\n", "playedMs": 20, "cleared": true}})
        );
        assert_eq!(
            written(|out| writer.write_media(20, &[0xFF; 160], out))["media"]["chunk"],
            "2"
        );
        assert_eq!(
            written(|out| writer.write_stop(out)),
            json!({"event": "stop", "sequenceNumber": "6", "streamSid": stream,
                "stop": {"accountSid": account, "callSid": call}})
        );
    }

    fn parse(template: &str) -> Result<WorkerMessage, Rejected> {
        let stream = StreamId::random();
        parse_worker_message(&template.replace("$", stream.as_str()), &stream)
    }

    #[test]
    fn worker_messages_are_understood() {
        let audio = |bytes: &'static [u8]| Ok(WorkerMessage::Media(Bytes::from_static(bytes)));
        let extra = r#"{"event":"media","sequenceNumber":7,"streamSid":"$","media":{"track":"outbound","chunk":1,"timestamp":null,"payload":"/wB/gA=="},"x":[]}"#;
        assert_eq!(parse(extra), audio(&[0xFF, 0x00, 0x7F, 0x80]));
        let unpadded = r#"{"media":{"payload":"\/wB\u002fgA"},"streamSid":"$","event":"media"}"#;
        assert_eq!(parse(unpadded), audio(&[0xFF, 0x00, 0x7F, 0x80]));
        let empty = r#"{"event":"media","streamSid":"$","media":{"payload":""}}"#;
        assert_eq!(parse(empty), audio(&[]));
        let mark = r#"{"event":"mark","streamSid":"$","mark":{"name":"a\"b"}}"#;
        assert_eq!(parse(mark), Ok(WorkerMessage::Mark("a\"b".into())));
        let clear = r#"{"event":"clear","streamSid":"$"}"#;
        assert_eq!(parse(clear), Ok(WorkerMessage::Clear));
        let dtmf = r#"{"event":"dtmf","dtmf":{"digits":"12#a"}}"#;
        assert_eq!(parse(dtmf), Ok(WorkerMessage::Dtmf("12#A".into())));
        assert_eq!(
            parse(r#"{"event":"hangup","hangup":{}}"#),
            Ok(WorkerMessage::Hangup)
        );
        let transfer =
            r#"{"event":"transfer","streamSid":"$","transfer":{"destination":" +331 "}}"#;
        assert_eq!(
            parse(transfer),
            Ok(WorkerMessage::Transfer(Private::new("+331")))
        );
        assert_eq!(parse(r#"{"event":"stop"}"#), Ok(WorkerMessage::Stop));
    }

    #[test]
    fn what_is_wrong_with_a_message_is_told_apart() {
        let long = "n".repeat(MAX_MARK_NAME_BYTES + 1);
        let cases = [
            ("", Rejected::Json),
            ("[]", Rejected::Json),
            (r#"{"event":"media""#, Rejected::Json),
            (r#"{"event":"clear","streamSid":5}"#, Rejected::Json),
            (
                r#"{"event":"media","streamSid":"$","media":{"payload":5}}"#,
                Rejected::Json,
            ),
            ("{}", Rejected::Missing("event")),
            (
                r#"{"event":"play","streamSid":"$"}"#,
                Rejected::UnknownEvent,
            ),
            (r#"{"event":"clear"}"#, Rejected::NoStreamSid),
            (
                r#"{"event":"clear","streamSid":null}"#,
                Rejected::NoStreamSid,
            ),
            (
                r#"{"event":"clear","streamSid":"MZ0"}"#,
                Rejected::OtherStreamSid,
            ),
            (
                r#"{"event":"hangup","streamSid":"MZ0"}"#,
                Rejected::OtherStreamSid,
            ),
            (
                r#"{"event":"media","streamSid":"$"}"#,
                Rejected::Missing("media.payload"),
            ),
            (
                r#"{"event":"media","streamSid":"$","media":{}}"#,
                Rejected::Missing("media.payload"),
            ),
            (
                r#"{"event":"media","streamSid":"$","media":{"payload":"-_8="}}"#,
                Rejected::Base64,
            ),
            (
                r#"{"event":"media","streamSid":"$","media":{"payload":"A"}}"#,
                Rejected::Base64,
            ),
            (
                r#"{"event":"mark","streamSid":"$","mark":{}}"#,
                Rejected::Missing("mark.name"),
            ),
            (
                &format!(r#"{{"event":"mark","streamSid":"$","mark":{{"name":"{long}"}}}}"#),
                Rejected::TooLong("mark.name"),
            ),
            (
                r#"{"event":"dtmf","dtmf":{"digits":""}}"#,
                Rejected::Missing("dtmf.digits"),
            ),
            (
                r#"{"event":"dtmf","dtmf":{"digits":"1é"}}"#,
                Rejected::Digits,
            ),
            (
                r#"{"event":"transfer"}"#,
                Rejected::Missing("transfer.destination"),
            ),
        ];
        for (text, reason) in cases {
            assert_eq!(parse(text), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn parsing_never_panics(text in ".{0,200}") {
            let _ = parse(&text);
        }

        #[test]
        fn parsing_never_panics_on_near_misses(
            event in "media|mark|clear|dtmf|transfer|stop|x",
            body in prop_oneof![Just("null".to_owned()), Just("{}".to_owned()), ".{0,40}",
                "\\{\"(payload|name|digits|destination)\":\"[A-Za-z0-9+/=\\\\]{0,20}\"\\}"],
        ) {
            let _ = parse(&format!(r#"{{"event":"{event}","streamSid":"$","{event}":{body}}}"#));
        }

        #[test]
        fn media_survives_the_round_trip(
            payload in proptest::collection::vec(any::<u8>(), 0..700), at: u64,
        ) {
            let (mut writer, mut out) = (writer(), b"before".to_vec());
            writer.write_media(at, &payload, &mut out);
            let text = std::str::from_utf8(&out[6..]).unwrap();
            let value: Value = serde_json::from_str(text).unwrap();
            prop_assert_eq!(&value["media"]["timestamp"], &Value::from(at.to_string()));
            let parsed = parse_worker_message(text, writer.stream());
            prop_assert_eq!(parsed, Ok(WorkerMessage::Media(payload.into())));
        }
    }
}
