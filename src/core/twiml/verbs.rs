//! The verbs of a document, one by one; `<Dial>` and those with `<Stream>` have files of their own.

use std::time::Duration;

use roxmltree::Node;

use super::attributes::Attributes;
use super::dial_string::DialString;
use super::document::{Gather, Play, PlaySource, Prompt, RejectReason, Say, Verb};
use super::error::TwimlError;
use super::scope::{Scope, elements, own_text};
use super::voice_url::VoiceUrl;
use super::{GATHER_DIGITS_MAX, SAY_CHARS_MAX, dial, media_stream};
use crate::core::private::Private;
use crate::core::telephone_event::are_digits;

/// The verbs that are served.
const VERBS: &[&str] = &[
    "Say", "Play", "Pause", "Gather", "Connect", "Start", "Stop", "Dial", "Redirect", "Reject",
    "Hangup",
];
/// What may stand within `<Gather>`.
const PROMPTS: &[&str] = &["Say", "Play", "Pause"];
/// Longest `<Pause>`, in seconds: as long as a call at Twilio by default.
const PAUSE_MAX_S: u32 = 14_400;
/// Longest wait for a digit, in seconds.
const GATHER_TIMEOUT_MAX_S: u32 = 600;

/// The verbs right below the root.
pub(super) fn read_all(scope: &mut Scope<'_>, root: Node<'_, '_>) -> Result<Vec<Verb>, TwimlError> {
    Attributes::of(root, "Response").finish(scope);
    if !own_text(root).is_empty() {
        scope.note(root, "has text outside of verbs, which is left out");
    }
    let mut verbs = Vec::new();
    for node in elements(root) {
        read(scope, node, &mut verbs)?;
    }
    Ok(verbs)
}

fn read(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
    verbs: &mut Vec<Verb>,
) -> Result<(), TwimlError> {
    match node.tag_name().name() {
        "Say" | "Play" | "Pause" => verbs.extend(prompt(scope, node)?.map(Verb::Prompt)),
        "Gather" => verbs.push(Verb::Gather(gather(scope, node)?)),
        "Connect" => verbs.extend(media_stream::connect(scope, node)?),
        "Start" => media_stream::start(scope, node, verbs)?,
        "Stop" => media_stream::stop(scope, node, verbs)?,
        "Dial" => verbs.extend(dial::read(scope, node)?),
        "Redirect" => verbs.push(redirect(scope, node)?),
        "Reject" => verbs.push(reject(scope, node)),
        "Hangup" => {
            Attributes::of(node, "Hangup").finish(scope);
            verbs.push(Verb::Hangup);
        }
        _ => scope.leave_out(node, VERBS)?,
    }
    Ok(())
}

/// One of [`PROMPTS`]; `None` where there is nothing to be heard.
fn prompt(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Option<Prompt>, TwimlError> {
    match node.tag_name().name() {
        "Say" => Ok(say(scope, node).map(Prompt::Say)),
        "Play" => Ok(play(scope, node)?.map(Prompt::Play)),
        _ => Ok(Some(Prompt::Pause(pause(scope, node)))),
    }
}

fn say(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Option<Say> {
    let mut attributes = Attributes::of(node, "Say");
    let voice = attributes.name(scope, "voice");
    let language = attributes.name(scope, "language");
    let repeat = attributes.repeat(scope);
    attributes.finish(scope);
    let mut text = spoken_text(node);
    if text.is_empty() {
        scope.note(node, "says nothing, and is left out");
        return None;
    }
    if let Some((end, _)) = text.char_indices().nth(SAY_CHARS_MAX) {
        scope.note(node, "is longer than 4,096 characters, and is cut");
        text.truncate(end);
    }
    Some(Say {
        text: Private::new(text),
        voice,
        language,
        repeat,
    })
}

/// What `<Say>` speaks: its text and that of all SSML in it, with single blanks. A break, a paragraph and a sentence part
/// words; other SSML stands within them.
fn spoken_text(node: Node<'_, '_>) -> String {
    let parts = |node: Node<'_, '_>| matches!(node.tag_name().name(), "break" | "p" | "s");
    let mut text = String::new();
    for inner in node.descendants().skip(1) {
        let is_after_one = inner.prev_sibling().is_some_and(parts);
        if parts(inner) || is_after_one {
            text.push(' ');
        }
        if inner.is_text() {
            text.push_str(inner.text().unwrap_or_default());
        }
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    words.join(" ")
}

fn play(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Option<Play>, TwimlError> {
    let mut attributes = Attributes::of(node, "Play");
    let repeat = attributes.repeat(scope);
    let digits = attributes.text("digits").map(str::trim);
    attributes.finish(scope);
    let address = own_text(node);
    let source = match digits.filter(|digits| !digits.is_empty()) {
        Some(digits) => DialString::parse(digits).map(PlaySource::Digits),
        None if address.is_empty() => None,
        None => {
            let url = VoiceUrl::resolve_http(scope.address, &address);
            let url = url.ok_or_else(|| scope.bad_address(node, "Play", "text"))?;
            let written_by = scope.written_by;
            Some(PlaySource::File { url, written_by })
        }
    };
    if source.is_none() {
        scope.note(
            node,
            "has neither an address nor digits that can be sent, and is left out",
        );
    }
    Ok(source.map(|source| Play { source, repeat }))
}

fn pause(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Duration {
    let mut attributes = Attributes::of(node, "Pause");
    let length = attributes.seconds(scope, "length", 0..=PAUSE_MAX_S, 1);
    attributes.finish(scope);
    length
}

fn gather(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Gather, TwimlError> {
    let mut attributes = Attributes::of(node, "Gather");
    let inputs = [("dtmf", ())];
    // Speech is not served: whatever else is asked for, digits are taken.
    attributes.choice(scope, "input", &inputs);
    let own_address = scope.address.cloned();
    let action = attributes.webhook(scope, "action", own_address)?;
    let gather = Gather {
        action,
        timeout: attributes.seconds(scope, "timeout", 1..=GATHER_TIMEOUT_MAX_S, 5),
        digits_max: attributes.number(scope, "numDigits", 1..=GATHER_DIGITS_MAX),
        finish_on_key: finish_on_key(scope, &mut attributes),
        acts_on_empty: attributes.flag(scope, "actionOnEmptyResult"),
        prompts: Vec::new(),
    };
    attributes.finish(scope);
    let prompts = prompts(scope, node)?;
    Ok(Gather { prompts, ..gather })
}

/// `finishOnKey`: `#` by default, none where it is empty.
fn finish_on_key(scope: &mut Scope<'_>, attributes: &mut Attributes<'_, '_>) -> Option<char> {
    let text = attributes.text("finishOnKey").unwrap_or("#").trim();
    let mut keys = text.chars();
    match (keys.next(), keys.next()) {
        (None, _) => None,
        (Some(key), None) if are_digits(text) => Some(key),
        _ => {
            attributes.warn_of_value(scope, "finishOnKey");
            Some('#')
        }
    }
}

fn prompts(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Vec<Prompt>, TwimlError> {
    let mut prompts = Vec::new();
    for inner in elements(node) {
        if PROMPTS.contains(&inner.tag_name().name()) {
            prompts.extend(prompt(scope, inner)?);
        } else {
            scope.leave_out(inner, PROMPTS)?;
        }
    }
    Ok(prompts)
}

/// An empty one leads to the document's own address, as at Twilio.
fn redirect(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Verb, TwimlError> {
    let mut attributes = Attributes::of(node, "Redirect");
    let method = attributes.method(scope, "method");
    attributes.finish(scope);
    let url = VoiceUrl::resolve_http(scope.address, &own_text(node));
    let url = url.ok_or_else(|| scope.bad_address(node, "Redirect", "text"))?;
    Ok(Verb::Redirect(scope.webhook(url, method)))
}

fn reject(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Verb {
    let mut attributes = Attributes::of(node, "Reject");
    let reasons = [
        ("rejected", RejectReason::Rejected),
        ("busy", RejectReason::Busy),
    ];
    let reason = attributes.choice(scope, "reason", &reasons);
    attributes.finish(scope);
    Verb::Reject(reason.unwrap_or_default())
}
