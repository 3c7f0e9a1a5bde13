//! Between mu-law, in which everything is queued, and the codec of the call: one
//! table look-up per sample for G.711 and gain, libopus for Opus.

use super::playout::FRAME_BYTES;
use super::replay_buffer::ReplayBuffer;
use crate::core::g711::{CodeTable, Gain, MULAW_TO_LINEAR, linear_to_mulaw, translate};
use crate::core::media_link::Codec;
use crate::core::opus::{
    CLOCK_PER_SAMPLE, MAX_DECODED_SAMPLES, MAX_PAYLOAD_BYTES, OpusDecoder, OpusEncoder, OpusError,
};
use crate::core::rtp::HEADER_BYTES;

/// The longest packet we send: RTP header and an Opus payload.
pub const MAX_PACKET_BYTES: usize = HEADER_BYTES + MAX_PAYLOAD_BYTES;

/// From the caller's codecs to mu-law with the gain.
#[derive(Debug)]
pub struct Decoders {
    mulaw: Option<Box<CodeTable>>,
    alaw: Box<CodeTable>,
    opus: Option<OpusDecoder>,
}

impl Decoders {
    /// Decoders for a call of this codec; G.711 always works.
    pub fn new(codec: Codec, gain: &Gain) -> Result<Self, OpusError> {
        Ok(Self {
            mulaw: gain.on_mulaw().map(Box::new),
            alaw: Box::new(gain.from_alaw()),
            opus: match codec {
                Codec::Pcmu | Codec::Pcma => None,
                Codec::Opus => Some(OpusDecoder::new()?),
            },
        })
    }

    /// Appends a payload as mu-law; gives what was appended, `None` for an empty
    /// payload or one that does not decode.
    pub fn decode<'a>(
        &mut self,
        codec: Codec,
        payload: &[u8],
        backlog: &'a mut ReplayBuffer,
    ) -> Option<&'a [u8]> {
        let table = match codec {
            _ if payload.is_empty() => return None,
            Codec::Pcmu => self.mulaw.as_deref(),
            Codec::Pcma => Some(&*self.alaw),
            Codec::Opus => return self.decode_opus(payload, backlog),
        };
        let appended = backlog.push(payload);
        if let Some(table) = table {
            translate(appended, table);
        }
        Some(appended)
    }

    fn decode_opus<'a>(
        &mut self,
        payload: &[u8],
        backlog: &'a mut ReplayBuffer,
    ) -> Option<&'a [u8]> {
        let mut samples = [0; MAX_DECODED_SAMPLES];
        let count = self.opus.as_mut()?.decode(payload, &mut samples).ok()?;
        let mut codes = [0; MAX_DECODED_SAMPLES];
        for (code, sample) in codes.iter_mut().zip(&samples[..count]) {
            *code = linear_to_mulaw(*sample);
        }
        let appended = backlog.push(&codes[..count]);
        if let Some(table) = &self.mulaw {
            translate(appended, table);
        }
        Some(appended)
    }
}

/// From mu-law to the negotiated codec, in the packet buffer.
#[derive(Debug)]
pub enum Encoder {
    /// PCMU as it is.
    Plain,
    /// PCMU with a gain, or PCMA.
    Table(Box<CodeTable>),
    /// Opus.
    Opus {
        /// At 8 kHz.
        encoder: Box<OpusEncoder>,
        /// Applied before.
        gain: Option<Box<CodeTable>>,
    },
}

impl Encoder {
    /// An encoder that applies the gain.
    pub fn new(codec: Codec, gain: &Gain) -> Result<Self, OpusError> {
        Ok(match codec {
            Codec::Pcmu => gain
                .on_mulaw()
                .map_or(Self::Plain, |table| Self::Table(Box::new(table))),
            Codec::Pcma => Self::Table(Box::new(gain.to_alaw())),
            Codec::Opus => Self::Opus {
                encoder: Box::new(OpusEncoder::new()?),
                gain: gain.on_mulaw().map(Box::new),
            },
        })
    }

    /// RTP clock units in 20 ms.
    pub fn frame_clock(&self) -> u32 {
        match self {
            Self::Plain | Self::Table(_) => FRAME_BYTES as u32,
            Self::Opus { .. } => FRAME_BYTES as u32 * CLOCK_PER_SAMPLE,
        }
    }

    /// Encodes the mu-law frame behind the header in place; gives its length.
    pub fn encode(&mut self, packet: &mut [u8; MAX_PACKET_BYTES]) -> Result<usize, OpusError> {
        let payload = &mut packet[HEADER_BYTES..];
        let frame = &mut payload[..FRAME_BYTES];
        match self {
            Self::Plain => Ok(FRAME_BYTES),
            Self::Table(table) => {
                translate(frame, table);
                Ok(FRAME_BYTES)
            }
            Self::Opus { encoder, gain } => {
                if let Some(table) = gain {
                    translate(frame, table);
                }
                let mut samples = [0; FRAME_BYTES];
                for (sample, code) in samples.iter_mut().zip(frame) {
                    *sample = MULAW_TO_LINEAR[usize::from(*code)];
                }
                encoder.encode(&samples, payload)
            }
        }
    }
}
