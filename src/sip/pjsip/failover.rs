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

use super::addresses::socket_address;
use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::messages::Message;
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::sending::Sending;
use super::shared::{Shared, guarded};
use super::transactions::{self, Locked};

/// The retransmission that goes to the next server: 3.5 s after the request
/// (T1 is 500 ms). Each second one after that goes one further.
const GIVE_UP_AT: c_int = 3;
const UNAVAILABLE: c_int = 503;

static MODULE: Module = Module::new(
    c"sipbridge-failover",
    // Between transports (8) and transactions (16).
    -2,
    ModuleCallbacks {
        rx_response: Some(on_rx_response),
        tx_request: Some(on_tx_request),
        ..ModuleCallbacks::NONE
    },
);

/// Puts the module into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Sees each transmission of a request.
unsafe extern "C" fn on_tx_request(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    guarded("failover", None, ffi::PJ_SUCCESS, |shared| {
        // SAFETY: pjsip passes a message that is whole, which no other thread touches
        // during the call.
        let request = unsafe { Sending::new(tdata) };
        // One address has no next one: nearly all requests end here.
        if request.address_count() < 2 {
            return ffi::PJ_SUCCESS;
        }
        // A retransmission comes with the lock of its transaction held, by this very
        // thread.
        let is_ack = request.message().and_then(Message::method) == Some(ffi::PJSIP_ACK_METHOD);
        let tsx = (!is_ack).then(|| transactions::of_request(request));
        if let Some(mut tsx) = tsx.flatten()
            && let Some(failed) = give_up(&mut tsx, request)
        {
            note(shared, failed, "does not answer");
        }
        ffi::PJ_SUCCESS
    })
}

/// Has this transmission of a request go to its next address when the last
/// one had its tries; the address that it leaves.
fn give_up(tsx: &mut Locked, request: Sending<'_>) -> Option<SocketAddr> {
    let sent_again = tsx.retransmit_count;
    let given_up = sent_again >= GIVE_UP_AT && sent_again % 2 == 1;
    let is_last = tsx.last_tx == request.as_ptr();
    let unanswered = tsx.state == ffi::PJSIP_TSX_STATE_CALLING && is_last;
    if !given_up || !unanswered {
        return None;
    }
    go_on(tsx)
}

/// Points a transaction of ours over UDP to the next address of its request;
/// the address that it leaves, where there is a next one.
fn go_on(tsx: &mut Locked) -> Option<SocketAddr> {
    if tsx.role != ffi::PJSIP_ROLE_UAC || tsx.is_reliable != ffi::FALSE || tsx.transport.is_null() {
        return None;
    }
    // SAFETY: null, or the request that the transaction holds a reference to; its lock,
    // which we have, keeps others from it.
    let request = unsafe { tsx.last_tx.as_mut() }?;
    let destination = &mut request.dest_info;
    let current = usize::try_from(destination.cur_addr).ok()?;
    let count = usize::try_from(destination.addr.count).ok()?;
    let addresses = destination.addr.entry.get(..count)?;
    let (from, to) = (addresses.get(current)?, addresses.get(current + 1)?);
    // Another transport would need another socket.
    if from.type_ != to.type_ {
        return None;
    }
    let failed = socket_address(&tsx.addr)?;
    tsx.addr = to.addr;
    tsx.addr_len = to.addr_len;
    destination.cur_addr += 1;
    request.tp_info.dst_addr = tsx.addr;
    request.tp_info.dst_addr_len = tsx.addr_len;
    Some(failed)
}

fn note(shared: &Shared, failed: SocketAddr, why: &'static str) {
    let news = shared.with_run(|run| run.servers.note_failure(failed));
    if news == Some(true) {
        tracing::warn!(server = %failed, "SIP server {why}: the next one that its name has is used");
    }
}

unsafe extern "C" fn on_rx_response(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("failover", None, ffi::FALSE, |shared| {
        // SAFETY: pjsip passes a parsed response, which no other thread touches during
        // the call.
        let response = unsafe { ReceivedMessage::new(rdata) };
        let Some(from) = response.source() else {
            return ffi::FALSE;
        };
        if response.message().status() != UNAVAILABLE {
            shared.with_run(|run| run.servers.note_answer(from));
            return ffi::FALSE;
        }
        match retry_elsewhere(response) {
            Some(failed) => {
                note(shared, failed, "is out of service (503)");
                ffi::TRUE
            }
            None => ffi::FALSE,
        }
    })
}

/// Sends the request of a 503 to its next address; the address that failed.
/// `None` where there is no other, and the 503 is the answer.
fn retry_elsewhere(response: ReceivedMessage<'_>) -> Option<SocketAddr> {
    // No other lock is held here.
    transactions::of_response(response, |tsx| retry_locked(tsx, response)).flatten()
}

/// `response` is the one of this transaction.
fn retry_locked(tsx: &mut Locked, response: ReceivedMessage<'_>) -> Option<SocketAddr> {
    let waits = matches!(
        tsx.state,
        ffi::PJSIP_TSX_STATE_CALLING | ffi::PJSIP_TSX_STATE_PROCEEDING
    );
    if !waits {
        return None;
    }
    // ACK goes where the INVITE went.
    let (address, length) = (tsx.addr, tsx.addr_len);
    let failed = go_on(tsx)?;
    if tsx.method.id == ffi::PJSIP_INVITE_METHOD {
        acknowledge(tsx, response, &address, length);
    }
    // The next server has all its tries before it.
    tsx.retransmit_count = 0;
    // SAFETY: held and locked, as `Locked` is; it sends its own last request again.
    unsafe { ffi::pjsip_tsx_retransmit_no_state(&raw mut **tsx, std::ptr::null_mut()) };
    Some(failed)
}

/// Answers the 503 to an INVITE, which pjsip does not get to see.
fn acknowledge(
    tsx: &Locked,
    response: ReceivedMessage<'_>,
    address: &ffi::pj_sockaddr,
    length: c_int,
) {
    let mut ack = std::ptr::null_mut();
    let (invite, rdata) = (tsx.last_tx, response.as_ptr());
    // SAFETY: the INVITE is the transaction's own, the response lives, see `Received`;
    // the ACK is an out-parameter, made with one reference.
    let made = unsafe { ffi::pjsip_endpt_create_ack(tsx.endpt, invite, rdata, &raw mut ack) };
    if made != ffi::PJ_SUCCESS {
        return;
    }
    let (address, token): (*const ffi::pj_sockaddr, _) = (address, std::ptr::null_mut());
    // SAFETY: the transaction holds its transport; the address is whole, and copied.
    unsafe { ffi::pjsip_transport_send(tsx.transport, ack, address.cast(), length, token, None) };
    // SAFETY: the reference that it was made with, given back once.
    unsafe { ffi::pjsip_tx_data_dec_ref(ack) };
}
