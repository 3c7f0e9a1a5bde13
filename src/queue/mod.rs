//! The Redis contract (call-queue.md, version 1): jobs, state keys, events.
//!
//! | file | what it holds |
//! |---|---|
//! | [`client`] | [`Queue`]: the handle that the rest of the program uses |
//! | [`job`] | [`Job`]: one attempt to find a worker for a call, as JSON |
//! | [`event`] | [`CallEvent`]: what goes to `stream:call_events` and `call:{id}` |
//! | `link` | the background task: connects, reconnects, writes state, never gives up |
//! | `shared` | what the handle and the task share |
//! | `state` | the state keys and the scripts that keep the statistics true |
//! | `removals` | jobs that must leave the queue, kept while Redis is away |
//! | [`error`] | [`QueueError`], [`RedisFailure`] |
//! | `clock` | times as the contract writes them |
//!
//! Leaves out: Redis Cluster and Sentinel; client certificates.

pub mod client;
mod clock;
pub mod error;
pub mod event;
pub mod job;
mod link;
mod removals;
mod shared;
mod state;

pub use client::{Queue, QueueConfig, QueueStats};
pub use error::{QueueError, RedisFailure};
pub use event::{CallEvent, CallEventKind};
pub use job::{Job, JobDirection};
pub use shared::RedisState;
