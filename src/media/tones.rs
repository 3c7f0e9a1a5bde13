//! Call progress tones (ITU-T E.180, France: 440 Hz) and hold music as mu-law,
//! each one full period long, so that it can be looped without a click.

use std::f32::consts::TAU;
use std::sync::{Arc, LazyLock};

use crate::core::g711::{MULAW_SILENCE, linear_to_mulaw};

const TONE_HZ: f32 = 440.0;
/// About -13 dBm0: heard well, and not louder than speech.
const AMPLITUDE: f32 = 7_000.0;
const SAMPLES_PER_MS: usize = 8;
/// Faded in and out, lest the edges click.
const EDGE_SAMPLES: usize = 40;

/// Quieter than ringback: it may last.
const HOLD_AMPLITUDE: f32 = 5_000.0;
const NOTE_SAMPLES: usize = 4_000;
/// C major, up and down.
const HOLD_NOTES_HZ: [f32; 8] = [523.3, 659.3, 784.0, 1_046.5, 784.0, 659.3, 587.3, 493.9];

static HOLD: LazyLock<Arc<[u8]>> = LazyLock::new(|| melody(&HOLD_NOTES_HZ));
static RINGBACK: LazyLock<Arc<[u8]>> = LazyLock::new(|| cadence(1_500, 3_500));
static BUSY: LazyLock<Arc<[u8]>> = LazyLock::new(|| cadence(500, 500));
static CONGESTION: LazyLock<Arc<[u8]>> = LazyLock::new(|| cadence(250, 250));

/// Ringback: 1.5 s on, 3.5 s off. To be looped.
#[must_use]
pub fn ringback() -> Arc<[u8]> {
    RINGBACK.clone()
}

/// Busy: 0.5 s on, 0.5 s off. To be looped.
#[must_use]
pub fn busy() -> Arc<[u8]> {
    BUSY.clone()
}

/// Congestion: 0.25 s on, 0.25 s off. To be looped.
#[must_use]
pub fn congestion() -> Arc<[u8]> {
    CONGESTION.clone()
}

/// Hold music: soft notes of half a second, the first at once. To be looped.
#[must_use]
pub fn hold() -> Arc<[u8]> {
    HOLD.clone()
}

/// Notes that begin at full strength and fade, as those of a music box.
fn melody(notes_hz: &[f32]) -> Arc<[u8]> {
    let note = |hz: &f32| {
        let hz = *hz;
        (0..NOTE_SAMPLES).map(move |index| {
            let attack = index.min(EDGE_SAMPLES) as f32 / EDGE_SAMPLES as f32;
            let left = (NOTE_SAMPLES - 1 - index) as f32 / NOTE_SAMPLES as f32;
            let phase = index as f32 * hz / 8_000.0 % 1.0;
            let wave = (phase * TAU).sin() + 0.3 * (2.0 * phase * TAU).sin();
            linear_to_mulaw((wave * HOLD_AMPLITUDE * attack * left * left) as i16)
        })
    };
    notes_hz.iter().flat_map(note).collect()
}

fn cadence(on_ms: usize, off_ms: usize) -> Arc<[u8]> {
    let (on, off) = (on_ms * SAMPLES_PER_MS, off_ms * SAMPLES_PER_MS);
    let tone = (0..on).map(|index| {
        let edge = index.min(on - 1 - index).min(EDGE_SAMPLES) as f32 / EDGE_SAMPLES as f32;
        let phase = index as f32 * TONE_HZ / 8_000.0 % 1.0;
        linear_to_mulaw(((phase * TAU).sin() * AMPLITUDE * edge) as i16)
    });
    tone.chain(std::iter::repeat_n(MULAW_SILENCE, off))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::g711::MULAW_TO_LINEAR;

    /// Share of the power at `hz` (Goertzel), 1.0 for a pure tone.
    fn share_at(codes: &[u8], hz: f32) -> f32 {
        let (mut re, mut im, mut power) = (0.0, 0.0, 0.0);
        for (index, code) in codes.iter().enumerate() {
            let sample = f32::from(MULAW_TO_LINEAR[usize::from(*code)]);
            let phase = TAU * hz * index as f32 / 8_000.0;
            re += sample * phase.cos();
            im += sample * phase.sin();
            power += sample * sample;
        }
        2.0 * (re * re + im * im) / (codes.len() as f32 * power)
    }

    #[test]
    fn hold_music_sounds_at_once_and_all_the_time() {
        let hold = hold();
        assert_eq!(hold.len(), HOLD_NOTES_HZ.len() * NOTE_SAMPLES);
        for (note, hz) in hold.chunks(NOTE_SAMPLES).zip(HOLD_NOTES_HZ) {
            assert!(share_at(&note[..800], hz) > 0.8, "{hz}");
            assert!(!crate::core::g711::is_quiet(&note[..160]));
        }
    }

    #[test]
    fn tones_sound_at_440_hz_in_their_cadence() {
        for (tone, on_ms, off_ms) in [
            (ringback(), 1_500, 3_500),
            (busy(), 500, 500),
            (congestion(), 250, 250),
        ] {
            assert_eq!(tone.len(), (on_ms + off_ms) * 8);
            let (on, off) = tone.split_at(on_ms * 8);
            assert!(share_at(on, 440.0) > 0.95, "{}", share_at(on, 440.0));
            assert!(off.iter().all(|code| *code == MULAW_SILENCE));
        }
    }
}
