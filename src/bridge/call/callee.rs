//! The second leg of a call: the line's fallback number, called where the
//! trunk refuses REFER, and joined with the caller.
//!
//! Each leg has its own outgoing audio and its own incoming one; joined, the
//! one's incoming frames are the other's outgoing ones. So each side keeps its
//! codec, its clock, its hold and its losses to itself.

use std::sync::Arc;

use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::bridge::leg::leg_media::{LegGains, LegMedia};
use crate::bridge::place::{Calling, NewLeg, hang_up};
use crate::core::call::CalleeInput;
use crate::core::ids::LineId;
use crate::core::media_link::{MediaLink, RtpTap};
use crate::core::opus::OpusError;
use crate::core::private::Private;
use crate::media::pacer::Pacer;
use crate::sip::engine::{CallRefused, LegEvent, OutgoingLeg, SharedEngine};

/// The leg to the fallback number, where the call has got so far. Dropping it
/// ends the leg.
pub(in crate::bridge) struct FallbackLeg {
    handles: FallbackHandles,
    /// Until the engine has placed the leg.
    calling: Option<Calling>,
    callee: Option<Callee>,
}

/// What a leg to a fallback number is made with.
#[derive(Clone)]
pub(in crate::bridge) struct FallbackHandles {
    pub(in crate::bridge) engine: SharedEngine,
    pub(in crate::bridge) pacer: Arc<Pacer>,
    pub(in crate::bridge) gains: LegGains,
}

/// The leg once the engine has placed it. Dropping it ends the leg.
struct Callee {
    leg: OutgoingLeg,
    media: LegMedia,
    /// The engine has ended the leg.
    over: bool,
    engine: SharedEngine,
}

/// What a leg waits for.
enum Event {
    Placed(Result<OutgoingLeg, CallRefused>),
    Leg(Option<LegEvent>),
}

impl FallbackLeg {
    /// Nobody is called yet.
    pub(in crate::bridge) const fn new(handles: FallbackHandles) -> Self {
        Self {
            handles,
            calling: None,
            callee: None,
        }
    }

    /// Calls this number from the line. Whether the engine tries to.
    pub(in crate::bridge) fn call(&mut self, line: &LineId, destination: Private) -> bool {
        let calling = Calling::submit(
            &self.handles.engine,
            NewLeg {
                line: line.clone(),
                destination,
                headers: Vec::new(),
                shown: None,
            },
        );
        if let Err(error) = &calling {
            warn!(%error, "the fallback number cannot be called");
        }
        self.calling = calling.ok();
        self.calling.is_some()
    }

    /// Whether there is a leg.
    pub(in crate::bridge) const fn is_up(&self) -> bool {
        self.callee.is_some()
    }

    /// Waits until something happens to the leg that matters to the call; never
    /// returns, while there is no leg. Cancel-safe.
    pub(in crate::bridge) async fn next(&mut self) -> CalleeInput {
        loop {
            let event = tokio::select! {
                biased;
                result = placed(&mut self.calling) => Event::Placed(result),
                event = next_event(&mut self.callee) => Event::Leg(event),
            };
            let input = match event {
                Event::Placed(result) => self.handle_placed(result),
                Event::Leg(event) => self.handle_event(event),
            };
            if let Some(input) = input {
                return input;
            }
        }
    }

    fn handle_placed(&mut self, result: Result<OutgoingLeg, CallRefused>) -> Option<CalleeInput> {
        self.calling = None;
        let callee = result.and_then(|leg| {
            info!(callee_sip_call_id = %leg.sip_call_id, "calling the fallback number");
            let failed = |error: OpusError| CallRefused::Failed(error.to_string());
            Callee::new(&self.handles, leg).map_err(failed)
        });
        match callee {
            Ok(callee) => {
                self.callee = Some(callee);
                None
            }
            Err(error) => {
                warn!(%error, "the fallback number cannot be called");
                Some(CalleeInput::Ended)
            }
        }
    }

    fn handle_event(&mut self, event: Option<LegEvent>) -> Option<CalleeInput> {
        let callee = self.callee.as_mut()?;
        match event {
            Some(LegEvent::Media(link)) => {
                let usable = callee.connect(&self.handles.pacer, &link);
                (!usable).then_some(CalleeInput::Ended)
            }
            Some(LegEvent::Established) => Some(CalleeInput::Answered),
            Some(LegEvent::Digit(digit)) => {
                let mut state = callee.media.port.lock();
                state.uplink.handle_digit(std::time::Instant::now(), digit);
                state.send();
                None
            }
            Some(LegEvent::Progress(_) | LegEvent::Transfer { .. } | LegEvent::Held { .. }) => None,
            Some(LegEvent::Ended(end)) => {
                info!(status = end.status, reason = %end.reason, by = ?end.by, "leg to the fallback number ended");
                self.lose()
            }
            None => self.lose(),
        }
    }

    /// The engine has ended the leg.
    fn lose(&mut self) -> Option<CalleeInput> {
        if let Some(mut callee) = self.callee.take() {
            callee.over = true;
        }
        Some(CalleeInput::Ended)
    }

    /// Lets held packets go when time has passed.
    pub(in crate::bridge) fn tick(&self, now: Instant) {
        let Some(callee) = &self.callee else { return };
        let mut state = callee.media.port.lock();
        state.uplink.handle_tick(now.into_std());
        state.send();
    }

    /// From now on the caller and the leg hear each other.
    pub(in crate::bridge) fn join(&self, caller: &LegMedia) {
        let Some(callee) = &self.callee else { return };
        debug!("joined with the fallback number");
        caller.port.lock().join(&callee.media.stream);
        callee.media.port.lock().join(&caller.stream);
    }

    /// Ends the leg, however far it has come.
    pub(in crate::bridge) fn end(&mut self, caller: &LegMedia) {
        self.calling = None;
        self.callee = None;
        caller.part();
    }
}

impl Callee {
    fn new(handles: &FallbackHandles, leg: OutgoingLeg) -> Result<Self, OpusError> {
        Ok(Self {
            media: LegMedia::new(&handles.gains, &leg.rtp)?,
            leg,
            over: false,
            engine: handles.engine.clone(),
        })
    }

    /// The next event of the leg. Cancel-safe.
    async fn next(&mut self) -> Option<LegEvent> {
        loop {
            tokio::select! {
                biased;
                event = self.leg.events.recv() => return event,
                // From before the tap.
                Some(packet) = self.leg.rtp.recv() => {
                    self.media.port.handle_rtp(packet.arrived, &packet.bytes);
                }
                () = self.media.stream.woken() => {
                    if self.media.stream.has_failed() {
                        // The other side knows nothing of it yet.
                        hang_up(&self.engine, self.leg.leg);
                        return None;
                    }
                }
            }
        }
    }

    fn connect(&mut self, pacer: &Pacer, link: &MediaLink) -> bool {
        let connected = self.media.connect(pacer, link);
        if let Err(error) = &connected {
            warn!(%error, "the codec of the fallback number cannot be used");
        }
        connected.is_ok()
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        if self.over {
            return;
        }
        hang_up(&self.engine, self.leg.leg);
    }
}

async fn placed(calling: &mut Option<Calling>) -> Result<OutgoingLeg, CallRefused> {
    match calling {
        Some(calling) => calling.placed().await,
        None => std::future::pending().await,
    }
}

async fn next_event(callee: &mut Option<Callee>) -> Option<LegEvent> {
    match callee {
        Some(callee) => callee.next().await,
        None => std::future::pending().await,
    }
}
