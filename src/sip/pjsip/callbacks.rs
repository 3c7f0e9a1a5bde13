//! What pjsua calls about calls and registrations. Each one: no panic gets
//! out, look up the leg, convert, hand on, never block.

use std::ffi::{c_int, c_uint, c_void};
use std::time::Duration;

use super::adapter;
use super::addresses::socket_address;
use super::calls;
use super::connections;
use super::credentials;
use super::ffi::{self, pjsua_acc_id, pjsua_call_id};
use super::invite_filter::called;
use super::invite_headers::InviteHeaders;
use super::outgoing;
use super::received::ReceivedMessage;
use super::registering;
use super::requests;
use super::shared::{Shared, guarded};
use super::strangers;
use super::text;
use super::transactions::{StateChange, Transaction};
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
        // SAFETY: pjsua passes the INVITE, parsed, which no other thread touches during
        // the call.
        let invite = unsafe { ReceivedMessage::new(rdata) };
        if let Err(status) = announce(shared, account, call, invite) {
            calls::end_without_leg(shared, call, status);
        }
    });
}

/// The line of an INVITE that pjsua gave to an account. Where our own choice is
/// another by now, since lines change, or none, pjsua has guessed: better no
/// line than the wrong one.
fn line_called(
    shared: &Shared,
    account: pjsua_acc_id,
    invite: ReceivedMessage<'_>,
) -> Option<LineId> {
    let (uri, to) = called(invite);
    shared.with_lines(|lines| {
        let ours = lines.table.find(&uri, &to)?;
        let theirs = lines.by_account.get(&account)?;
        (ours == theirs).then(|| theirs.clone())
    })
}

/// Tells the engine's owner of a call; else the status to refuse it with.
fn announce(
    shared: &Shared,
    account: pjsua_acc_id,
    call: pjsua_call_id,
    invite: ReceivedMessage<'_>,
) -> Result<(), c_uint> {
    let line = line_called(shared, account, invite);
    let leg = shared.slots.ensure_open(call).ok_or(503_u32)?;
    let Some(line) = line else {
        shared.slots.abandon(leg);
        return Err(404);
    };
    let (events, rtp) = shared.slots.announce(leg, line.clone()).ok_or(500_u32)?;
    if let Some(caller) = strangers::caller(shared, invite) {
        shared.slots.note_caller(leg, caller);
        // Of a stranger even a call that rings holds a place.
        if !caller.is_known {
            let held = shared.access.note_unacknowledged(caller);
            shared.slots.note_unacknowledged(leg, Some(held));
        }
    }
    let peer = invite.source().ok_or(500_u32)?;
    let from_trunk = shared.is_trunk(&line, peer);
    let headers = InviteHeaders::read(invite);
    let incoming = IncomingCall {
        leg,
        line,
        sip_call_id: invite.call_id(),
        caller: Caller::read(&headers.identity, from_trunk),
        to: Private::new(called(invite).1.user),
        headers: headers.into_handed_on(from_trunk),
        peer,
        events,
        rtp,
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
                // SAFETY: pjsua passes the event that led to the state, with the lock
                // of its transaction held, or null.
                let change = unsafe { StateChange::of(event) };
                let end = how_it_ended(change, &info);
                shared.slots.end(leg, Some(end));
            }
            _ => {}
        }
    });
}

/// `info` is of the same call as the change that ended it.
fn how_it_ended(change: Option<StateChange<'_>>, info: &ffi::pjsua_call_info) -> LegEnd {
    let led_by = change.and_then(|change| {
        let tsx = change.transaction()?;
        Some((tsx.is_server(), tsx.method(), change.cause()))
    });
    // SAFETY: the text points into pjsua's call or a static table.
    let reason = unsafe { text::to_string(&info.last_status_text) };
    let status = u16::try_from(info.last_status).unwrap_or(500);
    let (by, status) = match led_by {
        Some((true, ffi::PJSIP_BYE_METHOD, _)) => (EndedBy::Remote, 200),
        Some((true, ffi::PJSIP_CANCEL_METHOD, _)) => (EndedBy::Remote, 487),
        Some((true, ..)) if status == 487 => (EndedBy::Remote, 487),
        // The callee's own word; a timeout or a broken transport is none.
        Some((false, ffi::PJSIP_INVITE_METHOD, ffi::PJSIP_EVENT_RX_MSG)) if status >= 300 => {
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
        // SAFETY: the block is valid for the call.
        let info = unsafe { &(*parameters).stream_info };
        if info.type_ == ffi::PJMEDIA_TYPE_AUDIO {
            // SAFETY: the type says that this member of the union is filled.
            let audio = unsafe { &info.info.aud };
            let from = socket_address(&audio.rem_addr);
            shared.slots.expect_rtp(leg, from, payload_types(audio));
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
        // SAFETY: pjsua passes a live transaction, with its lock held.
        let tsx = unsafe { Transaction::new(tsx) };
        // SAFETY: the event is the one that changed it, and lives during the call.
        let Some(change) = (unsafe { StateChange::of(event) }) else {
            return;
        };
        note_peer(shared, call, tsx, change);
        credentials::mark_dialog(&shared.policies, call, tsx);
        if !tsx.is_server()
            && tsx.method() == ffi::PJSIP_INVITE_METHOD
            && tsx.state() >= ffi::PJSIP_TSX_STATE_COMPLETED
            && change.state_before() < ffi::PJSIP_TSX_STATE_COMPLETED as c_int
        {
            take_invite_answer(shared, call, tsx.status());
        }
        if tsx.is_server()
            && tsx.state() == ffi::PJSIP_TSX_STATE_TRYING
            && let Some(request) = change.received()
        {
            requests::take(shared, call, tsx, request);
        }
    });
}

/// Notes where messages come from that may carry SDP: behind a NAT the other
/// side's RTP comes from there, whatever the SDP says.
fn note_peer(shared: &Shared, call: pjsua_call_id, tsx: Transaction<'_>, change: StateChange<'_>) {
    let carries_sdp = tsx.method() == ffi::PJSIP_INVITE_METHOD || tsx.method_name() == "UPDATE";
    if carries_sdp
        && let Some(source) = change.received().and_then(ReceivedMessage::source)
        && let Some(leg) = shared.slots.current(call)
    {
        shared.slots.note_peer(leg, source.ip());
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
        // SAFETY: null or a block that is valid for the call.
        let Some(info) = (unsafe { info.as_ref() }) else {
            return;
        };
        // SAFETY: as above.
        let Some(answer) = (unsafe { info.cbparam.as_ref() }) else {
            return;
        };
        let siblings_listed = shared.policies.siblings_listed(account);
        let state = registration(answer, info.renew != ffi::FALSE, siblings_listed);
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

fn registration(
    answer: &ffi::pjsip_regc_cbparam,
    renew: bool,
    siblings_listed: bool,
) -> Registration {
    let accepted = answer.status == ffi::PJ_SUCCESS && answer.code / 100 == 2;
    let unregistering = !renew || answer.is_unreg != ffi::FALSE;
    if unregistering {
        return Registration::Unregistered;
    }
    if accepted && answer.expiration > 0 && answer.expiration != c_uint::MAX {
        let expires = Duration::from_secs(u64::from(answer.expiration));
        return Registration::Registered {
            expires,
            siblings_listed,
        };
    }
    // SAFETY: the reason lives as long as the block.
    let reason = unsafe { text::to_string(&answer.reason) };
    // SAFETY: null or the response, parsed, which lives as long as the block.
    let response = (!answer.rdata.is_null()).then(|| unsafe { ReceivedMessage::new(answer.rdata) });
    let retry_after = response.and_then(|response| response.message().retry_after());
    // A refused credential has both: pjsip's own error, and the 401 that it came with.
    let (status, text) = match answer.status {
        ffi::PJ_SUCCESS => (answer.code, reason),
        // pjsip's own 400 of a refresh that we held back would count as the registrar's word.
        registering::NOT_SENT => (503, "held back: the leases come first".into()),
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
