//! Opus at 8 kHz mono through libopus (RFC 6716); its RTP clock is 48 kHz
//! (RFC 7587). Leaves out FEC and stereo.

use std::fmt;

use audiopus::coder::{Decoder, Encoder};
use audiopus::{Application, Channels, SampleRate};

/// Longest payload this encoder makes, and RFC 6716 allows for one frame.
pub const MAX_PAYLOAD_BYTES: usize = 1_275;
/// Samples at 8 kHz in the longest packet: 120 ms.
pub const MAX_DECODED_SAMPLES: usize = 960;
/// RTP clock ticks per sample at 8 kHz.
pub const CLOCK_PER_SAMPLE: u32 = 6;

/// libopus refused something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpusError {
    /// The coder could not be made: out of memory, or not the libopus we know.
    #[error("libopus made no coder ({0}): check the installed libopus")]
    Setup(audiopus::Error),
    /// The caller sent a payload that is not Opus.
    #[error("Opus payload does not decode ({0})")]
    Decode(audiopus::Error),
    /// A frame was not encoded.
    #[error("Opus frame was not encoded ({0})")]
    Encode(audiopus::Error),
}

/// Opus to linear.
pub struct OpusDecoder(Decoder);

impl OpusDecoder {
    /// A decoder that gives 8 kHz mono, whatever the sender encoded.
    ///
    /// # Errors
    /// When libopus makes none.
    pub fn new() -> Result<Self, OpusError> {
        Decoder::new(SampleRate::Hz8000, Channels::Mono)
            .map(Self)
            .map_err(OpusError::Setup)
    }

    /// Decodes one payload; the samples are the first so many of `out`.
    ///
    /// # Errors
    /// When the payload is not Opus.
    pub fn decode(
        &mut self,
        payload: &[u8],
        out: &mut [i16; MAX_DECODED_SAMPLES],
    ) -> Result<usize, OpusError> {
        self.0
            .decode(Some(payload), &mut out[..], false)
            .map_err(OpusError::Decode)
    }
}

impl fmt::Debug for OpusDecoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpusDecoder")
    }
}

/// Linear to Opus.
pub struct OpusEncoder(Encoder);

impl OpusEncoder {
    /// An encoder for speech at 8 kHz mono.
    ///
    /// # Errors
    /// When libopus makes none.
    pub fn new() -> Result<Self, OpusError> {
        let mut encoder = Encoder::new(SampleRate::Hz8000, Channels::Mono, Application::Voip)
            .map_err(OpusError::Setup)?;
        // Narrow-band speech gains nothing audible above 5, and the cost doubles.
        encoder.set_complexity(5).map_err(OpusError::Setup)?;
        Ok(Self(encoder))
    }

    /// Encodes 20 ms; the payload is the first so many bytes of `out`.
    ///
    /// # Errors
    /// When libopus refuses.
    pub fn encode(&mut self, frame: &[i16; 160], out: &mut [u8]) -> Result<usize, OpusError> {
        let room = out.len().min(MAX_PAYLOAD_BYTES);
        self.0
            .encode(frame, &mut out[..room])
            .map_err(OpusError::Encode)
    }
}

impl fmt::Debug for OpusEncoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpusEncoder")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tone_survives_encoding_and_decoding() {
        let mut encoder = OpusEncoder::new().unwrap();
        let mut decoder = OpusDecoder::new().unwrap();
        let (mut payload, mut decoded) = ([0; MAX_PAYLOAD_BYTES], [0; MAX_DECODED_SAMPLES]);
        let mut energy = 0.0;
        for index in 0..50 {
            let frame = std::array::from_fn(|n| {
                let phase = (index * 160 + n) as f32 * std::f32::consts::TAU * 440.0 / 8_000.0;
                (phase.sin() * 8_000.0) as i16
            });
            let length = encoder.encode(&frame, &mut payload).unwrap();
            assert_eq!(decoder.decode(&payload[..length], &mut decoded), Ok(160));
            energy = decoded[..160].iter().map(|s| f32::from(*s).powi(2)).sum();
        }
        let rms = (energy / 160.0_f32).sqrt();
        assert!((4_000.0..8_000.0).contains(&rms), "{rms}");
    }

    #[test]
    fn garbage_is_an_error() {
        let mut decoder = OpusDecoder::new().unwrap();
        assert!(decoder.decode(&[], &mut [0; MAX_DECODED_SAMPLES]).is_err());
        assert!(
            decoder
                .decode(&[0xFF, 0xFF], &mut [0; MAX_DECODED_SAMPLES])
                .is_err()
        );
    }
}
