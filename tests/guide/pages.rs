//! The pages: Markdown, taken apart into blocks of code and the rest.

use std::fs;
use std::path::{Path, PathBuf};

/// A block of code between fences.
pub struct Block {
    /// Page and line of its first fence, for messages.
    pub place: String,
    /// What stands behind the fence: language, then what the tests are to do with it.
    pub info: String,
    pub text: String,
}

/// A page of the manual, or the README.
pub struct Page {
    /// Below the root of the repository.
    pub path: String,
    pub text: String,
    pub blocks: Vec<Block>,
    /// What stands in `backticks` outside of blocks, with its line.
    pub spans: Vec<(usize, String)>,
}

impl Block {
    pub fn language(&self) -> &str {
        self.info.split(' ').next().unwrap_or_default()
    }
}

pub fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Every page of the manual and the README.
pub fn all() -> Vec<Page> {
    let mut paths: Vec<PathBuf> = fs::read_dir(root().join("src/guide"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ext| ext == "md"))
        .collect();
    paths.push(root().join("README.md"));
    paths.sort();
    paths.iter().map(|path| read(path)).collect()
}

/// One page of the manual.
pub fn chapter(name: &str) -> Page {
    read(&root().join("src/guide").join(format!("{name}.md")))
}

fn read(path: &Path) -> Page {
    let text = fs::read_to_string(path).unwrap();
    let path = path.strip_prefix(root()).unwrap();
    let path = path.to_string_lossy().into_owned();
    let (mut blocks, mut spans) = (Vec::new(), Vec::new());
    let mut open: Option<Block> = None;
    for (index, line) in text.lines().enumerate() {
        match (&mut open, line.trim_start().strip_prefix("```")) {
            (None, Some(info)) => {
                open = Some(Block {
                    place: format!("{path}:{}", index + 1),
                    info: info.trim().to_owned(),
                    text: String::new(),
                });
            }
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (Some(block), None) => {
                block.text.push_str(line);
                block.text.push('\n');
            }
            (None, None) => {
                let inside = line.split('`').skip(1).step_by(2);
                spans.extend(inside.map(|span| (index + 1, span.to_owned())));
            }
        }
    }
    assert!(open.is_none(), "{path}: a block is not closed");
    Page {
        path,
        text,
        blocks,
        spans,
    }
}

#[test]
fn every_page_is_part_of_the_manual() {
    let map = fs::read_to_string(root().join("src/guide/mod.rs")).unwrap();
    for page in all() {
        if let Some(file) = page.path.strip_prefix("src/guide/") {
            let name = file.trim_end_matches(".md");
            assert!(map.contains(&format!("include_str!(\"{file}\")")), "{file}");
            assert!(map.contains(&format!("pub mod {name} {{}}")), "{name}");
            assert!(map.contains(&format!("//! | [`{name}`]")), "{name}");
        }
    }
}

/// rustdoc takes a block without a language for Rust.
#[test]
fn every_block_says_its_language() {
    for page in all() {
        for block in &page.blocks {
            let known = ["sh", "json", "text", "ini", "yaml", "python", "promql"];
            assert!(
                known.contains(&block.language()),
                "{}: {:?}",
                block.place,
                block.info
            );
        }
    }
}
