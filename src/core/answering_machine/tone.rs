//! Single tones in the sound of a callee.
//!
//! A frame holds one tone when nearly all of its energy lies at one frequency. Where that would be
//! is estimated first, at the cost of a few additions per sample: every sample of a sine is the sum of
//! its neighbours divided by `2 cos w`. Then the energy is measured there (Goertzel's algorithm),
//! once on each half of the frame, whose phases give the frequency within some Hz, and once on the whole.

use std::f32::consts::TAU;

use crate::core::media_session::playout::FRAME_BYTES;

/// Samples of a frame of 20 ms.
pub(super) const FRAME_SAMPLES: usize = FRAME_BYTES;
const HALF_SAMPLES: usize = FRAME_SAMPLES / 2;
const SAMPLE_RATE_HZ: f32 = 8_000.0;

/// Lowest and highest frequency of a tone, in Hz. The fundamental of a voice lies below, most
/// signalling between exchanges above.
const LOWEST_HZ: f32 = 350.0;
const HIGHEST_HZ: f32 = 2_600.0;
/// Mean square of the quietest tone: 45 dB below full scale.
const TONE_ENERGY: f32 = 34_000.0;
/// How much of a frame's energy lies at the frequency, at least.
const SHARE: f32 = 0.8;
/// How far a frame's frequency may be from that of the tone before it. Voices glide.
const DRIFT_HZ: f32 = 20.0;
/// Whole frames after which a sound of one frequency is a tone: 160 ms with the frames that it
/// fills in part.
pub(super) const TONE_FRAMES: u32 = 7;
/// A tone that begins so soon after another one goes on with it: the notes of a melody, or the
/// three tones before "the number you have dialled".
const NEXT_NOTE_FRAMES: u32 = 5;

/// A tone that has been heard.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Tone {
    /// Its frequency.
    pub hz: f32,
    /// Whole frames that it has lasted.
    pub frames: u32,
    /// Whether it went on with another one, as a note of a melody does.
    pub follows: bool,
}

/// What a frame means for the tones.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum ToneEvent {
    /// Nothing new.
    None,
    /// The last [`TONE_FRAMES`] frames are a tone.
    Began,
    /// This tone is over.
    Ended(Tone),
}

/// Follows the frequency of frames.
#[derive(Debug)]
pub(super) struct ToneTracker {
    run: Option<Run>,
    /// Frames since the last tone ended.
    since_tone: u32,
}

/// Frames of one frequency.
#[derive(Clone, Copy, Debug)]
struct Run {
    tone: Tone,
    /// Whether the last frame was another sound: tones of a fax turn their phase now and then.
    is_interrupted: bool,
}

impl ToneTracker {
    pub(super) const fn new() -> Self {
        Self {
            run: None,
            since_tone: u32::MAX,
        }
    }

    /// The tone that is being heard.
    pub(super) fn current(&self) -> Option<Tone> {
        let tone = self.run.map(|run| run.tone);
        tone.filter(|tone| tone.frames >= TONE_FRAMES)
    }

    /// Whether the last frame may belong to a tone.
    pub(super) const fn may_be_tone(&self) -> bool {
        self.run.is_some()
    }

    /// Takes the frequency of the next frame, where it has one.
    pub(super) fn handle_frame(&mut self, hz: Option<f32>) -> ToneEvent {
        self.since_tone = self.since_tone.saturating_add(1);
        match (&mut self.run, hz) {
            (Some(run), Some(hz)) if (hz - run.tone.hz).abs() <= DRIFT_HZ => {
                run.extend(hz);
                let has_begun = run.tone.frames == TONE_FRAMES;
                if has_begun {
                    ToneEvent::Began
                } else {
                    ToneEvent::None
                }
            }
            (Some(run), None) if run.tone.frames >= TONE_FRAMES && !run.is_interrupted => {
                run.is_interrupted = true;
                ToneEvent::None
            }
            _ => self.end_run(hz),
        }
    }

    /// Ends the run, where there is one, and begins the next with this frame.
    fn end_run(&mut self, hz: Option<f32>) -> ToneEvent {
        let ended = self.current();
        if ended.is_some() {
            self.since_tone = 0;
        }
        let follows = self.since_tone <= NEXT_NOTE_FRAMES;
        self.run = hz.map(|hz| Run {
            tone: Tone {
                hz,
                frames: 1,
                follows,
            },
            is_interrupted: false,
        });
        ended.map_or(ToneEvent::None, ToneEvent::Ended)
    }
}

impl Run {
    /// One more frame; the frequency is the mean of all.
    fn extend(&mut self, hz: f32) {
        self.tone.frames = self.tone.frames.saturating_add(1);
        self.tone.hz += (hz - self.tone.hz) / self.tone.frames as f32;
        self.is_interrupted = false;
    }
}

/// The frequency of a frame that holds one tone and hardly anything else, in Hz.
pub(super) fn single_tone(samples: &[f32; FRAME_SAMPLES]) -> Option<f32> {
    let square: f32 = samples.iter().map(|sample| sample * sample).sum();
    if square < TONE_ENERGY * FRAME_SAMPLES as f32 {
        return None;
    }
    let is_in_range = |w: &f32| (LOWEST_HZ..=HIGHEST_HZ).contains(&to_hz(*w));
    let guess = estimate(samples).filter(is_in_range)?;
    let turned = responses(samples, guess).turn();
    let expected = guess * HALF_SAMPLES as f32;
    let w = guess + wrap(turned - expected) / HALF_SAMPLES as f32;
    if !is_in_range(&w) {
        return None;
    }
    // Of a sine with amplitude a: the response is a/2 for each sample, its square a²/2.
    let power = responses(samples, w).power(w);
    let share = 2.0 * power / (FRAME_SAMPLES as f32 * square);
    (share >= SHARE).then(|| to_hz(w))
}

/// The frequency of a sine that fits best, in radians per sample: each sample times `2 cos w` is the sum of
/// its neighbours.
fn estimate(samples: &[f32; FRAME_SAMPLES]) -> Option<f32> {
    let (mut cross, mut square) = (0.0, 0.0);
    for three in samples.windows(3) {
        cross += three[1] * (three[0] + three[2]);
        square += three[1] * three[1];
    }
    let cosine = cross / (2.0 * square);
    // Of silence it is no number.
    (-1.0..=1.0).contains(&cosine).then(|| cosine.acos())
}

/// The spectrum at one frequency of each half of a frame, with its phase at the half's last sample.
struct Responses {
    first: (f32, f32),
    second: (f32, f32),
}

/// Goertzel's algorithm on both halves side by side: neither waits for the other.
fn responses(samples: &[f32; FRAME_SAMPLES], w: f32) -> Responses {
    let (sine, cosine) = w.sin_cos();
    let (mut a, mut a_before, mut b, mut b_before) = (0.0, 0.0, 0.0, 0.0);
    let (first, second) = samples.split_at(HALF_SAMPLES);
    for (of_first, of_second) in first.iter().zip(second) {
        (a, a_before) = (of_first + 2.0 * cosine * a - a_before, a);
        (b, b_before) = (of_second + 2.0 * cosine * b - b_before, b);
    }
    Responses {
        first: (a - cosine * a_before, sine * a_before),
        second: (b - cosine * b_before, sine * b_before),
    }
}

impl Responses {
    /// By what angle the second is turned against the first.
    fn turn(&self) -> f32 {
        let (first, second) = (self.first, self.second);
        let re = second.0 * first.0 + second.1 * first.1;
        let im = second.1 * first.0 - second.0 * first.1;
        im.atan2(re)
    }

    /// The square of the whole frame's response: the first half is turned on to the end of the second.
    fn power(&self, w: f32) -> f32 {
        let (sine, cosine) = (w * HALF_SAMPLES as f32).sin_cos();
        let re = self.first.0 * cosine - self.first.1 * sine + self.second.0;
        let im = self.first.0 * sine + self.first.1 * cosine + self.second.1;
        re * re + im * im
    }
}

/// The same angle within half a turn.
fn wrap(angle: f32) -> f32 {
    angle - TAU * (angle / TAU).round()
}

fn to_hz(w: f32) -> f32 {
    w * SAMPLE_RATE_HZ / TAU
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::g711::{linear_to_mulaw, mulaw_to_linear};

    /// Sines, each of (Hz, amplitude), through mu-law.
    fn frame(sines: &[(f32, f32)], phase: f32) -> [f32; FRAME_SAMPLES] {
        std::array::from_fn(|index| {
            let wave = |(hz, amplitude): &(f32, f32)| {
                amplitude * (hz * TAU * index as f32 / SAMPLE_RATE_HZ + phase).sin()
            };
            let sum: f32 = sines.iter().map(wave).sum();
            f32::from(mulaw_to_linear(linear_to_mulaw(sum as i16)))
        })
    }

    #[test]
    fn the_frequency_of_a_tone_is_found_whatever_its_phase_and_level() {
        for hz in (360..=2_590).step_by(23).map(|hz| hz as f32) {
            for (phase, amplitude) in [(0.0, 500.0), (1.0, 3_000.0), (2.5, 20_000.0)] {
                let found = single_tone(&frame(&[(hz, amplitude)], phase));
                let found = found.unwrap_or_else(|| panic!("{hz} Hz, {amplitude}, {phase}"));
                assert!((found - hz).abs() < 6.0, "{hz} Hz is taken for {found}");
            }
        }
    }

    #[test]
    fn what_is_no_single_tone_is_none() {
        let sounds: [&[(f32, f32)]; 7] = [
            &[],
            &[(300.0, 5_000.0)],
            &[(2_700.0, 5_000.0)],
            // Ringback of North America, and the digit 5.
            &[(440.0, 4_000.0), (480.0, 4_000.0)],
            &[(770.0, 4_000.0), (1_336.0, 4_000.0)],
            // A hum, and a vowel.
            &[(120.0, 4_000.0), (240.0, 3_000.0), (360.0, 3_000.0)],
            &[
                (200.0, 3_000.0),
                (400.0, 5_000.0),
                (600.0, 4_000.0),
                (800.0, 2_000.0),
            ],
        ];
        for sines in sounds {
            for phase in [0.0, 0.7, 1.9, 3.0] {
                assert_eq!(single_tone(&frame(sines, phase)), None, "{sines:?}");
            }
        }
    }

    fn events(frames: &[Option<f32>]) -> Vec<ToneEvent> {
        let mut tracker = ToneTracker::new();
        let events = frames.iter().map(|hz| tracker.handle_frame(*hz));
        events.filter(|event| *event != ToneEvent::None).collect()
    }

    #[test]
    fn a_tone_is_held_and_does_not_glide() {
        let short = [vec![Some(1_000.0); 6], vec![None; 3]].concat();
        assert_eq!(events(&short), []);
        let gliding: Vec<_> = (0..20).map(|it| Some(500.0 + 15.0 * it as f32)).collect();
        assert_eq!(events(&gliding), []);
        let held = [vec![Some(1_000.0); 9], vec![None; 3]].concat();
        let [ToneEvent::Began, ToneEvent::Ended(tone)] = events(&held)[..] else {
            panic!("{:?}", events(&held));
        };
        assert_eq!((tone.hz, tone.frames, tone.follows), (1_000.0, 9, false));
    }

    #[test]
    fn a_tone_survives_one_frame_of_something_else() {
        let turned = [vec![Some(2_100.0); 20], vec![None], vec![Some(2_100.0); 20]].concat();
        assert_eq!(events(&turned), [ToneEvent::Began]);
        let two = [vec![Some(2_100.0); 20], vec![None; 2]].concat();
        assert_eq!(events(&two).len(), 2);
    }

    #[test]
    fn notes_of_a_melody_follow_one_another() {
        let notes = [
            vec![Some(950.0); 16],
            vec![Some(1_400.0); 16],
            vec![None; 4],
            vec![Some(1_800.0); 16],
            vec![None; 20],
            vec![Some(1_000.0); 16],
            vec![None; 2],
        ]
        .concat();
        let follows: Vec<bool> = events(&notes)
            .into_iter()
            .filter_map(|event| match event {
                ToneEvent::Ended(tone) => Some(tone.follows),
                _ => None,
            })
            .collect();
        assert_eq!(follows, [false, true, true, false]);
    }
}
