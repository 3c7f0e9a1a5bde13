//! Takes calls of lines that are Twilio's: each gets a place, a leg whose socket Twilio is to open, and a driver, like a call
//! that came by SIP.

use std::sync::Arc;

use tracing::info;

use super::arrival::Arrival;
pub use super::arrival::TwilioCall;
use super::context::Context;
use super::drivers::Drivers;
use super::leg::twilio_leg::twilio_leg;
use crate::callbacks::twilio_rest::TwilioAccount;
use crate::core::ids::Token;
use crate::core::private::Secret;
use crate::fleet::CallLimiter;
use crate::sip::engine::Refusal;
use crate::worker::{AttachTable, twilio_url};

/// Why a call of Twilio's is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwilioRefusal {
    /// No place: the line or the bridge is full, or shuts down.
    #[error("no place for one more call (SIP status {})", .0.status)]
    NoPlace(Refusal),
    /// Its webhook has come before.
    #[error("this call was taken before")]
    Repeated,
}

/// Takes Twilio's calls.
pub struct TwilioIntake {
    drivers: Arc<Drivers>,
    call_limiter: Arc<CallLimiter>,
    /// Where its sockets are waited for.
    callers: AttachTable,
    stream_url: String,
}

impl TwilioIntake {
    /// Takes the handles of a running bridge; `callers` is what its stream port hands Twilio's sockets to.
    #[must_use]
    pub fn new(context: &Context, drivers: &Arc<Drivers>, callers: &AttachTable) -> Self {
        Self {
            drivers: drivers.clone(),
            call_limiter: context.call_limiter.clone(),
            callers: callers.clone(),
            stream_url: context.settings.stream_url.clone(),
        }
    }

    /// Takes a call: where Twilio is to open its stream, once, within 15 s. A worker is looked for from then on.
    ///
    /// # Errors
    /// When it is not taken.
    pub fn take(&self, call: TwilioCall, account: TwilioAccount) -> Result<Secret, TwilioRefusal> {
        if self.callers.knows(&call.call) {
            return Err(TwilioRefusal::Repeated);
        }
        let place = self.call_limiter.enter(&call.line).map_err(|refusal| {
            info!(line = %call.line, status = refusal.status, "a call from Twilio is refused: no capacity");
            TwilioRefusal::NoPlace(refusal)
        })?;
        let token = Token::random();
        let ticket = self.callers.expect(call.call.clone(), token.clone());
        let url = twilio_url(&self.stream_url, &call.call, &token);
        let (leg, life) = twilio_leg(call.call.clone(), ticket, account);
        let drivers = self.drivers.clone();
        tokio::spawn(life);
        tokio::spawn(async move { drivers.run(Arrival::Twilio { call, leg }, place).await });
        Ok(url)
    }
}
