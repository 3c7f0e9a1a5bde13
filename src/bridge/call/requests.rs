//! What the API asks of one call, carried out by its driver. The answer goes
//! out as soon as the call itself shows the request as done; what the network
//! makes of it shows in the call later.

use tokio::time::Instant;
use tracing::{debug, info};

use super::{Awaited, Driver};
use crate::bridge::call_store::{CallRequest, QueuedRequest, RequestError};
use crate::core::call::Denied;
use crate::core::call_object::CallDirection;
use crate::core::media_session::downlink::DigitsRefused;
use crate::core::voice::{Instructions, VoiceRole};

impl Driver {
    pub(in crate::bridge) async fn handle_asked(&mut self, now: Instant, asked: QueuedRequest) {
        let QueuedRequest { request, reply } = asked;
        let name = request.name();
        let answer = self.carry_out(now, request).await;
        match &answer {
            Ok(()) => info!(request = name, "request from outside"),
            Err(error) => debug!(request = name, %error, "request from outside not carried out"),
        }
        // The API answers with the call as it is shown: a reply that goes out
        // first can be read before the request shows in it.
        self.perform_outputs();
        // Who asked may have gone.
        let _ = reply.send(answer);
    }

    async fn carry_out(&mut self, now: Instant, request: CallRequest) -> Result<(), RequestError> {
        let now = now.into_std();
        match request {
            CallRequest::Hangup => self.call.handle_hangup_request(now)?,
            CallRequest::Transfer(destination) => {
                self.call.check_transfer()?;
                let destination = self.parts.destinations.allow(&destination).await?;
                self.call.handle_transfer_request(now, destination)?;
            }
            CallRequest::Dtmf(digits) => self.send_digits(&digits)?,
            CallRequest::Hold => self.call.handle_hold_request(now, true)?,
            CallRequest::Resume => self.call.handle_hold_request(now, false)?,
            CallRequest::Instructions(instructions) => self.instruct(now, *instructions)?,
        }
        Ok(())
    }

    /// Whoever has the call gives it up. A call that we placed is TwiML's once it is answered.
    fn instruct(
        &mut self,
        now: std::time::Instant,
        instructions: Instructions,
    ) -> Result<(), RequestError> {
        self.call.handle_voice_takeover(now)?;
        self.leave_parent();
        if self.awaited == Awaited::PlayOut {
            self.awaited = Awaited::Nothing;
        }
        let is_answered = self.call.is_answered();
        let is_taken = match self.parts.publisher.facts().direction {
            CallDirection::Outbound if !is_answered => {
                self.parts.voice.begin_with(instructions);
                true
            }
            direction => {
                let role = role_of(direction);
                let voice = &mut self.parts.voice;
                voice.instruct(now, instructions, role, is_answered)
            }
        };
        is_taken.then_some(()).ok_or(RequestError::Over)
    }

    fn send_digits(&self, digits: &str) -> Result<(), RequestError> {
        self.call.check_digits()?;
        if digits.is_empty() {
            return Err(RequestError::Invalid("there are no digits".into()));
        }
        let sent = self.parts.media.stream.downlink().send_digits(digits);
        sent.map_err(|refused| match refused {
            DigitsRefused::Invalid => RequestError::Invalid(refused.to_string()),
            DigitsRefused::NotNegotiated => {
                RequestError::NotNow("the other side did not negotiate RFC 4733 events")
            }
            DigitsRefused::Full => RequestError::NotNow("too many digits wait to be sent"),
        })
    }
}

const fn role_of(direction: CallDirection) -> VoiceRole {
    match direction {
        CallDirection::Inbound => VoiceRole::Inbound,
        CallDirection::Outbound => VoiceRole::Outbound,
    }
}

impl CallRequest {
    /// For the log: says nothing private.
    const fn name(&self) -> &'static str {
        match self {
            Self::Hangup => "hangup",
            Self::Transfer(_) => "transfer",
            Self::Dtmf(_) => "dtmf",
            Self::Hold => "hold",
            Self::Resume => "resume",
            Self::Instructions(_) => "instructions",
        }
    }
}

impl From<Denied> for RequestError {
    fn from(denied: Denied) -> Self {
        match denied {
            Denied::Over => Self::Over,
            Denied::NotAnswered => Self::NotNow("the call is not answered yet"),
            Denied::Transferring => Self::NotNow("a transfer of the call is under way"),
            Denied::Scripted => Self::NotNow("TwiML has the call"),
            Denied::Leaving => Self::NotNow("the call is being ended or handed on already"),
        }
    }
}
