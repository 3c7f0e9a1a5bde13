//! Shell blocks: bash reads them, and what they give to the program is
//! parsed and validated as the program does it.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::Write;
use std::process::{Command, Stdio};

use sipbridge::config::flags::FLAGS;
use sipbridge::config::{self, Invocation, RawArgs};

use crate::pages::{self, Block};

/// What a `$(…)` of a block stands for.
const HEX: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";

/// A command of a shell block: its variables and its words.
#[derive(Debug, Default)]
struct Line {
    variables: BTreeMap<String, String>,
    words: Vec<String>,
}

/// The commands of a block, as far as the manual's blocks need it: quotes,
/// comments, `\` at the end of a line, `|`, `&`, `;`, and variables.
fn commands(text: &str) -> Vec<Line> {
    let text = text.replace("\\\n", " ");
    let (mut lines, mut exported) = (Vec::new(), BTreeMap::new());
    for line in text.lines() {
        let mut words = split(line).into_iter().peekable();
        while words.peek().is_some() {
            let words: Vec<String> = words.by_ref().take_while(|word| word != ";").collect();
            let is_assignment = |word: &&String| {
                word.split_once('=').is_some_and(|(name, _)| {
                    !name.is_empty() && name.bytes().all(|b| b.is_ascii_uppercase() || b == b'_')
                })
            };
            let pair = |word: &String| {
                let (name, value) = word.split_once('=').unwrap();
                (name.to_owned(), value.to_owned())
            };
            if words.first().is_some_and(|word| word == "export") {
                exported.extend(words[1..].iter().filter(is_assignment).map(pair));
                continue;
            }
            let mut variables = exported.clone();
            variables.extend(words.iter().take_while(is_assignment).map(pair));
            let words = words.into_iter().skip_while(|word| is_assignment(&word));
            lines.push(Line {
                variables,
                words: words.collect(),
            });
        }
    }
    lines
}

/// Words of one line; `;` stands for whatever ends a command.
fn split(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.get_or_insert_default().push(c),
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, '#') if word.is_none() => break,
            (None, '$') if chars.peek() == Some(&'(') => {
                chars.by_ref().find(|c| *c == ')');
                word.get_or_insert_default().push_str(HEX);
            }
            (None, '|' | '&' | ';') => {
                words.extend(word.take());
                words.push(";".to_owned());
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (None, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// Parses and validates as the program would.
fn check(place: &str, line: &Line) {
    let mut variables = line.variables.clone();
    for (name, value) in &variables {
        let known = FLAGS
            .iter()
            .any(|flag| flag.env == name || flag.file_env().is_some_and(|file| file == *name));
        assert!(known, "{place}: {name}={value} is no variable of sipbridge");
    }
    variables
        .entry("ENCRYPTION_KEY".into())
        .or_insert_with(|| HEX.to_owned());
    let environment = |name: &str| variables.get(name).map(OsString::from);
    let arguments = std::iter::once("sipbridge").chain(line.words[1..].iter().map(String::as_str));
    let given: RawArgs = match config::read(arguments.map(OsString::from), environment) {
        Ok(Invocation::Run(given) | Invocation::Check(given)) => given,
        Ok(Invocation::Encrypt { .. } | Invocation::Lines(_) | Invocation::Nodes(_)) => return,
        Err(error) if error.exit_code() == 0 => return,
        Err(error) => panic!("{place}: {line:?}: {error}"),
    };
    if line.words[0].starts_with("./") {
        return; // Its settings are those of `.env`.
    }
    let mistakes = config::validate(given).mistakes;
    let shown = mistakes.iter().map(ToString::to_string);
    // The files that it names are the reader's.
    let shown: Vec<String> = shown
        .filter(|it| !it.contains("no such file") && !it.contains("No such file"))
        .collect();
    assert!(shown.is_empty(), "{place}: {line:?}: {shown:?}");
}

fn is_ours(line: &Line) -> bool {
    let program = line.words.first().map(String::as_str).unwrap_or_default();
    let demo = line.words.iter().any(|word| word == "--demo");
    !demo
        && (program == "sipbridge"
            || program.ends_with("/sipbridge")
            || program == "./start-sipbridge.sh")
}

fn shell_blocks() -> Vec<Block> {
    let blocks = pages::all().into_iter().flat_map(|page| page.blocks);
    blocks.filter(|block| block.language() == "sh").collect()
}

/// A program reads the block from standard input and finds no mistake in it.
fn read_by(program: &[&str], block: &Block) {
    let mut reader = Command::new(program[0])
        .args(&program[1..])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = reader.stdin.take().unwrap();
    stdin.write_all(block.text.as_bytes()).unwrap();
    drop(stdin);
    let output = reader.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {said}", block.place);
}

#[test]
fn bash_reads_every_shell_block() {
    for block in shell_blocks() {
        read_by(&["bash", "-n"], &block);
    }
}

/// `tests/e2e/examples.rs` lets the worker of the manual take a call.
#[test]
fn python_reads_every_python_block() {
    let blocks = pages::all().into_iter().flat_map(|page| page.blocks);
    for block in blocks.filter(|block| block.language() == "python") {
        let parse = "import ast, sys; ast.parse(sys.stdin.read())";
        read_by(&["python3", "-c", parse], &block);
    }
}

#[test]
fn the_program_takes_every_command_line() {
    let mut seen = 0;
    for block in shell_blocks() {
        for line in commands(&block.text).iter().filter(|line| is_ours(line)) {
            check(&block.place, line);
            seen += 1;
        }
    }
    assert!(seen > 5, "{seen} command lines");
}

/// `ExecStart=` of a unit, with the variables of its `Environment=`.
#[test]
fn the_program_takes_what_units_start() {
    let blocks = pages::all().into_iter().flat_map(|page| page.blocks);
    for block in blocks.filter(|block| block.language() == "ini") {
        let all = |key: &str| -> Vec<String> {
            let lines = block.text.lines();
            lines
                .filter_map(|line| line.strip_prefix(key))
                .map(str::to_owned)
                .collect()
        };
        let variables = all("Environment=").join(" ");
        for start in all("ExecStart=") {
            let mut lines = commands(&format!("{variables} {start}"));
            check(&block.place, &lines.remove(0));
        }
    }
}

/// The units' time to stop is enough for the timeouts that the program has by default.
#[test]
fn units_wait_for_the_whole_shutdown() {
    let timeout = |name: &str| -> u64 {
        let flag = FLAGS.iter().find(|flag| flag.name == name).unwrap();
        flag.default.unwrap().parse().unwrap()
    };
    let timeouts = ["handover-timeout", "drain-timeout", "shutdown-timeout"];
    // And 10 s for what follows.
    let shutdown = timeouts.map(timeout).iter().sum::<u64>() + 10;
    let pages = pages::all().into_iter().flat_map(|page| {
        let values = page.text.split("TimeoutStopSec=").skip(1);
        let numbers = values.map(|value| {
            let digits = value.find(|c: char| !c.is_ascii_digit());
            value[..digits.unwrap_or(value.len())]
                .parse::<u64>()
                .unwrap()
        });
        numbers.collect::<Vec<_>>()
    });
    let written: Vec<u64> = pages.collect();
    assert!(written.len() > 1, "{written:?}");
    assert!(written.iter().all(|it| *it >= shutdown), "{written:?}");
}

#[test]
fn the_splitter_splits() {
    let lines =
        commands("A=1 sipbridge --x 'a b' # no\nexport B=2\nprintf %s \"q\" | sipbridge y &\n");
    let words: Vec<_> = lines.iter().map(|line| line.words.join(",")).collect();
    assert_eq!(words, ["sipbridge,--x,a b", "printf,%s,q", "sipbridge,y"]);
    assert_eq!(lines[0].variables["A"], "1");
    assert_eq!(lines[2].variables["B"], "2");
}
