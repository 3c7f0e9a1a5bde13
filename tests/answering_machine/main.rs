//! Answering-machine detection on made greetings: people and machines in five languages, each on
//! four lines; beeps, faxes, and what nobody can tell. Prints how often it is right:
//! `cargo test --test answering_machine -- --nocapture`. The figures are in `src/guide/numbers.md`.
//!
//! `greetings` has the speech, and `greetings/make.sh` says how it was made; `line` puts it on a line.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod line;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use sipbridge::core::answering_machine::{
    AnsweredBy, DetectionSettings, Detector, MachineDetection,
};
use sipbridge::core::media_session::clock::MediaTime;

use Part::{Greeting, Pause, Tone};
use line::{LINES, Line, Part};

const FRAME_MS: usize = 20;
/// 40 s: longer than the detection may take.
const FRAMES_MAX: usize = 2_000;
/// What the detector answers within after "Hello?" and silence.
const PERSON_MS_MAX: usize = 2_000;
/// How much of a machine's greeting may pass before it is recognised.
const MACHINE_MS_MAX: usize = 4_000;

/// What a callee says, and who he is with each mode.
struct Callee {
    name: &'static str,
    parts: Vec<Part>,
    /// With `Enable`.
    at_start: AnsweredBy,
    /// With `DetectMessageEnd`.
    at_end: AnsweredBy,
}

fn callee(name: &'static str, parts: &[Part], at_start: AnsweredBy, at_end: AnsweredBy) -> Callee {
    Callee {
        name,
        parts: parts.to_vec(),
        at_start,
        at_end,
    }
}

const PEOPLE: [&str; 10] = [
    "person-hello",
    "person-who",
    "person-yeah",
    "person-allo",
    "person-oui",
    "person-bitte",
    "person-digame",
    "person-pronto",
    "person-pizzeria",
    "person-bistro",
];

/// A person who speaks for longer than the threshold, and is taken for a machine.
const TALKATIVE: &str = "person-office";

/// Each with its beep, in Hz and milliseconds.
const MACHINES: [(&str, f32, usize); 6] = [
    ("machine-mobile", 1_000.0, 400),
    ("machine-carrier", 440.0, 500),
    ("machine-messagerie", 850.0, 250),
    ("machine-mailbox", 1_400.0, 180),
    ("machine-buzon", 620.0, 1_000),
    ("machine-segreteria", 2_000.0, 300),
];

/// Those that end a call without a beep, or wait.
const MACHINES_WITHOUT_BEEP: [&str; 2] = ["machine-absent", "machine-closed"];

fn callees() -> Vec<Callee> {
    use AnsweredBy::{Fax, Human, MachineEndBeep, MachineEndSilence, MachineStart, Unknown};
    let people = PEOPLE
        .iter()
        .map(|name| callee(name, &[Pause(300), Greeting(name)], Human, Human));
    let machines = MACHINES.iter().map(|(name, hz, ms)| {
        let parts = [Pause(500), Greeting(name), Pause(600), Tone(*hz, *ms)];
        callee(name, &parts, MachineStart, MachineEndBeep)
    });
    let silent_machines = MACHINES_WITHOUT_BEEP.iter().map(|name| {
        let parts = [Pause(500), Greeting(name)];
        callee(name, &parts, MachineStart, MachineEndSilence)
    });
    let twice = [
        Pause(300),
        Greeting("person-hello"),
        Pause(900),
        Greeting("person-who"),
    ];
    let brief = [
        Pause(400),
        Greeting("machine-brief"),
        Pause(500),
        Tone(1_000.0, 400),
    ];
    let others = [
        callee("person-hello, person-who", &twice, Human, Human),
        callee(TALKATIVE, &[Pause(300), Greeting(TALKATIVE)], Human, Human),
        callee("machine-brief", &brief, MachineStart, MachineEndBeep),
        callee(
            "beep alone",
            &[Pause(800), Tone(950.0, 500)],
            MachineStart,
            MachineEndBeep,
        ),
        callee(
            "fax that answers",
            &[Pause(1_800), Tone(2_100.0, 2_600)],
            Fax,
            Fax,
        ),
        callee(
            "fax that calls",
            &[Pause(1_000), Tone(1_100.0, 500), Pause(3_000)],
            Fax,
            Fax,
        ),
        callee("nobody", &[], Unknown, Unknown),
        callee(
            "ringback behind a switchboard",
            &[Pause(300), Tone(425.0, 1_000)],
            Unknown,
            Unknown,
        ),
    ];
    let all = people.chain(machines).chain(silent_machines);
    all.chain(others).collect()
}

fn settings(mode: MachineDetection) -> DetectionSettings {
    DetectionSettings {
        mode,
        ..DetectionSettings::default()
    }
}

/// What is found, and how many milliseconds after the answer.
fn detect(settings: DetectionSettings, line: Line, parts: &[Part]) -> (AnsweredBy, usize) {
    let mut detector = Detector::new(settings, MediaTime::default());
    for (index, frame) in line.frames(parts).take(FRAMES_MAX).enumerate() {
        let at = MediaTime::default().plus_frames(index as u32);
        if let Some(answer) = detector.handle_frame(at, &frame) {
            return (answer, (index + 1) * FRAME_MS);
        }
    }
    panic!("no answer to {parts:?}");
}

/// How many milliseconds the parts last.
fn length_ms(parts: &[Part]) -> usize {
    parts.iter().map(|part| part.length_ms()).sum()
}

type Confusion = BTreeMap<(AnsweredBy, AnsweredBy), u32>;

/// All callees on all lines, with one mode.
fn confusion(mode: MachineDetection, wanted: impl Fn(&Callee) -> AnsweredBy) -> Confusion {
    let mut counts = Confusion::new();
    for callee in callees() {
        for line in LINES {
            let (found, ms) = detect(settings(mode), line, &callee.parts);
            let right = wanted(&callee);
            *counts.entry((right, found)).or_default() += 1;
            if found != right {
                let found = found.as_str();
                println!("{} ({}): {found} after {ms} ms", callee.name, line.name);
            }
        }
    }
    counts
}

/// Prints the table of the manual and returns right answers and all of them.
fn report(title: &str, counts: &Confusion) -> (u32, u32) {
    println!("{title}");
    for ((right, found), count) in counts {
        println!("| `{}` | `{}` | {count} |", right.as_str(), found.as_str());
    }
    let all = counts.values().sum();
    let is_right = |it: &(&(AnsweredBy, AnsweredBy), &u32)| it.0.0 == it.0.1;
    let right = counts.iter().filter(is_right).map(|it| it.1).sum();
    println!("{right} of {all} right");
    (right, all)
}

/// 19 of 20, as Twilio says of its own in the United States.
#[test]
fn nineteen_of_twenty_are_told_rightly() {
    let at_start = confusion(MachineDetection::Enable, |callee| callee.at_start);
    let at_end = confusion(MachineDetection::DetectMessageEnd, |callee| callee.at_end);
    for (title, counts) in [("Enable", at_start), ("DetectMessageEnd", at_end)] {
        let (right, all) = report(title, &counts);
        assert!(all >= 100, "{all} callees");
        assert!(right * 20 >= all * 19, "{title}: {right} of {all}");
    }
}

#[test]
fn a_person_is_known_within_two_seconds_of_silence() {
    for name in PEOPLE {
        let parts = [Pause(300), Greeting(name)];
        let (found, ms) = detect(settings(MachineDetection::Enable), LINES[0], &parts);
        assert_eq!(found, AnsweredBy::Human, "{name}");
        let after_ms = ms - length_ms(&parts);
        assert!(after_ms <= PERSON_MS_MAX, "{name}: {after_ms} ms");
    }
}

#[test]
fn a_machine_is_known_before_its_greeting_is_over() {
    let names = MACHINES.map(|machine| machine.0);
    for name in names.into_iter().chain(MACHINES_WITHOUT_BEEP) {
        let parts = [Greeting(name)];
        let (found, ms) = detect(settings(MachineDetection::Enable), LINES[0], &parts);
        println!("{name}: {ms} ms");
        assert_eq!(found, AnsweredBy::MachineStart, "{name}");
        assert!(ms <= MACHINE_MS_MAX, "{name}: {ms} ms");
    }
}

/// Whoever calls offices gives a higher threshold.
#[test]
fn a_person_who_says_more_needs_a_higher_threshold() {
    let parts = [Pause(300), Greeting(TALKATIVE)];
    let (found, _) = detect(settings(MachineDetection::Enable), LINES[0], &parts);
    assert_eq!(found, AnsweredBy::MachineStart);
    let patient = DetectionSettings {
        speech_threshold: Duration::from_millis(4_500),
        ..DetectionSettings::default()
    };
    assert_eq!(detect(patient, LINES[0], &parts).0, AnsweredBy::Human);
}

/// Its message may begin: the beep has just ended.
#[test]
fn the_beep_is_told_when_it_is_over() {
    for (name, hz, beep_ms) in MACHINES {
        let parts = [Greeting(name), Pause(600), Tone(hz, beep_ms)];
        let (found, ms) = detect(
            settings(MachineDetection::DetectMessageEnd),
            LINES[0],
            &parts,
        );
        assert_eq!(found, AnsweredBy::MachineEndBeep, "{name}");
        let after_ms = ms as i64 - length_ms(&parts) as i64;
        assert!((60..=200).contains(&after_ms), "{name}: {after_ms} ms");
    }
}

/// Not a test of behaviour, so it is ignored: `cargo test --release --test answering_machine --
/// --ignored --nocapture`. The budget is 2 µs for each frame of 20 ms.
#[test]
#[ignore = "measures"]
fn cost_of_a_frame() {
    const ROUNDS: u32 = 200;
    let parts = [Greeting("machine-mobile"), Tone(1_000.0, 4_000)];
    let audio: Vec<_> = LINES[0].frames(&parts).take(450).collect();
    let patient = DetectionSettings {
        speech_threshold: Duration::from_secs(60),
        ..DetectionSettings::default()
    };
    let mut frames = 0;
    let begun = Instant::now();
    for _ in 0..ROUNDS {
        let mut detector = Detector::new(patient, MediaTime::default());
        for (index, frame) in audio.iter().enumerate() {
            let at = MediaTime::default().plus_frames(index as u32);
            std::hint::black_box(detector.handle_frame(at, frame));
            frames += 1;
        }
    }
    let each = begun.elapsed() / frames;
    println!("{} ns per frame", each.as_nanos());
    if !cfg!(debug_assertions) {
        assert!(each.as_nanos() < 2_000, "over budget");
    }
}
