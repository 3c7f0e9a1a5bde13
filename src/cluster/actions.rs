//! Lines registered and let go.

use tracing::{debug, warn};

use crate::core::cluster::{LetGo, LineAction};
use crate::core::ids::LineId;
use crate::fleet::RegistrarHandle;
use crate::sip::engine::{Command, SharedEngine};
use crate::sip::submit::submit_waiting;

/// Carries out what the coordinator wants of lines.
pub(super) struct LineActions {
    pub(super) registrar: RegistrarHandle,
    pub(super) engine: SharedEngine,
}

impl LineActions {
    /// Begins it; its end comes as an outcome of the line. False where there is nothing to wait for: the line is not
    /// registered here, and will not be.
    pub(super) async fn begin(&self, action: LineAction) -> bool {
        match action {
            LineAction::Register { line, from } => {
                debug!(%line, from = from.as_ref().map(ToString::to_string), "the lease is ours: the line registers");
                self.registrar.take_lease(&line)
            }
            LineAction::LetGo { line, how } => {
                debug!(%line, ?how, "the lease is not ours: the line is let go");
                self.registrar.give_lease(&line);
                // One that was removed is taken off its registrar with that.
                self.registrar.is_in_engine(&line) && self.let_go(&line, how).await
            }
        }
    }

    async fn let_go(&self, line: &LineId, how: LetGo) -> bool {
        let command = || match how {
            LetGo::Unregister => Command::Unregister(line.clone()),
            LetGo::Forget => Command::Forget(line.clone()),
        };
        let submitted = submit_waiting(&self.engine, command).await;
        if let Err(error) = &submitted {
            warn!(%line, %error, "the line stays registered until its registration expires");
        }
        submitted.is_ok()
    }
}
