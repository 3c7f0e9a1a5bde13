//! Holds the tree to its own rules: which room may import which, where
//! `unsafe` and the clock may appear, how long a file may be, what may lie at
//! the top level. The rules themselves are written down in `src/lib.rs`.
//!
//! It reads lines, not syntax: comments and string contents are cut away
//! first, and everything from `#[cfg(test)]` on counts as test code.

#![expect(
    clippy::unwrap_used,
    reason = "in a test, a broken expectation is a failure"
)]

use std::fs;
use std::path::{Path, PathBuf};

/// Longest Rust file, in lines, its unit tests aside.
const FILE_LINES_MAX: usize = 500;

/// Longest file of behaviour tests: what belongs to one behaviour stays together.
const TEST_LINES_MAX: usize = 700;

/// Files that may be longer, up to 600 lines, and why.
const LONGER: &[(&str, &str)] = &[
    (
        "examples/common/sip_dialog.rs",
        "one dialog, every message of it in one place",
    ),
    (
        "examples/common/sip_uac.rs",
        "the whole interface of the test caller",
    ),
];

/// Which rooms a room's code may name. `app` and `main` may name all.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("files", &[]),
    // The manual: text.
    ("guide", &[]),
    ("config", &["core", "files", "sip", "lines"]),
    ("dns", &["core", "files"]),
    ("sip", &["core", "files", "dns"]),
    ("media", &["core", "files"]),
    ("worker", &["core", "files"]),
    ("queue", &["core", "files"]),
    ("callbacks", &["core", "files"]),
    ("lines", &["core", "files"]),
    ("store", &["core", "files", "lines"]),
    ("agents", &["core", "files", "store"]),
    (
        "fleet",
        &[
            "core", "files", "config", "sip", "media", "queue", "lines", "store",
        ],
    ),
    ("cluster", &["fleet", "core", "sip", "queue"]),
    (
        "bridge",
        &[
            "fleet",
            "core",
            "files",
            "config",
            "dns",
            "sip",
            "media",
            "worker",
            "queue",
            "callbacks",
            "lines",
            "store",
            "agents",
        ],
    ),
    ("watchdog", &[]),
    (
        "api",
        &[
            "fleet",
            "cluster",
            "core",
            "files",
            "config",
            "dns",
            "sip",
            "media",
            "worker",
            "queue",
            "callbacks",
            "lines",
            "store",
            "agents",
            "bridge",
            "watchdog",
        ],
    ),
];

/// What may lie at the top level: what the user named, and what tools need.
const TOP_LEVEL: &[&str] = &[
    "Cargo.toml",
    "build.rs",
    "src",
    "vendor",
    "examples",
    "tests",
    "start-sipbridge.sh",
    "README.md",
    "Cargo.lock",
    "LICENSE",
];

/// A line of code without its comment and string contents.
struct Line {
    number: usize,
    code: String,
    is_test: bool,
}

struct Source {
    /// Path below the root, with `/`.
    path: String,
    text: String,
    lines: Vec<Line>,
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file below `dir`.
fn sources(dir: &str) -> Vec<Source> {
    let mut found = Vec::new();
    collect(&root().join(dir), &mut found);
    found.sort();
    found.iter().map(|path| read(path)).collect()
}

fn collect(dir: &Path, found: &mut Vec<PathBuf>) {
    let Ok(entries) = fs::read_dir(dir) else {
        return;
    };
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, found);
        } else if path.extension().is_some_and(|ext| ext == "rs") {
            found.push(path);
        }
    }
}

fn read(path: &Path) -> Source {
    let text = fs::read_to_string(path).unwrap();
    // Long unit tests lie beside their module, as `name_tests.rs`.
    let mut is_test = path.to_string_lossy().ends_with("_tests.rs");
    let lines = text
        .lines()
        .enumerate()
        .map(|(index, line)| {
            is_test |= line.trim_start().starts_with("#[cfg(test)]");
            Line {
                number: index + 1,
                code: strip(line),
                is_test,
            }
        })
        .collect();
    Source {
        path: path
            .strip_prefix(root())
            .unwrap()
            .to_string_lossy()
            .replace('\\', "/"),
        text,
        lines,
    }
}

/// Cuts away a `//` comment and the contents of string literals.
fn strip(line: &str) -> String {
    let mut code = String::new();
    let mut chars = line.chars().peekable();
    let mut in_string = false;
    while let Some(c) = chars.next() {
        match c {
            '\\' if in_string => {
                chars.next();
            }
            '"' => {
                in_string = !in_string;
                code.push('"');
            }
            _ if in_string => {}
            // A quote as a character literal opens nothing.
            '\'' if chars.peek() == Some(&'"') => {
                chars.next();
            }
            '/' if chars.peek() == Some(&'/') => break,
            _ => code.push(c),
        }
    }
    code
}

/// Whether `word` stands in `code` with no identifier character beside it.
fn has_word(code: &str, word: &str) -> bool {
    let is_ident = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).any(|(at, _)| {
        !code[..at].chars().next_back().is_some_and(is_ident)
            && !code[at + word.len()..].chars().next().is_some_and(is_ident)
    })
}

/// The rooms that a line of code names as `crate::room`, also within braces.
fn rooms_named(code: &str) -> Vec<String> {
    let mut rooms = Vec::new();
    for (at, found) in code.match_indices("crate::") {
        let rest = &code[at + found.len()..];
        let names = rest
            .strip_prefix('{')
            .map_or(rest, |braced| braced.split('}').next().unwrap_or(braced));
        for name in names.split(',') {
            let room: String = name
                .trim()
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            rooms.push(room);
            if !rest.starts_with('{') {
                break;
            }
        }
    }
    rooms
}

/// The room of a file below `src`, or `None` for `lib`, `main` and `app`.
fn room_of(path: &str) -> Option<&str> {
    let room = path.strip_prefix("src/")?.split('/').next()?;
    let room = room.strip_suffix(".rs").unwrap_or(room);
    (!matches!(room, "lib" | "main" | "app" | "cli")).then_some(room)
}

/// Fails with every finding at once.
fn assert_none(rule: &str, findings: &[String]) {
    assert!(findings.is_empty(), "{rule}:\n  {}", findings.join("\n  "));
}

/// Findings of `is_bad` over all lines of `files`.
fn find(files: &[Source], is_bad: impl Fn(&Source, &Line) -> bool) -> Vec<String> {
    files
        .iter()
        .flat_map(|file| file.lines.iter().map(move |line| (file, line)))
        .filter(|(file, line)| is_bad(file, line))
        .map(|(file, line)| format!("{}:{}: {}", file.path, line.number, line.code.trim()))
        .collect()
}

#[test]
fn rooms_import_only_what_they_may() {
    let files = sources("src");
    assert!(files.len() > 10, "the scan found the sources");
    let findings = find(&files, |file, line| {
        let Some(room) = room_of(&file.path) else {
            return false;
        };
        let allowed = MAY_IMPORT
            .iter()
            .find(|(name, _)| *name == room)
            .unwrap_or_else(|| panic!("{}: room {room} has no import rule", file.path))
            .1;
        rooms_named(&line.code).iter().any(|named| {
            let is_room = matches!(named.as_str(), "app" | "cli")
                || MAY_IMPORT.iter().any(|(name, _)| name == named);
            is_room && named != room && !allowed.contains(&named.as_str())
        })
    });
    assert_none("a room imports one it must not know", &findings);
}

#[test]
fn unsafe_stays_in_the_pjsip_room() {
    let findings = find(&sources("src"), |file, line| {
        !file.path.starts_with("src/sip/pjsip") && has_word(&line.code, "unsafe")
    });
    assert_none("unsafe outside of src/sip/pjsip", &findings);
}

#[test]
fn every_unsafe_block_says_why_it_is_safe() {
    let mut findings = Vec::new();
    for file in sources("src/sip/pjsip") {
        let raw: Vec<&str> = file.text.lines().collect();
        for line in &file.lines {
            let opens = line.code.contains("unsafe {") || line.code.contains("unsafe impl");
            // The note stands above the statement, which may begin some lines earlier.
            let from = line.number.saturating_sub(10);
            let noted = raw[from..line.number]
                .iter()
                .any(|above| above.contains("SAFETY:"));
            if opens && !noted {
                findings.push(format!("{}:{}", file.path, line.number));
            }
        }
    }
    assert_none("unsafe without a SAFETY note", &findings);
}

#[test]
fn core_never_reads_the_clock_or_touches_the_world() {
    let forbidden = [
        "Instant::now",
        "SystemTime::now",
        "TcpStream",
        "TcpListener",
        "UdpSocket",
        "ToSocketAddrs",
        "std::thread",
        "std::fs",
        "tokio::",
    ];
    let findings = find(&sources("src/core"), |_, line| {
        !line.is_test && forbidden.iter().any(|word| line.code.contains(word))
    });
    assert_none("core has no clock, sockets, threads or runtime", &findings);
}

#[test]
fn nothing_is_left_to_be_done() {
    let mut files = sources("src");
    files.extend(sources("examples"));
    files.extend(sources("tests"));
    let findings = find(&files, |_, line| {
        ["todo!", "unimplemented!", "dbg!"]
            .iter()
            .any(|word| line.code.contains(word))
    });
    assert_none("unfinished code", &findings);
}

#[test]
fn no_channel_is_unbounded() {
    let findings = find(&sources("src"), |_, line| {
        has_word(&line.code, "unbounded_channel")
            || (line.code.contains("mpsc::channel()") && !line.is_test)
    });
    assert_none("every queue is bounded", &findings);
}

#[test]
fn files_are_short_and_say_what_they_are_for() {
    let mut findings = Vec::new();
    for dir in ["src", "examples", "tests"] {
        for file in sources(dir) {
            let lines = file.lines.iter().filter(|line| !line.is_test).count();
            let has_reason = LONGER.iter().any(|(path, _)| *path == file.path);
            let limit = match dir {
                "tests" => TEST_LINES_MAX,
                _ if has_reason => FILE_LINES_MAX + 100,
                _ => FILE_LINES_MAX,
            };
            if lines > limit {
                findings.push(format!("{}: {lines} lines", file.path));
            }
            if !file.text.starts_with("//!") {
                findings.push(format!("{}: does not begin with //!", file.path));
            }
        }
    }
    assert_none(
        "a file begins with what it is for and stays short",
        &findings,
    );
}

#[test]
fn the_tree_is_at_most_three_levels_deep() {
    let findings: Vec<String> = sources("src")
        .into_iter()
        .filter(|file| file.path.matches('/').count() > 3)
        .map(|file| file.path)
        .collect();
    assert_none("deeper than three levels below src", &findings);
}

#[test]
fn the_top_level_holds_only_what_belongs_there() {
    // What git would keep: ignored folders are no concern.
    let output = std::process::Command::new("git")
        .args([
            "-C",
            &root().to_string_lossy(),
            "ls-files",
            "--cached",
            "--others",
            "--exclude-standard",
        ])
        .output();
    let Ok(output) = output else {
        return;
    };
    let findings: Vec<String> = String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|path| path.split('/').next())
        .filter(|entry| !entry.starts_with('.') && !TOP_LEVEL.contains(entry))
        .map(str::to_owned)
        .collect();
    assert_none("an entry of the top level that nobody asked for", &findings);
}

#[test]
fn the_scanner_sees_what_it_should() {
    assert_eq!(rooms_named("use crate::core::ids::CallId;"), ["core"]);
    assert_eq!(rooms_named("use crate::{core::ids, sip};"), ["core", "sip"]);
    assert!(rooms_named("use std::crate_like::sip;").is_empty());
    assert_eq!(
        strip("let a = \"unsafe // x\"; // unsafe"),
        "let a = \"\"; "
    );
    assert!(has_word("unsafe { x }", "unsafe"));
    assert!(!has_word("unsafe_code", "unsafe"));
}
