//! Agents per tenant, where `--agents` is on: kept in the database, handed to the
//! workers of the tenant's calls; and the voices that they may have.
//!
//! | file | what it holds |
//! |---|---|
//! | [`directory`] | the agents of calls: remembered, never waited for long |
//! | [`store`] | where they are kept |
//!
//! What an agent is, and what it may be, is in [`crate::core::agents`].

pub mod directory;
pub mod store;

pub use directory::AgentDirectory;
pub use store::AgentStore;
