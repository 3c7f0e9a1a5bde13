//! The manual of sipbridge.
//!
//! | chapter | what it is for |
//! |---|---|
//! | [`media_streams`] | contract: the WebSocket between bridge and worker, message by message |
//! | [`call_queue`] | contract: jobs in Redis, the life of a call, state keys, events, outcomes |
//! | [`phone_lines`] | contract: lines, SIP servers, encrypted passwords, the database |
//!
//! The text lies in Markdown files beside this one. `tests/guide.rs` reads
//! each of them: command lines are parsed by the program's own parser, JSON is
//! read by the code that reads it or held to the code that writes it, and what
//! is named has to exist.

#[doc = include_str!("media_streams.md")]
pub mod media_streams {}
#[doc = include_str!("call_queue.md")]
pub mod call_queue {}
#[doc = include_str!("phone_lines.md")]
pub mod phone_lines {}
