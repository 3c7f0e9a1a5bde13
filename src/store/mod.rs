//! The database: phone lines, SIP servers, settings, agents and a record per call, in
//! SQLite (one bridge) or PostgreSQL (several).
//!
//! | file | what it holds |
//! |---|---|
//! | [`connection`] | opening it: created and migrated by itself |
//! | `claim` | one bridge for an SQLite file |
//! | [`migrations`] | the SQL that is checked in, and how it is run |
//! | [`table`] | rows whose column types are not known beforehand |
//! | [`lines`] | lines, servers, the fallback server |
//! | [`import`] | the lines of a file written into it |
//! | [`changes`] | noticing that lines or servers are other than before |
//! | [`calls`] | the record of a call, and pages of them |
//! | [`call_search`] | records from the newest to the oldest; deleting one |
//! | [`call_log`] | writes records without ever holding up a call |
//! | [`retention`] | deleting records that are older than wanted |
//! | [`callbacks`] | callbacks that are not delivered yet |
//! | `agents` | the agents of tenants |
//! | [`error`] | what can go wrong, without secrets |
//!
//! `phone_lines` belongs to another program in production: its columns are
//! read as text whatever their type, written by a cast to it, and never
//! changed. Passwords stay as they are stored; opening them is the business
//! of the room `lines`.

mod agents;
pub mod call_log;
pub mod call_search;
pub mod callbacks;
pub mod calls;
pub mod changes;
mod claim;
pub mod connection;
pub mod error;
pub mod import;
pub mod lines;
pub mod migrations;
pub mod retention;
pub mod table;

pub use call_log::{CallLog, CallLogStats};
pub use call_search::CallSearch;
pub use calls::{AudioStats, CallPage, CallQuery, CallRecord};
pub use changes::{DatabaseMark, Listener, Snapshot};
pub use connection::{Location, Store};
pub use error::StoreError;
pub use import::{Imported, RefusedRow};
pub use lines::{Begun, Removal};
