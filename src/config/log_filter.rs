//! `--log-level`: what is logged.

use super::config_error::FlagProblem;
use super::reader::Reader;

/// A misspelled level would read as the name of a module, and log nothing.
pub(super) fn log_filter(reader: &mut Reader) -> String {
    const DEFAULT: &str = "info";
    let Some(text) = reader.text("log-level") else {
        return DEFAULT.to_owned();
    };
    let is_directive = |part: &str| {
        let levels = ["off", "error", "warn", "info", "debug", "trace"];
        part.contains('=')
            || levels
                .iter()
                .any(|level| level.eq_ignore_ascii_case(part.trim()))
    };
    let parses = tracing_subscriber::EnvFilter::builder()
        .parse(&text)
        .is_ok();
    if parses && text.split(',').all(is_directive) {
        return text;
    }
    reader.mistake("log-level", FlagProblem::LogFilter);
    DEFAULT.to_owned()
}
