//! `--lines FILE`: a JSON array of phone lines. Good lines are returned
//! beside the mistakes of the others, each named by file, entry, field and
//! reason.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use serde_json::Value;
use zeroize::Zeroizing;

use super::entry::{LineEntry, read_entry, wipe_value};
use super::line::{FieldIssue, FieldProblem, PhoneLine};
use super::row::{LINE_COLUMNS, Row};
use crate::core::ids::LineId;
use crate::core::json_type::type_name;
use crate::files;

/// Largest lines file: 5,000 lines of 3 kB each.
pub const FILE_MAX_BYTES: u64 = 16 * 1_024 * 1_024;

/// Why a lines file cannot be used at all.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be opened or read.
    #[error("lines file {}: cannot be read: {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than [`FILE_MAX_BYTES`].
    #[error("lines file {}: is larger than 16 MiB", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// Not JSON.
    #[error("lines file {}: is not valid JSON: {reason} at line {line} column {column}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Line in the file, from 1.
        line: usize,
        /// Column in that line, from 1.
        column: usize,
        /// What the parser expected; holds nothing of the file.
        reason: String,
    },
    /// JSON, but no array.
    #[error("lines file {}: must hold a JSON array of phone lines, holds {found}", path.display())]
    NotAnArray {
        /// The file.
        path: PathBuf,
        /// What it holds.
        found: &'static str,
    },
}

/// Which entry of the file is meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryName {
    /// Place in the array, from 1.
    pub number: usize,
    /// Its id, where it has a usable one.
    pub id: Option<LineId>,
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.id {
            Some(id) => write!(f, "line {:?} (entry {})", id.as_str(), self.number),
            None => write!(f, "entry {}", self.number),
        }
    }
}

/// What is wrong with an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EntryIssue {
    /// It is no object.
    NotAnObject,
    /// The field and what is wrong with it.
    Field(FieldIssue),
    /// The database does not take it, and says why.
    Refused(String),
}

impl fmt::Display for EntryIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAnObject => f.write_str("must be a JSON object"),
            Self::Field(issue) => issue.fmt(f),
            Self::Refused(reason) => write!(
                f,
                "the database does not take it, and keeps what it has: {reason}"
            ),
        }
    }
}

/// One mistake or warning: (file, entry, field, reason).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileIssue {
    /// The file.
    pub path: PathBuf,
    /// The entry.
    pub entry: EntryName,
    /// What is wrong with it.
    pub issue: EntryIssue,
}

impl fmt::Display for FileIssue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.display();
        write!(f, "lines file {path}: {}: {}", self.entry, self.issue)
    }
}

/// What a lines file holds.
#[derive(Debug, Default)]
pub struct LinesFile {
    /// The lines to register, in the file's order.
    pub lines: Vec<PhoneLine>,
    /// Every entry without mistakes as a row, also of lines that do not
    /// register: what an import writes.
    pub rows: Vec<Row>,
    /// Which entry each of `rows` is, from 1.
    numbers: Vec<usize>,
    /// Why the other entries are left out.
    pub mistakes: Vec<FileIssue>,
    /// What is ignored without harm.
    pub warnings: Vec<FileIssue>,
    /// How many lines have `isActive` false.
    pub inactive: usize,
    /// Lines that are Twilio's, whose webhook brings their calls.
    pub twilio_lines: Vec<PhoneLine>,
    /// How many lines belong to provider "twilio" and take no calls here.
    pub twilio: usize,
}

impl LinesFile {
    /// Counts one of `rows` as a mistake: the database does not take it.
    pub fn refuse(&mut self, path: &Path, place: usize, reason: String) {
        let number = self.numbers.get(place).copied().unwrap_or_default();
        let id = self.rows.get(place).and_then(Row::id).map(LineId::new);
        self.mistakes.push(FileIssue {
            path: path.into(),
            entry: EntryName { number, id },
            issue: EntryIssue::Refused(reason),
        });
    }
}

/// Reads a lines file. Blocks for the file system.
///
/// # Errors
/// When the file as a whole cannot be used. Mistakes in single lines are in
/// the result.
pub fn read(path: &Path) -> Result<LinesFile, FileError> {
    let text = read_bounded(path)?;
    parse(path, &text)
}

fn read_bounded(path: &Path) -> Result<Zeroizing<Vec<u8>>, FileError> {
    files::read(path, FILE_MAX_BYTES).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => FileError::TooLarge { path: path.into() },
        _ => FileError::Unreadable {
            path: path.into(),
            source,
        },
    })
}

/// Parses the text of a lines file; `path` only names it in messages.
///
/// # Errors
/// As [`read`].
pub fn parse(path: &Path, text: &[u8]) -> Result<LinesFile, FileError> {
    // Editors on Windows put a byte order mark there.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let value = serde_json::from_slice(text).map_err(|error| syntax_error(path, &error))?;
    match value {
        Value::Array(entries) => Ok(read_entries(path, entries)),
        mut other => {
            let found = type_name(&other);
            wipe_value(&mut other);
            Err(FileError::NotAnArray {
                path: path.into(),
                found,
            })
        }
    }
}

fn syntax_error(path: &Path, error: &serde_json::Error) -> FileError {
    let shown = error.to_string();
    // The position comes from the fields, in our own words.
    let reason = shown.split(" at line ").next().unwrap_or(&shown);
    FileError::Syntax {
        path: path.into(),
        line: error.line(),
        column: error.column(),
        reason: reason.into(),
    }
}

fn read_entries(path: &Path, entries: Vec<Value>) -> LinesFile {
    let mut found = LinesFile::default();
    let mut seen: HashMap<LineId, usize> = HashMap::new();
    for (index, value) in entries.into_iter().enumerate() {
        let number = index + 1;
        let issue = |id: Option<&LineId>, issue| FileIssue {
            path: path.into(),
            entry: EntryName {
                number,
                id: id.cloned(),
            },
            issue,
        };
        let object = match value {
            Value::Object(object) => object,
            mut other => {
                wipe_value(&mut other);
                found.mistakes.push(issue(None, EntryIssue::NotAnObject));
                continue;
            }
        };
        let row = Row::from_object(LINE_COLUMNS, &object);
        let (entry, warnings) = read_entry(object);
        let id = entry.id().cloned();
        let warn = |warning| issue(id.as_ref(), EntryIssue::Field(warning));
        found.warnings.extend(warnings.into_iter().map(warn));
        if let Some(id) = &id {
            let first = *seen.entry(id.clone()).or_insert(number);
            if first != number {
                let problem = FieldProblem::Duplicate { first };
                let field = "id".to_owned();
                let twin = EntryIssue::Field(FieldIssue { field, problem });
                found.mistakes.push(issue(Some(id), twin));
                continue;
            }
        }
        if !matches!(entry, LineEntry::Mistaken(..)) {
            found.rows.push(row);
            found.numbers.push(number);
        }
        match entry {
            LineEntry::Line(line) => found.lines.push(*line),
            LineEntry::Inactive(_) => found.inactive += 1,
            LineEntry::Twilio(_) => found.twilio += 1,
            LineEntry::TwilioLine(line) => found.twilio_lines.push(*line),
            LineEntry::Mistaken(id, issues) => {
                let mistake = |mistake| issue(id.as_ref(), EntryIssue::Field(mistake));
                found.mistakes.extend(issues.into_iter().map(mistake));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse_text(text: &str) -> Result<LinesFile, FileError> {
        parse(Path::new("lines.json"), text.as_bytes())
    }

    fn shown(issues: &[FileIssue]) -> Vec<String> {
        issues.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn good_lines_are_kept_beside_mistakes() {
        let file = parse_text(
            r#"[{"id":"a","sipUsername":"1"}, 5, {"id":"b","sipDomain":9}, {"id":"a"},
                {"id":2,"isActive":false}, {"id":3,"provider":"twilio"}, {"sipUsername":"2"},
                {"id":"c","pasword":"hunter2"}]"#,
        )
        .expect("JSON");
        let ids: Vec<_> = file.lines.iter().map(|line| line.id.as_str()).collect();
        assert_eq!(ids, ["a", "c"]);
        assert_eq!((file.inactive, file.twilio), (1, 1));
        assert_eq!(
            shown(&file.mistakes),
            [
                "lines file lines.json: entry 2: must be a JSON object",
                "lines file lines.json: line \"b\" (entry 3): field \"sipDomain\" must be a string, is a number",
                "lines file lines.json: line \"a\" (entry 4): field \"id\" is the same as that of entry 1 (counted from 1): this one is left out",
                "lines file lines.json: entry 7: field \"id\" is required and missing",
            ]
        );
        assert_eq!(
            shown(&file.warnings),
            [
                "lines file lines.json: line \"c\" (entry 8): field \"pasword\" is not a known field and is ignored"
            ]
        );
    }

    #[test]
    fn a_file_that_is_no_json_says_where() {
        let error = parse_text("[\n  {\"id\": \"a\",}\n]").expect_err("trailing comma");
        assert_eq!(
            error.to_string(),
            "lines file lines.json: is not valid JSON: trailing comma at line 2 column 14"
        );
        let error = parse_text("{\"id\": \"a\"}").expect_err("object");
        assert_eq!(
            error.to_string(),
            "lines file lines.json: must hold a JSON array of phone lines, holds an object"
        );
        assert!(parse_text("").is_err());
    }

    #[test]
    fn files_are_read_within_their_bound() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let path = directory.path().join("lines.json");
        std::fs::write(&path, "\u{feff}[{\"id\": 1}]").expect("written");
        assert_eq!(read(&path).expect("readable").lines.len(), 1);
        std::fs::File::create(&path)
            .and_then(|file| file.set_len(FILE_MAX_BYTES + 1))
            .expect("sparse file");
        assert!(matches!(read(&path), Err(FileError::TooLarge { .. })));
        let missing = read(&directory.path().join("none")).expect_err("missing");
        assert!(missing.to_string().contains("cannot be read: No such file"));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(Path::new("f"), &bytes);
        }

        #[test]
        fn each_entry_is_counted_once(ids in proptest::collection::vec(0..6_u8, 0..12)) {
            let entries: Vec<_> = ids.iter().map(|id| format!("{{\"id\":{id}}}")).collect();
            let file = parse_text(&format!("[{}]", entries.join(","))).expect("JSON");
            let distinct: std::collections::BTreeSet<_> = ids.iter().collect();
            prop_assert_eq!(file.lines.len(), distinct.len());
            prop_assert_eq!(file.mistakes.len(), ids.len() - distinct.len());
        }
    }
}
