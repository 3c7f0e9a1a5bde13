//! Calls that TwiML has, in virtual time: this machine alone, and whole conversations with
//! [`VoiceCall`] beside it, as the bridge drives the two.

use super::tests::{SECOND, outputs, policy, streaming};
use super::*;
use crate::core::media_link::Direction;
use crate::core::outward::WrittenBy;
use crate::core::private::Private;
use crate::core::twiml::document::{HttpMethod, Webhook};
use crate::core::twiml::{VoiceUrl, parse};
use crate::core::voice::{
    CommandId, FetchFailure, Instructions, StreamEnd, VoiceCall, VoiceCommand, VoicePolicy,
    VoiceRole,
};

const STREAM: &str = "<Connect><Stream url='wss://w/'/></Connect>";

/// A scripted call, answered and acknowledged.
fn scripted() -> (Call, Instant) {
    let now = Instant::now();
    let mut call = Call::new(policy());
    call.handle_voice_start();
    call.handle_voice_answer();
    call.handle_established(now);
    call.handle_media(now, Direction::SendRecv);
    outputs(&mut call);
    (call, now)
}

/// The numbers of the attempts that are asked for.
fn dialled(call: &mut Call) -> Vec<u32> {
    let asked = outputs(call).into_iter();
    let number = |output| match output {
        Output::Dial(attempt) => Some(attempt.number),
        _ => None,
    };
    asked.filter_map(number).collect()
}

#[test]
fn it_rings_and_asks_nobody() {
    let mut call = Call::new(policy());
    call.handle_voice_start();
    assert_eq!(
        outputs(&mut call),
        [Output::Report(Report::Ringing), Output::Answer(180)]
    );
    assert_eq!(call.poll_timeout(), None);
    let now = Instant::now();
    call.handle_voice_answer();
    call.handle_voice_answer();
    assert_eq!(outputs(&mut call), [Output::Answer(200)]);
    call.handle_established(now);
    assert_eq!(outputs(&mut call), [Output::Report(Report::Answered)]);
    call.handle_leg_ended(true);
    assert_eq!(
        outputs(&mut call),
        [Output::Finished(Outcome::CallerHungUp)]
    );
}

#[test]
fn who_hangs_up_while_it_rings_has_abandoned_it() {
    let mut call = Call::new(policy());
    call.handle_voice_start();
    outputs(&mut call);
    call.handle_leg_ended(true);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Abandoned)]);
}

#[test]
fn the_length_of_the_call_and_its_media_are_watched() {
    let now = Instant::now();
    let mut call = Call::new(CallPolicy {
        max_duration: Some(60 * SECOND),
        ..policy()
    });
    call.handle_voice_start();
    call.handle_media(now, Direction::SendRecv);
    // It rang for long, and sent nothing.
    let now = now + 15 * SECOND;
    call.handle_voice_answer();
    call.handle_established(now);
    assert_eq!(call.poll_timeout(), Some((now + 20 * SECOND, Timer::Media)));
    for second in 1..=60 {
        call.handle_rtp(now + second * SECOND);
        call.handle_timeout(now + second * SECOND);
    }
    assert!(outputs(&mut call).contains(&Output::Hangup(200)));
    call.handle_leg_ended(false);
    assert_eq!(
        outputs(&mut call),
        [Output::Finished(Outcome::DurationLimit)]
    );
}

#[test]
fn each_stream_is_another_one() {
    let (mut call, now) = scripted();
    call.handle_voice_stream(now);
    let first = outputs(&mut call);
    assert!(
        !first.contains(&Output::ForgetEarly),
        "what the caller says first is for the first worker: {first:?}"
    );
    assert!(matches!(
        first[..],
        [Output::Dial(Attempt { number: 1, .. })]
    ));
    assert!(call.handle_attached(now));
    // The failover of the first stream.
    call.handle_worker(now + SECOND, WorkerInput::Lost);
    call.handle_timeout(now + 2 * SECOND);
    assert_eq!(dialled(&mut call), [2]);
    assert!(call.handle_attached(now + 2 * SECOND));
    call.handle_worker(now + 3 * SECOND, WorkerInput::Closed);
    call.handle_played_out(now + 4 * SECOND);
    outputs(&mut call);

    call.handle_voice_stream(now + 5 * SECOND);
    let second = outputs(&mut call);
    assert_eq!(second[0], Output::ForgetEarly);
    let Output::Dial(attempt) = &second[1] else {
        panic!("{second:?}");
    };
    assert_eq!((attempt.number, attempt.resumed), (3, false));
}

#[test]
fn a_worker_that_closes_gives_the_caller_back_once_all_is_heard() {
    let (mut call, now) = scripted();
    call.handle_voice_stream(now);
    assert!(call.handle_attached(now));
    outputs(&mut call);
    call.handle_worker(now, WorkerInput::Closed);
    assert_eq!(outputs(&mut call), [Output::PlayOut]);
    call.handle_played_out(now + SECOND);
    assert_eq!(
        outputs(&mut call),
        [
            Output::DropStream,
            Output::IdleSound(IdleSound::Silence),
            Output::StreamOver(StreamEnd::Closed),
        ]
    );
    // What never ends is ended.
    call.handle_voice_stream(now + SECOND);
    assert!(call.handle_attached(now + SECOND));
    call.handle_worker(now + SECOND, WorkerInput::Closed);
    outputs(&mut call);
    call.handle_rtp(now + PLAY_OUT_LIMIT);
    call.handle_timeout(now + SECOND + PLAY_OUT_LIMIT);
    let over = Output::StreamOver(StreamEnd::Closed);
    assert!(outputs(&mut call).contains(&over));
}

#[test]
fn a_worker_that_says_hangup_ends_the_call() {
    let (mut call, now) = scripted();
    call.handle_voice_stream(now);
    assert!(call.handle_attached(now));
    call.handle_worker(now, WorkerInput::Hangup);
    call.handle_worker(now, WorkerInput::Closed);
    outputs(&mut call);
    call.handle_played_out(now);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    call.handle_leg_ended(false);
    assert_eq!(
        outputs(&mut call),
        [Output::Finished(Outcome::WorkerHungUp)]
    );
}

#[test]
fn a_search_that_is_given_up_is_the_end_of_its_stream_alone() {
    let (mut call, now) = scripted();
    call.handle_voice_stream(now);
    let mut last = Vec::new();
    for _ in 0..100 {
        let (at, _) = call.poll_timeout().expect("a search");
        call.handle_rtp(at);
        call.handle_timeout(at);
        call.handle_dial_failed(at);
        last = outputs(&mut call);
        if last.contains(&Output::StopSearch) {
            assert_eq!(at, now + 30 * SECOND);
            break;
        }
    }
    assert_eq!(last.last(), Some(&Output::StreamOver(StreamEnd::Lost)));
    assert!(!call.is_ending());
}

#[test]
fn a_stream_that_twiml_closes_is_told_of_by_nobody() {
    let (mut call, now) = scripted();
    call.handle_voice_stream(now);
    outputs(&mut call);
    call.handle_voice_stream_closed(now);
    let silence = Output::IdleSound(IdleSound::Silence);
    assert_eq!(outputs(&mut call), [Output::StopSearch, silence.clone()]);
    assert!(!call.handle_attached(now), "the worker comes too late");

    call.handle_voice_stream(now);
    assert!(call.handle_attached(now));
    outputs(&mut call);
    call.handle_voice_stream_closed(now);
    assert_eq!(
        outputs(&mut call),
        [Output::StopStream, Output::DropStream, silence]
    );
    assert!(!call.is_streaming());
    // The driver heard of its last audio's end all the same.
    call.handle_played_out(now);
    assert_eq!(outputs(&mut call), []);
}

#[test]
fn twiml_takes_over_what_a_worker_has() {
    let (mut call, now) = streaming(policy());
    assert_eq!(call.handle_voice_takeover(now), Ok(()));
    let silence = Output::IdleSound(IdleSound::Silence);
    let let_go = [Output::StopStream, Output::DropStream, silence.clone()];
    assert_eq!(outputs(&mut call), let_go);
    assert!(call.is_answered());
    call.handle_voice_end(now, 603);
    assert_eq!(outputs(&mut call), [Output::Hangup(200)]);
    assert_eq!(call.handle_voice_takeover(now), Err(Denied::Over));

    // One that waits for a worker, and one whose worker has just closed.
    let mut call = Call::new(policy());
    call.handle_start(now);
    call.handle_established(now);
    outputs(&mut call);
    assert_eq!(call.handle_voice_takeover(now), Ok(()));
    assert_eq!(outputs(&mut call), [Output::StopSearch, silence.clone()]);
    let (mut call, now) = streaming(policy());
    call.handle_worker(now, WorkerInput::Closed);
    outputs(&mut call);
    assert_eq!(call.handle_voice_takeover(now), Ok(()));
    assert_eq!(outputs(&mut call), [Output::DropStream, silence]);
    call.handle_played_out(now);
    assert!(!call.is_ending());
}

#[test]
fn the_fallback_is_not_taken_over() {
    let (mut call, now) = scripted();
    call.handle_voice_fall_back(now);
    let step = Report::Fallback(FallbackStep::Announcement, Reason::WebhookFailed);
    assert_eq!(outputs(&mut call)[0], Output::Report(step));
    assert_eq!(call.handle_voice_takeover(now), Err(Denied::Leaving));
}

#[test]
fn a_call_that_we_place_is_twimls_once_it_is_answered() {
    let now = Instant::now();
    let mut call = Call::new(policy());
    call.handle_placed(now, 30 * SECOND);
    assert_eq!(call.handle_voice_takeover(now), Ok(()));
    outputs(&mut call);
    call.handle_established(now + SECOND);
    assert_eq!(
        outputs(&mut call),
        [
            Output::Report(Report::Answered),
            Output::ForgetEarly,
            Output::IdleSound(IdleSound::Silence),
        ]
    );
    call.handle_voice_stream(now + SECOND);
    assert_eq!(dialled(&mut call), [1]);
    call.handle_leg_ended(true);
    assert!(outputs(&mut call).contains(&Output::Finished(Outcome::CalleeHungUp)));
}

#[test]
fn a_transfer_that_is_done_ends_the_call_though_twiml_went_on() {
    let (mut call, now) = scripted();
    assert_eq!(call.check_transfer(), Err(Denied::Scripted));
    call.handle_voice_stream(now);
    assert!(call.handle_attached(now));
    call.handle_worker(now, WorkerInput::Transfer(Private::new("+331")));
    call.handle_worker(now, WorkerInput::Closed);
    outputs(&mut call);
    // BYE, or another verb, would end the transfer.
    call.handle_played_out(now);
    assert_eq!(outputs(&mut call), []);
    call.handle_rtp(now + FALLBACK_LIMIT);
    call.handle_timeout(now + FALLBACK_LIMIT);
    call.handle_transfer(now, 200, true);
    let done = outputs(&mut call);
    assert!(done.contains(&Output::StreamOver(StreamEnd::Closed)));
    assert_eq!(done.last(), Some(&Output::Hangup(200)));
    call.handle_leg_ended(false);
    assert_eq!(outputs(&mut call), [Output::Finished(Outcome::Transferred)]);
}

// ---- together with VoiceCall ----

/// The two machines of one call, driven as the bridge does.
struct Both {
    call: Call,
    voice: VoiceCall,
    now: Instant,
    /// What each path answers: the inside of `<Response>`. Others are down.
    answers: &'static [(&'static str, &'static str)],
    /// The command whose stream is open.
    stream: Option<CommandId>,
    /// The last command that awaits the end of a sound.
    sound: Option<CommandId>,
}

impl Both {
    /// An incoming call up to the first thing that is waited for.
    fn ring(answers: &'static [(&'static str, &'static str)]) -> (Self, Vec<String>) {
        let mut both = Self {
            call: Call::new(policy()),
            voice: VoiceCall::new(VoicePolicy {
                fallback: Some(webhook("/fallback")),
                role: VoiceRole::Inbound,
                ..VoicePolicy::default()
            }),
            now: Instant::now(),
            answers,
            stream: None,
            sound: None,
        };
        both.call.handle_voice_start();
        let first = Instructions::Webhook(webhook("/voice"));
        assert!(both.voice.handle_instructions(both.now, first));
        let told = both.settle();
        (both, told)
    }

    /// The same, acknowledged.
    fn answered(answers: &'static [(&'static str, &'static str)]) -> (Self, Vec<String>) {
        let (mut both, _) = Self::ring(answers);
        let told = both.established();
        (both, told)
    }

    fn established(&mut self) -> Vec<String> {
        self.call.handle_established(self.now);
        self.voice.handle_established(self.now);
        self.settle()
    }

    fn attached(&mut self) -> Vec<String> {
        assert!(self.call.handle_attached(self.now));
        self.settle()
    }

    fn worker(&mut self, input: WorkerInput) -> Vec<String> {
        self.call.handle_worker(self.now, input);
        self.settle()
    }

    fn played_out(&mut self) -> Vec<String> {
        self.call.handle_played_out(self.now);
        self.settle()
    }

    fn leg_ended(&mut self) -> Vec<String> {
        self.call.handle_leg_ended(true);
        self.settle()
    }

    /// Time passes up to the next deadline of either machine.
    fn pass(&mut self) -> Vec<String> {
        let call = self.call.poll_timeout().map(|(at, _)| at);
        let next = [call, self.voice.poll_timeout()].into_iter().flatten();
        self.now = next.min().expect("something is waited for");
        self.call.handle_rtp(self.now);
        self.call.handle_timeout(self.now);
        self.voice.handle_timeout(self.now);
        self.settle()
    }

    /// Does what either machine asks for, until neither does.
    fn settle(&mut self) -> Vec<String> {
        let mut told = Vec::new();
        loop {
            if let Some(output) = self.call.poll_output() {
                self.perform(output, &mut told);
            } else if self.call.is_ending() && !self.voice.is_over() {
                self.voice.handle_call_ended(self.now);
            } else if let Some(command) = self.voice.poll_command() {
                self.obey(command, &mut told);
            } else {
                return told;
            }
        }
    }

    fn perform(&mut self, output: Output, told: &mut Vec<String>) {
        match output {
            Output::StreamOver(end) => {
                let id = self.stream.take().expect("a stream is open");
                self.voice.handle_stream_ended(self.now, id, end);
            }
            Output::Dial(attempt) => told.push(format!("dial {}", attempt.number)),
            Output::Report(_) | Output::IdleSound(_) | Output::ForgetEarly => {}
            other => told.push(format!("{other:?}")),
        }
    }

    fn obey(&mut self, command: VoiceCommand, told: &mut Vec<String>) {
        let now = self.now;
        match command {
            VoiceCommand::Fetch { id, request } => {
                let path = request.webhook.url.expose().replace("http://bot", "");
                told.push(format!("fetch {path}"));
                let answer = self.answer(&path);
                self.voice.handle_fetched(now, id, answer);
            }
            VoiceCommand::Answer => self.call.handle_voice_answer(),
            VoiceCommand::Refuse(status) => self.call.handle_voice_refusal(now, status),
            VoiceCommand::HangUp { unanswered } => self.call.handle_voice_end(now, unanswered),
            VoiceCommand::FallBack => self.call.handle_voice_fall_back(now),
            VoiceCommand::OpenStream { id, .. } => {
                self.stream = Some(id);
                self.call.handle_voice_stream(now);
            }
            VoiceCommand::CloseStream => {
                self.stream = None;
                self.call.handle_voice_stream_closed(now);
            }
            VoiceCommand::Play { id, .. } => self.sound = Some(id),
            VoiceCommand::Warn(warning) => told.push(format!("warn: {warning}")),
            other => told.push(format!("{other:?}")),
        }
    }

    fn answer(&self, path: &str) -> Result<crate::core::twiml::Document, FetchFailure> {
        let found = self.answers.iter().find(|(known, _)| *known == path);
        let (_, inner) = found.ok_or(FetchFailure::Status(503))?;
        let text = format!("<Response>{inner}</Response>");
        let address = webhook(path).url;
        Ok(parse(text.as_bytes(), Some(&address), WrittenBy::Operator).unwrap())
    }
}

fn webhook(path: &str) -> Webhook {
    Webhook {
        url: VoiceUrl::parse_http(&format!("http://bot{path}")).unwrap(),
        method: HttpMethod::Post,
        written_by: WrittenBy::Operator,
    }
}

#[test]
fn a_bot_answers_with_a_stream_whose_worker_talks_until_one_of_them_hangs_up() {
    let (mut both, told) = Both::ring(&[("/voice", STREAM)]);
    assert_eq!(told, ["Answer(180)", "fetch /voice", "Answer(200)"]);
    assert_eq!(both.established(), ["dial 1"]);
    assert_eq!(both.attached(), ["StartStream"]);
    assert_eq!(both.worker(WorkerInput::Closed), ["PlayOut"]);
    assert_eq!(both.played_out(), ["DropStream", "Hangup(200)"]);
    assert!(both.voice.is_over());
    assert_eq!(both.leg_ended(), ["Finished(WorkerHungUp)"]);

    let (mut both, _) = Both::answered(&[("/voice", STREAM)]);
    both.attached();
    assert_eq!(both.leg_ended(), ["StopStream", "Finished(CallerHungUp)"]);
    assert!(both.voice.is_over());
}

#[test]
fn a_call_that_is_rejected_was_never_answered() {
    for (inner, status) in [("<Reject reason='busy'/>", 486), ("<Reject/>", 603)] {
        let mut both = Both::ring(&[]).0;
        both.call = Call::new(policy());
        both.call.handle_voice_start();
        both.voice = VoiceCall::new(VoicePolicy::default());
        let text = format!("<Response>{inner}</Response>");
        let document = parse(text.as_bytes(), None, WrittenBy::Operator).unwrap();
        both.voice
            .handle_instructions(both.now, Instructions::Document(document));
        assert_eq!(
            both.settle(),
            ["Answer(180)".to_owned(), format!("Hangup({status})")]
        );
        assert_eq!(both.leg_ended(), ["Finished(Refused)"]);
    }
}

#[test]
fn a_webhook_that_is_down_is_followed_by_the_fallback_url_and_that_by_the_ladder() {
    let (_, told) = Both::ring(&[("/fallback", "<Reject/>")]);
    let asked = told.iter().filter(|told| told.starts_with("fetch"));
    assert_eq!(
        asked.collect::<Vec<_>>(),
        ["fetch /voice", "fetch /fallback"]
    );
    assert_eq!(told.last().unwrap(), "Hangup(603)");

    let (mut both, told) = Both::ring(&[]);
    assert_eq!(told[told.len() - 2..], ["Answer(200)", "PlayOut"]);
    assert_eq!(both.established(), [""; 0]);
    assert_eq!(both.played_out(), ["Hangup(200)"]);
    assert_eq!(both.leg_ended(), ["Finished(NoWorker)"]);
}

#[test]
fn a_pause_and_the_end_of_the_document_hang_up() {
    let (mut both, told) = Both::answered(&[("/voice", "<Pause length='2'/><Hangup/>")]);
    assert_eq!(told, [""; 0]);
    let began = both.now;
    assert_eq!(both.pass(), ["Hangup(200)"]);
    assert_eq!(both.now - began, 2 * SECOND);
    assert_eq!(both.leg_ended(), ["Finished(WorkerHungUp)"]);
}

#[test]
fn the_next_verb_and_the_next_worker_follow_a_worker_that_closes() {
    let (mut both, _) = Both::answered(&[
        (
            "/voice",
            "<Connect action='/after'><Stream url='wss://w/'/></Connect>",
        ),
        (
            "/after",
            "<Pause/><Connect><Stream url='wss://x/'/></Connect>",
        ),
    ]);
    both.attached();
    both.worker(WorkerInput::Closed);
    assert_eq!(both.played_out(), ["DropStream", "fetch /after"]);
    assert_eq!(both.pass(), ["dial 2"]);
    assert_eq!(both.attached(), ["StartStream"]);
}

#[test]
fn a_worker_that_is_lost_for_good_ends_in_the_ladder_or_the_next_verb() {
    let lost = |both: &mut Both| {
        both.attached();
        let mut told = both.worker(WorkerInput::Lost);
        for _ in 0..60 {
            both.call.handle_dial_failed(both.now);
            told.extend(both.settle());
            if told.iter().any(|told| told.contains("warn")) {
                break;
            }
            told.extend(both.pass());
        }
        told
    };
    let (mut both, _) = Both::answered(&[("/voice", STREAM)]);
    let told = lost(&mut both);
    assert_eq!(told.last().unwrap(), "PlayOut", "{told:?}");
    both.played_out();
    assert_eq!(both.leg_ended(), ["Finished(WorkerLost)"]);

    let (mut both, _) = Both::answered(&[(
        "/voice",
        "<Connect><Stream url='wss://w/'/></Connect><Hangup/>",
    )]);
    let told = lost(&mut both);
    assert_eq!(told.last().unwrap(), "Hangup(200)", "{told:?}");
}

#[test]
fn the_rest_api_replaces_a_stream_at_once() {
    let (mut both, _) = Both::answered(&[("/voice", STREAM), ("/new", "<Pause/>")]);
    both.attached();
    let new = Instructions::Webhook(webhook("/new"));
    assert_eq!(both.call.handle_voice_takeover(both.now), Ok(()));
    assert!(both.voice.handle_instructions(both.now, new));
    assert_eq!(both.settle(), ["StopStream", "DropStream", "fetch /new"]);
    assert_eq!(both.pass(), ["Hangup(200)"]);
}

#[test]
fn whoever_ends_the_call_ends_its_twiml() {
    let (mut both, _) = Both::answered(&[("/voice", "<Gather timeout='60'/>")]);
    assert_eq!(both.call.handle_hangup_request(both.now), Ok(()));
    assert_eq!(both.settle(), ["Hangup(200)"]);
    assert!(both.voice.is_over());
    assert_eq!(both.leg_ended(), ["Finished(ApiHungUp)"]);
}
