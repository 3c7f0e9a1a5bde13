//! TwiML: what a voice webhook or the REST API says is to be done with a call,
//! read into typed verbs ([`crate::core::voice`] runs them).
//!
//! The verbs are those of <https://www.twilio.com/docs/voice/twiml> that this bridge serves, with Twilio's
//! defaults. What is not served is left out, and named in [`Document::warnings`]; only what cannot be
//! read, or an address that cannot be used, refuses a document as a whole.
//!
//! | file | what it holds |
//! |---|---|
//! | [`document`] | the typed verbs |
//! | [`parse`](mod@parse) | bytes to [`Document`], bounded, never panics |
//! | `scope`, `attributes` | what all verbs share while they are read: warnings, addresses, attributes with their defaults |
//! | `verbs`, `dial`, `media_stream` | the verbs one by one, `<Dial>` with its nouns, `<Stream>` |
//! | [`dial_string`] | digits to be sent, with pauses |
//! | [`voice_url`] | addresses in documents and of them |
//! | [`error`] | why a document is refused, and what of it was left out |

mod attributes;
mod dial;
pub mod dial_string;
pub mod document;
pub mod error;
mod media_stream;
pub mod parse;
mod scope;
mod verbs;
pub mod voice_url;

#[cfg(test)]
mod parse_properties_tests;
#[cfg(test)]
mod parse_refusals_tests;
#[cfg(test)]
mod parse_tests;

pub use document::{Document, Verb};
pub use error::{TwimlError, TwimlWarning};
pub use parse::parse;
pub use voice_url::VoiceUrl;

/// Largest document, in bytes (Twilio's limit).
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024;
/// Most elements, texts and comments of a document together.
pub const NODES_MAX: u32 = 4_096;
/// Deepest nesting of elements. `<Response><Gather><Say>` with SSML in it has about six.
pub const DEPTH_MAX: usize = 32;
/// Most warnings that are kept of one document.
pub const WARNINGS_MAX: usize = 16;
/// Most characters that one `<Say>` speaks (Twilio's limit).
pub const SAY_CHARS_MAX: usize = 4_096;
/// Most rounds of `<Say>` and `<Play>` where `loop` is not 0 (Twilio's limit).
pub const LOOP_MAX: u32 = 1_000;
/// Most digits that one `<Gather>` takes.
pub const GATHER_DIGITS_MAX: u32 = 128;
/// Most numbers and SIP addresses that one `<Dial>` rings together (Twilio's limit).
pub const DIAL_TARGETS_MAX: usize = 10;
/// Most `<Parameter>` of one `<Stream>`.
pub const PARAMETERS_MAX: usize = 64;
