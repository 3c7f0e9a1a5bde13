//! What an INVITE's headers say: who calls, and what may be handed on to the
//! worker. Bounded in count and size; control characters end here.

use std::collections::BTreeMap;

use super::ffi;
use super::received::ReceivedMessage;
use super::uris::Uri;
use crate::sip::header_names::{ASSERTED, can_be_handed_on};
use crate::sip::identity::IdentityHeaders;

/// Most headers looked at.
const HEADERS_SCANNED_MAX: usize = 256;
/// Most headers that are kept for the worker.
const HANDED_ON_MAX: usize = 24;
/// Their values together, in bytes.
const HANDED_ON_BYTES_MAX: usize = 8_192;
/// Most headers of one kind that say who calls.
const IDENTITIES_MAX: usize = 8;

/// The headers of one INVITE.
#[derive(Default)]
pub struct InviteHeaders {
    /// Those that may be handed on, by lower-case name: of several of a name the first.
    handed_on: BTreeMap<String, String>,
    /// Those that say who calls.
    pub identity: IdentityHeaders,
    /// Bytes of the values that are handed on.
    handed_on_bytes: usize,
}

impl InviteHeaders {
    /// Reads those of an INVITE.
    pub fn read(invite: ReceivedMessage<'_>) -> Self {
        let mut headers = Self::default();
        let message = invite.message();
        headers.identity.from = invite.caller_uri().map(Uri::parts).unwrap_or_default();
        let from = message.printed("From").unwrap_or_default();
        headers.identity.display = display_name(&from);
        for header in message.headers().take(HEADERS_SCANNED_MAX) {
            let name = header.name().to_ascii_lowercase();
            if header.kind() != ffi::PJSIP_H_OTHER
                || !(is_identity(&name) || can_be_handed_on(&name))
            {
                continue;
            }
            // SAFETY: type OTHER alone does not tell the struct (Session-Expires has it
            // too), but headers of these names have no parser of their own.
            let value = unsafe { header.generic_value() };
            headers.take(name, &value);
        }
        headers
    }

    fn take(&mut self, name: String, value: &str) {
        let value = without_controls(value);
        let identity = match name.as_str() {
            ASSERTED => &mut self.identity.asserted,
            "p-preferred-identity" => &mut self.identity.preferred,
            "remote-party-id" => &mut self.identity.remote_party,
            "privacy" => &mut self.identity.privacy,
            _ => {
                self.hand_on(name, value);
                return;
            }
        };
        if identity.len() < IDENTITIES_MAX {
            identity.push(value);
        }
    }

    fn hand_on(&mut self, name: String, value: String) {
        let bytes = self.handed_on_bytes + value.len();
        let has_room = self.handed_on.len() < HANDED_ON_MAX && bytes <= HANDED_ON_BYTES_MAX;
        if has_room && !value.is_empty() && !self.handed_on.contains_key(&name) {
            self.handed_on_bytes = bytes;
            self.handed_on.insert(name, value);
        }
    }

    /// Those that may be handed on. What the network asserts is among them where the line's own server sent it: anybody
    /// else could write another's number there.
    pub fn into_handed_on(mut self, from_trunk: bool) -> BTreeMap<String, String> {
        let asserted = self.identity.asserted.first().cloned();
        if let Some(asserted) = asserted.filter(|_| from_trunk) {
            // One more than there may be of others: they cannot keep it out.
            self.handed_on.insert(ASSERTED.into(), asserted);
        }
        self.handed_on
    }
}

fn is_identity(name: &str) -> bool {
    matches!(
        name,
        ASSERTED | "p-preferred-identity" | "remote-party-id" | "privacy"
    )
}

/// A value on one line: what stands for a line break or worse is a blank.
fn without_controls(value: &str) -> String {
    let words = value.split(|c: char| c.is_control());
    let words: Vec<&str> = words.filter(|word| !word.is_empty()).collect();
    words.join(" ").trim().to_owned()
}

/// The display name before an address in angle brackets.
fn display_name(header: &str) -> String {
    let name = header.rsplit_once('<').map_or("", |(name, _)| name);
    name.trim().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_sorted_and_bounded() {
        let mut headers = InviteHeaders::default();
        for number in 0..40 {
            headers.take(format!("x-{number}"), "v");
            headers.take("privacy".into(), "id");
        }
        assert_eq!(headers.handed_on.len(), HANDED_ON_MAX);
        assert_eq!(headers.identity.privacy.len(), IDENTITIES_MAX);
        headers.take("x-0".into(), "second");
        assert_eq!(headers.handed_on["x-0"], "v");
    }

    #[test]
    fn values_are_bounded_together() {
        let mut headers = InviteHeaders::default();
        for number in 0..HANDED_ON_MAX {
            headers.take(format!("x-{number}"), &"v".repeat(1_000));
        }
        assert_eq!(headers.handed_on.len(), HANDED_ON_BYTES_MAX / 1_000);
        headers.take("x-short".into(), "v");
        assert_eq!(headers.handed_on["x-short"], "v");
    }

    #[test]
    fn what_is_asserted_is_handed_on_from_the_lines_own_server_alone() {
        let read = |from_trunk: bool| {
            let mut headers = InviteHeaders::default();
            headers.take(ASSERTED.into(), "<sip:+331@trunk>");
            headers.take(ASSERTED.into(), "<tel:+331>");
            headers.take("x-a".into(), "1");
            headers.into_handed_on(from_trunk)
        };
        assert_eq!(read(true)[ASSERTED], "<sip:+331@trunk>");
        assert!(!read(false).contains_key(ASSERTED));
        assert_eq!(read(false)["x-a"], "1");
    }

    #[test]
    fn a_value_has_no_control_characters() {
        for (value, clean) in [
            (" a b ", "a b"),
            ("a\r\n b", "a  b"),
            ("\u{1b}[31mred\0\u{9b}", "[31mred"),
            ("\u{7f}\t", ""),
        ] {
            assert_eq!(without_controls(value), clean, "{value:?}");
        }
        assert_eq!(display_name("\"Anonymous\" <sip:a@b>;tag=1"), "Anonymous");
        assert_eq!(display_name("sip:a@b"), "");
    }
}
