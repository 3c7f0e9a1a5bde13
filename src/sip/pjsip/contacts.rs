//! Makes the Contact of a caller behind a NAT, or of one that leaves out its
//! transport, one that can be reached, before a dialog copies it: see [`WayBack`].

use std::ffi::{c_int, c_uint};
use std::net::SocketAddr;

use super::ffi::{self, pjsip_rx_data};
use super::headers;
use super::modules::{Callbacks, Module};
use super::shared::guarded;
use super::text;
use super::transactions;
use crate::core::address::Transport;
use crate::sip::contact::{WayBack, refreshes_target};

static MODULE: Module = Module::new(
    c"sipbridge-contacts",
    // A request of a dialog passes the transaction layer first, the dialogs
    // (32) read its Contact afterwards.
    -1,
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
    guarded("contacts", None, (), |_| {
        // SAFETY: pjsip passes a parsed request with Via, which no other
        // thread touches during the call.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let is_direct = text::count(message, ffi::PJSIP_H_VIA) == 1
                && text::count(message, ffi::PJSIP_H_RECORD_ROUTE) == 0;
            let via = text::to_string(&(*(*rdata).msg_info.via).sent_by.host);
            rewrite(rdata, Some(&via), is_direct);
        }
    });
    ffi::FALSE
}

/// An answer takes the dialog's requests elsewhere as a request does.
unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("contacts_response", None, (), |_| {
        // SAFETY: pjsip passes a parsed response with Via and CSeq, which no
        // other thread touches during the call; no lock of ours is held.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let method = text::to_string(&(*(*rdata).msg_info.cseq).method.name);
            let status = u16::try_from((*message).line.status.code).unwrap_or(0);
            if !refreshes_target(&method, status) || text::contact_uri(message).is_none() {
                return;
            }
            match transactions::of_response(rdata, |tsx| is_routed(tsx)) {
                Some(is_routed) => {
                    let is_recorded = text::count(message, ffi::PJSIP_H_RECORD_ROUTE) > 0;
                    rewrite(rdata, None, !is_routed && !is_recorded);
                }
                // A 2xx that comes again has no transaction any more, yet its
                // dialog would take the Contact once more as it stands there.
                None => {
                    headers::retain_headers(message, |header| {
                        (*header).type_ != ffi::PJSIP_H_CONTACT
                    });
                }
            }
        }
    });
    ffi::FALSE
}

/// Whether a request of ours follows a route that its dialog recorded. The Route
/// of one that begins a dialog only says which server to send it to.
///
/// # Safety
/// `tsx` must be locked.
unsafe fn is_routed(tsx: &ffi::pjsip_transaction) -> bool {
    // SAFETY: the caller's promise; a transaction of ours holds the request that
    // it sent last.
    unsafe {
        tsx.last_tx.as_ref().is_some_and(|sent| {
            headers::has_to_tag(sent.msg) && text::count(sent.msg, ffi::PJSIP_H_ROUTE) > 0
        })
    }
}

/// # Safety
/// `rdata` must be a parsed message that nobody else reads at the moment.
unsafe fn rewrite(rdata: *mut pjsip_rx_data, via_host: Option<&str>, is_direct: bool) {
    // SAFETY: the caller's promise; the memory of what is written lives in the
    // message's pool.
    unsafe {
        let message = (*rdata).msg_info.msg;
        let Some(contact) = text::contact_uri(message) else {
            return;
        };
        let Some(source) = text::socket_address(&raw const (*rdata).pkt_info.src_addr) else {
            return;
        };
        let contact_host = text::to_string(&(*contact).host);
        let way_back = WayBack {
            source,
            via_host,
            is_direct,
            contact_host: &contact_host,
            connection: connection(rdata),
            contact_has_transport: (*contact).transport_param.slen > 0 || text::is_sips(contact),
        };
        if let Some(transport) = way_back.missing_transport()
            && let Some(name) = text::in_pool((*rdata).tp_info.pool, &transport.to_string())
        {
            (*contact).transport_param = name;
        }
        if let Some(address) = way_back.rewritten_contact() {
            point(contact, address, (*rdata).tp_info.pool);
        }
    }
}

/// The connection that a message came over.
///
/// # Safety
/// `rdata` must be a parsed message.
unsafe fn connection(rdata: *mut pjsip_rx_data) -> Option<Transport> {
    // SAFETY: the caller's promise; the transport lives as long as the message.
    let kind = unsafe { (*(*rdata).tp_info.transport).key.type_ };
    match c_uint::try_from(kind).ok()? & !ffi::PJSIP_TRANSPORT_IPV6 {
        ffi::PJSIP_TRANSPORT_TCP => Some(Transport::Tcp),
        ffi::PJSIP_TRANSPORT_TLS => Some(Transport::Tls),
        _ => None,
    }
}

/// # Safety
/// `contact` must be the URI of a message whose memory comes from `pool`.
unsafe fn point(contact: *mut ffi::pjsip_sip_uri, to: SocketAddr, pool: *mut ffi::pj_pool_t) {
    // SAFETY: the caller's promise is passed on.
    unsafe {
        if let Some(host) = text::in_pool(pool, &to.ip().to_string()) {
            (*contact).host = host;
            (*contact).port = c_int::from(to.port());
        }
    }
}
