//! Seeds, and inputs that once made the program fall.

use std::fs;
use std::path::{Path, PathBuf};

/// One thing that is done to the bridge: what, and with which bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Input {
    pub kind: String,
    pub bytes: Vec<u8>,
}

impl Input {
    pub fn new(kind: &str, bytes: Vec<u8>) -> Self {
        Self {
            kind: kind.to_owned(),
            bytes,
        }
    }
}

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fuzz/corpus")
        .join(name)
}

/// All files of a folder of the corpus, by name.
pub fn files(name: &str) -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(folder(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let mut files: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_none_or(|it| it != "md"))
        .map(|path| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            (name, fs::read(path).unwrap())
        })
        .collect();
    files.sort();
    files
}

/// SIP messages: those of SIPp's scenarios, of RFC 4475, and our own.
pub fn sip() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for entry in
        fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/real/sipp")).unwrap()
    {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        seeds.push((path, messages_of(&text)));
    }
    seeds.sort();
    let mut seeds: Vec<Vec<u8>> = seeds.into_iter().flat_map(|(_, found)| found).collect();
    seeds.extend(files("sip").into_iter().map(|(_, text)| with_crlf(&text)));
    seeds.extend(files("torture").into_iter().map(|(_, bytes)| bytes));
    seeds
}

/// Whether a message belongs into a call.
pub fn is_within_call(message: &[u8]) -> bool {
    message.windows(16).any(|it| it == b"[peer_tag_param]")
}

/// Session descriptions, without a head.
pub fn sdp() -> Vec<Vec<u8>> {
    files("sdp")
        .into_iter()
        .map(|(_, text)| with_crlf(&text))
        .collect()
}

/// The messages that a SIPp scenario sends.
fn messages_of(scenario: &str) -> Vec<Vec<u8>> {
    let parts = scenario.split("<![CDATA[").skip(1);
    let texts = parts.filter_map(|part| part.split("]]>").next());
    let messages = texts.map(|text| {
        let lines: Vec<String> = text
            .trim()
            .lines()
            .map(|line| numbered(line.trim()))
            .collect();
        let end = if lines.iter().any(String::is_empty) {
            "\r\n"
        } else {
            "\r\n\r\n"
        };
        (lines.join("\r\n") + end).into_bytes()
    });
    messages.collect()
}

/// The number of a request is the dialog's business.
fn numbered(line: &str) -> String {
    match line
        .strip_prefix("CSeq: ")
        .and_then(|rest| rest.split_once(' '))
    {
        Some((_, method)) => format!("CSeq: [cseq] {method}"),
        None => line.to_owned(),
    }
}

/// Seeds of our own are kept with the line ends of the repository.
fn with_crlf(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + 40);
    for &byte in text {
        if byte == b'\n' && out.last() != Some(&b'\r') {
            out.push(b'\r');
        }
        out.push(byte);
    }
    out
}

/// Inputs in a row, as `crashes/` keeps them: `KIND LENGTH`, a line feed, the
/// bytes, a line feed.
pub fn write(inputs: &[Input]) -> Vec<u8> {
    let mut out = Vec::new();
    for input in inputs {
        out.extend(format!("{} {}\n", input.kind, input.bytes.len()).bytes());
        out.extend(&input.bytes);
        out.push(b'\n');
    }
    out
}

/// Reads what [`write`] wrote.
pub fn read(mut bytes: &[u8]) -> Vec<Input> {
    let mut inputs = Vec::new();
    while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
        let head = std::str::from_utf8(&bytes[..end]).expect("a head");
        let (kind, length) = head.split_once(' ').expect("kind and length");
        let length: usize = length.parse().expect("a length");
        let from = end + 1;
        inputs.push(Input::new(kind, bytes[from..from + length].to_vec()));
        bytes = &bytes[from + length + 1..];
    }
    inputs
}

/// What once made this target fall, each with its name.
pub fn crashes(target: &str) -> Vec<(String, Vec<Input>)> {
    let own = format!("{target}-");
    let all = files("crashes").into_iter();
    let own = all.filter(|(name, _)| name.starts_with(&own));
    own.map(|(name, bytes)| (name, read(&bytes))).collect()
}

/// Keeps a new one; the answer is its file.
pub fn keep(target: &str, seed: u64, inputs: &[Input]) -> PathBuf {
    let path = folder("crashes").join(format!("{target}-{seed}.case"));
    fs::write(&path, write(inputs)).unwrap();
    path
}
