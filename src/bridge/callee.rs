//! The second leg of a call: the line's fallback number, called where the
//! trunk refuses REFER, and joined with the caller.
//!
//! Each leg has its own outgoing audio and its own incoming one; joined, the
//! one's incoming frames are the other's outgoing ones. So each side keeps its
//! codec, its clock, its hold and its losses to itself.

use tokio::time::Instant;
use tracing::{debug, info, warn};

use super::driver::Driver;
use super::leg_media::LegMedia;
use super::place::{Calling, hang_up};
use crate::core::call::CalleeInput;
use crate::core::media_link::{MediaLink, RtpTap};
use crate::core::opus::OpusError;
use crate::core::private::Private;
use crate::media::pacer::Pacer;
use crate::sip::engine::{CallRefused, LegEvent, OutgoingLeg, SharedEngine};

/// The leg to the fallback number. Dropping it ends the leg.
pub(super) struct Callee {
    leg: OutgoingLeg,
    media: LegMedia,
    /// The engine has ended the leg.
    over: bool,
    engine: SharedEngine,
}

impl Callee {
    fn new(driver: &Driver, leg: OutgoingLeg) -> Result<Self, OpusError> {
        Ok(Self {
            media: LegMedia::new(&driver.context, &leg.rtp)?,
            leg,
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

    /// Lets held packets go when time has passed.
    pub(super) fn tick(&self, now: Instant) {
        let mut state = self.media.port.lock();
        state.uplink.handle_tick(now.into_std());
        state.send();
    }
}

impl Drop for Callee {
    fn drop(&mut self) {
        let relay = self.media.port.lock().relay.take();
        drop(relay);
        if self.over {
            return;
        }
        hang_up(&self.engine, self.leg.leg);
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
        let line = self.record.line.id.clone();
        match Calling::submit(&self.context.engine, line, destination) {
            Ok(calling) => self.pending.calling = Some(calling),
            Err(error) => {
                warn!(%error, "the fallback number cannot be called");
                let now = std::time::Instant::now();
                self.call.handle_callee(now, CalleeInput::Ended);
            }
        }
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
                let mut state = callee.media.port.lock();
                state.uplink.handle_digit(now.into_std(), digit);
                state.send();
                None
            }
            Some(LegEvent::Progress(_) | LegEvent::Transfer { .. } | LegEvent::Held { .. }) => None,
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
        self.media.port.lock().join(&callee.media.stream);
        callee.media.port.lock().join(&self.media.stream);
    }

    pub(super) fn drop_callee(&mut self) {
        self.pending.calling = None;
        self.callee = None;
        // Freed after the lock is released.
        let relay = self.media.port.lock().relay.take();
        drop(relay);
    }
}
