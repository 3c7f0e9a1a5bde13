//! Real pjsip against a SIP peer written by hand, on loopback. One engine for
//! the whole process, one scenario at a time.
#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "helpers of tests: a failed step is a failed test"
)]

mod calls;
mod changes;
mod credentials;
mod descriptions;
mod exhausted;
mod footprint;
mod forgetting;
mod holds;
mod hostile;
mod ice;
mod lines;
mod lost_connections;
mod offers;
mod outgoing;
mod peer;
mod placed;
mod registering;
mod requests;
mod shutdown;
mod siblings;
mod sources;
mod stage;
mod streams;
mod transfers;
