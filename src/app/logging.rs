//! The log: on standard error, for people or as JSON.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::LogFormat;

/// Starts the log. The filter has been validated; should it still be
/// refused, everything from INFO on is logged.
pub fn start(format: LogFormat, filter: &str) {
    let filter = with_audit(filter);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder
            .json()
            .flatten_event(true)
            .with_current_span(true)
            .try_init(),
    };
    if let Err(error) = started {
        eprintln!("sipbridge: the log cannot be started: {error}");
    }
}

/// Changes through the API are logged at every level, unless the filter names
/// them itself (`sipbridge::audit=off`).
fn with_audit(filter: &str) -> String {
    const AUDIT: &str = "sipbridge::audit";
    if filter.contains(AUDIT) {
        return filter.to_owned();
    }
    format!("{filter},{AUDIT}=info")
}

#[cfg(test)]
mod tests {
    use super::with_audit;

    #[test]
    fn changes_are_logged_at_every_level() {
        assert_eq!(with_audit("warn"), "warn,sipbridge::audit=info");
        assert_eq!(with_audit("sipbridge::audit=off"), "sipbridge::audit=off");
    }
}
