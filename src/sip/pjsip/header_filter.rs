//! Headers that pjsip's parser takes and its later stages do not survive: taken
//! out of a message, or the message is refused, before anybody stores it.
//!
//! - Credentials and challenges in a request. Nobody here asks a caller for a
//!   password, and pjsip cannot copy those of a scheme other than Digest: the
//!   copy is null, and is then linked into a list.
//! - Route, Record-Route and a dialog's Contact of another scheme than `sip` or
//!   `sips`, or without a host (RFC 3261 8.1.1.8 and 20.30): what reads them takes them for
//!   a SIP URI.
//! - `maddr` of the topmost Via: the response would go where the sender says
//!   (RFC 3261 18.2.2), to a bystander, or to where this socket cannot send. It
//!   goes to where the request came from.

use super::ffi::{self, pjsip_rx_data};
use super::headers::Header;
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::shared::{Shared, guarded};
use super::uris::Uri;
use crate::sip::contact::names_target;

static MODULE: Module = Module::new(
    c"sipbridge-header-filter",
    // Behind the filter of strangers, who get no answer; before the transactions.
    -3,
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
    // After a panic the request is dropped: nobody has judged its headers.
    guarded("header_filter_request", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request, which no other thread touches during
        // the call.
        let request = unsafe { ReceivedMessage::new(rdata) };
        let message = request.message();
        let keep = |header: Header<'_>| !is_credential(header.kind());
        // SAFETY: pjsip keeps no pointer to headers of these types.
        unsafe { message.headers().retain(keep) };
        request.clear_maddr();
        if !has_foreign_uri(request) {
            return ffi::FALSE;
        }
        note(shared, request);
        if message.method() != Some(ffi::PJSIP_ACK_METHOD) {
            request.respond(400, &[]);
        }
        ffi::TRUE
    })
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("header_filter_response", None, ffi::TRUE, |shared| {
        // SAFETY: as above, for a response.
        let response = unsafe { ReceivedMessage::new(rdata) };
        // A redirection may name a telephone number; nobody here follows it.
        let is_refusal = response.message().status() >= 300;
        if is_refusal || !has_foreign_uri(response) {
            return ffi::FALSE;
        }
        note(shared, response);
        // As if it had been lost: what it answers ends by its timer.
        ffi::TRUE
    })
}

fn is_credential(kind: ffi::pjsip_hdr_e) -> bool {
    matches!(
        kind,
        ffi::PJSIP_H_AUTHORIZATION
            | ffi::PJSIP_H_PROXY_AUTHORIZATION
            | ffi::PJSIP_H_WWW_AUTHENTICATE
            | ffi::PJSIP_H_PROXY_AUTHENTICATE
    )
}

/// Whether the way of a dialog leads over something that is no SIP host.
fn has_foreign_uri(received: ReceivedMessage<'_>) -> bool {
    let names_target = names_target(&received.method_name());
    let is_foreign = |uri: Option<Uri<'_>>| uri.and_then(Uri::sip).is_none();
    received
        .message()
        .headers()
        .any(|header| match header.kind() {
            ffi::PJSIP_H_ROUTE | ffi::PJSIP_H_RECORD_ROUTE => is_foreign(header.route()),
            ffi::PJSIP_H_CONTACT if names_target => header
                .contact()
                .is_some_and(|contact| !contact.is_star && is_foreign(contact.uri)),
            _ => false,
        })
}

fn note(shared: &Shared, received: ReceivedMessage<'_>) {
    let why = "a message is not taken: its Contact or a route is no SIP address";
    if let Some(count) = shared.tell_seldom(why) {
        let (peer, call_id) = received.sender();
        tracing::info!(%peer, %call_id, count, "{why}");
    }
}
