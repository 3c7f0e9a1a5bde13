//! What holds of every call, whatever comes in whatever order.

use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::stage_tests::{call_id, webhook};
use super::terms::{
    CommandId, DialLegEnd, DialLegEvent, FetchFailure, Instructions, StreamEnd, VoiceCommand,
    VoicePolicy, VoiceRole,
};
use super::{COPIES_MAX, VoiceCall};
use crate::core::outward::WrittenBy;
use crate::core::twiml::dial_string::DialString;
use crate::core::twiml::parse;

const VERBS: &[&str] = &[
    "<Say>a</Say>",
    "<Say loop='0'>a</Say>",
    "<Play loop='2'>http://h/a.wav</Play>",
    "<Play digits='1w2'/>",
    "<Pause/>",
    "<Pause length='0'/>",
    "<Gather numDigits='2' action='http://h/g'><Say>b</Say><Pause/></Gather>",
    "<Gather/>",
    "<Connect><Stream url='wss://h/'/></Connect>",
    "<Connect action='http://h/c'><Stream url='wss://h/'/></Connect>",
    "<Start><Stream url='wss://h/'/></Start>",
    "<Start><Stream url='wss://h/' name='n'/></Start>",
    "<Stop><Stream name='n'/></Stop>",
    "<Dial>+331</Dial>",
    "<Dial/>",
    "<Dial answerOnBridge='true' hangupOnStar='true' action='http://h/d'><Number url='http://h/w'>+331</Number>\
     <Number sendDigits='w1'>+332</Number></Dial>",
    "<Redirect>http://h/r</Redirect>",
    "<Reject/>",
    "<Hangup/>",
];

#[derive(Clone, Debug)]
enum Input {
    Document(Vec<&'static str>),
    Webhook,
    Fetched(u32, Option<Vec<&'static str>>),
    Established,
    Played(u32, bool),
    Digit(char),
    StreamEnded(u32, StreamEnd),
    CopyEnded(u32),
    Leg(u32, usize, DialLegEvent),
    Wait(u64),
    Deadline,
    HangUp,
    Ended,
}

/// How many commands ago the one was that an answer belongs to: mostly the last.
fn back() -> impl Strategy<Value = u32> {
    prop_oneof![8 => Just(0_u32), 2 => 1..4_u32]
}

fn verbs() -> impl Strategy<Value = Vec<&'static str>> {
    vec(prop::sample::select(VERBS), 0..5)
}

fn leg_event() -> impl Strategy<Value = DialLegEvent> {
    let ends = [
        DialLegEnd::HungUp,
        DialLegEnd::Busy,
        DialLegEnd::NoAnswer,
        DialLegEnd::Failed,
    ];
    prop_oneof![
        Just(DialLegEvent::Placed(call_id())),
        Just(DialLegEvent::Answered),
        Just(DialLegEvent::DocumentOver),
        prop::sample::select(ends.to_vec()).prop_map(DialLegEvent::Ended),
    ]
}

fn input() -> impl Strategy<Value = Input> {
    let end = prop_oneof![Just(StreamEnd::Closed), Just(StreamEnd::Lost)];
    prop_oneof![
        2 => verbs().prop_map(Input::Document),
        1 => Just(Input::Webhook),
        8 => (back(), prop::option::weighted(0.8, verbs())).prop_map(|(back, verbs)| Input::Fetched(back, verbs)),
        4 => Just(Input::Established),
        8 => (back(), prop::bool::weighted(0.9)).prop_map(|(back, whole)| Input::Played(back, whole)),
        4 => prop::sample::select(vec!['1', '#', '*', 'x']).prop_map(Input::Digit),
        4 => (back(), end).prop_map(|(back, end)| Input::StreamEnded(back, end)),
        1 => back().prop_map(Input::CopyEnded),
        8 => (back(), 0..3_usize, leg_event()).prop_map(|(back, leg, event)| Input::Leg(back, leg, event)),
        4 => (0..3_000_u64).prop_map(Input::Wait),
        6 => Just(Input::Deadline),
        1 => prop_oneof![Just(Input::HangUp), Just(Input::Ended)],
    ]
}

/// The call, and what must hold of what it asks for.
struct Watched {
    call: VoiceCall,
    now: Instant,
    last_id: u32,
    is_answered: bool,
    live_legs: Vec<usize>,
    is_final: bool,
}

impl Watched {
    fn feed(&mut self, input: Input) {
        let (now, call) = (self.now, &mut self.call);
        let id = |back: u32| CommandId(self.last_id.saturating_sub(back));
        match input {
            Input::Document(verbs) => {
                let was_over = call.is_over();
                let taken = call.handle_instructions(now, Instructions::Document(document(&verbs)));
                assert_eq!(taken, !was_over);
            }
            Input::Webhook => {
                call.handle_instructions(now, Instructions::Webhook(webhook("/w")));
            }
            Input::Fetched(back, verbs) => {
                let answer = verbs.map(|verbs| document(&verbs));
                call.handle_fetched(now, id(back), answer.ok_or(FetchFailure::Status(500)));
            }
            Input::Established => call.handle_established(now),
            Input::Played(back, whole) => call.handle_played(now, id(back), whole),
            Input::Digit(digit) => call.handle_digit(now, digit),
            Input::StreamEnded(back, end) => call.handle_stream_ended(now, id(back), end),
            Input::CopyEnded(back) => call.handle_copy_ended(id(back)),
            Input::Leg(back, leg, event) => {
                if matches!(event, DialLegEvent::Ended(_)) {
                    self.live_legs.retain(|own| *own != leg);
                }
                call.handle_leg(now, id(back), leg, event);
            }
            Input::Wait(ms) => self.now += Duration::from_millis(ms),
            Input::Deadline => {
                if let Some(at) = call.poll_timeout() {
                    self.now = self.now.max(at);
                    call.handle_timeout(self.now);
                    assert!(call.poll_timeout().is_none_or(|next| next >= self.now));
                }
            }
            Input::HangUp => call.handle_hangup_request(now),
            Input::Ended => call.handle_call_ended(now),
        }
        self.drain();
    }

    fn drain(&mut self) {
        let mut count = 0;
        while let Some(command) = self.call.poll_command() {
            count += 1;
            assert!(count < 200, "it asks for no end of things");
            assert!(!self.is_final, "{command:?} after the end");
            self.watch(command);
        }
        if self.call.is_over() {
            assert_eq!(self.call.poll_timeout(), None);
        }
    }

    fn watch(&mut self, command: VoiceCommand) {
        match command {
            VoiceCommand::Fetch { id, .. }
            | VoiceCommand::Play { id, .. }
            | VoiceCommand::SendDigits { id, .. } => self.last_id = id.0,
            VoiceCommand::OpenStream { id, .. } => {
                assert!(self.is_answered, "a worker before the answer");
                self.last_id = id.0;
            }
            VoiceCommand::StartCopy { id, .. } => self.last_id = id.0,
            VoiceCommand::Dial { id, dial } => {
                self.live_legs = (0..dial.targets.len()).collect();
                self.last_id = id.0;
            }
            VoiceCommand::JoinLeg(_) => assert!(self.is_answered, "answered before it is joined"),
            VoiceCommand::EndLeg(leg) => self.live_legs.retain(|own| *own != leg),
            VoiceCommand::Answer => {
                assert!(!self.is_answered, "answered once");
                self.is_answered = true;
            }
            VoiceCommand::Refuse(_) => {
                assert!(!self.is_answered, "refused after the answer");
                self.is_final = true;
            }
            VoiceCommand::HangUp { .. } | VoiceCommand::FallBack => {
                assert!(self.live_legs.is_empty(), "a leg is left alone");
                self.is_final = true;
            }
            VoiceCommand::Finished => panic!("only for a dialled leg"),
            VoiceCommand::Notify(_)
            | VoiceCommand::StopSound
            | VoiceCommand::CloseStream
            | VoiceCommand::StopCopy(_)
            | VoiceCommand::RunLegDocument { .. }
            | VoiceCommand::Warn(_) => {}
        }
    }
}

fn document(verbs: &[&str]) -> crate::core::twiml::Document {
    parse(
        format!("<Response>{}</Response>", verbs.concat()).as_bytes(),
        None,
        WrittenBy::Client,
    )
    .unwrap()
}

proptest! {
    #[test]
    fn nothing_that_comes_breaks_a_call(
        inputs in vec(input(), 0..60),
        (can_say, is_answered) in any::<(bool, bool)>(),
        (has_fallback, has_first) in any::<(bool, bool)>(),
    ) {
        let policy = VoicePolicy {
            fallback: has_fallback.then(|| webhook("/fallback")),
            can_say,
            first_digits: has_first.then(|| DialString::parse("w1w2").unwrap()),
            role: VoiceRole::Inbound,
            is_answered,
        };
        let mut watched = Watched {
            call: VoiceCall::new(policy),
            now: Instant::now(),
            last_id: 0,
            is_answered,
            live_legs: Vec::new(),
            is_final: false,
        };
        watched.feed(Input::Webhook);
        for input in inputs {
            watched.feed(input);
        }
        prop_assert!(watched.call.copies.len() <= COPIES_MAX);
    }
}
