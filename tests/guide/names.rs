//! What pages name has to exist, what users meet has to be named, and code
//! cites only what is in the repository.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use sipbridge::config::flags::FLAGS;
use sipbridge::core::audio_counters::AudioCounters;
use sipbridge::core::call::FallbackStep;
use sipbridge::core::outcome::Outcome;

use crate::pages::{self, root};

/// Where a name of a file in this repository begins.
const PLACES: [&str; 6] = ["src/", "tests/", "examples/", "vendor/", "./start", ".env"];

#[test]
fn every_file_that_a_page_names_exists() {
    let mut missing = Vec::new();
    for page in pages::all() {
        for (line, span) in &page.spans {
            let name = span.split([' ', ':']).next().unwrap_or_default();
            let is_file = PLACES.iter().any(|place| name.starts_with(place));
            // `.env` is what the user writes.
            if is_file && name != ".env" && !root().join(name).exists() {
                missing.push(format!("{}:{line}: {name}", page.path));
            }
        }
        for target in page.text.split("](").skip(1) {
            let target = target.split(')').next().unwrap_or_default();
            let is_file = PLACES.iter().any(|place| target.starts_with(place));
            if is_file && !root().join(target).exists() {
                missing.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// rustdoc looks whether the page is there, not whether the heading is.
#[test]
fn every_heading_that_a_page_links_to_exists() {
    let anchors = |text: &str| -> BTreeSet<String> {
        let headings = text.lines().filter(|line| line.starts_with('#'));
        headings
            .map(|line| {
                let words = line.trim_start_matches('#').trim().to_lowercase();
                let kept = words
                    .chars()
                    .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
                kept.map(|c| if c == ' ' { '-' } else { c }).collect()
            })
            .collect()
    };
    let mut missing = Vec::new();
    for page in pages::all() {
        for target in page.text.split("](").skip(1) {
            let target = target.split(')').next().unwrap_or_default();
            let Some((name, anchor)) = target.split_once('#') else {
                continue;
            };
            let text = match name.strip_prefix("crate::guide::") {
                Some(chapter) => pages::chapter(chapter).text,
                None if name.is_empty() => page.text.clone(),
                None => continue,
            };
            if !anchors(&text).contains(anchor) {
                missing.push(format!("{}: {target}", page.path));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// In spans that begin with one: others belong to other programs.
#[test]
fn every_flag_that_a_page_names_exists() {
    let mut unknown = Vec::new();
    for page in pages::all() {
        for (line, span) in &page.spans {
            let Some(name) = span.strip_prefix("--") else {
                continue;
            };
            let name = name.split([' ', '=']).next().unwrap_or_default();
            let is_prefix = name.ends_with('…');
            let name = name.trim_end_matches('…');
            let known = FLAGS
                .iter()
                .any(|flag| flag.name == name || (is_prefix && flag.name.starts_with(name)));
            if !known && !["help", "version", "demo", "line-id"].contains(&name) {
                unknown.push(format!("{}:{line}: --{name}", page.path));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

/// The help of a flag is short; some page says what it is good for.
#[test]
fn every_flag_stands_in_the_manual() {
    let pages: String = pages::all().into_iter().map(|page| page.text).collect();
    let is_named = |flag: &&sipbridge::config::flags::Flag| {
        let names = pages
            .match_indices(&format!("--{}", flag.name))
            .any(|(at, name)| {
                let next = pages[at + name.len()..].chars().next();
                !next.is_some_and(|c| c.is_ascii_alphanumeric() || c == '-')
            });
        names || pages.contains(&format!("`{}`", flag.env))
    };
    let unnamed: Vec<&str> = FLAGS
        .iter()
        .filter(|flag| !is_named(flag))
        .map(|flag| flag.name)
        .collect();
    assert!(unnamed.is_empty(), "{unnamed:?}");
}

#[test]
fn the_call_queue_has_every_outcome_and_step() {
    let text = pages::chapter("call_queue").text;
    let outcomes = text.split("## Outcomes").nth(1).unwrap();
    let named: BTreeSet<&str> = outcomes
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|name| *name != "outcome")
        .collect();
    let all: BTreeSet<&str> = Outcome::ALL.iter().map(|it| it.as_str()).collect();
    assert_eq!(named, all);
    for step in FallbackStep::ALL {
        let row = format!("| `{}` |", step.as_str());
        assert!(text.contains(&row), "{}", step.as_str());
    }
    let terms = fs::read_to_string(root().join("src/core/call/terms.rs")).unwrap();
    let reasons = literals(&terms, |it| it.contains('-'));
    assert!(reasons.len() > 7, "{reasons:?}");
    for reason in reasons {
        assert!(text.contains(&format!("`{reason}`")), "{reason}");
    }
    let events = fs::read_to_string(root().join("src/queue/event.rs")).unwrap();
    let names = literals(&events, |it| {
        it.starts_with("call.") || it.starts_with("worker.")
    });
    assert!(names.len() > 5);
    for name in names {
        assert!(text.contains(&format!("| `{name}` |")), "{name}");
    }
}

/// Texts between double quotes that are wanted.
fn literals(code: &str, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<String> {
    let all = code.split('"').skip(1).step_by(2);
    let is_name = |text: &&str| !text.is_empty() && !text.contains(char::is_whitespace);
    all.filter(is_name)
        .filter(|text| is_wanted(text))
        .map(str::to_owned)
        .collect()
}

/// Files of ours that may cite something.
fn sources(folder: &Path, found: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
            continue;
        }
        let kinds = ["rs", "sh", "py", "md", "sql", "patch", "h"];
        let is_ours = path
            .extension()
            .and_then(|it| it.to_str())
            .is_some_and(|it| kinds.contains(&it));
        if is_ours && let Ok(text) = fs::read_to_string(&path) {
            let name = path.strip_prefix(root()).unwrap();
            found.push((name.to_string_lossy().into_owned(), text));
        }
    }
}

#[test]
fn every_document_that_code_cites_is_in_the_repository() {
    let mut files = Vec::new();
    for folder in ["src", "tests", "examples"] {
        sources(&root().join(folder), &mut files);
    }
    let is_part = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let mut missing = Vec::new();
    // This test names what it looks for.
    for (name, text) in files
        .iter()
        .filter(|(name, _)| !name.starts_with("tests/guide"))
    {
        for (at, _) in text.match_indices(".md") {
            let before = text[..at]
                .rsplit(|c| !is_part(c))
                .next()
                .unwrap_or_default();
            let document = format!("{before}.md");
            let beside = Path::new(name).parent().unwrap().join(&document);
            if !root().join(&document).exists()
                && !root().join(beside).exists()
                && !document.contains("../../README.md")
            {
                missing.push(format!("{name}: {document}"));
            }
        }
        for (at, cited) in text.match_indices("guide::") {
            let rest = &text[at + cited.len()..];
            let page: String = rest
                .chars()
                .take_while(|c| c.is_ascii_alphanumeric() || *c == '_')
                .collect();
            if !root().join("src/guide").join(format!("{page}.md")).exists() {
                missing.push(format!("{name}: guide::{page}"));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

/// Every metric that the program writes stands in the manual, and no other.
#[test]
fn the_manual_explains_every_metric() {
    let text = pages::chapter("operating").text;
    let code = fs::read_to_string(root().join("src/api/metrics.rs")).unwrap();
    let code = code.split("#[cfg(test)]").next().unwrap();
    let is_metric = |it: &str| {
        (it.starts_with("sipbridge_") || it.starts_with("process_")) && !it.contains('{')
    };
    let mut written = literals(code, is_metric);
    let audio = AudioCounters::default();
    written.extend(
        audio
            .iter()
            .map(|(name, ..)| format!("sipbridge_{name}_total")),
    );
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let named: BTreeSet<String> = text
        .split(|c| !is_part(c))
        .filter(|word| is_metric(word))
        .map(str::to_owned)
        .collect();
    assert!(written.len() > 60, "{written:?}");
    let differ: Vec<&String> = named.symmetric_difference(&written).collect();
    assert!(differ.is_empty(), "{differ:?}");
}
