//! The sound of one leg of a call, both directions.
//!
//! | file | what it holds |
//! |---|---|
//! | [`uplink`], [`reorder`], `timeline`, [`replay_buffer`] | caller to worker: order, clocks, and what no worker has taken yet |
//! | [`downlink`], [`playout`], [`latency_recovery`] | worker to caller: a packet every 20 ms, the queue with its marks, the stall rule |
//! | `transcode` | between mu-law and the codec of the call |

pub mod downlink;
pub mod latency_recovery;
pub mod playout;
pub mod reorder;
pub mod replay_buffer;
mod timeline;
mod transcode;
pub mod uplink;
