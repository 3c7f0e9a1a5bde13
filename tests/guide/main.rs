//! The manual (`src/guide`) and the README held to the program: command lines
//! are parsed by the program's own parser, JSON is read by the code that reads it or compared
//! with what the code writes, and what is named has to exist.
//!
//! | file | what it looks at |
//! |---|---|
//! | `pages` | reads the pages: their blocks of code and their spans of code |
//! | `commands` | shell blocks and command lines |
//! | `json` | JSON blocks, each by the kind that its fence names |
//! | `names` | files, flags, metrics, events and outcomes that pages name; pages that code names |

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "in a test, a broken expectation is a failure"
)]

mod commands;
mod json;
mod names;
mod pages;
