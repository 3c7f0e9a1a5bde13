//! Callbacks over HTTP: receivers are told how calls go on, and one is asked
//! before a call is taken. Signed as Twilio signs its own.
//!
//! | file | what it holds |
//! |---|---|
//! | [`target`] | an address, checked; shown without its secrets |
//! | [`client`] | one request and its answer, with every limit |
//! | [`status`] | what becomes of a call's new status: a callback that waits |
//! | [`dispatcher`] | the task that delivers them, in order per call |
//! | [`outbox_store`] | what is kept of them over a restart |
//! | [`incoming`] | the question before a call is taken |
//! | [`voice_client`] | the document that a voice webhook answers |
//! | [`voice_sound`] | the files that its documents play |
//! | [`speech_client`] | texts of `<Say>`, spoken; what was spoken is kept |
//! | [`twilio_rest`] | Twilio's REST API, asked about calls that are Twilio's |
//! | [`stats`] | what became of them |
//! | [`error`] | what can go wrong, without secrets |
//!
//! No call ever waits for a receiver of its status: the driver leaves a
//! callback in a bounded queue, and what has no room is dropped and counted.

pub mod client;
pub mod dispatcher;
pub mod error;
pub mod incoming;
pub mod outbox_store;
mod speech_cache;
pub mod speech_client;
pub mod stats;
pub mod status;
pub mod target;
pub mod twilio_rest;
pub mod voice_client;
pub mod voice_sound;

pub use client::Client;
pub use dispatcher::{WebhookDispatcher, start};
pub use error::CallbackError;
pub use incoming::Incoming;
pub use outbox_store::{OutboxStore, SpoolError};
pub use speech_client::{SpeechClient, SpeechSettings};
pub use stats::CallbackStats;
pub use status::StatusCallbacks;
pub use target::CallbackTarget;
pub use voice_client::VoiceClient;
