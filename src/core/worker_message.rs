//! Messages of the WebSocket contract, Twilio Media Streams, that workers send:
//! parsed without a copy but for the audio itself, and bounded.

use std::borrow::Cow;

use base64::Engine;
use base64::alphabet::STANDARD as STANDARD_ALPHABET;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use serde::Deserialize;

use super::ids::StreamId;
use super::private::Private;
use super::telephone_event::are_digits;

/// Longest mark name taken, in bytes.
pub const MAX_MARK_NAME_BYTES: usize = 1_024;
/// Most digits in one `dtmf` message.
pub const MAX_DIGITS: usize = 64;
/// Longest transfer destination, in bytes.
pub const MAX_DESTINATION_BYTES: usize = 256;

/// A valid message from the worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WorkerMessage {
    /// Raw mu-law to play, decoded. May be empty.
    Media(Vec<u8>),
    /// The same, whose base64 was not as RFC 4648, section 4 has it: line feeds
    /// or blanks in it, the URL-safe alphabet, padding in odd places.
    OddMedia(Vec<u8>),
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
    /// `payload` is not base64, of whatever form.
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
    if let Ok(audio) = BASE64.decode(payload.0.as_bytes()) {
        return Ok(WorkerMessage::Media(audio));
    }
    let audio = decode_odd(payload.0.as_bytes()).ok_or(Rejected::Base64)?;
    Ok(WorkerMessage::OddMedia(audio))
}

/// Decodes base64 as other encoders write it: MIME's line feeds and blanks, the
/// URL-safe alphabet, each piece of a joined text with padding of its own.
fn decode_odd(payload: &[u8]) -> Option<Vec<u8>> {
    let mut audio = Vec::with_capacity(payload.len() / 4 * 3);
    let mut piece = Vec::with_capacity(payload.len());
    let decode = |piece: &mut Vec<u8>, audio: &mut Vec<u8>| {
        BASE64.decode_vec(&*piece, audio).ok()?;
        piece.clear();
        Some(())
    };
    let mut is_padded = false;
    for byte in payload.iter().filter(|byte| !byte.is_ascii_whitespace()) {
        match byte {
            b'=' => is_padded = true,
            _ if is_padded => {
                decode(&mut piece, &mut audio)?;
                is_padded = false;
            }
            _ => {}
        }
        match byte {
            b'=' => {}
            b'-' => piece.push(b'+'),
            b'_' => piece.push(b'/'),
            other => piece.push(*other),
        }
    }
    decode(&mut piece, &mut audio)?;
    Some(audio)
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

    fn parse(template: &str) -> Result<WorkerMessage, Rejected> {
        let stream = StreamId::random();
        parse_worker_message(&template.replace("$", stream.as_str()), &stream)
    }

    #[test]
    fn worker_messages_are_understood() {
        let audio = |bytes: &'static [u8]| Ok(WorkerMessage::Media(bytes.to_vec()));
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
    fn odd_base64_is_decoded_and_told_apart() {
        let heard: &[u8] = &[0xFF, 0x00, 0x7F, 0x80, 0xFB, 0xEF];
        for payload in [
            // URL-safe, with and without padding.
            "_wB_gPvv",
            "_wB_gPvv==",
            "_wB\\/gPvv",
            // MIME: line feeds, CRLF, blanks, at the ends too.
            "/wB/\\ngPvv\\n",
            "/wB/\\r\\ngPvv",
            " /wB/ gPvv\\t",
            // Pieces that were joined, each with its own padding.
            "/w==AH+A++8=",
        ] {
            let text =
                format!(r#"{{"event":"media","streamSid":"$","media":{{"payload":"{payload}"}}}}"#);
            let expected = Ok(WorkerMessage::OddMedia(heard.to_vec()));
            assert_eq!(parse(&text), expected, "{payload}");
        }
        let standard = r#"{"event":"media","streamSid":"$","media":{"payload":"/wB/gPvv"}}"#;
        assert_eq!(parse(standard), Ok(WorkerMessage::Media(heard.to_vec())));
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
                r#"{"event":"media","streamSid":"$","media":{"payload":"/w*/"}}"#,
                Rejected::Base64,
            ),
            (
                r#"{"event":"media","streamSid":"$","media":{"payload":"/wB/\u0000gA=="}}"#,
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
        fn audio_in_any_odd_form_is_the_same_audio(
            audio in proptest::collection::vec(any::<u8>(), 1..200),
            every in 1_usize..80,
        ) {
            let text = base64::engine::general_purpose::URL_SAFE.encode(&audio);
            let lines: Vec<_> = text.as_bytes().chunks(every).collect();
            prop_assert_eq!(decode_odd(&lines.join(&b"\r\n"[..])), Some(audio));
        }

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
    }
}
