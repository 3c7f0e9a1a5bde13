//! What pjsua calls about calls and registrations. Each one: no panic gets
//! out, look up the leg, convert, hand on, never block.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use super::adapter;
use super::calls;
use super::connections;
use super::credentials;
use super::ffi::{self, pjsua_acc_id, pjsua_call_id};
use super::invite_headers::InviteHeaders;
use super::outgoing;
use super::registering;
use super::requests;
use super::shared::{Shared, guarded};
use super::strangers;
use super::text;
use crate::core::ids::LineId;
use crate::core::private::Private;
use crate::sip::engine::{EndedBy, EngineEvent, IncomingCall, LegEnd, LegEvent, Registration};
use crate::sip::identity::Caller;
use crate::sip::rtp_intake::PayloadTypes;

/// Enters every callback into pjsua's table.
pub fn install(table: &mut ffi::pjsua_callback) {
    table.on_acc_find_for_incoming = Some(super::invite_filter::on_acc_find_for_incoming);
    table.on_create_media_transport = Some(adapter::create);
    table.on_rejected_incoming_call = Some(super::invite_filter::on_rejected_incoming_call);
    table.on_incoming_call = Some(on_incoming_call);
    table.on_call_state = Some(on_call_state);
    table.on_stream_precreate = Some(on_stream_precreate);
    table.on_call_media_state = Some(on_call_media_state);
    table.on_call_tsx_state = Some(on_call_tsx_state);
    table.on_call_transfer_request2 = Some(on_call_transfer_request2);
    table.on_call_transfer_status = Some(on_call_transfer_status);
    table.on_call_replace_request2 = Some(on_call_replace_request2);
    table.on_reg_state2 = Some(on_reg_state2);
    table.on_transport_state = Some(connections::on_transport_state);
}

unsafe extern "C" fn on_incoming_call(
    account: pjsua_acc_id,
    call: pjsua_call_id,
    rdata: *mut ffi::pjsip_rx_data,
) {
    guarded("incoming_call", Some(call), (), |shared| {
        // SAFETY: pjsua passes the INVITE, parsed, for the time of the call.
        let told = unsafe { announce(shared, account, call, rdata) };
        if let Err(status) = told {
            calls::end_without_leg(shared, call, status);
        }
    });
}

/// The line of an INVITE that pjsua gave to an account. Where our own choice is
/// another by now, since lines change, or none, pjsua has guessed: better no
/// line than the wrong one.
///
/// # Safety
/// `rdata` must be a parsed request.
unsafe fn line_called(
    shared: &Shared,
    account: pjsua_acc_id,
    rdata: *mut ffi::pjsip_rx_data,
) -> Option<LineId> {
    // SAFETY: the caller's promise.
    let (uri, to) = unsafe {
        let info = &(*rdata).msg_info;
        let uri = text::uri_parts((*info.msg).line.req.uri.cast());
        (uri, text::uri_parts((*info.to).uri.cast()))
    };
    shared.with_lines(|lines| {
        let ours = lines.table.find(&uri, &to)?;
        let theirs = lines.by_account.get(&account)?;
        (ours == theirs).then(|| theirs.clone())
    })
}

/// Tells the engine's owner of a call; else the status to refuse it with.
///
/// # Safety
/// `rdata` must be a parsed request.
unsafe fn announce(
    shared: &Shared,
    account: pjsua_acc_id,
    call: pjsua_call_id,
    rdata: *mut ffi::pjsip_rx_data,
) -> Result<(), c_uint> {
    // SAFETY: the caller's promise.
    let line = unsafe { line_called(shared, account, rdata) };
    let leg = shared.slots.ensure_open(call).ok_or(503_u32)?;
    let Some(line) = line else {
        shared.slots.abandon(leg);
        return Err(404);
    };
    let (events, rtp) = shared.slots.announce(leg, line.clone()).ok_or(500_u32)?;
    // SAFETY: the caller's promise.
    if let Some(caller) = unsafe { strangers::caller(shared, rdata) } {
        shared.slots.note_caller(leg, caller);
        // Of a stranger even a call that rings holds a place.
        if !caller.is_known {
            let held = shared.access.note_unacknowledged(caller);
            shared.slots.note_unacknowledged(leg, Some(held));
        }
    }
    // SAFETY: From, To and Call-ID are there in every request that pjsip lets
    // through; the message does not change during the call.
    let incoming = unsafe {
        let info = &(*rdata).msg_info;
        let peer = text::socket_address(&raw const (*rdata).pkt_info.src_addr).ok_or(500_u32)?;
        let from_trunk = shared.is_trunk(&line, peer);
        let headers = InviteHeaders::read(rdata);
        IncomingCall {
            leg,
            line,
            sip_call_id: text::to_string(&(*info.cid).id),
            caller: Caller::read(&headers.identity, from_trunk),
            to: Private::new(text::uri_parts((*info.to).uri.cast()).user),
            headers: headers.handed_on,
            peer,
            events,
            rtp,
        }
    };
    shared.slots.note_peer(leg, incoming.peer.ip());
    shared
        .policies
        .expect_dialog(call, account, incoming.peer.ip());
    if shared.announce(EngineEvent::Incoming(Box::new(incoming))) {
        return Ok(());
    }
    shared.slots.end(leg, None);
    shared
        .counters
        .refused
        .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    Err(503)
}

unsafe extern "C" fn on_call_state(call: pjsua_call_id, event: *mut ffi::pjsip_event) {
    guarded("call_state", Some(call), (), |shared| {
        let Some(leg) = outgoing::leg_of(shared, call) else {
            return;
        };
        let Some(info) = calls::info(call) else {
            return;
        };
        let is_caller = info.role == ffi::PJSIP_ROLE_UAC;
        match info.state {
            ffi::PJSIP_INV_STATE_EARLY if is_caller => {
                let status = u16::try_from(info.last_status).unwrap_or(0);
                shared.emit(leg, LegEvent::Progress(status));
            }
            // Before the INVITE was sent: media could not be set up.
            ffi::PJSIP_INV_STATE_NULL if is_caller => {
                let end = LegEnd {
                    by: EndedBy::Failure,
                    status: 500,
                    reason: "its media could not be set up".into(),
                };
                shared.slots.end(leg, Some(end));
            }
            // An offer of ours that nobody answered: a call for ever silent.
            ffi::PJSIP_INV_STATE_CONFIRMED if shared.slots.format(leg, None).is_none() => {
                shared.abort(leg, "its media was never agreed upon");
            }
            ffi::PJSIP_INV_STATE_CONFIRMED => {
                shared.slots.note_unacknowledged(leg, None);
                shared.emit(leg, LegEvent::Established);
            }
            ffi::PJSIP_INV_STATE_DISCONNECTED => {
                // SAFETY: pjsua passes the event that led to the state; the
                // status text is in `info` itself.
                let end = unsafe { how_it_ended(event, &info) };
                shared.slots.end(leg, Some(end));
            }
            _ => {}
        }
    });
}

/// # Safety
/// `event` must be null or pjsua's event for this state; `info` of the same call.
unsafe fn how_it_ended(event: *mut ffi::pjsip_event, info: &ffi::pjsua_call_info) -> LegEnd {
    // SAFETY: the tag says which member of the union is filled; a transaction
    // event carries its transaction and says what changed it.
    let led_by = unsafe {
        (!event.is_null() && (*event).type_ == ffi::PJSIP_EVENT_TSX_STATE)
            .then(|| (*event).body.tsx_state)
            .filter(|state| !state.tsx.is_null())
            .map(|state| ((*state.tsx).role, (*state.tsx).method.id, state.type_))
    };
    // SAFETY: the text points into pjsua's call or a static table.
    let reason = unsafe { text::to_string(&info.last_status_text) };
    let status = u16::try_from(info.last_status).unwrap_or(500);
    let (by, status) = match led_by {
        Some((ffi::PJSIP_ROLE_UAS, ffi::PJSIP_BYE_METHOD, _)) => (EndedBy::Remote, 200),
        Some((ffi::PJSIP_ROLE_UAS, ffi::PJSIP_CANCEL_METHOD, _)) => (EndedBy::Remote, 487),
        Some((ffi::PJSIP_ROLE_UAS, ..)) if status == 487 => (EndedBy::Remote, 487),
        // The callee's own word; a timeout or a broken transport is none.
        Some((ffi::PJSIP_ROLE_UAC, ffi::PJSIP_INVITE_METHOD, ffi::PJSIP_EVENT_RX_MSG))
            if status >= 300 =>
        {
            (EndedBy::Remote, status)
        }
        _ => (EndedBy::Failure, status),
    };
    LegEnd { by, status, reason }
}

unsafe extern "C" fn on_stream_precreate(
    call: pjsua_call_id,
    parameters: *mut ffi::pjsua_on_stream_precreate_param,
) {
    guarded("stream_precreate", Some(call), (), |shared| {
        let Some(leg) = shared.slots.current(call) else {
            return;
        };
        // SAFETY: the block is valid for the call; its type says which member
        // of the union is filled.
        unsafe {
            let info = &(*parameters).stream_info;
            if info.type_ == ffi::PJMEDIA_TYPE_AUDIO {
                let audio = &raw const info.info.aud;
                let from = text::socket_address(&raw const (*audio).rem_addr);
                shared.slots.expect_rtp(leg, from, payload_types(&*audio));
            }
        }
    });
}

/// What the other side may send: what was negotiated, and where that is G.711
/// each form of it.
fn payload_types(audio: &ffi::pjmedia_stream_info) -> PayloadTypes {
    let negotiated = [
        audio.rx_pt,
        c_uint::try_from(audio.rx_event_pt).unwrap_or(u32::MAX),
    ];
    let negotiated = negotiated
        .into_iter()
        .filter_map(|pt| u8::try_from(pt).ok());
    let types = negotiated.fold(PayloadTypes::default(), PayloadTypes::with);
    // SAFETY: the name lies in pjsua's description of the stream.
    let name = unsafe { text::to_string(&audio.fmt.encoding_name) };
    if ["PCMU", "PCMA"]
        .iter()
        .any(|g711| name.eq_ignore_ascii_case(g711))
    {
        types.with_g711()
    } else {
        types
    }
}

unsafe extern "C" fn on_call_media_state(call: pjsua_call_id) {
    guarded("call_media_state", Some(call), (), |shared| {
        if let Some(leg) = shared.slots.current(call) {
            calls::tell_media(shared, leg, call);
        }
    });
}

/// Requests inside a call, and the answers to our INVITEs.
unsafe extern "C" fn on_call_tsx_state(
    call: pjsua_call_id,
    tsx: *mut ffi::pjsip_transaction,
    event: *mut ffi::pjsip_event,
) {
    guarded("call_tsx_state", Some(call), (), |shared| {
        // SAFETY: pjsua passes a live transaction; a transaction event that
        // came from a message carries that message.
        unsafe {
            note_peer(shared, call, tsx, event);
            credentials::mark_dialog(&shared.policies, call, tsx);
            if (*tsx).role == ffi::PJSIP_ROLE_UAC
                && (*tsx).method.id == ffi::PJSIP_INVITE_METHOD
                && (*tsx).state >= ffi::PJSIP_TSX_STATE_COMPLETED
                && (*event).body.tsx_state.prev_state < ffi::PJSIP_TSX_STATE_COMPLETED as c_int
            {
                take_invite_answer(shared, call, (*tsx).status_code);
            }
            if (*tsx).role == ffi::PJSIP_ROLE_UAS
                && (*tsx).state == ffi::PJSIP_TSX_STATE_TRYING
                && (*event).body.tsx_state.type_ == ffi::PJSIP_EVENT_RX_MSG
            {
                requests::take(shared, call, tsx, (*event).body.tsx_state.src.rdata);
            }
        }
    });
}

/// Notes where messages come from that may carry SDP: behind a NAT the other
/// side's RTP comes from there, whatever the SDP says.
///
/// # Safety
/// `tsx` must be a live transaction, `event` what changed its state.
unsafe fn note_peer(
    shared: &Shared,
    call: pjsua_call_id,
    tsx: *mut ffi::pjsip_transaction,
    event: *mut ffi::pjsip_event,
) {
    // SAFETY: the caller's promise; an event that came from a message carries
    // that message.
    unsafe {
        let state = (*event).body.tsx_state;
        let carries_sdp = (*tsx).method.id == ffi::PJSIP_INVITE_METHOD
            || text::to_string(&(*tsx).method.name) == "UPDATE";
        if !carries_sdp || state.type_ != ffi::PJSIP_EVENT_RX_MSG {
            return;
        }
        let source = &raw const (*state.src.rdata).pkt_info.src_addr;
        if let Some(source) = text::socket_address(source)
            && let Some(leg) = shared.slots.current(call)
        {
            shared.slots.note_peer(leg, source.ip());
        }
    }
}

/// The final answer to an INVITE of ours: to a re-INVITE it says whether the
/// other side is held. pjsua keeps a challenge to itself that it answers, and
/// one that follows on its answer too: the driver gives that up by the clock.
fn take_invite_answer(shared: &Shared, call: pjsua_call_id, status: c_int) {
    if let Some(leg) = shared.slots.current(call) {
        calls::end_hold(shared, leg, u16::try_from(status).unwrap_or(500));
    }
}

/// A REFER would make us call whomever a caller names, at the line's cost.
unsafe extern "C" fn on_call_transfer_request2(
    call: pjsua_call_id,
    _destination: *const ffi::pj_str_t,
    code: *mut ffi::pjsip_status_code,
    _setting: *mut ffi::pjsua_call_setting,
) {
    guarded("transfer_request", Some(call), (), |_| {
        // SAFETY: an out-parameter of pjsua.
        unsafe { *code = 603 };
    });
}

/// An INVITE with Replaces would take over a call behind its driver's back.
unsafe extern "C" fn on_call_replace_request2(
    call: pjsua_call_id,
    _rdata: *mut ffi::pjsip_rx_data,
    code: *mut c_int,
    _text: *mut ffi::pj_str_t,
    _setting: *mut ffi::pjsua_call_setting,
) {
    guarded("replace_request", Some(call), (), |_| {
        // SAFETY: an out-parameter of pjsua.
        unsafe { *code = 603 };
    });
}

unsafe extern "C" fn on_call_transfer_status(
    call: pjsua_call_id,
    status: c_int,
    _text: *const ffi::pj_str_t,
    last: ffi::pj_bool_t,
    go_on: *mut ffi::pj_bool_t,
) {
    guarded("transfer_status", Some(call), (), |shared| {
        let status = u16::try_from(status).unwrap_or(500);
        // A final status is the outcome, also while the subscription lives on.
        let last = last != ffi::FALSE || status >= 200;
        // SAFETY: an out-parameter of pjsua.
        unsafe { *go_on = if last { ffi::FALSE } else { ffi::TRUE } };
        let Some(leg) = shared.slots.current(call) else {
            return;
        };
        if !last && shared.slots.is_transferring(leg) {
            shared.emit(leg, LegEvent::Transfer { status, last });
        } else if last {
            // A subscription that ends on a provisional word has failed.
            let status = if status < 200 { 500 } else { status };
            calls::end_transfer(shared, leg, status);
        }
    });
}

unsafe extern "C" fn on_reg_state2(account: pjsua_acc_id, info: *mut ffi::pjsua_reg_info) {
    guarded("reg_state", None, (), |shared| {
        // SAFETY: the blocks are valid for the call.
        let state = unsafe {
            if info.is_null() || (*info).cbparam.is_null() {
                return;
            }
            registration(&*(*info).cbparam, (*info).renew != ffi::FALSE)
        };
        let next = registering::answered(shared, account);
        let Some(line) = line_of(shared, account, &state) else {
            return;
        };
        // With the next REGISTER on its way this one's failure says nothing.
        if next.is_some() && matches!(state, Registration::Failed { .. }) {
            return;
        }
        let told = shared.announce(EngineEvent::Registration {
            line: line.clone(),
            state,
        });
        if !told && shared.has_listener() {
            tracing::warn!(%line, "engine event queue is full, a registration state was dropped");
        }
    });
}

/// The line to tell of an account's registration. A retired account is let go
/// with its last answer, and says nothing for a line that has a new one.
fn line_of(shared: &Shared, account: pjsua_acc_id, state: &Registration) -> Option<LineId> {
    shared.change_lines(|lines| {
        let line = lines.by_account.get(&account).cloned()?;
        let current = lines.table.data(&line).map(|line| line.account);
        if current != Some(account) && *state == Registration::Unregistered {
            lines.by_account.remove(&account);
        }
        current
            .is_none_or(|current| current == account)
            .then_some(line)
    })
}

/// # Safety
/// `answer` must be pjsip's own block.
unsafe fn registration(answer: &ffi::pjsip_regc_cbparam, renew: bool) -> Registration {
    let accepted = answer.status == ffi::PJ_SUCCESS && answer.code / 100 == 2;
    let unregistering = !renew || answer.is_unreg != ffi::FALSE;
    if unregistering {
        return Registration::Unregistered;
    }
    if accepted && answer.expiration > 0 && answer.expiration != c_uint::MAX {
        let expires = Duration::from_secs(u64::from(answer.expiration));
        return Registration::Registered { expires };
    }
    // SAFETY: the reason lives as long as the block, as does the response,
    // where there is one.
    let (reason, retry_after) = unsafe {
        let response = answer.rdata.as_ref().map(|rdata| rdata.msg_info.msg);
        let response = response.filter(|message| !message.is_null());
        let retry_after = response.and_then(|message| text::retry_after(message));
        (text::to_string(&answer.reason), retry_after)
    };
    // A refused credential has both: pjsip's own error, and the 401 that it came with.
    let (status, text) = match answer.status {
        ffi::PJ_SUCCESS => (answer.code, reason),
        error if answer.code >= 300 => (answer.code, text::status_text(error)),
        error => (408, text::status_text(error)),
    };
    Registration::Failed {
        status: u16::try_from(status).unwrap_or(503),
        text,
        retry_after,
    }
}

/// The timer on pjsua's own thread that shows it is alive.
pub const BEAT_MS: c_uint = 500;

/// Counts a beat of pjsua's thread and asks for the next one.
pub unsafe extern "C" fn on_beat(_: *mut c_void) {
    guarded("beat", None, (), |shared| {
        shared
            .counters
            .worker_beats
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        strangers::close_overdue(shared);
    });
    schedule_beat();
}

/// Starts the beat. It ends with the stack.
pub fn schedule_beat() {
    // SAFETY: the callback is a plain function without user data; pjsua frees
    // the timer. Called once pjsua is initialised, and from its own timer.
    unsafe {
        #[cfg(pj_timer_debug)]
        ffi::pjsua_schedule_timer2_dbg(
            Some(on_beat),
            std::ptr::null_mut(),
            BEAT_MS,
            c"beat".as_ptr(),
            0,
        );
        #[cfg(not(pj_timer_debug))]
        ffi::pjsua_schedule_timer2(Some(on_beat), std::ptr::null_mut(), BEAT_MS);
    }
}
