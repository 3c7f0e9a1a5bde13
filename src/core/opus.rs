//! Opus at 8 kHz mono through libopus (RFC 6716, RFC 7587).

/// libopus refused something; the code is its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("libopus failed ({0}): the call cannot use Opus")]
pub struct OpusError(pub i32);
