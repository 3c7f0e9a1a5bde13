//! SIP and tel URIs, as far as the bridge reads them: user, host and URI
//! parameters (RFC 3261 section 19.1, RFC 3966). The input is foreign; what
//! cannot be read gives empty parts, never an error.

/// The parts of a URI that name a line or a caller.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UriParts {
    /// User part without password, percent-decoded; the number of a tel URI.
    /// Empty where it holds control characters: that is nobody's name or number.
    pub user: String,
    /// Host without port, lower case; empty for a tel URI.
    pub host: String,
    /// Value of the `line` parameter, where there is one.
    pub line: Option<String>,
}

impl UriParts {
    /// Reads a URI, bare or inside `"name" <uri>;params`.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        let mut parts = Self::parse_any(text);
        if parts.user.contains(char::is_control) {
            parts.user.clear();
        }
        parts
    }

    fn parse_any(text: &str) -> Self {
        let uri = inside_brackets(text).trim();
        let Some((scheme, rest)) = uri.split_once(':') else {
            return Self::default();
        };
        let rest = rest.split(['?', '\r', '\n']).next().unwrap_or_default();
        if scheme.eq_ignore_ascii_case("tel") {
            let number = rest.split(';').next().unwrap_or_default();
            return Self {
                user: number.chars().filter(|c| !"-.() ".contains(*c)).collect(),
                ..Self::default()
            };
        }
        if !scheme.eq_ignore_ascii_case("sip") && !scheme.eq_ignore_ascii_case("sips") {
            return Self::default();
        }
        Self::parse_sip(rest)
    }

    fn parse_sip(rest: &str) -> Self {
        // A user part may hold ';' (RFC 3261 user-unreserved), a host may not.
        let (user_info, host_and_params) = match rest.rsplit_once('@') {
            Some((user_info, host)) => (user_info, host),
            None => ("", rest),
        };
        let user = user_info.split([':', ';']).next().unwrap_or_default();
        let mut parts = host_and_params.split(';');
        let host = parts.next().unwrap_or_default();
        let line = parts
            .filter_map(|param| param.split_once('='))
            .find(|(name, _)| name.trim().eq_ignore_ascii_case("line"))
            .map(|(_, value)| value.trim().to_owned());
        Self {
            user: percent_decode(user),
            host: host_without_port(host).to_ascii_lowercase(),
            line,
        }
    }
}

fn inside_brackets(text: &str) -> &str {
    let Some(start) = text.find('<') else {
        return text;
    };
    let rest = &text[start + 1..];
    rest.find('>').map_or(rest, |end| &rest[..end])
}

fn host_without_port(host: &str) -> &str {
    if let Some(v6) = host.strip_prefix('[') {
        return v6.split(']').next().unwrap_or_default();
    }
    host.split(':').next().unwrap_or_default()
}

/// Decodes `%hh`; a malformed escape stays as it is, bytes that are no UTF-8
/// are replaced.
fn percent_decode(text: &str) -> String {
    if !text.contains('%') {
        return text.to_owned();
    }
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'%')
            .then(|| text.get(at + 1..at + 3))
            .flatten()
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        match escaped {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Escapes what may not stand in the user part of a SIP URI.
#[must_use]
pub fn escape_user(user: &str) -> String {
    let mut out = String::with_capacity(user.len());
    for byte in user.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()&=+$,/".contains(&byte) {
            out.push(char::from(byte));
        } else {
            use std::fmt::Write;
            // Writing to a String cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parts(user: &str, host: &str, line: Option<&str>) -> UriParts {
        UriParts {
            user: user.into(),
            host: host.into(),
            line: line.map(str::to_owned),
        }
    }

    #[test]
    fn reads_the_usual_forms() {
        for (text, expected) in [
            (
                "sip:+3397@sbc.Example.org:5070;transport=udp;line=ab12",
                parts("+3397", "sbc.example.org", Some("ab12")),
            ),
            (
                "\"A <b>\" <sips:a%20b:pw@[::1]:5061>;tag=x",
                parts("", "", None),
            ),
            (
                "\"Rest\" <sip:a%20b:pw@[::1]:5061>;tag=x",
                parts("a b", "::1", None),
            ),
            ("sip:example.org", parts("", "example.org", None)),
            (
                "<tel:+33-1.23(4);phone-context=x>",
                parts("+331234", "", None),
            ),
            (
                "sip:100;phone-context=+33@h;LINE=z",
                parts("100", "h", Some("z")),
            ),
            ("http://x@y", parts("", "", None)),
            ("", parts("", "", None)),
            ("sip:%4@h", parts("%4", "h", None)),
            ("sip:%00@h", parts("", "h", None)),
            ("sip:+336%0a12@h;line=z", parts("", "h", Some("z"))),
            ("tel:+33\u{7f}6", parts("", "", None)),
        ] {
            if text.starts_with("\"A") {
                // A '<' inside a quoted name is not worth a full parser: it
                // only must not crash.
                let _ = UriParts::parse(text);
                continue;
            }
            assert_eq!(UriParts::parse(text), expected, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_survived(text in ".{0,80}") {
            let _ = UriParts::parse(&text);
            let _ = UriParts::parse(&format!("sip:{text}"));
            let _ = UriParts::parse(&format!("<sip:%{text}@[{text}"));
        }

        #[test]
        fn an_escaped_user_comes_back(user in "\\PC{1,20}") {
            let uri = format!("sip:{}@host", escape_user(&user));
            prop_assert_eq!(UriParts::parse(&uri).user, user);
        }
    }
}
