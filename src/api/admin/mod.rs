//! `/api/admin/telephony`: SIP servers, phone lines, the fallback server. All
//! of it is in the database; the bridge takes up a change by itself, and at
//! once when it came through here.
//!
//! | file | what it holds |
//! |---|---|
//! | [`servers`] | `sip-servers` |
//! | [`lines`] | `phone-lines` |
//! | `line_changes` | a change of a line, by whichever door it comes |
//! | [`line_body`] | a phone line as JSON, with what became of it |
//! | [`register`] | `phone-lines/{id}/register` |
//! | [`fallback`] | `fallback` |
//! | [`cluster`] | `/api/admin/cluster/nodes`: the bridges that share lines |
//! | [`password`] | passwords on their way into the database |

pub mod cluster;
pub mod fallback;
pub mod line_body;
pub(super) mod line_changes;
pub mod lines;
pub mod password;
pub mod register;
pub mod servers;
