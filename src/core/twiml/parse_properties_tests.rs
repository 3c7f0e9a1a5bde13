//! What holds of every document, however it is made.

use proptest::collection::vec;
use proptest::prelude::*;

use super::document::{Callee, Verb};
use super::parse::parse;
use super::voice_url::VoiceUrl;
use super::{DIAL_TARGETS_MAX, NODES_MAX, WARNINGS_MAX};
use crate::core::outward::WrittenBy;
use crate::core::printable::is_harmless;

/// Elements that make sense in each other, and some that do not.
const ELEMENTS: &[&str] = &[
    "Response",
    "Say",
    "Play",
    "Pause",
    "Gather",
    "Connect",
    "Start",
    "Stop",
    "Stream",
    "Parameter",
    "Dial",
    "Number",
    "Sip",
    "Redirect",
    "Reject",
    "Hangup",
    "Record",
    "say",
    "x:y",
    "",
];
const ATTRIBUTES: &[&str] = &[
    "action",
    "method",
    "timeout",
    "url",
    "name",
    "value",
    "track",
    "loop",
    "length",
    "numDigits",
    "finishOnKey",
    "digits",
    "sendDigits",
    "statusCallback",
    "statusCallbackEvent",
    "callerId",
    "xmlns",
];
const VALUES: &[&str] = &[
    "",
    "1",
    "0",
    "-1",
    "99999999999999999999",
    "true",
    "GET",
    "/x",
    "http://h/x?a=b&amp;c",
    "wss://h",
    "sip:a@b?X-A=1%0d%0aB",
    "&#10;",
    "&#0;",
    "&lt;",
    "&nope;",
    "www1#",
    "\u{202e}",
    "both_tracks",
    "#",
];

fn element() -> impl Strategy<Value = String> {
    let attribute = (
        prop::sample::select(ATTRIBUTES),
        prop::sample::select(VALUES),
    );
    let leaf = prop_oneof![
        prop::sample::select(VALUES).prop_map(str::to_owned),
        "\\PC{0,20}".prop_map(|text| text.replace(['<', '&'], "")),
    ];
    let opened = (prop::sample::select(ELEMENTS), vec(attribute, 0..4));
    leaf.prop_recursive(6, 60, 5, move |inner| {
        (opened.clone(), vec(inner, 0..5)).prop_map(|((name, attributes), inner)| {
            let attributes: String = attributes
                .iter()
                .map(|(name, value)| format!(" {name}=\"{value}\""))
                .collect();
            format!("<{name}{attributes}>{}</{name}>", inner.concat())
        })
    })
}

/// Reads a document, and checks what must hold of whatever comes out.
fn check(text: &[u8]) {
    let base = VoiceUrl::parse_http("https://bot.example/voice");
    for base in [base.as_ref(), None] {
        match parse(text, base, WrittenBy::Client) {
            Err(error) => {
                let told = error.to_string();
                assert!(
                    told.len() < 1_500 && told.chars().all(is_harmless),
                    "{told}"
                );
            }
            Ok(document) => {
                assert!(document.verbs.len() <= NODES_MAX as usize);
                assert!(document.warnings.len() <= WARNINGS_MAX + 1);
                for warning in &document.warnings {
                    assert!(warning.to_string().chars().all(is_harmless), "{warning}");
                }
                document.verbs.iter().for_each(check_verb);
            }
        }
    }
}

fn check_verb(verb: &Verb) {
    let Verb::Dial(dial) = verb else {
        return;
    };
    assert!(dial.targets.len() <= DIAL_TARGETS_MAX);
    for target in &dial.targets {
        match &target.callee {
            Callee::PhoneNumber(number) => assert!(number.expose().chars().all(is_harmless)),
            Callee::Sip { uri, headers } => {
                assert!(uri.expose().bytes().all(|byte| byte.is_ascii_graphic()));
                for header in headers {
                    assert!(
                        header.name.is_ascii() && !header.name.contains([':', ' ', '\r', '\n'])
                    );
                    assert!(header.value.expose().chars().all(is_harmless));
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes in vec(any::<u8>(), 0..300)) {
        check(&bytes);
    }

    #[test]
    fn any_text_within_a_response_is_read_or_refused(inner in "\\PC{0,200}") {
        check(format!("<Response>{inner}</Response>").as_bytes());
    }

    #[test]
    fn any_tree_of_elements_is_read_or_refused(inner in vec(element(), 0..6)) {
        check(format!("<Response>{}</Response>", inner.concat()).as_bytes());
    }

    #[test]
    fn what_is_cut_off_is_refused(inner in vec(element(), 1..4), at in any::<prop::sample::Index>()) {
        let whole = format!("<Response>{}</Response>", inner.concat());
        let cut = at.index(whole.len());
        let cut = (0..=cut).rev().find(|at| whole.is_char_boundary(*at)).unwrap_or(0);
        prop_assert!(parse(&whole.as_bytes()[..cut], None, WrittenBy::Client).is_err());
    }

    #[test]
    fn whatever_is_said_comes_through(text in "[a-zA-Zé<>&\"' ]{1,80}") {
        let words: Vec<&str> = text.split_whitespace().collect();
        prop_assume!(!words.is_empty());
        let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let document = parse(format!("<Response><Say>{escaped}</Say></Response>").as_bytes(), None, WrittenBy::Client).unwrap();
        let [Verb::Prompt(super::document::Prompt::Say(say))] = &document.verbs[..] else {
            panic!("{document:?}");
        };
        prop_assert_eq!(say.text.expose(), words.join(" "));
    }
}
