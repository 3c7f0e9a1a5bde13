//! Agents per tenant, where `--agents` is on: kept in the database, handed to the
//! workers of the tenant's calls; and the voices that they may have.
//!
//! | file | what it holds |
//! |---|---|
//! | [`directory`] | the agents of calls: remembered, never waited for long |
//! | [`store`] | where they are kept |
//! | [`voices`] | the voices and models of a provider: asked for, remembered |
//! | [`elevenlabs`] | what ElevenLabs answers, read |
//! | [`error`] | why there are no voices |
//!
//! What an agent is, and what it may be, is in [`crate::core::agents`].

pub mod directory;
pub mod elevenlabs;
pub mod error;
pub mod store;
pub mod voices;

pub use directory::AgentDirectory;
pub use error::VoicesError;
pub use store::AgentStore;
pub use voices::Voices;
