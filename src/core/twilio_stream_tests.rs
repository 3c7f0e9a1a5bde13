//! Twilio's messages read, and audio both ways.

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::core::outward::WrittenBy;
use crate::core::twiml;

const STREAM: &str = "MZ0123456789abcdef0123456789abcdef";
const CALL: &str = "CA0123456789abcdef0123456789abcdef";

fn read(message: serde_json::Value) -> Result<TwilioMessage, TwilioRejected> {
    parse_twilio_message(&message.to_string())
}

#[test]
fn each_message_of_twilio_is_read() {
    let start = json!({"event": "start", "sequenceNumber": "1", "streamSid": STREAM, "start": {
        "accountSid": "AC0123456789abcdef0123456789abcdef", "streamSid": STREAM, "callSid": CALL,
        "tracks": ["inbound"], "customParameters": {"a": "b"},
        "mediaFormat": {"encoding": "audio/x-mulaw", "sampleRate": 8000, "channels": 1}}});
    let (stream, call) = (StreamId::parse(STREAM), CallId::parse(CALL));
    let expected = TwilioMessage::Start {
        stream: stream.expect("a stream"),
        call: call.expect("a call"),
    };
    assert_eq!(read(start), Ok(expected));
    let connected = json!({"event": "connected", "protocol": "Call", "version": "1.0.0"});
    assert_eq!(read(connected), Ok(TwilioMessage::Other));
    let media = |track: &str| {
        json!({"event": "media", "sequenceNumber": "3", "streamSid": STREAM,
            "media": {"track": track, "chunk": "1", "timestamp": "20", "payload": "/w=="}})
    };
    let audio = TwilioMessage::Media {
        at_ms: 20,
        audio: vec![0xff],
    };
    assert_eq!(read(media("inbound")), Ok(audio));
    assert_eq!(read(media("outbound")), Ok(TwilioMessage::Other));
    let digit = |digit: &str| json!({"event": "dtmf", "streamSid": STREAM, "dtmf": {"track": "inbound_track", "digit": digit}});
    assert_eq!(read(digit("#")), Ok(TwilioMessage::Digit('#')));
    assert_eq!(read(digit("12")), Err(TwilioRejected::Field("dtmf.digit")));
    let stop = json!({"event": "stop", "streamSid": STREAM, "stop": {"callSid": CALL}});
    assert_eq!(read(stop), Ok(TwilioMessage::Stop));
}

#[test]
fn what_is_not_twilios_is_refused() {
    let format = json!({"event": "start", "streamSid": STREAM, "start": {"callSid": CALL,
        "mediaFormat": {"encoding": "audio/l16", "sampleRate": 16000}}});
    let long = "AAAA".repeat(MEDIA_MAX_BYTES / 3 + 2);
    for (message, why) in [
        (json!([1]), TwilioRejected::Json),
        (json!({"event": 1}), TwilioRejected::Json),
        (json!({"event": "start"}), TwilioRejected::Field("start")),
        (
            json!({"event": "start", "start": {"callSid": CALL}}),
            TwilioRejected::Field("streamSid"),
        ),
        (format, TwilioRejected::Field("start.mediaFormat")),
        (json!({"event": "media"}), TwilioRejected::Field("media")),
        (
            json!({"event": "media", "media": {"timestamp": "x", "payload": ""}}),
            TwilioRejected::Field("media.timestamp"),
        ),
        (
            json!({"event": "media", "media": {"timestamp": "1", "payload": "?"}}),
            TwilioRejected::Field("media.payload"),
        ),
        (
            json!({"event": "media", "media": {"timestamp": "1", "payload": long}}),
            TwilioRejected::TooLong,
        ),
    ] {
        assert_eq!(read(message.clone()), Err(why), "{message}");
    }
    let endless = format!("{{\"event\": \"{}\"}}", "x".repeat(MESSAGE_MAX_BYTES));
    assert_eq!(parse_twilio_message(&endless), Err(TwilioRejected::TooLong));
}

#[test]
fn audio_becomes_rtp_whose_timestamps_are_twilios() {
    let mut maker = RtpMaker::new(65_535, u32::MAX, 7);
    let mut got = Vec::new();
    let audio: Vec<u8> = (0..400).map(|n| (n % 251) as u8).collect();
    maker.packets(20, &audio, |packet| got.push(packet.to_vec()));
    maker.packets(70, &audio[..160], |packet| got.push(packet.to_vec()));
    let parsed: Vec<_> = got
        .iter()
        .filter_map(|packet| RtpHeader::parse(packet))
        .collect();
    let sequences: Vec<u16> = parsed.iter().map(|(header, _)| header.sequence).collect();
    assert_eq!(sequences, [65_535, 0, 1, 2]);
    let times: Vec<u32> = parsed.iter().map(|(header, _)| header.timestamp).collect();
    assert_eq!(times, [159, 319, 479, 559]);
    let all: Vec<u8> = parsed
        .iter()
        .flat_map(|(_, payload)| payload.to_vec())
        .collect();
    assert_eq!(all, [&audio[..], &audio[..160]].concat());
    assert!(
        parsed
            .iter()
            .all(|(header, _)| header.ssrc == 7 && header.payload_type == 0)
    );
}

#[test]
fn documents_are_twiml_whatever_is_in_them() {
    let parameters = [("a\"<b>".to_owned(), "1 & 2\u{1}'".to_owned())].into();
    let url = "wss://bridge.example.com/twilio-stream/CA1/token?x=1&y=2";
    for document in [
        connect_document(url, &parameters),
        dial_document("+33612345678"),
        dial_document("sip:a&b@example.com"),
        REJECT_DOCUMENT.to_owned(),
    ] {
        let parsed = twiml::parse(document.as_bytes(), None, WrittenBy::Client);
        assert!(parsed.is_ok(), "{document}: {parsed:?}");
    }
    assert!(dial_document("sip:x@y").contains("<Sip>sip:x@y</Sip>"));
    let stream = StreamId::parse(STREAM).expect("a stream");
    let written: serde_json::Value =
        serde_json::from_str(&write_media(&stream, &[0xff, 0x7f])).expect("JSON");
    assert_eq!(
        written,
        json!({"event": "media", "streamSid": STREAM, "media": {"payload": "/38="}})
    );
}

proptest! {
    #[test]
    fn no_text_breaks_the_reader(text in ".{0,200}") {
        let _ = parse_twilio_message(&text);
        let nested = format!("{{\"event\":\"media\",\"media\":{text}}}");
        let _ = parse_twilio_message(&nested);
    }
}
