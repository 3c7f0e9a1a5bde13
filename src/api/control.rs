//! What the routes share.

use std::sync::Arc;

use axum::extract::FromRef;

use super::health::Health;
use super::nodes::Nodes;
use super::problem::{Problem, ProblemKind};
use super::twilio::Account;
use super::webhooks::TwilioWebhooks;
use crate::agents::{AgentDirectory, Voices};
use crate::bridge::call_store::CallStore;
use crate::bridge::place::CallPlacer;
use crate::core::key::MasterKey;
use crate::core::private::Secret;
use crate::fleet::{LineDirectory, RegistrarHandle};
use crate::store::Store;

/// Gives the facts of the moment. Must not block.
#[derive(Clone)]
pub struct HealthSource(Arc<dyn Fn() -> Health + Send + Sync>);

impl HealthSource {
    /// Takes what gathers the facts.
    pub fn new(gather: impl Fn() -> Health + Send + Sync + 'static) -> Self {
        Self(Arc::new(gather))
    }

    /// The facts now.
    #[must_use]
    pub fn health(&self) -> Health {
        (self.0)()
    }
}

/// What the routes act upon.
pub struct Control {
    /// For `GET /health`.
    pub health: HealthSource,
    /// The calls as they are, and the way to ask something of them.
    pub calls: Arc<CallStore>,
    /// Places calls.
    pub placer: CallPlacer,
    /// The lines that the bridge holds now.
    pub lines: LineDirectory,
    /// This bridge's name, `--node-id`.
    pub node: String,
    /// The database, where there is one.
    pub store: Option<Store>,
    /// The agents of tenants, where `--agents` is on.
    pub agents: Option<AgentDirectory>,
    /// The voices that they may have, where there is a provider's key.
    pub voices: Option<Voices>,
    /// The bridges that lines are shared with, where they are.
    pub nodes: Option<Nodes>,
    /// The lines' registrations.
    pub registrar: RegistrarHandle,
    /// What the API demands of its clients.
    pub token: Option<Secret>,
    /// Takes calls of lines that are Twilio's, where `--public-url` is given.
    pub twilio_webhooks: Option<TwilioWebhooks>,
    /// Who may use Twilio's API.
    pub twilio: Account,
    /// Master key of the passwords at rest.
    pub key: Option<MasterKey>,
}

impl Control {
    /// The database.
    ///
    /// # Errors
    /// When the bridge runs without one.
    pub fn store(&self) -> Result<&Store, Problem> {
        const WHY: &str = "lines, SIP servers and call records are kept in a database: start the \
             bridge with --data-dir (DATA_DIR) or --database-url (DATABASE_URL)";
        self.store
            .as_ref()
            .ok_or_else(|| Problem::new(ProblemKind::NO_DATABASE, WHY))
    }
}

impl FromRef<Arc<Control>> for HealthSource {
    fn from_ref(control: &Arc<Control>) -> Self {
        control.health.clone()
    }
}
