//! Requests inside a call that set up, change and end nothing: OPTIONS, INFO,
//! NOTIFY, MESSAGE, and methods that we do not know. pjsip leaves most of them
//! to nobody, and then answers 500, which some trunks take for a dead call.

use std::time::Instant;

use super::calls;
use super::ffi::{self, pjsua_call_id};
use super::info;
use super::invite_filter::ALLOW;
use super::received::ReceivedMessage;
use super::shared::Shared;
use super::transactions::Transaction;
use crate::core::ids::LegId;

/// The only events that anybody may tell us of: those of our own REFER (RFC 3515).
const EVENT: &str = "refer";

/// What the answer to a request depends on, besides its method.
#[derive(Debug, Default)]
struct Facts {
    /// The package of its Event header, lower case.
    event: Option<String>,
    /// The dialog has, or had, a subscription of ours.
    is_subscribed: bool,
    /// The type of its body, where it has one.
    content_type: Option<String>,
    /// The call is answered and acknowledged.
    is_confirmed: bool,
}

/// The status for a request of this method; `None` where pjsip answers.
fn status_for(method: &str, facts: &Facts) -> Option<u16> {
    match method {
        "OPTIONS" => Some(200),
        "NOTIFY" => match &facts.event {
            Some(event) if event == EVENT && facts.is_subscribed => None,
            // RFC 6665, 4.1.3.
            Some(event) if event == EVENT => Some(481),
            _ => Some(489),
        },
        // Nobody reads it, but its sender may not know what to do without an answer.
        "MESSAGE" => Some(match &facts.content_type {
            Some(kind) if !kind.to_ascii_lowercase().starts_with("text/") => 415,
            _ => 200,
        }),
        // RFC 3262, section 3: there is no response that it could acknowledge.
        "PRACK" => facts.is_confirmed.then_some(481),
        "UPDATE" | "REFER" => None,
        "REGISTER" | "SUBSCRIBE" | "PUBLISH" => Some(405),
        _ => Some(501),
    }
}

/// The header that goes with a status.
fn header_for(method: &str, status: u16) -> Option<(&'static str, &'static str)> {
    match status {
        200 if method == "OPTIONS" => Some(("Allow", ALLOW)),
        405 | 501 => Some(("Allow", ALLOW)),
        415 if method == "INFO" => Some(("Accept", info::ACCEPT)),
        415 => Some(("Accept", "text/plain")),
        489 => Some(("Allow-Events", EVENT)),
        _ => None,
    }
}

/// Takes a request within a dialog, and answers it unless pjsip does.
pub fn take(
    shared: &Shared,
    call: pjsua_call_id,
    tsx: Transaction<'_>,
    request: ReceivedMessage<'_>,
) {
    if matches!(
        tsx.method(),
        ffi::PJSIP_INVITE_METHOD
            | ffi::PJSIP_ACK_METHOD
            | ffi::PJSIP_BYE_METHOD
            | ffi::PJSIP_CANCEL_METHOD
    ) {
        return;
    }
    let leg = shared.slots.current(call);
    let method = tsx.method_name();
    let status = if method == "INFO" {
        Some(info::take(shared, leg, request))
    } else {
        status_for(&method, &facts(call, tsx, request))
    };
    match status {
        Some(status) => tsx.answer(request, i32::from(status), header_for(&method, status)),
        None if method == "NOTIFY" => take_notify(shared, leg, request),
        None => {}
    }
}

fn facts(call: pjsua_call_id, tsx: Transaction<'_>, request: ReceivedMessage<'_>) -> Facts {
    let message = request.message();
    let event = message.printed("Event");
    let event = event.as_deref().and_then(|event| event.split(';').next());
    let info = calls::info(call);
    Facts {
        event: event.map(|event| event.trim().to_ascii_lowercase()),
        is_subscribed: is_subscribed(tsx),
        content_type: message.body_text().map(|(kind, _)| kind),
        is_confirmed: info.is_some_and(|info| info.state == ffi::PJSIP_INV_STATE_CONFIRMED),
    }
}

/// Whether the dialog of a request has, or had, a subscription: the event module
/// fills its own place in it with the first one.
fn is_subscribed(tsx: Transaction<'_>) -> bool {
    // SAFETY: no precondition.
    let module = unsafe { ffi::pjsip_evsub_instance() };
    // SAFETY: null, or a record that is there while pjsua is.
    let Some(module) = (unsafe { module.as_ref() }) else {
        return false;
    };
    let (dialog, place) = (tsx.dialog(), usize::try_from(module.id).ok());
    let data = dialog
        .zip(place)
        .and_then(|(dialog, place)| dialog.data(place));
    data.is_some_and(|data| !data.is_null())
}

/// pjsua says nothing of a last NOTIFY that it cannot read, or has no body;
/// that the transfer is over is noted here, and told if pjsua stays silent.
fn take_notify(shared: &Shared, leg: Option<LegId>, request: ReceivedMessage<'_>) {
    if let (Some(leg), true) = (leg, request.message().ends_subscription()) {
        shared.slots.transfer_notified(leg, Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_its_status() {
        let event = |event: &str, is_subscribed| Facts {
            event: Some(event.into()),
            is_subscribed,
            ..Facts::default()
        };
        let content = |kind: &str| Facts {
            content_type: Some(kind.into()),
            ..Facts::default()
        };
        let confirmed = Facts {
            is_confirmed: true,
            ..Facts::default()
        };
        for (method, facts, status) in [
            ("OPTIONS", Facts::default(), Some(200)),
            ("NOTIFY", event("refer", true), None),
            ("NOTIFY", event("refer", false), Some(481)),
            ("NOTIFY", event("message-summary", true), Some(489)),
            ("NOTIFY", Facts::default(), Some(489)),
            ("MESSAGE", Facts::default(), Some(200)),
            ("MESSAGE", content("text/plain"), Some(200)),
            ("MESSAGE", content("Text/HTML"), Some(200)),
            ("MESSAGE", content("application/json"), Some(415)),
            ("PRACK", Facts::default(), None),
            ("PRACK", confirmed, Some(481)),
            ("UPDATE", Facts::default(), None),
            ("REFER", Facts::default(), None),
            ("SUBSCRIBE", event("refer", true), Some(405)),
            ("REGISTER", Facts::default(), Some(405)),
            ("options", Facts::default(), Some(501)),
            ("FOO", Facts::default(), Some(501)),
        ] {
            assert_eq!(status_for(method, &facts), status, "{method} {facts:?}");
        }
    }
}
