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
use super::headers::{any_header, retain_headers};
use super::modules::{Callbacks, Module};
use super::shared::{Shared, guarded};
use super::{text, uris};
use crate::sip::contact::names_target;

static MODULE: Module = Module::new(
    c"sipbridge-header-filter",
    // Behind the filter of strangers, who get no answer; before the transactions.
    -3,
    Callbacks {
        rx_request: Some(on_rx_request),
        rx_response: Some(on_rx_response),
        ..Callbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the request is dropped: nobody has judged its headers.
    guarded("header_filter_request", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request with Via, which no other thread
        // touches during the call, and keeps no pointer to headers of these types.
        unsafe {
            let message = (*rdata).msg_info.msg;
            retain_headers(message, |header| !is_credential((*header).type_));
            (*(*rdata).msg_info.via).maddr_param.slen = 0;
            if !has_foreign_uri(rdata) {
                return ffi::FALSE;
            }
            note(shared, rdata);
            if (*message).line.req.method.id != ffi::PJSIP_ACK_METHOD {
                ffi::pjsip_endpt_respond_stateless(
                    ffi::pjsua_get_pjsip_endpt(),
                    rdata,
                    400,
                    std::ptr::null(),
                    std::ptr::null(),
                    std::ptr::null(),
                );
            }
            ffi::TRUE
        }
    })
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("header_filter_response", None, ffi::TRUE, |shared| {
        // SAFETY: as above, for a response. A redirection may name a telephone
        // number; nobody here follows it.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let is_refusal = (*message).line.status.code >= 300;
            if is_refusal || !has_foreign_uri(rdata) {
                return ffi::FALSE;
            }
            note(shared, rdata);
        }
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
///
/// # Safety
/// `rdata` must be a parsed message that stays as it is during the call.
unsafe fn has_foreign_uri(rdata: *mut pjsip_rx_data) -> bool {
    // SAFETY: the caller's promise; CSeq is there, and the type of a parsed
    // header tells its struct.
    unsafe {
        let method = text::to_string(&(*(*rdata).msg_info.cseq).method.name);
        let names_target = names_target(&method);
        any_header((*rdata).msg_info.msg, |header| match (*header).type_ {
            ffi::PJSIP_H_ROUTE | ffi::PJSIP_H_RECORD_ROUTE => {
                let route = header.cast::<ffi::pjsip_routing_hdr>();
                uris::sip_uri((*route).name_addr.uri).is_none()
            }
            ffi::PJSIP_H_CONTACT if names_target => {
                let contact = header.cast::<ffi::pjsip_contact_hdr>();
                (*contact).star == 0 && uris::sip_uri((*contact).uri).is_none()
            }
            _ => false,
        })
    }
}

/// # Safety
/// `rdata` must be a parsed message.
unsafe fn note(shared: &Shared, rdata: *mut pjsip_rx_data) {
    let why = "a message is not taken: its Contact or a route is no SIP address";
    if let Some(count) = shared.tell_seldom(why) {
        // SAFETY: the caller's promise is passed on.
        let (peer, call_id) = unsafe { text::sender(rdata) };
        tracing::info!(%peer, %call_id, count, "{why}");
    }
}
