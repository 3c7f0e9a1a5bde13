//! Composition root: builds everything, start order, drain order.
//!
//! | file | what it holds |
//! |---|---|
//! | [`run`] | the bridge: start order, and the order in which it goes down |
//! | [`compose`] | builds the rooms and joins them |
//! | `calls_in_progress` | how many calls go on, and how they are ended |
//! | [`callbacks`] | callbacks joined with the calls and the database |
//! | `callers` | lines whose calls would not be heard |
//! | `contact_key` | the key of the tokens in the lines' Contacts |
//! | [`drain`] | what going down does while calls go on |
//! | [`profiles`] | lines as the SIP engine and the calls need them |
//! | [`line_sounds`] | the WAV files that lines name |
//! | [`health`] | what `GET /health` tells |
//! | [`logging`], [`log_queue`] | the log, which waits for no reader |
//! | [`descriptors`] | room for the sockets of all calls |
//! | [`check`] | `sipbridge check` |
//! | [`encrypt`] | `sipbridge encrypt` |
//! | [`database`] | the database opened, the lines file imported |
//! | [`sealing`] | clear passwords of a lines file, encrypted on import |
//! | [`start_lines`] | the lines of flags, file and database, made ready |
//! | [`line_reconciler`] | lines that change while the bridge runs |
//! | [`retention`] | old records of calls deleted |
//! | [`lines`] | `sipbridge lines` |
//! | [`line_states`] | what a running bridge says of its lines |
//! | [`stream_url`] | where jobs tell workers to dial in |

pub mod callbacks;
mod callers;
mod calls_in_progress;
pub mod check;
pub mod compose;
mod contact_key;
pub mod database;
pub mod descriptors;
pub mod drain;
pub mod encrypt;
pub mod health;
pub mod line_reconciler;
pub mod line_sounds;
pub mod line_states;
pub mod lines;
pub mod log_queue;
pub mod logging;
pub mod profiles;
pub mod retention;
pub mod run;
pub mod sealing;
pub mod start_lines;
pub mod stream_url;

use std::process::ExitCode;

use crate::config::{self, Checked, Invocation, RawArgs};

/// Something failed while running, or `check` found something unusable.
const EXIT_FAILURE: u8 = 1;
/// Wrong usage or settings.
const EXIT_USAGE: u8 = 2;

/// Runs the program from the process arguments; returns its exit code.
pub fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    match config::read(std::env::args_os(), environment) {
        Ok(Invocation::Run(given)) => configure_and_run(given),
        Ok(Invocation::Check(given)) => check::main(given),
        Ok(Invocation::Lines(given)) => lines::main(given),
        Ok(Invocation::Encrypt { line_id, given }) => encrypt::main(&line_id, given),
        Err(error) => {
            // Help and version go to standard output with 0, mistakes to standard error with 2.
            let _ = error.print();
            ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(EXIT_USAGE))
        }
    }
}

fn configure_and_run(given: RawArgs) -> ExitCode {
    let Checked {
        config,
        mistakes,
        warnings,
    } = config::validate(given);
    for warning in &warnings {
        eprintln!("sipbridge: warning: {warning}");
    }
    for mistake in &mistakes {
        eprintln!("sipbridge: {mistake}");
    }
    if !mistakes.is_empty() {
        eprintln!("sipbridge: not started. `sipbridge --help` explains every flag.");
        return ExitCode::from(EXIT_USAGE);
    }
    run::run(config)
}
