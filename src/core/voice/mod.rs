//! Programmable voice: one call that is run by TwiML, verb by verb.
//!
//! A pure state machine beside [`crate::core::call`], which keeps the call itself. What is to be done comes out of
//! [`VoiceCall::poll_command`], the next deadline out of [`VoiceCall::poll_timeout`].
//!
//! | source | inputs |
//! |---|---|
//! | the bridge, the REST API | `handle_instructions`, `handle_hangup_request`, `handle_timeout` |
//! | webhooks | `handle_fetched` |
//! | SIP | `handle_established`, `handle_call_ended`, `handle_digit` |
//! | media | `handle_played` |
//! | workers | `handle_stream_ended`, `handle_copy_ended` |
//! | SIP, the legs of `<Dial>` | `handle_leg` |
//!
//! # Rules
//!
//! - The call rings on until something has to be heard: `<Reject>` refuses it unanswered, and a `<Dial>` with
//!   `answerOnBridge` lets it ring. Every other verb answers it first.
//! - A placed call gets its `SendDigits` before its first instructions are looked at.
//! - Instructions of the REST API interrupt the running verb at once.
//! - Where a document cannot be had the fallback URL is asked, with `ErrorCode` and `ErrorUrl`; where that fails too,
//!   the line's ladder takes the call: never silence.
//! - After the last verb the call ends. Where the last was a stream whose worker is lost, the ladder takes it.
//! - An answer to a command that was interrupted changes nothing.
//!
//! | file | what it holds |
//! |---|---|
//! | `terms` | the words of it: commands, what comes back, warnings |
//! | `verbs` | the verbs, one after the other |
//! | `fetching` | documents, and what is done where there is none |
//! | `prompts`, `hearing` | what is heard, and digits that interrupt it: `<Say>`, `<Play>`, `<Pause>`, `<Gather>` |
//! | `dialling` | `<Dial>` |
//! | `voice_line` | the voice webhook of a line |
//! | [`webhook`] | the fields of a request, and its signature |

mod dialling;
mod fetching;
mod hearing;
mod prompts;
mod terms;
mod verbs;
mod voice_line;
pub mod webhook;

#[cfg(test)]
mod conversation_tests;
#[cfg(test)]
mod dialling_tests;
#[cfg(test)]
mod random_tests;
#[cfg(test)]
mod stage_tests;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::dialling::Dialling;
use self::fetching::Fetching;
pub use self::fetching::is_twiml_content_type;
use self::hearing::Gathering;
use self::prompts::Prompts;
use self::terms::DECLINED;
pub use self::terms::{
    CommandId, DialLegEnd, DialLegEvent, DialStatus, FetchFailure, FetchRequest, Instructions,
    PromptSound, StreamEnd, VoiceCommand, VoicePolicy, VoiceRole, VoiceWarning,
};
pub use self::voice_line::VoiceLine;
use self::webhook::FormFields;
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{Verb, WARNINGS_MAX};

/// Longest that a webhook may take for its whole answer, redirects included (Twilio's limit).
pub const FETCH_LIMIT: Duration = Duration::from_secs(15);
/// Most documents in a row of which each led to the next within a second, with nothing heard and nobody called.
pub const FETCHES_IN_ROW_MAX: u32 = 20;
/// A document that lasted longer, or within which something happened, is no part of a loop.
const LEADS_ON_AT_ONCE: Duration = Duration::from_secs(1);
/// Most one-way copies of a call's audio at a time (Twilio's limit).
pub const COPIES_MAX: usize = 4;

/// One call that is run by TwiML; pure, time is an argument.
#[derive(Debug)]
pub struct VoiceCall {
    policy: VoicePolicy,
    answer: AnswerState,
    /// What is still to be done of the present document.
    verbs: VecDeque<Verb>,
    state: State,
    /// The end of what the state waits for.
    deadline: Option<Instant>,
    /// One-way copies that run: the command that began each, and its name.
    copies: Vec<(CommandId, Option<String>)>,
    /// When the present document came.
    document_since: Option<Instant>,
    fetches_in_row: u32,
    /// Whether something was heard, or somebody called, within the present document.
    has_happened: bool,
    /// When what is heard now began.
    sound_since: Option<Instant>,
    last_id: u32,
    /// How many more warnings the present document may give while it runs.
    warnings_left: usize,
    has_told_cannot_say: bool,
    /// What the last `<Dial>` of the present instructions came to.
    dialled: Option<DialStatus>,
    commands: VecDeque<VoiceCommand>,
}

/// How far the call has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum AnswerState {
    Ringing,
    /// Our 200 is out; its ACK has not come.
    Answering,
    Answered,
}

/// What the call waits for, with what is known only meanwhile.
#[derive(Debug, Default)]
enum State {
    /// For instructions; between two states.
    #[default]
    Idle,
    /// For the ACK of our 200; the next verb waits.
    Answering,
    Fetching(Fetching),
    /// For the end of the digits that come before the first instructions.
    SendingFirst(Prompts, Instructions),
    /// For the end of `<Say>`, `<Play>` or `<Pause>`.
    Prompting(Prompts),
    Gathering(Gathering),
    /// For the end of the stream of `<Connect>`.
    Streaming {
        id: CommandId,
        action: Option<Webhook>,
    },
    Dialling(Dialling),
    /// For nothing: the call is over, joined or in other hands.
    Over,
}

/// Whether the next verb may follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flow {
    /// It may.
    Next,
    /// Something is waited for, or the call is over.
    Waits,
}

impl VoiceCall {
    /// A call that has no instructions yet.
    #[must_use]
    pub fn new(policy: VoicePolicy) -> Self {
        let answer = match policy.role {
            VoiceRole::Inbound if !policy.is_answered => AnswerState::Ringing,
            _ => AnswerState::Answered,
        };
        Self {
            policy,
            answer,
            verbs: VecDeque::new(),
            state: State::Idle,
            deadline: None,
            copies: Vec::new(),
            document_since: None,
            fetches_in_row: 0,
            has_happened: false,
            sound_since: None,
            last_id: 0,
            warnings_left: WARNINGS_MAX,
            has_told_cannot_say: false,
            dialled: None,
            commands: VecDeque::with_capacity(8),
        }
    }

    /// Next thing to do.
    pub fn poll_command(&mut self) -> Option<VoiceCommand> {
        self.commands.pop_front()
    }

    /// When [`VoiceCall::handle_timeout`] wants to be called.
    #[must_use]
    pub const fn poll_timeout(&self) -> Option<Instant> {
        self.deadline
    }

    /// Whether TwiML has nothing more to do with the call.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// What is to be done, at the beginning and again whenever somebody says otherwise: what runs is interrupted at
    /// once. False when the call is over, or in other hands.
    pub fn handle_instructions(&mut self, now: Instant, instructions: Instructions) -> bool {
        if self.is_over() {
            return false;
        }
        self.interrupt();
        self.fetches_in_row = 0;
        self.dialled = None;
        match self.policy.first_digits.take() {
            Some(digits) if self.answer == AnswerState::Answered => {
                let prompts = Prompts::of_digits(Some(digits));
                self.go_on_hearing(now, State::SendingFirst(prompts, instructions));
            }
            _ => self.follow(now, instructions),
        }
        true
    }

    /// Somebody ends the call.
    pub fn handle_hangup_request(&mut self, now: Instant) {
        if !self.is_over() {
            self.finish_verb(now);
            let command = self.hang_up();
            self.push(command);
        }
    }

    /// The caller acknowledged our 200.
    pub fn handle_established(&mut self, now: Instant) {
        if self.answer != AnswerState::Answering {
            return;
        }
        self.answer = AnswerState::Answered;
        if matches!(self.state, State::Answering) {
            self.run(now);
        }
    }

    /// The call is over, whoever ended it. A `<Dial>` with an action is told of.
    pub fn handle_call_ended(&mut self, now: Instant) {
        if !self.is_over() {
            self.finish_verb(now);
        }
    }

    /// The deadline of [`VoiceCall::poll_timeout`] is here.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.deadline.is_none_or(|at| at > now) {
            return;
        }
        self.deadline = None;
        match std::mem::take(&mut self.state) {
            State::Fetching(fetching) => {
                self.fetch_failed(now, fetching, FetchFailure::TimedOut);
            }
            State::Gathering(gathering) if gathering.is_heard() => {
                self.finish_gather(now, gathering, None);
            }
            State::Dialling(dialling) if !dialling.is_sending() => {
                self.dial_timeout(now, dialling);
            }
            // A pause is over.
            state => self.go_on_hearing(now, state),
        }
    }

    // ---- steps ----

    fn follow(&mut self, now: Instant, instructions: Instructions) {
        match instructions {
            Instructions::Webhook(webhook) => self.fetch(now, webhook, FormFields::default()),
            Instructions::Document(document) => self.take_document(now, document),
        }
    }

    /// Stops what runs, and awaits no answer of it any more. One-way copies go on.
    fn interrupt(&mut self) {
        self.deadline = None;
        self.verbs.clear();
        match std::mem::take(&mut self.state) {
            State::SendingFirst(prompts, _) | State::Prompting(prompts) => {
                self.stop_sound(&prompts);
            }
            State::Gathering(gathering) => self.stop_sound(&gathering.prompts),
            State::Streaming { .. } => self.push(VoiceCommand::CloseStream),
            State::Dialling(dialling) => self.end_legs(&dialling),
            State::Idle | State::Answering | State::Fetching(_) | State::Over => {}
        }
    }

    /// The call is over: stops what runs, and tells of a `<Dial>`.
    fn finish_verb(&mut self, now: Instant) {
        if let State::Dialling(dialling) = &self.state {
            let notice = dialling.notice_of_end(now);
            self.commands.extend(notice.map(VoiceCommand::Notify));
        }
        self.interrupt();
        self.state = State::Over;
    }

    /// Nothing follows this command.
    fn end_with(&mut self, command: VoiceCommand) {
        self.verbs.clear();
        self.deadline = None;
        self.state = State::Over;
        self.push(command);
    }

    /// A caller who is not answered hears what the `<Dial>` came to that he waited for.
    fn hang_up(&self) -> VoiceCommand {
        let unanswered = self.dialled.map_or(DECLINED, DialStatus::sip_status);
        VoiceCommand::HangUp { unanswered }
    }

    fn next_id(&mut self) -> CommandId {
        self.last_id = self.last_id.wrapping_add(1);
        CommandId(self.last_id)
    }

    /// At most as many as a document has by itself: one of 64 kB could make thousands each time that it runs.
    fn warn(&mut self, warning: VoiceWarning) {
        if let Some(left) = self.warnings_left.checked_sub(1) {
            self.warnings_left = left;
            self.push(VoiceCommand::Warn(warning));
        }
    }

    fn push(&mut self, command: VoiceCommand) {
        self.commands.push_back(command);
    }
}
