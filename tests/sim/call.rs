//! [`SimCall`]: what a test does as the caller, and what it sees of the bridge;
//! the part that callers and callees have in common.

use std::sync::Arc;
use std::time::Instant;

use super::{LocalEnd, Script, SimEngine};
use sipbridge::core::ids::LegId;
use sipbridge::core::media_link::{Direction, MediaFormat};
use sipbridge::core::private::Private;
use sipbridge::sip::engine::{EndedBy, LegEnd, LegEvent};
use sipbridge::sip::rtp_channel::Undelivered;

/// The caller's side of one call.
pub struct SimCall {
    engine: Arc<SimEngine>,
    leg: LegId,
    script: Arc<Script>,
}

impl SimCall {
    pub(super) const fn new(engine: Arc<SimEngine>, leg: LegId, script: Arc<Script>) -> Self {
        Self {
            engine,
            leg,
            script,
        }
    }

    /// The leg, as commands name it.
    #[must_use]
    pub const fn leg(&self) -> LegId {
        self.leg
    }

    /// Whether the leg is still up.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.engine.state().legs.contains_key(&self.leg)
    }

    /// Every status the bridge answered the INVITE with, in order.
    #[must_use]
    pub fn statuses(&self) -> Vec<u16> {
        self.script.seen().statuses.clone()
    }

    /// How the bridge refused or ended the call, if it did.
    #[must_use]
    pub fn local_end(&self) -> Option<LocalEnd> {
        self.script.seen().local_end.clone()
    }

    /// Takes the RTP packets that the bridge sent, in order.
    #[must_use]
    pub fn take_sent(&self) -> Vec<Vec<u8>> {
        self.script.seen().sent.drain(..).collect()
    }

    /// Makes the sink refuse packets with a status, or take them again.
    pub fn refuse_sends(&self, status: Option<i32>) {
        self.script.seen().refuse_sends = status;
    }

    /// Destinations of the transfers the bridge asked for, in order.
    #[must_use]
    pub fn transfers(&self) -> Vec<Private> {
        self.script.seen().transfers.clone()
    }

    /// The re-INVITEs of the bridge, in order: hold or not.
    #[must_use]
    pub fn holds(&self) -> Vec<bool> {
        self.script.seen().holds.clone()
    }

    /// Refuses re-INVITEs of the bridge with a status, or takes them again.
    pub fn refuse_holds(&self, status: Option<u16>) {
        self.script.seen().refuse_holds = status;
    }

    /// One RTP packet from the caller; `false` when it was dropped because the
    /// queue is full or the leg is over.
    pub fn send_rtp(&self, bytes: &[u8], arrived: Instant) -> bool {
        // The tap may ask the engine for things: no lock is held meanwhile.
        let sender = self
            .engine
            .state()
            .legs
            .get(&self.leg)
            .map(|entry| entry.rtp.clone());
        let taken = sender.map(|rtp| rtp.deliver(arrived, bytes));
        match taken {
            Some(Ok(())) => true,
            Some(Err(Undelivered::Full)) => {
                self.engine.state().stats.rtp_overflow += 1;
                false
            }
            Some(Err(Undelivered::Closed)) => {
                let reason = "its driver is gone".to_owned();
                self.engine.state().end(
                    self.leg,
                    LegEnd {
                        by: EndedBy::Failure,
                        status: 500,
                        reason,
                    },
                );
                false
            }
            None => false,
        }
    }

    /// A digit by SIP INFO.
    pub fn digit(&self, digit: char) {
        self.engine.state().emit(self.leg, LegEvent::Digit(digit));
    }

    /// A re-INVITE that leaves us this direction: hold, resume.
    pub fn direction(&self, direction: Direction) {
        self.media(|format| format.direction = direction);
    }

    /// A re-INVITE that changes the format.
    pub fn media(&self, change: impl FnOnce(&mut MediaFormat)) {
        self.engine.state().media(self.leg, change);
    }

    /// Progress of a transfer.
    pub fn transfer_progress(&self, status: u16, last: bool) {
        self.engine
            .state()
            .emit(self.leg, LegEvent::Transfer { status, last });
    }

    /// The caller hangs up: BYE, or CANCEL before the 200.
    pub fn hang_up(&self) {
        let answered = self.statuses().contains(&200);
        let status = if answered { 200 } else { 487 };
        self.end(EndedBy::Remote, status);
    }

    /// The leg fails on its own, with the status that stands for it.
    pub fn fail(&self, status: u16) {
        self.end(EndedBy::Failure, status);
    }

    pub(super) fn progress(&self, status: u16) {
        self.engine.state().progress(self.leg, status);
    }

    pub(super) fn answer(&self) {
        self.engine.state().answer(self.leg, 200);
    }

    pub(super) fn end(&self, by: EndedBy, status: u16) {
        let end = LegEnd {
            by,
            status,
            reason: String::new(),
        };
        self.engine.state().end(self.leg, end);
    }
}
