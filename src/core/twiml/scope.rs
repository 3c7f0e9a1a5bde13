//! What all verbs share while a document is read: its address, its warnings, and where an element stands.

use roxmltree::Node;

use super::WARNINGS_MAX;
use super::document::{HttpMethod, Webhook};
use super::error::{ElementName, Position, TwimlError, TwimlWarning, WarningKind};
use super::voice_url::VoiceUrl;
use crate::core::outward::WrittenBy;

/// One document that is being read.
pub(super) struct Scope<'a> {
    xml: &'a roxmltree::Document<'a>,
    /// Where the document comes from.
    pub(super) address: Option<&'a VoiceUrl>,
    /// Who wrote that address, and so all that the document names.
    pub(super) written_by: WrittenBy,
    warnings: Vec<TwimlWarning>,
    left_out: usize,
}

impl<'a> Scope<'a> {
    pub(super) const fn new(
        xml: &'a roxmltree::Document<'a>,
        address: Option<&'a VoiceUrl>,
        written_by: WrittenBy,
    ) -> Self {
        Self {
            xml,
            address,
            written_by,
            warnings: Vec::new(),
            left_out: 0,
        }
    }

    /// The warnings, at most [`WARNINGS_MAX`] and one that counts the others.
    pub(super) fn into_warnings(mut self) -> Vec<TwimlWarning> {
        let last = self.warnings.last().map(|warning| warning.at);
        if let (Some(at), 1..) = (last, self.left_out) {
            let kind = WarningKind::More(self.left_out);
            self.warnings.push(TwimlWarning { at, kind });
        }
        self.warnings
    }

    pub(super) fn position(&self, node: Node<'_, '_>) -> Position {
        position(self.xml, node.range().start)
    }

    /// Notes what is left out of a node; past the limit it is counted alone.
    pub(super) fn warn(&mut self, node: Node<'_, '_>, kind: WarningKind) {
        if self.warnings.len() < WARNINGS_MAX {
            let at = self.position(node);
            self.warnings.push(TwimlWarning { at, kind });
        } else {
            self.left_out += 1;
        }
    }

    /// Notes something about an element, as the rest of a sentence that begins with it.
    pub(super) fn note(&mut self, node: Node<'_, '_>, what: &'static str) {
        let element = name_of(node);
        self.warn(node, WarningKind::Note { element, what });
    }

    /// An element that is none of `known` is left out.
    ///
    /// # Errors
    /// When it is one of them but for its capitals: Twilio refuses such a document.
    pub(super) fn leave_out(
        &mut self,
        node: Node<'_, '_>,
        known: &[&'static str],
    ) -> Result<(), TwimlError> {
        let name = node.tag_name().name();
        let meant = known.iter().find(|known| known.eq_ignore_ascii_case(name));
        if let Some(expected) = meant {
            return Err(TwimlError::WrongCase {
                at: self.position(node),
                name: name_of(node),
                expected,
            });
        }
        self.warn(node, WarningKind::Element(name_of(node)));
        Ok(())
    }

    /// An address of this document that is asked.
    pub(super) const fn webhook(&self, url: VoiceUrl, method: HttpMethod) -> Webhook {
        Webhook {
            url,
            method,
            written_by: self.written_by,
        }
    }

    /// The refusal of an address that the call cannot go on without.
    pub(super) fn bad_address(
        &self,
        node: Node<'_, '_>,
        element: &'static str,
        what: &'static str,
    ) -> TwimlError {
        TwimlError::Address {
            at: self.position(node),
            element,
            what,
        }
    }
}

/// Where a byte of a document stands.
pub(super) fn position(xml: &roxmltree::Document<'_>, at_byte: usize) -> Position {
    let at = xml.text_pos_at(at_byte);
    Position {
        line: at.row,
        column: at.col,
    }
}

pub(super) fn name_of(node: Node<'_, '_>) -> ElementName {
    ElementName::new(node.tag_name().name())
}

/// The elements right below one.
pub(super) fn elements<'a, 'input>(
    node: Node<'a, 'input>,
) -> impl Iterator<Item = Node<'a, 'input>> {
    node.children().filter(Node::is_element)
}

/// The text right within an element, trimmed: not that of elements within it.
pub(super) fn own_text(node: Node<'_, '_>) -> String {
    let texts = node.children().filter(Node::is_text);
    let text: String = texts.filter_map(|text| text.text()).collect();
    text.trim().to_owned()
}
