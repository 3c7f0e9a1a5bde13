//! Messages of the WebSocket contract, Twilio Media Streams, that the bridge
//! sends: written straight into the socket's buffer, the frequent one by hand.
//! What workers send is parsed in `worker_message` and re-exported here.
//!
//! Leaves out: WebSocket framing, and when a message is due (see `uplink` and
//! the driver).

use std::collections::BTreeMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::json;

use super::ids::{AccountSid, CallId, StreamId};
use super::media_session::playout::MarkEcho;
use super::twiml::document::Track;

pub use super::worker_message::{Rejected, WorkerMessage, parse_worker_message};

/// One of the two sounds of a call, as `media` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AudioTrack {
    /// What the caller says.
    Inbound,
    /// What he hears.
    Outbound,
}

impl AudioTrack {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

/// What `start` lists as `tracks`.
const fn names(track: Track) -> &'static [&'static str] {
    match track {
        Track::Inbound => &["inbound"],
        Track::Outbound => &["outbound"],
        Track::Both => &["inbound", "outbound"],
    }
}

/// The `media` messages of one track.
#[derive(Debug)]
struct MediaMessages {
    /// The number of the next chunk.
    chunk: u64,
    /// The part of every message between its two first numbers.
    middle: String,
}

impl MediaMessages {
    fn new(stream: &StreamId, track: AudioTrack) -> Self {
        let track = track.as_str();
        Self {
            chunk: 1,
            middle: format!(r#"","streamSid":"{stream}","media":{{"track":"{track}","chunk":""#),
        }
    }
}

/// Serialises the messages of one worker stream and numbers them. Each
/// `write_*` appends one complete JSON text to `out`.
#[derive(Debug)]
pub struct MessageWriter {
    stream: StreamId,
    call: CallId,
    account: AccountSid,
    /// The number of the next message.
    sequence: u64,
    tracks: Track,
    inbound: MediaMessages,
    outbound: MediaMessages,
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
            tracks: Track::Inbound,
            inbound: MediaMessages::new(stream, AudioTrack::Inbound),
            outbound: MediaMessages::new(stream, AudioTrack::Outbound),
        }
    }

    /// The same for a stream that carries these tracks: a copy of a call.
    #[must_use]
    pub fn of_tracks(self, tracks: Track) -> Self {
        Self { tracks, ..self }
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
                "tracks": names(self.tracks),
                "customParameters": custom_parameters,
                "mediaFormat": { "encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1 },
            },
        });
        write_json(&body, out);
    }

    /// `media` of the inbound track: raw mu-law, at `timestamp_ms` since the stream started.
    pub fn write_media(&mut self, timestamp_ms: u64, payload: &[u8], out: &mut Vec<u8>) {
        self.write_track(AudioTrack::Inbound, timestamp_ms, payload, out);
    }

    /// `media` of either track; each counts its chunks by itself.
    pub fn write_track(
        &mut self,
        track: AudioTrack,
        timestamp_ms: u64,
        payload: &[u8],
        out: &mut Vec<u8>,
    ) {
        let media = match track {
            AudioTrack::Inbound => &mut self.inbound,
            AudioTrack::Outbound => &mut self.outbound,
        };
        let encoded = payload.len().div_ceil(3) * 4;
        out.reserve(media.middle.len() + encoded + 160);
        out.extend_from_slice(br#"{"event":"media","sequenceNumber":""#);
        write_decimal(self.sequence, out);
        out.extend_from_slice(media.middle.as_bytes());
        write_decimal(media.chunk, out);
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
        media.chunk += 1;
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

    #[test]
    fn a_copy_of_both_tracks_numbers_messages_over_both_and_chunks_by_track() {
        let mut writer = writer().of_tracks(Track::Both);
        let start = written(|out| writer.write_start(&BTreeMap::new(), out));
        assert_eq!(start["start"]["tracks"], json!(["inbound", "outbound"]));
        let mut media = |track, at| {
            let value = written(|out| writer.write_track(track, at, &[0x7f; 160], out));
            let media = &value["media"];
            let parts = [
                &value["sequenceNumber"],
                &media["track"],
                &media["chunk"],
                &media["timestamp"],
            ];
            parts
                .map(|part| part.as_str().unwrap().to_owned())
                .join(" ")
        };
        assert_eq!(media(AudioTrack::Outbound, 5), "2 outbound 1 5");
        assert_eq!(media(AudioTrack::Inbound, 0), "3 inbound 1 0");
        assert_eq!(media(AudioTrack::Outbound, 25), "4 outbound 2 25");
    }

    proptest! {
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
            prop_assert_eq!(parsed, Ok(WorkerMessage::Media(payload)));
        }
    }
}
