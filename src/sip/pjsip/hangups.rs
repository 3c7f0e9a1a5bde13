//! Hang-ups that pjsua refused, tried again until their calls are gone.
//!
//! pjsua gives up a hang-up when the call stays locked for 2 s, before any BYE
//! is sent. For us such a call is over, its leg has ended; without this its
//! caller would sit in silence until he hangs up himself.

use std::collections::VecDeque;
use std::ffi::c_uint;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ffi;
use super::shared::Shared;
use super::text;

/// Says "refused" in place of pjsua, for tests: pjlib's "timed out".
const PJ_ETIMEDOUT: ffi::pj_status_t = 70_009;

/// The hang-ups to try again. At most one for each call that pjsua can have.
#[derive(Default)]
pub struct Hangups {
    refused: Mutex<VecDeque<Refused>>,
    faults: AtomicU32,
}

/// A call that must be ended. pjsua gives its id to another call once it is
/// over: the Call-ID tells them apart.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Refused {
    call: i32,
    sip_call_id: String,
    status: c_uint,
    tries: u32,
}

impl Hangups {
    /// How many calls wait for another try.
    pub fn pending(&self) -> u64 {
        u64::try_from(self.lock().len()).unwrap_or(u64::MAX)
    }

    /// Makes the next hang-ups fail as if their calls were locked.
    pub fn inject_faults(&self, count: u32) {
        self.faults.store(count, Ordering::Release);
    }

    fn is_to_fail(&self) -> bool {
        let less = |left: u32| left.checked_sub(1);
        let taken = self
            .faults
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, less);
        taken.is_ok()
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Refused>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// BYE, CANCEL or a final status, whichever ends the call; where pjsua refuses,
/// it is tried again later. Any registered thread.
///
/// # Safety
/// `message` must be null or valid for the time of the call.
pub unsafe fn hang_up(
    shared: &Shared,
    call: i32,
    status: c_uint,
    message: *const ffi::pjsua_msg_data,
) {
    // SAFETY: the caller's promise is passed on.
    let Err(refused) = (unsafe { try_hang_up(shared, call, status, message) }) else {
        return;
    };
    let Some(sip_call_id) = sip_call_id(call) else {
        return;
    };
    shared
        .counters
        .hangups_refused
        .fetch_add(1, Ordering::Relaxed);
    tracing::warn!(
        sip_call_id,
        reason = text::status_text(refused),
        "a call could not be hung up, it is tried again"
    );
    let mut waiting = shared.hangups.lock();
    waiting.retain(|other| other.call != call);
    waiting.push_back(Refused {
        call,
        sip_call_id,
        status,
        tries: 1,
    });
}

/// Tries the hang-ups again that were refused. One that is refused once more
/// ends the round, since each may have blocked for 2 s.
pub fn retry(shared: &Shared) {
    let round = shared.hangups.lock().len();
    for _ in 0..round {
        let Some(mut next) = shared.hangups.lock().pop_front() else {
            return;
        };
        if sip_call_id(next.call).as_ref() != Some(&next.sip_call_id) {
            continue;
        }
        // SAFETY: no message is given.
        let tried = unsafe { try_hang_up(shared, next.call, next.status, ptr::null()) };
        next.tries += 1;
        let Refused {
            sip_call_id, tries, ..
        } = &next;
        if tried.is_ok() {
            tracing::info!(sip_call_id, tries, "a call is hung up at last");
            continue;
        }
        shared.hangups.lock().push_back(next);
        return;
    }
}

/// # Safety
/// `message` must be null or valid for the time of the call.
unsafe fn try_hang_up(
    shared: &Shared,
    call: i32,
    status: c_uint,
    message: *const ffi::pjsua_msg_data,
) -> Result<(), ffi::pj_status_t> {
    if shared.hangups.is_to_fail() {
        return Err(PJ_ETIMEDOUT);
    }
    // SAFETY: pjsua checks the id; the caller vouches for the message.
    match unsafe { ffi::pjsua_call_hangup(call, status, ptr::null(), message) } {
        ffi::PJ_SUCCESS => Ok(()),
        refused => Err(refused),
    }
}

/// The Call-ID of a call that is not over.
fn sip_call_id(call: i32) -> Option<String> {
    let info = super::calls::info(call)?;
    if info.state == ffi::PJSIP_INV_STATE_DISCONNECTED {
        return None;
    }
    // SAFETY: the text lies in the block itself.
    Some(unsafe { text::to_string(&info.call_id) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_hang_ups_fail_as_were_injected() {
        let hangups = Hangups::default();
        assert!(!hangups.is_to_fail());
        hangups.inject_faults(2);
        assert_eq!([(); 3].map(|()| hangups.is_to_fail()), [true, true, false]);
    }
}
