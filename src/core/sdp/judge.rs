//! What of a description can be served. A line that cannot is declined, as
//! RFC 3264 says; where no audio is left, the offer is refused with a reason.

use std::net::IpAddr;

use super::MEDIA_MAX;
use super::description::{Address, Audio, Declined, Description, Media, MediaProtocol, SdpToken};
use super::parse::ParseProblem;

/// What the bridge can do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Served {
    /// RTP over IPv4.
    pub ipv4: bool,
    /// RTP over IPv6.
    pub ipv6: bool,
    /// Whether ICE is on.
    pub ice: bool,
}

/// Where a description stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// The offer that begins a call: without audio there is no call.
    FirstOffer,
    /// An offer within a call: audio may be taken out for a while.
    LaterOffer,
    /// An answer: declined or not, the call goes by what is left.
    Answer,
}

/// Why a body is not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SdpRefusal {
    /// The description cannot be read.
    #[error("{0}")]
    Unreadable(#[from] ParseProblem),
    /// The parts of a multipart body cannot be told.
    #[error("the parts of the multipart body cannot be read")]
    Multipart,
    /// The message ends before its body does.
    #[error("the body is shorter than its Content-Length")]
    Truncated,
    /// No audio line with a port.
    #[error("the session description offers no audio")]
    NoAudio,
    /// Audio in nothing that is spoken.
    #[error("none of the offered codecs is spoken (PCMU, PCMA and opus are)")]
    Codec,
    /// An address of a family without a socket.
    #[error("the offered address is {0}, over which this bridge carries no audio")]
    Family(&'static str),
    /// A host name, multicast, or nothing where the address should be.
    #[error("the session description names no address to which audio can be sent")]
    NoAddress,
    /// A transport that is not spoken.
    #[error("the offered transport {0} is not spoken (RTP/AVP and RTP/SAVP with SDES keys are)")]
    Transport(String),
    /// SRTP without a key that can be used.
    #[error("encrypted audio is offered without a key that can be used")]
    Keys,
    /// A body of another kind.
    #[error("a body of this kind cannot be read here, only application/sdp")]
    Kind,
    /// A compressed or otherwise encoded body.
    #[error("the body is encoded, which is not understood")]
    Encoded,
    /// A body that is no description of the session and must be understood.
    #[error("the body is not meant for the session (Content-Disposition)")]
    Disposition,
}

/// The label of what the SIP library refused although we did not.
pub const UNFORESEEN: &str = "unforeseen";

/// The labels of [`SdpRefusal::label`] and [`UNFORESEEN`], for counters.
pub const LABELS: [&str; 9] = [
    "malformed",
    "no_audio",
    "codec",
    "address",
    "transport",
    "keys",
    "media_lines",
    "body_type",
    UNFORESEEN,
];

impl SdpRefusal {
    /// A short name, one of [`LABELS`].
    #[must_use]
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Unreadable(ParseProblem::TooManyMedia) => "media_lines",
            Self::Unreadable(_) | Self::Multipart | Self::Truncated => "malformed",
            Self::NoAudio => "no_audio",
            Self::Codec => "codec",
            Self::Family(_) | Self::NoAddress => "address",
            Self::Transport(_) => "transport",
            Self::Keys => "keys",
            Self::Kind | Self::Encoded | Self::Disposition => "body_type",
        }
    }

    /// The SIP status to refuse a request with.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Unreadable(ParseProblem::TooLong) => 413,
            Self::Unreadable(ParseProblem::TooManyMedia) => 488,
            Self::Unreadable(_) | Self::Multipart | Self::Truncated => 400,
            Self::Kind | Self::Encoded | Self::Disposition => 415,
            _ => 488,
        }
    }

    /// The code for a Warning header (RFC 3261 section 20.43).
    #[must_use]
    pub const fn warning(&self) -> u16 {
        match self {
            Self::Family(_) | Self::NoAddress => 301,
            Self::Transport(_) | Self::Keys => 302,
            Self::NoAudio | Self::Unreadable(ParseProblem::TooManyMedia) => 304,
            Self::Codec => 305,
            _ => 399,
        }
    }
}

/// Declines the lines that cannot be served.
///
/// # Errors
/// Why no audio is left of an offer.
pub fn judge(
    mut description: Description,
    place: Place,
    served: Served,
) -> Result<Description, SdpRefusal> {
    if description.media.len() > MEDIA_MAX {
        return Err(ParseProblem::TooManyMedia.into());
    }
    let mut first_fault = None;
    let mut usable = 0;
    for media in &mut description.media {
        let Media::Audio(audio) = media else { continue };
        if !served.ice {
            audio.ice = None;
        }
        match fault(audio, served) {
            None => {
                usable += 1;
                // What came before it is not spoken, and named no more.
                if let Some(format) = audio.formats.first() {
                    audio.first_format = SdpToken::number(format.payload_type);
                }
            }
            Some(fault) => {
                first_fault.get_or_insert(fault);
                *media = Media::Declined(decline(audio));
            }
        }
    }
    match (place, first_fault) {
        (Place::Answer, _) => Ok(description),
        _ if usable > 0 => Ok(description),
        (_, Some(fault)) => Err(fault),
        (Place::LaterOffer, None) if has_audio(&description) => Ok(description),
        (_, None) => Err(SdpRefusal::NoAudio),
    }
}

fn has_audio(description: &Description) -> bool {
    description.media.iter().any(|media| match media {
        Media::Audio(_) => true,
        Media::Declined(declined) => declined.kind.as_str() == "audio",
    })
}

/// Why an audio line cannot be served.
fn fault(audio: &Audio, served: Served) -> Option<SdpRefusal> {
    if let MediaProtocol::Other(token) = &audio.transport {
        return Some(SdpRefusal::Transport(token.as_str().to_owned()));
    }
    if audio.transport.needs_keys() && audio.cryptos.is_empty() {
        return Some(SdpRefusal::Keys);
    }
    let ip = match audio.address {
        Address::Ip(ip) if !is_group(ip) => ip,
        _ => return Some(SdpRefusal::NoAddress),
    };
    match ip {
        IpAddr::V4(_) if !served.ipv4 => return Some(SdpRefusal::Family("IPv4")),
        IpAddr::V6(_) if !served.ipv6 => return Some(SdpRefusal::Family("IPv6")),
        _ => {}
    }
    let speaks = audio
        .formats
        .iter()
        .any(|format| format.encoding.is_codec());
    (!speaks).then_some(SdpRefusal::Codec)
}

/// Multicast and broadcast: audio for one must not go to many.
fn is_group(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => ip.is_multicast() || ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_multicast(),
    }
}

fn decline(audio: &Audio) -> Declined {
    Declined {
        kind: SdpToken::audio(),
        transport: SdpToken::new(audio.transport.as_str()).unwrap_or_else(SdpToken::avp),
        format: audio.first_format.clone(),
    }
}
