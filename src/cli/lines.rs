//! `sipbridge lines`: each phone line with its server, by which rule it has
//! it, and whether it is usable; and where the bridge of the same settings
//! runs, its state there. Changes nothing.

use std::collections::BTreeMap;
use std::process::ExitCode;

use super::check::look_into;
use super::line_states::{self, LineStates};
use super::{EXIT_FAILURE, callers};
use crate::app::database;
use crate::config::{self, Config, RawArgs};
use crate::core::ids::LineId;
use crate::fleet::snapshot::{LineSnapshot, snapshot};

/// Runs the subcommand; returns the exit code of the process.
pub fn main(given: RawArgs) -> ExitCode {
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
            let states = line_states::ask(&checked.config);
            let unheard = callers::unheard(&checked.config, &lines.loaded.ready);
            print!("{}", listing(&lines, &states, &unheard));
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

fn read(config: &Config) -> Result<LineSnapshot, String> {
    let file = database::lines_file(config).map_err(|error| error.to_string())?;
    let stored = match &config.database {
        Some(database) => look_into(database).map_err(|error| error.to_string())?.0,
        None => None,
    };
    Ok(snapshot(config, file, stored))
}

/// One line of text for each, usable ones first.
fn listing(
    start: &LineSnapshot,
    states: &LineStates,
    unheard: &BTreeMap<LineId, String>,
) -> String {
    let mut text = String::new();
    let mut put = |id: &LineId, rest: String| {
        let number = start.numbers.get(id);
        let number = number.map_or_else(|| "-".to_owned(), ToString::to_string);
        text.push_str(&format!("{:?} {number} {rest}\n", id.as_str()));
    };
    for ready in &start.loaded.ready {
        let (id, route) = (&ready.line.id, &ready.route);
        let (server, transport, rule) = (route.server(), route.transport, &route.rule);
        let state = states.of_usable(id);
        let unheard = unheard.get(id).map(|why| format!("; {why}"));
        let unheard = unheard.unwrap_or_default();
        let way = ready.line.way.as_ref();
        let way = way.map_or_else(String::new, |way| format!(", to {way}"));
        put(
            id,
            format!("usable: {server} over {transport}, by {rule}{way}{state}{unheard}"),
        );
    }
    let unusable = start.loaded.unusable.iter();
    let unusable = unusable.map(|line| (&line.id, format!("unusable: {}", line.reason)));
    let stored = start.stored_mistakes.iter();
    let stored = stored.map(|mistake| (&mistake.id, format!("unusable: {}", mistake.issue)));
    for line in &start.twilio {
        put(
            &line.id,
            "twilio: its calls come by /webhooks/voice".to_owned(),
        );
    }
    let left_out = start.left_out.iter();
    let left_out = left_out.map(|(id, why)| (id, format!("left out: {why}")));
    for (id, why) in unusable.chain(stored).chain(left_out) {
        put(id, format!("{why}{}", states.of_other(id)));
    }
    for mistake in &start.file_mistakes {
        text.push_str(&format!("unusable: {mistake}\n"));
    }
    if text.is_empty() {
        return "no phone line\n".to_owned();
    }
    if let Some(why) = &states.silence {
        text.push_str(&format!("states not shown: {why}\n"));
    }
    text
}
