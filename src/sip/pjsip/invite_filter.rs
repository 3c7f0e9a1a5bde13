//! Judges a request before pjsip spends a dialog, a transport or a media port
//! on it: a module between pjsip's transaction and dialog layers, which sees
//! requests that belong to no transaction yet. Retransmissions of an INVITE
//! under way never get here.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::access::Caller;
use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::modules::{Callbacks, Module};
use super::shared::{Shared, guarded};
use super::strangers;
use super::text;
use crate::sip::engine::Refusal;
use crate::sip::uri::UriParts;

/// Asked of a caller that comes while we are full.
const FULL_RETRY_AFTER: Duration = Duration::from_secs(5);
/// The status that must say what is allowed instead (RFC 3261 section 8.2.1).
const NOT_ALLOWED: u16 = 405;
/// What may come outside of a dialog, or in one.
pub const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, PRACK, UPDATE, INFO, NOTIFY, MESSAGE";
/// Asked of a trunk that brings too much at once.
const HELD_BACK_RETRY_AFTER: Duration = Duration::from_secs(2);

thread_local! {
    /// The re-INVITE that came last on this thread. pjsip answers 500 to one
    /// before it takes the next message.
    static REINVITE: RefCell<Option<(String, String)>> = const { RefCell::new(None) };
}

static MODULE: Module = Module::new(
    c"sipbridge-gate",
    // Behind the transaction layer, before the dialogs (32).
    4,
    Callbacks {
        rx_request: Some(on_rx_request),
        tx_response: Some(on_tx_response),
        ..Callbacks::NONE
    },
);

/// Puts the filter into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Makes pjsip announce everywhere what is allowed here, in place of the list
/// that its modules have made.
pub fn announce_allowed() {
    // SAFETY: pjsua is initialised and has no threads yet. The header is the
    // endpoint's own, of the type that an Allow has; it is copied into every
    // message that shows it. The texts are static.
    unsafe {
        let allow = ffi::pjsip_endpt_get_capability(
            ffi::pjsua_get_pjsip_endpt(),
            ffi::PJSIP_H_ALLOW as c_int,
            std::ptr::null(),
        );
        let allow = allow.cast_mut().cast::<ffi::pjsip_generic_array_hdr>();
        if allow.is_null() {
            return;
        }
        let room = &mut (*allow).values;
        let mut count = 0;
        for (place, method) in room.iter_mut().zip(ALLOW.split(", ")) {
            *place = text::static_str(method);
            count += 1;
        }
        (*allow).count = count;
    }
}

/// What to do with a request.
enum InviteDecision {
    Pass,
    Refuse(Refusal),
    /// No answer at all.
    Ignore,
}

const fn refuse(status: u16, retry_after: Option<Duration>) -> InviteDecision {
    InviteDecision::Refuse(Refusal {
        status,
        retry_after,
    })
}

unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the request is dropped: its sender repeats it.
    guarded("gate", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request with From, To and Via.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let to = (*rdata).msg_info.to;
            let request = (*message).line.req;
            // A REGISTER belongs to no dialog, whatever its To says: pjsip would leave
            // it without an answer.
            let is_register = request.method.id == ffi::PJSIP_REGISTER_METHOD;
            if (*to).tag.slen > 0 && !is_register {
                if request.method.id == ffi::PJSIP_INVITE_METHOD {
                    REINVITE.set(transaction(message));
                }
                return ffi::FALSE;
            }
            let Some(caller) = strangers::caller(shared, rdata) else {
                return ffi::TRUE;
            };
            let decision = match request.method.id {
                ffi::PJSIP_INVITE_METHOD => {
                    let uri = text::uri_parts(request.uri.cast());
                    let to = text::uri_parts((*to).uri.cast());
                    judge(shared, caller, &uri, &to)
                }
                ffi::PJSIP_ACK_METHOD | ffi::PJSIP_CANCEL_METHOD | ffi::PJSIP_BYE_METHOD => {
                    InviteDecision::Pass
                }
                _ if !caller.is_known => InviteDecision::Ignore,
                ffi::PJSIP_OPTIONS_METHOD => InviteDecision::Pass,
                _ => refuse(NOT_ALLOWED, None),
            };
            match decision {
                InviteDecision::Pass => ffi::FALSE,
                InviteDecision::Ignore => ffi::TRUE,
                InviteDecision::Refuse(refusal) => {
                    respond(rdata, refusal);
                    ffi::TRUE
                }
            }
        }
    })
}

/// Judges a new INVITE. A stranger (`--accept any`) hears of a call that is
/// taken and of nothing else: neither which users there are, nor more bytes
/// than he sent.
fn judge(shared: &Shared, caller: Caller, uri: &UriParts, to: &UriParts) -> InviteDecision {
    let decision = match shared.access.judge_begin(Instant::now(), caller) {
        Ok(()) => judge_call(shared, uri, to),
        Err(reason) => {
            if caller.is_known {
                shared.access.tell_held_back(caller, reason);
            }
            refuse(503, Some(HELD_BACK_RETRY_AFTER))
        }
    };
    match decision {
        InviteDecision::Refuse(_) if !caller.is_known => InviteDecision::Ignore,
        decision => decision,
    }
}

/// Judges an INVITE whose sender may call.
fn judge_call(shared: &Shared, uri: &UriParts, to: &UriParts) -> InviteDecision {
    if shared.draining.load(Ordering::Acquire) {
        return refuse(503, Some(FULL_RETRY_AFTER));
    }
    let line = shared.with_lines(|lines| lines.table.find(uri, to).cloned());
    let Some(line) = line else {
        shared.counters.unknown_line.fetch_add(1, Ordering::Relaxed);
        return refuse(404, None);
    };
    let is_full = no_call_id();
    let admitted = shared.with_run(|run| {
        if is_full || shared.slots.live() >= run.calls_max || run.events.capacity() == 0 {
            return None;
        }
        Some(run.admission.admit(&line))
    });
    match admitted {
        Some(Some(Ok(()))) => InviteDecision::Pass,
        Some(Some(Err(refusal))) => {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            InviteDecision::Refuse(refusal)
        }
        Some(None) => {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            shared.tell_full("the limit of calls is reached");
            refuse(503, Some(FULL_RETRY_AFTER))
        }
        // The engine ends.
        None => refuse(503, None),
    }
}

/// Whether pjsua has no call id left: calls that are over for us keep theirs
/// until their BYE is answered. pjsua itself would answer 486, as if the line
/// were busy.
fn no_call_id() -> bool {
    // SAFETY: both read a number that is there while pjsua is.
    unsafe { ffi::pjsua_call_get_count() >= ffi::pjsua_call_get_max_count() }
}

/// # Safety
/// `rdata` must be the request pjsip passed to the module.
unsafe fn respond(rdata: *mut pjsip_rx_data, refusal: Refusal) {
    let status = c_int::from(refusal.status.clamp(400, 699));
    // SAFETY: the list stays where it is, its header lives in the pool of the
    // request; both outlive the call, which copies the header.
    unsafe {
        let mut head: ffi::pjsip_hdr = std::mem::zeroed();
        let list = &raw mut head;
        text::init_list(list);
        if let Some(after) = refusal.retry_after {
            text::push_retry_after(list, (*rdata).tp_info.pool, after);
        }
        if refusal.status == NOT_ALLOWED {
            text::push_header(list, (*rdata).tp_info.pool, "Allow", ALLOW);
        }
        let endpoint = ffi::pjsua_get_pjsip_endpt();
        ffi::pjsip_endpt_respond_stateless(
            endpoint,
            rdata,
            status,
            std::ptr::null(),
            list,
            std::ptr::null(),
        );
    }
}

/// pjsua answers 500 when it finds no free RTP port, file descriptor or memory;
/// to a caller's trunk that is a defect, not "try the next one". Before the
/// message is printed its status is made 503, with Retry-After. Within a dialog
/// a 500 has its meaning (RFC 3261 section 14.2: an old CSeq, another re-INVITE
/// under way) and stays.
unsafe extern "C" fn on_tx_response(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    guarded("tx_response", None, ffi::PJ_SUCCESS, |_| {
        // SAFETY: pjsip passes the response it is about to print; CSeq is the
        // request's own, copied into every response. The reason text is static.
        unsafe {
            let message = (*tdata).msg;
            if message.is_null() || (*message).line.status.code != 500 {
                return ffi::PJ_SUCCESS;
            }
            let reinvite = REINVITE.take();
            let is_reinvite = reinvite.is_some() && reinvite == transaction(message);
            if text::is_answer_to_invite(message) && !is_reinvite {
                let line = &raw mut (*message).line.status;
                (*line).code = 503;
                (*line).reason = *ffi::pjsip_get_status_text(503);
                let headers = (&raw mut (*message).hdr).cast();
                text::push_retry_after(headers, (*tdata).pool, FULL_RETRY_AFTER);
            }
        }
        ffi::PJ_SUCCESS
    })
}

/// Call-ID and CSeq, which a response has from its request.
///
/// # Safety
/// `message` must be a parsed message that stays as it is during the call.
unsafe fn transaction(message: *mut ffi::pjsip_msg) -> Option<(String, String)> {
    // SAFETY: the caller's promise is passed on.
    unsafe { text::printed(message, "Call-ID").zip(text::printed(message, "CSeq")) }
}

/// pjsua refused an INVITE that the gate let through. What it found no room for
/// is counted so; the rest was refused for what it is.
pub unsafe extern "C" fn on_rejected_incoming_call(
    rejected: *const ffi::pjsua_on_rejected_incoming_call_param,
) {
    guarded("rejected_incoming_call", None, (), |shared| {
        // SAFETY: pjsua passes a block valid for the call.
        let (status, reason) =
            unsafe { ((*rejected).st_code, text::to_string(&(*rejected).st_text)) };
        if matches!(status, 486 | 500 | 503) {
            shared.counters.refused.fetch_add(1, Ordering::Relaxed);
            shared.tell_full("no RTP port, file descriptor or memory is left");
        } else {
            shared.bodies.count_unforeseen(status, &reason);
        }
    });
}

/// pjsua's choice of the account for an INVITE that the gate let through: the
/// same line, found the same way.
pub unsafe extern "C" fn on_acc_find_for_incoming(
    rdata: *const pjsip_rx_data,
    account: *mut ffi::pjsua_acc_id,
) {
    guarded("acc_find", None, (), |shared| {
        // SAFETY: pjsua passes a parsed request and an out-parameter.
        unsafe {
            let message = (*rdata).msg_info.msg;
            let request = (*message).line.req;
            let uri = text::uri_parts(request.uri.cast());
            let to = text::uri_parts((*(*rdata).msg_info.to).uri.cast());
            let found = shared.with_lines(|lines| {
                let line = lines.table.find(&uri, &to)?;
                lines.table.data(line).map(|line| line.account)
            });
            if let Some(found) = found {
                *account = found;
            }
        }
    });
}
