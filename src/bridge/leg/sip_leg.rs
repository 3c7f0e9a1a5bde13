//! The SIP leg of one call: what the engine tells of it, and what is asked of
//! the engine.

use tokio::sync::mpsc;

use crate::core::ids::LegId;
use crate::core::private::Private;
use crate::sip::engine::{Command, IncomingCall, LegEvent, OutgoingLeg, SharedEngine, SubmitError};
use crate::sip::rtp_channel::RtpReceiver;

/// One leg, whoever called.
pub(in crate::bridge) struct Leg {
    id: LegId,
    events: mpsc::Receiver<LegEvent>,
    engine: SharedEngine,
}

impl Leg {
    /// The leg of a call that came in, and its RTP.
    pub(in crate::bridge) fn incoming(
        engine: &SharedEngine,
        call: IncomingCall,
    ) -> (Self, RtpReceiver) {
        (Self::new(engine, call.leg, call.events), call.rtp)
    }

    /// The leg of a call that we placed, and its RTP.
    pub(in crate::bridge) fn outgoing(
        engine: &SharedEngine,
        call: OutgoingLeg,
    ) -> (Self, RtpReceiver) {
        (Self::new(engine, call.leg, call.events), call.rtp)
    }

    fn new(engine: &SharedEngine, id: LegId, events: mpsc::Receiver<LegEvent>) -> Self {
        Self {
            id,
            events,
            engine: engine.clone(),
        }
    }

    /// The next event; `None` when the engine is gone. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> Option<LegEvent> {
        self.events.recv().await
    }

    /// Sends this status to the INVITE.
    ///
    /// # Errors
    /// As all commands: when the engine does not take it.
    pub(in crate::bridge) fn answer(&self, status: u16) -> Result<(), SubmitError> {
        let leg = self.id;
        self.engine.submit(Command::Answer { leg, status })
    }

    /// Ends the leg; the status is used where the INVITE has no final answer yet.
    pub(in crate::bridge) fn hang_up(&self, status: u16) -> Result<(), SubmitError> {
        let leg = self.id;
        self.engine.submit(Command::Hangup { leg, status })
    }

    /// Sends REFER.
    pub(in crate::bridge) fn transfer(&self, destination: Private) -> Result<(), SubmitError> {
        let leg = self.id;
        self.engine.submit(Command::Transfer { leg, destination })
    }

    /// Tells the other side by a re-INVITE that it is held, or not any more.
    pub(in crate::bridge) fn hold(&self, on: bool) -> Result<(), SubmitError> {
        let leg = self.id;
        self.engine.submit(Command::Hold { leg, on })
    }
}
