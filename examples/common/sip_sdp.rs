//! The SDP of the test user agent (RFC 4566, RFC 3264): one audio stream.
//! Leaves out SRTP, ICE and more than one media line.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

/// Media direction as an SDP attribute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Direction {
    /// Both ways.
    #[default]
    SendRecv,
    /// We only send: the other side is on hold.
    SendOnly,
    /// We only receive.
    RecvOnly,
    /// Neither.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SendRecv => "sendrecv",
            Self::SendOnly => "sendonly",
            Self::RecvOnly => "recvonly",
            Self::Inactive => "inactive",
        }
    }

    /// What an answer says to an offer of this direction.
    pub const fn mirrored(self) -> Self {
        match self {
            Self::SendOnly => Self::RecvOnly,
            Self::RecvOnly => Self::SendOnly,
            same => same,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        [
            Self::SendRecv,
            Self::SendOnly,
            Self::RecvOnly,
            Self::Inactive,
        ]
        .into_iter()
        .find(|direction| direction.as_str() == name)
    }
}

/// A payload type and its `rtpmap`, e.g. 0, "PCMU/8000".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OfferCodec {
    /// RTP payload type.
    pub payload_type: u8,
    /// Encoding, clock rate and channels, as `rtpmap` writes them.
    pub rtpmap: String,
    /// Format parameters, where there are any.
    pub fmtp: Option<String>,
}

impl OfferCodec {
    fn new(payload_type: u8, rtpmap: &str, fmtp: Option<&str>) -> Self {
        Self {
            payload_type,
            rtpmap: rtpmap.into(),
            fmtp: fmtp.map(Into::into),
        }
    }

    /// G.711 mu-law.
    pub fn pcmu() -> Self {
        Self::new(0, "PCMU/8000", None)
    }

    /// G.711 A-law.
    pub fn pcma() -> Self {
        Self::new(8, "PCMA/8000", None)
    }

    /// G.729, which the bridge does not have.
    pub fn g729() -> Self {
        Self::new(18, "G729/8000", Some("annexb=no"))
    }

    /// Opus on a dynamic payload type.
    pub fn opus(payload_type: u8) -> Self {
        Self::new(payload_type, "opus/48000/2", Some("useinbandfec=1"))
    }
}

/// Our side of the session.
#[derive(Clone, Debug)]
pub struct LocalMedia {
    /// Where we receive RTP.
    pub address: SocketAddr,
    /// Codecs in order of preference.
    pub codecs: Vec<OfferCodec>,
    /// `a=ptime`, where wanted.
    pub ptime_ms: Option<u32>,
    /// Payload type of telephone-event, where wanted.
    pub dtmf: Option<u8>,
    /// Direction.
    pub direction: Direction,
    /// Session id of the origin line; the version counts up from it.
    pub session_id: u32,
    /// Version of the origin line.
    pub version: u32,
}

impl LocalMedia {
    /// The session description.
    pub fn to_sdp(&self) -> String {
        let ip = self.address.ip();
        let family = if ip.is_ipv4() { "IP4" } else { "IP6" };
        let types = self.codecs.iter().map(|codec| codec.payload_type);
        let types: String = types
            .chain(self.dtmf)
            .map(|payload_type| format!(" {payload_type}"))
            .collect();
        let mut sdp = format!(
            "v=0\r\no=- {} {} IN {family} {ip}\r\ns=-\r\nc=IN {family} {ip}\r\nt=0 0\r\nm=audio {} RTP/AVP{types}\r\n",
            self.session_id,
            self.version,
            self.address.port(),
        );
        // Writing to a String cannot fail.
        for codec in &self.codecs {
            let _ = write!(sdp, "a=rtpmap:{} {}\r\n", codec.payload_type, codec.rtpmap);
            if let Some(fmtp) = &codec.fmtp {
                let _ = write!(sdp, "a=fmtp:{} {fmtp}\r\n", codec.payload_type);
            }
        }
        if let Some(dtmf) = self.dtmf {
            let _ = write!(
                sdp,
                "a=rtpmap:{dtmf} telephone-event/8000\r\na=fmtp:{dtmf} 0-15\r\n"
            );
        }
        if let Some(ptime_ms) = self.ptime_ms {
            let _ = write!(sdp, "a=ptime:{ptime_ms}\r\n");
        }
        let _ = write!(sdp, "a={}\r\n", self.direction.as_str());
        sdp
    }
}

/// What the other side's description says about its audio stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteMedia {
    /// Where it wants RTP.
    pub address: SocketAddr,
    /// Its payload types, preferred first.
    pub payload_types: Vec<u8>,
    /// `rtpmap` of each payload type that has one.
    pub rtpmap: Vec<(u8, String)>,
    /// Payload type of telephone-event.
    pub dtmf: Option<u8>,
    /// Its direction, as it sees it.
    pub direction: Direction,
    /// `a=ptime`.
    pub ptime_ms: Option<u32>,
    /// Session id and version of its origin line.
    pub origin: (String, u64),
}

impl RemoteMedia {
    /// Reads a description.
    ///
    /// # Errors
    /// What is missing or wrong, in words.
    pub fn parse(sdp: &str) -> Result<Self, String> {
        let mut session_ip = None;
        let mut media_ip = None;
        let mut audio: Option<(u16, Vec<u8>)> = None;
        let mut origin = None;
        let (mut rtpmap, mut direction, mut ptime_ms) = (Vec::new(), Direction::default(), None);
        for line in sdp.split("\r\n").filter(|line| !line.is_empty()) {
            let (kind, value) = line.split_once('=').ok_or("SDP line without =")?;
            match kind {
                "o" => origin = parse_origin(value),
                "c" if audio.is_none() => session_ip = parse_connection(value),
                "c" => media_ip = parse_connection(value),
                "m" if audio.is_some() => break,
                "m" => audio = Some(parse_audio(value)?),
                "a" => {
                    if let Some(found) = Direction::parse(value) {
                        direction = found;
                    } else if let Some(map) = value.strip_prefix("rtpmap:") {
                        rtpmap.extend(parse_rtpmap(map));
                    } else if let Some(ms) = value.strip_prefix("ptime:") {
                        ptime_ms = ms.trim().parse().ok();
                    }
                }
                _ => {}
            }
        }
        let (port, payload_types) = audio.ok_or("no m=audio line")?;
        let ip = media_ip.or(session_ip).ok_or("no c= line")?;
        let dtmf = rtpmap
            .iter()
            .find(|(_, map): &&(u8, String)| {
                map.to_ascii_lowercase().starts_with("telephone-event/")
            })
            .map(|(payload_type, _)| *payload_type);
        Ok(Self {
            address: SocketAddr::new(ip, port),
            payload_types,
            rtpmap,
            dtmf,
            direction,
            ptime_ms,
            origin: origin.ok_or("no o= line")?,
        })
    }

    /// The first payload type that carries audio: the codec to send with.
    pub fn audio_payload_type(&self) -> Option<u8> {
        let mut types = self.payload_types.iter().copied();
        types.find(|payload_type| Some(*payload_type) != self.dtmf)
    }
}

fn parse_origin(value: &str) -> Option<(String, u64)> {
    let mut parts = value.split(' ').skip(1);
    Some((parts.next()?.into(), parts.next()?.parse().ok()?))
}

fn parse_connection(value: &str) -> Option<IpAddr> {
    value.split(' ').nth(2)?.split('/').next()?.parse().ok()
}

fn parse_rtpmap(map: &str) -> Option<(u8, String)> {
    let (payload_type, encoding) = map.split_once(' ')?;
    Some((payload_type.parse().ok()?, encoding.trim().into()))
}

fn parse_audio(value: &str) -> Result<(u16, Vec<u8>), String> {
    let bad = || format!("bad media line: m={value}");
    let mut parts = value.split(' ');
    if parts.next() != Some("audio") {
        return Err(bad());
    }
    let port = parts.next().and_then(|port| port.parse().ok());
    let protocol = parts.next();
    let types: Option<Vec<u8>> = parts.map(|part| part.parse().ok()).collect();
    match (port, protocol, types) {
        (Some(port), Some("RTP/AVP" | "RTP/AVPF"), Some(types)) if !types.is_empty() => {
            Ok((port, types))
        }
        _ => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_we_offer_can_be_read_back() {
        let local = LocalMedia {
            address: "127.0.0.1:4000".parse().unwrap(),
            codecs: vec![OfferCodec::g729(), OfferCodec::pcmu()],
            ptime_ms: Some(20),
            dtmf: Some(101),
            direction: Direction::SendOnly,
            session_id: 7,
            version: 8,
        };
        let read = RemoteMedia::parse(&local.to_sdp()).unwrap();
        assert_eq!(read.address, local.address);
        assert_eq!(read.payload_types, [18, 0, 101]);
        assert_eq!(read.dtmf, Some(101));
        assert_eq!(read.direction, Direction::SendOnly);
        assert_eq!(read.origin, ("7".into(), 8));
        assert_eq!(read.audio_payload_type(), Some(18));
    }

    #[test]
    fn a_description_without_address_is_refused() {
        assert!(RemoteMedia::parse("v=0\r\no=- 1 1 IN IP4 h\r\nm=audio 1 RTP/AVP 0\r\n").is_err());
    }
}
