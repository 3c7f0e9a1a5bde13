//! The attributes of one element: each is asked for once, with its default, and those that nobody asked for are
//! warned of.

use std::ops::RangeInclusive;
use std::time::Duration;

use roxmltree::Node;

use super::LOOP_MAX;
use super::document::{HttpMethod, Repeat, StatusCallback, Webhook};
use super::error::{ElementName, TwimlError, WarningKind};
use super::scope::{Scope, name_of};
use super::voice_url::VoiceUrl;
use crate::core::callback::CallbackEvent;
use crate::core::printable::is_harmless;

/// Longest attribute that is a name or a code, in bytes.
const NAME_BYTES_MAX: usize = 256;

/// The attributes of one element, while they are read.
pub(super) struct Attributes<'a, 'input> {
    node: Node<'a, 'input>,
    /// The element's name, as this program writes it.
    element: &'static str,
    asked: Vec<&'static str>,
}

impl<'a, 'input> Attributes<'a, 'input> {
    pub(super) fn of(node: Node<'a, 'input>, element: &'static str) -> Self {
        Self {
            node,
            element,
            asked: Vec::with_capacity(8),
        }
    }

    /// The value of an attribute, as it is written.
    pub(super) fn text(&mut self, name: &'static str) -> Option<&'a str> {
        self.asked.push(name);
        self.node.attribute(name)
    }

    /// A name or a code: one line of at most [`NAME_BYTES_MAX`].
    pub(super) fn name(&mut self, scope: &mut Scope<'_>, name: &'static str) -> Option<String> {
        let text = self.text(name)?.trim();
        let is_served = text.len() <= NAME_BYTES_MAX && text.chars().all(is_harmless);
        if !is_served {
            self.warn_of_value(scope, name);
        }
        (is_served && !text.is_empty()).then(|| text.to_owned())
    }

    /// A whole number; beyond the range its nearer end.
    pub(super) fn number(
        &mut self,
        scope: &mut Scope<'_>,
        name: &'static str,
        range: RangeInclusive<u32>,
    ) -> Option<u32> {
        let text = self.text(name)?.trim();
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number {
            self.warn_of_value(scope, name);
            return None;
        }
        // More digits than a number holds are more than any range.
        let given = text.parse().unwrap_or(u32::MAX);
        let served = given.clamp(*range.start(), *range.end());
        if served != given {
            self.warn_of_value(scope, name);
        }
        Some(served)
    }

    /// Whole seconds.
    pub(super) fn seconds(
        &mut self,
        scope: &mut Scope<'_>,
        name: &'static str,
        range: RangeInclusive<u32>,
        default: u32,
    ) -> Duration {
        let seconds = self.number(scope, name, range).unwrap_or(default);
        Duration::from_secs(seconds.into())
    }

    /// `loop`: once by default, and without end where it is 0.
    pub(super) fn repeat(&mut self, scope: &mut Scope<'_>) -> Repeat {
        match self.number(scope, "loop", 0..=LOOP_MAX) {
            Some(0) => Repeat::Forever,
            Some(times) => Repeat::Times(times),
            None => Repeat::Times(1),
        }
    }

    /// One of several words, in whatever capitals; another one is warned of.
    pub(super) fn choice<T: Copy>(
        &mut self,
        scope: &mut Scope<'_>,
        name: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        let text = self.text(name)?.trim();
        let chosen = choices
            .iter()
            .find(|(word, _)| word.eq_ignore_ascii_case(text));
        if chosen.is_none() {
            self.warn_of_value(scope, name);
        }
        chosen.map(|(_, value)| *value)
    }

    /// `true` or `false`; false by default.
    pub(super) fn flag(&mut self, scope: &mut Scope<'_>, name: &'static str) -> bool {
        let words = [("true", true), ("false", false)];
        self.choice(scope, name, &words).unwrap_or(false)
    }

    /// `GET` or `POST`; POST by default.
    pub(super) fn method(&mut self, scope: &mut Scope<'_>, name: &'static str) -> HttpMethod {
        let words = [("POST", HttpMethod::Post), ("GET", HttpMethod::Get)];
        self.choice(scope, name, &words).unwrap_or_default()
    }

    /// An address that is asked what to do next, with `method`; the default where there is none. An empty one is the
    /// document's own.
    ///
    /// # Errors
    /// When it cannot be used: the call would not know how to go on.
    pub(super) fn webhook(
        &mut self,
        scope: &mut Scope<'_>,
        name: &'static str,
        default: Option<VoiceUrl>,
    ) -> Result<Option<Webhook>, TwimlError> {
        let method = self.method(scope, "method");
        let url = match self.text(name) {
            None => default,
            Some(text) => {
                let url = VoiceUrl::resolve_http(scope.address, text);
                Some(url.ok_or_else(|| scope.bad_address(self.node, self.element, name))?)
            }
        };
        Ok(url.map(|url| scope.webhook(url, method)))
    }

    /// `statusCallback` with its method and, where the element has them, its events. One that cannot be used is
    /// left out: the call goes on without.
    pub(super) fn status_callback(
        &mut self,
        scope: &mut Scope<'_>,
        events: Vec<CallbackEvent>,
    ) -> Option<StatusCallback> {
        let method = self.method(scope, "statusCallbackMethod");
        let text = self
            .text("statusCallback")
            .filter(|text| !text.trim().is_empty())?;
        let Some(url) = VoiceUrl::resolve_http(scope.address, text) else {
            self.warn_of_value(scope, "statusCallback");
            return None;
        };
        let webhook = scope.webhook(url, method);
        Some(StatusCallback { webhook, events })
    }

    /// `statusCallbackEvent`: names with blanks between them; the end alone by default.
    pub(super) fn status_events(&mut self, scope: &mut Scope<'_>) -> Vec<CallbackEvent> {
        let Some(text) = self.text("statusCallbackEvent") else {
            return vec![CallbackEvent::Completed];
        };
        let mut events = Vec::new();
        for word in text.split_ascii_whitespace() {
            match CallbackEvent::parse(word) {
                Some(event) if !events.contains(&event) => events.push(event),
                Some(_) => {}
                None => self.warn_of_value(scope, "statusCallbackEvent"),
            }
        }
        events
    }

    /// Warns that the value of an attribute is not served.
    pub(super) fn warn_of_value(&self, scope: &mut Scope<'_>, name: &'static str) {
        let element = name_of(self.node);
        scope.warn(self.node, WarningKind::Value { element, name });
    }

    /// Warns of the attributes that nobody asked for.
    pub(super) fn finish(self, scope: &mut Scope<'_>) {
        for attribute in self.node.attributes() {
            let is_known =
                attribute.namespace().is_none() && self.asked.contains(&attribute.name());
            if !is_known {
                let element = name_of(self.node);
                let name = ElementName::new(attribute.name());
                scope.warn(self.node, WarningKind::Attribute { element, name });
            }
        }
    }
}
