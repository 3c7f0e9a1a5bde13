//! WAV files: announcements in, recordings out.
//!
//! Reads PCM of 8 to 32 bits, 32-bit float, A-law and mu-law, mono or mixed down, 8 to 192 kHz,
//! resampled once, at load, by a windowed sinc. Leaves out: other compressed
//! formats, and files longer than ten minutes.

use std::f64::consts::PI;
use std::fs::File;
use std::io::{BufWriter, Cursor, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use hound::{SampleFormat, WavReader, WavSpec, WavWriter};

use super::g711_wav::G711Wav;
use super::riff::Riff;
use crate::core::g711::{MULAW_TO_LINEAR, linear_to_mulaw};
use crate::files;

/// The rate of telephone audio.
const RATE_HZ: u32 = 8_000;
/// The largest file taken: ten minutes at 48 kHz in stereo have 115 MB.
const FILE_MAX_BYTES: u64 = 128 << 20;
/// The longest file taken.
const MAX_SECONDS: u32 = 600;
/// Zero crossings of the sinc on each side of a sample.
const CROSSINGS: f64 = 24.0;
/// The most filters, which is what 11,025 Hz needs: an odd rate, such as 191,999 Hz, would need 8,000 of them, of a thousand
/// taps each.
const PHASES_MAX: u32 = 320;
/// Where the filter begins to fall, as a share of the new Nyquist frequency.
const CUTOFF: f64 = 0.92;

/// A WAV file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WavError {
    /// Cannot be opened, read or written, or is no WAV file.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the reader says.
        source: hound::Error,
    },
    /// A sampling rate out of range.
    #[error(
        "{}: sampled at {rate_hz} Hz; use a usual rate of 8,000 to 192,000, such as 16,000, 44,100 or 48,000",
        path.display()
    )]
    Rate {
        /// The file.
        path: PathBuf,
        /// Its rate.
        rate_hz: u32,
    },
    /// Too long for an announcement.
    #[error("{}: longer than {MAX_SECONDS} s", path.display())]
    TooLong {
        /// The file.
        path: PathBuf,
    },
    /// No sample in it.
    #[error("{}: holds no audio", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// Loads a WAV file as raw mu-law at 8 kHz. Blocks on the disk.
///
/// # Errors
/// The file and what is wrong with it.
pub fn load(path: &Path) -> Result<Arc<[u8]>, WavError> {
    let file_error = |source| WavError::File {
        path: path.to_owned(),
        source,
    };
    let bytes = files::read(path, FILE_MAX_BYTES);
    let bytes = bytes.map_err(|error| file_error(error.into()))?;
    decode(path, &bytes)
}

/// Decodes the bytes of a WAV file as raw mu-law at 8 kHz; errors call it by this name.
///
/// # Errors
/// The file and what is wrong with it.
pub fn decode(name: &Path, bytes: &[u8]) -> Result<Arc<[u8]>, WavError> {
    let riff = Riff::read(bytes).ok_or_else(|| WavError::File {
        path: name.to_owned(),
        source: hound::Error::FormatError("it is no WAV file"),
    })?;
    let Some(file) = G711Wav::read(riff) else {
        return decode_pcm(name, riff);
    };
    check(name, file.rate_hz, file.frames())?;
    if file.channels == 1 && file.rate_hz == RATE_HZ {
        return Ok(file.to_mulaw().into());
    }
    Ok(to_mulaw(&file.to_mono(), file.rate_hz))
}

fn decode_pcm(name: &Path, riff: Riff) -> Result<Arc<[u8]>, WavError> {
    let file_error = |source| WavError::File {
        path: name.to_owned(),
        source,
    };
    let reader = pcm_reader(riff).map_err(file_error)?;
    if !(8..=32).contains(&reader.spec().bits_per_sample) {
        return Err(file_error(hound::Error::Unsupported));
    }
    let rate_hz = reader.spec().sample_rate;
    check(name, rate_hz, reader.duration() as usize)?;
    let mono = read_mono(reader).map_err(file_error)?;
    Ok(to_mulaw(&mono, rate_hz))
}

/// A reader of whole frames, whatever the file says of its length.
fn pcm_reader(riff: Riff) -> hound::Result<WavReader<impl Read>> {
    let block = riff.format.get(12..14).and_then(<[u8]>::first_chunk);
    let block_bytes = block.map_or(1, |block| u16::from_le_bytes(*block).max(1));
    let data_bytes = riff.data.len() - riff.data.len() % usize::from(block_bytes);
    let head = riff.head(data_bytes);
    let head = head.ok_or(hound::Error::FormatError("it is too long"))?;
    WavReader::new(Cursor::new(head).chain(&riff.data[..data_bytes]))
}

/// Whether a file may have this rate and so many samples in each channel.
fn check(name: &Path, rate_hz: u32, frames: usize) -> Result<(), WavError> {
    let path = name.to_owned();
    let phases = RATE_HZ / gcd(rate_hz, RATE_HZ);
    if !(RATE_HZ..=192_000).contains(&rate_hz) || phases > PHASES_MAX {
        return Err(WavError::Rate { path, rate_hz });
    }
    if frames > (rate_hz * MAX_SECONDS) as usize {
        return Err(WavError::TooLong { path });
    }
    if frames == 0 {
        return Err(WavError::Empty { path });
    }
    Ok(())
}

fn to_mulaw(mono: &[f32], rate_hz: u32) -> Arc<[u8]> {
    let samples = resample(mono, rate_hz);
    // Casting saturates.
    let code = |sample: &f32| linear_to_mulaw((sample * 32_768.0).round() as i16);
    samples.iter().map(code).collect()
}

/// Writes raw mu-law at 8 kHz as a PCM16 WAV file. Blocks on the disk.
///
/// # Errors
/// The file and what is wrong with it.
pub fn save(path: &Path, mulaw: &[u8]) -> Result<(), WavError> {
    let file_error = |source| WavError::File {
        path: path.to_owned(),
        source,
    };
    let spec = WavSpec {
        channels: 1,
        sample_rate: RATE_HZ,
        bits_per_sample: 16,
        sample_format: SampleFormat::Int,
    };
    let mut writer: WavWriter<BufWriter<File>> =
        WavWriter::create(path, spec).map_err(file_error)?;
    for code in mulaw {
        let sample = MULAW_TO_LINEAR[usize::from(*code)];
        writer.write_sample(sample).map_err(file_error)?;
    }
    writer.finalize().map_err(file_error)
}

/// All samples, channels mixed, full scale ±1.
fn read_mono(mut reader: WavReader<impl Read>) -> hound::Result<Vec<f32>> {
    let spec = reader.spec();
    let interleaved: hound::Result<Vec<f32>> = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect(),
        SampleFormat::Int => {
            let scale = 1.0 / (1_u64 << (spec.bits_per_sample - 1)) as f32;
            let samples = reader.samples::<i32>();
            samples.map(|sample| Ok(sample? as f32 * scale)).collect()
        }
    };
    let channels = usize::from(spec.channels.max(1));
    let mix = |frame: &[f32]| frame.iter().sum::<f32>() / channels as f32;
    Ok(interleaved?.chunks_exact(channels).map(mix).collect())
}

/// Resamples to 8 kHz by a polyphase windowed sinc.
fn resample(samples: &[f32], rate_hz: u32) -> Vec<f32> {
    if rate_hz == RATE_HZ {
        return samples.to_vec();
    }
    let common = gcd(rate_hz, RATE_HZ);
    let (step, phases) = ((rate_hz / common) as usize, (RATE_HZ / common) as usize);
    let ratio = f64::from(rate_hz) / f64::from(RATE_HZ);
    let reach = (CROSSINGS * ratio).ceil() as usize;
    let filters: Vec<Vec<f32>> = (0..phases)
        .map(|phase| sinc_filter(phase as f64 / phases as f64, ratio, reach))
        .collect();
    let count = samples.len() * phases / step;
    (0..count)
        .map(|index| {
            let (center, phase) = (index * step / phases, index * step % phases);
            let taps = filters[phase].iter().enumerate();
            taps.map(|(tap, weight)| {
                let at = (center + tap).checked_sub(reach);
                at.and_then(|at| samples.get(at)).unwrap_or(&0.0) * weight
            })
            .sum()
        })
        .collect()
}

/// Taps for a point `offset` samples behind the center one, sum 1.
fn sinc_filter(offset: f64, ratio: f64, reach: usize) -> Vec<f32> {
    let taps: Vec<f64> = (0..=2 * reach)
        .map(|tap| {
            let distance = tap as f64 - reach as f64 - offset;
            let x = distance * CUTOFF / ratio * PI;
            let sinc = if x.abs() < 1e-9 { 1.0 } else { x.sin() / x };
            let w = (distance / (reach as f64 + 1.0)).clamp(-1.0, 1.0) * PI;
            sinc * (0.42 + 0.5 * w.cos() + 0.08 * (2.0 * w).cos())
        })
        .collect();
    let sum: f64 = taps.iter().sum();
    taps.iter().map(|tap| (tap / sum) as f32).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use super::super::g711_wav::tests::file as g711_file;
    use super::*;
    use crate::core::g711::{ALAW_TO_MULAW, linear_to_alaw};

    fn write(path: &Path, spec: WavSpec, samples: impl Iterator<Item = i16>) {
        let mut writer = WavWriter::create(path, spec).unwrap();
        samples.for_each(|sample| writer.write_sample(sample).unwrap());
        writer.finalize().unwrap();
    }

    fn spec(sample_rate: u32, channels: u16) -> WavSpec {
        WavSpec {
            channels,
            sample_rate,
            bits_per_sample: 16,
            sample_format: SampleFormat::Int,
        }
    }

    fn rms(mulaw: &[u8]) -> f64 {
        let squares = mulaw
            .iter()
            .map(|code| f64::from(MULAW_TO_LINEAR[usize::from(*code)]).powi(2));
        (squares.sum::<f64>() / mulaw.len() as f64).sqrt()
    }

    #[test]
    fn saved_audio_is_loaded_bit_for_bit() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        // All codes but the one that has no linear value of its own.
        let codes: Vec<u8> = (0..=255).filter(|code| *code != 0x7F).collect();
        save(&path, &codes).unwrap();
        assert_eq!(&*load(&path).unwrap(), &codes[..]);
    }

    #[test]
    fn speech_frequencies_pass_and_what_would_alias_is_gone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        for rate in [16_000, 22_050, 44_100, 48_000] {
            for (hz, low, high) in [
                (300.0, 6_700.0, 7_400.0),
                (3_000.0, 6_700.0, 7_400.0),
                (5_000.0, 0.0, 20.0),
            ] {
                let tone = (0..rate).flat_map(|n| {
                    let phase = f64::from(n) * hz / f64::from(rate) * 2.0 * PI;
                    [(phase.sin() * 10_000.0) as i16; 2]
                });
                write(&path, spec(rate, 2), tone);
                let loaded = load(&path).unwrap();
                assert_eq!(loaded.len(), 8_000);
                let level = rms(&loaded[400..7_600]);
                assert!((low..=high).contains(&level), "{rate} {hz} {level}");
            }
        }
    }

    #[test]
    fn alaw_and_mulaw_of_telephones_are_taken_as_they_are_and_others_resampled() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        let codes: Vec<u8> = (0..=255).collect();
        std::fs::write(&path, g711_file(7, 1, 8_000, &codes)).unwrap();
        assert_eq!(&*load(&path).unwrap(), &codes[..]);
        std::fs::write(&path, g711_file(6, 1, 8_000, &codes)).unwrap();
        assert_eq!(&*load(&path).unwrap(), &ALAW_TO_MULAW[..]);
        // A tone of 1 kHz at 16 kHz, in stereo.
        let tone: Vec<u8> = (0..16_000)
            .flat_map(|n| {
                let phase = f64::from(n) / 16.0 * 2.0 * PI;
                [linear_to_alaw((phase.sin() * 10_000.0) as i16); 2]
            })
            .collect();
        let decoded = decode(&path, &g711_file(6, 2, 16_000, &tone)).unwrap();
        assert_eq!(decoded.len(), 8_000);
        let level = rms(&decoded[400..7_600]);
        assert!((6_700.0..7_400.0).contains(&level), "{level}");
        let message = |bytes: &[u8]| decode(&path, bytes).unwrap_err().to_string();
        assert!(message(&g711_file(7, 1, 4_000, &codes)).contains("4000 Hz"));
        assert!(message(&g711_file(7, 1, 8_000, &[])).contains("holds no audio"));
    }

    #[test]
    fn what_a_speech_service_streams_is_read_to_its_end() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("say.wav");
        let tone = (0..24_000).map(|n| ((f64::from(n) / 24.0 * 2.0 * PI).sin() * 10_000.0) as i16);
        write(&path, spec(24_000, 1), tone);
        let whole = std::fs::read(&path).unwrap();
        let expected = decode(&path, &whole).unwrap();
        assert_eq!(expected.len(), 8_000);
        for size in [u32::MAX, 0x7FFF_FFFF, 2_000_000_000, 0] {
            let mut streamed = whole.clone();
            streamed[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
            streamed[40..44].copy_from_slice(&size.to_le_bytes());
            assert_eq!(decode(&path, &streamed).unwrap(), expected, "{size}");
            // It broke off in the midst of a sample.
            streamed.truncate(whole.len() - 1);
            let cut = decode(&path, &streamed).unwrap();
            assert_eq!(cut.len(), expected.len() - 1, "{size}");
        }
    }

    #[test]
    fn rates_that_would_need_thousands_of_filters_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.wav");
        for (rate, is_taken) in [
            (11_025, true),
            (44_100, true),
            (47_999, false),
            (191_999, false),
        ] {
            write(&path, spec(rate, 1), [0; 400].into_iter());
            assert_eq!(load(&path).is_ok(), is_taken, "{rate}");
        }
    }

    #[test]
    fn errors_name_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("greeting.wav");
        let message = |path| load(path).unwrap_err().to_string();
        assert!(message(&path).contains("greeting.wav"));
        std::fs::write(&path, b"RIFFnonsense").unwrap();
        assert!(message(&path).contains("greeting.wav"));
        write(&path, spec(4_000, 1), [0].into_iter());
        assert!(message(&path).contains("4000 Hz"));
        write(&path, spec(8_000, 1), std::iter::empty());
        assert!(message(&path).contains("holds no audio"));
    }
}
