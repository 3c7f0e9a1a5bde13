//! Rules of the detection, on sounds made here. `tests/answering_machine` has speech.

use std::f32::consts::TAU;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::core::g711::{MULAW_SILENCE, linear_to_mulaw};

/// Something that is heard, and for how many milliseconds.
#[derive(Clone, Copy, Debug)]
enum Part {
    Quiet(usize),
    /// A vowel of so many Hz, with the rhythm of syllables.
    Speech(usize),
    Tone(f32, usize),
    /// The answer of a V.8 modem: 2,100 Hz, its amplitude wavering, its phase turned each 450 ms.
    ModemAnswer(usize),
}

/// Mu-law of all parts, on a line with a little noise.
fn sound(parts: &[Part]) -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(5);
    let mut samples = Vec::new();
    for part in parts {
        let (Part::Quiet(ms) | Part::Speech(ms) | Part::Tone(_, ms) | Part::ModemAnswer(ms)) = part;
        samples.extend((0..ms * 8).map(|index| {
            let seconds = index as f32 / 8_000.0;
            let wave = |hz: f32| (TAU * hz * seconds).sin();
            let clean = match part {
                Part::Quiet(_) => 0.0,
                Part::Speech(_) => {
                    let syllable = (TAU * 2.5 * seconds).sin().abs();
                    let pitch = 130.0 + 10.0 * (TAU * 0.7 * seconds).sin();
                    let vowel: f32 = [0.5, 0.8, 1.0, 0.9, 0.6, 0.3]
                        .iter()
                        .enumerate()
                        .map(|(number, level)| level * wave(pitch * (number + 1) as f32))
                        .sum();
                    2_000.0 * syllable * vowel
                }
                Part::Tone(hz, _) => 6_000.0 * wave(*hz),
                Part::ModemAnswer(_) => {
                    let turned = if (index / 3_600) % 2 == 0 { 1.0 } else { -1.0 };
                    6_000.0 * turned * (1.0 + 0.2 * wave(15.0)) * wave(2_100.0)
                }
            };
            let noise = random.random_range(-30.0..30.0_f32);
            linear_to_mulaw((clean + noise) as i16)
        }));
    }
    samples
}

fn at(frame: usize) -> MediaTime {
    MediaTime::default().plus_frames(frame as u32)
}

/// The answer, and after how many milliseconds; the parts are followed by silence.
fn detect(settings: DetectionSettings, parts: &[Part]) -> (AnsweredBy, usize) {
    let mut detector = Detector::new(settings, MediaTime::default());
    let mut audio = sound(parts);
    audio.resize(audio.len() + 60 * 8_000, MULAW_SILENCE);
    let frames = audio.chunks_exact(FRAME_BYTES).enumerate();
    for (index, frame) in frames {
        if let Some(answer) = detector.handle_frame(at(index), frame.try_into().unwrap()) {
            return (answer, (index + 1) * 20);
        }
    }
    panic!("no answer to {parts:?}");
}

fn enable(parts: &[Part]) -> (AnsweredBy, usize) {
    detect(DetectionSettings::default(), parts)
}

fn message_end(parts: &[Part]) -> (AnsweredBy, usize) {
    let settings = DetectionSettings {
        mode: MachineDetection::DetectMessageEnd,
        ..DetectionSettings::default()
    };
    detect(settings, parts)
}

use Part::{ModemAnswer, Quiet, Speech, Tone as Beep};

#[test]
fn who_answers_briefly_and_waits_is_a_person() {
    for detect in [enable, message_end] {
        let (answer, ms) = detect(&[Quiet(300), Speech(600)]);
        assert_eq!(answer, AnsweredBy::Human);
        assert!((2_000..=2_200).contains(&ms), "{ms} ms");
    }
    let asked_twice = [
        Speech(600),
        Quiet(900),
        Speech(600),
        Quiet(900),
        Speech(600),
    ];
    assert_eq!(enable(&asked_twice).0, AnsweredBy::Human);
}

#[test]
fn who_speaks_on_is_a_machine() {
    let (answer, ms) = enable(&[Quiet(500), Speech(6_000)]);
    assert_eq!(answer, AnsweredBy::MachineStart);
    assert!((2_800..=3_100).contains(&ms), "{ms} ms");
    let patient = DetectionSettings {
        speech_threshold: Duration::from_secs(4),
        ..DetectionSettings::default()
    };
    assert_eq!(detect(patient, &[Speech(3_500)]).0, AnsweredBy::Human);
}

#[test]
fn a_message_begins_after_the_beep_or_the_silence_or_never() {
    let greeting = [Speech(5_000), Quiet(700), Beep(1_000.0, 400)];
    let (answer, ms) = message_end(&greeting);
    assert_eq!(answer, AnsweredBy::MachineEndBeep);
    assert!((6_150..=6_300).contains(&ms), "{ms} ms");

    let (answer, ms) = message_end(&[Speech(5_000)]);
    assert_eq!(answer, AnsweredBy::MachineEndSilence);
    assert!((6_000..=6_300).contains(&ms), "{ms} ms");

    let endless = message_end(&[Speech(40_000)]);
    assert_eq!(endless, (AnsweredBy::MachineEndOther, 30_000));
}

#[test]
fn a_beep_is_a_machine_whatever_was_said() {
    for parts in [
        &[Quiet(1_000), Beep(850.0, 200)][..],
        &[Speech(1_000), Quiet(400), Beep(1_400.0, 1_000)],
    ] {
        assert_eq!(enable(parts).0, AnsweredBy::MachineStart, "{parts:?}");
        assert_eq!(message_end(parts).0, AnsweredBy::MachineEndBeep);
    }
    let short = [Speech(600), Quiet(400), Beep(1_000.0, 100)];
    assert_eq!(enable(&short).0, AnsweredBy::Human, "too short for a beep");
}

#[test]
fn tones_of_exchanges_are_no_beeps() {
    let ringback = [Quiet(300), Beep(425.0, 1_000)];
    assert_eq!(enable(&ringback).0, AnsweredBy::Unknown);
    // "The number you have dialled": three tones, then an announcement.
    let intercept = [Beep(950.0, 330), Beep(1_400.0, 330), Beep(1_800.0, 330)];
    assert_eq!(message_end(&intercept).0, AnsweredBy::Unknown);
    let dial_tone = [Beep(700.0, 20_000)];
    assert_eq!(message_end(&dial_tone).0, AnsweredBy::Unknown);
}

#[test]
fn a_fax_is_known_by_its_tones() {
    let (answer, ms) = enable(&[Quiet(400), Beep(2_100.0, 2_600)]);
    assert_eq!(answer, AnsweredBy::Fax);
    assert!(ms < 1_600, "{ms} ms");
    assert_eq!(enable(&[Quiet(400), ModemAnswer(3_000)]).0, AnsweredBy::Fax);
    assert_eq!(enable(&[Quiet(400), Beep(1_100.0, 500)]).0, AnsweredBy::Fax);
    // The beep of a machine may have the same frequency.
    let beep = [Speech(3_000), Quiet(400), Beep(1_100.0, 500)];
    assert_eq!(message_end(&beep).0, AnsweredBy::MachineEndBeep);
}

#[test]
fn with_nothing_heard_it_gives_up() {
    assert_eq!(enable(&[]), (AnsweredBy::Unknown, 5_000));
    let mut detector = Detector::new(DetectionSettings::default(), at(100));
    assert_eq!(detector.handle_silence(at(349)), None);
    assert_eq!(detector.handle_silence(at(350)), Some(AnsweredBy::Unknown));
    assert_eq!(detector.handle_silence(at(9_000)), None, "it answers once");
    let loud = sound(&[Speech(20)]);
    let frame = loud[..].try_into().unwrap();
    assert_eq!(detector.handle_frame(at(9_001), frame), None);
}

/// A callee who suppresses silence sends nothing after his "Hello?".
#[test]
fn frames_that_never_came_are_silence() {
    let mut detector = Detector::new(DetectionSettings::default(), MediaTime::default());
    let audio = sound(&[Speech(600)]);
    for (index, frame) in audio.chunks_exact(FRAME_BYTES).enumerate() {
        let answer = detector.handle_frame(at(index), frame.try_into().unwrap());
        assert_eq!(answer, None);
    }
    let frame = sound(&[Quiet(20)]);
    let answer = detector.handle_frame(at(100), frame[..].try_into().unwrap());
    assert_eq!(answer, Some(AnsweredBy::Human));
}

/// Whatever the rhythm: what counts is how much is said between the long pauses.
#[test]
fn the_rhythm_of_speech_makes_no_difference() {
    let seed = rand::random::<u64>();
    println!("SEED={seed}");
    let mut random = StdRng::seed_from_u64(seed);
    for _ in 0..40 {
        let (mut parts, mut said_ms) = (vec![Quiet(random.random_range(0..1_500))], 0);
        let wanted_ms = if random.random() { 1_400 } else { 3_600 };
        while said_ms < wanted_ms {
            let ms = random.random_range(200..700);
            parts.extend([Speech(ms), Quiet(random.random_range(40..260))]);
            said_ms += ms;
        }
        let (answer, _) = enable(&parts);
        let is_long = wanted_ms > 2_400;
        // Between the two, pauses decide.
        let expected = match is_long {
            true => AnsweredBy::MachineStart,
            false => AnsweredBy::Human,
        };
        let spoken_with_pauses: usize = parts[1..]
            .iter()
            .map(|part| match part {
                Quiet(ms) | Speech(ms) => *ms,
                _ => 0,
            })
            .sum();
        if is_long || spoken_with_pauses < 2_200 {
            assert_eq!(answer, expected, "{parts:?}");
        }
    }
}

proptest! {
    /// Foreign audio at any time: it answers by the timeout, and once.
    #[test]
    fn whatever_comes_it_ends(
        frames in prop::collection::vec((any::<u64>(), prop::array::uniform32(any::<u8>())), 1..40),
    ) {
        let mut detector = Detector::new(DetectionSettings::default(), MediaTime::default());
        let mut answers = 0;
        for (samples, bytes) in frames {
            let frame = std::array::from_fn(|index| bytes[index % 32]);
            answers += usize::from(detector.handle_frame(MediaTime { samples }, &frame).is_some());
        }
        answers += usize::from(detector.handle_silence(at(3_000)).is_some());
        prop_assert_eq!(answers, 1);
    }
}
