//! sipbridge turns ordinary SIP phone lines into Twilio Media Streams calls
//! for AI workers.
//!
//! # The map
//!
//! | room | what it holds |
//! |---|---|
//! | [`app`] | composition root: builds everything, start order, drain order |
//! | [`config`] | command line and environment; all mistakes reported at once |
//! | [`lines`] | phone lines, SIP servers, credentials at rest, when to register |
//! | [`files`] | files that flags and lines name: regular, bounded in size and time |
//! | [`core`] | pure decisions, no sockets, threads or clock: ids, g711, rtp, media_streams, media_session, call, numbers, dialling |
//! | [`dns`] | where SIP servers are: SRV, A and AAAA, kept fresh, failed ones last |
//! | [`sip`] | the SIP engine: trait, commands, events; `sim` for scenarios; `pjsip`, the only unsafe room |
//! | [`media`] | the pacer thread that sends RTP every 20 ms; tones and WAV files |
//! | [`worker`] | WebSocket to the worker: accept (queue mode) and dial (push mode) |
//! | [`store`] | the database: lines, SIP servers, a record per call, callbacks owed; SQLite or PostgreSQL |
//! | [`queue`] | the Redis contract: jobs, state keys, events |
//! | [`callbacks`] | HTTP callbacks: status events, the question before a call is taken; signed, retried, kept |
//! | [`bridge`] | the driver that joins them, one task per call; call limiter, admission, drain |
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
//! and `lines` import `core` and never each other, but for `sip`, which asks `dns`; `store` imports `core` and `lines`;
//! `bridge` joins them; `api` and `watchdog` stand above; `app` is on top. `tests/layout.rs` enforces it.

pub mod api;
pub mod app;
pub mod bridge;
pub mod callbacks;
pub mod config;
pub mod core;
pub mod dns;
pub mod files;
pub mod guide;
pub mod lines;
pub mod media;
pub mod queue;
pub mod sip;
pub mod store;
pub mod watchdog;
pub mod worker;
