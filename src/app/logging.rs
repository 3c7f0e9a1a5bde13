//! The log: on standard error, for people or as JSON. Whoever logs never waits
//! for the reader of the log, see [`log_queue`](super::log_queue).

use std::any::Any;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::AsFd;
use std::panic::{self, PanicHookInfo};
use std::str;
use std::thread;
use std::time::Duration;

use tracing::subscriber::set_global_default;
use tracing::{Level, Metadata};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::{DefaultFields, FormatFields, Writer};

use super::log_queue::{LogQueue, Weight};
use crate::config::LogFormat;
use crate::core::printable::{Escaping, escape_json};
use crate::sip::pjsip::hard_exit;

const AUDIT: &str = "sipbridge::audit";
/// How long what is queued may take to be written before the process ends.
const LAST_LINES: Duration = Duration::from_millis(300);

static QUEUE: LogQueue = LogQueue::new();

/// Starts the log. The filter has been validated; should it still be
/// refused, everything from INFO on is logged.
pub fn start(format: LogFormat, filter: &str) {
    let filter = with_audit(filter);
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(Queued { format })
        .with_ansi(std::io::stderr().is_terminal());
    // `try_init` would take in the records of the crate `log` too, wherever another crate
    // asks for that feature: those of tungstenite show whole frames, with callers' numbers.
    let started = match format {
        LogFormat::Text => set_global_default(builder.fmt_fields(OneLineFields).finish()),
        LogFormat::Json => {
            let builder = builder.json().flatten_event(true).with_current_span(true);
            set_global_default(builder.finish())
        }
    };
    if let Err(error) = started {
        eprintln!("sipbridge: the log cannot be started: {error}");
    }
    if let Err(error) = start_writing() {
        eprintln!("sipbridge: the log cannot be written: {error}");
    }
    panic::set_hook(Box::new(log_panic));
}

/// Lines that the reader of the log did not take, since the start.
#[must_use]
pub fn dropped_lines() -> u64 {
    QUEUE.dropped()
}

/// Gives the last lines a moment to be written. For the end of the process.
pub fn flush() {
    QUEUE.flush(LAST_LINES);
}

/// Ends the process in spite of everything, but for a moment for the last lines.
pub fn exit_at_once(code: i32) -> ! {
    flush();
    hard_exit(code)
}

fn start_writing() -> io::Result<()> {
    let stderr = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let tell = |dropped| {
        tracing::warn!(
            dropped,
            "log lines were dropped: whoever reads standard error had stopped reading"
        );
    };
    thread::Builder::new()
        .name("log".into())
        .spawn(move || QUEUE.write_to(stderr, tell))?;
    Ok(())
}

/// A panic becomes a line of the log; the usual hook would write to standard
/// error itself, and wait for its reader.
fn log_panic(info: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("without a name");
    let at = info.location().map(ToString::to_string);
    let at = at.unwrap_or_default();
    let message = panic_message(info.payload());
    let backtrace = Backtrace::capture();
    if backtrace.status() == BacktraceStatus::Captured {
        tracing::error!(target: "sipbridge::panic", %backtrace, "thread '{thread}' panicked at {at}: {message}");
    } else {
        tracing::error!(target: "sipbridge::panic", "thread '{thread}' panicked at {at}: {message}");
    }
}

fn panic_message(payload: &dyn Any) -> &str {
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    text.unwrap_or("without a message")
}

/// Fields of events and spans in the text format, escaped: whatever a caller,
/// a worker or a server sent, it stays within its line and its field.
struct OneLineFields;

impl<'writer> FormatFields<'writer> for OneLineFields {
    fn format_fields<R: RecordFields>(&self, writer: Writer<'writer>, fields: R) -> fmt::Result {
        let mut escaping = Escaping(writer);
        DefaultFields::new().format_fields(Writer::new(&mut escaping), fields)
    }
}

/// Where the lines go: into the queue.
#[derive(Clone, Copy, Debug)]
struct Queued {
    format: LogFormat,
}

impl<'log> MakeWriter<'log> for Queued {
    type Writer = Line;

    fn make_writer(&'log self) -> Line {
        Line {
            format: self.format,
            weight: Weight::Heavy,
        }
    }

    fn make_writer_for(&'log self, meta: &Metadata<'_>) -> Line {
        let is_heavy = *meta.level() <= Level::WARN || meta.target() == AUDIT;
        Line {
            format: self.format,
            weight: if is_heavy {
                Weight::Heavy
            } else {
                Weight::Light
            },
        }
    }
}

/// Takes one line, written at once.
struct Line {
    format: LogFormat,
    weight: Weight,
}

impl Write for Line {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let escaped = match self.format {
            LogFormat::Json => str::from_utf8(line).ok().and_then(escape_json),
            LogFormat::Text => None,
        };
        let text = escaped.as_ref().map_or(line, |text| text.as_bytes());
        QUEUE.push(text, self.weight);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Changes through the API are logged at every level, unless the filter names
/// them itself (`sipbridge::audit=off`).
fn with_audit(filter: &str) -> String {
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
