//! Judges a request before pjsip spends a dialog, a transport or a media port
//! on it: a module between pjsip's transaction and dialog layers, which sees
//! requests that belong to no transaction yet. Retransmissions of an INVITE
//! under way never get here.

use std::cell::RefCell;
use std::ffi::c_int;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::access::CallSource;
use super::ffi::{self, pjsip_rx_data, pjsip_tx_data};
use super::headers::retry_after_value;
use super::messages::Message;
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::sending::Sending;
use super::shared::{Shared, guarded};
use super::strangers;
use super::text;
use super::uris::Uri;
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
    ModuleCallbacks {
        rx_request: Some(on_rx_request),
        tx_response: Some(on_tx_response),
        ..ModuleCallbacks::NONE
    },
);

/// Puts the filter into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    MODULE.register()
}

/// Makes pjsip announce everywhere what is allowed here, in place of the list
/// that its modules have made.
pub fn announce_allowed() {
    // SAFETY: no precondition; pjsua is initialised.
    let endpoint = unsafe { ffi::pjsua_get_pjsip_endpt() };
    let kind = ffi::PJSIP_H_ALLOW as c_int;
    // SAFETY: the endpoint is there, and has no threads yet.
    let allow = unsafe { ffi::pjsip_endpt_get_capability(endpoint, kind, std::ptr::null()) };
    let allow = allow.cast_mut().cast::<ffi::pjsip_generic_array_hdr>();
    // SAFETY: null or the endpoint's own header, of the struct that an Allow has; it is
    // copied into every message that shows it, by threads that are not there yet.
    let Some(allow) = (unsafe { allow.as_mut() }) else {
        return;
    };
    let mut count = 0;
    for (place, method) in allow.values.iter_mut().zip(ALLOW.split(", ")) {
        *place = text::static_str(method);
        count += 1;
    }
    allow.count = count;
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
        // SAFETY: pjsip passes a parsed request, which no other thread touches during
        // the call.
        let request = unsafe { ReceivedMessage::new(rdata) };
        let message = request.message();
        let method = message.method().unwrap_or(ffi::PJSIP_OTHER_METHOD);
        // A REGISTER belongs to no dialog, whatever its To says: pjsip would leave
        // it without an answer.
        if request.has_to_tag() && method != ffi::PJSIP_REGISTER_METHOD {
            if method == ffi::PJSIP_INVITE_METHOD {
                REINVITE.set(transaction(message));
            }
            return ffi::FALSE;
        }
        let Some(caller) = strangers::caller(shared, request) else {
            return ffi::TRUE;
        };
        let decision = match method {
            ffi::PJSIP_INVITE_METHOD => {
                let (uri, to) = called(request);
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
                respond(request, refusal);
                ffi::TRUE
            }
        }
    })
}

/// Whom a request is for, by its first line and by its To.
pub fn called(request: ReceivedMessage<'_>) -> (UriParts, UriParts) {
    let parts = |uri: Option<Uri<'_>>| uri.map(Uri::parts).unwrap_or_default();
    (
        parts(request.message().request_uri()),
        parts(request.to_uri()),
    )
}

/// Judges a new INVITE. A stranger (`--accept any`) hears of a call that is
/// taken and of nothing else: neither which users there are, nor more bytes
/// than he sent.
fn judge(shared: &Shared, caller: CallSource, uri: &UriParts, to: &UriParts) -> InviteDecision {
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
    // SAFETY: reads a number that is there while pjsua is.
    let count = unsafe { ffi::pjsua_call_get_count() };
    // SAFETY: as above.
    count >= unsafe { ffi::pjsua_call_get_max_count() }
}

fn respond(request: ReceivedMessage<'_>, refusal: Refusal) {
    let after = refusal.retry_after.map(retry_after_value);
    let mut headers = Vec::new();
    if let Some(after) = &after {
        headers.push(("Retry-After", after.as_str()));
    }
    if refusal.status == NOT_ALLOWED {
        headers.push(("Allow", ALLOW));
    }
    let status = c_int::from(refusal.status.clamp(400, 699));
    request.respond(status, &headers);
}

/// pjsua answers 500 when it finds no free RTP port, file descriptor or memory;
/// to a caller's trunk that is a defect, not "try the next one". Before the
/// message is printed its status is made 503, with Retry-After. Within a dialog
/// a 500 has its meaning (RFC 3261 section 14.2: an old CSeq, another re-INVITE
/// under way) and stays.
unsafe extern "C" fn on_tx_response(tdata: *mut pjsip_tx_data) -> ffi::pj_status_t {
    guarded("tx_response", None, ffi::PJ_SUCCESS, |_| {
        // SAFETY: pjsip passes the response it is about to print, which no other thread
        // touches during the call.
        let response = unsafe { Sending::new(tdata) };
        let Some(message) = response.message().filter(|message| message.status() == 500) else {
            return ffi::PJ_SUCCESS;
        };
        let reinvite = REINVITE.take();
        let is_reinvite = reinvite.is_some() && reinvite == transaction(message);
        if message.is_answer_to_invite() && !is_reinvite {
            message.set_status(503);
            let after = retry_after_value(FULL_RETRY_AFTER);
            message.push_header(response.pool(), "Retry-After", &after);
        }
        ffi::PJ_SUCCESS
    })
}

/// Call-ID and CSeq, which a response has from its request.
fn transaction(message: Message<'_>) -> Option<(String, String)> {
    let call_id = message.printed("Call-ID");
    call_id.zip(message.printed("CSeq"))
}

/// pjsua refused an INVITE that the gate let through. What it found no room for
/// is counted so; the rest was refused for what it is.
pub unsafe extern "C" fn on_rejected_incoming_call(
    rejected: *const ffi::pjsua_on_rejected_incoming_call_param,
) {
    guarded("rejected_incoming_call", None, (), |shared| {
        // SAFETY: pjsua passes a block valid for the call.
        let rejected = unsafe { &*rejected };
        let status = rejected.st_code;
        // SAFETY: the text lives as long as the block.
        let reason = unsafe { text::to_string(&rejected.st_text) };
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
        // SAFETY: pjsua passes a parsed request, which no other thread touches during
        // the call.
        let (uri, to) = called(unsafe { ReceivedMessage::new(rdata.cast_mut()) });
        let found = shared.with_lines(|lines| {
            let line = lines.table.find(&uri, &to)?;
            lines.table.data(line).map(|line| line.account)
        });
        if let Some(found) = found {
            // SAFETY: an out-parameter of pjsua.
            unsafe { *account = found };
        }
    });
}
