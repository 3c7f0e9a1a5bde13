//! Calls that we place, and how their slot is found.
//!
//! An incoming call is known by its pjsua call id before anything happens to
//! it. For a call that we place pjsua chooses the id inside
//! `pjsua_call_make_call` and calls back before that returns; with ICE it may
//! also return first and call back from another thread. So each call is made
//! with a ticket, a number in pjsua's user data, and the one call that is being
//! placed waits in [`PendingDials`] under its ticket. Whoever names the call id
//! first opens the slot and leaves the driver's receivers there:
//!
//! 1. `on_create_media_transport`, before the INVITE is sent: the usual case;
//! 2. `on_call_state`, when media failed before a transport was handed over;
//! 3. the control thread, when `make_call` returned and ICE is still at work.
//!
//! The control thread then takes leg and receivers by the ticket, not by the
//! call id: the leg may be over by then, and the id another call's. A callback
//! that finds its ticket used up takes what is in the slot, and opens nothing:
//! a leg that was hung up while ICE was at work does not come to life again.

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::call_table::{CallTable, Receivers};
use super::calls;
use super::ffi;
use super::msg_data::with_headers;
use super::shared::Shared;
use super::text::{self, PjStrings};
use crate::core::ids::{LegId, LineId};
use crate::core::private::Private;
use crate::core::sip_header::{SipHeader, check_sip_headers};
use crate::sip::engine::{CallRefused, OutgoingCall, OutgoingLeg};

/// pjlib's "too many objects": no call id is free.
const PJ_ETOOMANY: ffi::pj_status_t = 70_010;
/// pjlib's "invalid argument": what pjnath says when every candidate failed
/// for want of a port. Arguments of ours that are wrong have errors of their own.
const PJ_EINVAL: ffi::pj_status_t = 70_004;
/// pjlib's "not enough memory".
const PJ_ENOMEM: ffi::pj_status_t = 70_007;
/// Where pjlib puts the system's error numbers.
const OS_ERRORS_FROM: ffi::pj_status_t = 120_000;
/// ENOMEM, ENFILE, EMFILE, EADDRINUSE, ENOBUFS of Linux.
const NOTHING_LEFT: [ffi::pj_status_t; 5] = [12, 23, 24, 98, 105];

/// Longest number that is shown.
const NUMBER_DIGITS_MAX: usize = 20;

const NO_ROOM: &str = "no leg, port or file descriptor for a call of our own";

/// The call that is being placed. Its lock is taken before a slot's, never
/// after.
#[derive(Default)]
pub struct PendingDials {
    last_ticket: AtomicUsize,
    place: Mutex<Option<PendingDial>>,
}

struct PendingDial {
    ticket: usize,
    line: LineId,
    opened: Option<(LegId, Receivers)>,
}

impl PendingDials {
    fn place(&self) -> MutexGuard<'_, Option<PendingDial>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to place a call; never ticket 0, which says "not ours".
    fn begin(&self, line: LineId) -> usize {
        let last = self.last_ticket.fetch_add(1, Ordering::Relaxed);
        let ticket = last.wrapping_add(1).max(1);
        *self.place() = Some(PendingDial {
            ticket,
            line,
            opened: None,
        });
        ticket
    }

    /// Opens the slot, unless somebody has before.
    fn open(&self, slots: &CallTable, ticket: usize, call: i32) {
        let mut place = self.place();
        let waiting = place
            .as_mut()
            .filter(|place| place.ticket == ticket && place.opened.is_none());
        if let Some(place) = waiting
            && let Some(leg) = slots.ensure_open(call)
        {
            let receivers = slots.announce(leg, place.line.clone());
            place.opened = receivers.map(|receivers| (leg, receivers));
        }
    }

    /// Ends the placing and takes what it led to.
    fn finish(&self) -> Option<(LegId, Receivers)> {
        self.place().take()?.opened
    }
}

/// The ticket of a call that we placed; 0 for incoming calls.
fn ticket_of(call: i32) -> usize {
    // SAFETY: pjsua checks the id and reads a field of a table that lives as
    // long as the stack; a callback's call is not reset meanwhile.
    let user_data: *mut c_void = unsafe { ffi::pjsua_call_get_user_data(call) };
    user_data.addr()
}

/// Whether we placed a call.
pub fn is_ours(call: i32) -> bool {
    ticket_of(call) != 0
}

/// The leg of a pjsua call in a callback that may be its first one; `None`
/// when it is over.
pub fn leg_of(shared: &Shared, call: i32) -> Option<LegId> {
    let ticket = ticket_of(call);
    if ticket != 0 {
        shared.pending_dials.open(&shared.slots, ticket, call);
    }
    shared.slots.current(call)
}

/// Places a call and says what became of it. Run by the control thread.
pub fn place(shared: &Shared, call: OutgoingCall) {
    if call.reply.is_closed() {
        return;
    }
    let result = try_place(shared, &call);
    match &result {
        Ok(placed) => tracing::debug!(leg = %placed.leg, line = %call.line, "a call is placed"),
        Err(CallRefused::Full) => shared.tell_full(NO_ROOM),
        Err(refused) => tracing::warn!(line = %call.line, %refused, "a call is not placed"),
    }
    if let Err(Ok(placed)) = call.reply.send(result) {
        calls::hang_up(shared, placed.leg, 487, None);
    }
}

fn try_place(shared: &Shared, wanted: &OutgoingCall) -> Result<OutgoingLeg, CallRefused> {
    let line = &wanted.line;
    // Judged by who asked for them; what C prints without a question is judged here as well.
    check_sip_headers(&wanted.headers).map_err(|error| CallRefused::Failed(error.to_string()))?;
    let (account, domain) = shared
        .with_lines(|lines| {
            let line = lines.table.data(line)?;
            Some((line.account, line.domain.clone()))
        })
        .ok_or(CallRefused::UnknownLine)?;
    let calls_max = shared.with_run(|run| run.calls_max).unwrap_or(0);
    if shared.slots.live() >= calls_max {
        return Err(CallRefused::Full);
    }
    let ticket = shared.pending_dials.begin(line.clone());
    let uri = calls::target(wanted.destination.expose(), &domain);
    let from = wanted
        .shown
        .as_ref()
        .map(|number| from_uri(number, &domain));
    let made = make_call(
        account,
        &uri,
        ticket,
        from.transpose()?.as_deref(),
        &wanted.headers,
    );
    if let Ok(call) = made {
        shared.pending_dials.open(&shared.slots, ticket, call);
    }
    let opened = shared.pending_dials.finish();
    match (made, opened) {
        (Ok(call), Some((leg, (events, rtp)))) => Ok(OutgoingLeg {
            leg,
            sip_call_id: calls::info(call).map_or_else(String::new, |info| {
                // SAFETY: the text lies in the block itself.
                unsafe { text::to_string(&info.call_id) }
            }),
            events,
            rtp,
        }),
        (Ok(call), None) => {
            // Its INVITE is out, and nobody would ever end it. The id may be
            // another call's by now.
            if ticket_of(call) == ticket {
                calls::end_without_leg(shared, call, 487);
            }
            Err(CallRefused::Full)
        }
        (Err(status), opened) => {
            if let Some((leg, _)) = opened {
                shared.slots.end(leg, None);
            }
            Err(refusal(status))
        }
    }
}

/// What From says where another number than the line's is shown.
fn from_uri(number: &Private, domain: &str) -> Result<String, CallRefused> {
    let number = number.expose();
    let digits = number.strip_prefix('+').unwrap_or(number);
    let is_number = (1..=NUMBER_DIGITS_MAX).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number {
        let text = "the number to be shown is no phone number";
        return Err(CallRefused::Failed(text.to_owned()));
    }
    Ok(format!("<sip:{number}@{domain}>"))
}

fn make_call(
    account: i32,
    uri: &str,
    ticket: usize,
    from: Option<&str>,
    headers: &[SipHeader],
) -> Result<i32, ffi::pj_status_t> {
    let mut lent = PjStrings::default();
    let uri = lent.lend(uri);
    let mut call = -1;
    let mut ask = |message: *const ffi::pjsua_msg_data| {
        let setting = calls::audio_only();
        // SAFETY: the URI and the message live during the call and are copied by pjsua, as are
        // the settings; the user data is a number that nobody follows; the id is an
        // out-parameter.
        unsafe {
            ffi::pjsua_call_make_call(
                account,
                &raw const uri,
                &raw const setting,
                ptr::without_provenance_mut(ticket),
                message,
                &raw mut call,
            )
        }
    };
    let status = if headers.is_empty() && from.is_none() {
        ask(ptr::null())
    } else {
        let pairs = headers.iter();
        let pairs = pairs.map(|header| (header.name.as_str(), header.value.expose()));
        with_headers(from, pairs, ask).unwrap_or(PJ_ENOMEM)
    };
    if status == ffi::PJ_SUCCESS {
        Ok(call)
    } else {
        Err(status)
    }
}

fn refusal(status: ffi::pj_status_t) -> CallRefused {
    let nothing_left = status
        .checked_sub(OS_ERRORS_FROM)
        .is_some_and(|error| NOTHING_LEFT.contains(&error));
    if [PJ_ETOOMANY, PJ_EINVAL, PJ_ENOMEM].contains(&status) || nothing_left {
        CallRefused::Full
    } else {
        CallRefused::Failed(text::status_text(status))
    }
}

/// Whether SRTP keys must be left out of what we offer on a call: the offer of
/// a call of ours on a line without TLS. In the clear they protect nothing, and
/// some trunks refuse plain RTP that carries them.
pub fn hides_keys(shared: &Shared, call: i32, leg: LegId) -> bool {
    is_ours(call)
        && shared.slots.line(leg).is_none_or(|line| {
            shared.with_lines(|lines| lines.table.data(&line).is_none_or(|line| !line.secure))
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sip::engine::{EndedBy, LegEnd, LegEvent};

    #[test]
    fn a_call_that_is_refused_before_we_look_keeps_its_leg_and_takes_no_other() {
        let slots = CallTable::new(4);
        let pending_dials = PendingDials::default();
        let ticket = pending_dials.begin(LineId::new("a"));
        pending_dials.open(&slots, ticket + 1, 3);
        assert_eq!(slots.live(), 0, "another ticket");
        // Media is created, the INVITE sent, and refused.
        pending_dials.open(&slots, ticket, 3);
        let ours = slots.current(3).unwrap();
        let end = LegEnd {
            by: EndedBy::Remote,
            status: 486,
            reason: String::new(),
        };
        slots.end(ours, Some(end));
        // The call id is an incoming call's by the time make_call returns.
        let theirs = slots.ensure_open(3).unwrap();
        pending_dials.open(&slots, ticket, 3);
        let (leg, (mut events, _rtp)) = pending_dials.finish().unwrap();
        assert_eq!(leg, ours);
        assert!(matches!(events.try_recv(), Ok(LegEvent::Ended(end)) if end.status == 486));
        assert_eq!((slots.live(), slots.current(3)), (1, Some(theirs)));
        assert!(slots.announce(theirs, LineId::new("b")).is_some());
        // A late callback of a call whose ticket is used up opens nothing.
        slots.end(theirs, None);
        pending_dials.open(&slots, ticket, 3);
        assert_eq!(slots.live(), 0);
    }

    #[test]
    fn what_is_used_up_is_full_and_the_rest_has_a_reason() {
        for status in [PJ_ETOOMANY, PJ_EINVAL, PJ_ENOMEM, 120_024, 120_098] {
            assert_eq!(refusal(status), CallRefused::Full, "{status}");
        }
        for status in [171_039, 120_111, 1] {
            assert!(
                matches!(refusal(status), CallRefused::Failed(_)),
                "{status}"
            );
        }
    }
}
