//! WAV files of A-law and mu-law (RFC 2361, format tags 6 and 7), which the library for WAV files does not read.

use super::riff::Riff;
use crate::core::g711::{ALAW_TO_LINEAR, ALAW_TO_MULAW, MULAW_TO_LINEAR, translate};

/// `WAVE_FORMAT_ALAW`.
const TAG_ALAW: u16 = 6;
/// `WAVE_FORMAT_MULAW`.
const TAG_MULAW: u16 = 7;
/// `WAVE_FORMAT_EXTENSIBLE`: the tag stands further behind.
const TAG_EXTENSIBLE: u16 = 0xFFFE;
const SUBFORMAT_AT: usize = 24;

/// A WAV file whose samples are G.711.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct G711Wav<'a> {
    pub(super) rate_hz: u32,
    pub(super) channels: usize,
    is_alaw: bool,
    codes: &'a [u8],
}

impl<'a> G711Wav<'a> {
    /// Reads the format of a file; `None` where its samples are of another kind.
    pub(super) fn read(riff: Riff<'a>) -> Option<Self> {
        let format = Format::read(riff.format)?;
        Some(Self {
            rate_hz: format.rate_hz,
            channels: format.channels,
            is_alaw: format.is_alaw,
            codes: riff.data,
        })
    }

    /// Samples of one channel after the other, for each moment.
    pub(super) const fn frames(&self) -> usize {
        self.codes.len() / self.channels
    }

    /// Raw mu-law, as it is or by a table: what mono needs no more than that for.
    pub(super) fn to_mulaw(&self) -> Vec<u8> {
        let mut codes = self.codes.to_vec();
        if self.is_alaw {
            translate(&mut codes, &ALAW_TO_MULAW);
        }
        codes
    }

    /// All samples, channels mixed, full scale ±1.
    pub(super) fn to_mono(&self) -> Vec<f32> {
        let table = if self.is_alaw {
            &ALAW_TO_LINEAR
        } else {
            &MULAW_TO_LINEAR
        };
        let scale = 1.0 / (32_768.0 * self.channels as f32);
        let mix = |frame: &[u8]| {
            let linear = frame
                .iter()
                .map(|code| f32::from(table[usize::from(*code)]));
            linear.sum::<f32>() * scale
        };
        self.codes.chunks_exact(self.channels).map(mix).collect()
    }
}

/// The `fmt ` chunk of a file of G.711.
struct Format {
    is_alaw: bool,
    channels: usize,
    rate_hz: u32,
}

impl Format {
    fn read(chunk: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u16::from_le_bytes(*chunk.get(at..)?.first_chunk()?));
        let tag = match word(0)? {
            TAG_EXTENSIBLE => word(SUBFORMAT_AT)?,
            tag => tag,
        };
        let is_g711 = matches!(tag, TAG_ALAW | TAG_MULAW) && word(14)? == 8;
        let channels = usize::from(word(2)?);
        is_g711.then_some(())?;
        (channels > 0).then_some(Self {
            is_alaw: tag == TAG_ALAW,
            channels,
            rate_hz: u32::from_le_bytes(*chunk.get(4..)?.first_chunk()?),
        })
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A WAV file of these codes.
    pub(in crate::media) fn file(tag: u16, channels: u16, rate_hz: u32, codes: &[u8]) -> Vec<u8> {
        let mut format = Vec::new();
        format.extend(tag.to_le_bytes());
        format.extend(channels.to_le_bytes());
        format.extend(rate_hz.to_le_bytes());
        format.extend((rate_hz * u32::from(channels)).to_le_bytes());
        format.extend(channels.to_le_bytes());
        format.extend(8_u16.to_le_bytes());
        format.extend(0_u16.to_le_bytes());
        let mut file = b"RIFF\xFF\xFF\xFF\xFFWAVE".to_vec();
        for (name, chunk) in [
            (b"fmt ", &format[..]),
            (b"LIST", b"odd".as_slice()),
            (b"data", codes),
        ] {
            file.extend(name);
            file.extend(u32::try_from(chunk.len()).unwrap().to_le_bytes());
            file.extend(chunk);
            file.extend(vec![0; chunk.len() % 2]);
        }
        file
    }

    fn read(bytes: &[u8]) -> Option<G711Wav<'_>> {
        Riff::read(bytes).and_then(G711Wav::read)
    }

    #[test]
    fn both_laws_are_read_and_other_files_left_alone() {
        let codes: Vec<u8> = (0..=255).collect();
        let bytes = file(TAG_MULAW, 1, 8_000, &codes);
        let wav = read(&bytes).unwrap();
        assert_eq!((wav.rate_hz, wav.channels, wav.frames()), (8_000, 1, 256));
        assert_eq!(wav.to_mulaw(), codes);
        let bytes = file(TAG_ALAW, 2, 16_000, &codes);
        let wav = read(&bytes).unwrap();
        assert_eq!((wav.rate_hz, wav.channels, wav.frames()), (16_000, 2, 128));
        assert_eq!(wav.to_mulaw()[0x2A], ALAW_TO_MULAW[0x2A]);
        // PCM, no channel, no WAV.
        assert_eq!(read(&file(1, 1, 8_000, &codes)), None);
        assert_eq!(read(&file(TAG_ALAW, 0, 8_000, &codes)), None);
        assert_eq!(read(b"RIFF....AVI "), None);
    }

    #[test]
    fn channels_are_mixed() {
        let bytes = file(TAG_MULAW, 2, 8_000, &[0x80, 0x00, 0xFF, 0xFF]);
        let mono = read(&bytes).unwrap().to_mono();
        // The loudest codes of either sign, then silence.
        assert_eq!(mono, [0.0, 0.0]);
        let bytes = file(TAG_MULAW, 2, 8_000, &[0x80, 0x80]);
        let loudest = f32::from(MULAW_TO_LINEAR[0x80]) / 32_768.0;
        assert_eq!(read(&bytes).unwrap().to_mono(), [loudest]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_left_alone(
            tag in 0_u16..10,
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            at in any::<prop::sample::Index>(),
            byte in any::<u8>(),
        ) {
            let _ = read(&bytes);
            let mut broken = file(tag, 2, 8_000, &bytes);
            let at = at.index(broken.len());
            broken[at] = byte;
            if let Some(wav) = read(&broken) {
                prop_assert!(wav.to_mono().len() == wav.frames());
            }
            broken.truncate(at);
            let _ = read(&broken);
        }
    }
}
