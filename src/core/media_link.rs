//! What passes between the SIP engine and the media plane: codecs, the
//! negotiated stream, RTP packets in, and the sink for RTP packets out.

use std::sync::Arc;
use std::time::Instant;

/// An audio codec that the bridge can carry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 mu-law, RFC 3551 payload type 0. Passes untouched.
    Pcmu,
    /// G.711 A-law, RFC 3551 payload type 8. Through a table.
    Pcma,
    /// Opus, RFC 7587. Through libopus at 8 kHz.
    Opus,
}

impl Codec {
    /// The RTP clock rate in Hz.
    #[must_use]
    pub const fn clock_rate_hz(self) -> u32 {
        match self {
            Self::Pcmu | Self::Pcma => 8_000,
            Self::Opus => 48_000,
        }
    }
}

/// Which way audio may flow, as the caller's side sees our answer (RFC 3264).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both ways.
    SendRecv,
    /// We only send: the caller holds us while sending nothing.
    SendOnly,
    /// We only receive.
    RecvOnly,
    /// Neither: on hold.
    Inactive,
}

impl Direction {
    /// Whether we may send RTP.
    #[must_use]
    pub const fn sends(self) -> bool {
        matches!(self, Self::SendRecv | Self::SendOnly)
    }

    /// Whether the caller is expected to send RTP.
    #[must_use]
    pub const fn receives(self) -> bool {
        matches!(self, Self::SendRecv | Self::RecvOnly)
    }

    /// Whether this is a hold: not both ways.
    #[must_use]
    pub const fn is_hold(self) -> bool {
        !matches!(self, Self::SendRecv)
    }
}

/// What an offer/answer exchange settled for the audio stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MediaFormat {
    /// The codec of both directions.
    pub codec: Codec,
    /// Payload type of what we send.
    pub send_payload_type: u8,
    /// Payload type of what the caller sends.
    pub receive_payload_type: u8,
    /// Payload type of RFC 4733 events we send, where negotiated.
    pub send_event_type: Option<u8>,
    /// Payload type of RFC 4733 events we receive, where negotiated.
    pub receive_event_type: Option<u8>,
    /// SSRC to use for what we send.
    pub ssrc: u32,
    /// Which way audio may flow now.
    pub direction: Direction,
}

/// One RTP packet from the caller, decrypted, from an accepted source, not
/// parsed further.
#[derive(Clone, Debug)]
pub struct RtpPacket {
    /// When it was read from the socket.
    pub arrived: Instant,
    /// The packet: 12 bytes of header or more, then payload.
    pub bytes: Box<[u8]>,
}

/// Takes a caller's RTP on the engine's own thread: must not block, panic or
/// call back into the engine.
pub trait RtpTap: Send + Sync {
    /// One packet, decrypted, from an accepted source, not parsed further.
    fn handle_rtp(&self, arrived: Instant, packet: &[u8]);
}

/// Why an RTP packet could not be sent. Neither ends the call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SinkError {
    /// The media transport is closed, or not started yet.
    #[error("media transport is closed")]
    Closed,
    /// The transport refused the packet: the socket buffer is full, or the
    /// route is gone. Holds the engine's status code.
    #[error("media transport refused the packet (status {0})")]
    Refused(i32),
}

/// Sends RTP packets to the caller through the call's media transport (SRTP
/// and ICE included). Called by the pacer thread only, one call at a time.
pub trait RtpSink: Send + Sync {
    /// Sends one complete RTP packet. Never blocks.
    ///
    /// # Errors
    /// When the transport is closed or refuses the packet.
    fn send(&self, packet: &[u8]) -> Result<(), SinkError>;
}

/// A started media stream of one leg.
#[derive(Clone)]
pub struct MediaLink {
    /// What was negotiated.
    pub format: MediaFormat,
    /// Where RTP to the caller goes.
    pub sink: Arc<dyn RtpSink>,
}

impl std::fmt::Debug for MediaLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MediaLink")
            .field("format", &self.format)
            .finish_non_exhaustive()
    }
}
