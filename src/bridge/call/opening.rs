//! The beginning of a call: its facts, from the INVITE that came or the call
//! that we place, and the parameters that its worker gets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::SystemTime;

use super::call_terms::CallTerms;
use crate::bridge::context::Settings;
use crate::core::call_facts::{CallFacts, CallState};
use crate::core::call_object::{CallDirection, CallObject};
use crate::core::ids::{CallId, LineId};
use crate::core::numbers;
use crate::core::private::Private;
use crate::core::voice::webhook::VoiceFacts;
use crate::fleet::LineProfile;
use crate::queue::CallerHash;
use crate::sip::engine::IncomingCall;
use crate::sip::header_names::ASSERTED;
use crate::sip::identity::Caller;
use crate::sip::uri::UriParts;

/// A call that Twilio has, and brings by a stream.
#[derive(Clone, Debug)]
pub struct TwilioCall {
    /// The line whose number was called.
    pub line: LineId,
    /// Twilio's own id of it.
    pub call: CallId,
    /// Who calls.
    pub from: Private,
    /// The number that was called.
    pub to: Private,
}

/// The call that Twilio's webhook began: it has Twilio's own id, by which a worker finds it at Twilio, too.
pub(in crate::bridge) fn twilio_call(
    settings: &Settings,
    line: &LineProfile,
    call: &TwilioCall,
    terms: &CallTerms,
) -> CallObject {
    let to = line.phone_number.as_ref().unwrap_or(&call.to);
    let facts = CallFacts {
        id: call.call.clone(),
        sip_call_id: None,
        line: line.id.clone(),
        restaurant: line.restaurant_id.clone(),
        direction: CallDirection::Inbound,
        parent: None,
        from: in_e164(&call.from, line),
        to: in_e164(to, line),
        started: SystemTime::now(),
    };
    let mut parameters = custom_parameters(settings, line, &facts, terms);
    add_lost(terms, &mut parameters);
    begun(facts, parameters)
}

/// The call that this INVITE begins.
pub(in crate::bridge) fn incoming_call(
    settings: &Settings,
    line: &LineProfile,
    incoming: &IncomingCall,
    terms: &CallTerms,
) -> CallObject {
    // The number the line is known by; what the trunk wrote into To may be anything.
    let to = line.phone_number.as_ref().unwrap_or(&incoming.to);
    let from = incoming.caller.number(settings.trust_privacy);
    let facts = CallFacts {
        id: CallId::random(),
        sip_call_id: Some(incoming.sip_call_id.clone()),
        line: line.id.clone(),
        restaurant: line.restaurant_id.clone(),
        direction: CallDirection::Inbound,
        parent: None,
        from: in_e164(from, line),
        to: in_e164(to, line),
        started: SystemTime::now(),
    };
    let mut parameters = custom_parameters(settings, line, &facts, terms);
    hand_on_headers(settings, incoming, &mut parameters);
    add_lost(terms, &mut parameters);
    begun(facts, parameters)
}

/// What the caller's lost call had, under all that this call has by itself.
fn add_lost(terms: &CallTerms, parameters: &mut BTreeMap<String, String>) {
    let lost = terms.lost.iter().flat_map(|lost| &lost.custom_parameters);
    for (name, value) in lost {
        let place = parameters.entry(name.clone());
        place.or_insert_with(|| value.clone());
    }
}

/// Who calls, where he may be recognised: a number that is not withheld, whether or not
/// that is obeyed.
pub(in crate::bridge) fn caller_hash(line: &LineProfile, caller: &Caller) -> Option<CallerHash> {
    let is_shown = caller.withheld.is_none();
    is_shown.then(|| number_hash(line, &caller.shown)).flatten()
}

/// The same of a number that is shown.
pub(in crate::bridge) fn number_hash(line: &LineProfile, number: &Private) -> Option<CallerHash> {
    CallerHash::new(&in_e164(number, line))
}

/// A call that we placed from this line.
pub(in crate::bridge) fn placed_call(
    settings: &Settings,
    line: &LineProfile,
    to: &Private,
    sip_call_id: &str,
    terms: &CallTerms,
) -> CallObject {
    let shown = terms.caller_id.as_ref().or(line.phone_number.as_ref());
    let facts = CallFacts {
        id: CallId::random(),
        sip_call_id: Some(sip_call_id.to_owned()),
        line: line.id.clone(),
        restaurant: line.restaurant_id.clone(),
        direction: CallDirection::Outbound,
        parent: terms.parent.clone(),
        from: in_e164(shown.unwrap_or(&Private::default()), line),
        to: in_e164(to, line),
        started: SystemTime::now(),
    };
    let parameters = custom_parameters(settings, line, &facts, terms);
    begun(facts, parameters)
}

fn begun(facts: CallFacts, parameters: BTreeMap<String, String>) -> CallObject {
    CallObject {
        facts: Arc::new(facts),
        state: CallState {
            custom_params: parameters.into(),
            ..CallState::default()
        },
    }
}

/// What webhooks are told of this call; `headers` are those of its INVITE.
pub(in crate::bridge) fn voice_facts(
    settings: &Settings,
    line: &LineProfile,
    facts: &CallFacts,
    headers: &BTreeMap<String, String>,
) -> VoiceFacts {
    let diverted = headers.get("diversion").map(|text| UriParts::parse(text));
    let diverted = diverted.filter(|uri| !uri.user.is_empty());
    VoiceFacts {
        call: facts.id.clone(),
        account: settings.account_sid.clone(),
        parent: facts.parent.clone(),
        direction: facts.direction,
        from: facts.from.clone(),
        to: facts.to.clone(),
        forwarded_from: diverted.map(|uri| in_e164(&Private::new(uri.user), line)),
        caller_name: None,
        answered_by: None,
        from_country: country_of(&facts.from),
        to_country: country_of(&facts.to),
        sip_headers: headers
            .iter()
            .map(|(name, value)| (name.clone(), Private::new(value.as_str())))
            .collect(),
    }
}

/// The country of a number in E.164.
fn country_of(number: &Private) -> Option<numbers::Country> {
    numbers::Number::read(number.expose(), None)?.country
}

/// A number as everybody is told it: in E.164 where that is certain.
fn in_e164(number: &Private, line: &LineProfile) -> Private {
    let e164 = numbers::to_e164(number.expose(), line.dial.country);
    e164.map_or_else(|| number.clone(), Private::new)
}

/// `--param`, the line's own parameters and the call's, then what the contract
/// promises: a later one replaces an earlier one. `callerPhone` is who calls,
/// so the line's own number where we do, and `to` who is called.
fn custom_parameters(
    settings: &Settings,
    line: &LineProfile,
    facts: &CallFacts,
    terms: &CallTerms,
) -> BTreeMap<String, String> {
    let mut parameters = settings.params.clone();
    parameters.extend(line.custom_parameters.clone());
    parameters.extend(terms.custom_params.clone());
    let mut put = |name: &str, value: &str| parameters.insert(name.to_owned(), value.to_owned());
    put("callerPhone", facts.from.expose());
    put("to", facts.to.expose());
    put("direction", facts.direction.as_str());
    put("phoneLineId", facts.line.as_str());
    if let Some(restaurant) = &facts.restaurant {
        put("restaurantId", restaurant);
    }
    parameters
}

/// The headers of an INVITE that others may hear of: none that gives away who calls and does not want it told.
pub(in crate::bridge) fn told_headers(
    settings: &Settings,
    incoming: &IncomingCall,
) -> BTreeMap<String, String> {
    let withheld = incoming.caller.withheld.as_ref();
    let withheld = withheld.filter(|_| settings.trust_privacy);
    // What is asserted is about the caller and nobody else, however short a number it has.
    let is_told = |name: &str, value: &str| {
        withheld.is_none_or(|withheld| name != ASSERTED && !withheld.is_told_by(value))
    };
    let headers = incoming.headers.iter();
    let headers = headers.filter(|(name, value)| is_told(name, value));
    headers
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

/// The headers that the operator names, behind everything else that has
/// their name.
fn hand_on_headers(
    settings: &Settings,
    incoming: &IncomingCall,
    parameters: &mut BTreeMap<String, String>,
) {
    let told = told_headers(settings, incoming);
    for (name, value) in settings.sip_headers.pick(&told) {
        let place = parameters.entry(name);
        place.or_insert_with(|| value.to_owned());
    }
}

/// Adds parameters, but for those that the contract promises.
pub(in crate::bridge) fn add_parameters(call: &mut CallObject, more: &BTreeMap<String, String>) {
    let facts = &call.facts;
    let is_promised = |name: &str| match name {
        "callerPhone" | "to" | "direction" | "phoneLineId" => true,
        "restaurantId" => facts.restaurant.is_some(),
        _ => false,
    };
    let added = more.iter().filter(|(name, _)| !is_promised(name));
    let added = added.map(|(name, value)| (name.clone(), value.clone()));
    call.state.custom_params.extend(added);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::dialling::DialLine;
    use crate::core::numbers::Country;
    use crate::sip::identity::Withheld;

    #[test]
    fn a_caller_is_recognised_by_his_number_and_never_where_he_withholds_it() {
        let line = LineProfile {
            dial: DialLine {
                country: Country::parse("FR"),
                hosts: Vec::new(),
            },
            ..LineProfile::bare(LineId::new("line-1"))
        };
        let shown = |number: &str| Caller {
            shown: Private::new(number),
            withheld: None,
        };
        let hash = caller_hash(&line, &shown("+33612345678"));
        assert!(hash.is_some());
        assert_eq!(caller_hash(&line, &shown("0612345678")), hash, "one number");
        let withheld = Caller {
            withheld: Some(Withheld::default()),
            ..shown("+33612345678")
        };
        assert_eq!(caller_hash(&line, &withheld), None);
        assert_eq!(caller_hash(&line, &shown("anonymous")), None);
    }
}
