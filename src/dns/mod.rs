//! Where SIP servers are (RFC 3263): names to addresses, without ever making
//! a thread of pjsip wait.
//!
//! | file | what it holds |
//! |---|---|
//! | `servers` | [`Servers`]: the table, read by whoever must not wait |
//! | `entry` | one target: what is known, who waits, when it is asked for again |
//! | `failures` | servers that failed lately and are tried last |
//! | `refresher` | the thread that looks up and keeps the table fresh |
//! | `lookup` | one look-up: SRV, A and AAAA, the hosts file |
//! | `target` | what is located, and the order of RFC 2782 |
//! | `resolv_conf` | `resolv.conf` and the hosts file as text |
//!
//! # Decisions
//! - A target is looked up again when its TTL is over, after 5 s at the least
//!   and 300 s at the most. While name servers are away, what was known stays.
//! - Lots are drawn (RFC 2782) when a target's addresses change, not at each
//!   request: a line stays at the server where it registered.
//! - A server that did not answer, or answered 503, is tried last for 60 s,
//!   and twice as long after each further failure, up to 600 s.
//! - NAPTR is left out: the transport is always configured.

mod entry;
mod failures;
mod lookup;
mod refresher;
mod resolv_conf;
mod servers;
mod target;

pub use lookup::{Files, LocateError};
pub use servers::{Servers, Watched};
pub use target::Target;
