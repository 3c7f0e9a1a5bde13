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

use std::ffi::c_int;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::ffi::{self, pjsip_rx_data};
use super::headers::{any_header, retain_headers};
use super::shared::guarded;
use super::{text, uris};
use crate::core::seldom::Seldom;
use crate::sip::contact::names_target;

/// How often at most one line is logged about refused messages.
const SAID_EVERY: Duration = Duration::from_secs(10);

static SAID: Mutex<Seldom> = Mutex::new(Seldom::new(SAID_EVERY));

/// A module record that pjsip links into its list and writes to.
struct Module(std::cell::UnsafeCell<ffi::pjsip_module>);

// SAFETY: handed to pjsip before its threads start, afterwards only pjsip
// touches it, under its own lock.
unsafe impl Sync for Module {}

static MODULE: Module = Module(std::cell::UnsafeCell::new(ffi::pjsip_module {
    prev: std::ptr::null_mut(),
    next: std::ptr::null_mut(),
    name: ffi::pj_str_t {
        ptr: c"sipbridge-header-filter".as_ptr().cast_mut(),
        slen: 23,
    },
    id: -1,
    // Behind the filter of strangers, who get no answer; before the transactions.
    priority: ffi::PJSIP_MOD_PRIORITY_TSX_LAYER as c_int - 3,
    load: None,
    start: None,
    stop: None,
    unload: None,
    on_rx_request: Some(on_rx_request),
    on_rx_response: Some(on_rx_response),
    on_tx_request: None,
    on_tx_response: None,
    on_tsx_state: None,
}));

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    let module = MODULE.0.get();
    // SAFETY: pjsua is initialised and has no threads yet; a module of an
    // earlier run was unlinked when that endpoint was destroyed.
    unsafe {
        (*module).id = -1;
        (*module).prev = std::ptr::null_mut();
        (*module).next = std::ptr::null_mut();
        ffi::pjsip_endpt_register_module(ffi::pjsua_get_pjsip_endpt(), module)
    }
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the request is dropped: nobody has judged its headers.
    guarded("header_filter_request", None, ffi::TRUE, |_| {
        // SAFETY: pjsip passes a parsed request with Via, which no other thread
        // touches during the call, and keeps no pointer to headers of these types.
        unsafe {
            let message = (*rdata).msg_info.msg;
            retain_headers(message, |header| !is_credential((*header).type_));
            (*(*rdata).msg_info.via).maddr_param.slen = 0;
            if !has_foreign_uri(rdata) {
                return ffi::FALSE;
            }
            note(rdata);
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
    guarded("header_filter_response", None, ffi::TRUE, |_| {
        // SAFETY: as above, for a response. A redirection may name a telephone
        // number; nobody here follows it.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let is_refusal = (*message).line.status.code >= 300;
            if is_refusal || !has_foreign_uri(rdata) {
                return ffi::FALSE;
            }
            note(rdata);
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
unsafe fn note(rdata: *mut pjsip_rx_data) {
    let mut said = SAID.lock().unwrap_or_else(PoisonError::into_inner);
    let due = said.count(Instant::now());
    drop(said);
    if let Some(count) = due {
        // SAFETY: the caller's promise; Call-ID is there.
        let (peer, call_id) = unsafe {
            let peer = text::socket_address(&raw const (*rdata).pkt_info.src_addr);
            (peer, text::to_string(&(*(*rdata).msg_info.cid).id))
        };
        tracing::info!(
            ?peer,
            %call_id,
            count,
            "a message is not taken: its Contact or a route is no SIP address"
        );
    }
}
