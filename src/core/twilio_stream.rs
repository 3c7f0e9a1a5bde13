//! Messages of Twilio Media Streams as Twilio itself sends them, of a call that is Twilio's: the
//! caller's audio as RTP, and what goes back to him. Pure.
//!
//! To the rest of the bridge such a caller is one with G.711 like any other: [`RtpMaker`] makes packets of his audio, which go
//! through the same uplink as those of SIP, and what the pacer sends is unpacked by [`write_media`].
//!
//! Leaves out marks and `clear` towards Twilio: the bridge paces what the caller hears itself, a frame every 20 ms, so that
//! nothing waits at Twilio that a mark could tell of or a `clear` could drop.

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::ids::{CallId, StreamId};
use super::media_session::playout::{BYTES_PER_MS, FRAME_BYTES};
use super::rtp::{HEADER_BYTES, RtpHeader};
use super::telephone_event::are_digits;

/// Longest audio of one message: two seconds. Twilio sends 20 ms.
const MEDIA_MAX_BYTES: usize = 16_000;
/// Longest text of a message: that audio in base64, and its fields.
pub const MESSAGE_MAX_BYTES: usize = 32_768;

/// What Twilio says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TwilioMessage {
    /// The stream begins: its id, and whose call it is.
    Start {
        /// `streamSid`.
        stream: StreamId,
        /// `start.callSid`.
        call: CallId,
    },
    /// The caller's audio: raw mu-law, `at_ms` since the stream began.
    Media {
        /// `media.timestamp`.
        at_ms: u64,
        /// Decoded.
        audio: Vec<u8>,
    },
    /// The caller pressed a key.
    Digit(char),
    /// The stream is over: the caller hung up, or Twilio does something else with the call.
    Stop,
    /// Of no use: `connected`, `mark`, the audio of another track.
    Other,
}

/// Why a message of Twilio's is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwilioRejected {
    /// Not JSON, or not of the form.
    #[error("it is not a JSON object of Twilio's form")]
    Json,
    /// Longer than any that Twilio sends.
    #[error("it is too long")]
    TooLong,
    /// A field that its event needs is missing, or no such value.
    #[error("{0} is missing or wrong")]
    Field(&'static str),
}

#[derive(Deserialize)]
struct Envelope {
    event: String,
    #[serde(rename = "streamSid")]
    stream: Option<String>,
    start: Option<StartBody>,
    media: Option<MediaBody>,
    dtmf: Option<DigitBody>,
}

#[derive(Deserialize)]
struct StartBody {
    #[serde(rename = "callSid")]
    call: String,
    #[serde(rename = "mediaFormat")]
    format: Option<FormatBody>,
}

#[derive(Deserialize)]
struct FormatBody {
    encoding: String,
    #[serde(rename = "sampleRate")]
    rate: u32,
}

#[derive(Deserialize)]
struct MediaBody {
    track: Option<String>,
    timestamp: String,
    payload: String,
}

#[derive(Deserialize)]
struct DigitBody {
    digit: String,
}

/// Reads one text message.
///
/// # Errors
/// Why it is to be ignored.
pub fn parse_twilio_message(text: &str) -> Result<TwilioMessage, TwilioRejected> {
    if text.len() > MESSAGE_MAX_BYTES {
        return Err(TwilioRejected::TooLong);
    }
    // serde would also take the fields as an array.
    if !text.trim_start().starts_with('{') {
        return Err(TwilioRejected::Json);
    }
    let envelope: Envelope = serde_json::from_str(text).map_err(|_| TwilioRejected::Json)?;
    match envelope.event.as_str() {
        "start" => start(envelope),
        "media" => media(envelope.media.ok_or(TwilioRejected::Field("media"))?),
        "dtmf" => digit(&envelope.dtmf.ok_or(TwilioRejected::Field("dtmf"))?),
        "stop" => Ok(TwilioMessage::Stop),
        _ => Ok(TwilioMessage::Other),
    }
}

fn start(envelope: Envelope) -> Result<TwilioMessage, TwilioRejected> {
    let stream = envelope.stream.as_deref().and_then(StreamId::parse);
    let body = envelope.start.ok_or(TwilioRejected::Field("start"))?;
    let is_mu_law = |format: &FormatBody| {
        format.encoding.eq_ignore_ascii_case("audio/x-mulaw") && format.rate == 8_000
    };
    if !body.format.as_ref().is_none_or(is_mu_law) {
        return Err(TwilioRejected::Field("start.mediaFormat"));
    }
    Ok(TwilioMessage::Start {
        stream: stream.ok_or(TwilioRejected::Field("streamSid"))?,
        call: CallId::parse(&body.call).ok_or(TwilioRejected::Field("start.callSid"))?,
    })
}

fn media(body: MediaBody) -> Result<TwilioMessage, TwilioRejected> {
    if body.track.is_some_and(|track| track != "inbound") {
        return Ok(TwilioMessage::Other);
    }
    let at_ms = body.timestamp.parse();
    let audio = STANDARD.decode(&body.payload);
    let audio = audio.map_err(|_| TwilioRejected::Field("media.payload"))?;
    if audio.len() > MEDIA_MAX_BYTES {
        return Err(TwilioRejected::TooLong);
    }
    Ok(TwilioMessage::Media {
        at_ms: at_ms.map_err(|_| TwilioRejected::Field("media.timestamp"))?,
        audio,
    })
}

fn digit(body: &DigitBody) -> Result<TwilioMessage, TwilioRejected> {
    let mut chars = body.digit.chars();
    match (chars.next(), chars.next()) {
        (Some(digit), None) if are_digits(&body.digit) => Ok(TwilioMessage::Digit(digit)),
        _ => Err(TwilioRejected::Field("dtmf.digit")),
    }
}

/// Makes RTP of a caller's audio: mu-law, payload type 0.
#[derive(Clone, Debug)]
pub struct RtpMaker {
    sequence: u16,
    /// Timestamp of the stream's begin.
    begin: u32,
    ssrc: u32,
}

impl RtpMaker {
    /// Sequence and timestamp start where these say, at random for each stream (RFC 3550, 5.1).
    #[must_use]
    pub const fn new(sequence: u16, begin: u32, ssrc: u32) -> Self {
        Self {
            sequence,
            begin,
            ssrc,
        }
    }

    /// Gives each packet of this audio, of 20 ms at most, to `deliver`.
    pub fn packets(&mut self, at_ms: u64, audio: &[u8], mut deliver: impl FnMut(&[u8])) {
        let mut packet = [0; HEADER_BYTES + FRAME_BYTES];
        let mut at = at_ms.wrapping_mul(BYTES_PER_MS);
        for payload in audio.chunks(FRAME_BYTES) {
            let header = RtpHeader {
                marker: false,
                payload_type: 0,
                sequence: self.sequence,
                // Both wrap around.
                timestamp: self.begin.wrapping_add(at as u32),
                ssrc: self.ssrc,
            };
            let end = HEADER_BYTES + payload.len();
            packet[..HEADER_BYTES].copy_from_slice(&header.to_bytes());
            packet[HEADER_BYTES..end].copy_from_slice(payload);
            deliver(&packet[..end]);
            self.sequence = self.sequence.wrapping_add(1);
            at = at.wrapping_add(payload.len() as u64);
        }
    }
}

/// The message that has Twilio play this mu-law.
#[must_use]
pub fn write_media(stream: &StreamId, audio: &[u8]) -> String {
    let payload = STANDARD.encode(audio);
    format!(r#"{{"event":"media","streamSid":"{stream}","media":{{"payload":"{payload}"}}}}"#)
}

/// The document that answers Twilio's webhook: its stream comes to `url`. When that is closed, the call is over.
#[must_use]
pub fn connect_document(url: &str, parameters: &BTreeMap<String, String>) -> String {
    let mut text = format!(
        r#"<?xml version="1.0" encoding="UTF-8"?><Response><Connect><Stream url="{}">"#,
        escaped(url)
    );
    for (name, value) in parameters {
        let (name, value) = (escaped(name), escaped(value));
        text.push_str(&format!(r#"<Parameter name="{name}" value="{value}"/>"#));
    }
    text.push_str("</Stream></Connect><Hangup/></Response>");
    text
}

/// The document that refuses a call.
pub const REJECT_DOCUMENT: &str =
    r#"<?xml version="1.0" encoding="UTF-8"?><Response><Reject reason="busy"/></Response>"#;

/// The document that connects the caller with somebody else: a number, or a SIP URI.
#[must_use]
pub fn dial_document(destination: &str) -> String {
    let to = escaped(destination);
    let is_uri = ["sip:", "sips:"]
        .iter()
        .any(|scheme| destination.starts_with(scheme));
    match is_uri {
        true => format!("<Response><Dial><Sip>{to}</Sip></Dial></Response>"),
        false => format!("<Response><Dial>{to}</Dial></Response>"),
    }
}

/// As text or attribute of XML.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&apos;"),
            // XML 1.0 has no place for the others.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => {}
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
#[path = "twilio_stream_tests.rs"]
mod tests;
