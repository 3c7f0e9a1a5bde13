//! Joins SIP, media, workers and the queue: one driver task per call.
//!
//! | file | what it holds |
//! |---|---|
//! | `intake` | takes INVITEs from the engine and starts their drivers |
//! | [`place`] | places a call and starts its driver |
//! | [`drivers`] | makes the driver of each call from its parts |
//! | `driver` | the task of one call: waits for what happens next, and routes it |
//! | `incoming` | the question before a call is taken, and what its answer changes |
//! | `leg` | the SIP leg of a call |
//! | `worker_search` | reaching a worker: jobs, tickets, dialling |
//! | `worker_session` | the stream with the worker, and what its messages do |
//! | `destinations` | whom one call may be transferred to |
//! | `idle_sounds` | what a caller hears while nothing is queued |
//! | `callee` | the second leg: the fallback number, joined with the caller |
//! | `leg_media` | the audio of one leg: what goes out and what comes in |
//! | `worker_side` | the attached worker: its socket, its messages |
//! | `outbound_audio` | outgoing audio, shared with the pacer thread |
//! | `inbound_audio` | incoming audio, shared with the engine's media thread |
//! | `opening` | the facts of a call that begins |
//! | `publisher` | how others are told of one call: job, events, record, API, log |
//! | `signal` | which part of a driver was woken |
//! | `call_terms` | what one call brings with it: its own worker, parameters, callback |
//! | [`call_store`] | the calls as the API sees them, and what it asks of them |
//! | [`dialling`] | whom the lines may call, and how often |
//! | [`audio_metrics`] | audio that waits in the calls, and audio that was lost |
//! | [`call_counters`] | what became of calls and searches, counted |
//! | [`overload`] | notices that audio is late, and shuts the door |
//! | [`context`] | what a bridge is composed of |
//! | [`shutdown`] | the signal that calls must end |

pub mod audio_metrics;
pub mod call_counters;
pub mod call_store;
mod call_terms;
mod callee;
pub mod context;
mod destinations;
pub mod dialling;
mod driver;
pub mod drivers;
mod idle_sounds;
mod inbound_audio;
mod incoming;
pub mod intake;
mod leg;
mod leg_media;
mod opening;
mod outbound_audio;
pub mod overload;
pub mod place;
mod publisher;
pub mod shutdown;
mod signal;
mod worker_search;
mod worker_session;
mod worker_side;
