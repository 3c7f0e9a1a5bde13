//! Why a document is refused, and what of it was left out.

use std::fmt;

use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX};
use crate::core::printable::OneLine;

/// Longest foreign name that is shown, in characters.
const SHOWN_CHARS_MAX: usize = 64;

/// A place in a document, both counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The character in it.
    pub column: u32,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}, column {}", self.line, self.column)
    }
}

/// Why a document is refused as a whole. Its text names elements and attributes, never what they hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TwimlError {
    /// Longer than [`DOCUMENT_BYTES_MAX`].
    #[error("the TwiML is longer than {DOCUMENT_BYTES_MAX} bytes")]
    TooLong,
    /// Not UTF-8.
    #[error("the TwiML is not UTF-8: byte {at_byte} begins no character; answer in UTF-8")]
    NotUtf8 {
        /// The first such byte, from 0.
        at_byte: usize,
    },
    /// Not well-formed XML, or with a DOCTYPE, or of too many parts.
    #[error("the TwiML does not parse at {at}: {reason}")]
    Malformed {
        /// Where it stopped making sense.
        at: Position,
        /// What is wrong there.
        reason: String,
    },
    /// Elements within elements, too deep.
    #[error("the TwiML does not parse at {at}: elements are nested deeper than {DEPTH_MAX}")]
    TooDeep {
        /// The first element that is too deep.
        at: Position,
    },
    /// The root element is another one.
    #[error("the TwiML does not parse at {at}: the root is <{name}>, it must be <Response>")]
    NoResponse {
        /// Where the root begins.
        at: Position,
        /// Its name.
        name: ElementName,
    },
    /// A verb or noun that differs from a known one in capitals alone.
    #[error("the TwiML does not parse at {at}: <{name}> must be written <{expected}>")]
    WrongCase {
        /// Where the element begins.
        at: Position,
        /// As it is written.
        name: ElementName,
        /// As it must be written.
        expected: &'static str,
    },
    /// An address that the call cannot go on without is missing or cannot be used.
    #[error("the {what} of <{element}> at {at} is no address that can be used here")]
    Address {
        /// Where the element begins.
        at: Position,
        /// The element.
        element: &'static str,
        /// Which attribute, or its text.
        what: &'static str,
    },
}

impl TwimlError {
    /// Twilio's number for it, `ErrorCode` of a request to the fallback URL and `code` of the REST API.
    #[must_use]
    pub const fn code(&self) -> u16 {
        match self {
            Self::TooLong => 11_750,
            Self::Address { .. } => 11_100,
            _ => 12_100,
        }
    }
}

/// The name of an element or attribute as a document writes it: cut, and shown on one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ElementName(String);

impl ElementName {
    pub(super) fn new(name: &str) -> Self {
        Self(name.chars().take(SHOWN_CHARS_MAX).collect())
    }
}

impl fmt::Display for ElementName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        OneLine(&self.0).fmt(f)
    }
}

/// Something of a document that is not served, and was left out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TwimlWarning {
    /// Where.
    pub at: Position,
    /// What.
    pub kind: WarningKind,
}

/// What of a document is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WarningKind {
    /// An element that is left out.
    Element(ElementName),
    /// An attribute that is left out.
    Attribute {
        /// The element that has it.
        element: ElementName,
        /// Its name.
        name: ElementName,
    },
    /// The value of an attribute: its default is used, or the nearest that is served.
    Value {
        /// The element that has it.
        element: ElementName,
        /// The attribute.
        name: &'static str,
    },
    /// Another thing about an element.
    Note {
        /// The element.
        element: ElementName,
        /// What is done, as the rest of a sentence.
        what: &'static str,
    },
    /// There was more; this many warnings were left out.
    More(usize),
}

impl fmt::Display for TwimlWarning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = self.at;
        match &self.kind {
            WarningKind::Element(name) => write!(f, "<{name}> at {at} is not served"),
            WarningKind::Attribute { element, name } => {
                write!(
                    f,
                    "the attribute {name} of <{element}> at {at} is not served"
                )
            }
            WarningKind::Value { element, name } => {
                write!(
                    f,
                    "the value of {name} of <{element}> at {at} is not served, another is used"
                )
            }
            WarningKind::Note { element, what } => write!(f, "<{element}> at {at} {what}"),
            WarningKind::More(count) => write!(f, "{count} more things are not served"),
        }
    }
}
