//! The agents of calls: asked of the database at most every few seconds for each
//! tenant, remembered in between, true at once where this bridge changes one.
//!
//! No call waits for the database beyond [`WAIT_MAX`], and none at all while it has
//! just failed or is asked already for longer than that: what was known last counts
//! then, however old.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{debug, warn};

use super::store::AgentStore;
use crate::core::agents::{Agent, AgentConfig, TenantId};
use crate::core::log_limiter::LogLimiter;
use crate::store::StoreError;

/// How long a call waits for its agent at most.
pub const WAIT_MAX: Duration = Duration::from_millis(200);
/// How long what was read counts: changes that another bridge on the same database makes
/// are seen after it.
pub const FRESH: Duration = Duration::from_secs(5);
/// How long a database that has failed is not asked again.
const PAUSE: Duration = Duration::from_secs(2);
/// How long one question to the database may take; calls do not wait for so long.
const LOAD_MAX: Duration = Duration::from_secs(10);
/// Most questions at once: the others have the connections too.
const LOADS_MAX: usize = 4;
/// Most tenants that are remembered; at 64 KiB each they take 64 MiB.
const TENANTS_MAX: usize = 1_000;
/// How often the log tells of failures.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Knows the agents. Clones share what they know.
#[derive(Clone)]
pub struct AgentDirectory(Arc<Shared>);

struct Shared {
    store: Arc<dyn AgentStore>,
    tenants: Mutex<HashMap<TenantId, Entry>>,
    loads: Semaphore,
    told: Mutex<LogLimiter>,
}

/// What is known of one tenant.
#[derive(Default)]
struct Entry {
    /// Its agent, as far as is known.
    agent: Option<Arc<Agent>>,
    /// When that was read, or written by us; `None` where the database must be asked.
    read: Option<Instant>,
    failed: Option<Instant>,
    load: Option<Load>,
    /// Rises when a change begins and when it ends: what was read meanwhile may be
    /// what was there before, and is forgotten.
    version: u64,
}

/// A question to the database that is under way.
#[derive(Clone)]
struct Load {
    began: Instant,
    /// Its sender is gone when the question is answered.
    running: watch::Receiver<()>,
}

impl Load {
    fn is_over(&self) -> bool {
        self.running.has_changed().is_err()
    }
}

impl Entry {
    fn is_loading(&self) -> bool {
        self.load.as_ref().is_some_and(|load| !load.is_over())
    }

    fn need_not_ask(&self, now: Instant) -> bool {
        self.read.is_some_and(|at| now.duration_since(at) < FRESH)
            || self.failed.is_some_and(|at| now.duration_since(at) < PAUSE)
    }
}

enum Look {
    /// As far as is known, or has to do.
    Known(Option<Arc<Agent>>),
    /// The database is being asked.
    Loading(Load),
}

impl AgentDirectory {
    /// Knows nothing yet.
    #[must_use]
    pub fn new(store: Arc<dyn AgentStore>) -> Self {
        Self(Arc::new(Shared {
            store,
            tenants: Mutex::default(),
            loads: Semaphore::new(LOADS_MAX),
            told: Mutex::new(LogLimiter::new(TELL_EVERY)),
        }))
    }

    /// The agent for a call of a line with this `restaurantId`. Takes [`WAIT_MAX`] at
    /// most; whatever fails, there is the last one known, or none.
    pub async fn of_call(&self, restaurant: &str) -> Option<Arc<Agent>> {
        let tenant = TenantId::parse(restaurant)?;
        match self.look(&tenant) {
            Look::Known(agent) => agent,
            Look::Loading(mut load) => {
                // For a question that has been asked for long nobody waits.
                let until = load.began + WAIT_MAX;
                if timeout_at(until, load.running.changed()).await.is_err() {
                    debug!(%tenant, "the database is slow: the call gets the agent that was known last");
                }
                let tenants = self.tenants();
                tenants.get(&tenant).and_then(|entry| entry.agent.clone())
            }
        }
    }

    /// The agent as the database has it now.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, tenant: &TenantId) -> Result<Option<AgentConfig>, StoreError> {
        self.0.store.agent(tenant.clone()).await
    }

    /// Gives a tenant an agent; calls that begin from now on have it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put(&self, tenant: &TenantId, config: AgentConfig) -> Result<(), StoreError> {
        let agent = Arc::new(Agent::new(config));
        let version = self.begin_change(tenant);
        let done = self.0.store.put(tenant.clone(), agent.clone()).await;
        self.end_change(tenant, version, done.is_ok().then_some(Some(agent)));
        done
    }

    /// Takes a tenant's agent away; whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete(&self, tenant: &TenantId) -> Result<bool, StoreError> {
        let version = self.begin_change(tenant);
        let done = self.0.store.delete(tenant.clone()).await;
        self.end_change(tenant, version, done.is_ok().then_some(None));
        done
    }

    /// Whether the database answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn probe(&self) -> Result<(), StoreError> {
        self.0.store.probe().await
    }

    fn tenants(&self) -> MutexGuard<'_, HashMap<TenantId, Entry>> {
        let tenants = self.0.tenants.lock();
        tenants.unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self, tenant: &TenantId) -> Look {
        let now = Instant::now();
        let mut tenants = self.tenants();
        let Some(entry) = entry(&mut tenants, tenant) else {
            return Look::Known(None);
        };
        if entry.need_not_ask(now) {
            return Look::Known(entry.agent.clone());
        }
        if let Some(load) = entry.load.as_ref().filter(|load| !load.is_over()) {
            return Look::Loading(load.clone());
        }
        let (loading, running) = watch::channel(());
        let load = Load {
            began: now,
            running,
        };
        entry.load = Some(load.clone());
        let (directory, tenant, version) = (self.clone(), tenant.clone(), entry.version);
        // On its own, so that what comes too late for this call is there for the next.
        tokio::spawn(async move {
            directory.load(tenant, version).await;
            drop(loading);
        });
        Look::Loading(load)
    }

    async fn load(&self, tenant: TenantId, version: u64) {
        let Ok(permit) = self.0.loads.acquire().await else {
            return;
        };
        let asked = timeout(LOAD_MAX, self.0.store.agent(tenant.clone())).await;
        drop(permit);
        let found = asked.unwrap_or_else(|_| Err(StoreError::no_answer("reading an agent")));
        if let Err(error) = &found {
            self.tell(&tenant, error);
        }
        let now = Instant::now();
        let mut tenants = self.tenants();
        let Some(entry) = tenants.get_mut(&tenant) else {
            return;
        };
        if entry.version != version {
            return;
        }
        match found {
            Ok(config) => {
                entry.failed = None;
                entry.agent = config.map(|config| Arc::new(Agent::new(config)));
                entry.read = Some(now);
            }
            // It is there, and cannot be used: that is as good as none.
            Err(StoreError::Agent { .. }) => {
                entry.agent = None;
                entry.read = Some(now);
            }
            Err(_) => entry.failed = Some(now),
        }
    }

    fn tell(&self, tenant: &TenantId, error: &StoreError) {
        let count = {
            let mut told = self.0.told.lock().unwrap_or_else(PoisonError::into_inner);
            told.count(std::time::Instant::now())
        };
        if let Some(count) = count {
            warn!(%tenant, %error, count, "an agent cannot be read: calls get what was known last; the count is since the last warning");
        }
    }

    fn begin_change(&self, tenant: &TenantId) -> u64 {
        let mut tenants = self.tenants();
        let Some(entry) = entry(&mut tenants, tenant) else {
            return 0;
        };
        entry.version += 1;
        entry.version
    }

    /// `written`: what the database has now; `None` where that is not known.
    fn end_change(&self, tenant: &TenantId, version: u64, written: Option<Option<Arc<Agent>>>) {
        let now = Instant::now();
        let mut tenants = self.tenants();
        let Some(entry) = tenants.get_mut(tenant) else {
            return;
        };
        // Of two changes at once nobody here knows which the database made last.
        let is_alone = entry.version == version;
        entry.version += 1;
        entry.read = None;
        if let Some(agent) = written.filter(|_| is_alone) {
            entry.agent = agent;
            entry.read = Some(now);
        }
    }
}

/// The entry of a tenant; `None` where all that are remembered are being asked for. Of too
/// many, the one that was read longest ago makes room.
fn entry<'a>(
    tenants: &'a mut HashMap<TenantId, Entry>,
    tenant: &TenantId,
) -> Option<&'a mut Entry> {
    if !tenants.contains_key(tenant) && tenants.len() >= TENANTS_MAX {
        let idle = tenants.iter().filter(|(_, entry)| !entry.is_loading());
        let oldest = idle.min_by_key(|(_, entry)| entry.read);
        let oldest = oldest.map(|(tenant, _)| tenant.clone())?;
        tenants.remove(&oldest);
    }
    Some(tenants.entry(tenant.clone()).or_default())
}

#[cfg(test)]
#[path = "directory_tests.rs"]
mod tests;
