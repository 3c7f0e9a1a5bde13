//! Bridges that share lines: this one's part, carried out.
//!
//! What is to be done is decided by [`crate::core::cluster::Coordinator`], without sockets or clock; the one server
//! that all share is asked through [`crate::queue::LeaseStore`]. One task joins the two with the lines: it beats each third of
//! `--lease-ttl`, runs scripts, has lines registered and let go, and tells what has moved.
//!
//! | file | what it holds |
//! |---|---|
//! | [`handle`] | [`ClusterHandle`]: what others ask of it |
//! | [`task`] | [`ClusterTask`]: one beat after the other |
//! | `actions` | lines registered and let go |
//! | `report` | what is worth a log line or an event |
//!
//! # Threads and locks
//!
//! The coordinator is behind a lock that is held for one question or one step, never across an await. The task alone
//! changes it, but for [`ClusterHandle::drain`], [`ClusterHandle::resume`] and [`ClusterHandle::stop`], which wake the task.

mod actions;
pub mod handle;
mod report;
pub mod task;

pub use handle::ClusterHandle;
pub use task::{ClusterParts, ClusterTask};
