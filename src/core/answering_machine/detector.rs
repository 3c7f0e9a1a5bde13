//! What the sound of a callee comes to.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::speech::{SpeechMeter, speech_energy};
use super::tone::{FRAME_SAMPLES, TONE_FRAMES, Tone, ToneEvent, ToneTracker, single_tone};
use super::{AnsweredBy, DetectionSettings, MachineDetection};
use crate::core::g711::MULAW_TO_LINEAR;
use crate::core::media_session::clock::MediaTime;
use crate::core::media_session::playout::FRAME_BYTES;

const FRAME_MS: u128 = 20;
/// How much later than expected a frame may be before what lies between counts as silence: clocks of
/// callees and of ours differ.
const LATE_FRAMES: u32 = 2;
/// How long nothing else may sound after a tone before it was the beep.
const AFTER_BEEP_FRAMES: u32 = 5;
/// Longest beep: 3 s. What sounds on is the tone of an exchange.
const BEEP_FRAMES_MAX: u32 = 150;
/// The tone by which a fax or a modem answers, and how far from it is allowed, in Hz.
const FAX_ANSWER_HZ: (f32, f32) = (2_100.0, 20.0);
/// How long it lasts at least, to be no beep: it is 2.6 s long.
const FAX_ANSWER_FRAMES: u32 = 50;
/// The tone by which a fax calls: half a second.
const FAX_CALLING_HZ: (f32, f32) = (1_100.0, 38.0);
const FAX_CALLING_FRAMES: RangeInclusive<u32> = 20..=30;
/// Ringback, busy and dial tone of most countries, where they are one tone.
const CALL_PROGRESS_HZ: (f32, f32) = (440.0, 45.0);

/// Judges who has answered one call.
#[derive(Debug)]
pub struct Detector {
    settings: DetectionSettings,
    answered_at: MediaTime,
    /// Frames since the answer, those that never came among them.
    frames: u32,
    speech: SpeechMeter,
    tones: ToneTracker,
    /// Frames since the end of a tone that was the beep, unless it goes on as a melody.
    since_beep: Option<u32>,
    /// Whether the greeting is known to be a machine's.
    is_machine: bool,
    is_over: bool,
}

/// What a frame holds.
#[derive(Clone, Copy)]
struct Sound {
    /// As [`speech_energy`] has it.
    energy: f32,
    /// Of its one tone, where it has one.
    hz: Option<f32>,
}

impl Detector {
    /// Begins with the answer of the call.
    #[must_use]
    pub const fn new(settings: DetectionSettings, answered_at: MediaTime) -> Self {
        Self {
            settings,
            answered_at,
            frames: 0,
            speech: SpeechMeter::new(),
            tones: ToneTracker::new(),
            since_beep: None,
            is_machine: false,
            is_over: false,
        }
    }

    /// Takes 20 ms of the callee's sound, mu-law at 8 kHz, that begin at this time on the leg's media
    /// clock. Answers once, when it is known who has answered or when the detection gives up.
    pub fn handle_frame(&mut self, at: MediaTime, frame: &[u8; FRAME_BYTES]) -> Option<AnsweredBy> {
        let expected = self.frames.saturating_add(LATE_FRAMES);
        if self.frames_until(at) > expected
            && let Some(answer) = self.handle_silence(at)
        {
            return Some(answer);
        }
        self.step(Some(Sound::of(frame)))
    }

    /// Nothing has come until this time: callees that suppress silence send no RTP. Answers as
    /// [`handle_frame`](Self::handle_frame) does.
    pub fn handle_silence(&mut self, until: MediaTime) -> Option<AnsweredBy> {
        let until = self.frames_until(until);
        while self.frames < until && !self.is_over {
            if let Some(answer) = self.step(None) {
                return Some(answer);
            }
        }
        None
    }

    /// Whole frames from the answer to this time.
    fn frames_until(&self, at: MediaTime) -> u32 {
        let samples = at.samples.saturating_sub(self.answered_at.samples);
        u32::try_from(samples / FRAME_SAMPLES as u64).unwrap_or(u32::MAX)
    }

    /// One frame more; `None` for one that never came.
    fn step(&mut self, sound: Option<Sound>) -> Option<AnsweredBy> {
        if self.is_over {
            return None;
        }
        self.frames = self.frames.saturating_add(1);
        let of_tones = self.hear_tone(sound.and_then(|sound| sound.hz));
        self.hear_speech(sound);
        let answer = of_tones
            .or_else(|| self.judge_beep())
            .or_else(|| self.judge_speech())
            .or_else(|| self.judge_time());
        self.is_over = answer.is_some();
        answer
    }

    /// What tones say at once: a fax.
    fn hear_tone(&mut self, hz: Option<f32>) -> Option<AnsweredBy> {
        match self.tones.handle_frame(hz) {
            ToneEvent::None => {}
            ToneEvent::Began => {
                // Its frames were counted as speech until now, but for this one; and so was
                // the one that it filled in part.
                self.speech.take_back(TONE_FRAMES);
                self.since_beep = None;
            }
            ToneEvent::Ended(tone) => {
                let is_first = self.speech.spoken() == 0;
                if is_first && is_calling_fax(&tone) {
                    return Some(AnsweredBy::Fax);
                }
                let is_progress = is_first && is_near(tone.hz, CALL_PROGRESS_HZ);
                let is_beep = !tone.follows && !is_progress && tone.frames <= BEEP_FRAMES_MAX;
                self.since_beep = is_beep.then_some(0);
            }
        }
        let is_fax = self.tones.current().is_some_and(|tone| {
            tone.frames >= FAX_ANSWER_FRAMES && is_near(tone.hz, FAX_ANSWER_HZ)
        });
        is_fax.then_some(AnsweredBy::Fax)
    }

    /// A tone is neither speech nor silence.
    fn hear_speech(&mut self, sound: Option<Sound>) {
        if self.tones.current().is_none() {
            self.speech.handle_frame(sound.map(|sound| sound.energy));
        }
    }

    fn judge_beep(&mut self) -> Option<AnsweredBy> {
        let since = self.since_beep.as_mut()?;
        *since += 1;
        let is_over = *since > AFTER_BEEP_FRAMES && !self.tones.may_be_tone();
        is_over.then_some(match self.settings.mode {
            MachineDetection::Enable => AnsweredBy::MachineStart,
            MachineDetection::DetectMessageEnd => AnsweredBy::MachineEndBeep,
        })
    }

    fn judge_speech(&mut self) -> Option<AnsweredBy> {
        let spoken = self.speech.spoken();
        if spoken >= frames(self.settings.speech_threshold) {
            self.is_machine = true;
        }
        if self.is_machine && self.settings.mode == MachineDetection::Enable {
            return Some(AnsweredBy::MachineStart);
        }
        let is_silent = self.speech.silence() >= frames(self.settings.speech_end_threshold);
        if spoken == 0 || !is_silent || self.waits_for_tone() {
            return None;
        }
        Some(if self.is_machine {
            AnsweredBy::MachineEndSilence
        } else {
            AnsweredBy::Human
        })
    }

    fn judge_time(&self) -> Option<AnsweredBy> {
        let is_silent = self.speech.spoken() == 0 && !self.waits_for_tone();
        if self.frames >= frames(self.settings.timeout) {
            Some(match self.is_machine {
                true => AnsweredBy::MachineEndOther,
                false => AnsweredBy::Unknown,
            })
        } else {
            let is_late = self.frames >= frames(self.settings.silence_timeout);
            (is_silent && is_late).then_some(AnsweredBy::Unknown)
        }
    }

    /// Whether a tone sounds or has just ended, and will say more.
    fn waits_for_tone(&self) -> bool {
        self.since_beep.is_some() || self.tones.current().is_some()
    }
}

impl Sound {
    fn of(frame: &[u8; FRAME_BYTES]) -> Self {
        let samples = frame.map(|code| f32::from(MULAW_TO_LINEAR[usize::from(code)]));
        Self {
            energy: speech_energy(&samples),
            hz: single_tone(&samples),
        }
    }
}

fn is_calling_fax(tone: &Tone) -> bool {
    is_near(tone.hz, FAX_CALLING_HZ) && FAX_CALLING_FRAMES.contains(&tone.frames)
}

fn is_near(hz: f32, (middle, allowed): (f32, f32)) -> bool {
    (hz - middle).abs() <= allowed
}

/// Whole frames that a time takes.
fn frames(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(FRAME_MS)).unwrap_or(u32::MAX)
}

#[cfg(test)]
#[path = "detector_tests.rs"]
mod tests;
