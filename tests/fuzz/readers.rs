//! What reads foreign bytes, and what must hold of it whatever they are.

use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;
use serde_json::Value;
use sipbridge::core::access::Cidr;
use sipbridge::core::access::glance::{Glance, is_head_whole};
use sipbridge::core::address::{HostPort, Transport};
use sipbridge::core::challenges::leave_digest;
use sipbridge::core::g711::Gain;
use sipbridge::core::ids::{AccountSid, CallId, StreamId};
use sipbridge::core::info_digits;
use sipbridge::core::media_link::{Codec, Direction, MediaFormat};
use sipbridge::core::media_session::clock::MediaClock;
use sipbridge::core::media_session::uplink::{PreparedFormat, Uplink};
use sipbridge::core::media_streams::MessageWriter;
use sipbridge::core::outward::WrittenBy;
use sipbridge::core::printable::is_harmless;
use sipbridge::core::rtp::RtpHeader;
use sipbridge::core::sdp::judge::{Place, judge};
use sipbridge::core::sdp::parse::parse;
use sipbridge::core::sdp::render::render;
use sipbridge::core::sdp::{Served, body};
use sipbridge::core::telephone_event::are_digits;
use sipbridge::core::twiml::document::{Callee, Verb};
use sipbridge::core::twiml::{self, VoiceUrl};
use sipbridge::core::worker_message::{
    MAX_DESTINATION_BYTES, MAX_DIGITS, MAX_MARK_NAME_BYTES, WorkerMessage, parse_worker_message,
};
use sipbridge::lines::credentials::{check_form, is_encrypted};
use sipbridge::lines::{MasterKey, SipServers, file, load};
use sipbridge::sip::identity::{Caller, IdentityHeaders};
use sipbridge::sip::uri::{UriParts, escape_user};

use crate::corpus;
use crate::inside::Reader;
use crate::mutate;
use crate::words::{NUMBERS, TWIML_VALUES};

pub const READERS: &[Reader] = &[
    Reader {
        name: "inside-rtp",
        seeds: || seeds("rtp"),
        mutate: |random, one, other| match random.random_range(0..4) {
            0 => [one, other].concat(),
            _ => mutate::bytes(random, one),
        },
        read: rtp,
    },
    Reader {
        name: "inside-sdp",
        seeds: corpus::sdp,
        mutate: mutate::sdp,
        read: sdp,
    },
    Reader {
        name: "inside-sip",
        seeds: corpus::sip,
        mutate: mutate::sip,
        read: packet,
    },
    Reader {
        name: "inside-worker",
        seeds: || seeds("worker"),
        mutate: spliced,
        read: worker,
    },
    Reader {
        name: "inside-twiml",
        seeds: || seeds("twiml"),
        mutate: |random, one, other| match random.random_range(0..3) {
            0 => nested(random, one, other),
            1 => attribute(random, one),
            _ => spliced(random, one, other),
        },
        read: twiml,
    },
    Reader {
        name: "inside-address",
        seeds: || lines_of("addresses"),
        mutate: spliced,
        read: address,
    },
    Reader {
        name: "inside-lines",
        seeds: || seeds("lines"),
        mutate: spliced,
        read: lines,
    },
    Reader {
        name: "inside-credentials",
        seeds: || lines_of("credentials"),
        mutate: spliced,
        read: credential,
    },
];

/// The whole files of a folder of the corpus.
fn seeds(folder: &str) -> Vec<Vec<u8>> {
    let files = corpus::files(folder).into_iter();
    files.map(|(_, bytes)| bytes).collect()
}

/// The lines of the files of a folder of the corpus.
fn lines_of(folder: &str) -> Vec<Vec<u8>> {
    let mut lines = Vec::new();
    for text in seeds(folder) {
        let own = text
            .split(|byte| *byte == b'\n')
            .filter(|it| !it.is_empty());
        lines.extend(own.map(<[u8]>::to_vec));
    }
    lines
}

/// One to three faults, now and then the beginning of another input before the rest.
fn spliced(random: &mut StdRng, one: &[u8], other: &[u8]) -> Vec<u8> {
    let mut out = one.to_vec();
    if random.random_range(0..6) == 0 {
        let cut = random.random_range(0..=other.len());
        let from = random.random_range(0..=one.len());
        out = [&other[..cut], &one[from..]].concat();
    }
    for _ in 0..random.random_range(1..=3) {
        out = mutate::bytes(random, &out);
    }
    out.truncate(65_000);
    out
}

/// A document with a part of itself or of another one in its midst, many times over: elements within elements, attributes
/// without end.
fn nested(random: &mut StdRng, one: &[u8], other: &[u8]) -> Vec<u8> {
    let at = random.random_range(0..=one.len());
    let from = random.random_range(0..=other.len());
    let length = random.random_range(0..200).min(other.len() - from);
    let part = &other[from..from + length];
    let times = *mutate::pick(random, &[1, 2, 33, 500, 4_000]);
    let mut out = [&one[..at], &part.repeat(times), &one[at..]].concat();
    out.truncate(65_537);
    out
}

/// A document with another value of one of its attributes: what is well-formed stays so.
fn attribute(random: &mut StdRng, one: &[u8]) -> Vec<u8> {
    let quotes = one.iter().enumerate().filter(|(_, byte)| **byte == b'"');
    let quotes: Vec<usize> = quotes.map(|(at, _)| at).collect();
    let pairs = quotes.len() / 2;
    if pairs == 0 {
        return one.to_vec();
    }
    let pair = 2 * random.random_range(0..pairs);
    let value = match random.random_range(0..3) {
        0 => mutate::pick(random, NUMBERS),
        _ => mutate::pick(random, TWIML_VALUES),
    };
    let mut out = one.to_vec();
    out.splice(quotes[pair] + 1..quotes[pair + 1], value.bytes());
    out
}

/// Packets in a row: a byte for the codec, then for each packet two for its length,
/// one for the time before it in units of 5 ms, and its bytes.
fn rtp(input: &[u8]) {
    let Some((codec, mut rest)) = input.split_first() else {
        return;
    };
    let format = MediaFormat {
        codec: *pick_by(*codec, &[Codec::Pcmu, Codec::Pcma, Codec::Opus]),
        send_payload_type: 0,
        receive_payload_type: *pick_by(*codec, &[0, 8, 111]),
        send_event_type: Some(101),
        receive_event_type: Some(101),
        ssrc: 1,
        direction: Direction::SendRecv,
    };
    let prepared = PreparedFormat::new(&format, &Gain::default());
    let begin = Instant::now();
    let mut uplink = Uplink::new(
        prepared.expect("libopus makes a decoder"),
        MediaClock::starting_at(begin),
    );
    let writer = MessageWriter::new(
        &StreamId::random(),
        &CallId::random(),
        &AccountSid::random(),
    );
    uplink.attach(writer);
    let (mut now, mut heard) = (begin, Heard::default());
    while let Some(([high, low, wait], after)) = rest.split_first_chunk::<3>() {
        let length = usize::from(u16::from_be_bytes([*high, *low])).min(after.len());
        let (packet, next) = after.split_at(length);
        rest = next;
        now += Duration::from_millis(u64::from(*wait) * 5);
        header(packet);
        uplink.handle_rtp(now, packet);
        heard.take(&mut uplink);
        uplink.handle_tick(now);
        heard.take(&mut uplink);
    }
    // However the packets lie, no more is heard than time has passed, and what one
    // packet and the reserve of a jump hold.
    let passed = now.duration_since(begin) + Duration::from_secs(60);
    assert!(heard.audio_bytes <= passed.as_millis() * 8, "{heard:?}");
}

/// What a worker has heard.
#[derive(Debug, Default)]
struct Heard {
    messages: u64,
    audio_bytes: u128,
    at_ms: u64,
}

impl Heard {
    fn take(&mut self, uplink: &mut Uplink) {
        let mut out = Vec::new();
        while uplink.poll_message(&mut out) {
            assert!(out.len() <= 16 * 1_024, "a message of {} bytes", out.len());
            let message: Value = serde_json::from_slice(&out).expect("it is JSON");
            let number = message["sequenceNumber"]
                .as_str()
                .and_then(|it| it.parse().ok());
            self.messages = self.messages.max(number.expect("a number") - 1) + 1;
            assert_eq!(number, Some(self.messages), "each number once, in order");
            if let Some(at) = message["media"]["timestamp"].as_str() {
                let at: u64 = at.parse().expect("a timestamp");
                assert!(at >= self.at_ms, "back from {} to {at} ms", self.at_ms);
                self.at_ms = at;
                self.audio_bytes += 160;
            }
            out.clear();
        }
    }
}

fn pick_by<T>(byte: u8, of: &[T]) -> &T {
    &of[usize::from(byte) % of.len()]
}

/// A header is written as it was read.
fn header(packet: &[u8]) {
    let Some((header, payload)) = RtpHeader::parse(packet) else {
        return;
    };
    assert!(payload.len() <= packet.len());
    let written = header.to_bytes();
    let (again, rest) = RtpHeader::parse(&written).expect("a header of ours");
    assert_eq!((again, rest.len()), (header, 0));
}

fn sdp(input: &[u8]) {
    let served = Served {
        ipv4: true,
        ipv6: true,
        ice: true,
    };
    for kind in ["application/sdp", "multipart/mixed"] {
        let headers = body::Headers {
            kind,
            boundary: Some("b"),
            ..body::Headers::default()
        };
        let _ = body::find(headers, input);
    }
    let Ok(read) = parse(input) else {
        return;
    };
    for place in [Place::FirstOffer, Place::LaterOffer, Place::Answer] {
        let Ok(taken) = judge(read.clone(), place, served) else {
            continue;
        };
        let written = render(&taken);
        assert!(written.len() <= 16 * 1_024, "{} bytes", written.len());
        assert!(written.is_ascii(), "{written:?}");
        assert_eq!(parse(written.as_bytes()), Ok(taken), "{written}");
    }
}

/// What is looked at before pjsip's parser.
fn packet(input: &[u8]) {
    let mut bytes = input.to_vec();
    leave_digest(&mut bytes);
    assert_eq!(bytes.len(), input.len(), "no byte moves");
    let once = bytes.clone();
    leave_digest(&mut bytes);
    assert_eq!(bytes, once, "there is nothing left to do");
    let whole = is_head_whole(input);
    if let Some(glance) = Glance::of(input) {
        assert!(glance.method.len() <= input.len());
        assert!(!whole || !input.is_empty());
    }
    let text = String::from_utf8_lossy(input);
    if let Some(digits) = info_digits::read(&text) {
        assert!(
            digits.len() <= MAX_DIGITS && are_digits(&digits),
            "{digits:?}"
        );
    }
}

fn worker(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let stream = StreamId::parse("MZ0123456789abcdef0123456789abcdef").expect("a stream's id");
    match parse_worker_message(&text, &stream) {
        Ok(WorkerMessage::Media(bytes) | WorkerMessage::OddMedia(bytes)) => {
            assert!(bytes.len() <= text.len());
        }
        Ok(WorkerMessage::Mark(name)) => assert!(name.len() <= MAX_MARK_NAME_BYTES),
        Ok(WorkerMessage::Dtmf(digits)) => {
            assert!(
                digits.len() <= MAX_DIGITS && are_digits(&digits),
                "{digits:?}"
            );
        }
        Ok(WorkerMessage::Transfer(to)) => assert!(to.expose().len() <= MAX_DESTINATION_BYTES),
        Ok(WorkerMessage::Clear | WorkerMessage::Hangup | WorkerMessage::Stop) => {}
        Err(why) => assert!(why.to_string().len() < 200, "of the input nothing"),
    }
}

fn twiml(input: &[u8]) {
    let address = VoiceUrl::parse_http("https://bot.example/voice?t=1");
    match twiml::parse(input, address.as_ref(), WrittenBy::Client) {
        Err(error) => {
            let told = error.to_string();
            assert!(
                told.len() < 2_000 && told.chars().all(is_harmless),
                "{told}"
            );
        }
        Ok(document) => {
            assert!(document.verbs.len() <= twiml::NODES_MAX as usize);
            assert!(document.warnings.len() <= twiml::WARNINGS_MAX + 1);
            for warning in &document.warnings {
                let told = warning.to_string();
                assert!(
                    told.len() < 2_000 && told.chars().all(is_harmless),
                    "{told}"
                );
            }
            document.verbs.iter().for_each(dialled);
        }
    }
}

/// Nothing that a `<Dial>` names breaks out of its place in a request.
fn dialled(verb: &Verb) {
    let Verb::Dial(dial) = verb else {
        return;
    };
    assert!(dial.targets.len() <= twiml::DIAL_TARGETS_MAX);
    for target in &dial.targets {
        match &target.callee {
            Callee::PhoneNumber(number) => assert!(number.expose().chars().all(is_harmless)),
            Callee::Sip { uri, headers } => {
                assert!(uri.expose().bytes().all(|byte| byte.is_ascii_graphic()));
                for header in headers {
                    assert!(
                        header
                            .name
                            .bytes()
                            .all(|byte| byte.is_ascii_graphic() && byte != b':')
                    );
                    assert!(header.value.expose().chars().all(is_harmless));
                }
            }
        }
    }
}

fn address(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let parts = UriParts::parse(&text);
    assert!(!parts.user.contains(char::is_control), "{:?}", parts.user);
    let user = escape_user(&parts.user);
    assert!(user.is_ascii() && !user.contains(['@', '<', '>', ' ', ';', ':']));
    let again = UriParts::parse(&format!("sip:{user}@h"));
    assert_eq!(
        (again.user, again.host.as_str()),
        (parts.user, "h"),
        "{text:?}"
    );
    if let Ok(host) = HostPort::parse(&text) {
        let written = host.to_string();
        assert_eq!(HostPort::parse(&written), Ok(host), "{written:?}");
    }
    if let Ok(network) = text.parse::<Cidr>() {
        assert_eq!(network.to_string().parse(), Ok(network), "{text:?}");
    }
    let headers = IdentityHeaders {
        from: UriParts::parse(&text),
        display: text.clone().into_owned(),
        asserted: vec![text.clone().into_owned()],
        preferred: vec![text.clone().into_owned()],
        remote_party: vec![text.clone().into_owned()],
        privacy: vec!["id".into()],
    };
    for from_trunk in [false, true] {
        let caller = Caller::read(&headers, from_trunk);
        for obeys in [false, true] {
            let number = caller.number(obeys).expose();
            assert!(number.len() <= text.len() + 16, "{number:?}");
            assert!(!number.contains(char::is_control), "{number:?}");
        }
    }
}

/// A password that stands in the seeds, and must be in no mistake that is told.
const PASSWORD: &str = "corpus-password";

fn lines(input: &[u8]) {
    let path = Path::new("lines.json");
    let told = match file::parse(path, input) {
        Err(error) => vec![error.to_string()],
        Ok(read) => {
            let entries = input.iter().filter(|byte| **byte == b'{').count();
            assert!(read.rows.len() <= entries && read.lines.len() <= read.rows.len());
            // Where it stands as an id, it is no password.
            if read
                .rows
                .iter()
                .any(|row| row.id().is_some_and(|id| id.contains(PASSWORD)))
            {
                return;
            }
            let mut told: Vec<String> = Vec::new();
            let issues = read.mistakes.iter().chain(&read.warnings);
            told.extend(issues.map(ToString::to_string));
            let count = read.lines.len();
            let loaded = load::load(
                read.lines,
                None,
                &SipServers::from_flags(None, Transport::Udp),
            );
            assert!(loaded.ready.len() <= count);
            told.push(format!("{:?}", loaded.unusable));
            told
        }
    };
    for told in told {
        assert!(!told.contains(PASSWORD), "{told}");
    }
}

fn credential(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let key = MasterKey::parse(&"5a".repeat(32)).expect("a key");
    // As the program does: only three parts are an encrypted value.
    if !is_encrypted(&text) {
        return;
    }
    let good = check_form(&text);
    // What has not the form costs no derivation.
    if let Err(error) = good {
        let told = error.to_string();
        assert!(!told.contains(PASSWORD), "{told}");
        return;
    }
    // A derivation takes seconds in a build without optimisation.
    static WELL_FORMED: AtomicU32 = AtomicU32::new(0);
    let nth = WELL_FORMED.fetch_add(1, Ordering::Relaxed);
    if nth >= 2 && nth % 2_000 != 0 {
        return;
    }
    // Under this key only what the seeds hold was encrypted.
    if let Ok(password) = key.decrypt("corpus", &text) {
        assert_eq!(password.expose(), PASSWORD);
    }
}
