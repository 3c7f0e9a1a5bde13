//! Phone lines, SIP servers and credentials at rest: read, checked and made ready.
//!
//! | file | what it holds |
//! |---|---|
//! | [`mod@line`] | a phone line, and what can be wrong with one |
//! | [`entry`] | a phone line as JSON, read field by field |
//! | [`mod@file`] | `--lines FILE` |
//! | [`row`] | a line or a server as a database row: each column as text |
//! | `parameters` | its fields that are objects of texts |
//! | [`way`] | its own way to its worker, and who is told of its calls |
//! | [`server`] | a SIP server, and what can be wrong with one |
//! | [`resolve`] | which SIP server a line uses |
//! | [`credentials`] | encryption and decryption of passwords |
//! | [`mod@load`] | lines made ready |
//! | [`credential_cache`] | opened credentials: derived in parallel or left to others, kept while unchanged |
//!
//! The way of a line: [`file::read`] -> [`load::load`] -> [`ReadyLine`], which
//! [`fleet`](crate::fleet) holds and turns into an account of the SIP engine.

pub mod credential_cache;
pub mod credentials;
pub mod entry;
pub mod file;
pub mod line;
pub mod load;
mod parameters;
pub mod resolve;
pub mod row;
pub mod server;
pub mod way;

pub use credential_cache::CredentialCache;
pub use credentials::CredentialError;
pub use file::{FileError, FileIssue, LinesFile};
pub use line::PhoneLine;
pub use load::{
    FLAGS_LINE_ID, LineWarning, LoadedLines, ReadyLine, SealedLine, UnusableLine, UnusableReason,
    load, load_with, open_servers,
};
pub use resolve::{Route, ServerError, ServerProblem, ServerRule, SipServer, SipServers};
pub use row::Row;
pub use way::LineWay;

pub use crate::core::key::{KeyError, MasterKey};
