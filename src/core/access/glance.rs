//! A first look at a packet, before pjsip's parser: is it SIP, is it an answer
//! to us, and if it is a request, what in it could prove its sender. Strict
//! and bounded: it reads the start line and the headers' beginnings, allocates
//! nothing and follows no nesting.

/// Longest start line that is read; URIs of pjsip are no longer than 1,024.
const START_LINE_MAX_BYTES: usize = 2_048;
/// How far headers are read. A To behind it counts as one without a tag.
const HEADERS_MAX_BYTES: usize = 16_384;
/// Longest method that is one.
const METHOD_MAX_BYTES: usize = 32;
/// What every branch of pjsip begins with (RFC 3261 section 8.1.1.7: z9hG4bK).
const OUR_BRANCH: &[u8] = b"branch=z9hG4bKPj";

/// Request or response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// A request.
    Request,
    /// A response.
    Response,
}

/// What was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Glance<'a> {
    /// Which of the two.
    pub kind: MessageKind,
    /// Method of a request; empty for a response.
    pub method: &'a str,
    /// Value of `line` in the request URI.
    pub token: Option<&'a str>,
    /// To has a tag.
    pub has_to_tag: bool,
    /// The topmost Via could be ours.
    pub has_our_branch: bool,
}

impl<'a> Glance<'a> {
    /// Looks at a packet; `None` where it is no SIP. Line breaks before the
    /// start line are passed over (RFC 3261 section 7.5).
    #[must_use]
    pub fn of(packet: &'a [u8]) -> Option<Self> {
        let start = packet
            .iter()
            .position(|byte| !matches!(byte, b'\r' | b'\n'))?;
        let packet = packet.get(start..)?;
        let (line, headers) = split_line(packet, START_LINE_MAX_BYTES)?;
        let line = std::str::from_utf8(line).ok()?;
        let headers = headers.get(..HEADERS_MAX_BYTES).unwrap_or(headers);
        if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
            let status = rest.get(..3)?;
            if !status.bytes().all(|byte| byte.is_ascii_digit()) {
                return None;
            }
            return Some(Self {
                kind: MessageKind::Response,
                method: "",
                token: None,
                has_to_tag: false,
                has_our_branch: has_our_branch(headers),
            });
        }
        let mut words = line.split(' ');
        let (method, uri, version) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() || version != "SIP/2.0" || !is_method(method) || uri.is_empty() {
            return None;
        }
        Some(Self {
            kind: MessageKind::Request,
            method,
            token: line_parameter(uri),
            has_to_tag: has_to_tag(headers),
            has_our_branch: false,
        })
    }

    /// Whether it could be a request within a dialog. REGISTER never is one.
    #[must_use]
    pub fn may_be_in_dialog(&self) -> bool {
        self.has_to_tag && self.method != "REGISTER"
    }
}

/// Whether a packet, as far as it has come over a stream, can be looked at: its
/// start line and headers are there.
#[must_use]
pub fn is_head_whole(packet: &[u8]) -> bool {
    packet.windows(4).any(|four| four == b"\r\n\r\n") || packet.windows(2).any(|two| two == b"\n\n")
}

/// A line without its end, and what follows.
fn split_line(bytes: &[u8], most: usize) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().take(most).position(|byte| *byte == b'\n')?;
    let (line, rest) = bytes.split_at(end);
    Some((line.strip_suffix(b"\r").unwrap_or(line), &rest[1..]))
}

fn is_method(text: &str) -> bool {
    (1..=METHOD_MAX_BYTES).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"-.!%*_+`'~".contains(&byte))
}

/// The `line` parameter of a URI; a user part may hold `;` too.
fn line_parameter(uri: &str) -> Option<&str> {
    let uri = uri.split('?').next().unwrap_or(uri);
    let uri = uri.rsplit_once('@').map_or(uri, |(_, host)| host);
    uri.split(';').skip(1).find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim()
            .eq_ignore_ascii_case("line")
            .then(|| value.trim())
    })
}

/// Each header as one text, its folded lines with it, up to the empty line.
fn headers_of(headers: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = headers;
    std::iter::from_fn(move || {
        let is_end =
            |at: &usize| rest[*at] == b'\n' && !matches!(rest.get(at + 1), Some(b' ' | b'\t'));
        let end = (0..rest.len()).find(is_end).unwrap_or(rest.len());
        let header = rest[..end].trim_ascii_end();
        rest = rest.get(end + 1..).unwrap_or_default();
        (!header.is_empty()).then_some(header)
    })
}

/// The value of each header of this name, or its short form.
fn values<'a>(
    headers: &'a [u8],
    name: &'static [u8],
    short: u8,
) -> impl Iterator<Item = &'a [u8]> + 'a {
    headers_of(headers).filter_map(move |header| {
        let colon = header.iter().position(|byte| *byte == b':')?;
        let found = header[..colon].trim_ascii();
        let is_it = found.eq_ignore_ascii_case(name) || found.eq_ignore_ascii_case(&[short]);
        is_it.then(|| &header[colon + 1..])
    })
}

fn has_to_tag(headers: &[u8]) -> bool {
    values(headers, b"to", b't').any(|value| {
        let uri_end = value.iter().rposition(|byte| *byte == b'>');
        let parameters = uri_end.map_or(value, |end| &value[end..]);
        parameters.split(|byte| *byte == b';').skip(1).any(|part| {
            let equals = part.iter().position(|byte| *byte == b'=');
            equals.is_some_and(|at| {
                part[..at].trim_ascii().eq_ignore_ascii_case(b"tag")
                    && !part[at + 1..].trim_ascii().is_empty()
            })
        })
    })
}

fn has_our_branch(headers: &[u8]) -> bool {
    values(headers, b"via", b'v').next().is_some_and(|via| {
        let window = OUR_BRANCH.len();
        via.windows(window).any(|part| part == OUR_BRANCH)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn token(uri: &str) -> Option<String> {
        let message = format!("INVITE {uri} SIP/2.0\r\n\r\n");
        let glance = Glance::of(message.as_bytes())?;
        glance.token.map(str::to_owned)
    }

    fn has_tag(headers: &str) -> bool {
        let message = format!("BYE sip:h SIP/2.0\r\n{headers}\r\n\r\n");
        Glance::of(message.as_bytes()).is_some_and(|glance| glance.has_to_tag)
    }

    #[test]
    fn the_token_is_the_line_parameter_of_the_request_uri() {
        assert_eq!(token("sip:a@h;line=ab12").as_deref(), Some("ab12"));
        assert_eq!(token("sip:a@h:5060;x=y;LINE=z;lr").as_deref(), Some("z"));
        assert_eq!(token("sip:h;line=q?x=y").as_deref(), Some("q"));
        assert_eq!(token("sip:a;line=u@h"), None, "of the user part");
        assert_eq!(token("sip:a@h"), None);
        assert_eq!(token("tel:+331;line=q").as_deref(), Some("q"));
    }

    #[test]
    fn a_tag_of_to_is_seen_in_every_spelling() {
        assert!(has_tag("From: <sip:b@h>;tag=1\r\nTo: <sip:a@h>;tag=2"));
        assert!(has_tag("t:sip:a@h;tag=2"));
        assert!(has_tag("TO : \"a;tag=1\" <sip:a@h> ; TAG = 2"));
        assert!(has_tag("To: <sip:a@h>\r\n ;tag=2"), "folded");
        assert!(has_tag("To: <sip:a@h>\n\t;tag=2\nX: y"), "bare line feeds");
        assert!(!has_tag("From: <sip:b@h>;tag=1\r\nTo: <sip:a@h>"));
        assert!(!has_tag("To: <sip:a@h;tag=1>"), "a parameter of the URI");
        assert!(!has_tag("To: <sip:a@h>;tag="));
        assert!(!has_tag("X: To: <sip:a@h>;tag=1"));
        assert!(!has_tag("X: y\r\n\r\nTo: <sip:a@h>;tag=1"), "in the body");
    }

    #[test]
    fn what_is_no_sip_is_not_read() {
        for text in [
            "",
            "\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
            "INVITE sip:a@h SIP/2.0",
            "INVITE  sip:a@h SIP/2.0\r\n",
            "INVITE sip:a@h SIP/3.0\r\n",
            "IN\u{7f}ITE sip:a@h SIP/2.0\r\n",
            "SIP/2.0 abc OK\r\n",
            "SIP/2.0 2\r\n",
        ] {
            assert_eq!(Glance::of(text.as_bytes()), None, "{text:?}");
        }
        assert!(Glance::of(b"\r\n\r\nOPTIONS sip:h SIP/2.0\r\n\r\n").is_some());
        let long = format!("INVITE sip:{}@h SIP/2.0\r\n", "a".repeat(4_000));
        assert_eq!(Glance::of(long.as_bytes()), None);
    }

    #[test]
    fn only_the_topmost_via_says_whose_answer_it_is() {
        let ours = "Via: SIP/2.0/UDP h;branch=z9hG4bKPj1\r\n";
        let other = "v: SIP/2.0/UDP h;branch=z9hG4bK-1\r\n";
        let is_ours = |vias: String| {
            let message = format!("SIP/2.0 200 OK\r\n{vias}\r\n");
            Glance::of(message.as_bytes()).is_some_and(|glance| glance.has_our_branch)
        };
        assert!(is_ours(format!("{ours}{other}")));
        assert!(!is_ours(format!("{other}{ours}")));
        assert!(!is_ours(String::new()));
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            let _ = Glance::of(&bytes);
            let mut message = b"BYE sip:h SIP/2.0\r\n".to_vec();
            message.extend(&bytes);
            prop_assert!(Glance::of(&message).is_some());
            let _ = is_head_whole(&message);
        }

        #[test]
        fn headers_of_any_form_are_survived(text in "((to|t|v|via)? ?[:;=<> \t\r\n\"a-z]{0,20}(\r\n|\n)?){0,20}") {
            let message = format!("SIP/2.0 200 OK\r\n{text}");
            let _ = Glance::of(message.as_bytes());
            let message = format!("BYE sip:h SIP/2.0\r\n{text}");
            let _ = Glance::of(message.as_bytes());
        }
    }
}
