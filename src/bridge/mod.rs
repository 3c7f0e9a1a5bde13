//! Joins SIP, media, workers and the queue: one driver task per call.
//!
//! | file | what it holds |
//! |---|---|
//! | `intake` | takes INVITEs from the engine and starts their drivers |
//! | `driver` | the task of one call: waits for what happens next |
//! | `perform` | does what the call's state machine asks for |
//! | `worker_side` | the attached worker: its socket, its messages |
//! | `stream` | outgoing audio, shared with the pacer thread |
//! | `uplink_port` | incoming audio, shared with the engine's media thread |
//! | `record` | what is known and told about one call: job, events, log |
//! | [`registry`] | calls in progress, admission |
//! | [`registrar`] | when which line registers, and its state |
//! | [`context`] | what all calls share |
//! | [`shutdown`] | the signal that calls must end |

pub mod context;
mod driver;
pub mod intake;
mod perform;
mod record;
pub mod registrar;
pub mod registry;
pub mod shutdown;
mod stream;
mod uplink_port;
mod worker_side;
