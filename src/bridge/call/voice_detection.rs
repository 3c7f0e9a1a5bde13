//! Answering-machine detection of a call that we place: the callee's sound, from the answer on, goes to a
//! [`Detector`] until that knows who has answered. What is heard is taken as a one-way copy takes it.

use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval};

use super::voice_fetch::Waited;
use crate::bridge::leg::copied_audio::{Copied, CopiedAudio, Piece};
use crate::bridge::leg::leg_media::LegMedia;
use crate::core::answering_machine::{AnsweredBy, DetectionSettings, Detector};
use crate::core::media_session::clock::MediaTime;
use crate::core::media_session::playout::BYTES_PER_MS;
use crate::core::twiml::document::{Track, Webhook};
use crate::core::voice::COPIES_MAX;
use crate::media::pacer::FRAME;

/// The place of the detection among the taps of a leg: behind those of the copies.
const PLACE: usize = COPIES_MAX;
/// Sound that has not come for so long is silence: pauses of callees who send no RTP in them are filled sooner.
const LATE: Duration = Duration::from_secs(1);

/// What is asked for: `MachineDetection` and what belongs to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlacedDetection {
    /// How.
    pub settings: DetectionSettings,
    /// `AsyncAmd`: TwiML does not wait for it.
    pub is_async: bool,
    /// `AsyncAmdStatusCallback`: told who it was, where TwiML does not wait.
    pub callback: Option<Webhook>,
}

/// Who has answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::bridge) struct Verdict {
    pub(in crate::bridge) answered_by: AnsweredBy,
    /// How long after the answer that was known.
    pub(in crate::bridge) after: Duration,
    /// Who is to be told; `None` where TwiML has waited for it, or nobody asked.
    pub(in crate::bridge) callback: Option<Webhook>,
    /// TwiML has waited for it.
    pub(in crate::bridge) is_awaited: bool,
}

/// The detection of one call, if there is one.
#[derive(Default)]
pub(in crate::bridge) struct VoiceDetection {
    wanted: Option<PlacedDetection>,
    running: Option<Waited<Verdict>>,
}

impl VoiceDetection {
    /// What is to begin with the answer.
    pub(in crate::bridge) const fn new(wanted: Option<PlacedDetection>) -> Self {
        Self {
            wanted,
            running: None,
        }
    }

    /// The callee has answered: whether TwiML waits for the verdict.
    pub(in crate::bridge) fn begin(&mut self, media: &LegMedia) -> bool {
        let Some(wanted) = self.wanted.take() else {
            return false;
        };
        let is_awaited = !wanted.is_async;
        let heard = media.begin_copy(PLACE, Track::Inbound);
        self.running = Some(Box::pin(detect(wanted, heard)));
        is_awaited
    }

    /// The verdict, once; never, while nothing is to be detected. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> Verdict {
        let verdict = match &mut self.running {
            Some(running) => running.as_mut().await,
            None => std::future::pending().await,
        };
        self.running = None;
        verdict
    }

    /// Nothing more is listened to.
    pub(in crate::bridge) fn end(&mut self, media: &LegMedia) {
        self.running = None;
        media.end_copy(PLACE);
    }
}

async fn detect(wanted: PlacedDetection, mut heard: CopiedAudio) -> Verdict {
    let began = Instant::now();
    let mut detector = Detector::new(wanted.settings, MediaTime::default());
    let mut frames = interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        frames.tick().await;
        let silent_until = began.elapsed().saturating_sub(LATE);
        let found = listen(&mut detector, &mut heard)
            .or_else(|| detector.handle_silence(media_time(silent_until)));
        if let Some(answered_by) = found {
            return Verdict {
                answered_by,
                after: began.elapsed(),
                callback: wanted.callback.filter(|_| wanted.is_async),
                is_awaited: !wanted.is_async,
            };
        }
    }
}

/// Takes all that has been heard.
fn listen(detector: &mut Detector, heard: &mut CopiedAudio) -> Option<AnsweredBy> {
    while let Some(Copied { at_ms, piece, .. }) = heard.poll_next() {
        if let Piece::Frame(frame) = piece
            && let Some(answered_by) =
                detector.handle_frame(media_time(Duration::from_millis(at_ms)), &frame)
        {
            return Some(answered_by);
        }
    }
    None
}

fn media_time(since_answer: Duration) -> MediaTime {
    let ms = u64::try_from(since_answer.as_millis()).unwrap_or(u64::MAX / BYTES_PER_MS);
    MediaTime {
        samples: ms * BYTES_PER_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::leg::copied_audio::CopyTaps;
    use crate::core::answering_machine::MachineDetection;
    use crate::core::g711::linear_to_mulaw;
    use crate::core::outward::WrittenBy;
    use crate::core::twiml::VoiceUrl;
    use crate::core::twiml::document::HttpMethod;

    fn wanted(is_async: bool) -> PlacedDetection {
        PlacedDetection {
            settings: DetectionSettings {
                mode: MachineDetection::Enable,
                timeout: Duration::from_secs(10),
                ..DetectionSettings::default()
            },
            is_async,
            callback: Some(Webhook {
                url: VoiceUrl::parse_http("https://bot.example/who").unwrap(),
                method: HttpMethod::Post,
                written_by: WrittenBy::Client,
            }),
        }
    }

    /// A frame of something that is no single tone, as speech is not; or of a quiet line.
    fn frame(is_spoken: bool, number: u64) -> [u8; 160] {
        std::array::from_fn(|index| {
            let at = (number * 160 + index as u64) as f32 / 8_000.0;
            let wave = |hz: f32| (at * hz * std::f32::consts::TAU).sin();
            let voice = wave(180.0) + wave(540.0) + wave(1_240.0) + wave(2_300.0);
            let loudness = if is_spoken { 2_000.0 } else { 4.0 };
            linear_to_mulaw((voice * loudness) as i16)
        })
    }

    /// Says something from 300 ms on, for so long, and is quiet then.
    async fn speak(taps: &mut CopyTaps, spoken_ms: u64) {
        let tap = taps.inbound.as_mut().unwrap();
        for number in 0..600 {
            let ms = number * 20;
            // Syllables: what sounds on and on is the noise of a line.
            let is_spoken = (300..300 + spoken_ms).contains(&ms) && ms % 260 < 160;
            let at = media_time(Duration::from_millis(ms));
            tap.handle_frame(at, &frame(is_spoken, number));
            tokio::time::sleep(FRAME).await;
        }
    }

    async fn verdict(is_async: bool, spoken_ms: Option<u64>) -> Verdict {
        let (heard, mut taps) = CopiedAudio::new(Track::Inbound, MediaTime::default());
        let detection = detect(wanted(is_async), heard);
        let Some(spoken_ms) = spoken_ms else {
            return detection.await;
        };
        tokio::select! {
            verdict = detection => verdict,
            () = speak(&mut taps, spoken_ms) => panic!("no verdict"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_brief_greeting_is_a_person_and_a_long_one_a_machine() {
        let person = verdict(false, Some(600)).await;
        assert_eq!(person.answered_by, AnsweredBy::Human);
        assert!(person.is_awaited && person.callback.is_none());
        // 300 ms, 600 ms of speech, 1.2 s of silence.
        let after_ms = person.after.as_millis();
        assert!((2_000..2_400).contains(&after_ms), "{after_ms}");
        let machine = verdict(true, Some(5_000)).await;
        assert_eq!(machine.answered_by, AnsweredBy::MachineStart);
        assert!(!machine.is_awaited && machine.callback.is_some());
        let after_ms = machine.after.as_millis();
        assert!((2_600..3_100).contains(&after_ms), "{after_ms}");
    }

    #[tokio::test(start_paused = true)]
    async fn of_a_callee_who_sends_nothing_nobody_knows() {
        let unknown = verdict(false, None).await;
        assert_eq!(unknown.answered_by, AnsweredBy::Unknown);
        // The silence timeout, and what may be late.
        let after_ms = unknown.after.as_millis();
        assert!((5_900..6_200).contains(&after_ms), "{after_ms}");
    }
}
