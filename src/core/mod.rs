//! Pure decisions: no sockets, threads, clock or runtime. Time is an
//! argument. Imports nothing of ours.

pub mod address;
pub mod backlog;
pub mod call;
pub mod call_object;
pub mod callback;
pub mod catch_up;
pub mod dialling;
pub mod digits;
pub mod downlink;
pub mod g711;
pub mod ids;
pub mod key;
pub mod link;
pub mod media_streams;
pub mod mos;
pub mod numbers;
pub mod opus;
pub mod outcome;
pub mod playout;
pub mod private;
pub mod reorder;
pub mod rtcp;
pub mod rtp;
pub mod seldom;
pub mod signature;
pub mod telephone_event;
mod timeline;
pub mod timestamp;
mod transcode;
pub mod uplink;
pub mod worker_message;
