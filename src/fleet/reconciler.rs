//! Makes what is held what is wanted: table, SIP engine and registrations learn from here of what
//! has changed, and of nothing else. The start is the first time.
//!
//! A line is added at once, without its password where that is still encrypted:
//! an INVITE to it needs none. It registers as soon as its own password is
//! decrypted; those are decrypted beside everything else, a few at a time, in the
//! order of the lines' latest calls. A line whose password does not decrypt is reported and held no more.

use std::sync::{Arc, Mutex};

use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, block_in_place, spawn_blocking};
use tracing::{debug, error, info, warn};

use super::call_limiter::CallLimiter;
use super::changes::LineChange;
use super::decrypting::{self, Decrypted, InTurn};
use super::desired::{self, DesiredLines, Plan, Unsealed, WantedLine};
use super::line::LineHealth;
use super::registrar::RegistrarHandle;
use super::shared::SharedFleet;
use super::snapshot::{LineSnapshot, StoredLines};
use super::sounds::SoundLoader;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::sip::engine::{Command, SharedEngine, SubmitError};
use crate::sip::submit::submit_waiting;

/// Commands after which the engine is waited for: the commands of calls find
/// room and do not wait behind hundreds of lines.
const AT_ONCE: usize = 32;
/// Readings of the database that wait to be taken in: its reader waits for each.
const READINGS: usize = 1;

/// What the database holds now.
pub struct Reading {
    /// It.
    pub stored: StoredLines,
    /// Told once the lines are as it says; dropped when the engine is gone.
    pub taken_in: oneshot::Sender<()>,
}

/// The one owner of what is held.
pub struct LineReconciler {
    config: Arc<Config>,
    fleet: SharedFleet,
    engine: SharedEngine,
    call_limiter: Arc<CallLimiter>,
    registrar: RegistrarHandle,
    /// Locked by one blocking task at a time.
    desired: Arc<Mutex<DesiredLines>>,
    decrypting: InTurn<Decrypted>,
    readings: mpsc::Receiver<Reading>,
}

impl LineReconciler {
    /// A reconciler that holds nothing yet; and where readings of the database go.
    #[must_use]
    pub fn new(
        config: &Config,
        fleet: &SharedFleet,
        engine: &SharedEngine,
        call_limiter: &Arc<CallLimiter>,
        registrar: &RegistrarHandle,
        loader: SoundLoader,
    ) -> (Self, mpsc::Sender<Reading>) {
        let (sender, readings) = mpsc::channel(READINGS);
        let reconciler = Self {
            config: Arc::new(config.clone()),
            fleet: fleet.clone(),
            engine: engine.clone(),
            call_limiter: call_limiter.clone(),
            registrar: registrar.clone(),
            desired: Arc::new(Mutex::new(DesiredLines::new(loader))),
            decrypting: InTurn::new(decrypting::at_once()),
            readings,
        };
        (reconciler, sender)
    }

    /// Holds the lines of the start. Returns when the engine knows every line, so that none of
    /// their calls is refused as unknown: how many mistakes of the lines file are shown with no line.
    ///
    /// # Errors
    /// When the SIP engine is gone.
    pub async fn start(&self, start: LineSnapshot) -> Result<usize, SubmitError> {
        let plan = block_in_place(|| {
            desired::lock(&self.desired).plan_start(&self.config, &self.fleet, start)
        });
        // As fast as the engine takes them: there is no call yet whose commands would wait.
        for line in plan.hold {
            self.hold(line).await?;
        }
        self.fleet.judge(plan.known);
        self.flush().await?;
        Ok(plan.unshown_file_mistakes)
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
        let (fleet, key) = (&self.fleet, &self.config.encryption_key);
        let call_limiter = &self.call_limiter;
        self.decrypting.fill(|| {
            let password = fleet.lock().begin_decrypting()?;
            let beside_calls = call_limiter.active() > 0;
            Some(decrypting::begin(key.clone(), password, beside_calls))
        });
    }

    /// The line registers now; or it is held no more.
    async fn take_decrypted(
        &mut self,
        decrypted: Result<Decrypted, JoinError>,
    ) -> Result<(), SubmitError> {
        let (config, fleet) = (self.config.clone(), self.fleet.clone());
        let desired = self.desired.clone();
        let unsealed = match decrypted {
            Ok((password, opened)) => {
                let unseal =
                    move || desired::lock(&desired).unseal(&config, &fleet, &password, opened);
                spawn_blocking(unseal).await
            }
            Err(error) => Err(error),
        };
        match unsealed {
            Ok(Some(Unsealed::Usable(line))) => {
                let id = line.ready.line.id.clone();
                debug!(line = %id, "its password is decrypted");
                self.fleet.lock().judge([(id, line.health())]);
                self.hold(*line).await?;
            }
            Ok(Some(Unsealed::Unusable {
                line,
                problem,
                reason,
            })) => {
                error!("{problem}");
                let known = LineHealth::Unusable { reason };
                self.fleet.lock().judge([(line.clone(), known)]);
                self.remove(line).await?;
            }
            // It is another by now.
            Ok(None) => {}
            Err(error) => error!(%error, "a password was not decrypted"),
        }
        if !self.fleet.lock().is_decrypting() {
            info!("the passwords of all lines are decrypted");
        }
        Ok(())
    }

    /// Compares what is held with what the database has, and does what is to be done.
    async fn take_in(&mut self, reading: Reading) -> Result<(), SubmitError> {
        let (config, fleet) = (self.config.clone(), self.fleet.clone());
        let (desired, stored) = (self.desired.clone(), reading.stored);
        let plan = move || desired::lock(&desired).plan(&config, &fleet, stored);
        match spawn_blocking(plan).await {
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
        let registers = |line: &WantedLine| line.change == LineChange::Register;
        let registering = plan.hold.iter().filter(|line| registers(line)).count();
        let (adjusted, removed) = (plan.hold.len() - registering, plan.remove.len());
        let mut sent = 0;
        for line in plan.remove {
            info!(%line, "line removed, paused or not usable any more: it unregisters");
            self.remove(line).await?;
            self.wait_now_and_then(&mut sent).await?;
        }
        for line in plan.hold {
            let (id, registers) = (line.ready.line.id.clone(), registers(&line));
            self.hold(line).await?;
            info!(line = %id, registers, "line added or changed");
            self.wait_now_and_then(&mut sent).await?;
        }
        self.fleet.judge(plan.known);
        if registering + adjusted + removed > 0 {
            info!(
                registering,
                adjusted, removed, "lines changed in the database"
            );
        }
        Ok(())
    }

    /// The line's calls run to their end.
    async fn remove(&self, line: LineId) -> Result<(), SubmitError> {
        let was_scheduled = self.fleet.lock().unregister(&line);
        self.registrar.note_removed(&line, was_scheduled);
        submit_waiting(&self.engine, || Command::RemoveLine(line.clone())).await?;
        self.fleet.lock().remove(&line);
        Ok(())
    }

    /// The calls' side first: a call may come as soon as the engine knows the line.
    async fn hold(&self, line: WantedLine) -> Result<(), SubmitError> {
        let WantedLine {
            change,
            account,
            profile,
            ready,
        } = line;
        let is_sealed = ready.is_sealed;
        self.fleet.hold(ready, profile);
        if change != LineChange::Adjust {
            submit_waiting(&self.engine, || Command::AddLine(Box::new(account.clone()))).await?;
        }
        if change == LineChange::Register {
            let server = account.server.as_deref().unwrap_or(&account.domain);
            let server = account.register.then_some(server);
            self.registrar.schedule(&account.line, server, is_sealed);
        }
        Ok(())
    }

    async fn wait_now_and_then(&self, sent: &mut usize) -> Result<(), SubmitError> {
        *sent += 1;
        if *sent % AT_ONCE == 0 {
            self.flush().await?;
        }
        Ok(())
    }

    /// Returns when the engine has carried out all commands so far.
    async fn flush(&self) -> Result<(), SubmitError> {
        let mut flushed = None;
        let flush = || {
            let (done, is_done) = oneshot::channel();
            flushed = Some(is_done);
            Command::Flush(done)
        };
        submit_waiting(&self.engine, flush).await?;
        match flushed {
            Some(is_done) => is_done.await.map_err(|_| SubmitError::Closed),
            None => Ok(()),
        }
    }
}
