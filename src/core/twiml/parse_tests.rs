//! What documents of real bots, of Twilio's own libraries and of hostile servers are read as.

use std::time::Duration;

use super::dial_string::DialString;
use super::document::{
    Callee, Connect, Dial, Document, Gather, HttpMethod, MediaStream, Play, PlaySource, Prompt,
    RejectReason, Repeat, Say, Track, Verb, Webhook,
};
use super::error::TwimlError;
use super::parse;
use super::voice_url::VoiceUrl;
use crate::core::callback::CallbackEvent;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;

pub(super) const SECOND: Duration = Duration::from_secs(1);

fn base() -> VoiceUrl {
    VoiceUrl::parse_http("https://bot.example/voice/in?t=1").unwrap()
}

fn url(text: &str) -> VoiceUrl {
    VoiceUrl::resolve_http(Some(&base()), text).unwrap()
}

pub(super) fn read(text: &str) -> Document {
    parse(text.as_bytes(), Some(&base()), WrittenBy::Operator)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
}

/// The verbs of a document that is served as a whole.
fn verbs(inner: &str) -> Vec<Verb> {
    let document = read(&format!("<Response>{inner}</Response>"));
    assert_eq!(document.warnings, [], "{inner}");
    document.verbs
}

/// The verbs and warnings of a document.
pub(super) fn with_warnings(inner: &str) -> (Vec<Verb>, Vec<String>) {
    let document = read(&format!("<Response>{inner}</Response>"));
    let warnings = document.warnings.iter().map(ToString::to_string);
    (document.verbs, warnings.collect())
}

pub(super) fn refusal(text: &str) -> TwimlError {
    let read = parse(text.as_bytes(), Some(&base()), WrittenBy::Operator);
    read.expect_err(text)
}

fn hook(text: &str, method: HttpMethod) -> Webhook {
    let url = url(text);
    Webhook {
        url,
        method,
        written_by: WrittenBy::Operator,
    }
}

pub(super) fn say(text: &str) -> Prompt {
    Prompt::Say(Say {
        text: Private::new(text),
        voice: None,
        language: None,
        repeat: Repeat::Times(1),
    })
}

fn dial(inner: &str) -> Dial {
    match verbs(inner).pop() {
        Some(Verb::Dial(dial)) => dial,
        other => panic!("{inner}: {other:?}"),
    }
}

fn stream(inner: &str) -> MediaStream {
    match verbs(inner).pop() {
        Some(Verb::Connect(Connect { stream, .. }) | Verb::StartStream(stream)) => stream,
        other => panic!("{inner}: {other:?}"),
    }
}

/// Written by Twilio's libraries, 9.13.0 for Python and 6.3.1 for Node: every verb that is served, and two that are not.
const OF_LIBRARIES: [&str; 2] = [
    include_str!("../../../tests/fuzz/corpus/twiml/python-sdk"),
    include_str!("../../../tests/fuzz/corpus/twiml/node-sdk"),
];

#[test]
fn what_twilios_libraries_write_is_read() {
    for text in OF_LIBRARIES {
        let document = read(text);
        let warned: Vec<_> = document.warnings.iter().map(ToString::to_string).collect();
        let is_expected = |warning: &String| {
            [
                "<Record> at",
                "<Leave> at",
                "the value of input of <Gather>",
            ]
            .iter()
            .any(|expected| warning.starts_with(expected))
        };
        assert!(warned.iter().all(is_expected), "{warned:#?}");
        let kinds = document.verbs.iter().map(|verb| match verb {
            Verb::Gather(gather) if gather.prompts.len() == 3 => "gather",
            Verb::Connect(connect) if connect.stream.parameters["caller"] == "+33 \"x\" <é>" => {
                "connect"
            }
            Verb::StartStream(_) => "start",
            Verb::StopStream(_) => "stop",
            Verb::Dial(dial) if dial.targets.len() == 2 => "dial two",
            Verb::Dial(_) => "dial",
            Verb::Prompt(_) => "play",
            Verb::Redirect(_) => "redirect",
            Verb::Reject(RejectReason::Busy) => "reject",
            Verb::Hangup => "hangup",
            other => panic!("{other:?}"),
        });
        let kinds: Vec<_> = kinds.filter(|kind| *kind != "dial").collect();
        assert_eq!(
            kinds,
            [
                "gather", "connect", "start", "stop", "dial two", "play", "redirect", "reject",
                "hangup"
            ]
        );
    }
}

#[test]
fn a_bots_document_is_read() {
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><Response><Say language=\"fr-FR\" voice=\"Polly.Lea\">Bonjour &amp; \
        bienvenue</Say><Connect action=\"/done\"><Stream name=\"bot\" url=\"wss://bot.example/media?x=1&amp;y=2\">\
        <Parameter name=\"caller\" value=\"+33612345678\" /></Stream></Connect></Response>";
    let document = read(text);
    assert_eq!(document.warnings, []);
    let [Verb::Prompt(Prompt::Say(say)), Verb::Connect(connect)] = &document.verbs[..] else {
        panic!("{document:?}");
    };
    assert_eq!(say.text.expose(), "Bonjour & bienvenue");
    assert_eq!(say.voice.as_deref(), Some("Polly.Lea"));
    assert_eq!(say.language.as_deref(), Some("fr-FR"));
    assert_eq!(connect.action, Some(hook("/done", HttpMethod::Post)));
    assert_eq!(
        connect.stream.url.expose(),
        "wss://bot.example/media?x=1&y=2"
    );
    assert_eq!(connect.stream.name.as_deref(), Some("bot"));
    assert_eq!(connect.stream.parameters["caller"], "+33612345678");
}

#[test]
fn what_is_written_by_hand_is_read() {
    let text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<!-- a bot -->\n<Response>\n  \
        <Gather input=\"dtmf\" numDigits=\"1\" action=\"/menu\" method=\"get\">\n    <Say>Press 1</Say>\n  </Gather>\n  \
        <Redirect/>\n</Response>\n";
    let document = read(text);
    assert_eq!(document.warnings, []);
    let gather = Gather {
        action: Some(hook("/menu", HttpMethod::Get)),
        timeout: 5 * SECOND,
        digits_max: Some(1),
        finish_on_key: Some('#'),
        acts_on_empty: false,
        prompts: vec![say("Press 1")],
    };
    let own = hook("", HttpMethod::Post);
    assert_eq!(document.verbs, [Verb::Gather(gather), Verb::Redirect(own)]);
    // A byte order mark and blanks before the root are XML; blanks before the declaration are none.
    assert_eq!(read("\u{feff}<Response/>"), Document::default());
    assert_eq!(read("\n\n<Response></Response>\n"), Document::default());
}

#[test]
fn defaults_are_twilios() {
    let gather = Gather {
        action: Some(hook("", HttpMethod::Post)),
        timeout: 5 * SECOND,
        digits_max: None,
        finish_on_key: Some('#'),
        acts_on_empty: false,
        prompts: Vec::new(),
    };
    assert_eq!(verbs("<Gather/>"), [Verb::Gather(gather.clone())]);
    let get = Gather {
        action: Some(hook("", HttpMethod::Get)),
        ..gather
    };
    assert_eq!(verbs("<Gather method='GET'/>"), [Verb::Gather(get)]);
    assert_eq!(verbs("<Pause/>"), [Verb::Prompt(Prompt::Pause(SECOND))]);
    let pause = Verb::Prompt(Prompt::Pause(7 * SECOND));
    assert_eq!(verbs("<Pause length=' 7 '/>"), [pause]);
    let rejected = Verb::Reject(RejectReason::Rejected);
    assert_eq!(verbs("<Reject/>"), [rejected]);
    let busy = Verb::Reject(RejectReason::Busy);
    assert_eq!(verbs("<Reject reason='busy'/>"), [busy]);
    assert_eq!(verbs("<Hangup/>"), [Verb::Hangup]);
    let dial = dial("<Dial>+33612345678</Dial>");
    assert_eq!(
        (dial.timeout, dial.time_limit),
        (30 * SECOND, 14_400 * SECOND)
    );
    assert!(!dial.hangup_on_star && !dial.answer_on_bridge && dial.action.is_none());
    // Where a document came with a request, there is no address to go back to.
    let inline = parse(b"<Response><Gather/></Response>", None, WrittenBy::Client).unwrap();
    assert!(matches!(&inline.verbs[..], [Verb::Gather(gather)] if gather.action.is_none()));
}

#[test]
fn what_is_spoken_has_no_markup_and_single_blanks() {
    for (written, spoken) in [
        ("  Hello\n   world ", "Hello world"),
        ("un<emphasis>believ</emphasis>able", "unbelievable"),
        ("Hello<break strength='x-weak'/>world", "Hello world"),
        (
            "<speak><p>One.</p><p>Two.</p>Three <sub alias='x'>four</sub></speak>",
            "One. Two. Three four",
        ),
        (
            "<prosody rate='85%'>slow <say-as interpret-as='digits'>12</say-as></prosody>",
            "slow 12",
        ),
        ("<![CDATA[a < b & c]]>", "a < b & c"),
        ("caf&#233; &lt;1&gt;<!-- not said -->", "café <1>"),
    ] {
        assert_eq!(
            verbs(&format!("<Say>{written}</Say>")),
            [Verb::Prompt(say(spoken))]
        );
    }
    let (verbs, warnings) = with_warnings("<Say> </Say>");
    assert_eq!((verbs.len(), warnings.len()), (0, 1));
    let long = "word ".repeat(1_000);
    let (verbs, warnings) = with_warnings(&format!("<Say>{long}</Say>"));
    let [Verb::Prompt(Prompt::Say(say))] = &verbs[..] else {
        panic!("{verbs:?}");
    };
    assert_eq!(say.text.expose().chars().count(), 4_096);
    assert!(warnings[0].contains("is cut"), "{warnings:?}");
}

#[test]
fn play_has_a_file_or_digits() {
    let file = |text: &str, repeat| {
        let source = PlaySource::File {
            url: url(text),
            written_by: WrittenBy::Operator,
        };
        Verb::Prompt(Prompt::Play(Play { source, repeat }))
    };
    assert_eq!(
        verbs("<Play>/a.wav</Play>"),
        [file("/a.wav", Repeat::Times(1))]
    );
    assert_eq!(
        verbs("<Play loop='0'>a.wav</Play>"),
        [file("a.wav", Repeat::Forever)]
    );
    assert_eq!(
        verbs("<Play loop='3'>a.wav</Play>"),
        [file("a.wav", Repeat::Times(3))]
    );
    let digits = DialString::parse("ww1#").unwrap();
    let source = PlaySource::Digits(digits);
    let repeat = Repeat::Times(1);
    assert_eq!(
        verbs("<Play digits='ww1#'></Play>"),
        [Verb::Prompt(Prompt::Play(Play { source, repeat }))]
    );
    for silent in ["<Play/>", "<Play digits='1-2'/>"] {
        let (verbs, warnings) = with_warnings(silent);
        assert_eq!((verbs.len(), warnings.len()), (0, 1), "{silent}");
    }
}

#[test]
fn streams_have_a_url_a_track_and_parameters() {
    let started = stream(
        "<Start><Stream url='wss://copy.example/x' name='copy' track='both_tracks' statusCallback='/events' \
         statusCallbackMethod='GET'/></Start>",
    );
    assert_eq!(
        (started.track, started.name.as_deref()),
        (Track::Both, Some("copy"))
    );
    let callback = started.status_callback.unwrap();
    assert_eq!(callback.webhook, hook("/events", HttpMethod::Get));
    assert_eq!(
        verbs("<Stop><Stream name='copy'/></Stop>"),
        [Verb::StopStream("copy".into())]
    );
    let relative = stream("<Connect><Stream url='/media'/></Connect>");
    assert_eq!(relative.url.expose(), "wss://bot.example/media");
    let (verbs, warnings) = with_warnings(
        "<Connect><Stream url='wss://w' track='outbound_track'><Parameter value='v'/></Stream></Connect>",
    );
    assert!(matches!(&verbs[..], [Verb::Connect(it)] if it.stream.track == Track::Inbound));
    assert_eq!(warnings.len(), 2, "{warnings:?}");
}

#[test]
fn dial_calls_its_text_or_its_nouns() {
    let plain =
        dial("<Dial callerId='+33972360682' timeout='7' hangupOnStar='true'> +33612345678 </Dial>");
    let number = |text: &str| Callee::PhoneNumber(Private::new(text));
    assert_eq!(plain.targets[0].callee, number("+33612345678"));
    assert_eq!(plain.caller_id, Some(Private::new("+33972360682")));
    assert!(plain.hangup_on_star && plain.timeout == 7 * SECOND);
    let several = dial(
        "<Dial answerOnBridge='TRUE' action='after'>\
           <Number sendDigits='wwww1' url='whisper' method='GET'>+331</Number>\
           <Number statusCallback='/s' statusCallbackEvent='ringing answered ringing'>+332</Number>\
           <Sip>sip:bob@pbx.example;transport=tls?X-Room=12%20b&amp;X-Plus=1+2</Sip>\
         </Dial>",
    );
    assert!(several.answer_on_bridge);
    assert_eq!(several.action, Some(hook("after", HttpMethod::Post)));
    let [first, second, third] = &several.targets[..] else {
        panic!("{several:?}");
    };
    assert_eq!(
        (&first.callee, &second.callee),
        (&number("+331"), &number("+332"))
    );
    assert_eq!(first.send_digits, DialString::parse("wwww1"));
    assert_eq!(first.document, Some(hook("whisper", HttpMethod::Get)));
    let callback = second.status_callback.as_ref().unwrap();
    assert_eq!(
        callback.events,
        [CallbackEvent::Ringing, CallbackEvent::Answered]
    );
    let Callee::Sip { uri, headers } = &third.callee else {
        panic!("{third:?}");
    };
    assert_eq!(uri.expose(), "sip:bob@pbx.example;transport=tls");
    let headers: Vec<_> = headers
        .iter()
        .map(|header| (header.name.as_str(), header.value.expose()))
        .collect();
    assert_eq!(headers, [("X-Room", "12 b"), ("X-Plus", "1+2")]);
}

#[test]
fn no_header_and_no_address_breaks_out_of_its_line() {
    for uri in [
        "sip:b@h?X-A=1%0d%0aVia: x",
        "sip:b@h?X-A=1%0AB",
        "sip:b@h?Via=x",
        "sip:b@h?X-=x",
        "sip:b@h?X-a%0d%0aVia=x",
        "sip:b@h?X-A%3A=x",
    ] {
        let (verbs, warnings) = with_warnings(&format!("<Dial><Sip>{uri}</Sip></Dial>"));
        let [Verb::Dial(dial)] = &verbs[..] else {
            panic!("{verbs:?}");
        };
        let none =
            matches!(&dial.targets[0].callee, Callee::Sip { headers, .. } if headers.is_empty());
        assert!(none && warnings.len() == 1, "{uri}: {dial:?} {warnings:?}");
    }
    for uri in [
        "sip:",
        "bob@h",
        "tel:+33",
        "sip:b c@h",
        "sip:b&gt;@h",
        "sip:b&#10;@h",
        "sip:é@h",
    ] {
        let (verbs, warnings) = with_warnings(&format!("<Dial><Sip>{uri}</Sip></Dial>"));
        let fails = matches!(&verbs[..], [Verb::Dial(dial)] if dial.targets.is_empty());
        assert!(fails && warnings.len() == 1, "{uri}: {verbs:?}");
    }
}

/// Who wrote each address of a document, by what it belongs to.
fn origins(document: &Document) -> Vec<(&'static str, WrittenBy)> {
    let mut origins = Vec::new();
    for verb in &document.verbs {
        match verb {
            Verb::Prompt(Prompt::Play(Play {
                source: PlaySource::File { written_by, .. },
                ..
            })) => origins.push(("play", *written_by)),
            Verb::Gather(gather) => {
                let action = gather.action.iter();
                origins.extend(action.map(|action| ("gather", action.written_by)));
            }
            Verb::Connect(Connect { action, stream }) => {
                origins.extend(action.iter().map(|action| ("connect", action.written_by)));
                origins.push(("stream", stream.written_by));
                let told = stream.status_callback.iter();
                origins.extend(told.map(|told| ("stream status", told.webhook.written_by)));
            }
            Verb::StartStream(stream) => origins.push(("copy", stream.written_by)),
            Verb::Dial(dial) => {
                let action = dial.action.iter();
                origins.extend(action.map(|action| ("dial", action.written_by)));
                for target in &dial.targets {
                    let url = target.document.iter();
                    origins.extend(url.map(|url| ("number", url.written_by)));
                    let told = target.status_callback.iter();
                    origins.extend(told.map(|told| ("number status", told.webhook.written_by)));
                }
            }
            Verb::Redirect(webhook) => origins.push(("redirect", webhook.written_by)),
            _ => {}
        }
    }
    origins
}

#[test]
fn every_address_of_a_document_is_of_its_own_origin() {
    let text = "<Response><Play>/a.wav</Play><Gather/><Gather action='/g'/>\
                <Connect action='/c'><Stream url='wss://w/' statusCallback='/s'/></Connect>\
                <Start><Stream url='wss://w/'/></Start>\
                <Dial action='/d'><Number url='/n' statusCallback='/s'>+331</Number>\
                <Sip url='/n' statusCallback='/s'>sip:a@b</Sip></Dial><Redirect>/r</Redirect></Response>";
    let expected = [
        "play",
        "gather",
        "gather",
        "connect",
        "stream",
        "stream status",
        "copy",
        "dial",
        "number",
        "number status",
        "number",
        "number status",
        "redirect",
    ];
    for written_by in [WrittenBy::Operator, WrittenBy::Client] {
        let document = parse(text.as_bytes(), Some(&base()), written_by).unwrap();
        let expected = expected.map(|name| (name, written_by));
        assert_eq!(origins(&document), expected);
    }
}
