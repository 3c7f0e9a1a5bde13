//! What of a document is left out, and which documents are refused.

use super::document::{Document, Gather, Prompt, Verb};
use super::error::TwimlError;
use super::parse_tests::{SECOND, read, refusal, say, with_warnings};
use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX, WARNINGS_MAX, parse};
use crate::core::outward::WrittenBy;

#[test]
fn what_is_not_served_is_named_and_left_out() {
    let (verbs, warnings) = with_warnings(
        "\n<Record maxLength='9'/><Say speed='2' loop='many'>Hi</Say>\n<Dial record='record-from-answer'><Conference>a</Conference></Dial>\
         <Gather input='speech dtmf' timeout='auto'><Enqueue/></Gather><Dial><Number>+331</Number><Client>x</Client></Dial>words",
    );
    assert_eq!(verbs.len(), 3);
    assert_eq!(verbs[0], Verb::Prompt(say("Hi")));
    let expected = [
        "<Response> at line 1, column 1 has text outside of verbs",
        "<Record> at line 2, column 1 is not served",
        "the value of loop of <Say> at line 2, column 24 is not served",
        "the attribute speed of <Say>",
        "the value of record of <Dial> at line 3",
        "<Conference> at line 3",
        "the value of input of <Gather>",
        "the value of timeout of <Gather>",
        "<Enqueue>",
        "<Client>",
    ];
    assert_eq!(warnings.len(), expected.len(), "{warnings:#?}");
    for (warning, expected) in warnings.iter().zip(expected) {
        assert!(
            warning.contains(expected),
            "{warning:?} has no {expected:?}"
        );
    }
}

#[test]
fn numbers_beyond_their_range_are_brought_into_it() {
    let (verbs, warnings) = with_warnings(
        "<Pause length='99999999999999999999'/><Gather numDigits='0' finishOnKey='12'/><Pause length='-1'/>",
    );
    assert_eq!(warnings.len(), 4, "{warnings:?}");
    assert_eq!(verbs[0], Verb::Prompt(Prompt::Pause(14_400 * SECOND)));
    let is_served =
        |gather: &Gather| gather.digits_max == Some(1) && gather.finish_on_key == Some('#');
    assert!(matches!(&verbs[1], Verb::Gather(gather) if is_served(gather)));
    assert_eq!(verbs[2], Verb::Prompt(Prompt::Pause(SECOND)));
    let no_key = read("<Response><Gather finishOnKey=''/></Response>");
    assert!(matches!(&no_key.verbs[..], [Verb::Gather(gather)] if gather.finish_on_key.is_none()));
}

#[test]
fn warnings_are_bounded() {
    let (_, warnings) = with_warnings(&"<Nothing/>".repeat(500));
    assert_eq!(warnings.len(), WARNINGS_MAX + 1);
    assert_eq!(warnings[WARNINGS_MAX], "484 more things are not served");
    let long = "x".repeat(900);
    let (_, warnings) = with_warnings(&format!("<{long} {long}='1'/><Say {long}='1'>Hi</Say>"));
    assert!(warnings.iter().all(|it| it.len() < 200), "{warnings:?}");
    assert_eq!(warnings.len(), 2);
}

#[test]
fn what_is_no_twiml_is_refused_with_its_place() {
    for (text, said) in [
        ("", "line 1, column 1: there is no element"),
        ("hello", "line 1, column 1"),
        (" <?xml version=\"1.0\"?><Response/>", "line 1, column 2"),
        ("<Say>Hi</Say>", "the root is <Say>"),
        (
            "<response/>",
            "the root is <response>, it must be <Response>",
        ),
        (
            "<Response>\n<say>Hi</say></Response>",
            "line 2, column 1: <say> must be written <Say>",
        ),
        (
            "<Response><Connect><stream/></Connect></Response>",
            "<stream> must be written <Stream>",
        ),
        (
            "<Response><Dial><NUMBER>1</NUMBER></Dial></Response>",
            "must be written <Number>",
        ),
        (
            "<Response>\n  <Say>Hi</Response>",
            "line 2, column 10: expected 'Say' tag",
        ),
        (
            "<Response><Say>Hi</Say>",
            "line 1, column 24: the root node was opened but never closed",
        ),
        (
            "<Response>&nbsp;</Response>",
            "the entity &nbsp; is not known",
        ),
        ("<Response a='1' a='2'/>", "attribute 'a'"),
        (
            "<?xml version='1.0'?>\n<!DOCTYPE x [<!ENTITY a 'b'>]><Response>&a;</Response>",
            "line 2, column 1: it has a DOCTYPE",
        ),
        ("<Response/><Response/>", "line 1, column 12"),
        ("<!DOCTYPE html><html></html>", "DOCTYPE"),
        ("{\"action\":\"accept\"}", "line 1, column 1"),
    ] {
        let error = refusal(text);
        let told = error.to_string();
        assert!(
            told.contains(said) && error.code() == 12_100,
            "{text}: {told}"
        );
    }
}

#[test]
fn addresses_that_the_call_needs_must_be_usable() {
    for (inner, said) in [
        (
            "<Redirect>ftp://x/</Redirect>",
            "the text of <Redirect> at line 1, column 11",
        ),
        ("<Play>file:///etc/passwd</Play>", "the text of <Play>"),
        ("<Gather action='javascript:x'/>", "the action of <Gather>"),
        ("<Connect><Stream/></Connect>", "the url of <Stream>"),
        (
            "<Connect><Stream url='https://x/'/></Connect>",
            "the url of <Stream>",
        ),
        ("<Dial action='http://'>1</Dial>", "the action of <Dial>"),
    ] {
        let error = refusal(&format!("<Response>{inner}</Response>"));
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(error.code(), 11_100);
    }
    // A relative one in a document that has no address.
    let inline = parse(
        b"<Response><Redirect>/x</Redirect></Response>",
        None,
        WrittenBy::Client,
    );
    assert_eq!(inline.unwrap_err().code(), 11_100);
    // Without its status callback a call goes on.
    let (verbs, warnings) =
        with_warnings("<Connect><Stream url='wss://w' statusCallback='ftp://x'/></Connect>");
    assert_eq!((verbs.len(), warnings.len()), (1, 1));
}

#[test]
fn size_depth_and_number_are_bounded() {
    let inner = DOCUMENT_BYTES_MAX - "<Response></Response>".len();
    let largest = format!("<Response>{}</Response>", " ".repeat(inner));
    assert_eq!(read(&largest), Document::default());
    assert_eq!(refusal(&format!("{largest} ")), TwimlError::TooLong);
    assert_eq!(TwimlError::TooLong.code(), 11_750);
    let not_utf8 = parse(b"<Response>\xe9</Response>", None, WrittenBy::Client);
    assert_eq!(not_utf8, Err(TwimlError::NotUtf8 { at_byte: 10 }));
    let nested = |depth: usize| {
        format!(
            "<Response>{}{}</Response>",
            "<a>".repeat(depth),
            "</a>".repeat(depth)
        )
    };
    assert_eq!(read(&nested(DEPTH_MAX - 1)).verbs, []);
    for depth in [DEPTH_MAX, 2_000] {
        assert!(matches!(
            refusal(&nested(depth)),
            TwimlError::TooDeep { .. }
        ));
    }
    let many = format!("<Response>{}</Response>", "<a/>".repeat(5_000));
    assert!(refusal(&many).to_string().contains("more than 4096"));
    let attributes: String = (0..5_000).map(|number| format!(" a{number}=''")).collect();
    let wide = refusal(&format!("<Response{attributes}/>"));
    assert!(
        wide.to_string().contains("more than 2048 attributes"),
        "{wide}"
    );
    // These alone would hold the parser for seconds.
    let opened: String = (0..2_000)
        .map(|number| format!("<a xmlns:b{number}=''>"))
        .collect();
    let nested = refusal(&format!(
        "<Response>{opened}{}</Response>",
        "</a>".repeat(2_000)
    ));
    assert!(
        nested.to_string().contains("more than 16 namespaces"),
        "{nested}"
    );
    let named = "<Response xmlns='urn:a' xmlns:b='urn:b'><Hangup/></Response>";
    assert_eq!(read(named).verbs, [Verb::Hangup]);
}

#[test]
fn debug_output_shows_no_number_no_text_and_no_secret() {
    let shown = format!(
        "{:?}",
        read(
            "<Response><Say>secretword here</Say><Dial callerId='+33612345678'><Number sendDigits='987654'>+33987654321</Number>\
             <Sip>sip:secretword@h?X-A=secretword</Sip></Dial><Play>https://u:secretword@h/secretword?secretword</Play>\
             <Connect><Stream url='wss://h/secretword'><Parameter name='n' value='secretword'/></Stream></Connect></Response>"
        )
    );
    for secret in ["secretword", "33612345", "339876543", "987654"] {
        assert!(!shown.contains(secret), "{shown}");
    }
}
