//! The next server where one fails (RFC 3263 4.3): pjsip itself goes on only
//! when a connection fails. A request over UDP that was sent three times
//! without an answer, or is answered 503, goes to the next address that its
//! name has, in the same transaction and for REGISTER and INVITE alike; the
//! server that failed is tried last by all requests for a while.
//!
//! A module between pjsip's transports and its transactions. RFC 3263 asks
//! for a new branch; the branch stays here, which the next server cannot tell
//! from a new one, and with it ACK, CANCEL and the answer find their way.

use std::ffi::c_int;
use std::net::SocketAddr;

use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::modules::{Callbacks, Module};
use super::shared::{Shared, guarded};
use super::text;
use super::transactions::{self, Locked};

/// The retransmission that goes to the next server: 3.5 s after the request
/// (T1 is 500 ms). Each second one after that goes one further.
const GIVE_UP_AT: c_int = 3;
const UNAVAILABLE: c_int = 503;

static MODULE: Module = Module::new(
    c"sipbridge-failover",
    // Between transports (8) and transactions (16).
    -2,
    Callbacks {
        rx_response: Some(on_rx_response),
        tx_request: Some(on_tx_request),
        ..Callbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Sees each transmission of a request.
unsafe extern "C" fn on_tx_request(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    guarded("failover", None, ffi::PJ_SUCCESS, |shared| {
        // SAFETY: pjsip passes a message that is whole. A retransmission comes
        // with the lock of its transaction held, by this very thread.
        unsafe {
            // One address has no next one: nearly all requests end here.
            if (*tdata).dest_info.addr.count < 2 {
                return ffi::PJ_SUCCESS;
            }
            let failed = transaction_of(tdata).and_then(|mut tsx| give_up(&mut tsx, tdata));
            if let Some(failed) = failed {
                note(shared, failed, "does not answer");
            }
        }
        ffi::PJ_SUCCESS
    })
}

/// Has this transmission of a request go to its next address when the last
/// one had its tries; the address that it leaves.
///
/// # Safety
/// The transaction must be locked.
unsafe fn give_up(
    tsx: &mut ffi::pjsip_transaction,
    tdata: *mut pjsip_tx_data,
) -> Option<SocketAddr> {
    let sent_again = tsx.retransmit_count;
    let given_up = sent_again >= GIVE_UP_AT && sent_again % 2 == 1;
    let unanswered = tsx.state == ffi::PJSIP_TSX_STATE_CALLING && tsx.last_tx == tdata;
    if !given_up || !unanswered {
        return None;
    }
    // SAFETY: the caller's promise is passed on.
    unsafe { go_on(tsx) }
}

/// The transaction of a request that is sent, where it has one.
///
/// # Safety
/// `tdata` must be a request with a Via header; for locks see [`Locked::by_key`].
unsafe fn transaction_of(tdata: *mut pjsip_tx_data) -> Option<Locked> {
    // SAFETY: of the response only its Via is read, and the key made of the
    // branch in it; the key lives in the pool of the request.
    unsafe {
        let message = (*tdata).msg;
        let via = ffi::pjsip_msg_find_hdr(message, ffi::PJSIP_H_VIA, std::ptr::null());
        let method = &raw const (*message).line.req.method;
        let via = via.cast::<ffi::pjsip_via_hdr>();
        // Another branch would make a key of headers that are not here.
        let is_own = via
            .as_ref()
            .is_some_and(|via| text::to_string(&via.branch_param).starts_with("z9hG4bK"));
        if !is_own || (*method).id == ffi::PJSIP_ACK_METHOD {
            return None;
        }
        let mut response: Box<pjsip_rx_data> = Box::new(std::mem::zeroed());
        response.msg_info.via = via;
        let mut key: ffi::pj_str_t = std::mem::zeroed();
        let made = ffi::pjsip_tsx_create_key(
            (*tdata).pool,
            &raw mut key,
            ffi::PJSIP_ROLE_UAC,
            method,
            &raw const *response,
        );
        if made != ffi::PJ_SUCCESS {
            return None;
        }
        Locked::by_key(&key)
    }
}

/// Points a transaction of ours over UDP to the next address of its request;
/// the address that it leaves, where there is a next one.
///
/// # Safety
/// The transaction must be locked.
unsafe fn go_on(tsx: &mut ffi::pjsip_transaction) -> Option<SocketAddr> {
    if tsx.role != ffi::PJSIP_ROLE_UAC || tsx.is_reliable != ffi::FALSE || tsx.transport.is_null() {
        return None;
    }
    // SAFETY: the request is the transaction's own while it lives.
    unsafe {
        let destination = &mut tsx.last_tx.as_mut()?.dest_info;
        let current = usize::try_from(destination.cur_addr).ok()?;
        let count = usize::try_from(destination.addr.count).ok()?;
        let addresses = destination.addr.entry.get(..count)?;
        let (from, to) = (addresses.get(current)?, addresses.get(current + 1)?);
        // Another transport would need another socket.
        if from.type_ != to.type_ {
            return None;
        }
        let failed = text::socket_address(&raw const tsx.addr)?;
        tsx.addr = to.addr;
        tsx.addr_len = to.addr_len;
        destination.cur_addr += 1;
        let info = &mut (*tsx.last_tx).tp_info;
        info.dst_addr = tsx.addr;
        info.dst_addr_len = tsx.addr_len;
        Some(failed)
    }
}

fn note(shared: &Shared, failed: SocketAddr, why: &'static str) {
    let news = shared.with_run(|run| run.servers.note_failure(failed));
    if news == Some(true) {
        tracing::warn!(server = %failed, "SIP server {why}: the next one that its name has is used");
    }
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("failover", None, ffi::FALSE, |shared| {
        // SAFETY: pjsip passes a parsed response with Via and CSeq.
        unsafe {
            let code = (*(*rdata).msg_info.msg).line.status.code;
            let from = text::socket_address(&raw const (*rdata).pkt_info.src_addr);
            let Some(from) = from else {
                return ffi::FALSE;
            };
            if code != UNAVAILABLE {
                shared.with_run(|run| run.servers.note_answer(from));
                return ffi::FALSE;
            }
            match retry_elsewhere(rdata) {
                Some(failed) => {
                    note(shared, failed, "is out of service (503)");
                    ffi::TRUE
                }
                None => ffi::FALSE,
            }
        }
    })
}

/// Sends the request of a 503 to its next address; the address that failed.
/// `None` where there is no other, and the 503 is the answer.
///
/// # Safety
/// `rdata` must be a parsed response.
unsafe fn retry_elsewhere(rdata: *mut pjsip_rx_data) -> Option<SocketAddr> {
    // SAFETY: the caller's promise; no other lock is held here.
    unsafe { transactions::of_response(rdata, |tsx| retry_locked(tsx, rdata)).flatten() }
}

/// # Safety
/// The transaction must be locked and the one of this response.
unsafe fn retry_locked(
    tsx: &mut ffi::pjsip_transaction,
    rdata: *mut pjsip_rx_data,
) -> Option<SocketAddr> {
    let waits = matches!(
        tsx.state,
        ffi::PJSIP_TSX_STATE_CALLING | ffi::PJSIP_TSX_STATE_PROCEEDING
    );
    if !waits {
        return None;
    }
    let (address, length) = (tsx.addr, tsx.addr_len);
    // SAFETY: the caller's promise; ACK goes where the INVITE went.
    unsafe {
        let failed = go_on(tsx)?;
        if tsx.method.id == ffi::PJSIP_INVITE_METHOD {
            acknowledge(tsx, rdata, &address, length);
        }
        // The next server has all its tries before it.
        tsx.retransmit_count = 0;
        ffi::pjsip_tsx_retransmit_no_state(tsx, std::ptr::null_mut());
        Some(failed)
    }
}

/// Answers the 503 to an INVITE, which pjsip does not get to see.
///
/// # Safety
/// The transaction must be locked and the one of this response.
unsafe fn acknowledge(
    tsx: &ffi::pjsip_transaction,
    rdata: *mut pjsip_rx_data,
    address: &ffi::pj_sockaddr,
    length: c_int,
) {
    let mut ack = std::ptr::null_mut();
    // SAFETY: the ACK is made with one reference, which is given back.
    unsafe {
        let made = ffi::pjsip_endpt_create_ack(tsx.endpt, tsx.last_tx, rdata, &raw mut ack);
        if made != ffi::PJ_SUCCESS {
            return;
        }
        let address: *const ffi::pj_sockaddr = address;
        ffi::pjsip_transport_send(
            tsx.transport,
            ack,
            address.cast(),
            length,
            std::ptr::null_mut(),
            None,
        );
        ffi::pjsip_tx_data_dec_ref(ack);
    }
}
