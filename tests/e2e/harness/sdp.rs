//! Session descriptions as the test caller writes and reads them (RFC 8866).

use std::net::SocketAddr;

/// What a caller offers.
#[derive(Clone, Debug)]
pub struct Offer {
    /// Payload types in order of preference.
    pub formats: Vec<u8>,
    pub direction: &'static str,
    /// `o=` version; rises with each offer.
    pub version: u32,
}

impl Offer {
    /// PCMU, PCMA and RFC 4733 events as 101.
    pub fn usual() -> Self {
        Self::of(&[0, 8, 101])
    }

    pub fn of(formats: &[u8]) -> Self {
        Self {
            formats: formats.to_vec(),
            direction: "sendrecv",
            version: 1,
        }
    }

    pub fn write(&self, media: SocketAddr) -> String {
        let formats: Vec<String> = self.formats.iter().map(u8::to_string).collect();
        let mut text = format!(
            "v=0\r\no=caller 7 {} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio {} RTP/AVP {}\r\n",
            self.version,
            media.port(),
            formats.join(" "),
            ip = media.ip(),
        );
        for format in &self.formats {
            let name = match format {
                0 => "PCMU/8000",
                8 => "PCMA/8000",
                9 => "G722/8000",
                18 => "G729/8000",
                101 => "telephone-event/8000",
                _ => continue,
            };
            text += &format!("a=rtpmap:{format} {name}\r\n");
        }
        text + &format!("a=ptime:20\r\na={}\r\n", self.direction)
    }
}

/// What the bridge answered.
#[derive(Clone, Debug)]
pub struct Answer {
    pub media: SocketAddr,
    pub formats: Vec<u8>,
    pub direction: String,
}

impl Answer {
    pub fn read(text: &str) -> Self {
        let field = |prefix: &str| {
            text.lines()
                .find_map(|line| line.strip_prefix(prefix))
                .unwrap_or_else(|| panic!("no {prefix} in the SDP:\n{text}"))
                .trim()
        };
        let ip = field("c=IN IP4 ").parse().unwrap();
        let mut media = field("m=audio ").split(' ');
        let port = media.next().unwrap().parse().unwrap();
        let formats = media.skip(1).map(|pt| pt.parse().unwrap()).collect();
        let direction = ["sendonly", "recvonly", "inactive"]
            .into_iter()
            .find(|name| text.lines().any(|line| line.trim() == format!("a={name}")))
            .unwrap_or("sendrecv");
        Self {
            media: SocketAddr::new(ip, port),
            formats,
            direction: direction.to_owned(),
        }
    }
}
