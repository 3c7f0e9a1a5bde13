//! The typed description: only what the bridge understands, already in range.

use std::net::IpAddr;

use crate::core::media_link::Direction;
use crate::core::private::Secret;

/// A session description: identity and media lines, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Description {
    /// Session id of the `o=` line, modulo 2^32.
    pub id: u32,
    /// Version of the `o=` line, modulo 2^32.
    pub version: u32,
    /// Whether the other side is a lite ICE agent (RFC 8445).
    pub ice_lite: bool,
    /// One for each `m=` line.
    pub media: Vec<Media>,
}

/// What an `m=` line asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Media {
    /// Audio that the other side wants to send or get.
    Audio(Box<Audio>),
    /// Anything that is answered with port 0: offered so (port 0), or of a kind
    /// that the bridge does not carry.
    Declined(Declined),
}

/// A media line that gets no media. Its words are echoed in the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Declined {
    /// `audio`, `video`, `image`, …
    pub kind: SdpToken,
    /// `RTP/AVP`, `udptl`, …
    pub transport: SdpToken,
    /// Its first format.
    pub format: SdpToken,
}

/// An audio line with a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio {
    /// Where the other side wants its RTP.
    pub port: u16,
    /// How RTP is carried.
    pub transport: MediaProtocol,
    /// Where it wants it: its own `c=` line, else that of the session.
    pub address: Address,
    /// Formats that the bridge speaks, each once, in the order of the line.
    pub formats: Vec<Format>,
    /// The first format as it was written, for a line that is declined.
    pub first_format: SdpToken,
    /// Who sends, as the other side sees it.
    pub direction: Direction,
    /// Length of a packet that it wants, in milliseconds.
    pub ptime_ms: Option<u16>,
    /// Longest packet that it takes, in milliseconds.
    pub maxptime_ms: Option<u16>,
    /// Where it wants RTCP, when that is not the port above (RFC 3605).
    pub rtcp: Option<Rtcp>,
    /// Whether RTCP may come with RTP (RFC 5761).
    pub rtcp_mux: bool,
    /// SRTP keys that can be used (RFC 4568), by preference.
    pub cryptos: Vec<Crypto>,
    /// Its side of ICE.
    pub ice: Option<Ice>,
}

/// How RTP is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MediaProtocol {
    /// Plain RTP.
    Avp,
    /// Plain RTP with early feedback (RFC 4585).
    Avpf,
    /// SRTP.
    Savp,
    /// SRTP with early feedback.
    Savpf,
    /// A transport that is not spoken: DTLS, TCP, anything.
    Other(SdpToken),
}

impl MediaProtocol {
    /// As it stands in the `m=` line.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Avp => "RTP/AVP",
            Self::Avpf => "RTP/AVPF",
            Self::Savp => "RTP/SAVP",
            Self::Savpf => "RTP/SAVPF",
            Self::Other(token) => token.as_str(),
        }
    }

    /// Whether RTP is encrypted with keys of the description.
    #[must_use]
    pub const fn needs_keys(&self) -> bool {
        matches!(self, Self::Savp | Self::Savpf)
    }
}

/// The address of a `c=` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Address {
    /// A numeric address, unspecified (`0.0.0.0`) for a hold of old.
    Ip(IpAddr),
    /// A host name: not looked up, a name server must not be asked for a caller.
    Name,
    /// There is none, or none that can be read.
    Missing,
}

/// A payload type with its meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Format {
    /// RTP payload type, 0 to 127.
    pub payload_type: u8,
    /// What it stands for.
    pub encoding: Encoding,
}

/// The encodings that the bridge speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// G.711 mu-law at its static payload type 0.
    Pcmu,
    /// G.711 A-law at its static payload type 8.
    Pcma,
    /// Opus (RFC 7587) with the parameters that have a use.
    Opus(OpusParameters),
    /// Digits (RFC 4733) at 8,000 or 48,000 Hz.
    TelephoneEvent {
        /// RTP clock in Hz.
        clock_hz: u32,
        /// Highest event, where a range from 0 was given.
        last_event: Option<u8>,
    },
}

impl Encoding {
    /// Whether this carries speech.
    #[must_use]
    pub const fn is_codec(&self) -> bool {
        !matches!(self, Self::TelephoneEvent { .. })
    }
}

/// Parameters of Opus (RFC 7587 section 6.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct OpusParameters {
    /// Highest rate that is played, in Hz.
    pub maxplaybackrate_hz: Option<u32>,
    /// Highest bit rate that is taken, in bits/s.
    pub maxaveragebitrate_bps: Option<u32>,
    /// Whether stereo is preferred.
    pub stereo: Option<bool>,
    /// Whether in-band error correction is of use.
    pub useinbandfec: Option<bool>,
}

/// Where RTCP goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rtcp {
    /// Its port.
    pub port: u16,
    /// Its address, where another than that of RTP.
    pub ip: Option<IpAddr>,
}

/// An SRTP key of the other side.
#[derive(Clone, PartialEq, Eq)]
pub struct Crypto {
    /// Its number in the description.
    pub tag: u32,
    /// Cipher and authentication.
    pub suite: Suite,
    /// Key and salt, in canonical base64.
    pub key: Key,
}

impl std::fmt::Debug for Crypto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Crypto({} {})", self.tag, self.suite.as_str())
    }
}

/// A secret of a description, compared by what it holds.
#[derive(Clone)]
pub struct Key(Secret);

impl Key {
    /// Wraps it.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(Secret::new(text))
    }

    /// The text itself, for the rendering.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.expose()
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

impl Eq for Key {}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("…")
    }
}

/// The SRTP suites in use (RFC 4568, RFC 6188).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Suite {
    /// `AES_CM_128_HMAC_SHA1_80`
    Aes128Sha80,
    /// `AES_CM_128_HMAC_SHA1_32`
    Aes128Sha32,
    /// `AES_256_CM_HMAC_SHA1_80`
    Aes256Sha80,
    /// `AES_256_CM_HMAC_SHA1_32`
    Aes256Sha32,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 4] = [
        Self::Aes128Sha80,
        Self::Aes128Sha32,
        Self::Aes256Sha80,
        Self::Aes256Sha32,
    ];

    /// Its name in a description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Aes128Sha80 => "AES_CM_128_HMAC_SHA1_80",
            Self::Aes128Sha32 => "AES_CM_128_HMAC_SHA1_32",
            Self::Aes256Sha80 => "AES_256_CM_HMAC_SHA1_80",
            Self::Aes256Sha32 => "AES_256_CM_HMAC_SHA1_32",
        }
    }

    /// Length of key and salt, in bytes.
    #[must_use]
    pub const fn key_bytes(self) -> usize {
        match self {
            Self::Aes128Sha80 | Self::Aes128Sha32 => 30,
            Self::Aes256Sha80 | Self::Aes256Sha32 => 46,
        }
    }
}

/// The other side's part of ICE for one media line (RFC 8839).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ice {
    /// Its user name fragment.
    pub ufrag: SdpToken,
    /// Its password.
    pub password: Key,
    /// Candidates over UDP with a numeric address.
    pub candidates: Vec<Candidate>,
}

/// An address at which it may be reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Equal for candidates of the same origin.
    pub foundation: SdpToken,
    /// 1 for RTP, 2 for RTCP.
    pub component: u8,
    /// Higher is preferred.
    pub priority: u32,
    /// Address.
    pub ip: IpAddr,
    /// Port.
    pub port: u16,
    /// How it was found.
    pub kind: CandidateKind,
    /// The address behind it.
    pub related: Option<(IpAddr, u16)>,
}

/// How a candidate was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateKind {
    /// An interface of its own.
    Host,
    /// Seen by a STUN server.
    ServerReflexive,
    /// Seen by a peer.
    PeerReflexive,
    /// A relay.
    Relay,
}

impl CandidateKind {
    /// Every kind.
    pub const ALL: [Self; 4] = [
        Self::Host,
        Self::ServerReflexive,
        Self::PeerReflexive,
        Self::Relay,
    ];

    /// As it stands in a description.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::ServerReflexive => "srflx",
            Self::PeerReflexive => "prflx",
            Self::Relay => "relay",
        }
    }
}

/// A word of a description that is safe to write again: letters, digits and
/// `+ - . / _ *`, at most [`SdpToken::MAX_BYTES`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SdpToken(String);

impl SdpToken {
    /// Longest word, in bytes. ICE user names of over 32 are not used by any
    /// agent, and have been a way into libraries.
    pub const MAX_BYTES: usize = 32;

    /// The word, where it is one.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let safe = |byte: u8| byte.is_ascii_alphanumeric() || b"+-./_*".contains(&byte);
        let fits = !text.is_empty() && text.len() <= Self::MAX_BYTES;
        (fits && text.bytes().all(safe)).then(|| Self(text.to_owned()))
    }

    /// A number as a word.
    #[must_use]
    pub fn number(number: u8) -> Self {
        Self(number.to_string())
    }

    /// The kind of a line for audio.
    #[must_use]
    pub fn audio() -> Self {
        Self("audio".to_owned())
    }

    /// The transport of plain RTP.
    #[must_use]
    pub fn avp() -> Self {
        Self("RTP/AVP".to_owned())
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
