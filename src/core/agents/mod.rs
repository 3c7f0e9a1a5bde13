//! The agent of a tenant: how the AI worker of its calls is to speak. Typed and
//! judged here, stored as JSON, handed to the worker whole.
//!
//! | file | what it holds |
//! |---|---|
//! | [`config`] | the configuration, field by field, and its JSON |
//! | [`mod@read`] | from a JSON object to a configuration, with every mistake |
//! | [`voice_settings`] | what a voice can be told, by its provider |
//! | [`tenant`] | whose agent it is |

pub mod config;
pub mod read;
pub mod tenant;
pub mod voice_settings;

pub use config::{Agent, AgentConfig, VoiceProvider};
pub use read::{AgentMistake, CONFIG_MAX_BYTES, FIELDS, read};
pub use tenant::TenantId;
pub use voice_settings::VoiceSettings;
