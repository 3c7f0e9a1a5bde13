//! Phone lines, SIP servers, credentials at rest, and when a line registers.
//!
//! | file | what it holds |
//! |---|---|
//! | [`mod@line`] | a phone line, and what can be wrong with one |
//! | [`entry`] | a phone line as JSON, read field by field |
//! | [`mod@file`] | `--lines FILE` |
//! | [`row`] | a line or a server as a database row: each column as text |
//! | [`server`] | a SIP server, and what can be wrong with one |
//! | [`resolve`] | which SIP server a line uses |
//! | [`credentials`] | encryption and decryption of passwords |
//! | [`mod@load`] | lines made ready |
//! | [`credential_cache`] | opened credentials: derived in parallel or left to others, kept while unchanged |
//! | [`sealed`] | lines whose passwords are still to be decrypted, in their order |
//! | [`changes`] | what is other than before, line by line |
//! | [`registration`] | when each line registers, and its state |
//! | [`register_pace`] | how fast REGISTERs go to one registrar |
//! | [`register_queue`] | whose turn it is to register |
//! | [`words`] | a failed registration in plain words |
//!
//! The way of a line: [`file::read`] -> [`load::load`] -> [`ReadyLine`], which the
//! bridge turns into an account of the SIP engine and adds to the [`Scheduler`].

pub mod changes;
pub mod credential_cache;
pub mod credentials;
pub mod entry;
pub mod file;
pub mod line;
pub mod load;
pub mod register_pace;
pub mod register_queue;
pub mod registration;
pub mod resolve;
pub mod row;
pub mod sealed;
pub mod server;
pub mod words;

pub use changes::{Changes, compare};
pub use credential_cache::CredentialCache;
pub use credentials::CredentialError;
pub use file::{FileError, FileIssue, LinesFile};
pub use line::PhoneLine;
pub use load::{
    FLAGS_LINE_ID, LineWarning, LoadedLines, ReadyLine, UnusableLine, UnusableReason, load,
    load_with, open_servers,
};
pub use registration::{Change, LineCounts, LineState, LineStatus, RegisterResult, Scheduler};
pub use resolve::{Route, ServerError, ServerProblem, ServerRule, SipServer, SipServers};
pub use row::Row;
pub use sealed::{SealedLine, SealedLines};

pub use crate::core::key::{KeyError, MasterKey};
