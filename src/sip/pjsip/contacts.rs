//! Makes the Contact of a caller behind a NAT, or of one that leaves out its
//! transport, one that can be reached, before a dialog copies it: see [`WayBack`].

use super::ffi::{self, pjsip_rx_data};
use super::headers::Header;
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::sending::Sending;
use super::shared::guarded;
use super::transactions::{self, Locked};
use crate::sip::contact::{WayBack, refreshes_target};

static MODULE: Module = Module::new(
    c"sipbridge-contacts",
    // A request of a dialog passes the transaction layer first, the dialogs
    // (32) read its Contact afterwards.
    -1,
    ModuleCallbacks {
        rx_request: Some(on_rx_request),
        rx_response: Some(on_rx_response),
        ..ModuleCallbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("contacts", None, (), |_| {
        // SAFETY: pjsip passes a parsed request, which no other thread touches during
        // the call.
        let request = unsafe { ReceivedMessage::new(rdata) };
        let message = request.message();
        let is_direct =
            message.count(ffi::PJSIP_H_VIA) == 1 && message.count(ffi::PJSIP_H_RECORD_ROUTE) == 0;
        rewrite(request, Some(&request.via_host()), is_direct);
    });
    ffi::FALSE
}

/// An answer takes the dialog's requests elsewhere as a request does.
unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("contacts_response", None, (), |_| {
        // SAFETY: as above, for a response.
        let response = unsafe { ReceivedMessage::new(rdata) };
        let message = response.message();
        let status = u16::try_from(message.status()).unwrap_or(0);
        if !refreshes_target(&response.method_name(), status) || message.contact_uri().is_none() {
            return;
        }
        // No lock of ours is held.
        match transactions::of_response(response, |tsx| is_routed(tsx)) {
            Some(is_routed) => {
                let is_recorded = message.count(ffi::PJSIP_H_RECORD_ROUTE) > 0;
                rewrite(response, None, !is_routed && !is_recorded);
            }
            // A 2xx that comes again has no transaction any more, yet its
            // dialog would take the Contact once more as it stands there.
            None => {
                let keep = |header: Header<'_>| header.kind() != ffi::PJSIP_H_CONTACT;
                // SAFETY: pjsip keeps no pointer to a Contact of what it receives.
                unsafe { message.headers().retain(keep) };
            }
        }
    });
    ffi::FALSE
}

/// Whether a request of ours follows a route that its dialog recorded. The Route
/// of one that begins a dialog only says which server to send it to.
fn is_routed(tsx: &Locked) -> bool {
    let sent = tsx.sent().and_then(Sending::message);
    sent.is_some_and(|sent| sent.has_to_tag() && sent.count(ffi::PJSIP_H_ROUTE) > 0)
}

fn rewrite(received: ReceivedMessage<'_>, via_host: Option<&str>, is_direct: bool) {
    let Some(contact) = received.message().contact_uri() else {
        return;
    };
    let Some(source) = received.source() else {
        return;
    };
    let way_back = WayBack {
        source,
        via_host,
        is_direct,
        contact_host: &contact.host(),
        connection: received.transport().connection(),
        contact_has_transport: contact.has_transport() || contact.is_secure(),
    };
    if let Some(transport) = way_back.missing_transport() {
        contact.set_transport(&transport.to_string(), received.pool());
    }
    if let Some(address) = way_back.rewritten_contact() {
        contact.point(address, received.pool());
    }
}
