//! The agents of tenants: a configuration each, as JSON.

use std::time::SystemTime;

use sqlx::Row as _;

use super::calls::millis;
use super::connection::Store;
use super::error::StoreError;
use crate::core::agents::{AgentConfig, TenantId, read};

impl Store {
    /// The agent of a tenant.
    ///
    /// # Errors
    /// When the database fails, or holds what is no configuration: another program
    /// wrote it, or a later version of this one.
    pub async fn agent(&self, tenant: &TenantId) -> Result<Option<AgentConfig>, StoreError> {
        const WHAT: &str = "reading an agent";
        let mut connection = self.acquire(WHAT).await?;
        let row = sqlx::query("SELECT config FROM agent_configs WHERE tenant_id = $1")
            .bind(tenant.as_str().to_owned())
            .fetch_optional(&mut *connection)
            .await
            .map_err(StoreError::query(WHAT))?;
        let Some(row) = row else {
            return Ok(None);
        };
        let text: String = row.try_get(0).map_err(StoreError::query(WHAT))?;
        config(&text).map(Some).map_err(|reason| StoreError::Agent {
            tenant: tenant.to_string(),
            reason,
        })
    }

    /// Gives a tenant an agent, in the place of the one that it had.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn put_agent(
        &self,
        tenant: &TenantId,
        config: &AgentConfig,
    ) -> Result<(), StoreError> {
        const WHAT: &str = "writing an agent";
        let mut connection = self.acquire(WHAT).await?;
        let sql = "INSERT INTO agent_configs (tenant_id, config, updated_at) VALUES ($1, $2, $3) \
                   ON CONFLICT (tenant_id) DO UPDATE \
                   SET config = excluded.config, updated_at = excluded.updated_at";
        sqlx::query(sql)
            .bind(tenant.as_str().to_owned())
            .bind(config.to_json())
            .bind(millis(SystemTime::now()))
            .execute(&mut *connection)
            .await
            .map(drop)
            .map_err(StoreError::query(WHAT))
    }

    /// Takes a tenant's agent away; whether there was one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn delete_agent(&self, tenant: &TenantId) -> Result<bool, StoreError> {
        const WHAT: &str = "removing an agent";
        let mut connection = self.acquire(WHAT).await?;
        let done = sqlx::query("DELETE FROM agent_configs WHERE tenant_id = $1")
            .bind(tenant.as_str().to_owned())
            .execute(&mut *connection)
            .await
            .map_err(StoreError::query(WHAT))?;
        Ok(done.rows_affected() > 0)
    }

    /// Whether agents can be read now, at little cost.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn probe_agents(&self) -> Result<(), StoreError> {
        const WHAT: &str = "looking for agents";
        let mut connection = self.acquire(WHAT).await?;
        sqlx::query("SELECT 1 FROM agent_configs LIMIT 1")
            .fetch_optional(&mut *connection)
            .await
            .map(drop)
            .map_err(StoreError::query(WHAT))
    }
}

/// What is stored, judged as what is given: nothing but what was checked reaches a call.
fn config(text: &str) -> Result<AgentConfig, String> {
    let object = serde_json::from_str(text).map_err(|_| "it is no JSON object".to_owned())?;
    read(object).map_err(|mistakes| {
        let told: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
        told.join("; ")
    })
}
