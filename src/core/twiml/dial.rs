//! `<Dial>` and who is called by it: its text, `<Number>`, `<Sip>`.

use roxmltree::Node;
use url::form_urlencoded;

use super::DIAL_TARGETS_MAX;
use super::attributes::Attributes;
use super::dial_string::DialString;
use super::document::{Callee, Dial, DialTarget, Verb};
use super::error::TwimlError;
use super::scope::{Scope, elements, own_text};
use crate::core::printable::is_harmless;
use crate::core::private::Private;
use crate::core::sip_header::{SIP_HEADERS_BYTES_MAX, SIP_HEADERS_MAX, SipHeader};

/// Whom `<Dial>` may call.
const NOUNS: &[&str] = &["Number", "Sip"];
/// Longest number or SIP URI, in bytes.
const DESTINATION_BYTES_MAX: usize = 256;
/// Longest time that a callee may ring, in seconds (Twilio's limit).
const TIMEOUT_MAX_S: u32 = 600;
/// Longest time that the two may talk, in seconds (Twilio's limit).
const TIME_LIMIT_MAX_S: u32 = 86_400;

/// `<Dial>`: `None` where it calls only what is not served.
pub(super) fn read(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Option<Verb>, TwimlError> {
    let mut attributes = Attributes::of(node, "Dial");
    let dial = Dial {
        action: attributes.webhook(scope, "action", None)?,
        timeout: attributes.seconds(scope, "timeout", 1..=TIMEOUT_MAX_S, 30),
        time_limit: attributes.seconds(scope, "timeLimit", 1..=TIME_LIMIT_MAX_S, 14_400),
        caller_id: attributes.name(scope, "callerId").map(Private::new),
        hangup_on_star: attributes.flag(scope, "hangupOnStar"),
        answer_on_bridge: attributes.flag(scope, "answerOnBridge"),
        targets: Vec::new(),
    };
    // Recording is not served: any other word is warned of.
    let not_recorded = [("do-not-record", ()), ("false", ())];
    attributes.choice(scope, "record", &not_recorded);
    attributes.finish(scope);
    let targets = targets(scope, node)?;
    Ok(targets.map(|targets| Verb::Dial(Dial { targets, ..dial })))
}

/// Who is called: the nouns, else the text. `None` where all nouns are not served; none of several where they cannot
/// be read, which fails as a call to a wrong number does.
fn targets(
    scope: &mut Scope<'_>,
    node: Node<'_, '_>,
) -> Result<Option<Vec<DialTarget>>, TwimlError> {
    let (mut targets, mut has_noun, mut is_left_out) = (Vec::new(), false, false);
    for noun in elements(node) {
        let target = match noun.tag_name().name() {
            "Number" => number(scope, noun)?,
            "Sip" => sip(scope, noun)?,
            _ => {
                scope.leave_out(noun, NOUNS)?;
                is_left_out = true;
                continue;
            }
        };
        has_noun = true;
        targets.extend(target);
    }
    let text = own_text(node);
    if !has_noun && !is_left_out {
        let callee = phone_number(scope, node, &text);
        targets.extend(callee.map(plain));
    } else if !text.is_empty() {
        scope.note(node, "has a text beside its nouns, which is left out");
    }
    if targets.len() > DIAL_TARGETS_MAX {
        scope.note(node, "calls more than ten; the first ten are called");
        targets.truncate(DIAL_TARGETS_MAX);
    }
    Ok((has_noun || !is_left_out).then_some(targets))
}

const fn plain(callee: Callee) -> DialTarget {
    DialTarget {
        callee,
        document: None,
        send_digits: None,
        status_callback: None,
    }
}

fn number(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Option<DialTarget>, TwimlError> {
    let mut attributes = Attributes::of(node, "Number");
    let document = attributes.webhook(scope, "url", None)?;
    let send_digits = attributes.text("sendDigits").map(str::trim);
    let send_digits = send_digits.filter(|text| !text.is_empty());
    let digits = send_digits.and_then(DialString::parse);
    if send_digits.is_some() && digits.is_none() {
        attributes.warn_of_value(scope, "sendDigits");
    }
    let events = attributes.status_events(scope);
    let status_callback = attributes.status_callback(scope, events);
    attributes.finish(scope);
    let callee = phone_number(scope, node, &own_text(node));
    Ok(callee.map(|callee| DialTarget {
        callee,
        document,
        send_digits: digits,
        status_callback,
    }))
}

/// A number as it is written: what it means, and whether it may be called, the dial rules say.
fn phone_number(scope: &mut Scope<'_>, node: Node<'_, '_>, text: &str) -> Option<Callee> {
    let is_usable =
        (1..=DESTINATION_BYTES_MAX).contains(&text.len()) && text.chars().all(is_harmless);
    if !is_usable {
        scope.note(node, "has no number that can be called");
    }
    is_usable.then(|| Callee::PhoneNumber(Private::new(text)))
}

fn sip(scope: &mut Scope<'_>, node: Node<'_, '_>) -> Result<Option<DialTarget>, TwimlError> {
    let mut attributes = Attributes::of(node, "Sip");
    let document = attributes.webhook(scope, "url", None)?;
    let events = attributes.status_events(scope);
    let status_callback = attributes.status_callback(scope, events);
    attributes.finish(scope);
    let text = own_text(node);
    let (uri, query) = text.split_once('?').unwrap_or((&text, ""));
    if !is_sip_uri(uri) {
        scope.note(node, "has no SIP URI that can be called");
        return Ok(None);
    }
    let headers = sip_headers(scope, node, query);
    let uri = Private::new(uri);
    Ok(Some(DialTarget {
        callee: Callee::Sip { uri, headers },
        document,
        send_digits: None,
        status_callback,
    }))
}

/// Whether a text is a sip or sips URI that can stand in a request without quoting.
fn is_sip_uri(text: &str) -> bool {
    let rest = ["sip:", "sips:"].into_iter().find_map(|scheme| {
        let head = text.get(..scheme.len())?;
        head.eq_ignore_ascii_case(scheme)
            .then(|| &text[scheme.len()..])
    });
    let is_plain = |byte: u8| byte.is_ascii_graphic() && !b"<>\"\\".contains(&byte);
    rest.is_some_and(|rest| !rest.is_empty())
        && text.len() <= DESTINATION_BYTES_MAX
        && text.bytes().all(is_plain)
}

/// The headers behind a SIP URI (RFC 3261, section 19.1.1). Only those that begin with `X-` and `User-to-User` are
/// sent, and no line end gets through.
fn sip_headers(scope: &mut Scope<'_>, node: Node<'_, '_>, query: &str) -> Vec<SipHeader> {
    if query.len() > SIP_HEADERS_BYTES_MAX {
        scope.note(
            node,
            "has headers of more than 1,024 bytes, which are left out",
        );
        return Vec::new();
    }
    // A plus is itself in a SIP URI, and a blank in a form.
    let query = query.replace('+', "%2B");
    let mut headers = Vec::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        match SipHeader::new(&name, &value) {
            Ok(header) if headers.len() < SIP_HEADERS_MAX => headers.push(header),
            Ok(_) => scope.note(node, "has more than 24 headers; the first 24 are sent"),
            Err(_) => scope.note(
                node,
                "has a header that does not begin with X- or holds control characters",
            ),
        }
    }
    headers
}
