//! The sound of a callee, put together of greetings, pauses and tones, on a line with noise.

use std::f32::consts::TAU;
use std::iter::{from_fn, repeat};
use std::path::Path;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sipbridge::core::g711::{linear_to_mulaw, mulaw_to_linear};
use sipbridge::core::media_session::playout::FRAME_BYTES;

const SAMPLES_PER_MS: usize = 8;

/// Something that is heard.
#[derive(Clone, Copy, Debug)]
pub enum Part {
    /// A file of `greetings`.
    Greeting(&'static str),
    /// For so many milliseconds nobody speaks.
    Pause(usize),
    /// A tone of so many Hz, for so many milliseconds.
    Tone(f32, usize),
}

/// How a callee is heard.
#[derive(Clone, Copy, Debug)]
pub struct Line {
    pub name: &'static str,
    /// Factor of what is heard; the greetings are at -9 dB.
    gain: f32,
    /// Largest sample of a hiss.
    hiss: f32,
    /// Largest sample of a rumble that swells and fades, as a street does.
    street: f32,
}

/// The lines that every callee is heard on.
pub const LINES: [Line; 4] = [
    Line {
        name: "clear",
        gain: 1.0,
        hiss: 20.0,
        street: 0.0,
    },
    Line {
        name: "quiet",
        gain: 0.15,
        hiss: 20.0,
        street: 0.0,
    },
    Line {
        name: "hissing",
        gain: 0.5,
        hiss: 400.0,
        street: 0.0,
    },
    Line {
        name: "street",
        gain: 0.7,
        hiss: 50.0,
        street: 900.0,
    },
];

impl Line {
    /// Mu-law of the parts as they come over this line, which is heard for ever after.
    pub fn frames(self, parts: &[Part]) -> impl Iterator<Item = [u8; FRAME_BYTES]> {
        let clean = parts.iter().copied().flat_map(Part::samples);
        let mut random = StdRng::seed_from_u64(11);
        let mut rumble = 0.0_f32;
        let heard = clean.chain(repeat(0.0)).enumerate();
        let mut codes = heard.map(move |(index, sample)| {
            let seconds = index as f32 / 8_000.0;
            let hiss = self.hiss * random.random_range(-1.0..1.0_f32);
            // A low-pass filter on noise: most of it below 200 Hz.
            rumble += 0.15 * (random.random_range(-1.0..1.0_f32) - rumble);
            let swell = 1.0 + 0.4 * (TAU * 0.3 * seconds).sin();
            let street = self.street * 3.0 * swell * rumble;
            linear_to_mulaw((sample * self.gain + hiss + street) as i16)
        });
        from_fn(move || Some(std::array::from_fn(|_| codes.next().unwrap())))
    }
}

impl Part {
    /// How long it lasts.
    pub fn length_ms(self) -> usize {
        self.samples().len() / SAMPLES_PER_MS
    }

    /// Linear samples at 8 kHz.
    fn samples(self) -> Vec<f32> {
        match self {
            Self::Pause(ms) => vec![0.0; ms * SAMPLES_PER_MS],
            Self::Tone(hz, ms) => (0..ms * SAMPLES_PER_MS)
                .map(|index| 7_000.0 * (TAU * hz * index as f32 / 8_000.0).sin())
                .collect(),
            Self::Greeting(name) => {
                let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("tests/answering_machine/greetings")
                    .join(format!("{name}.ulaw"));
                let codes = std::fs::read(path).unwrap();
                codes
                    .into_iter()
                    .map(|code| f32::from(mulaw_to_linear(code)))
                    .collect()
            }
        }
    }
}
