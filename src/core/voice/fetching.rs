//! Documents: how they come, and what is done where there is none.

use std::time::Instant;

use super::terms::{CommandId, FetchFailure, FetchRequest, VoiceCommand, VoiceRole, VoiceWarning};
use super::webhook::FormFields;
use super::{FETCH_LIMIT, FETCHES_IN_ROW_MAX, LEADS_ON_AT_ONCE, State, VoiceCall};
use crate::core::twiml::document::Webhook;
use crate::core::twiml::{Document, WARNINGS_MAX};

/// A webhook that was asked.
#[derive(Debug)]
pub(super) struct Fetching {
    id: CommandId,
    webhook: Webhook,
    is_fallback: bool,
}

impl VoiceCall {
    /// A webhook's answer.
    pub fn handle_fetched(
        &mut self,
        now: Instant,
        id: CommandId,
        answer: Result<Document, FetchFailure>,
    ) {
        let fetching = match std::mem::take(&mut self.state) {
            State::Fetching(fetching) if fetching.id == id => fetching,
            other => {
                self.state = other;
                return;
            }
        };
        self.deadline = None;
        match answer {
            Ok(document) => self.take_document(now, document),
            Err(failure) => self.fetch_failed(now, fetching, failure),
        }
    }

    /// Asks a webhook what to do; nothing more of the present document is done.
    pub(super) fn fetch(&mut self, now: Instant, webhook: Webhook, fields: FormFields) {
        self.ask(now, webhook, fields, false);
    }

    fn ask(&mut self, now: Instant, webhook: Webhook, fields: FormFields, is_fallback: bool) {
        self.verbs.clear();
        let has_lasted = self
            .document_since
            .is_some_and(|since| now.saturating_duration_since(since) >= LEADS_ON_AT_ONCE);
        // A webhook that takes its time does not make a loop of documents slower for the caller.
        self.document_since = None;
        let has_happened = std::mem::take(&mut self.has_happened);
        self.fetches_in_row = if has_lasted || has_happened {
            1
        } else {
            self.fetches_in_row + 1
        };
        if self.fetches_in_row > FETCHES_IN_ROW_MAX {
            self.push(VoiceCommand::Warn(VoiceWarning::TooManyFetches));
            return self.fall_back();
        }
        let id = self.next_id();
        let request = FetchRequest {
            webhook: webhook.clone(),
            fields,
        };
        self.push(VoiceCommand::Fetch { id, request });
        self.deadline = Some(now + FETCH_LIMIT);
        self.state = State::Fetching(Fetching {
            id,
            webhook,
            is_fallback,
        });
    }

    /// There is no document: the fallback URL is asked, once; then the ladder takes the call.
    pub(super) fn fetch_failed(&mut self, now: Instant, from: Fetching, failure: FetchFailure) {
        let fallback = self.policy.fallback.clone().filter(|_| !from.is_fallback);
        let code = failure.code();
        self.push(VoiceCommand::Warn(VoiceWarning::FetchFailed {
            url: from.webhook.url.clone(),
            failure,
            has_fallback: fallback.is_some(),
        }));
        let Some(fallback) = fallback else {
            return self.fall_back();
        };
        let mut fields = FormFields::default();
        fields.push("ErrorCode", code.to_string());
        fields.push("ErrorUrl", from.webhook.url.without_login());
        self.ask(now, fallback, fields, true);
    }

    /// Does what a document says.
    pub(super) fn take_document(&mut self, now: Instant, document: Document) {
        let warnings = document.warnings.into_iter().map(VoiceWarning::Document);
        self.commands.extend(warnings.map(VoiceCommand::Warn));
        self.warnings_left = WARNINGS_MAX;
        self.document_since = Some(now);
        self.verbs = document.verbs.into();
        self.run(now);
    }

    /// The line's ladder takes the call. A dialled leg has none: it is joined without its document.
    pub(super) fn fall_back(&mut self) {
        self.end_with(match self.policy.role {
            VoiceRole::DialledLeg => VoiceCommand::Finished,
            VoiceRole::Inbound | VoiceRole::Outbound => VoiceCommand::FallBack,
        });
    }
}

/// Whether an answer of this `Content-Type` may be TwiML: any XML, and text/html, which samples in Python send; so may one
/// without any.
#[must_use]
pub fn is_twiml_content_type(content_type: Option<&str>) -> bool {
    let Some(content_type) = content_type else {
        return true;
    };
    let essence = content_type.split(';').next().unwrap_or_default().trim();
    let essence = essence.to_ascii_lowercase();
    matches!(
        essence.as_str(),
        "" | "text/xml" | "application/xml" | "text/html"
    ) || essence.ends_with("+xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_xml_and_html_may_be_twiml() {
        for (content_type, may_be) in [
            ("text/xml", true),
            ("application/xml; charset=utf-8", true),
            ("Application/TwiML+XML", true),
            ("text/html; charset=utf-8", true),
            ("", true),
            ("application/json", false),
            ("text/plain", false),
            ("audio/mpeg", false),
            ("text/xmlish", false),
        ] {
            assert_eq!(
                is_twiml_content_type(Some(content_type)),
                may_be,
                "{content_type}"
            );
        }
        assert!(is_twiml_content_type(None));
    }
}
