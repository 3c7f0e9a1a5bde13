//! A media line while its attributes are being read.

use super::attributes;
use super::description::{
    Address, Audio, Crypto, Declined, Encoding, Format, Ice, Media, MediaProtocol, Rtcp, SdpToken,
};
use super::parse::Session;
use super::{CANDIDATES_MAX, CRYPTOS_MAX};
use crate::core::media_link::Direction;

/// Payload types of RTP.
const PAYLOAD_TYPES: usize = 128;

/// A media line whose attributes are being read. Where an attribute comes twice, the first one counts.
pub struct Draft<'a> {
    kind: SdpToken,
    port: u16,
    transport: MediaProtocol,
    formats: &'a str,
    address: Option<Address>,
    direction: Option<Direction>,
    rtpmaps: [Option<&'a str>; PAYLOAD_TYPES],
    fmtps: [Option<&'a str>; PAYLOAD_TYPES],
    ptime_ms: Option<u16>,
    maxptime_ms: Option<u16>,
    rtcp: Option<Rtcp>,
    rtcp_mux: bool,
    cryptos: Vec<Crypto>,
    ice_ufrag: Option<&'a str>,
    ice_password: Option<&'a str>,
    candidates: Vec<super::description::Candidate>,
}

impl<'a> Draft<'a> {
    /// The value of an `m=` line: `audio 40000/2 RTP/AVP 0 8 101`.
    pub fn new(value: &'a str) -> Option<Self> {
        let (kind, rest) = word(value);
        let (port, rest) = word(rest);
        let (transport, formats) = word(rest);
        let port = port.split('/').next()?;
        let draft = Self {
            kind: plain(kind)?,
            port: attributes::number(port)?,
            transport: transport_of(transport)?,
            formats,
            address: None,
            direction: None,
            rtpmaps: [None; PAYLOAD_TYPES],
            fmtps: [None; PAYLOAD_TYPES],
            ptime_ms: None,
            maxptime_ms: None,
            rtcp: None,
            rtcp_mux: false,
            cryptos: Vec::new(),
            ice_ufrag: None,
            ice_password: None,
            candidates: Vec::new(),
        };
        // A line without any format means something only when it is declined.
        (draft.port == 0 || !formats.is_empty()).then_some(draft)
    }

    /// A `c=` line. With several (layers of multicast) the first one counts.
    pub fn connection(&mut self, value: &str) {
        self.address
            .get_or_insert_with(|| attributes::connection(value));
    }

    /// An `a=` line.
    pub fn attribute(&mut self, attribute: &'a str) {
        let (name, value) = attributes::split(attribute);
        match name {
            "rtpmap" => first_of(&mut self.rtpmaps, value),
            "fmtp" => first_of(&mut self.fmtps, value),
            "ptime" => self.ptime_ms = self.ptime_ms.or_else(|| attributes::packet_ms(value)),
            "maxptime" => {
                self.maxptime_ms = self.maxptime_ms.or_else(|| attributes::packet_ms(value));
            }
            "rtcp" => self.rtcp = self.rtcp.or_else(|| attributes::rtcp(value)),
            "rtcp-mux" => self.rtcp_mux = true,
            "crypto" => self.crypto(value),
            "ice-ufrag" => self.ice_ufrag = self.ice_ufrag.or(Some(value)),
            "ice-pwd" => self.ice_password = self.ice_password.or(Some(value)),
            "candidate" if self.candidates.len() < CANDIDATES_MAX => {
                self.candidates.extend(attributes::candidate(value));
            }
            _ => self.direction = self.direction.or(attributes::direction(name)),
        }
    }

    fn crypto(&mut self, value: &str) {
        if self.cryptos.len() >= CRYPTOS_MAX {
            return;
        }
        let known = attributes::crypto(value);
        let fresh = known.filter(|new| self.cryptos.iter().all(|old| old.tag != new.tag));
        self.cryptos.extend(fresh);
    }

    /// The line with what the session says for all of them.
    pub fn finish(self, session: &Session<'_>) -> Media {
        let first_format = self.first_format();
        if self.port == 0 || self.kind.as_str() != "audio" {
            return Media::Declined(Declined {
                kind: self.kind,
                transport: SdpToken::new(self.transport.as_str()).unwrap_or_else(SdpToken::avp),
                format: first_format,
            });
        }
        let formats = self.formats();
        let ice = self.ice(session);
        Media::Audio(Box::new(Audio {
            port: self.port,
            transport: self.transport,
            address: self.address.or(session.address).unwrap_or(Address::Missing),
            formats,
            first_format,
            direction: self
                .direction
                .or(session.direction)
                .unwrap_or(Direction::SendRecv),
            ptime_ms: self.ptime_ms,
            maxptime_ms: self.maxptime_ms,
            rtcp: self.rtcp,
            rtcp_mux: self.rtcp_mux,
            cryptos: self.cryptos,
            ice,
        }))
    }

    /// The first format in a form that is safe to write: a word that begins
    /// with a digit is a payload type.
    fn first_format(&self) -> SdpToken {
        let first = word(self.formats).0;
        match attributes::payload_type(first) {
            Some(number) => SdpToken::number(number),
            None => plain(first)
                .filter(|token| !token.as_str().starts_with(|c: char| c.is_ascii_digit()))
                .unwrap_or_else(|| SdpToken::number(0)),
        }
    }

    /// What the bridge speaks, each encoding once: at most five.
    fn formats(&self) -> Vec<Format> {
        let mut formats: Vec<Format> = Vec::new();
        let words = self.formats.split_ascii_whitespace();
        for payload_type in words.filter_map(attributes::payload_type) {
            let at = usize::from(payload_type);
            let (rtpmap, fmtp) = (self.rtpmaps[at], self.fmtps[at]);
            let Some(encoding) = attributes::encoding(payload_type, rtpmap, fmtp) else {
                continue;
            };
            let is_new = formats.iter().all(|known| {
                known.payload_type != payload_type && !same(&known.encoding, &encoding)
            });
            if is_new {
                formats.push(Format {
                    payload_type,
                    encoding,
                });
            }
        }
        formats
    }

    fn ice(&self, session: &Session<'_>) -> Option<Ice> {
        let ufrag = self.ice_ufrag.or(session.ice_ufrag)?;
        let password = self.ice_password.or(session.ice_password)?;
        Some(Ice {
            ufrag: SdpToken::new(ufrag).filter(|ufrag| ufrag.as_str().len() >= 4)?,
            password: attributes::ice_password(password)?,
            candidates: self.candidates.clone(),
        })
    }
}

fn same(one: &Encoding, other: &Encoding) -> bool {
    let clock_hz = |encoding: &Encoding| match encoding {
        Encoding::TelephoneEvent { clock_hz, .. } => *clock_hz,
        _ => 0,
    };
    std::mem::discriminant(one) == std::mem::discriminant(other) && clock_hz(one) == clock_hz(other)
}

fn first_of<'a>(values: &mut [Option<&'a str>; PAYLOAD_TYPES], value: &'a str) {
    if let Some((payload_type, rest)) = attributes::of_payload_type(value) {
        values[usize::from(payload_type)].get_or_insert(rest);
    }
}

/// The first word and what follows it.
fn word(text: &str) -> (&str, &str) {
    let text = text.trim_start();
    let (first, rest) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    (first, rest.trim_start())
}

fn transport_of(word: &str) -> Option<MediaProtocol> {
    let known = [
        MediaProtocol::Avp,
        MediaProtocol::Avpf,
        MediaProtocol::Savp,
        MediaProtocol::Savpf,
    ];
    let known = known
        .into_iter()
        .find(|known| known.as_str().eq_ignore_ascii_case(word));
    known.or_else(|| SdpToken::new(word).map(MediaProtocol::Other))
}

/// A word without a slash: the SIP library reads it up to there.
fn plain(word: &str) -> Option<SdpToken> {
    SdpToken::new(word).filter(|token| !token.as_str().contains('/'))
}
