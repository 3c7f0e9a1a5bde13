//! Headers that an INVITE of ours carries beside those of SIP itself: for a callee who knows what they mean.
//!
//! A client, or a document that a bot answered, names them, so they are judged like anything foreign: nothing that could
//! end a line, or stand in for a header that routes a call, proves who calls or says what the body is.

use super::printable::is_harmless;
use super::private::Private;

/// Most headers of one INVITE.
pub const SIP_HEADERS_MAX: usize = 24;
/// Their names and values together, in bytes (Twilio's limit).
pub const SIP_HEADERS_BYTES_MAX: usize = 1_024;
/// Longest name, in bytes.
const NAME_BYTES_MAX: usize = 64;
/// The one header without `X-` (RFC 7433).
const USER_TO_USER: &str = "User-to-User";

/// A header of an INVITE of ours. `Debug` does not show its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SipHeader {
    /// A token that begins with `X-`, or `User-to-User`.
    pub name: String,
    /// One line, without control characters.
    pub value: Private,
}

/// Why headers are not sent. Never holds one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SipHeaderError {
    /// Another name.
    #[error("a SIP header of a call must be User-to-User or a token that begins with X-")]
    Name,
    /// A line end, or another character that no header has.
    #[error("the value of a SIP header holds a line end or another control character")]
    Value,
    /// Too many, or too much in them.
    #[error("a call carries at most 24 SIP headers of 1024 bytes together")]
    TooMuch,
}

impl SipHeader {
    /// Judges a name and a value.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn new(name: &str, value: &str) -> Result<Self, SipHeaderError> {
        let header = Self {
            name: name.to_owned(),
            value: Private::new(value),
        };
        header.check().map(|()| header)
    }

    fn check(&self) -> Result<(), SipHeaderError> {
        if !is_sip_header_name(&self.name) {
            return Err(SipHeaderError::Name);
        }
        if !self.value.expose().chars().all(is_harmless) {
            return Err(SipHeaderError::Value);
        }
        Ok(())
    }

    fn bytes(&self) -> usize {
        self.name.len() + self.value.expose().len()
    }
}

/// Whether an INVITE of ours may have a header of this name: a token (RFC 3261, section 25.1) that begins with `X-`,
/// or `User-to-User`.
#[must_use]
pub fn is_sip_header_name(name: &str) -> bool {
    let is_token = |byte: u8| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte);
    let begins = name
        .get(..2)
        .is_some_and(|head| head.eq_ignore_ascii_case("X-"));
    let is_own = begins && name.len() > 2 && name.bytes().all(is_token);
    (is_own && name.len() <= NAME_BYTES_MAX) || name.eq_ignore_ascii_case(USER_TO_USER)
}

/// Judges all headers of one INVITE: each of them, how many they are, and how long together.
///
/// # Errors
/// What is wrong with them.
pub fn check_sip_headers(headers: &[SipHeader]) -> Result<(), SipHeaderError> {
    headers.iter().try_for_each(SipHeader::check)?;
    let bytes: usize = headers.iter().map(SipHeader::bytes).sum();
    if headers.len() > SIP_HEADERS_MAX || bytes > SIP_HEADERS_BYTES_MAX {
        return Err(SipHeaderError::TooMuch);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_headers_that_mean_nothing_to_sip_are_sent() {
        for name in [
            "X-Order",
            "x-a",
            "X-a.b_c~d",
            "User-to-User",
            "user-TO-user",
        ] {
            assert!(SipHeader::new(name, "42;encoding=hex").is_ok(), "{name}");
        }
        let long = format!("X-{}", "a".repeat(63));
        for name in [
            "",
            "X",
            "X-",
            "X-a b",
            "X-a:",
            "X-a\r\nVia",
            "X-\u{e9}",
            "Via",
            "From",
            "Route",
            "P-Asserted-Identity",
            "Authorization",
            "Content-Length",
            "User-to-User2",
            &long,
        ] {
            assert_eq!(
                SipHeader::new(name, "v"),
                Err(SipHeaderError::Name),
                "{name:?}"
            );
        }
    }

    #[test]
    fn a_value_is_one_line() {
        for value in ["", "a b", "caf\u{e9}", "\"q\" <sip:a@b>;x=1"] {
            assert!(SipHeader::new("X-A", value).is_ok(), "{value:?}");
        }
        for value in [
            "a\r\nVia: b",
            "a\nb",
            "a\rb",
            "\0",
            "\t",
            "\u{85}",
            "\u{2028}",
        ] {
            assert_eq!(
                SipHeader::new("X-A", value),
                Err(SipHeaderError::Value),
                "{value:?}"
            );
        }
    }

    #[test]
    fn together_they_are_bounded() {
        let header = |value: &str| SipHeader::new("X-A", value).unwrap();
        let many = vec![header("v"); SIP_HEADERS_MAX];
        assert_eq!(check_sip_headers(&many), Ok(()));
        let more = vec![header("v"); SIP_HEADERS_MAX + 1];
        assert_eq!(check_sip_headers(&more), Err(SipHeaderError::TooMuch));
        let long = [header(&"v".repeat(SIP_HEADERS_BYTES_MAX - 3))];
        assert_eq!(check_sip_headers(&long), Ok(()));
        let longer = [header(&"v".repeat(SIP_HEADERS_BYTES_MAX - 2))];
        assert_eq!(check_sip_headers(&longer), Err(SipHeaderError::TooMuch));
        let forged = SipHeader {
            name: "X-A".into(),
            value: Private::new("a\r\nVia: b"),
        };
        assert_eq!(check_sip_headers(&[forged]), Err(SipHeaderError::Value));
    }
}
