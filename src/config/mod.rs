//! Command line and environment; all mistakes reported at once, before anything binds.
//!
//! | file | what it holds |
//! |---|---|
//! | [`flags`] | every flag in one table: name, variable, default, help |
//! | [`callbacks`] | who is told of calls over HTTP, and who is asked |
//! | [`raw_args`] | what was given, as texts: command line first, then environment |
//! | [`mod@validate`] | from texts to settings, with every mistake |
//! | `reader` | the texts as typed values, every mistake collected |
//! | `access` | who may use the API |
//! | [`agents`] | whether tenants have agents, and where voices are asked for |
//! | [`callers`] | from whom calls are taken |
//! | `dialling` | whom the lines may call |
//! | `log_filter` | what is logged |
//! | `records` | for how long records of calls are kept |
//! | [`twilio`] | lines that are Twilio's |
//! | `workers` | how workers get their calls |
//! | [`settings`] | the settings, typed |
//! | [`config_error`] | what can be wrong, and how it is said |
//! | [`url`] | URLs that are shown without their passwords |
//!
//! `.env` is read by `start-sipbridge.sh`, not here.

mod access;
pub mod agents;
pub mod callbacks;
pub mod callers;
pub mod cluster;
pub mod config_error;
mod dialling;
pub mod flags;
mod log_filter;
pub mod raw_args;
mod reader;
mod records;
pub mod settings;
mod speech;
pub mod twilio;
pub mod url;
pub mod validate;
mod voice;
mod workers;

pub use agents::AgentsConfig;
pub use callbacks::CallbacksConfig;
pub use config_error::{ConfigError, FlagProblem, Warning};
pub use dialling::DiallingConfig;
pub use raw_args::{Invocation, RawArgs, read};
pub use settings::{
    AnswerMode, AudioConfig, CallsConfig, ClusterConfig, Config, Database, Dispatch, FlagsLine,
    LogFormat, NetworkConfig, QueueSettings, SipConfig, TurnServer, WorkerConfig,
};
pub use speech::SpeechConfig;
pub use twilio::TwilioConfig;
pub use url::ServiceUrl;
pub use validate::{Checked, encryption_key, validate};
