//! The second leg of a call: the line's fallback number, called where the
//! trunk refuses REFER, and joined with the caller.
//!
//! Each leg has its own outgoing audio and its own incoming one; joined, the
//! one's incoming frames are the other's outgoing ones. So each side keeps its
//! codec, its clock, its hold and its losses to itself.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::context::provisional_format;
use super::driver::Driver;
use super::stream::CallStream;
use super::uplink_port::UplinkPort;
use crate::core::call::CalleeInput;
use crate::core::ids::LegId;
use crate::core::link::{MediaLink, RtpTap};
use crate::core::opus::OpusError;
use crate::core::private::Private;
use crate::core::uplink::Uplink;
use crate::sip::engine::{CallRefused, Command, LegEvent, OutgoingCall, OutgoingLeg, SharedEngine};

/// The leg to the fallback number. Dropping it ends the leg.
pub(super) struct Callee {
    leg: OutgoingLeg,
    stream: Arc<CallStream>,
    port: Arc<UplinkPort>,
    /// Media is up, and the pacer knows the stream.
    linked: bool,
    /// The engine has ended the leg.
    over: bool,
    engine: SharedEngine,
}

impl Callee {
    fn new(driver: &Driver, leg: OutgoingLeg) -> Result<Self, OpusError> {
        let format = provisional_format();
        let stream = Arc::new(CallStream::new(driver.context.new_downlink(&format)?));
        let gain = driver.context.settings.rx_gain.clone();
        let port = UplinkPort::new(Uplink::new(&format, gain)?);
        leg.rtp.tap(port.clone());
        Ok(Self {
            leg,
            stream,
            port,
            linked: false,
            over: false,
            engine: driver.context.engine.clone(),
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
                    self.port.handle_rtp(packet.arrived, &packet.bytes);
                }
            }
        }
    }

    fn connect(&mut self, driver_pacer: &crate::media::pacer::Pacer, link: &MediaLink) -> bool {
        let connected = self.stream.connect(link);
        let format = connected.and_then(|()| self.port.lock().uplink.set_format(&link.format));
        if let Err(error) = format {
            warn!(%error, "the codec of the fallback number cannot be used");
            return false;
        }
        if !self.linked {
            self.linked = true;
            driver_pacer.add(self.stream.clone());
        }
        true
    }

    /// Lets held packets go when time has passed.
    pub(super) fn tick(&self, now: Instant) {
        let mut state = self.port.lock();
        state.uplink.handle_tick(now.into_std());
        state.send();
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        self.stream.finish();
        self.port.lock().relay = None;
        if self.over {
            return;
        }
        hang_up(&self.engine, self.leg.leg);
    }
}

/// The leg to the fallback number while the engine places it. Dropping it ends
/// the leg, however far it has come.
pub(super) struct Calling {
    placed: oneshot::Receiver<Result<OutgoingLeg, CallRefused>>,
    engine: SharedEngine,
}

impl Calling {
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

fn hang_up(engine: &SharedEngine, leg: LegId) {
    if let Err(error) = engine.submit(Command::Hangup { leg, status: 487 }) {
        warn!(%error, "the leg to the fallback number was not ended");
    }
}

/// The next event of the callee's leg; never, while there is none.
pub(super) async fn next_event(callee: &mut Option<Callee>) -> Option<LegEvent> {
    match callee {
        Some(callee) => callee.next().await,
        None => std::future::pending().await,
    }
}

impl Driver {
    pub(super) fn call_out(&mut self, destination: Private) {
        let (reply, placed) = oneshot::channel();
        let call = OutgoingCall {
            line: self.record.line.id.clone(),
            destination,
            reply,
        };
        let engine = self.context.engine.clone();
        if let Err(error) = engine.submit(Command::Call(Box::new(call))) {
            warn!(%error, "SIP command not taken");
        }
        self.pending.calling = Some(Calling { placed, engine });
    }

    pub(super) fn handle_called(
        &mut self,
        now: Instant,
        result: Result<Box<OutgoingLeg>, CallRefused>,
    ) {
        let callee = result.and_then(|leg| {
            info!(callee_sip_call_id = %leg.sip_call_id, "calling the fallback number");
            let failed = |error: OpusError| CallRefused::Failed(error.to_string());
            Callee::new(self, *leg).map_err(failed)
        });
        match callee {
            Ok(callee) => self.callee = Some(callee),
            Err(error) => {
                warn!(%error, "the fallback number cannot be called");
                self.call.handle_callee(now.into_std(), CalleeInput::Ended);
            }
        }
    }

    pub(super) fn handle_callee(&mut self, now: Instant, event: Option<LegEvent>) {
        let Some(callee) = &mut self.callee else {
            return;
        };
        let input = match event {
            Some(LegEvent::Media(link)) => {
                let usable = callee.connect(&self.context.pacer, &link);
                (!usable).then_some(CalleeInput::Ended)
            }
            Some(LegEvent::Established) => Some(CalleeInput::Answered),
            Some(LegEvent::Digit(digit)) => {
                let mut state = callee.port.lock();
                state.uplink.handle_digit(now.into_std(), digit);
                state.send();
                None
            }
            Some(LegEvent::Progress(_) | LegEvent::Transfer { .. }) => None,
            Some(LegEvent::Ended(end)) => {
                info!(status = end.status, reason = %end.reason, by = ?end.by, "leg to the fallback number ended");
                callee.over = true;
                Some(CalleeInput::Ended)
            }
            None => {
                callee.over = true;
                Some(CalleeInput::Ended)
            }
        };
        if callee.over {
            self.callee = None;
        }
        if let Some(input) = input {
            self.call.handle_callee(now.into_std(), input);
        }
    }

    /// From now on each hears the other.
    pub(super) fn join(&mut self) {
        let Some(callee) = &self.callee else { return };
        debug!("joined with the fallback number");
        self.port.lock().join(&callee.stream);
        callee.port.lock().join(&self.stream);
    }

    pub(super) fn drop_callee(&mut self) {
        self.pending.calling = None;
        self.callee = None;
        self.port.lock().relay = None;
    }
}
