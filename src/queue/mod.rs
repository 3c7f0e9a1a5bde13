//! The Redis contract ([`crate::guide::call_queue`], version 1): jobs, state keys, events.
//!
//! | file | what it holds |
//! |---|---|
//! | [`client`] | [`Queue`]: the handle that the rest of the program uses |
//! | [`job`] | [`Job`]: one attempt to find a worker for a call, as JSON |
//! | [`event`] | [`CallEvent`]: what goes to `stream:call_events` and `call:{id}` |
//! | `jobs` | our jobs in the queue, and [`Taken`]: who waits for one to be taken |
//! | `link` | the background task: connects, reconnects, writes state, never gives up |
//! | `shared` | what the handle and the task share |
//! | `state` | the state keys and the scripts that keep the statistics true |
//! | `calls` | the open calls: restored after Redis forgot them, closed after a crash |
//! | [`lost_calls`] | calls lost with their bridge or worker, for callers who ring again |
//! | `stale_jobs` | jobs and calls of dead bridges |
//! | `connection` | one connection, commands bounded in time |
//! | `probe` | whether a Redis can take jobs at all |
//! | `removals` | jobs that must leave the queue, kept while Redis is away |
//! | [`leases`] | [`LeaseStore`]: who holds which line, for bridges that share lines |
//! | `lease_scripts` | the scripts that change leases |
//! | [`nodes`] | the heartbeat with what a node says of itself, and what Redis says of all nodes |
//! | `membership` | that only one bridge at a time has the node's name |
//! | [`node_channel`] | [`NodeChannel`]: another bridge says that there is something to look at |
//! | `first_asked` | which bridge got a request of the API first |
//! | [`line_places`] | calls of lines with a limit, counted over all bridges |
//! | `line_dials` | dials of each line within an hour, counted over all bridges |
//! | `script` | scripts that Redis knows by their digest |
//! | [`error`] | [`QueueError`], [`RedisFailure`] |
//!
//! Leaves out: Redis Cluster and Sentinel; client certificates.

mod calls;
pub mod client;
mod connection;
pub mod error;
pub mod event;
mod first_asked;
pub mod job;
mod jobs;
mod lease_scripts;
pub mod leases;
mod line_dials;
pub mod line_places;
mod link;
pub mod lost_calls;
mod membership;
pub mod node_channel;
pub mod nodes;
mod probe;
mod removals;
mod script;
mod shared;
mod stale_jobs;
mod state;

pub use client::{LEASE_TTL, Queue, QueueConfig, QueueStats, dead_after, open};
pub use error::{QueueError, RedisFailure};
pub use event::{CallEvent, CallEventKind, LineMoved};
pub use first_asked::FirstAsked;
pub use job::Job;
pub use jobs::Taken;
pub use leases::{LeaseOutcome, LeaseStore};
pub use line_places::LinePlace;
pub use lost_calls::{CallMemory, CallerHash, LostCall};
pub use node_channel::NodeChannel;
pub use nodes::{Beat, Revision};
pub use shared::RedisState;
