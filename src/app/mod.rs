//! Composition root: builds everything, start order, drain order.
//!
//! | file | what it holds |
//! |---|---|
//! | [`run`] | the bridge: start order, and the order in which it goes down |
//! | [`compose`], [`start_error`] | builds the rooms and joins them; why that fails |
//! | [`announce`] | what the start says of the lines |
//! | `calls_in_progress` | how many calls go on, and how they are ended |
//! | [`callbacks`] | callbacks joined with the calls and the database |
//! | `cluster` | the bridges that share lines, joined with the rest |
//! | `contact_key` | the key of the tokens in the lines' Contacts |
//! | [`drain`] | what going down does while calls go on |
//! | [`health`] | what `GET /health` tells |
//! | [`logging`], [`log_queue`] | the log, which waits for no reader |
//! | [`descriptors`] | room for the sockets of all calls |
//! | [`database`] | the database opened, the lines file imported |
//! | [`sealing`] | clear passwords of a lines file, encrypted on import |
//! | [`retention`] | old records of calls deleted |
//! | [`own_urls`] | where workers and other bridges reach this one |

pub mod announce;
pub mod callbacks;
mod calls_in_progress;
mod cluster;
pub mod compose;
mod contact_key;
pub mod database;
pub mod descriptors;
pub mod drain;
pub mod health;
pub mod log_queue;
pub mod logging;
pub mod own_urls;
pub mod retention;
pub mod run;
pub mod sealing;
pub mod start_error;
mod twilio;

/// Exit code: something failed while running, or `check` found something unusable.
pub const EXIT_FAILURE: u8 = 1;
