//! `<Dial>`: several ring together, the first to answer is joined.

use std::time::Instant;

use super::prompts::Prompts;
use super::terms::{CommandId, DialLegEnd, DialLegEvent, DialStatus, FetchRequest, VoiceCommand};
use super::webhook::FormFields;
use super::{Flow, State, VoiceCall};
use crate::core::ids::CallId;
use crate::core::twiml::document::Dial;

/// A `<Dial>` that runs.
#[derive(Debug)]
pub(super) struct Dialling {
    id: CommandId,
    dial: Dial,
    /// As the targets of `dial`.
    legs: Vec<DialledLeg>,
    phase: DialPhase,
}

#[derive(Clone, Debug, Default)]
struct DialledLeg {
    call: Option<CallId>,
    end: Option<DialLegEnd>,
}

#[derive(Debug)]
enum DialPhase {
    Ringing,
    /// This leg was answered, and hears its own document.
    InDocument(usize),
    /// This leg was answered, and is sent its digits.
    Sending(usize, Prompts),
    Joined {
        leg: usize,
        since: Instant,
    },
}

impl Dialling {
    /// Whether digits are sent to a leg.
    pub(super) const fn is_sending(&self) -> bool {
        matches!(self.phase, DialPhase::Sending(..))
    }

    /// What is sent to a leg.
    pub(super) const fn prompts(&mut self) -> Option<&mut Prompts> {
        match &mut self.phase {
            DialPhase::Sending(_, prompts) => Some(prompts),
            _ => None,
        }
    }

    pub(super) const fn ends_on_star(&self) -> bool {
        self.dial.hangup_on_star && matches!(self.phase, DialPhase::Joined { .. })
    }

    /// The leg that was answered.
    const fn answered_leg(&self) -> Option<usize> {
        match self.phase {
            DialPhase::Ringing => None,
            DialPhase::InDocument(leg) | DialPhase::Sending(leg, _) => Some(leg),
            DialPhase::Joined { leg, .. } => Some(leg),
        }
    }

    /// What it comes to when nobody was joined, and no leg is left.
    fn status_of_ends(&self) -> DialStatus {
        let is_any = |end| self.legs.iter().any(|leg| leg.end == Some(end));
        if self.answered_leg().is_some() {
            DialStatus::NoAnswer
        } else if is_any(DialLegEnd::Busy) {
            DialStatus::Busy
        } else if is_any(DialLegEnd::NoAnswer) {
            DialStatus::NoAnswer
        } else {
            DialStatus::Failed
        }
    }

    /// The request that tells how it ended, where there is an action.
    fn report(&self, now: Instant, status: DialStatus) -> Option<FetchRequest> {
        let webhook = self.dial.action.clone()?;
        let mut fields = FormFields::default();
        fields.push("DialCallStatus", status.as_str());
        let leg = match self.answered_leg() {
            Some(leg) => self.legs.get(leg),
            None => self.legs.iter().find(|leg| leg.call.is_some()),
        };
        if let Some(call) = leg.and_then(|leg| leg.call.as_ref()) {
            fields.push("DialCallSid", call.as_str());
        }
        if let DialPhase::Joined { since, .. } = self.phase {
            let talked = now.saturating_duration_since(since);
            fields.push("DialCallDuration", talked.as_secs().to_string());
        }
        Some(FetchRequest { webhook, fields })
    }

    /// What the action is told when the call itself is over.
    pub(super) fn notice_of_end(&self, now: Instant) -> Option<FetchRequest> {
        let status = match self.phase {
            DialPhase::Joined { .. } => DialStatus::Completed,
            _ => DialStatus::Canceled,
        };
        self.report(now, status)
    }
}

impl VoiceCall {
    /// How far a leg has come; `leg` is its place among the targets.
    pub fn handle_leg(&mut self, now: Instant, id: CommandId, leg: usize, event: DialLegEvent) {
        let mut dialling = match std::mem::take(&mut self.state) {
            State::Dialling(dialling) if dialling.id == id && leg < dialling.legs.len() => dialling,
            other => {
                self.state = other;
                return;
            }
        };
        match event {
            DialLegEvent::Placed(call) => {
                dialling.legs[leg].call = Some(call);
                self.has_happened = true;
            }
            DialLegEvent::Answered => return self.leg_answered(now, dialling, leg),
            DialLegEvent::DocumentOver => {
                if matches!(dialling.phase, DialPhase::InDocument(own) if own == leg) {
                    return self.send_leg_digits(now, dialling, leg);
                }
            }
            DialLegEvent::Ended(end) => return self.leg_ended(now, dialling, leg, end),
        }
        self.state = State::Dialling(dialling);
    }

    pub(super) fn begin_dial(&mut self, now: Instant, dial: Dial) -> Flow {
        let id = self.next_id();
        let legs = vec![DialledLeg::default(); dial.targets.len()];
        let dialling = Dialling {
            id,
            legs,
            phase: DialPhase::Ringing,
            dial: dial.clone(),
        };
        if dialling.legs.is_empty() {
            return self.after_dial(now, dialling, DialStatus::Failed);
        }
        self.deadline = Some(now + dial.timeout);
        let dial = Box::new(dial);
        self.push(VoiceCommand::Dial { id, dial });
        self.state = State::Dialling(dialling);
        Flow::Waits
    }

    /// It rang, or the two talked, for as long as they may.
    pub(super) fn dial_timeout(&mut self, now: Instant, dialling: Dialling) {
        let status = match dialling.phase {
            DialPhase::Joined { .. } => DialStatus::Completed,
            _ => DialStatus::NoAnswer,
        };
        self.finish_dial(now, dialling, status);
    }

    /// The caller pressed `*`.
    pub(super) fn hang_up_callee(&mut self, now: Instant, dialling: Dialling) {
        self.finish_dial(now, dialling, DialStatus::Completed);
    }

    /// The first to answer wins: the others are ended.
    fn leg_answered(&mut self, now: Instant, mut dialling: Dialling, leg: usize) {
        if !matches!(dialling.phase, DialPhase::Ringing) {
            // Its answer has crossed our CANCEL.
            if dialling.answered_leg() != Some(leg) {
                self.push(VoiceCommand::EndLeg(leg));
            }
            self.state = State::Dialling(dialling);
            return;
        }
        for (other, own) in dialling.legs.iter().enumerate() {
            if other != leg && own.end.is_none() {
                self.push(VoiceCommand::EndLeg(other));
            }
        }
        match dialling.dial.targets[leg].document.clone() {
            Some(webhook) => {
                self.push(VoiceCommand::RunLegDocument { leg, webhook });
                self.deadline = Some(now + dialling.dial.time_limit);
                dialling.phase = DialPhase::InDocument(leg);
                self.state = State::Dialling(dialling);
            }
            None => self.send_leg_digits(now, dialling, leg),
        }
    }

    fn send_leg_digits(&mut self, now: Instant, mut dialling: Dialling, leg: usize) {
        let digits = dialling.dial.targets[leg].send_digits.clone();
        self.deadline = None;
        dialling.phase = DialPhase::Sending(leg, Prompts::of_digits(digits));
        self.go_on_sending(now, dialling);
    }

    /// The next digits are sent to the leg; where there are none left it is joined.
    pub(super) fn go_on_sending(&mut self, now: Instant, mut dialling: Dialling) {
        if let DialPhase::Sending(leg, prompts) = &mut dialling.phase {
            let leg = *leg;
            if !self.play_next(now, prompts, Some(leg)) {
                self.answer();
                self.push(VoiceCommand::JoinLeg(leg));
                self.deadline = Some(now + dialling.dial.time_limit);
                dialling.phase = DialPhase::Joined { leg, since: now };
            }
        }
        self.state = State::Dialling(dialling);
    }

    fn leg_ended(&mut self, now: Instant, mut dialling: Dialling, leg: usize, end: DialLegEnd) {
        dialling.legs[leg].end = Some(end);
        let is_over = match dialling.answered_leg() {
            Some(answered) => answered == leg,
            None => dialling.legs.iter().all(|leg| leg.end.is_some()),
        };
        if !is_over {
            self.state = State::Dialling(dialling);
            return;
        }
        let status = match dialling.phase {
            DialPhase::Joined { .. } => DialStatus::Completed,
            _ => dialling.status_of_ends(),
        };
        self.finish_dial(now, dialling, status);
    }

    fn finish_dial(&mut self, now: Instant, dialling: Dialling, status: DialStatus) {
        self.end_legs(&dialling);
        self.deadline = None;
        if self.after_dial(now, dialling, status) == Flow::Next {
            self.run(now);
        }
    }

    /// The action is asked; where there is none the next verb follows.
    fn after_dial(&mut self, now: Instant, dialling: Dialling, status: DialStatus) -> Flow {
        self.dialled = Some(status);
        match dialling.report(now, status) {
            None => Flow::Next,
            Some(FetchRequest { webhook, fields }) => {
                self.fetch(now, webhook, fields);
                Flow::Waits
            }
        }
    }

    /// Ends what is left of the legs. Once one was answered the others were ended already.
    pub(super) fn end_legs(&mut self, dialling: &Dialling) {
        for (leg, own) in dialling.legs.iter().enumerate() {
            let is_ended = dialling
                .answered_leg()
                .is_some_and(|answered| answered != leg);
            if own.end.is_none() && !is_ended {
                self.push(VoiceCommand::EndLeg(leg));
            }
        }
    }
}
