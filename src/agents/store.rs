//! Where agents are kept: the database, or what a test puts in its place.

use std::pin::Pin;
use std::sync::Arc;

use crate::core::agents::{Agent, AgentConfig, TenantId};
use crate::store::{Store, StoreError};

/// What the database comes to answer.
pub type AgentAnswer<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Keeps agents.
pub trait AgentStore: Send + Sync {
    /// The agent of a tenant.
    fn agent(&self, tenant: TenantId) -> AgentAnswer<Option<AgentConfig>>;
    /// Gives it one.
    fn put(&self, tenant: TenantId, agent: Arc<Agent>) -> AgentAnswer<()>;
    /// Takes it away; whether there was one.
    fn delete(&self, tenant: TenantId) -> AgentAnswer<bool>;
    /// Whether it answers.
    fn probe(&self) -> AgentAnswer<()>;
}

impl AgentStore for Store {
    fn agent(&self, tenant: TenantId) -> AgentAnswer<Option<AgentConfig>> {
        let store = self.clone();
        Box::pin(async move { Self::agent(&store, &tenant).await })
    }

    fn put(&self, tenant: TenantId, agent: Arc<Agent>) -> AgentAnswer<()> {
        let store = self.clone();
        Box::pin(async move { store.put_agent(&tenant, agent.config()).await })
    }

    fn delete(&self, tenant: TenantId) -> AgentAnswer<bool> {
        let store = self.clone();
        Box::pin(async move { store.delete_agent(&tenant).await })
    }

    fn probe(&self) -> AgentAnswer<()> {
        let store = self.clone();
        Box::pin(async move { store.probe_agents().await })
    }
}
