//! Bytes to a [`Document`].

use roxmltree::{Error, Node, ParsingOptions};

use super::document::Document;
use super::error::{ElementName, Position, TwimlError};
use super::scope::{Scope, name_of, position};
use super::voice_url::VoiceUrl;
use super::{DEPTH_MAX, DOCUMENT_BYTES_MAX, NODES_MAX, verbs};
use crate::core::outward::WrittenBy;

/// Longest reason that is shown, in characters: it may hold names of the document.
const REASON_CHARS_MAX: usize = 200;
/// Most attributes of a document.
const ATTRIBUTES_MAX: usize = 2_048;
/// Most namespaces of a document; TwiML needs none.
const NAMESPACES_MAX: usize = 16;

/// Reads a document that was fetched from `address`, after redirects; `None` where it came with a request.
/// Relative addresses in it are resolved against that, and `written_by` is who wrote it: the addresses in the
/// document are of the same origin.
///
/// # Errors
/// When it is no TwiML, or names an address that the call cannot go on without and that cannot be used. What is not
/// served is no error but a warning of the document.
pub fn parse(
    body: &[u8],
    address: Option<&VoiceUrl>,
    written_by: WrittenBy,
) -> Result<Document, TwimlError> {
    if body.len() > DOCUMENT_BYTES_MAX {
        return Err(TwimlError::TooLong);
    }
    let text = std::str::from_utf8(body).map_err(|error| TwimlError::NotUtf8 {
        at_byte: error.valid_up_to(),
    })?;
    check_cost(text)?;
    let options = ParsingOptions {
        allow_dtd: false,
        nodes_limit: NODES_MAX,
        ..ParsingOptions::default()
    };
    let xml = roxmltree::Document::parse_with_options(text, options)
        .map_err(|error| malformed(text, &error))?;
    let root = xml.root_element();
    check_depth(&xml)?;
    if root.tag_name().name() != "Response" {
        return Err(TwimlError::NoResponse {
            at: position(&xml, root.range().start),
            name: name_of(root),
        });
    }
    let mut scope = Scope::new(&xml, address, written_by);
    let verbs = verbs::read_all(&mut scope, root)?;
    Ok(Document {
        verbs,
        warnings: scope.into_warnings(),
    })
}

/// What the XML parser takes a long time for. It compares each attribute with all others of its element, and carries
/// namespaces over to all elements within: some thousand of those in each other take seconds.
fn check_cost(text: &str) -> Result<(), TwimlError> {
    // They count within texts and addresses too; real documents have some dozens of signs of equality.
    for (sign, limit, what) in [
        ("=", ATTRIBUTES_MAX, "attributes"),
        ("xmlns", NAMESPACES_MAX, "namespaces"),
    ] {
        if let Some((at_byte, _)) = text.match_indices(sign).nth(limit) {
            return Err(TwimlError::Malformed {
                at: position_of(text, at_byte),
                reason: format!("more than {limit} {what}"),
            });
        }
    }
    Ok(())
}

fn check_depth(xml: &roxmltree::Document<'_>) -> Result<(), TwimlError> {
    let is_too_deep =
        |node: &Node<'_, '_>| node.is_element() && node.ancestors().nth(DEPTH_MAX + 1).is_some();
    match xml.descendants().find(is_too_deep) {
        None => Ok(()),
        Some(node) => Err(TwimlError::TooDeep {
            at: position(xml, node.range().start),
        }),
    }
}

fn malformed(text: &str, error: &Error) -> TwimlError {
    let reported = error.pos();
    let at = match error {
        Error::DtdDetected => position_of(text, text.find("<!DOCTYPE").unwrap_or_default()),
        // They are noticed at the end, and reported at the beginning.
        Error::NoRootNode
        | Error::UnclosedRootNode
        | Error::UnexpectedEndOfStream
        | Error::NodesLimitReached => position_of(text, text.len()),
        _ => Position {
            line: reported.row,
            column: reported.col,
        },
    };
    let reason = match error {
        Error::DtdDetected => "it has a DOCTYPE; TwiML has none".to_owned(),
        Error::NoRootNode => "there is no element; it must be <Response>".to_owned(),
        Error::NodesLimitReached => format!("more than {NODES_MAX} elements and texts"),
        Error::UnexpectedDeclaration(_) => "<?xml must be the very beginning".to_owned(),
        Error::UnknownEntityReference(name, _) => {
            let name = ElementName::new(name);
            format!("the entity &{name}; is not known; only amp, lt, gt, quot and apos are")
        }
        // Where it is stands in front.
        _ => error
            .to_string()
            .replacen(&format!(" at {reported}"), "", 1),
    };
    TwimlError::Malformed {
        at,
        reason: one_line(&reason),
    }
}

/// A reason without what steers a terminal, cut where it is long.
fn one_line(reason: &str) -> String {
    let cut: String = reason.chars().take(REASON_CHARS_MAX).collect();
    crate::core::printable::OneLine(&cut).to_string()
}

/// Where a byte stands in a text that could not be read as a document.
fn position_of(text: &str, at_byte: usize) -> Position {
    let before = text.get(..at_byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    Position {
        line: count(before.matches('\n').count() + 1),
        column: count(before[line_start..].chars().count() + 1),
    }
}
