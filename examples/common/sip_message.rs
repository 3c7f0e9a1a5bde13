//! SIP messages on the wire (RFC 3261 section 7): parsing and building, for
//! the test user agent. Written without pjsip, so that it is a foreign peer.
//!
//! Leaves out: multipart bodies, several header values folded into one line
//! (they are kept as one value), transports other than UDP.

use std::fmt::Write as _;

/// The first line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    /// A request line.
    Request { method: String, uri: String },
    /// A status line.
    Response { status: u16, reason: String },
}

/// One SIP message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// The first line.
    pub start: Start,
    /// Header fields in order, names as received.
    pub headers: Vec<(String, String)>,
    /// The body, as long as Content-Length says.
    pub body: Vec<u8>,
}

/// Long names of the compact forms of RFC 3261 section 7.3.3 and later RFCs.
const COMPACT: [(&str, &str); 11] = [
    ("v", "Via"),
    ("f", "From"),
    ("t", "To"),
    ("i", "Call-ID"),
    ("m", "Contact"),
    ("l", "Content-Length"),
    ("c", "Content-Type"),
    ("s", "Subject"),
    ("k", "Supported"),
    ("x", "Session-Expires"),
    ("r", "Refer-To"),
];

fn same_name(given: &str, wanted: &str) -> bool {
    given.eq_ignore_ascii_case(wanted)
        || COMPACT.iter().any(|(short, long)| {
            given.eq_ignore_ascii_case(short) && wanted.eq_ignore_ascii_case(long)
        })
}

impl Message {
    /// A request without headers.
    pub fn request(method: &str, uri: &str) -> Self {
        Self::new(Start::Request {
            method: method.into(),
            uri: uri.into(),
        })
    }

    /// A response with the headers that RFC 3261 section 8.2.6 copies from
    /// the request.
    pub fn response(request: &Self, status: u16, reason: &str) -> Self {
        let mut response = Self::new(Start::Response {
            status,
            reason: reason.into(),
        });
        for name in ["Via", "From", "To", "Call-ID", "CSeq"] {
            for value in request.all(name) {
                response.push(name, value);
            }
        }
        response
    }

    fn new(start: Start) -> Self {
        Self {
            start,
            headers: Vec::new(),
            body: Vec::new(),
        }
    }

    /// Appends a header field.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.into(), value.into()));
    }

    /// Replaces all fields of that name by one.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        self.headers.retain(|(given, _)| !same_name(given, name));
        self.push(name, value);
    }

    /// Sets the body and its type.
    pub fn set_body(&mut self, content_type: &str, body: impl Into<Vec<u8>>) {
        self.set("Content-Type", content_type);
        self.body = body.into();
    }

    /// The first field of that name; compact forms count.
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut named = self
            .headers
            .iter()
            .filter(|(given, _)| same_name(given, name));
        named.next().map(|(_, value)| value.as_str())
    }

    /// All fields of that name, in order.
    pub fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.headers
            .iter()
            .filter(move |(given, _)| same_name(given, name))
            .map(|(_, value)| value.as_str())
    }

    /// The status of a response; 0 for a request.
    pub fn status(&self) -> u16 {
        match self.start {
            Start::Response { status, .. } => status,
            Start::Request { .. } => 0,
        }
    }

    /// The reason phrase of a response.
    pub fn reason(&self) -> &str {
        match &self.start {
            Start::Response { reason, .. } => reason,
            Start::Request { .. } => "",
        }
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> Option<(u32, &str)> {
        let (number, method) = self.header("CSeq")?.split_once(' ')?;
        Some((number.trim().parse().ok()?, method.trim()))
    }

    /// The branch of the topmost Via.
    pub fn branch(&self) -> Option<&str> {
        parameter(self.header("Via")?, "branch")
    }

    /// The tag of From or To.
    pub fn tag(&self, header: &str) -> Option<&str> {
        parameter(self.header(header)?, "tag")
    }

    /// The body as text, for SDP; `None` when there is none.
    pub fn text_body(&self) -> Option<&str> {
        let text = std::str::from_utf8(&self.body).ok()?;
        (!text.is_empty()).then_some(text)
    }

    /// The message as one datagram.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut text = String::with_capacity(1_024);
        // Writing to a String cannot fail.
        let _ = match &self.start {
            Start::Request { method, uri } => write!(text, "{method} {uri} SIP/2.0\r\n"),
            Start::Response { status, reason } => write!(text, "SIP/2.0 {status} {reason}\r\n"),
        };
        for (name, value) in &self.headers {
            if !same_name(name, "Content-Length") {
                let _ = write!(text, "{name}: {value}\r\n");
            }
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n", self.body.len());
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }

    /// Reads one datagram. Strict: lines end in CRLF, the version is SIP/2.0,
    /// Content-Length is not larger than what came.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub fn parse(datagram: &[u8]) -> Result<Self, String> {
        let end = datagram
            .windows(4)
            .position(|window| window == b"\r\n\r\n")
            .ok_or("no empty line after the headers")?;
        let head = std::str::from_utf8(&datagram[..end]).map_err(|_| "headers are not UTF-8")?;
        let mut lines = head.split("\r\n");
        let start = parse_start(lines.next().unwrap_or_default())?;
        let mut message = Self::new(start);
        for line in lines {
            message.parse_header(line)?;
        }
        let body = &datagram[end + 4..];
        let length = match message.header("Content-Length") {
            Some(value) => value
                .parse()
                .map_err(|_| format!("Content-Length: {value}"))?,
            None => body.len(),
        };
        let body = body
            .get(..length)
            .ok_or("Content-Length is larger than the body")?;
        message.body = body.to_vec();
        Ok(message)
    }

    fn parse_header(&mut self, line: &str) -> Result<(), String> {
        if line.starts_with([' ', '\t']) {
            let (_, value) = self.headers.last_mut().ok_or("folded first header")?;
            value.push(' ');
            value.push_str(line.trim());
            return Ok(());
        }
        let (name, value) = line
            .split_once(':')
            .ok_or_else(|| format!("header without a colon: {line}"))?;
        self.push(name.trim_end(), value.trim());
        Ok(())
    }
}

fn parse_start(line: &str) -> Result<Start, String> {
    let bad = || format!("bad first line: {line}");
    if let Some(rest) = line.strip_prefix("SIP/2.0 ") {
        let (status, reason) = rest.split_once(' ').unwrap_or((rest, ""));
        return Ok(Start::Response {
            status: status.parse().map_err(|_| bad())?,
            reason: reason.into(),
        });
    }
    let mut parts = line.split(' ');
    match (parts.next(), parts.next(), parts.next(), parts.next()) {
        (Some(method), Some(uri), Some("SIP/2.0"), None) => Ok(Start::Request {
            method: method.into(),
            uri: uri.into(),
        }),
        _ => Err(bad()),
    }
}

/// A `;name=value` parameter of a header value, outside angle brackets.
pub fn parameter<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    let outside = value.rfind('>').map_or(value, |end| &value[end + 1..]);
    outside.split(';').skip(1).find_map(|part| {
        let (key, value) = part.split_once('=')?;
        key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The URI inside a name-addr (`"Bob" <sip:bob@host>;tag=x`) or addr-spec.
pub fn uri_of(value: &str) -> &str {
    match (value.find('<'), value.find('>')) {
        (Some(start), Some(end)) if start < end => &value[start + 1..end],
        _ => value.split(';').next().unwrap_or(value).trim(),
    }
}

/// `host:port` of a SIP URI, port 5060 where none is given.
pub fn host_port(uri: &str) -> Option<String> {
    let rest = uri
        .strip_prefix("sip:")
        .or_else(|| uri.strip_prefix("sips:"))?;
    let hostport = rest.split([';', '?']).next()?;
    let hostport = hostport.rsplit('@').next()?;
    let has_port = match hostport.rfind(']') {
        Some(bracket) => hostport[bracket..].contains(':'),
        None => hostport.contains(':'),
    };
    Some(if has_port {
        hostport.into()
    } else {
        format!("{hostport}:5060")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_survives_the_wire() {
        let mut message = Message::request("INVITE", "sip:a@b");
        message.push("v", "SIP/2.0/UDP h;branch=z9hG4bKx;rport");
        message.push("CSeq", "7 INVITE");
        message.push("To", "\"x;tag=no\" <sip:a@b;tag=no>;tag=yes");
        message.set_body("application/sdp", "v=0\r\n");
        let read = Message::parse(&message.to_bytes()).unwrap();
        assert_eq!(read.branch(), Some("z9hG4bKx"));
        assert_eq!(read.tag("To"), Some("yes"));
        assert_eq!(read.cseq(), Some((7, "INVITE")));
        assert_eq!(read.text_body(), Some("v=0\r\n"));
    }

    #[test]
    fn ports_default_and_brackets_hold() {
        assert_eq!(host_port("sip:u@h;lr").unwrap(), "h:5060");
        assert_eq!(host_port("sip:[::1]").unwrap(), "[::1]:5060");
        assert_eq!(host_port("sip:u@1.2.3.4:99").unwrap(), "1.2.3.4:99");
    }
}
