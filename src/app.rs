//! Composition root: builds everything, start order, drain order.

use std::process::ExitCode;

/// Runs the program from the process arguments; returns its exit code.
pub fn main() -> ExitCode {
    ExitCode::SUCCESS
}
