//! The RTP sink of one leg: a gate that leads to its media transport while one
//! is attached.
//!
//! # Locks
//! The gate holds its mutex while it sends through the member. It is taken in
//! the adapter's `attach2`, `detach` and `destroy`, before or after they call the member, and
//! by whoever ends the leg ([`RtpGate::close`]): pjsua's callbacks, which may hold
//! the locks of pjsua, the call and its dialog, and the control thread. None of
//! them holds the member's locks then. The member's `send_rtp` takes the SRTP and
//! socket locks below it, none of pjsua's, and calls nothing of ours. So the order
//! is always pjsua, then gate, then member; no cycle.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use super::ffi::{self, pj_status_t, pjmedia_transport, pjmedia_transport_op};
use super::threads;
use crate::core::media_link::{RtpSink, SinkError};

/// pjlib's "not supported".
pub const PJ_ENOTSUP: pj_status_t = 70_012;

/// The RTP sink of one leg: open while a transport is attached.
#[derive(Default)]
pub struct RtpGate {
    state: Mutex<State>,
}

/// What the gate's lock guards.
#[derive(Default)]
struct State {
    member: Option<Member>,
    /// The leg is over. An attach under way must not open the gate any more:
    /// detach and destroy find no leg then, and could not close it.
    over: bool,
}

/// A transport that is attached and not destroyed, as long as the gate that
/// holds it says so.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Member(*mut pjmedia_transport);

// SAFETY: the pointer is only used under the gate's mutex, and pjmedia's
// send_rtp may be called from any registered thread.
unsafe impl Send for Member {}

impl RtpGate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leads to this transport from now on, unless the leg is over.
    pub fn open(&self, member: *mut pjmedia_transport) {
        let mut state = self.state();
        if !state.over {
            state.member = Some(Member(member));
        }
    }

    /// Closes the gate for good; on return no send is under way.
    pub fn close(&self) {
        *self.state() = State {
            member: None,
            over: true,
        };
    }

    /// Closes the gate if it leads to this transport.
    pub fn close_to(&self, member: *mut pjmedia_transport) {
        let mut state = self.state();
        if state.member == Some(Member(member)) {
            state.member = None;
        }
    }
}

impl RtpSink for RtpGate {
    fn send(&self, packet: &[u8]) -> Result<(), SinkError> {
        // The pacer waits for nobody: while the gate is being opened or closed, and
        // only then, is the lock taken, and a packet may as well come too early or late.
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(SinkError::Closed),
        };
        let Some(Member(member)) = state.member else {
            return Err(SinkError::Closed);
        };
        // Only now: an open gate means that pjlib is there to know the thread.
        threads::register("rtp-sink");
        // SAFETY: while the gate is open its member is attached and alive: detach and
        // destroy wait for this mutex.
        let operations = unsafe { operations(member) };
        let (data, length) = (packet.as_ptr().cast(), packet.len());
        let status = operations.send_rtp.map_or(PJ_ENOTSUP, |send| {
            // SAFETY: as above; the thread is registered; the packet is readable for its
            // length and copied by the transport.
            unsafe { send(member, data, length) }
        });
        match status {
            ffi::PJ_SUCCESS => Ok(()),
            status => Err(SinkError::Refused(status)),
        }
    }
}

/// What a transport can do.
///
/// # Safety
/// `transport` must be alive.
pub unsafe fn operations(transport: *mut pjmedia_transport) -> &'static pjmedia_transport_op {
    // SAFETY: the caller's promise; written once, when the transport is made.
    let operations = unsafe { (*transport).op };
    // SAFETY: pjmedia's tables of operations are static and constant, as is the adapter's.
    unsafe { &*operations }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gate_of_a_leg_that_is_over_stays_closed() {
        let transport = std::ptr::dangling_mut::<pjmedia_transport>();
        let is_open = |gate: &RtpGate| gate.state().member.is_some();
        let gate = RtpGate::default();
        gate.open(transport);
        assert!(is_open(&gate));
        gate.close_to(transport.wrapping_add(1));
        assert!(is_open(&gate), "another transport");
        gate.close_to(transport);
        assert!(!is_open(&gate));
        gate.open(transport);
        assert!(is_open(&gate), "after a re-INVITE");
        gate.close();
        // An attach that found the leg before it ended comes now.
        gate.open(transport);
        assert!(!is_open(&gate));
        assert_eq!(gate.send(&[0; 12]), Err(SinkError::Closed));
    }
}
