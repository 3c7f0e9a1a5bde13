//! The verbs of a document, one after the other.

use std::time::Instant;

use super::prompts::Prompts;
use super::terms::{CommandId, StreamEnd, VoiceCommand, VoiceRole, VoiceWarning};
use super::webhook::FormFields;
use super::{AnswerState, COPIES_MAX, Flow, State, VoiceCall};
use crate::core::twiml::Verb;
use crate::core::twiml::document::{Connect, MediaStream, RejectReason};

impl VoiceCall {
    /// The worker's stream is over.
    pub fn handle_stream_ended(&mut self, now: Instant, id: CommandId, end: StreamEnd) {
        let (own, action) = match &mut self.state {
            State::Streaming { id, action } => (*id, action.take()),
            _ => return,
        };
        if own != id {
            self.state = State::Streaming { id: own, action };
            return;
        }
        if end == StreamEnd::Lost {
            self.warn(VoiceWarning::StreamLost);
        }
        match action {
            Some(webhook) => self.fetch(now, webhook, FormFields::default()),
            None if end == StreamEnd::Lost && self.verbs.is_empty() => self.fall_back(),
            None => self.run(now),
        }
    }

    /// A one-way copy ended by itself.
    pub fn handle_copy_ended(&mut self, id: CommandId) {
        self.copies.retain(|(copy, _)| *copy != id);
    }

    /// Does what the document says, until something has to be waited for.
    pub(super) fn run(&mut self, now: Instant) {
        self.state = State::Idle;
        while let Some(verb) = self.verbs.pop_front() {
            if self.must_answer_before(&verb) {
                self.verbs.push_front(verb);
                self.state = State::Answering;
                return self.answer();
            }
            if self.begin(now, verb) == Flow::Waits {
                return;
            }
        }
        self.end_with(match self.policy.role {
            VoiceRole::DialledLeg => VoiceCommand::Finished,
            VoiceRole::Inbound | VoiceRole::Outbound => self.hang_up(),
        });
    }

    fn must_answer_before(&self, verb: &Verb) -> bool {
        let rings_on = match verb {
            Verb::Reject(_) => true,
            Verb::Dial(dial) => dial.answer_on_bridge,
            _ => false,
        };
        self.answer != AnswerState::Answered && !rings_on
    }

    pub(super) fn answer(&mut self) {
        if self.answer == AnswerState::Ringing {
            self.answer = AnswerState::Answering;
            self.push(VoiceCommand::Answer);
        }
    }

    fn begin(&mut self, now: Instant, verb: Verb) -> Flow {
        if self.policy.role == VoiceRole::DialledLeg && !is_for_legs(&verb) {
            self.warn(VoiceWarning::NotForLegs);
            return Flow::Next;
        }
        match verb {
            Verb::Prompt(prompt) => self.begin_prompts(now, Prompts::new(vec![prompt])),
            Verb::Gather(gather) => self.begin_gather(now, gather),
            Verb::Connect(connect) => self.connect(connect),
            Verb::StartStream(stream) => self.start_copy(stream),
            Verb::StopStream(name) => self.stop_copy(&name),
            Verb::Dial(dial) => self.begin_dial(now, dial),
            Verb::Redirect(webhook) => {
                self.fetch(now, webhook, FormFields::default());
                Flow::Waits
            }
            Verb::Reject(reason) => self.reject(reason),
            Verb::Hangup => {
                self.end_with(self.hang_up());
                Flow::Waits
            }
        }
    }

    fn connect(&mut self, connect: Connect) -> Flow {
        let Connect { action, stream } = connect;
        let id = self.next_id();
        let stream = Box::new(stream);
        self.push(VoiceCommand::OpenStream { id, stream });
        self.state = State::Streaming { id, action };
        Flow::Waits
    }

    fn start_copy(&mut self, stream: MediaStream) -> Flow {
        let has_name = |(_, name): &(_, Option<String>)| name.is_some() && *name == stream.name;
        if self.copies.len() >= COPIES_MAX {
            self.warn(VoiceWarning::TooManyCopies);
        } else if self.copies.iter().any(has_name) {
            self.warn(VoiceWarning::CopyNameTaken);
        } else {
            let id = self.next_id();
            self.copies.push((id, stream.name.clone()));
            let stream = Box::new(stream);
            self.push(VoiceCommand::StartCopy { id, stream });
        }
        Flow::Next
    }

    fn stop_copy(&mut self, name: &str) -> Flow {
        let has_name = |(_, own): &(_, Option<String>)| own.as_deref() == Some(name);
        match self.copies.iter().position(has_name) {
            Some(index) => {
                let (id, _) = self.copies.remove(index);
                self.push(VoiceCommand::StopCopy(id));
            }
            None => self.warn(VoiceWarning::NoSuchCopy),
        }
        Flow::Next
    }

    /// Refuses a call that rings; one that is answered already is ended.
    fn reject(&mut self, reason: RejectReason) -> Flow {
        self.end_with(match self.answer {
            AnswerState::Ringing => VoiceCommand::Refuse(reason.sip_status()),
            AnswerState::Answering | AnswerState::Answered => self.hang_up(),
        });
        Flow::Waits
    }
}

/// What the document of a dialled leg may hold.
const fn is_for_legs(verb: &Verb) -> bool {
    matches!(
        verb,
        Verb::Prompt(_) | Verb::Gather(_) | Verb::Redirect(_) | Verb::Hangup
    )
}
