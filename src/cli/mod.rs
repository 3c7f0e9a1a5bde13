//! The command line: the bridge itself, and the subcommands that look or encrypt and end.
//!
//! | file | what it holds |
//! |---|---|
//! | [`check`] | `sipbridge check` |
//! | [`lines`] | `sipbridge lines` |
//! | [`line_states`] | what a running bridge says of its lines |
//! | [`nodes`] | `sipbridge nodes` |
//! | [`running_bridge`] | the running bridge of the same settings, asked over its API |
//! | `callers` | lines whose calls would not be heard |
//! | [`encrypt`] | `sipbridge encrypt` |

mod callers;
pub mod check;
pub mod encrypt;
pub mod line_states;
pub mod lines;
pub mod nodes;
pub mod running_bridge;

use std::process::ExitCode;

use crate::app::{self, EXIT_FAILURE};
use crate::config::{self, Checked, Invocation, RawArgs};

/// Wrong usage or settings.
const EXIT_USAGE: u8 = 2;

/// Runs the program from the process arguments; returns its exit code.
pub fn main() -> ExitCode {
    let environment = |name: &str| std::env::var_os(name);
    match config::read(std::env::args_os(), environment) {
        Ok(Invocation::Run(given)) => configure_and_run(given),
        Ok(Invocation::Check(given)) => check::main(given),
        Ok(Invocation::Lines(given)) => lines::main(given),
        Ok(Invocation::Nodes(given)) => nodes::main(given),
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
    app::run::run(config)
}
