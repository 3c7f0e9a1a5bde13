//! `sipbridge lines`: each phone line with its server, by which rule it has
//! it, and whether it is usable. Changes nothing.
//!
//! Leaves out whether a line is registered: only a running bridge knows.

use std::process::ExitCode;

use super::check::look_into;
use super::start_lines::{StartLines, start_lines};
use super::{EXIT_FAILURE, database};
use crate::config::{self, Config, Given};
use crate::core::ids::LineId;

/// Runs the subcommand; returns the exit code of the process.
pub fn main(given: Given) -> ExitCode {
    let checked = config::validate(given);
    // What is said of workers and ports is not this subcommand's business.
    let of_lines = |flag: &str| {
        let line_flags = ["lines", "database-url", "data-dir", "encryption-key"];
        line_flags.contains(&flag) || flag.starts_with("sip-")
    };
    let mut failed = false;
    for mistake in checked
        .mistakes
        .iter()
        .filter(|mistake| of_lines(mistake.flag))
    {
        eprintln!("sipbridge: {mistake}");
        failed = true;
    }
    match read(&checked.config) {
        Ok(lines) => {
            print!("{}", listing(&lines));
            failed |= lines.unusable() > 0;
        }
        Err(error) => {
            eprintln!("sipbridge: {error}");
            failed = true;
        }
    }
    if failed {
        ExitCode::from(EXIT_FAILURE)
    } else {
        ExitCode::SUCCESS
    }
}

fn read(config: &Config) -> Result<StartLines, String> {
    let file = database::lines_file(config).map_err(|error| error.to_string())?;
    let stored = match &config.database {
        Some(database) => look_into(database).map_err(|error| error.to_string())?.0,
        None => None,
    };
    Ok(start_lines(config, file, stored))
}

/// One line of text for each, usable ones first.
fn listing(start: &StartLines) -> String {
    let mut text = String::new();
    let mut put = |id: &LineId, rest: String| {
        let number = start.numbers.get(id);
        let number = number.map_or_else(|| "-".to_owned(), ToString::to_string);
        text.push_str(&format!("{:?} {number} {rest}\n", id.as_str()));
    };
    for ready in &start.loaded.ready {
        let route = &ready.route;
        let server = route.server.as_ref().unwrap_or(&route.domain);
        let (transport, rule) = (route.transport, &route.rule);
        put(
            &ready.line.id,
            format!("usable: {server} over {transport}, by {rule}"),
        );
    }
    for unusable in &start.loaded.unusable {
        put(&unusable.id, format!("unusable: {}", unusable.reason));
    }
    for mistake in &start.stored_mistakes {
        put(&mistake.id, format!("unusable: {}", mistake.issue));
    }
    for (id, why) in &start.left_out {
        put(id, format!("left out: {why}"));
    }
    for mistake in &start.file_mistakes {
        text.push_str(&format!("unusable: {mistake}\n"));
    }
    if text.is_empty() {
        text.push_str("no phone line\n");
    }
    text
}
