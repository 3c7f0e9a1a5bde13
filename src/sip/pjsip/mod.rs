//! The engine on pjproject, by its C interface pjsua-lib. The only room where
//! `unsafe` is allowed.
//!
//! | file | what it holds |
//! |---|---|
//! | `engine` | [`PjsipEngine`]: start, the [`SipEngine`](super::engine::SipEngine) methods, shutdown |
//! | `contacts` | Contacts of callers behind a NAT or a connection, made reachable |
//! | `credentials` | passwords are proven to the line's own server only |
//! | `control` | the control thread: every pjsip command is issued there |
//! | `stack` | configuration and start of pjsua, teardown in order |
//! | `shared` | what callbacks reach: slots, lines, counters |
//! | `call_table`, `slots` | the table of legs; C knows a leg only by slot and generation |
//! | `callbacks` | every function that C calls about calls and registrations |
//! | `bodies` | the module that keeps foreign session descriptions from pjsip |
//! | `connections` | TCP and TLS connections to servers that are lost |
//! | `failover` | the next server where one is silent or out of service |
//! | `access` | who may call: the known sources, counts and rates |
//! | `strangers` | what turns strangers away, before the parser and after it |
//! | `invite_filter` | the module that judges an INVITE before a dialog exists |
//! | `adapter`, `rtp_gate` | the media transport adapter: RTP in and out |
//! | `in_flight` | whether RTP gets through each of pjsip's media threads |
//! | `accounts`, `calls` | commands on lines and legs |
//! | `policies` | to whom a line's password may be proven, account by account |
//! | `registering` | one REGISTER of an account at a time |
//! | `outgoing` | calls that we place, and when their slot is opened |
//! | `requests` | OPTIONS, NOTIFY, MESSAGE and other requests inside a call |
//! | `ice` | whether ICE has an address to offer |
//! | `header_filter` | headers that pjsip parses and does not survive |
//! | `messages`, `headers`, `uris` | what a message says: handles with safe methods |
//! | `msg_data` | what a request carries beside what pjsua writes into it |
//! | `received`, `sending` | a message that came in, or goes out |
//! | `pools`, `plain`, `addresses` | memory, zeroed data and socket addresses of C |
//! | `hangups` | hang-ups that pjsua refused, tried again |
//! | `info` | digits and other bodies of SIP INFO |
//! | `invite_headers` | who calls, and headers for the worker |
//! | `log` | pjsip's log lines into `tracing` |
//! | `modules` | how messages come to those of these files that see them |
//! | `resolver` | where pjsip sends a request: names by our own table |
//! | `transactions` | transactions and dialogs; ours looked up and locked |
//! | `transports` | sockets and connections |
//! | `threads` | registration with pjlib, the hard exit |
//! | `text` | C strings to Rust and back |
//!
//! # Rules
//! - C's user data is a slot number with a generation, never a pointer to
//!   Rust memory. A late callback finds another generation and does nothing.
//! - No lock of ours is held while pjsip is asked to do something, but for the
//!   gate of an RTP sink, whose order is written in `rtp_gate`: pjsip takes locks
//!   of its own, and calls back with them held. Reading a message under a lock is
//!   no such call.
//! - Under a lock of ours only what belongs to another room is asked, which never
//!   calls back: the admission, the channels of a run, where servers are.
//! - Callbacks never block: they look up, convert, `try_send`, count.
//! - What pjsip lends to a callback becomes a handle there (`Received`, `Sending`,
//!   `Transaction`), whose `new` is unsafe and says what is promised; everything after
//!   that is safe.
#![expect(
    unsafe_code,
    reason = "this is the room of the C interface; each block has its SAFETY note"
)]

mod access;
mod accounts;
mod adapter;
mod addresses;
mod bodies;
mod call_table;
mod callbacks;
mod calls;
mod connections;
mod contacts;
mod control;
mod credentials;
mod engine;
mod failover;
mod ffi;
mod hangups;
mod header_filter;
mod headers;
mod ice;
mod in_flight;
mod info;
mod invite_filter;
mod invite_headers;
mod log;
mod messages;
mod modules;
mod msg_data;
mod outgoing;
mod plain;
mod policies;
mod pools;
mod received;
mod registering;
mod requests;
mod resolver;
mod rtp_gate;
mod sending;
mod shared;
mod slots;
mod stack;
mod strangers;
mod text;
mod threads;
mod transactions;
mod transports;
mod uris;

pub use engine::{PjsipBeats, PjsipEngine, PjsipError};
pub use stack::check_bind;
pub use threads::hard_exit;
