//! Where agents are kept: the database, or what a test puts in its place.

use std::pin::Pin;
use std::sync::Arc;

use crate::core::agents::{Agent, AgentConfig, TenantId};
use crate::store::{Store, StoreError};

/// What the database comes to answer.
pub type Answer<T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send>>;

/// Keeps agents.
pub trait AgentStore: Send + Sync {
    /// The agent of a tenant.
    fn agent(&self, tenant: TenantId) -> Answer<Option<AgentConfig>>;
    /// Gives it one.
    fn put(&self, tenant: TenantId, agent: Arc<Agent>) -> Answer<()>;
    /// Takes it away; whether there was one.
    fn delete(&self, tenant: TenantId) -> Answer<bool>;
    /// Whether it answers.
    fn probe(&self) -> Answer<()>;
}

impl AgentStore for Store {
    fn agent(&self, tenant: TenantId) -> Answer<Option<AgentConfig>> {
        let store = self.clone();
        Box::pin(async move { Self::agent(&store, &tenant).await })
    }

    fn put(&self, tenant: TenantId, agent: Arc<Agent>) -> Answer<()> {
        let store = self.clone();
        Box::pin(async move { store.put_agent(&tenant, agent.config()).await })
    }

    fn delete(&self, tenant: TenantId) -> Answer<bool> {
        let store = self.clone();
        Box::pin(async move { store.delete_agent(&tenant).await })
    }

    fn probe(&self) -> Answer<()> {
        let store = self.clone();
        Box::pin(async move { store.probe_agents().await })
    }
}
