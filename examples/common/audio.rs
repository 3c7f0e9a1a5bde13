//! Sound for the example programs: G.711 (ITU-T) by formula, WAV files, and a
//! built-in greeting. Shares nothing with the bridge, so that a mistake on one
//! side is heard on the other. Leaves out WAV other than PCM16 at 8 or 16 kHz.

use std::f64::consts::TAU;
use std::path::Path;

/// Samples a second.
pub const RATE_HZ: u32 = 8_000;

/// One sample to mu-law.
pub fn to_ulaw(sample: i16) -> u8 {
    const BIAS: i32 = 0x84;
    const CLIP: i32 = 32_635;
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(CLIP) + BIAS;
    let exponent = 24 - magnitude.leading_zeros() as i32;
    let mantissa = (magnitude >> (exponent + 3)) & 0x0F;
    !(sign | exponent << 4 | mantissa) as u8
}

/// One mu-law byte to a sample.
pub fn from_ulaw(byte: u8) -> i16 {
    let byte = !byte;
    let (exponent, mantissa) = ((byte >> 4) & 7, i32::from(byte & 0x0F));
    let magnitude = (((mantissa << 3) + 0x84) << exponent) - 0x84;
    (if byte & 0x80 == 0 {
        magnitude
    } else {
        -magnitude
    }) as i16
}

/// One sample to A-law.
pub fn to_alaw(sample: i16) -> u8 {
    let sign = if sample < 0 { 0 } else { 0x80 };
    let value = i32::from(sample);
    let magnitude = (if value < 0 { -value - 1 } else { value }) >> 3;
    let exponent = (27 - (magnitude | 1).leading_zeros() as i32).max(0);
    let mantissa = (magnitude >> exponent.max(1)) & 0x0F;
    (sign | exponent << 4 | mantissa) as u8 ^ 0x55
}

/// One A-law byte to a sample.
pub fn from_alaw(byte: u8) -> i16 {
    let byte = byte ^ 0x55;
    let (exponent, mantissa) = ((byte >> 4) & 7, i32::from(byte & 0x0F));
    let magnitude = match exponent {
        0 => (mantissa << 4) + 8,
        _ => ((mantissa << 4) + 0x108) << (exponent - 1),
    };
    (if byte & 0x80 == 0 {
        -magnitude
    } else {
        magnitude
    }) as i16
}

/// What is wrong with a WAV file.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// It cannot be read or written.
    #[error("WAV file: {0}")]
    File(#[from] hound::Error),
    /// It is of another kind.
    #[error("WAV file: need 16-bit PCM at 8000 or 16000 Hz, found {bits} bits at {rate_hz} Hz")]
    Kind { bits: u16, rate_hz: u32 },
}

/// Reads a WAV file as 8 kHz mono: the first channel, 16 kHz halved.
///
/// # Errors
/// When it cannot be read or is of another kind.
pub fn read_wav(path: &Path) -> Result<Vec<i16>, WavError> {
    let mut reader = hound::WavReader::open(path)?;
    let spec = reader.spec();
    let step = usize::from(spec.channels.max(1));
    let samples: Vec<i16> = reader
        .samples::<i16>()
        .step_by(step)
        .collect::<Result<_, _>>()?;
    match (spec.bits_per_sample, spec.sample_rate) {
        (16, RATE_HZ) => Ok(samples),
        (16, 16_000) => Ok(halved(&samples)),
        (bits, rate_hz) => Err(WavError::Kind { bits, rate_hz }),
    }
}

/// Half-band low-pass of 11 taps, then every second sample.
fn halved(samples: &[i16]) -> Vec<i16> {
    const TAPS: [i32; 11] = [8, 0, -40, 0, 160, 256, 160, 0, -40, 0, 8];
    let at = |index: isize| {
        let sample = usize::try_from(index)
            .ok()
            .and_then(|index| samples.get(index));
        sample.map_or(0, |sample| i32::from(*sample))
    };
    (0..samples.len() as isize)
        .step_by(2)
        .map(|middle| {
            let taps = TAPS.iter().zip(middle - 5..);
            let sum: i32 = taps.map(|(tap, index)| tap * at(index)).sum();
            (sum / 512).clamp(i16::MIN.into(), i16::MAX.into()) as i16
        })
        .collect()
}

/// Writes 8 kHz mono PCM16.
///
/// # Errors
/// When the file cannot be written.
pub fn write_wav(path: &Path, samples: &[i16]) -> Result<(), WavError> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut writer = hound::WavWriter::create(path, spec)?;
    for sample in samples {
        writer.write_sample(*sample)?;
    }
    Ok(writer.finalize()?)
}

/// A sine.
pub fn tone(frequency_hz: f64, amplitude: f64, samples: usize) -> Vec<i16> {
    (0..samples)
        .map(|n| (amplitude * (TAU * frequency_hz * n as f64 / f64::from(RATE_HZ)).sin()) as i16)
        .collect()
}

/// Three rising notes: what a worker without a file greets with.
pub fn chime() -> Vec<i16> {
    [523.25, 659.25, 783.99]
        .into_iter()
        .flat_map(|note| {
            let mut sound = tone(note, 8_000.0, 1_600);
            for (n, sample) in sound.iter_mut().enumerate() {
                *sample = (f64::from(*sample) * (1.0 - n as f64 / 1_600.0)) as i16;
            }
            sound
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_word_survives_decoding_and_encoding() {
        for byte in 0..=255 {
            // Mu-law has a negative zero, which encodes as the positive one.
            if byte != 0x7F {
                assert_eq!(to_ulaw(from_ulaw(byte)), byte, "mu-law {byte:#04x}");
            }
            assert_eq!(to_alaw(from_alaw(byte)), byte, "A-law {byte:#04x}");
        }
        assert_eq!((from_ulaw(0x80), from_ulaw(0xFF)), (32_124, 0));
        assert_eq!((from_alaw(0xAA), from_alaw(0xD5)), (32_256, 8));
    }

    #[test]
    fn halving_keeps_a_speech_tone() {
        let wide: Vec<i16> = (0..3_200)
            .map(|n| (10_000.0 * (TAU * 1_000.0 * f64::from(n) / 16_000.0).sin()) as i16)
            .collect();
        let narrow = tone(1_000.0, 10_000.0, 1_600);
        for (a, b) in halved(&wide)[10..1_590].iter().zip(&narrow[10..1_590]) {
            assert!((i32::from(*a) - i32::from(*b)).abs() < 300, "{a} {b}");
        }
    }
}
