//! Says whether one sound is heard within another: where, how loud, and how
//! alike. The demo judges its recordings with it.
//!
//! ```text
//! cargo run --release --example heard -- question.wav recording.wav [0.9]
//! ```
//!
//! Exit code 0 when the likeness (normalised correlation, 1.0 is the same wave
//! form) reaches the third argument, 0.9 by default. It finds the place by the
//! envelopes first, then to the sample, and judges in pieces of half a second,
//! each of which may sit a little off its place: a frame lost or dropped to
//! catch up counts for itself, not for all that follows. Both files are 16-bit
//! WAV at one rate.

use std::path::Path;
use std::process::ExitCode;

/// Samples of one step of the envelope.
const STEP: usize = 40;
/// Samples of a piece: half a second at 8 kHz.
const PIECE: usize = 4_000;
/// How far a piece may sit off its place: 60 ms at 8 kHz.
const SLACK: usize = 480;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (Some(sound), Some(recording)) = (args.first(), args.get(1)) else {
        eprintln!("usage: heard SOUND.wav RECORDING.wav [AT_LEAST]");
        return ExitCode::from(2);
    };
    let at_least = args
        .get(2)
        .and_then(|text| text.parse().ok())
        .unwrap_or(0.9);
    match (read(Path::new(sound)), read(Path::new(recording))) {
        (Ok(sound), Ok(recording)) => judge(&sound, &recording, at_least),
        (sound, recording) => {
            for problem in [sound.err(), recording.err()].into_iter().flatten() {
                eprintln!("heard: {problem}");
            }
            ExitCode::from(2)
        }
    }
}

/// A mono sound.
struct Sound {
    rate: f64,
    samples: Vec<f64>,
}

impl Sound {
    fn seconds(&self) -> f64 {
        self.samples.len() as f64 / self.rate
    }
}

/// Reads a WAV file; of several channels, the first.
fn read(path: &Path) -> Result<Sound, String> {
    let fail = |error: hound::Error| format!("{}: {error}", path.display());
    let mut reader = hound::WavReader::open(path).map_err(fail)?;
    let spec = reader.spec();
    let samples = reader
        .samples::<i16>()
        .step_by(usize::from(spec.channels))
        .map(|sample| sample.map(f64::from))
        .collect::<Result<_, _>>()
        .map_err(fail)?;
    Ok(Sound {
        rate: f64::from(spec.sample_rate),
        samples,
    })
}

fn judge(sound: &Sound, recording: &Sound, at_least: f64) -> ExitCode {
    if (sound.rate - recording.rate).abs() > f64::EPSILON {
        eprintln!("heard: {} Hz against {} Hz", sound.rate, recording.rate);
        return ExitCode::from(2);
    }
    let Some(place) = find(&sound.samples, &recording.samples) else {
        println!(
            "not heard: the recording has {:.1} s, the sound {:.1} s",
            recording.seconds(),
            sound.seconds()
        );
        return ExitCode::FAILURE;
    };
    let likeness = in_pieces(&sound.samples, &recording.samples, place);
    let heard = &recording.samples[place..place + sound.samples.len()];
    println!(
        "{}: {:.1} s of speech at {:.2} s of {:.1} s, level {:.0} of {:.0}, likeness {:.3}",
        if likeness >= at_least {
            "heard"
        } else {
            "NOT heard"
        },
        sound.seconds(),
        place as f64 / recording.rate,
        recording.seconds(),
        rms(heard),
        rms(&sound.samples),
        likeness
    );
    if likeness >= at_least {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Where `sound` fits best into `recording`.
fn find(sound: &[f64], recording: &[f64]) -> Option<usize> {
    let last = recording.len().checked_sub(sound.len())?;
    let (coarse_sound, coarse_recording) = (envelope(sound), envelope(recording));
    let lags = 0..=coarse_recording.len().saturating_sub(coarse_sound.len());
    let coarse = best(lags, &coarse_sound, &coarse_recording)?.0 * STEP;
    let fine = coarse.saturating_sub(4 * STEP)..=(coarse + 4 * STEP).min(last);
    best(fine, sound, recording).map(|(place, _)| place)
}

/// Likeness of the pieces at their best places, loud ones counting more.
fn in_pieces(sound: &[f64], recording: &[f64], place: usize) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for (index, piece) in sound.chunks(PIECE).enumerate() {
        let due = place + index * PIECE;
        let lags = due.saturating_sub(SLACK)..=due + SLACK;
        let likeness = best(lags, piece, recording).map_or(0.0, |(_, likeness)| likeness);
        let weight = rms(piece) * piece.len() as f64;
        sum += likeness * weight;
        weights += weight;
    }
    if weights > 0.0 { sum / weights } else { 0.0 }
}

fn best(
    lags: std::ops::RangeInclusive<usize>,
    sound: &[f64],
    recording: &[f64],
) -> Option<(usize, f64)> {
    lags.filter_map(|lag| Some((lag, likeness(sound, recording.get(lag..lag + sound.len())?))))
        .max_by(|a, b| a.1.total_cmp(&b.1))
}

/// Root mean square of each step.
fn envelope(samples: &[f64]) -> Vec<f64> {
    samples.chunks_exact(STEP).map(rms).collect()
}

fn rms(samples: &[f64]) -> f64 {
    let power: f64 = samples.iter().map(|sample| sample * sample).sum();
    (power / samples.len().max(1) as f64).sqrt()
}

/// Normalised correlation of two pieces of one length; 0 where one is silent.
fn likeness(a: &[f64], b: &[f64]) -> f64 {
    let dot: f64 = a.iter().zip(b).map(|(x, y)| x * y).sum();
    let norm = rms(a) * rms(b) * a.len() as f64;
    if norm > 0.0 { dot / norm } else { 0.0 }
}
