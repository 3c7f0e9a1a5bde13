//! Places a call and streams it like one that came in: a place in the
//! call limiter, an INVITE from the line's account, a driver.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tracing::{Instrument, warn};

use super::call::call_terms::{CallTerms, ForeignWorkers};
use super::call::driver::Start;
pub use super::call::voice::PlacedVoice;
pub use super::call::voice_detection::PlacedDetection;
use super::call_place::CallPlace;
use super::caller_id;
use super::context::Context;
use super::dialling::Dialling;
use super::drivers::Drivers;
use crate::callbacks::CallbackTarget;
use crate::core::call_object::CallObject;
use crate::core::callback::CallbackReceiver;
use crate::core::dialling::NotAllowed;
use crate::core::ids::{LegId, LineId};
use crate::core::outward::Outward;
use crate::core::private::Private;
use crate::core::sip_header::{SipHeader, SipHeaderError, sip_headers_of};
use crate::fleet::CallLimiter;
use crate::fleet::LineDirectory;
use crate::fleet::LineProfile;
use crate::queue::Queue;
use crate::sip::engine::{
    CallRefused, Command, OutgoingCall, OutgoingLeg, Refusal, SharedEngine, SubmitError,
};

/// A call to be placed.
#[derive(Clone, Debug)]
pub struct NewCall {
    /// The line to call from.
    pub line: LineId,
    /// Whom to call: a number or a SIP URI.
    pub to: Private,
    /// For `customParameters`; they replace those of the line and `--param`. Those that the line's `sipHeaders` name go into
    /// the INVITE too.
    pub custom_params: BTreeMap<String, String>,
    /// The worker to dial for this call, instead of the queue or `--ws-target`.
    pub ws_target: Option<String>,
    /// Where this call's status callbacks go.
    pub callback_url: Option<String>,
    /// How long the callee may ring.
    pub ring_timeout: Duration,
    /// What TwiML does with it once it is answered, instead of a worker.
    pub voice: Option<PlacedVoice>,
    /// The number that the callee is shown, where that is not the line's.
    pub caller_id: Option<Private>,
    /// How long it may last, where that is less than the bridge allows.
    pub time_limit: Option<Duration>,
}

/// Why a call was not placed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is no such line.
    #[error("there is no such line, or it is not in use on this bridge")]
    UnknownLine,
    /// The bridge or the line has no place for one more call.
    #[error(
        "no place for one more call (SIP status {}): the line or the bridge is full, overloaded, or shuts down",
        .0.status
    )]
    Refused(Refusal),
    /// The worker's address of this call cannot be used.
    #[error("wsTarget cannot be used: {0}")]
    BadTarget(String),
    /// The callback address of this call cannot be used.
    #[error("callbackUrl cannot be used: {0}")]
    BadCallback(String),
    /// The headers that the line makes of the call's parameters cannot be sent.
    #[error("what the line's sipHeaders make of it cannot be sent: {0}")]
    BadHeaders(#[from] SipHeaderError),
    /// The operator does not allow such calls, or the line has had its dials of
    /// the hour.
    #[error(transparent)]
    NotAllowed(#[from] NotAllowed),
    /// The number that is to be shown is nobody's.
    #[error(
        "CallerId is not the number of a line in use on this bridge, nor, in a <Dial>, the caller's"
    )]
    CallerId,
    /// The SIP engine did not take it.
    #[error(transparent)]
    Sip(CallRefused),
    /// The SIP engine is shut down.
    #[error("the bridge goes down")]
    Closed,
}

/// Places calls.
pub struct CallPlacer {
    drivers: Arc<Drivers>,
    engine: SharedEngine,
    lines: LineDirectory,
    outgoing: OutgoingLegs,
    outward: Arc<Outward>,
    foreign: ForeignWorkers,
}

impl CallPlacer {
    /// Takes the handles of a running bridge.
    #[must_use]
    pub fn new(context: &Context, drivers: &Arc<Drivers>) -> Self {
        Self {
            drivers: drivers.clone(),
            engine: context.engine.clone(),
            lines: context.lines.clone(),
            outgoing: OutgoingLegs::new(context),
            outward: context.outward.clone(),
            foreign: ForeignWorkers::new(context.outward.clone(), context.signer.clone()),
        }
    }

    /// Places a call. The answer is there once the INVITE has been handed to the
    /// SIP stack; what becomes of it is told by the call's status. Dropped before
    /// that, nothing is called.
    ///
    /// # Errors
    /// When no call was placed.
    pub async fn place(&self, call: NewCall) -> Result<CallObject, PlaceError> {
        let line = self.lines.get(&call.line);
        let line = line.ok_or(PlaceError::UnknownLine)?;
        let start = Start::Placed {
            ring_timeout: call.ring_timeout,
        };
        let headers = headers_of(&line, &call)?;
        let wanted = WantedLeg {
            destination: call.to.clone(),
            caller_id: call.caller_id.clone(),
            headers,
            caller: None,
        };
        let mut terms = self.terms(call)?;
        // Before there is a leg, which would be nobody's while this waits.
        terms.agent = self.drivers.agent_of(&line).await;
        let dialled = self.outgoing.dial(&line, wanted).await?;
        let (place, to, placed) = (dialled.place, dialled.to, dialled.leg);
        terms.caller_id = dialled.shown;
        let leg = placed.leg;
        let driver = self.drivers.placed(line, &to, placed, terms);
        let (driver, object, span) = driver.map_err(|error| {
            hang_up(&self.engine, leg);
            PlaceError::Sip(CallRefused::Failed(error.to_string()))
        })?;
        let life = async move {
            driver.live(start).await;
            drop(place);
        };
        tokio::spawn(life.instrument(span));
        Ok(object)
    }

    /// What the call brings with it, checked.
    fn terms(&self, call: NewCall) -> Result<CallTerms, PlaceError> {
        if let Some(url) = &call.callback_url {
            let judged =
                CallbackTarget::parse_foreign(url).and_then(|url| url.judge(&self.outward));
            judged.map_err(|error| PlaceError::BadCallback(error.to_string()))?;
        }
        let target = call.ws_target.as_deref();
        let (params, url) = (call.custom_params, call.callback_url);
        let receiver = url.map(CallbackReceiver::Own);
        let terms = CallTerms::new(params, target, receiver, &self.foreign);
        let terms = terms.map_err(|error| PlaceError::BadTarget(error.to_string()))?;
        Ok(CallTerms {
            voice: call.voice,
            time_limit: call.time_limit,
            ..terms
        })
    }
}

/// A leg that is wanted.
pub(super) struct WantedLeg {
    /// Whom to call: a number or a SIP URI.
    pub(super) destination: Private,
    /// For its INVITE.
    pub(super) headers: Vec<SipHeader>,
    /// The number to be shown, where that is not the line's.
    pub(super) caller_id: Option<Private>,
    /// Who rings, where it is called for him.
    pub(super) caller: Option<Private>,
}

/// A leg of ours whose INVITE is out.
pub(super) struct PlacedLeg {
    /// To be given back after it.
    pub(super) place: CallPlace,
    /// Who is called, as the dial rules have it.
    pub(super) to: Private,
    /// The number that is shown, where that is not the line's.
    pub(super) shown: Option<Private>,
    pub(super) leg: OutgoingLeg,
}

/// Legs of ours, under the rules and caps that hold for all of them.
pub(super) struct OutgoingLegs {
    engine: SharedEngine,
    dialling: Arc<Dialling>,
    call_limiter: Arc<CallLimiter>,
    queue: Option<Queue>,
    lines: LineDirectory,
}

impl OutgoingLegs {
    pub(super) fn new(context: &Context) -> Self {
        Self {
            engine: context.engine.clone(),
            dialling: context.dialling.clone(),
            call_limiter: context.call_limiter.clone(),
            queue: context.queue.clone(),
            lines: context.lines.clone(),
        }
    }

    /// Calls somebody from this line, where the dial rules allow it and there is a place for one more call.
    pub(super) async fn dial(
        &self,
        line: &LineProfile,
        wanted: WantedLeg,
    ) -> Result<PlacedLeg, PlaceError> {
        let caller = wanted.caller.as_ref();
        let shown = wanted.caller_id.as_ref();
        let shown = shown.map(|number| caller_id::shown(&self.lines, line, number, caller));
        let shown = shown.transpose()?;
        // Before a place is taken: what is refused must not keep callers out.
        let to = self.dialling.allow(line, &wanted.destination).await?;
        let call = NewLeg {
            line: line.id.clone(),
            destination: to.clone(),
            headers: wanted.headers,
            shown: shown.clone(),
        };
        match self.place(call).await {
            Ok((place, leg)) => Ok(PlacedLeg {
                place,
                to,
                shown,
                leg,
            }),
            Err(error) => {
                // A dial that finds no place is none, nor is one that the engine refuses.
                self.dialling.give_back(line).await;
                Err(error)
            }
        }
    }

    /// A place for one more call, and its leg.
    async fn place(&self, call: NewLeg) -> Result<(CallPlace, OutgoingLeg), PlaceError> {
        let permit = self.call_limiter.enter(&call.line);
        let permit = permit.map_err(PlaceError::Refused)?;
        let place = CallPlace::take(permit, self.queue.as_ref()).await;
        let place = place.map_err(PlaceError::Refused)?;
        let mut calling = Calling::submit(&self.engine, call)?;
        Ok((place, calling.placed().await?))
    }
}

/// What the line makes of the call's own parameters, and of its own where the call has none of that name.
fn headers_of(line: &LineProfile, call: &NewCall) -> Result<Vec<SipHeader>, PlaceError> {
    let value = |name: &str| {
        let own = call.custom_params.get(name);
        own.or_else(|| line.custom_parameters.get(name))
            .map(String::as_str)
    };
    Ok(sip_headers_of(&line.sip_headers, value)?)
}

impl From<CallRefused> for PlaceError {
    fn from(refused: CallRefused) -> Self {
        match refused {
            CallRefused::UnknownLine => Self::UnknownLine,
            refused => Self::Sip(refused),
        }
    }
}

/// A leg that the engine is asked for.
pub(super) struct NewLeg {
    pub(super) line: LineId,
    /// A number or a SIP URI.
    pub(super) destination: Private,
    /// For its INVITE.
    pub(super) headers: Vec<SipHeader>,
    /// The number in From, where that is not the line's.
    pub(super) shown: Option<Private>,
}

/// A leg of ours while the engine places it. Dropping it ends the leg, however
/// far it has come.
pub(super) struct Calling {
    placed: oneshot::Receiver<Result<OutgoingLeg, CallRefused>>,
    engine: SharedEngine,
}

impl Calling {
    /// Asks the engine for a call.
    pub(super) fn submit(engine: &SharedEngine, call: NewLeg) -> Result<Self, PlaceError> {
        let (reply, placed) = oneshot::channel();
        let call = OutgoingCall {
            line: call.line,
            destination: call.destination,
            headers: call.headers,
            shown: call.shown,
            reply,
        };
        engine
            .submit(Command::Call(Box::new(call)))
            .map_err(|error| match error {
                SubmitError::Full => PlaceError::Sip(CallRefused::Full),
                SubmitError::Closed => PlaceError::Closed,
            })?;
        Ok(Self {
            placed,
            engine: engine.clone(),
        })
    }

    /// The leg, or why there is none. Once; cancel-safe.
    pub(super) async fn placed(&mut self) -> Result<OutgoingLeg, CallRefused> {
        let placed = (&mut self.placed).await;
        placed.unwrap_or_else(|_| Err(CallRefused::Failed("the SIP engine took no call".into())))
    }
}

impl Drop for Calling {
    fn drop(&mut self) {
        // From here on the engine ends the leg itself, unless it is here already.
        self.placed.close();
        if let Ok(Ok(leg)) = self.placed.try_recv() {
            hang_up(&self.engine, leg.leg);
        }
    }
}

/// Ends a leg of ours that no driver will end.
pub(super) fn hang_up(engine: &SharedEngine, leg: LegId) {
    if let Err(error) = engine.submit(Command::Hangup { leg, status: 487 }) {
        warn!(%error, "a leg of ours was not ended");
    }
}
