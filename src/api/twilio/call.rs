//! A call in Twilio's form: every field that Twilio's own answer has, null where there is nothing.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::Serialize;
use utoipa::ToSchema;

use super::API_VERSION;
use super::numbers::phone_number_sid;
use crate::core::answering_machine::AnsweredBy;
use crate::core::call_object::CallObject;
use crate::core::ids::{AccountSid, CallId};
use crate::core::timestamp::rfc2822;
use crate::core::voice::webhook::{twilio_direction, twilio_status};

/// A call.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = TwilioCall)]
pub struct CallResource<'a> {
    sid: &'a str,
    /// When it began; RFC 2822, as all dates here.
    date_created: String,
    date_updated: String,
    parent_call_sid: Option<&'a str>,
    account_sid: &'a str,
    to: Option<&'a str>,
    to_formatted: Option<&'a str>,
    from: Option<&'a str>,
    from_formatted: Option<&'a str>,
    /// The line, as `/IncomingPhoneNumbers` has it.
    phone_number_sid: String,
    /// queued, ringing, in-progress, completed, busy, failed, no-answer or canceled.
    status: &'static str,
    start_time: String,
    end_time: Option<String>,
    /// Whole seconds since the answer, once it is over.
    duration: Option<String>,
    price: Option<&'a str>,
    price_unit: &'static str,
    /// inbound, outbound-api, or outbound-dial.
    direction: &'static str,
    /// human, machine_start, machine_end_beep, machine_end_silence, machine_end_other, fax or unknown, where that was asked for and is known.
    answered_by: Option<&'a str>,
    api_version: &'static str,
    forwarded_from: Option<&'a str>,
    group_sid: Option<&'a str>,
    caller_name: Option<&'a str>,
    queue_time: &'static str,
    trunk_sid: Option<&'a str>,
    uri: String,
    subresource_uris: BTreeMap<&'static str, String>,
}

impl<'a> CallResource<'a> {
    /// The call as it is.
    #[must_use]
    pub fn of(call: &'a CallObject, account: &'a AccountSid) -> Self {
        let (facts, state) = (&*call.facts, &call.state);
        let known = |number: &'a str| Some(number).filter(|number| !number.is_empty());
        let (to, from) = (known(facts.to.expose()), known(facts.from.expose()));
        let updated = state.ended.or(state.answered).unwrap_or(facts.started);
        let duration = |ended: SystemTime| call.duration_s(ended).to_string();
        Self {
            sid: facts.id.as_str(),
            date_created: rfc2822(facts.started),
            date_updated: rfc2822(updated),
            parent_call_sid: facts.parent.as_ref().map(CallId::as_str),
            account_sid: account.as_str(),
            to,
            to_formatted: to,
            from,
            from_formatted: from,
            phone_number_sid: phone_number_sid(account, &facts.line),
            status: status(call),
            start_time: rfc2822(facts.started),
            end_time: state.ended.map(rfc2822),
            duration: state.ended.map(duration),
            price: None,
            price_unit: "USD",
            direction: twilio_direction(facts.direction, facts.parent.is_some()),
            answered_by: state.answered_by.map(AnsweredBy::as_str),
            api_version: API_VERSION,
            forwarded_from: None,
            group_sid: None,
            caller_name: None,
            queue_time: "0",
            trunk_sid: None,
            uri: call_uri(account, facts.id.as_str()),
            subresource_uris: BTreeMap::new(),
        }
    }
}

/// The status of a call by Twilio's names.
pub(super) fn status(call: &CallObject) -> &'static str {
    twilio_status(call.state.status, call.facts.direction)
}

/// Where a call is.
pub(super) fn call_uri(account: &AccountSid, call: &str) -> String {
    format!("/{API_VERSION}/Accounts/{account}/Calls/{call}.json")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::call_facts::{CallFacts, CallState};
    use crate::core::call_object::{CallDirection, CallStatus};
    use crate::core::outcome::Outcome;
    use std::sync::Arc;
    use std::time::Duration;

    fn call(direction: CallDirection, state: CallState) -> CallObject {
        let facts = CallFacts {
            direction,
            started: SystemTime::UNIX_EPOCH + Duration::from_millis(1_768_487_400_123),
            ..CallFacts::example()
        };
        CallObject {
            facts: Arc::new(facts),
            state,
        }
    }

    #[test]
    fn a_call_has_every_field_of_twilios_and_strings_where_twilio_has_them() {
        let account = AccountSid::of_node("n");
        let mut state = CallState::default();
        let begun = call(CallDirection::Inbound, state.clone());
        let body = serde_json::to_value(CallResource::of(&begun, &account)).expect("JSON");
        assert_eq!(body.as_object().expect("an object").len(), 26);
        assert_eq!(body["date_created"], "Thu, 15 Jan 2026 14:30:00 +0000");
        assert_eq!(body["status"], "ringing");
        assert_eq!(body["direction"], "inbound");
        for null in ["end_time", "duration", "price", "answered_by", "group_sid"] {
            assert!(body[null].is_null(), "{null}");
        }
        let answered = begun.facts.started + Duration::from_secs(2);
        state.answered = Some(answered);
        state.end(Outcome::CalleeHungUp, answered + Duration::from_secs(61));
        let ended = call(CallDirection::Outbound, state);
        let body = serde_json::to_value(CallResource::of(&ended, &account)).expect("JSON");
        assert_eq!(body["status"], "completed");
        assert_eq!(body["duration"], "61");
        assert_eq!(body["direction"], "outbound-api");
        assert_eq!(body["end_time"], "Thu, 15 Jan 2026 14:31:03 +0000");
        let uri = body["uri"].as_str().expect("a text");
        assert!(
            uri.ends_with(&format!("/Calls/{}.json", ended.facts.id)),
            "{uri}"
        );
    }

    #[test]
    fn statuses_have_twilios_names() {
        use CallDirection::{Inbound, Outbound};
        for (direction, ours, theirs) in [
            (Outbound, CallStatus::Initiated, "queued"),
            (Inbound, CallStatus::Initiated, "ringing"),
            (Outbound, CallStatus::Ringing, "ringing"),
            (Inbound, CallStatus::Active, "in-progress"),
            (Inbound, CallStatus::Transferred, "completed"),
            (Outbound, CallStatus::NoAnswer, "no-answer"),
            (Outbound, CallStatus::Cancelled, "canceled"),
        ] {
            let state = CallState {
                status: ours,
                ..CallState::default()
            };
            assert_eq!(status(&call(direction, state)), theirs);
        }
    }
}
