//! Takes what the engine reports: each INVITE gets a driver, each
//! registration result goes to the registrar.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::arrival::Arrival;
use super::context::Context;
use super::drivers::Drivers;
use crate::core::ids::LineId;
use crate::fleet::{CallLimiter, RegistrarHandle};
use crate::sip::engine::{Command, EngineEvent, IncomingCall, Registration, SharedEngine};

/// Takes what the engine reports.
pub struct Intake {
    drivers: Arc<Drivers>,
    call_limiter: Arc<CallLimiter>,
    engine: SharedEngine,
    registrar: RegistrarHandle,
}

impl Intake {
    /// Takes the handles of a running bridge.
    #[must_use]
    pub fn new(context: &Context, drivers: &Arc<Drivers>, registrar: RegistrarHandle) -> Self {
        Self {
            drivers: drivers.clone(),
            call_limiter: context.call_limiter.clone(),
            engine: context.engine.clone(),
            registrar,
        }
    }

    /// Runs until the engine is gone.
    pub async fn run(self, mut events: mpsc::Receiver<EngineEvent>) {
        let registrar = &self.registrar;
        while let Some(event) = events.recv().await {
            match event {
                EngineEvent::Incoming(incoming) => self.take(incoming),
                EngineEvent::Registration { line, state } => {
                    handle_registration(&self.engine, registrar, line, state);
                }
                EngineEvent::LineRefused {
                    line,
                    reason,
                    retry_in,
                } => {
                    let retry_in_s = retry_in.as_secs();
                    error!(%line, reason, retry_in_s, "the line cannot be added and takes no calls, it is tried again");
                    registrar.handle_refused(&line, reason, retry_in);
                }
                EngineEvent::LineAdded { line } => {
                    info!(%line, "the line that could not be added is added now");
                    registrar.handle_added(&line);
                }
            }
        }
        debug!("the SIP engine is gone");
    }

    fn take(&self, incoming: Box<IncomingCall>) {
        match self.call_limiter.enter(&incoming.line) {
            Ok(place) => {
                let drivers = self.drivers.clone();
                tokio::spawn(async move { drivers.run(Arrival::Sip(incoming), place).await });
            }
            Err(refusal) => {
                info!(line = %incoming.line, status = refusal.status, "call refused: no capacity");
                let (leg, status) = (incoming.leg, refusal.status);
                let command = Command::Reject {
                    leg,
                    status,
                    retry_after: refusal.retry_after,
                };
                if let Err(error) = self.engine.submit(command) {
                    warn!(%error, "the refusal was not sent");
                }
            }
        }
    }
}

/// A line that was registering when the bridge began to go down could not
/// unregister then: pjsip takes one request at a time.
fn handle_registration(
    engine: &SharedEngine,
    registrar: &RegistrarHandle,
    line: LineId,
    state: Registration,
) {
    if registrar.is_stopping() && matches!(state, Registration::Registered { .. }) {
        if let Err(error) = engine.submit(Command::Unregister(line.clone())) {
            warn!(%line, %error, "the line stays registered until its registration expires");
        }
    }
    registrar.handle_result(line, state);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Limits, SharedFleet};
    use crate::sim::{AdmitAll, SimEngine};
    use std::time::Duration;

    #[tokio::test]
    async fn a_line_that_registers_too_late_is_unregistered() {
        let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
        let engine: SharedEngine = sim;
        let line = LineId::new("late");
        let fleet = SharedFleet::new(Limits::default());
        let registrar = RegistrarHandle::new(&fleet, None);
        let registered = Registration::Registered {
            expires: Duration::from_secs(300),
            siblings_listed: false,
        };
        handle_registration(&engine, &registrar, line.clone(), registered.clone());
        assert!(events.try_recv().is_err(), "it may stay");
        registrar.stop();
        handle_registration(&engine, &registrar, line, registered);
        assert!(matches!(
            events.try_recv(),
            Ok(EngineEvent::Registration {
                state: Registration::Unregistered,
                ..
            })
        ));
    }
}
