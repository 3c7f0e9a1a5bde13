//! What others see of a call while it lives: its entry in the call store.

use std::time::SystemTime;

use super::call_store::CallHandle;
use super::record::Record;
use crate::core::call_object::CallStatus;
use crate::core::outcome::Outcome;

/// One call's entry, and how far it has come.
pub(super) struct CallView {
    handle: CallHandle,
    answered: bool,
    has_worker: bool,
}

impl CallView {
    pub(super) const fn new(handle: CallHandle) -> Self {
        Self {
            handle,
            answered: false,
            has_worker: false,
        }
    }

    /// It is settled whether and how the call is taken.
    pub(super) fn settled(&mut self, record: &Record, callback_url: Option<String>) {
        let parameters = record.custom_parameters.clone();
        self.handle.update(|call| call.custom_params = parameters);
        self.handle.announce(callback_url);
    }

    /// The other side rings, or our caller hears that it does.
    pub(super) fn ringing(&self) {
        self.handle.update(|call| call.status = CallStatus::Ringing);
    }

    /// The dialog stands.
    pub(super) fn answered(&mut self, at: SystemTime) {
        self.answered = true;
        self.handle.update(|call| {
            call.status = CallStatus::Answered;
            call.answered = Some(at);
        });
        self.show_worker();
    }

    /// A worker is attached. One that is there before the ACK shows with it.
    pub(super) fn has_worker(&mut self) {
        self.has_worker = true;
        self.show_worker();
    }

    fn show_worker(&self) {
        if self.answered && self.has_worker {
            self.handle.update(|call| call.status = CallStatus::Active);
        }
    }

    /// The other side is held, or not any more.
    pub(super) fn held(&self, held: bool) {
        self.handle.update(|call| call.on_hold = held);
    }

    /// It is over.
    pub(super) fn ended(&self, outcome: Outcome, sip_status: u16) {
        let status = CallStatus::at_end(outcome, self.answered, sip_status);
        self.handle.update(|call| {
            call.status = status;
            call.outcome = Some(outcome);
            call.sip_status = sip_status;
            call.on_hold = false;
        });
    }
}
