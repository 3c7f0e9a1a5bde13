//! SIP messages as text, enough for a test caller: no retransmission (the
//! loopback loses nothing), no authentication, UDP only.

/// A parsed message.
#[derive(Clone, Debug)]
pub struct Message {
    pub start: String,
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Message {
    /// Reads a datagram; `None` for keep-alives and other non-messages.
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        let mut lines = head.split("\r\n");
        let start = lines.next()?.to_owned();
        let headers = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.trim().to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        start.contains("SIP/2.0").then(|| Self {
            start,
            headers,
            body: body.to_owned(),
        })
    }

    /// Status code of a response.
    pub fn status(&self) -> Option<u16> {
        self.start.strip_prefix("SIP/2.0 ")?[..3].parse().ok()
    }

    /// Method of a request.
    pub fn method(&self) -> Option<&str> {
        (!self.start.starts_with("SIP/2.0")).then(|| self.start.split(' ').next())?
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.all(name).next()
    }

    /// Every header of that name, in order.
    pub fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        let name = name.to_ascii_lowercase();
        self.headers
            .iter()
            .filter(move |(key, _)| *key == name)
            .map(|(_, value)| value.as_str())
    }

    /// Number and method of CSeq.
    pub fn cseq(&self) -> (u32, &str) {
        let (number, method) = self.header("CSeq").unwrap().split_once(' ').unwrap();
        (number.parse().unwrap(), method.trim())
    }

    /// The URI within a Contact.
    pub fn contact(&self) -> Option<String> {
        let value = self.header("Contact")?;
        let inner = value.split('<').nth(1)?.split('>').next()?;
        Some(inner.to_owned())
    }

    /// The response to this request with this status, without a body.
    pub fn respond(&self, status: &str) -> String {
        let mut text = format!("SIP/2.0 {status}\r\n");
        for (name, value) in &self.headers {
            if matches!(name.as_str(), "via" | "from" | "to" | "call-id" | "cseq") {
                text += &format!("{name}: {value}\r\n");
            }
        }
        text + "Content-Length: 0\r\n\r\n"
    }
}
