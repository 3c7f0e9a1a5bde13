//! The manual of sipbridge.
//!
//! | chapter | what it is for |
//! |---|---|
//! | [`media_streams`] | contract: the WebSocket between bridge and worker, message by message |
//! | [`call_queue`] | contract: jobs in Redis, the life of a call, state keys, events, outcomes |
//! | [`phone_lines`] | contract: lines, SIP servers, encrypted passwords, the database |
//! | [`workers`] | how to write a worker, step by step |
//! | [`twilio`] | take a bot over from Twilio: webhooks, TwiML, REST |
//! | [`api`] | place and steer calls, change lines and SIP servers over HTTP; callbacks |
//! | [`operating`] | install, start, health, metrics, alarms, logs, shutdown, upgrade |
//! | [`security`] | who may call, whom the bridge dials, TLS, secrets, fuzzing |
//! | [`numbers`] | every measured figure, with its command |
//! | [`design`] | rooms, threads, who owns what |
//! | [`standards`] | what is done of each RFC, and what is not |
//! | [`changelog`] | what users see of each change |
//!
//! The text lies in Markdown files beside this one. `tests/guide` reads each
//! of them: command lines are parsed by the program's own parser, JSON is
//! read by the code that reads it or held to the code that writes it, and what
//! is named has to exist.

#[doc = include_str!("media_streams.md")]
pub mod media_streams {}
#[doc = include_str!("call_queue.md")]
pub mod call_queue {}
#[doc = include_str!("phone_lines.md")]
pub mod phone_lines {}
#[doc = include_str!("workers.md")]
pub mod workers {}
#[doc = include_str!("twilio.md")]
pub mod twilio {}
#[doc = include_str!("api.md")]
pub mod api {}
#[doc = include_str!("operating.md")]
pub mod operating {}
#[doc = include_str!("security.md")]
pub mod security {}
#[doc = include_str!("numbers.md")]
pub mod numbers {}
#[doc = include_str!("design.md")]
pub mod design {}
#[doc = include_str!("standards.md")]
pub mod standards {}
#[doc = include_str!("changelog.md")]
pub mod changelog {}
