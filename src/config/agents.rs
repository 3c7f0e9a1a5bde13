//! `--agents`: whether tenants have agents.

use super::config_error::FlagProblem;
use super::reader::Reader;

/// Agents are kept in the database.
pub(super) fn agents(reader: &mut Reader, has_database: bool) -> bool {
    let is_on = reader.switch("agents");
    if is_on && !has_database {
        reader.mistake("agents", FlagProblem::NeedsDatabase);
    }
    is_on
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::RawArgs;

    #[test]
    fn they_are_off_unless_asked_for_and_need_a_database() {
        let read = |pairs: &[(&'static str, &str)], has_database| {
            let mut reader = Reader::new(RawArgs::from_pairs(pairs));
            (agents(&mut reader, has_database), reader.mistakes)
        };
        assert_eq!(read(&[], false), (false, vec![]));
        assert_eq!(read(&[("agents", "yes")], true), (true, vec![]));
        let (_, mistakes) = read(&[("agents", "yes")], false);
        let told = mistakes[0].to_string();
        assert!(
            told.contains("--agents (AGENTS)") && told.contains("--data-dir"),
            "{told}"
        );
    }
}
