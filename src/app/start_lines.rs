//! The lines to start: that of the flags and those of the lines file, their
//! credentials opened. Shared by `check` and the start of the bridge.

use crate::config::Config;
use crate::lines::{
    self, FLAGS_LINE_ID, FileError, FileIssue, LinesFile, LoadedLines, ReadyLine, SipServers,
    UnusableLine, UnusableReason,
};

/// All lines of a configuration, and everything to say about them.
#[derive(Debug, Default)]
pub struct StartLines {
    /// What is ready, what is unusable, and warnings.
    pub loaded: LoadedLines,
    /// Entries of the file that are left out.
    pub file_mistakes: Vec<FileIssue>,
    /// What is ignored in the file.
    pub file_warnings: Vec<FileIssue>,
    /// Lines of the file with `isActive` false.
    pub inactive: usize,
    /// Lines of the file that belong to provider "twilio".
    pub twilio: usize,
}

/// Reads and opens all lines. Takes about 20 ms of CPU for each encrypted
/// password, on all cores; blocks, so call it off the async threads.
///
/// # Errors
/// When the lines file as a whole cannot be used.
pub fn start_lines(config: &Config) -> Result<StartLines, FileError> {
    let file = match &config.lines_file {
        Some(path) => lines::file::read(path)?,
        None => LinesFile::default(),
    };
    let servers = SipServers::from_flags(config.sip.domain.clone(), config.sip.transport);
    let mut loaded = lines::load(file.lines, config.encryption_key.as_ref(), &servers);
    add_flags_line(config, &mut loaded);
    Ok(StartLines {
        loaded,
        file_mistakes: file.mistakes,
        file_warnings: file.warnings,
        inactive: file.inactive,
        twilio: file.twilio,
    })
}

/// Puts the line of the flags first. A line of the file with the same id is
/// set aside.
fn add_flags_line(config: &Config, loaded: &mut LoadedLines) {
    let Some(line) = &config.flags_line else {
        return;
    };
    let is_twin = |ready: &ReadyLine| ready.line.id.as_str() == FLAGS_LINE_ID;
    if let Some(index) = loaded.ready.iter().position(is_twin) {
        loaded.unusable.push(UnusableLine {
            id: loaded.ready.remove(index).line.id,
            reason: UnusableReason::FlagsLineId,
        });
    }
    let ready = ReadyLine::from_flags(
        &line.domain,
        config.sip.transport,
        line.username.clone(),
        line.password.clone(),
    );
    loaded.ready.insert(0, ready);
}
