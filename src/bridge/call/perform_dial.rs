//! `<Dial>`: what the call that runs it asks of its legs, and what a leg does for the call that dialled it.

use std::time::{Duration, Instant};

use tracing::{debug, info};

use super::super::parent::{LegAudio, LegNews, LegOrder, ParentCall};
use super::{Awaited, Driver};
use crate::bridge::dialled_call::TargetLeg;
use crate::core::call::IdleSound;
use crate::core::call_object::CallStatus;
use crate::core::outcome::Outcome;
use crate::core::private::Private;
use crate::core::twiml::document::Dial;
use crate::core::voice::{CommandId, DialLegEnd, DialLegEvent, Instructions, VoiceRole};

impl Driver {
    // ---- the call that dials ----

    /// All targets ring at once. A caller who is answered hears that they do.
    pub(super) fn dial(&mut self, id: CommandId, dial: Dial) {
        if self.call.is_answered() {
            self.idle_sound(IdleSound::Ringback);
        }
        let parts = &mut self.parts;
        let parents = parts.dialled.begin(id, &dial, Instant::now());
        info!(legs = parents.len(), "<Dial>: a second leg is called");
        for (target, parent) in dial.targets.into_iter().zip(parents) {
            let leg = TargetLeg {
                line: parts.line.clone(),
                of: parts.publisher.facts().id.clone(),
                target,
                caller_id: dial.caller_id.clone(),
                caller: parts.publisher.facts().from.clone(),
                ring_timeout: dial.timeout,
            };
            // A bridge that goes down drops the leg, which says that it has failed.
            if let Some(drivers) = parts.drivers.upgrade() {
                drivers.dial_leg(leg, parent);
            }
        }
    }

    /// News of a leg.
    pub(super) fn handle_dialled(
        &mut self,
        now: Instant,
        id: CommandId,
        leg: usize,
        news: LegNews,
    ) {
        let event = match news {
            LegNews::Placed(call, audio) => {
                self.parts.dialled.placed(leg, audio);
                DialLegEvent::Placed(call)
            }
            LegNews::Answered => DialLegEvent::Answered,
            LegNews::DocumentOver => DialLegEvent::DocumentOver,
            LegNews::DigitsSent(digits, are_sent) => {
                return self.with_voice(|voice| voice.handle_played(now, digits, are_sent));
            }
            LegNews::Ended(end) => {
                debug!(leg, ?end, "a leg of <Dial> is over");
                let is_last = self.parts.dialled.forget(leg, &self.parts.media);
                self.silence_after(is_last);
                DialLegEvent::Ended(end)
            }
        };
        self.with_voice(|voice| voice.handle_leg(now, id, leg, event));
    }

    pub(super) fn join_leg(&mut self, leg: usize) {
        self.idle_sound(IdleSound::Silence);
        self.parts.dialled.join(leg, &self.parts.media);
        info!(leg, "joined with a leg of <Dial>");
    }

    pub(super) fn end_leg(&mut self, leg: usize) {
        let parts = &mut self.parts;
        let is_last = parts.dialled.end(leg, &parts.media, Instant::now());
        self.silence_after(is_last);
    }

    /// No leg is left: nobody rings any more.
    fn silence_after(&mut self, is_last: bool) {
        if is_last {
            self.idle_sound(IdleSound::Silence);
        }
    }

    fn idle_sound(&self, sound: IdleSound) {
        let parts = &self.parts;
        let audio = parts.sounds.audio(sound, &parts.line);
        parts.media.stream.downlink().set_idle_audio(audio);
    }

    // ---- a leg ----

    /// A leg of `<Dial>`: it is TwiML's, and waits for what the call that dialled it wants of it.
    pub(super) fn begin_dialled(&mut self, now: Instant, ring_timeout: Duration) {
        let audio = LegAudio::of(&self.parts.media);
        let id = self.parts.publisher.facts().id.clone();
        self.tell_parent(LegNews::Placed(id, audio));
        self.call.handle_placed(now, ring_timeout);
        // One that has just been placed is not over.
        let _ = self.call.handle_voice_takeover(now);
    }

    /// The call that dialled this one wants something of it.
    pub(super) fn handle_order(&mut self, now: Instant, order: LegOrder) {
        match order {
            LegOrder::RunDocument(webhook) => {
                let first = Instructions::Webhook(webhook);
                let voice = &mut self.parts.voice;
                voice.instruct(now, first, VoiceRole::DialledLeg, true);
            }
            LegOrder::SendDigits(id, digits) => self.send_leg_digits(id, &digits),
            LegOrder::End { is_late } => {
                self.leave_parent();
                let unanswered = match is_late {
                    true => Outcome::NoAnswer,
                    false => Outcome::Cancelled,
                };
                self.call.handle_dial_over(now, unanswered);
            }
        }
    }

    fn send_leg_digits(&mut self, id: CommandId, digits: &Private) {
        let mut downlink = self.parts.media.stream.downlink();
        if downlink.send_digits(digits.expose()).is_ok() {
            downlink.notify_drained();
            self.awaited = Awaited::LegDigits(id);
        } else {
            drop(downlink);
            self.leg_digits_sent(id, false);
        }
    }

    pub(super) fn leg_digits_sent(&self, id: CommandId, are_sent: bool) {
        self.tell_parent(LegNews::DigitsSent(id, are_sent));
    }

    /// The document of this leg is over: it may be joined, and may get another one later.
    pub(super) fn leg_document_over(&mut self) {
        self.parts.voice.call = None;
        self.parts.media.port.lock().wakes_for_digits = false;
        self.tell_parent(LegNews::DocumentOver);
    }

    pub(super) fn tell_parent(&self, news: LegNews) {
        if let Some(parent) = &self.parts.parent {
            parent.tell(news);
        }
    }

    /// This leg goes its own way: the call that dialled it has nothing more to do with it.
    pub(super) fn leave_parent(&mut self) {
        if let Some(parent) = self.parts.parent.take() {
            parent.ended(DialLegEnd::HungUp);
            self.parts.media.part();
        }
    }

    /// This call is over: whoever dialled it is told how.
    pub(super) fn tell_parent_end(&mut self) {
        let Some(parent) = self.parts.parent.take() else {
            return;
        };
        let end = match self.parts.publisher.call().state.status {
            _ if self.call.is_answered() => DialLegEnd::HungUp,
            CallStatus::Busy => DialLegEnd::Busy,
            CallStatus::NoAnswer | CallStatus::Cancelled => DialLegEnd::NoAnswer,
            _ => DialLegEnd::Failed,
        };
        parent.ended(end);
    }
}

/// The next order of the call that dialled this one; never, where nobody did. Cancel-safe.
pub(super) async fn next_order(parent: &mut Option<ParentCall>) -> LegOrder {
    match parent {
        Some(parent) => parent.next().await,
        None => std::future::pending().await,
    }
}
