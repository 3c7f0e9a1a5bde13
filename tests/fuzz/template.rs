//! Messages with placeholders in SIPp's notation, so that its scenarios are
//! seeds as they are and a kept input fits whatever ports and tags come later.

use std::net::SocketAddr;

/// What the placeholders stand for in one message.
#[derive(Clone, Debug)]
pub struct Values {
    pub service: String,
    pub transport: &'static str,
    pub local: SocketAddr,
    pub remote: SocketAddr,
    pub media: SocketAddr,
    /// Dialog that the message belongs to, or would begin.
    pub call_number: u64,
    /// Different for each message.
    pub message_number: u64,
    pub cseq: u32,
    /// `;tag=…` of the other side, or nothing.
    pub peer_tag: String,
    /// Request URI within the dialog.
    pub next_url: String,
}

impl Values {
    fn of(&self, name: &[u8]) -> Option<String> {
        let number = self.call_number;
        Some(match name {
            b"service" => self.service.clone(),
            b"transport" => self.transport.to_owned(),
            b"local_ip" => self.local.ip().to_string(),
            b"local_port" => self.local.port().to_string(),
            b"remote_ip" => self.remote.ip().to_string(),
            b"remote_port" => self.remote.port().to_string(),
            b"media_ip" => self.media.ip().to_string(),
            b"media_port" => self.media.port().to_string(),
            b"local_ip_type" | b"media_ip_type" => "4".to_owned(),
            b"call_id" => format!("{number}@fuzz"),
            b"call_number" => number.to_string(),
            b"pid" => "f".to_owned(),
            b"cseq" => self.cseq.to_string(),
            b"branch" => format!("z9hG4bKf{number}m{}", self.message_number),
            b"peer_tag_param" => self.peer_tag.clone(),
            b"next_url" => self.next_url.clone(),
            b"routes" => String::new(),
            _ => return None,
        })
    }
}

/// Writes the message out. What mutation made of a placeholder stays as it is.
pub fn fill(template: &[u8], values: &Values) -> Vec<u8> {
    let filled = replace(template, |name| values.of(name));
    let body = filled.windows(4).position(|it| it == b"\r\n\r\n");
    let length = body.map_or(0, |at| filled.len() - at - 4);
    replace(&filled, |name| (name == b"len").then(|| length.to_string()))
}

fn replace(text: &[u8], value: impl Fn(&[u8]) -> Option<String>) -> Vec<u8> {
    const LONGEST_NAME: usize = 16;
    let mut out = Vec::with_capacity(text.len() + 200);
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let end = after.iter().take(LONGEST_NAME).position(|it| *it == b']');
        if let (b'[', Some(end)) = (byte, end) {
            if let Some(value) = value(&after[..end]) {
                out.extend(value.bytes());
                rest = &after[end + 1..];
                continue;
            }
        }
        out.push(byte);
        rest = after;
    }
    out
}
