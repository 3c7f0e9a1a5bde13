//! The phone lines that this bridge holds: one owner of each.
//!
//! There is one table, `LineId -> Line` ([`table::Fleet`]), and all decisions about it are pure: time is
//! an argument, and what has to be done comes out as an answer. Nobody else keeps anything by line id but an
//! index into it. Lines come in as snapshots ([`snapshot`]) of flags, file or database; the
//! [`reconciler`] compares each with what is held and has the difference carried out. The start is the first
//! snapshot, a change in the database the next; `sipbridge check` and `sipbridge lines` make the same snapshot and stop there.
//!
//! | file | what it holds |
//! |---|---|
//! | `line` | one line: what is known of it, held, registered, called |
//! | [`table`] | all lines; looking them up |
//! | [`admission`] | whether one more call may come in |
//! | [`registration`], `scheduling`, `register_queue`, `register_pace` | when each line registers, and its state |
//! | [`leases`] | lines that bridges share: which of them this one registers |
//! | [`sealed`] | lines whose passwords are still to be decrypted, in their order |
//! | [`changes`] | how a wanted line differs from the one that is held |
//! | [`twilio`] | lines that are Twilio's, of which SIP knows nothing |
//! | `number_index` | lines by the number that they call from |
//! | [`shared`] | the table behind its lock |
//! | [`line_directory`], [`call_limiter`], [`registrar`] | the table as those see it who look lines up, limit calls, register |
//! | [`snapshot`] | which lines are wanted, by flags, file and database |
//! | `desired` | a snapshot compared with the table: a plan |
//! | [`reconciler`], `decrypting` | the plan carried out; passwords decrypted meanwhile |
//! | [`watcher`] | a new snapshot whenever the database is changed |
//! | [`forms`], [`sounds`] | a line as the SIP engine and its calls need it |
//! | [`results`] | what REGISTERs came to, for who decides which bridge registers a line |
//! | [`status`], `words` | a registration for people |
//!
//! # Threads
//!
//! The SIP engine's callback asks [`call_limiter::CallLimiter`] on a pjsip thread. One task reconciles, one registers, one
//! watches the database; the intake of engine events brings results. What blocks (sounds, key derivation) runs on
//! tokio's blocking threads. See [`shared`] for the lock rule.

pub mod admission;
pub mod call_limiter;
pub mod changes;
mod decrypting;
mod desired;
pub mod forms;
pub mod leases;
mod line;
pub mod line_directory;
mod number_index;
pub mod reconciler;
mod register_pace;
mod register_queue;
pub mod registrar;
pub mod registration;
pub mod results;
mod scheduling;
pub mod sealed;
pub mod shared;
pub mod snapshot;
pub mod sounds;
pub mod status;
pub mod table;
#[cfg(test)]
mod test_lines;
pub mod twilio;
pub mod watcher;
mod words;

pub use admission::{Limits, RefusedCalls};
pub use call_limiter::{CallLimiter, CallPermit};
pub use line::{LineHealth, LineProfile};
pub use line_directory::LineDirectory;
pub use reconciler::{LineReconciler, Reading};
pub use register_pace::{REGISTERS_PER_SECOND, REGISTERS_PER_SECOND_MAX};
pub use registrar::RegistrarHandle;
pub use results::RegisterOutcomes;
pub use shared::SharedFleet;
pub use twilio::TwilioLine;
pub use watcher::DatabaseWatcher;
