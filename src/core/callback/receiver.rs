//! Where one call's status callbacks go, and in which form.

use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::{CallEnd, CallbackEvent, Method};
use crate::core::call_object::{CallDirection, CallObject, CallStatus};
use crate::core::outward::WrittenBy;
use crate::core::timestamp::rfc2822;
use crate::core::twiml::document::{StatusCallback, Webhook};
use crate::core::voice::webhook::{
    FormFields, StatusChange, VoiceFacts, status_fields, twilio_status,
};

/// The field of a body that holds Twilio's form of it.
pub(super) const TWILIO: &str = "twilio";

/// A receiver of one call, in the place of the one for all calls.
#[derive(Clone, Debug)]
pub enum CallbackReceiver {
    /// `callbackUrl`: gets the call object.
    Own(String),
    /// Twilio's `StatusCallback`: gets a form of Twilio's fields, of the events that it wants.
    Twilio(Box<TwilioReceiver>),
}

/// Twilio's `StatusCallback`, and what all its requests say of the call.
#[derive(Clone, Debug)]
pub struct TwilioReceiver {
    /// Where, how and of what.
    pub callback: StatusCallback,
    /// The call.
    pub facts: VoiceFacts,
}

impl CallbackReceiver {
    /// Its address.
    #[must_use]
    pub fn url(&self) -> &str {
        match self {
            Self::Own(url) => url,
            Self::Twilio(twilio) => twilio.callback.webhook.url.expose(),
        }
    }

    /// Whether it is to be told of this.
    #[must_use]
    pub fn wants(&self, event: CallbackEvent) -> bool {
        match self {
            Self::Own(_) => true,
            Self::Twilio(twilio) => twilio.callback.events.contains(&event),
        }
    }
}

impl TwilioReceiver {
    /// What is kept and sent beside the call object.
    pub(super) fn form(&self, call: &CallObject, sequence: u32, now: SystemTime) -> Value {
        let state = &call.state;
        let until = state.ended.unwrap_or(now);
        let talked = state.answered.and_then(|at| until.duration_since(at).ok());
        let change = StatusChange {
            status: state.status,
            sequence,
            at: now,
            talked: talked.unwrap_or_default(),
            sip_status: Some(state.sip_status).filter(|status| *status > 0),
        };
        let mut facts = self.facts.clone();
        facts.answered_by = state.answered_by;
        form_of(&self.callback.webhook, &status_fields(&facts, &change))
    }
}

/// A form as a body holds it.
pub(super) fn form_of(webhook: &Webhook, fields: &FormFields) -> Value {
    json!({
        "method": webhook.method.as_str(),
        "own": webhook.written_by == WrittenBy::Operator,
        "fields": fields.pairs(),
    })
}

/// One callback in Twilio's form.
#[derive(Debug, PartialEq, Eq)]
pub struct TwilioForm {
    /// How it is sent.
    pub method: Method,
    /// Who wrote its address.
    pub written_by: WrittenBy,
    /// What is sent.
    pub fields: FormFields,
}

impl TwilioForm {
    /// The form in a body; `None` for one that is sent as it is.
    #[must_use]
    pub fn of(body: &str) -> Option<Self> {
        let body: Map<String, Value> = serde_json::from_str(body).ok()?;
        let form = body.get(TWILIO)?;
        let pairs: Vec<(String, String)> = serde_json::from_value(form["fields"].clone()).ok()?;
        let mut fields = FormFields::default();
        for (name, value) in pairs {
            fields.push(name, value);
        }
        Some(Self {
            method: match form["method"].as_str() {
                Some("GET") => Method::Get,
                _ => Method::Post,
            },
            written_by: match form["own"].as_bool() {
                Some(true) => WrittenBy::Operator,
                _ => WrittenBy::Client,
            },
            fields,
        })
    }
}

/// Writes into a form how the call ended: its last callback is made by the next start of its bridge.
pub(super) fn write_end(
    form: &mut Value,
    status: CallStatus,
    sequence: u32,
    talked_s: u64,
    end: &CallEnd,
) {
    let Some(fields) = form["fields"].as_array_mut() else {
        return;
    };
    let mut told = vec![
        // The names of what is over are the same for both directions.
        (
            "CallStatus",
            twilio_status(status, CallDirection::Inbound).to_owned(),
        ),
        ("SequenceNumber", sequence.to_string()),
        ("Timestamp", rfc2822(end.ended)),
        ("CallDuration", talked_s.to_string()),
    ];
    if end.sip_status > 0 {
        told.push(("SipResponseCode", end.sip_status.to_string()));
    }
    fields.retain(|pair| told.iter().all(|(name, _)| pair[0] != *name));
    fields.extend(told.into_iter().map(|(name, value)| json!([name, value])));
}
