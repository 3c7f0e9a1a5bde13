//! Callbacks: which events a call has, what is said of each, in which order
//! and how often delivery is tried, and what the answer to the incoming
//! callback means. Sending is the room `callbacks`.

pub mod answer;
pub mod outbox;
pub mod receiver;

pub use receiver::{CallbackReceiver, TwilioForm, TwilioReceiver};

use std::sync::Arc;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use receiver::TWILIO;

use super::call_object::{CallObject, CallStatus};
use super::ids::CallId;
use super::outcome::Outcome;
use super::private::Secret;
use super::timestamp::{parse_rfc3339_ms, rfc3339_ms};
use super::twiml::document::Webhook;
use super::voice::webhook::FormFields;

/// How a callback is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// The call object as a JSON body.
    Post,
    /// The call object as query parameters.
    Get,
}

/// What receivers are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallbackEvent {
    /// The INVITE is out, or in.
    Initiated,
    /// It rings.
    Ringing,
    /// The dialog stands.
    Answered,
    /// The call is over; the call object's `status` says how.
    Completed,
    /// It is known who answered: told to a receiver of its own, beside the others.
    MachineDetected,
}

impl CallbackEvent {
    /// What the receiver of a call's status may ask to be told of.
    const OF_STATUS: [Self; 4] = [
        Self::Initiated,
        Self::Ringing,
        Self::Answered,
        Self::Completed,
    ];

    /// The name in `event`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Initiated => "initiated",
            Self::Ringing => "ringing",
            Self::Answered => "answered",
            Self::Completed => "completed",
            Self::MachineDetected => "machine-detected",
        }
    }

    /// The event of that name, as receivers of a call's status ask for it.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::OF_STATUS
            .into_iter()
            .find(|event| event.as_str() == name)
    }

    /// The event of that name, as it was kept.
    #[must_use]
    pub fn parse_kept(name: &str) -> Option<Self> {
        let detected = Self::MachineDetected;
        Self::parse(name).or((name == detected.as_str()).then_some(detected))
    }
}

/// Which events a call has had.
#[derive(Clone, Copy, Debug, Default)]
pub struct CallbackProgress {
    last: Option<CallbackEvent>,
    count: u32,
}

impl CallbackProgress {
    /// The call has a new status: the event that this is, and its number from
    /// 0; `None` when receivers know as much already.
    pub fn advance(&mut self, status: CallStatus) -> Option<(CallbackEvent, u32)> {
        use CallbackEvent as E;
        let event = match status {
            CallStatus::Initiated => E::Initiated,
            CallStatus::Ringing => E::Ringing,
            CallStatus::Answered | CallStatus::Active => E::Answered,
            _ => E::Completed,
        };
        // A worker comes and goes: no event. What is over stays over.
        if self.last.is_some_and(|last| last as u8 >= event as u8) {
            return None;
        }
        self.last = Some(event);
        let number = self.count;
        self.count += 1;
        Some((event, number))
    }
}

/// The number of the callback that says who answered: it stands outside the count of the others.
const DETECTION_SEQUENCE: u32 = u32::MAX;

/// One callback to be delivered. `Debug` shows no number and no URL.
#[derive(Clone)]
pub struct WebhookEvent {
    /// The call.
    pub call: CallId,
    /// Which of its callbacks, from 0.
    pub sequence: u32,
    /// What happened.
    pub event: CallbackEvent,
    /// The call's own address; `None`: the one for all calls.
    pub url: Option<Secret>,
    /// What is sent: JSON. For a receiver of Twilio's form, that is in it: [`receiver::TwilioForm`].
    pub body: String,
}

impl WebhookEvent {
    /// The callback for an event.
    #[must_use]
    pub fn new(
        call: &CallObject,
        (event, sequence): (CallbackEvent, u32),
        receiver: Option<&CallbackReceiver>,
        now: SystemTime,
    ) -> Self {
        let mut body = event_body(call, event.as_str(), Some(sequence), now);
        if let Some(CallbackReceiver::Twilio(twilio)) = receiver {
            body[TWILIO] = twilio.form(call, sequence, now);
        }
        Self {
            call: call.facts.id.clone(),
            sequence,
            event,
            url: receiver.map(|receiver| Secret::new(receiver.url().to_owned())),
            body: body.to_string(),
        }
    }

    /// Who answered a call, for `AsyncAmdStatusCallback`: these fields.
    #[must_use]
    pub fn machine_detection(call: CallId, webhook: &Webhook, fields: &FormFields) -> Self {
        Self {
            call,
            sequence: DETECTION_SEQUENCE,
            event: CallbackEvent::MachineDetected,
            url: Some(Secret::new(webhook.url.expose().to_owned())),
            body: json!({ TWILIO: receiver::form_of(webhook, fields) }).to_string(),
        }
    }

    /// The last callback of a call, made by the next start of its bridge, from
    /// the last one that was kept of it; `None` when that cannot be read.
    #[must_use]
    pub fn at_end(before: &Self, end: &CallEnd) -> Option<Self> {
        let mut object: Map<String, Value> = serde_json::from_str(&before.body).ok()?;
        let told = object.get("answeredAt").and_then(Value::as_str);
        let answered = end.answered.or_else(|| told.and_then(parse_rfc3339_ms));
        let lasted = answered.and_then(|at| end.ended.duration_since(at).ok());
        let status = CallStatus::at_end(end.outcome, answered.is_some(), end.sip_status);
        let sip_status = Some(end.sip_status).filter(|status| *status > 0);
        let sequence = before.sequence + 1;
        let event = CallbackEvent::Completed;
        for (name, value) in [
            ("event", json!(event.as_str())),
            ("sequence", json!(sequence)),
            ("status", json!(status.as_str())),
            ("outcome", json!(end.outcome.as_str())),
            ("sipStatus", json!(sip_status)),
            ("onHold", json!(false)),
            ("answeredAt", json!(answered.map(rfc3339_ms))),
            ("endedAt", json!(rfc3339_ms(end.ended))),
            ("durationSec", json!(lasted.unwrap_or_default().as_secs())),
        ] {
            object.insert(name.into(), value);
        }
        if let Some(form) = object.get_mut(TWILIO) {
            let talked_s = lasted.unwrap_or_default().as_secs();
            receiver::write_end(form, status, sequence, talked_s, end);
        }
        Some(Self {
            sequence,
            event,
            body: Value::Object(object).to_string(),
            ..before.clone()
        })
    }
}

impl std::fmt::Debug for WebhookEvent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.call, self.event.as_str())
    }
}

/// One change of which callbacks are kept over a restart.
#[derive(Clone, Debug)]
pub enum CallChange {
    /// This callback is to be delivered. Should the bridge die now, the one
    /// after it is owed; after the last of its call, nothing is.
    Insert(Arc<WebhookEvent>),
    /// This callback is delivered or given up.
    Delete(CallId, u32),
    /// Nothing is owed of this call.
    Settle(CallId),
}

/// How a call ended, as its record says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CallEnd {
    /// When it was answered, where the record knows.
    pub answered: Option<SystemTime>,
    /// When it ended.
    pub ended: SystemTime,
    /// How it ended.
    pub outcome: Outcome,
    /// The SIP status that ended it; 0 when there was none.
    pub sip_status: u16,
}

impl CallEnd {
    /// Nothing is known but that its bridge died.
    #[must_use]
    pub const fn bridge_lost(now: SystemTime) -> Self {
        Self {
            answered: None,
            ended: now,
            outcome: Outcome::BridgeLost,
            sip_status: 0,
        }
    }
}

/// A call whose last callback was not kept: the bridge died with the call, or
/// just after its end.
#[derive(Clone, Debug)]
pub struct Owed {
    /// The last that was kept of it.
    pub last: WebhookEvent,
    /// How it ended, where there is a record of it.
    pub end: Option<CallEnd>,
}

/// What was kept.
#[derive(Debug, Default)]
pub struct Kept {
    /// Callbacks that were not delivered, in the order in which they were made.
    pub waiting: Vec<WebhookEvent>,
    /// Calls whose last callback is still to be made.
    pub owed: Vec<Owed>,
}

/// The call object with `event` and, where it is one of several, `sequence`.
#[must_use]
pub fn event_body(call: &CallObject, event: &str, sequence: Option<u32>, now: SystemTime) -> Value {
    let mut body = call.to_json(now);
    body["event"] = json!(event);
    if let Some(sequence) = sequence {
        body["sequence"] = json!(sequence);
    }
    body
}

/// A body as query parameters: texts as they are, other values as JSON writes
/// them, `customParams` as a JSON object, and what is not known left out.
#[must_use]
pub fn query_parameters(body: &str) -> Vec<(String, String)> {
    let object: Map<String, Value> = serde_json::from_str(body).unwrap_or_default();
    let as_text = |(name, value): (String, Value)| match value {
        Value::Null => None,
        Value::String(text) => Some((name, text)),
        other => Some((name, other.to_string())),
    };
    object.into_iter().filter_map(as_text).collect()
}

#[cfg(test)]
#[path = "callback_tests.rs"]
mod tests;
