//! The leg of one call as its driver knows it: what is told of it, and what is asked about it, of the SIP engine or
//! of Twilio.

use tokio::sync::mpsc;

use super::twilio_leg::{TwilioControl, TwilioLeg};
use crate::core::ids::LegId;
use crate::core::private::Private;
use crate::sip::engine::{Command, IncomingCall, LegEvent, OutgoingLeg, SharedEngine, SubmitError};
use crate::sip::rtp_channel::RtpReceiver;

/// One leg, whoever called.
pub(in crate::bridge) struct Leg {
    control: Control,
    events: mpsc::Receiver<LegEvent>,
}

/// Who does what is asked about a leg.
enum Control {
    Sip { leg: LegId, engine: SharedEngine },
    Twilio(TwilioControl),
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

    /// The leg of a call that is Twilio's, and its RTP.
    pub(in crate::bridge) fn twilio(leg: TwilioLeg) -> (Self, RtpReceiver) {
        let control = Control::Twilio(leg.control);
        let events = leg.events;
        (Self { control, events }, leg.rtp)
    }

    fn new(engine: &SharedEngine, leg: LegId, events: mpsc::Receiver<LegEvent>) -> Self {
        let engine = engine.clone();
        Self {
            control: Control::Sip { leg, engine },
            events,
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
        match &self.control {
            Control::Sip { leg, engine } => engine.submit(Command::Answer { leg: *leg, status }),
            Control::Twilio(control) if status == 200 => control.answer(),
            // There is no ringing to tell Twilio of.
            Control::Twilio(_) => Ok(()),
        }
    }

    /// Ends the leg; the status is used where the INVITE has no final answer yet.
    pub(in crate::bridge) fn hang_up(&self, status: u16) -> Result<(), SubmitError> {
        match &self.control {
            Control::Sip { leg, engine } => engine.submit(Command::Hangup { leg: *leg, status }),
            Control::Twilio(control) => control.hang_up(),
        }
    }

    /// Sends REFER.
    pub(in crate::bridge) fn transfer(&self, destination: Private) -> Result<(), SubmitError> {
        match &self.control {
            Control::Sip { leg, engine } => {
                let leg = *leg;
                engine.submit(Command::Transfer { leg, destination })
            }
            Control::Twilio(control) => control.transfer(destination),
        }
    }

    /// Tells the other side by a re-INVITE that it is held, or not any more.
    pub(in crate::bridge) fn hold(&self, on: bool) -> Result<(), SubmitError> {
        match &self.control {
            Control::Sip { leg, engine } => engine.submit(Command::Hold { leg: *leg, on }),
            Control::Twilio(control) => control.hold(),
        }
    }
}
