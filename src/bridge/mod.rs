//! Joins SIP, media, workers and the queue: one driver task per call.
//!
//! | file | what it holds |
//! |---|---|
//! | `intake` | takes INVITEs from the engine and starts their drivers |
//! | [`place`] | places a call and starts its driver |
//! | `driver` | the task of one call: waits for what happens next |
//! | `incoming` | the question before a call is taken, and what its answer changes |
//! | `perform` | does what the call's state machine asks for |
//! | `reach` | reaching a worker: jobs, tickets, dialling |
//! | `requests` | does what the API asks of a call |
//! | `callee` | the second leg: the fallback number, joined with the caller |
//! | `leg_media` | the audio of one leg: what goes out and what comes in |
//! | `worker_side` | the attached worker: its socket, its messages |
//! | `outbound_audio` | outgoing audio, shared with the pacer thread |
//! | `inbound_audio` | incoming audio, shared with the engine's media thread |
//! | `opening` | the facts of a call that begins |
//! | `publisher` | how others are told of one call: job, events, record, API, log |
//! | `call_terms` | what one call brings with it: its own worker, parameters, callback |
//! | [`call_store`] | the calls as the API sees them, and what it asks of them |
//! | [`line_directory`] | the lines that the bridge holds now |
//! | `number_index` | lines by the number that they call from |
//! | [`dialling`] | whom the lines may call, and how often |
//! | [`call_limiter`] | places for calls |
//! | [`admission`] | the rules by which one more call may come in |
//! | [`registrar`] | when which line registers, and its state |
//! | [`audio_metrics`] | audio that waits in the calls, and audio that was lost |
//! | [`call_counters`] | what became of calls and searches, counted |
//! | [`overload`] | notices that audio is late, and shuts the door |
//! | [`context`] | what all calls share |
//! | [`shutdown`] | the signal that calls must end |

pub mod admission;
pub mod audio_metrics;
pub mod call_counters;
pub mod call_limiter;
pub mod call_store;
mod call_terms;
mod callee;
pub mod context;
pub mod dialling;
mod driver;
mod inbound_audio;
mod incoming;
pub mod intake;
mod leg_media;
pub mod line_directory;
mod number_index;
mod opening;
mod outbound_audio;
pub mod overload;
mod perform;
pub mod place;
mod publisher;
mod reach;
pub mod registrar;
mod requests;
pub mod shutdown;
mod worker_side;
