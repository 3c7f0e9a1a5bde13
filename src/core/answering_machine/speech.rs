//! How long somebody has spoken, and for how long nobody has, by the energy of frames.
//!
//! A frame is loud when it stands out of the noise of the line. Loud frames with short pauses between
//! them are a burst, as syllables and words are; what is shorter than a syllable is a click. The
//! lengths of bursts add up, the pauses between them do not.

use crate::core::media_session::playout::FRAME_BYTES;

/// Energy of the quietest speech: of a voice, 45 dB below full scale.
const SPEECH_ENERGY: f32 = 7_000.0;
/// How much of each sample's neighbour is taken away: it leaves little of the rumble below 200 Hz, of
/// which a street is full, and most of a voice.
const PRE_EMPHASIS: f32 = 0.9;
/// How far a loud frame stands out of the noise: 8 dB.
const OVER_NOISE: f32 = 6.0;
/// Longest pause within a burst: 300 ms, more than between two words of a sentence.
const PAUSE_FRAMES: u32 = 15;
/// Loud frames of a burst that is no click: 60 ms.
const SYLLABLE_FRAMES: u32 = 3;
/// So many first frames are counted anew with each one that comes, by the noise as it is known then:
/// who speaks at once is not taken for the noise of the line, nor is the noise for speech.
const FIRST_FRAMES: usize = PARTS * PART_FRAMES as usize;

/// How loud a frame is, to somebody who listens for speech: the mean square of its samples, the low
/// ones weakened.
pub(super) fn speech_energy(samples: &[f32; FRAME_BYTES]) -> f32 {
    let emphasised = samples.windows(2).map(|two| two[1] - PRE_EMPHASIS * two[0]);
    emphasised.map(|sample| sample * sample).sum::<f32>() / FRAME_BYTES as f32
}

/// Measures speech and silence, in frames.
#[derive(Debug)]
pub(super) struct SpeechMeter {
    noise: NoiseFloor,
    /// Energies of the first frames; `None` for one that never came.
    first: [Option<f32>; FIRST_FRAMES],
    first_count: usize,
    count: Count,
}

impl SpeechMeter {
    pub(super) const fn new() -> Self {
        Self {
            noise: NoiseFloor::new(),
            first: [None; FIRST_FRAMES],
            first_count: 0,
            count: Count::NOTHING,
        }
    }

    /// Takes the [`speech_energy`] of the next frame; `None` for one that never came.
    pub(super) fn handle_frame(&mut self, energy: Option<f32>) {
        if let Some(energy) = energy {
            self.noise.handle_frame(energy);
        }
        match self.first.get_mut(self.first_count) {
            Some(first) => {
                *first = energy;
                self.first_count += 1;
                self.count_first();
            }
            None => self.count.handle_frame(energy, self.loud_energy()),
        }
    }

    /// The last frames that were counted were no speech.
    pub(super) fn take_back(&mut self, frames: u32) {
        if self.first_count < FIRST_FRAMES {
            self.first_count = self.first_count.saturating_sub(frames as usize);
            self.count_first();
        } else {
            self.count.take_back(frames);
        }
    }

    /// How much was said, without the longer pauses.
    pub(super) const fn spoken(&self) -> u32 {
        self.count.spoken()
    }

    /// For how long nobody has spoken.
    pub(super) const fn silence(&self) -> u32 {
        self.count.silence
    }

    fn loud_energy(&self) -> f32 {
        self.noise.level() * OVER_NOISE
    }

    fn count_first(&mut self) {
        let loud_energy = self.loud_energy();
        self.count = Count::NOTHING;
        for energy in &self.first[..self.first_count] {
            self.count.handle_frame(*energy, loud_energy);
        }
    }
}

/// What has been heard.
#[derive(Debug)]
struct Count {
    /// Of the bursts that are over.
    spoken: u32,
    burst: Burst,
    /// Since somebody last spoke.
    silence: u32,
    /// Energy of the loudest frame.
    loudest: f32,
}

/// Loud frames with short pauses between them.
#[derive(Clone, Copy, Debug)]
struct Burst {
    /// From the first loud one to the last.
    length: u32,
    loud: u32,
    /// Since the last loud one.
    pause: u32,
}

impl Burst {
    const NONE: Self = Self {
        length: 0,
        loud: 0,
        pause: 0,
    };

    const fn is_speech(&self) -> bool {
        self.loud >= SYLLABLE_FRAMES
    }
}

impl Count {
    const NOTHING: Self = Self {
        spoken: 0,
        burst: Burst::NONE,
        silence: 0,
        loudest: 0.0,
    };

    fn handle_frame(&mut self, energy: Option<f32>, loud_energy: f32) {
        if self.loudest < loud_energy {
            // All of it was noise, as is known by now.
            self.spoken = 0;
            self.burst = Burst::NONE;
        }
        match energy {
            Some(energy) if energy > loud_energy.max(SPEECH_ENERGY) => self.handle_loud(energy),
            _ => self.handle_quiet(),
        }
    }

    fn handle_loud(&mut self, energy: f32) {
        let is_first = self.burst.loud == 0;
        let joined = if is_first { 1 } else { self.burst.pause + 1 };
        self.burst.length = self.burst.length.saturating_add(joined);
        self.burst.loud = self.burst.loud.saturating_add(1);
        self.burst.pause = 0;
        self.loudest = self.loudest.max(energy);
        if self.burst.is_speech() {
            self.silence = 0;
        } else {
            self.silence = self.silence.saturating_add(1);
        }
    }

    const fn handle_quiet(&mut self) {
        self.silence = self.silence.saturating_add(1);
        self.burst.pause = self.burst.pause.saturating_add(1);
        if self.burst.pause > PAUSE_FRAMES {
            self.spoken = self.spoken();
            self.burst = Burst::NONE;
        }
    }

    const fn take_back(&mut self, frames: u32) {
        self.burst.length = self.burst.length.saturating_sub(frames);
        self.burst.loud = self.burst.loud.saturating_sub(frames);
    }

    const fn spoken(&self) -> u32 {
        match self.burst.is_speech() {
            true => self.spoken.saturating_add(self.burst.length),
            false => self.spoken,
        }
    }
}

/// Parts of the window of [`NoiseFloor`].
const PARTS: usize = 8;
/// Frames of each: the whole window is 1.28 s, in which every speaker takes a breath or closes
/// the mouth for a consonant, and a noise does not.
const PART_FRAMES: u32 = 8;

/// The noise of the line: the quietest frame of the last second.
#[derive(Debug)]
struct NoiseFloor {
    /// The quietest frame of each part, the oldest at `next`; infinite for one that was not yet.
    parts: [f32; PARTS],
    next: usize,
    /// The quietest of the part that goes on, and its frames.
    current: f32,
    frames: u32,
}

impl NoiseFloor {
    const fn new() -> Self {
        Self {
            parts: [f32::INFINITY; PARTS],
            next: 0,
            current: f32::INFINITY,
            frames: 0,
        }
    }

    fn handle_frame(&mut self, energy: f32) {
        self.current = self.current.min(energy);
        self.frames += 1;
        if self.frames == PART_FRAMES {
            self.parts[self.next] = self.current;
            self.next = (self.next + 1) % PARTS;
            self.current = f32::INFINITY;
            self.frames = 0;
        }
    }

    /// Infinite while no frame is known.
    fn level(&self) -> f32 {
        self.parts.iter().copied().fold(self.current, f32::min)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: f32 = 1_000.0;
    const LOUD: f32 = 4_000_000.0;

    fn after(sounds: &[(f32, usize)]) -> SpeechMeter {
        let mut meter = SpeechMeter::new();
        for (energy, frames) in sounds {
            (0..*frames).for_each(|_| meter.handle_frame(Some(*energy)));
        }
        meter
    }

    #[test]
    fn words_add_up_and_pauses_between_sentences_do_not() {
        let meter = after(&[
            (QUIET, 20),
            (LOUD, 20),
            (QUIET, 10),
            (LOUD, 20),
            (QUIET, 50),
        ]);
        assert_eq!((meter.spoken(), meter.silence()), (50, 50));
        let meter = after(&[(LOUD, 20), (QUIET, 40), (LOUD, 20), (QUIET, 5)]);
        assert_eq!((meter.spoken(), meter.silence()), (40, 5));
    }

    #[test]
    fn clicks_are_no_speech_and_do_not_end_a_silence() {
        let meter = after(&[(LOUD, 20), (QUIET, 20), (LOUD, 2), (QUIET, 20), (LOUD, 1)]);
        assert_eq!((meter.spoken(), meter.silence()), (20, 43));
    }

    #[test]
    fn a_frame_that_never_came_is_silence_and_says_nothing_of_the_noise() {
        let mut meter = after(&[(30_000.0, 100), (LOUD, 10)]);
        (0..200).for_each(|_| meter.handle_frame(None));
        meter.handle_frame(Some(120_000.0));
        assert_eq!((meter.spoken(), meter.silence()), (10, 201));
    }

    #[test]
    fn a_noise_is_no_speech_whether_it_is_known_yet_or_not() {
        let noise = 200_000.0;
        for frames in [1, 10, 60, 70, 500] {
            assert_eq!(after(&[(noise, frames)]).spoken(), 0, "{frames} frames");
        }
        let meter = after(&[(noise, 70), (LOUD, 20), (noise, 30)]);
        assert_eq!((meter.spoken(), meter.silence()), (20, 30));
    }

    #[test]
    fn who_speaks_at_once_is_heard_when_the_first_word_is_over() {
        let meter = after(&[(LOUD, 20), (QUIET, 1)]);
        assert_eq!(meter.spoken(), 20);
    }

    #[test]
    fn what_is_taken_back_was_never_said() {
        for quiet in [20, 200] {
            let mut meter = after(&[(QUIET, quiet), (LOUD, 6)]);
            assert_eq!(meter.spoken(), 6);
            meter.take_back(6);
            assert_eq!(meter.spoken(), 0);
        }
    }
}
