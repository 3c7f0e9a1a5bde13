//! Carries a plan out: registry, line book, SIP engine and registrar learn of
//! what has changed, and of nothing else.

use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::{error, info, warn};

use super::Keeper;
use super::books::{self, Changed, Plan};
use crate::bridge::registrar::RegistrarHandle;
use crate::core::ids::LineId;
use crate::sip::engine::{Account, Command, SubmitError};

/// Commands after which the engine is waited for: the commands of calls find
/// room and do not wait behind hundreds of lines.
const AT_ONCE: usize = 32;
/// How long a full command queue is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(50);

/// Hands a line to the registrar, if it registers at all.
pub fn enlist(registrar: &RegistrarHandle, account: &Account) {
    if account.register {
        let server = account.server.as_deref().unwrap_or(&account.domain);
        registrar.add(&account.line, server);
    } else {
        registrar.add_off(&account.line);
    }
}

impl Keeper {
    /// Does what is planned. Fails when the engine is shut down.
    pub(super) async fn apply(&self, plan: Plan) -> Result<(), SubmitError> {
        plan.errors.iter().for_each(|problem| error!("{problem}"));
        plan.warnings.iter().for_each(|warning| warn!("{warning}"));
        let counts = [
            plan.register.len(),
            plan.renumber.len() + plan.adjust.len(),
            plan.remove.len(),
        ];
        let mut sent = 0;
        for line in plan.remove {
            self.remove(line).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        for line in plan.register {
            self.hold(line, true, true).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        for line in plan.renumber {
            self.hold(line, true, false).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        for line in plan.adjust {
            self.hold(line, false, false).await?;
        }
        let context = &self.context;
        context.registry.set_lines(context.lines.len());
        context.lines.judge(plan.judged);
        let [registering, adjusted, removed] = counts;
        if counts != [0; 3] {
            info!(
                registering,
                adjusted, removed, "lines changed in the database"
            );
        }
        Ok(())
    }

    /// The line's calls run to their end.
    async fn remove(&self, line: LineId) -> Result<(), SubmitError> {
        info!(%line, "line removed, paused or not usable any more: it unregisters");
        self.registrar.remove(&line);
        self.submit(|| Command::RemoveLine(line.clone())).await?;
        self.context.lines.remove(&line);
        self.context.registry.forget(&line);
        books::lock(&self.books).held.remove(&line);
        Ok(())
    }

    /// The calls' side first: a call may come as soon as the engine knows the line.
    async fn hold(
        &self,
        line: Changed,
        for_engine: bool,
        registers: bool,
    ) -> Result<(), SubmitError> {
        let id = line.ready.line.id.clone();
        info!(line = %id, registers, "line added or changed");
        self.context.lines.put(line.profile);
        self.context.registry.set_limit(&id, line.limit);
        if for_engine {
            let account = &line.account;
            self.submit(|| Command::AddLine(Box::new(account.clone())))
                .await?;
        }
        if registers {
            enlist(&self.registrar, &line.account);
        }
        books::lock(&self.books).held.insert(id, line.ready);
        Ok(())
    }

    /// Waits while the command queue is full.
    async fn submit(&self, command: impl Fn() -> Command) -> Result<(), SubmitError> {
        loop {
            match self.context.engine.submit(command()) {
                Err(SubmitError::Full) => sleep(FULL_PAUSE).await,
                other => return other,
            }
        }
    }

    async fn wait_now_and_then(&self, sent: &mut usize) -> Result<(), SubmitError> {
        *sent += 1;
        if *sent % AT_ONCE != 0 {
            return Ok(());
        }
        loop {
            let (done, flushed) = oneshot::channel();
            match self.context.engine.submit(Command::Flush(done)) {
                Ok(()) => return flushed.await.map_err(|_| SubmitError::Closed),
                Err(SubmitError::Full) => sleep(FULL_PAUSE).await,
                Err(closed) => return Err(closed),
            }
        }
    }
}
