//! Pure decisions: no sockets, threads, clock or runtime. Time is an
//! argument. Imports nothing of ours.

pub mod address;
pub mod ids;
pub mod key;
pub mod link;
pub mod outcome;
pub mod private;
