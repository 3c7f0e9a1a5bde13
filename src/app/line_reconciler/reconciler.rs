//! Holds the lines: the one owner of what is held. Call limiter, line directory, SIP
//! engine and registrar learn from here of what has changed, and of nothing else.
//!
//! A line is added at once, without its password where that is still encrypted:
//! an INVITE to it needs none. It registers as soon as its own password is
//! decrypted; those are decrypted beside everything else, a few at a time, in the
//! order of [`SealedLines`](crate::lines::sealed::SealedLines). A line whose
//! password does not decrypt is reported and held no more.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::sleep;
use tracing::{debug, error, info, warn};

use super::decrypting::{self, Decrypted, InTurn};
use super::desired_lines::{self, Changed, DesiredLines, Plan, Unsealed};
use crate::app::database::Stored;
use crate::app::start_lines::usable;
use crate::bridge::context::Context;
use crate::bridge::line_directory::LineHealth;
use crate::bridge::registrar::RegistrarHandle;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::sip::engine::{Account, Command, SubmitError};

/// Commands after which the engine is waited for: the commands of calls find
/// room and do not wait behind hundreds of lines.
const AT_ONCE: usize = 32;
/// How long a full command queue is left alone.
const FULL_PAUSE: Duration = Duration::from_millis(50);
/// Readings of the database that wait to be taken in: its reader waits for each.
const READINGS: usize = 1;

/// What the database holds now.
pub struct Reading {
    /// It.
    pub stored: Stored,
    /// Told once the lines are as it says; dropped when the engine is gone.
    pub taken_in: oneshot::Sender<()>,
}

/// The one owner of what is held: makes engine, limiter, directory and registrar follow the database.
pub struct LineReconciler {
    config: Arc<Config>,
    context: Arc<Context>,
    registrar: RegistrarHandle,
    /// Locked by one blocking task at a time.
    desired: Arc<Mutex<DesiredLines>>,
    decrypting: InTurn<Decrypted>,
    readings: mpsc::Receiver<Reading>,
}

/// Hands a line to the registrar: it registers in its turn, if at all, and once its
/// password is there.
pub fn enlist(registrar: &RegistrarHandle, account: &Account, is_sealed: bool) {
    if !account.register {
        registrar.add_off(&account.line);
    } else if is_sealed {
        registrar.add_sealed(&account.line);
    } else {
        let server = account.server.as_deref().unwrap_or(&account.domain);
        registrar.add(&account.line, server);
    }
}

impl LineReconciler {
    /// A reconciler of the lines that were started; and where readings of the database go.
    #[must_use]
    pub fn new(
        config: &Config,
        context: &Arc<Context>,
        registrar: &RegistrarHandle,
        desired: DesiredLines,
    ) -> (Self, mpsc::Sender<Reading>) {
        let (sender, readings) = mpsc::channel(READINGS);
        let reconciler = Self {
            config: Arc::new(config.clone()),
            context: context.clone(),
            registrar: registrar.clone(),
            desired: Arc::new(Mutex::new(desired)),
            decrypting: InTurn::new(decrypting::at_once()),
            readings,
        };
        (reconciler, sender)
    }

    /// Runs until nothing can change any more, or the SIP engine is shut down.
    pub async fn run(mut self) {
        loop {
            self.decrypt_more();
            let is_decrypting = !self.decrypting.is_empty();
            let done = tokio::select! {
                Some(reading) = self.readings.recv() => self.take_in(reading).await,
                decrypted = self.decrypting.next(), if is_decrypting => {
                    self.take_decrypted(decrypted).await
                }
                else => return,
            };
            if done.is_err() {
                error!("the SIP engine is gone: changes of lines are not seen any more");
                return;
            }
        }
    }

    fn decrypt_more(&mut self) {
        let Self {
            decrypting,
            desired,
            ..
        } = self;
        let (key, call_limiter) = (&self.config.encryption_key, &self.context.call_limiter);
        decrypting.fill(|| {
            let password = desired_lines::lock(desired).sealed.begin()?;
            let beside_calls = call_limiter.active() > 0;
            Some(decrypting::begin(key.clone(), password, beside_calls))
        });
    }

    /// The line registers now; or it is held no more.
    async fn take_decrypted(
        &mut self,
        decrypted: Result<Decrypted, JoinError>,
    ) -> Result<(), SubmitError> {
        let (config, desired) = (self.config.clone(), self.desired.clone());
        let unsealed = match decrypted {
            Ok((password, opened)) => {
                spawn_blocking(move || {
                    desired_lines::lock(&desired).unseal(&config, &password, opened)
                })
                .await
            }
            Err(error) => Err(error),
        };
        match unsealed {
            Ok(Some(Unsealed::Usable(line))) => {
                debug!(line = %line.ready.line.id, "its password is decrypted");
                let known = usable(&line.ready);
                self.context.lines.judge_line(&line.ready.line.id, known);
                self.hold(*line, true, true).await?;
            }
            Ok(Some(Unsealed::Unusable {
                line,
                problem,
                reason,
            })) => {
                error!("{problem}");
                let known = LineHealth::Unusable { reason };
                self.context.lines.judge_line(&line, known);
                self.remove(line).await?;
                self.count();
            }
            // It is another by now.
            Ok(None) => {}
            Err(error) => error!(%error, "a password was not decrypted"),
        }
        if desired_lines::lock(&self.desired).sealed.is_empty() {
            info!("the passwords of all lines are decrypted");
        }
        Ok(())
    }

    /// Compares what is held with what the database has, and does what is to be done.
    async fn take_in(&mut self, reading: Reading) -> Result<(), SubmitError> {
        let (config, desired) = (self.config.clone(), self.desired.clone());
        let stored = reading.stored;
        match spawn_blocking(move || desired_lines::lock(&desired).plan(&config, stored)).await {
            Ok(plan) => self.apply(plan).await?,
            Err(error) => {
                error!(%error, "the lines of the database cannot be worked out; they stay as they are");
            }
        }
        // Who does not wait for it needs no answer.
        let _ = reading.taken_in.send(());
        Ok(())
    }

    async fn apply(&self, plan: Plan) -> Result<(), SubmitError> {
        plan.errors.iter().for_each(|problem| error!("{problem}"));
        plan.warnings.iter().for_each(|warning| warn!("{warning}"));
        let counts = [
            plan.register.len(),
            plan.renumber.len() + plan.adjust.len(),
            plan.remove.len(),
        ];
        let mut sent = 0;
        for line in plan.remove {
            info!(%line, "line removed, paused or not usable any more: it unregisters");
            self.remove(line).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        let registering = plan.register.into_iter().map(|line| (line, true));
        let renumbered = plan.renumber.into_iter().map(|line| (line, false));
        for (line, registers) in registering.chain(renumbered) {
            info!(line = %line.ready.line.id, registers, "line added or changed");
            self.hold(line, true, registers).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        for line in plan.adjust {
            info!(line = %line.ready.line.id, registers = false, "line added or changed");
            self.hold(line, false, false).await?;
        }
        self.count();
        self.context.lines.judge(plan.judged);
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
        self.registrar.remove(&line);
        self.submit(|| Command::RemoveLine(line.clone())).await?;
        self.context.lines.remove(&line);
        self.context.call_limiter.forget(&line);
        desired_lines::lock(&self.desired).held.remove(&line);
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
        self.context.lines.put(line.profile);
        self.context.call_limiter.set_limit(&id, line.limit);
        if for_engine {
            let account = &line.account;
            self.submit(|| Command::AddLine(Box::new(account.clone())))
                .await?;
        }
        if registers {
            enlist(&self.registrar, &line.account, line.ready.is_sealed);
        }
        desired_lines::lock(&self.desired)
            .held
            .insert(id, line.ready);
        Ok(())
    }

    /// Tells the call limiter how many lines share the bridge.
    fn count(&self) {
        let context = &self.context;
        context.call_limiter.set_lines(context.lines.len());
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
