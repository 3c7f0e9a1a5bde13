//! sipbridge turns ordinary SIP phone lines into Twilio Media Streams calls
//! for AI workers.
//!
//! # The map
//!
//! | room | what it holds |
//! |---|---|
//! | [`cli`] | the command line: `check`, `lines`, `encrypt`, or the bridge itself |
//! | [`app`] | composition root: builds everything, start order, drain order |
//! | [`config`] | command line and environment; all mistakes reported at once |
//! | [`lines`] | phone lines, SIP servers, credentials at rest |
//! | [`fleet`] | the lines that are held: one table, one reconciler; registering, room for calls |
//! | [`files`] | files that flags and lines name: regular, bounded in size and time |
//! | [`core`] | pure decisions, no sockets, threads or clock: ids, g711, rtp, media_streams, media_session, call, agents, twiml, voice, numbers, dialling |
//! | [`dns`] | where SIP servers are: SRV, A and AAAA, kept fresh, failed ones last |
//! | [`sip`] | the SIP engine: trait, commands, events; `pjsip`, the only unsafe room |
//! | [`media`] | the pacer thread that sends RTP every 20 ms; tones and WAV files |
//! | [`worker`] | WebSocket to the worker: accept (queue mode) and dial (push mode) |
//! | [`store`] | the database: lines, SIP servers, a record per call, callbacks owed, agents; SQLite or PostgreSQL |
//! | [`agents`] | agents per tenant: remembered for calls, kept in the database; the voices of their provider |
//! | [`queue`] | the Redis contract: jobs, state keys, events |
//! | [`callbacks`] | HTTP callbacks: status events, the question before a call is taken, voice webhooks; signed, retried, kept |
//! | [`cluster`] | lines shared with other bridges: beats, leases, lines registered and let go |
//! | [`bridge`] | the driver that joins them, one task per call |
//! | [`api`] | HTTP: health, metrics, calls, administration of lines and SIP servers |
//! | [`watchdog`] | liveness of threads, hard exit when pjsip hangs |
//! | [`guide`] | the manual: contracts, operating, security, figures |
//!
//! # Threads
//!
//! pjsip's media thread brings a caller's packet and, while the worker's direct writer
//! is open, writes the message to the worker itself ([`worker::direct_writer`]): it
//! never blocks, and what the kernel does not take is the driver's business.
//! The pacer thread sends RTP every 20 ms and waits for nobody; a second one wakes
//! drivers and frees audio for it. One control thread issues every pjsip command. tokio runs one driver task per call, WebSockets, Redis,
//! the database and HTTP, and never calls pjlib. A thread of its own looks names up. The watchdog shares no lock with any of them.
//!
//! # Imports
//!
//! `core` and `files` import nothing of ours, and everybody may import them; `config` only `core`, `sip` and `lines`. `dns`, `sip`, `media`, `worker`, `queue`, `callbacks`
//! and `lines` import `core` and never each other, but for `sip`, which asks `dns`; `store` imports `core` and `lines`; `agents` imports `store`;
//! `fleet` imports those that it holds lines with; `cluster` that and `queue`; `bridge` joins them all; `api` and `watchdog` stand above; `app` joins all, `cli` is on top. `tests/layout.rs` enforces it.

pub mod agents;
pub mod api;
pub mod app;
pub mod bridge;
pub mod callbacks;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod core;
pub mod dns;
pub mod files;
pub mod fleet;
pub mod guide;
pub mod lines;
pub mod media;
pub mod queue;
pub mod sip;
pub mod store;
pub mod watchdog;
pub mod worker;

#[cfg(test)]
extern crate self as sipbridge;

/// The SIP engine in memory.
#[cfg(test)]
#[expect(dead_code, reason = "the scenarios use more of it than the unit tests")]
#[path = "../tests/sim/mod.rs"]
mod sim;
