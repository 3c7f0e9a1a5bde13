//! Foreign descriptions, and that no text of any kind gets through unread.

use proptest::prelude::*;

use super::body::{Headers, find};
use super::description::*;
use super::judge::{LABELS, Place, SdpRefusal, Served, judge};
use super::parse::{ParseProblem, parse};
use super::render::render;
use crate::core::media_link::Direction;

const SERVED: Served = Served {
    ipv4: true,
    ipv6: false,
    ice: true,
};

fn offer(text: &str) -> Result<Description, SdpRefusal> {
    judge(parse(text.as_bytes())?, Place::FirstOffer, SERVED)
}

/// A description with these lines behind `t=`, the address at the session.
fn with(media: &str) -> String {
    format!("v=0\r\no=- 1 2 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n{media}")
}

fn audio(description: &Description) -> &Audio {
    let found = description.media.iter().find_map(|media| match media {
        Media::Audio(audio) => Some(audio),
        Media::Declined(_) => None,
    });
    found.expect("an audio line")
}

/// What the SIP library relies on.
fn assert_strict(text: &str) {
    assert!(text.starts_with("v=0\r\no=- "), "{text}");
    assert!(text.is_ascii() && text.ends_with("\r\n"), "{text}");
    assert!(text.contains("\r\ns=-\r\nt=0 0\r\n"), "{text}");
    let blocks: Vec<&str> = text.split("\r\nm=").skip(1).collect();
    assert!(blocks.len() <= super::MEDIA_MAX);
    for block in blocks {
        let line = block.lines().next().expect("an m= line");
        let words: Vec<&str> = line.split(' ').collect();
        let [_, port, _, formats @ ..] = words.as_slice() else {
            panic!("{line}");
        };
        assert!(port.parse::<u16>().is_ok(), "{line}");
        assert!(!formats.is_empty() && formats.len() <= 30, "{line}");
        assert_eq!(
            block
                .lines()
                .filter(|line| line.starts_with("c=IN IP"))
                .count(),
            1,
            "{block}"
        );
        for (at, format) in formats.iter().enumerate() {
            assert!(!formats[..at].contains(format), "{line}");
            if format.starts_with(|first: char| first.is_ascii_digit()) {
                let number: u8 = format.parse().expect("a payload type");
                assert!(number < 128 && number.to_string() == **format, "{line}");
                let rtpmap = format!("a=rtpmap:{format} ");
                assert!(*port == "0" || block.contains(&rtpmap), "{block}");
            }
        }
    }
}

#[test]
fn forms_of_real_trunks_are_understood() {
    let cisco = "v=0\r\no=CiscoSystemsSIP-GW-UserAgent 4462 9122 IN IP4 192.0.2.7\r\ns=SIP Call\r\nc=IN IP4 192.0.2.7\r\n\
        t=0 0\r\nm=audio 17832 RTP/AVP 18 0 8 100 101\r\nc=IN IP4 192.0.2.8\r\na=rtpmap:18 G729/8000\r\na=fmtp:18 annexb=no\r\n\
        a=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\na=rtpmap:100 X-NSE/8000\r\na=fmtp:100 192-194\r\n\
        a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-16\r\na=ptime:20\r\n";
    let taken = offer(cisco).expect("Cisco");
    let line = audio(&taken);
    assert_eq!(line.address, Address::Ip([192, 0, 2, 8].into()));
    let types: Vec<u8> = line
        .formats
        .iter()
        .map(|format| format.payload_type)
        .collect();
    assert_eq!(types, [0, 8, 101]);
    assert_eq!(line.ptime_ms, Some(20));
    // Big numbers in o=, an empty s=, blanks at ends, LF alone, blank lines, a NUL.
    for text in [
        "v=0\no=MX 18446744073709551615 18446744073709551615 IN IP4 192.0.2.1\ns=\nc=IN IP4 192.0.2.1\nt=0 0\nm=audio 4000 RTP/AVP 0\n",
        "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns= \r\nc=IN IP4 192.0.2.1 \r\nt=0 0 \r\nm=audio 4000 RTP/AVP 0 \r\na=sendrecv \r\n\r\n\r\n",
        "\r\n\r\nv=0\r\no=- 1 1 IN IP4 192.0.2.1\r\nc=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 8 0\0\0",
        "v=0\r\no=\r\nc=IN IP4 192.0.2.1/127\r\nb=AS:64\r\nk=clear:x\r\nm=audio 4000/2 RTP/AVP 00 0\r\ni=\u{e9}\r\n",
    ] {
        let taken = offer(text).unwrap_or_else(|refusal| panic!("{refusal}: {text:?}"));
        assert_eq!(audio(&taken).port, 4_000);
        assert_strict(&render(&taken));
    }
    // Bytes that are no text, in a line without a use.
    let mut latin = b"v=0\r\ns=caf\xe9\r\n".to_vec();
    latin.extend(b"c=IN IP4 192.0.2.1\r\nm=audio 4000 RTP/AVP 0\r\na=\xff:1\r\n");
    assert!(parse(&latin).is_ok());
}

#[test]
fn a_dynamic_type_without_rtpmap_is_left_out() {
    let taken = offer(&with(
        "m=audio 4000 RTP/AVP 96 0 97\r\na=rtpmap:97 AMR/8000\r\n",
    ))
    .expect("PCMU");
    assert_eq!(audio(&taken).formats.len(), 1);
    assert!(render(&taken).contains("m=audio 4000 RTP/AVP 0\r\n"));
}

/// The fuzzer found a description that was read otherwise than it was taken.
#[test]
fn a_format_that_is_not_spoken_is_named_no_more() {
    let taken = offer(&with("m=audio 4000 RTP/AVP +0 zz 8 0\r\n")).expect("PCMA");
    assert_eq!(audio(&taken).first_format, SdpToken::number(8));
    assert_eq!(parse(render(&taken).as_bytes()), Ok(taken));
}

#[test]
fn formats_are_written_once_and_as_numbers() {
    let text = with(
        "m=audio 4000 RTP/AVP 00 000 0 0x 0VP -0 +8 08 8 128 999 300\r\na=rtpmap:00 pcmu/8000\r\n",
    );
    let rendered = render(&offer(&text).expect("PCMU"));
    assert!(
        rendered.contains("m=audio 4000 RTP/AVP 0 8\r\n"),
        "{rendered}"
    );
    let many: String = (0..5_000)
        .map(|number| format!(" {}", number % 128))
        .collect();
    let rtpmaps: String = (96..128)
        .map(|number| format!("a=rtpmap:{number} opus/48000/2\r\n"))
        .collect();
    let text = with(&format!("m=audio 4000 RTP/AVP{many}\r\n{rtpmaps}"));
    assert!(render(&offer(&text).expect("PCMU")).contains("m=audio 4000 RTP/AVP 0 8 96\r\n"));
}

#[test]
fn lines_that_get_no_media_keep_their_number_and_order() {
    let text = "v=0\r\nm=video 5004 RTP/SAVPF 96\r\nm=audio 0 RTP/AVP 00\r\nm=audio 4000 RTP/AVP 0\r\nc=IN IP4 192.0.2.1\r\n\
        m=image 5008 udptl t38\r\nm=application 9 UDP/BFCP *\r\nm=message 2855 TCP/MSRP 9x\r\n";
    let rendered = render(&offer(text).expect("audio"));
    let lines: Vec<&str> = rendered
        .lines()
        .filter(|line| line.starts_with("m="))
        .collect();
    let wanted = [
        "m=video 0 RTP/SAVPF 96",
        "m=audio 0 RTP/AVP 0",
        "m=audio 4000 RTP/AVP 0",
        "m=image 0 udptl t38",
        "m=application 0 UDP/BFCP *",
        "m=message 0 TCP/MSRP 0",
    ];
    assert_eq!(lines, wanted);
    assert_strict(&rendered);
}

#[test]
fn a_refusal_says_why() {
    let long = with(&"m=audio 4000 RTP/AVP 0\r\n".repeat(7));
    let dtls = with("m=audio 4000 UDP/TLS/RTP/SAVPF 0\r\na=fingerprint:sha-256 AA\r\n");
    for (text, status, label) in [
        (String::new(), 400, "malformed"),
        ("\r\n\n \t\r\n".to_owned(), 400, "malformed"),
        ("v=1\r\n".to_owned(), 400, "malformed"),
        (with("x\r\n"), 400, "malformed"),
        (with("m=audio 70000 RTP/AVP 0\r\n"), 400, "malformed"),
        (with("m=audio -1 RTP/AVP 0\r\n"), 400, "malformed"),
        (with("m=audio 4000 RTP/AVP\r\n"), 400, "malformed"),
        ("v=0\r\n".repeat(20_000), 413, "malformed"),
        (with(""), 488, "no_audio"),
        (with("m=audio 0 RTP/AVP 0\r\n"), 488, "no_audio"),
        (
            with("m=audio 4000 RTP/AVP 18 101\r\na=rtpmap:101 telephone-event/8000\r\n"),
            488,
            "codec",
        ),
        (
            with("m=audio 4000 RTP/AVP 0\r\na=rtpmap:0 G729/8000\r\n"),
            488,
            "codec",
        ),
        (
            "v=0\r\nm=audio 4000 RTP/AVP 0\r\n".to_owned(),
            488,
            "address",
        ),
        (
            with("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 pbx.example\r\n"),
            488,
            "address",
        ),
        (
            with("m=audio 4000 RTP/AVP 0\r\nc=IN IP6 2001:db8::1\r\n"),
            488,
            "address",
        ),
        (
            with("m=audio 4000 RTP/AVP 0\r\nc=IN IP4 239.1.1.1/9\r\n"),
            488,
            "address",
        ),
        (with("m=audio 4000 RTP/SAVP 0\r\n"), 488, "keys"),
        (dtls, 488, "transport"),
        (long, 488, "media_lines"),
    ] {
        let refusal = offer(&text).expect_err(&text);
        assert_eq!(
            (refusal.status(), refusal.label()),
            (status, label),
            "{text}"
        );
        assert!(LABELS.contains(&refusal.label()));
        assert!((300..400).contains(&refusal.warning()));
    }
}

#[test]
fn audio_may_be_taken_out_of_a_call_but_not_of_its_first_offer() {
    let text = with("m=audio 0 RTP/AVP 0\r\n");
    let description = parse(text.as_bytes()).expect("it can be read");
    for (place, is_taken) in [
        (Place::FirstOffer, false),
        (Place::LaterOffer, true),
        (Place::Answer, true),
    ] {
        assert_eq!(judge(description.clone(), place, SERVED).is_ok(), is_taken);
    }
}

#[test]
fn directions_of_the_session_hold_for_lines_that_say_none() {
    let lines = "m=audio 4000 RTP/AVP 0\r\nm=audio 4002 RTP/AVP 0\r\na=sendrecv\r\na=inactive\r\n";
    let text = with(lines).replace("t=0 0", "t=0 0\r\na=sendonly");
    let taken = offer(&text).expect("audio");
    let directions: Vec<Direction> = taken
        .media
        .iter()
        .map(|media| match media {
            Media::Audio(audio) => audio.direction,
            Media::Declined(_) => panic!("declined"),
        })
        .collect();
    assert_eq!(directions, [Direction::SendOnly, Direction::SendRecv]);
}

#[test]
fn keys_are_taken_when_they_can_be_used() {
    let key = "d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj";
    let crypto = |text: &str| super::attributes::crypto(text);
    let suite = "AES_CM_128_HMAC_SHA1_80";
    assert!(crypto(&format!("1 {suite} inline:{key}")).is_some());
    assert!(
        crypto(&format!(
            "2 aes_cm_128_hmac_sha1_32 INLINE:{key}|2^20 WSH=64"
        ))
        .is_some()
    );
    for unusable in [
        format!("0 {suite} inline:{key}"),
        format!("1234567890 {suite} inline:{key}"),
        format!("1 {suite} inline:{key}|2^20|1:4"),
        format!("1 {suite} inline:{key} UNENCRYPTED_SRTP"),
        format!("1 {suite} inline:{key};inline:{key}"),
        format!("1 {suite} inline:"),
        format!("1 {suite} inline:{}", &key[4..]),
        format!("1 AES_256_CM_HMAC_SHA1_80 inline:{key}"),
        format!("1 AEAD_AES_128_GCM inline:{key}"),
        format!("1 {suite} inline:{key} \u{e9}\u{e9}\u{e9}"),
        "1".to_owned(),
    ] {
        assert!(crypto(&unusable).is_none(), "{unusable}");
    }
    // 46 bytes, with padding and without.
    let long = "A".repeat(61) + "A";
    let suite = "AES_256_CM_HMAC_SHA1_80";
    let bare = crypto(&format!("1 {suite} inline:{long}")).expect("no padding");
    let padded = crypto(&format!("1 {suite} inline:{long}==")).expect("padding");
    assert_eq!(bare, padded);
    let shown = format!("{bare:?} {:?}", bare.key);
    assert!(!shown.contains("AAAA"), "{shown}");
}

#[test]
fn ice_is_kept_where_it_is_on_and_can_be_used() {
    let lines = "m=audio 4000 RTP/AVP 0\r\na=ice-ufrag:F7gI\r\na=ice-pwd:x9cml/YzichV2+XlhiMu8g\r\n\
        a=candidate:1 1 UDP 2130706431 192.0.2.1 4000 typ host\r\n\
        a=candidate:2 1 udp 1694498815 198.51.100.3 45664 typ srflx raddr 10.0.1.1 rport 8998 generation 0\r\n\
        a=candidate:3 1 UDP 1 abc.local 4000 typ host\r\na=candidate:4 1 TCP 1 192.0.2.1 9 typ host tcptype active\r\n";
    let taken = offer(&with(lines)).expect("audio");
    assert_eq!(
        audio(&taken).ice.as_ref().map(|ice| ice.candidates.len()),
        Some(2)
    );
    let off = Served {
        ice: false,
        ..SERVED
    };
    let taken = judge(
        parse(with(lines).as_bytes()).expect("read"),
        Place::FirstOffer,
        off,
    )
    .expect("audio");
    assert!(!render(&taken).contains("ice"));
    let long = lines.replace("F7gI", &"u".repeat(300));
    assert_eq!(audio(&offer(&with(&long)).expect("audio")).ice, None);
}

#[test]
fn the_description_is_found_in_a_multipart_body() {
    let sdp = "v=0\r\ns=-\r\n";
    let part = |headers: &str, body: &str| format!("--b1\r\n{headers}\r\n{body}\r\n");
    let sdp_part = part("content-type: Application/SDP\r\n", sdp);
    let isup = part(
        "Content-Type: application/isup; version=itu-t92+\r\nContent-Disposition: signal;handling=required\r\n",
        "\x01\x02",
    );
    let pidf = part("c: application/pidf+xml\r\n", "<x/>");
    let early = part(
        "Content-Type: application/sdp\r\nContent-Disposition: early-session\r\n",
        "v=0 early",
    );
    let kind = |kind: &'static str| Headers {
        kind,
        boundary: Some("b1"),
        ..Headers::default()
    };
    for (kind_name, body) in [
        (
            "multipart/mixed",
            format!("preamble\r\n{isup}{sdp_part}--b1--\r\nepilogue"),
        ),
        ("Multipart/Related", format!("{sdp_part}{pidf}--b1--")),
        (
            "multipart/alternative",
            format!("{pidf}{early}{sdp_part}--b1--\r\n"),
        ),
        ("multipart/mixed", format!("{isup}{sdp_part}")),
    ] {
        let found = find(kind(kind_name), body.as_bytes())
            .expect(&body)
            .expect("a part");
        assert_eq!(
            std::str::from_utf8(found).expect("text").trim_end(),
            sdp.trim_end(),
            "{body}"
        );
    }
    let nested = format!(
        "--o\r\nContent-Type: multipart/alternative; boundary=\"b1\"\r\n\r\n{pidf}{sdp_part}--b1--\r\n--o--\r\n"
    );
    let outer = Headers {
        kind: "multipart/mixed",
        ..Headers::default()
    };
    assert!(
        matches!(find(outer, nested.as_bytes()), Ok(Some(_))),
        "no boundary in the header"
    );
    assert_eq!(
        find(kind("multipart/mixed"), b"no delimiter at all"),
        Err(SdpRefusal::Multipart)
    );
    let only = format!("{early}--b1--");
    assert_eq!(
        find(kind("multipart/mixed"), only.as_bytes()),
        Err(SdpRefusal::Disposition)
    );
}

#[test]
fn a_body_of_another_kind_is_refused_unless_it_is_optional() {
    let headers = |kind, disposition, encoding| Headers {
        kind,
        boundary: None,
        disposition,
        encoding,
    };
    let sdp = "application/sdp";
    for (headers, wanted) in [
        (headers(sdp, None, None), Ok(Some(&b"x"[..]))),
        (
            headers(
                "APPLICATION/sdp",
                Some("Session; handling=required"),
                Some("identity"),
            ),
            Ok(Some(&b"x"[..])),
        ),
        (headers(sdp, None, Some("gzip")), Err(SdpRefusal::Encoded)),
        (
            headers(sdp, Some("render"), None),
            Err(SdpRefusal::Disposition),
        ),
        (
            headers(sdp, Some("early-session;handling=optional"), None),
            Ok(None),
        ),
        (headers("text/plain", None, None), Err(SdpRefusal::Kind)),
        (
            headers(
                "application/isup",
                Some("signal; handling=\"optional\""),
                None,
            ),
            Ok(None),
        ),
    ] {
        assert_eq!(find(headers, b"x"), wanted, "{headers:?}");
        assert_eq!(find(headers, b""), Ok(None));
    }
}

fn token() -> impl Strategy<Value = SdpToken> {
    "[a-zA-Z][a-zA-Z0-9+._-]{3,20}".prop_filter_map("a token", |text| SdpToken::new(&text))
}

fn ip() -> impl Strategy<Value = std::net::IpAddr> {
    prop_oneof![
        (1_u32..0xe000_0000).prop_map(|bits| std::net::Ipv4Addr::from(bits).into()),
        (1_u128..u128::MAX >> 1).prop_map(|bits| std::net::Ipv6Addr::from(bits).into()),
    ]
}

prop_compose! {
    fn candidate()(foundation in token(), component in 1_u8..3, priority in any::<u32>(), ip in ip(), port in 1_u16..,
        kind in proptest::sample::select(CandidateKind::ALL.to_vec()), related in proptest::option::of((ip(), any::<u16>()))) -> Candidate {
        Candidate { foundation, component, priority, ip, port, kind, related }
    }
}

prop_compose! {
    fn ice()(ufrag in token(), password in "[a-zA-Z0-9+/]{22,64}", candidates in prop::collection::vec(candidate(), 0..8)) -> Ice {
        Ice { ufrag, password: Key::new(password), candidates }
    }
}

prop_compose! {
    fn an_audio()(port in 1_u16.., address in ip(), opus in 96_u8..110, event in 110_u8..128, last_event in proptest::option::of(any::<u8>()),
        stereo in proptest::option::of(any::<bool>()), rate in proptest::option::of(8_000_u32..48_000), codecs in 1_u8..16,
        direction in proptest::sample::select(vec![Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]),
        ptime_ms in proptest::option::of(1_u16..240), rtcp in proptest::option::of((1_u16.., proptest::option::of(ip()))),
        rtcp_mux in any::<bool>(), ice in proptest::option::of(ice()), tag in 1_u32..999_999_999) -> Media {
        let opus_parameters = OpusParameters { maxplaybackrate_hz: rate, stereo, ..OpusParameters::default() };
        let all = [
            Format { payload_type: 8, encoding: Encoding::Pcma },
            Format { payload_type: 0, encoding: Encoding::Pcmu },
            Format { payload_type: opus, encoding: Encoding::Opus(opus_parameters) },
            Format { payload_type: event, encoding: Encoding::TelephoneEvent { clock_hz: 8_000, last_event } },
        ];
        let formats: Vec<Format> = all.into_iter().enumerate().filter(|(at, _)| codecs & (1 << at) != 0).map(|(_, format)| format).collect();
        let crypto = Crypto { tag, suite: Suite::Aes128Sha80, key: Key::new("d0RmdmcmVCspeEc3QGZiNWpVLFJhQX1cfHAwJSoj".to_owned()) };
        Media::Audio(Box::new(Audio { port, transport: MediaProtocol::Savp, address: Address::Ip(address), first_format: SdpToken::number(formats[0].payload_type),
            formats, direction, ptime_ms, maxptime_ms: ptime_ms, rtcp: rtcp.map(|(port, ip)| Rtcp { port, ip }), rtcp_mux, cryptos: vec![crypto], ice }))
    }
}

prop_compose! {
    fn declined()(kind in token(), transport in token(), format in token()) -> Media {
        Media::Declined(Declined { kind, transport, format })
    }
}

prop_compose! {
    fn description()(id in any::<u32>(), version in any::<u32>(), ice_lite in any::<bool>(),
        media in prop::collection::vec(prop_oneof![an_audio(), declined()], 0..6)) -> Description {
        Description { id, version, ice_lite, media }
    }
}

/// Text that looks like a description more often than not.
fn sdp_like() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        "m=(audio|video|image) [0-9]{1,6} (RTP/AVP|RTP/SAVP|udptl|X/Y)( [0-9x]{1,4}){0,40}",
        "a=(rtpmap|fmtp):[0-9]{1,3} (opus|PCMU|telephone-event|[a-z]{1,6})/[0-9]{1,6}(/[0-9])?",
        "c=IN IP[46] [0-9a-f.:]{1,20}",
        "a=(crypto|candidate|rtcp|ptime|ice-ufrag|ice-pwd):.{0,60}",
        "[a-z]=.{0,30}",
        ".{0,20}",
    ];
    prop::collection::vec(line, 0..30).prop_map(|lines| format!("v=0\r\n{}", lines.join("\r\n")))
}

proptest! {
    #[test]
    fn what_is_written_is_read_again(description in description()) {
        let text = render(&description);
        prop_assert_eq!(parse(text.as_bytes()), Ok(description), "{}", text);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
        let _ = find(Headers { kind: "multipart/mixed", ..Headers::default() }, &bytes);
    }

    #[test]
    fn whatever_is_taken_is_written_strictly(text in sdp_like()) {
        for place in [Place::FirstOffer, Place::LaterOffer, Place::Answer] {
            let Ok(Ok(taken)) = parse(text.as_bytes()).map(|read| judge(read, place, SERVED)) else { continue };
            let written = render(&taken);
            assert_strict(&written);
            prop_assert_eq!(parse(written.as_bytes()), Ok(taken));
        }
    }

    #[test]
    fn a_turned_byte_never_breaks_the_writing(at in 0_usize..400, byte in any::<u8>()) {
        let mut bytes = with("m=audio 4000 RTP/AVP 96 0 101\r\na=rtpmap:96 opus/48000/2\r\na=fmtp:96 stereo=1\r\n\
            a=rtpmap:101 telephone-event/8000\r\na=fmtp:101 0-15\r\na=ptime:20\r\nm=video 0 RTP/AVP 97\r\n").into_bytes();
        let at = at % bytes.len();
        bytes[at] = byte;
        match parse(&bytes).map(|read| judge(read, Place::FirstOffer, SERVED)) {
            Ok(Ok(taken)) => assert_strict(&render(&taken)),
            Ok(Err(_)) | Err(ParseProblem::Line(_) | ParseProblem::Media(_) | ParseProblem::Version | ParseProblem::Empty) => {}
            Err(other) => prop_assert!(false, "{other}"),
        }
    }
}
