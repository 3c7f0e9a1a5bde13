//! Twilio's REST API as bots use it, under `/2010-04-01/Accounts/{AccountSid}`:
//! the calls and lines of this bridge in Twilio's form. One more door to what
//! `/api/calls` does; it decides nothing by itself.
//!
//! On with `--auth-token`, which is what a bot has as `TWILIO_AUTH_TOKEN`.
//!
//! | file | what it holds |
//! |---|---|
//! | [`account`] | who is let in: `AccountSid:AuthToken`, by Basic |
//! | [`error`] | what is answered otherwise: Twilio's codes |
//! | `form` | a form in a body or a query |
//! | [`call`] | a call in Twilio's form |
//! | [`calls`] | `/Calls` |
//! | `call_update` | what `POST /Calls/{CallSid}.json` takes |
//! | `filter` | which calls a list has |
//! | `new_call`, `call_options` | what `POST /Calls.json` takes: read and judged, with Twilio's codes |
//! | [`numbers`] | `/IncomingPhoneNumbers`: the lines |
//! | `number_update` | what `POST /IncomingPhoneNumbers/{PhoneNumberSid}.json` takes |
//! | [`page`] | pages of a list |
//!
//! Leaves out answering-machine detection, recordings and messages:
//! refused by name, with code 20404 or 21218.

pub mod account;
pub mod call;
mod call_options;
mod call_update;
pub mod calls;
pub mod error;
mod filter;
mod form;
mod new_call;
mod number_update;
pub mod numbers;
pub mod page;

use super::problem::{Problem, ProblemKind};
use crate::core::voice::webhook::API_VERSION;

pub use account::Account;
pub(super) use account::guard;
pub(super) use error::in_twilios_form;

/// What all its paths begin with.
pub(super) const PREFIX: &str = "/2010-04-01/";
/// The answer to what this API leaves out.
pub(super) fn not_served() -> Problem {
    let text = "not served here: of Twilio's API there are Calls.json, Calls/{CallSid}.json and \
         IncomingPhoneNumbers.json";
    Problem::new(ProblemKind::NOT_FOUND, text)
}

/// Whether a path is one of Twilio's API.
pub(super) fn is_twilios(path: &str) -> bool {
    path.starts_with(PREFIX)
}
