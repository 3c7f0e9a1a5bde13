//! The HTTP request that opens a WebSocket (RFC 6455, 4.2.1), read from a
//! worker, and the answers to it. Pure: bytes in, decision out.
//!
//! Leaves out: subprotocols and extensions, none of which is ever chosen.

use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use url::form_urlencoded;

use super::attach_table::AttachDenied;
use crate::core::ids::CallId;

/// Longest request head taken.
pub(super) const HEAD_MAX_BYTES: usize = 8 * 1024;
/// Most header fields taken.
pub(super) const HEADERS_MAX: usize = 64;
/// The path before the call id, for workers.
pub(super) const PATH: &str = "/media-stream/";
/// The path before the call id and the token, for Twilio, whose streams have no query.
pub(super) const TWILIO_PATH: &str = "/twilio-stream/";

/// Who opens a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Attacher {
    /// The worker of a call.
    Worker,
    /// Twilio, with the caller.
    Twilio,
}

/// A well-formed request to attach to a call.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct AttachRequest {
    pub(super) by: Attacher,
    pub(super) call: CallId,
    /// Empty when none was given; matches no token.
    pub(super) token: String,
    accept_key: String,
}

/// Why a connection does not become a WebSocket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum UpgradeRefusal {
    Malformed,
    WrongToken,
    NotFound,
    MethodNotAllowed,
    TooSlow,
    AlreadyAttached,
    CallOver,
    UpgradeRequired,
    HeadTooLarge,
}

impl From<AttachDenied> for UpgradeRefusal {
    fn from(denied: AttachDenied) -> Self {
        match denied {
            AttachDenied::Unknown => Self::NotFound,
            AttachDenied::WrongToken => Self::WrongToken,
            AttachDenied::Attached => Self::AlreadyAttached,
            AttachDenied::Over => Self::CallOver,
        }
    }
}

impl UpgradeRefusal {
    /// The HTTP status line's code and reason.
    pub(super) const fn status(self) -> &'static str {
        match self {
            Self::Malformed => "400 Bad Request",
            Self::WrongToken => "401 Unauthorized",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::TooSlow => "408 Request Timeout",
            Self::AlreadyAttached => "409 Conflict",
            Self::CallOver => "410 Gone",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
        }
    }

    const fn explanation(self) -> &'static str {
        match self {
            Self::Malformed => "this is not a well-formed WebSocket request",
            Self::WrongToken => "the token is not the one of this call's present attempt",
            Self::NotFound => "no such call",
            Self::MethodNotAllowed => "a WebSocket is opened by GET",
            Self::TooSlow => "the request took too long",
            Self::AlreadyAttached => "a worker is attached to this call already",
            Self::CallOver => "the call is over",
            Self::UpgradeRequired => "open this address as a WebSocket, version 13",
            Self::HeadTooLarge => "the request head is too large",
        }
    }

    const fn extra_headers(self) -> &'static str {
        match self {
            Self::UpgradeRequired => {
                "Upgrade: websocket\r\nConnection: Upgrade, close\r\nSec-WebSocket-Version: 13\r\n"
            }
            Self::MethodNotAllowed => "Allow: GET\r\nConnection: close\r\n",
            _ => "Connection: close\r\n",
        }
    }

    /// The whole answer.
    pub(super) fn response(self) -> String {
        let body = self.explanation();
        format!(
            "HTTP/1.1 {}\r\n{}Content-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}\n",
            self.status(),
            self.extra_headers(),
            body.len() + 1,
        )
    }
}

impl AttachRequest {
    /// The answer that opens the WebSocket.
    pub(super) fn response(&self) -> String {
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n\r\n",
            self.accept_key
        )
    }
}

/// Where the request head ends, the empty line included; `None` while it is
/// not complete. `from` is what an earlier call has looked at.
pub(super) fn head_end(bytes: &[u8], from: usize) -> Option<usize> {
    let start = from.saturating_sub(3);
    bytes
        .get(start..)?
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .map(|at| start + at + 4)
}

/// Judges a complete request head.
pub(super) fn parse(head: &[u8]) -> Result<AttachRequest, UpgradeRefusal> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(head) {
        Ok(httparse::Status::Complete(_)) => {}
        Err(httparse::Error::TooManyHeaders) => return Err(UpgradeRefusal::HeadTooLarge),
        Ok(httparse::Status::Partial) | Err(_) => return Err(UpgradeRefusal::Malformed),
    }
    let target = request.path.ok_or(UpgradeRefusal::Malformed)?;
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let (by, call, token) = named(path, query).ok_or(UpgradeRefusal::NotFound)?;
    if request.method != Some("GET") {
        return Err(UpgradeRefusal::MethodNotAllowed);
    }
    Ok(AttachRequest {
        by,
        call,
        token,
        accept_key: accept_key(request.headers, request.version)?,
    })
}

/// Who asks for which call, and with which token.
fn named(path: &str, query: &str) -> Option<(Attacher, CallId, String)> {
    if let Some(call) = path.strip_prefix(PATH) {
        return Some((Attacher::Worker, CallId::parse(call)?, token(query)));
    }
    let (call, token) = path.strip_prefix(TWILIO_PATH)?.split_once('/')?;
    Some((Attacher::Twilio, CallId::parse(call)?, token.to_owned()))
}

/// The first `token` of the query.
fn token(query: &str) -> String {
    form_urlencoded::parse(query.as_bytes())
        .find(|(name, _)| name == "token")
        .map_or_else(String::new, |(_, value)| value.into_owned())
}

/// Checks the WebSocket's own header fields and answers its key.
fn accept_key(
    headers: &[httparse::Header<'_>],
    version: Option<u8>,
) -> Result<String, UpgradeRefusal> {
    let upgrade = has_token(headers, "upgrade", "websocket")
        && has_token(headers, "connection", "upgrade")
        && version == Some(1);
    if !upgrade || value(headers, "sec-websocket-version") != Some(b"13") {
        return Err(UpgradeRefusal::UpgradeRequired);
    }
    let key = value(headers, "sec-websocket-key").ok_or(UpgradeRefusal::Malformed)?;
    // 16 bytes in base64.
    if key.len() != 24 || !key.ends_with(b"==") {
        return Err(UpgradeRefusal::Malformed);
    }
    Ok(derive_accept_key(key))
}

/// The value of the first header field of this name.
pub(super) fn value<'head>(headers: &[httparse::Header<'head>], name: &str) -> Option<&'head [u8]> {
    headers
        .iter()
        .find(|header| header.name.eq_ignore_ascii_case(name))
        .map(|header| header.value.trim_ascii())
}

/// Whether a comma-separated header field holds a token, in any case.
pub(super) fn has_token(headers: &[httparse::Header<'_>], name: &str, token: &str) -> bool {
    headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case(name))
        .flat_map(|header| header.value.split(|byte| *byte == b','))
        .any(|item| item.trim_ascii().eq_ignore_ascii_case(token.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALL: &str = "CA0123456789abcdef0123456789abcdef";

    fn request(method: &str, target: &str, headers: &[&str]) -> String {
        format!(
            "{method} {target} HTTP/1.1\r\nHost: bridge\r\n{}\r\n\r\n",
            headers.join("\r\n")
        )
    }

    const GOOD: [&str; 4] = [
        "upgrade: WebSocket",
        "Connection: keep-alive, Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    ];

    #[test]
    fn a_request_is_taken_and_its_key_answered_as_rfc_6455_shows() {
        let target = format!("/media-stream/{CALL}?x=1&token=abc");
        let attach = parse(request("GET", &target, &GOOD).as_bytes()).unwrap();
        assert_eq!(attach.call.as_str(), CALL);
        assert_eq!(attach.token, "abc");
        assert!(
            attach
                .response()
                .contains("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n")
        );
    }

    #[test]
    fn each_mistake_has_its_status() {
        let target = format!("/media-stream/{CALL}");
        let without = |index: usize| {
            let mut headers = GOOD.to_vec();
            headers.remove(index);
            request("GET", &target, &headers)
        };
        let refusal = |text: &str| parse(text.as_bytes()).unwrap_err();
        assert_eq!(refusal(&without(0)), UpgradeRefusal::UpgradeRequired);
        assert_eq!(refusal(&without(1)), UpgradeRefusal::UpgradeRequired);
        assert_eq!(refusal(&without(2)), UpgradeRefusal::UpgradeRequired);
        assert_eq!(refusal(&without(3)), UpgradeRefusal::Malformed);
        assert_eq!(
            refusal(&request("POST", &target, &GOOD)),
            UpgradeRefusal::MethodNotAllowed
        );
        for other in ["/", "/media-stream/", "/media-stream/CA12", "/health"] {
            assert_eq!(
                refusal(&request("GET", other, &GOOD)),
                UpgradeRefusal::NotFound
            );
        }
        assert_eq!(refusal("hello\r\n\r\n"), UpgradeRefusal::Malformed);
        let many = vec!["X: y"; HEADERS_MAX + 1];
        assert_eq!(
            refusal(&request("GET", &target, &many)),
            UpgradeRefusal::HeadTooLarge
        );
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let _ = parse(&bytes);
            let end = head_end(&bytes, 0);
            prop_assert!(end.is_none_or(|end| bytes[..end].ends_with(b"\r\n\r\n")));
        }

        #[test]
        fn any_query_is_read_without_a_panic(query in "[ -~]{0,200}") {
            let text = request("GET", &format!("/media-stream/{CALL}?{}", query.replace(' ', "+")), &GOOD);
            let _ = parse(text.as_bytes());
        }

        #[test]
        fn the_end_is_found_wherever_the_bytes_are_cut(cut in 0usize..40) {
            let text = b"GET / HTTP/1.1\r\nHost: x\r\n\r\nrest";
            let cut = cut.min(text.len());
            let first = head_end(&text[..cut], 0);
            let end = first.or_else(|| head_end(text, cut));
            prop_assert_eq!(end, Some(27));
        }
    }
}
