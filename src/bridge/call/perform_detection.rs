//! Who has answered a call that we placed: when TwiML begins with it, and who is told.

use std::time::Instant;

use tracing::info;

use super::super::voice_detection::Verdict;
use super::Driver;
use crate::core::callback::WebhookEvent;
use crate::core::voice::VoiceRole;
use crate::core::voice::webhook::detection_fields;

impl Driver {
    /// The callee has answered: TwiML begins, unless it waits until it is known who that is.
    pub(super) fn begin_answered(&mut self, now: Instant) {
        let parts = &mut self.parts;
        if !parts.voice.detection.begin(&parts.media) {
            parts.voice.begin(now, VoiceRole::Outbound);
        }
    }

    /// It is known. TwiML that has got other instructions meanwhile goes on with those.
    pub(super) fn detected(&mut self, now: Instant, verdict: Verdict) {
        let Verdict {
            answered_by,
            after,
            callback,
            is_awaited,
        } = verdict;
        let after_ms = after.as_millis();
        info!(answered_by = answered_by.as_str(), after_ms, "detection");
        let parts = &mut self.parts;
        parts.voice.detection.end(&parts.media);
        parts.voice.facts.answered_by = Some(answered_by);
        parts.publisher.answered_by(answered_by);
        if let Some(webhook) = callback {
            let fields = detection_fields(&parts.voice.facts, answered_by, after);
            let call = parts.voice.facts.call.clone();
            let event = WebhookEvent::machine_detection(call, &webhook, &fields);
            parts.publisher.tell(event);
        }
        let is_idle = parts.voice.call.is_none() && self.call.is_scripted();
        if is_awaited && is_idle && !self.call.is_ending() {
            self.parts.voice.begin(now, VoiceRole::Outbound);
        }
    }
}
