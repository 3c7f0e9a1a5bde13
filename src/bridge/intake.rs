//! Takes what the engine reports: each INVITE gets a driver, each
//! registration result goes to the registrar.

use std::sync::Arc;

use tokio::sync::mpsc;
use tracing::{debug, error, info, warn};

use super::context::Context;
use super::driver;
use super::registrar::RegistrarHandle;
use crate::sip::engine::{Command, EngineEvent, IncomingCall};

/// Runs until the engine is gone.
pub async fn run(
    context: Arc<Context>,
    mut events: mpsc::Receiver<EngineEvent>,
    registrar: RegistrarHandle,
) {
    while let Some(event) = events.recv().await {
        match event {
            EngineEvent::Incoming(incoming) => take(&context, incoming),
            EngineEvent::Registration { line, state } => registrar.handle_result(line, state),
            EngineEvent::LineRefused { line, reason } => {
                error!(%line, reason, "the line cannot be added and takes no calls");
                registrar.handle_refused(line, reason);
            }
        }
    }
    debug!("the SIP engine is gone");
}

fn take(context: &Arc<Context>, incoming: Box<IncomingCall>) {
    match context.registry.enter(&incoming.line) {
        Ok(place) => {
            tokio::spawn(driver::run(context.clone(), incoming, place));
        }
        Err(refusal) => {
            info!(line = %incoming.line, status = refusal.status, "call refused: no capacity");
            let (leg, status) = (incoming.leg, refusal.status);
            let command = Command::Reject {
                leg,
                status,
                retry_after: refusal.retry_after,
            };
            if let Err(error) = context.engine.submit(command) {
                warn!(%error, "the refusal was not sent");
            }
        }
    }
}
