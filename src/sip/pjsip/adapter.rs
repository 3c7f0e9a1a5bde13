//! The media transport adapter: sits between pjsua's stream and the call's
//! real transport (UDP, ICE or SRTP, the "member") and takes over RTP in both
//! directions. Signalling operations pass through. The stream above gets no
//! RTP and what it wants to send is swallowed: the bridge is the only speaker.
//!
//! # Life
//! pjsua destroys the adapter like any transport; its memory lives in a pool
//! that the member's group lock frees when the last reference is gone, so a
//! callback under way never sees freed memory.
//!
//! # Locks
//! [`RtpGate`] holds its mutex while it sends through the member. It is taken in
//! `attach2`, `detach` and `destroy`, before or after they call the member, and
//! by whoever ends the leg ([`RtpGate::close`]): pjsua's callbacks, which may hold
//! the locks of pjsua, the call and its dialog, and the control thread. None of
//! them holds the member's locks then. The member's `send_rtp` takes the SRTP and
//! socket locks below it, none of pjsua's, and calls nothing of ours. So the order
//! is always pjsua, then gate, then member; no cycle.

use std::ffi::{c_uint, c_void};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Instant;

use super::call_table::{from_key, to_key};
use super::ffi::{self, pj_pool_t, pj_status_t, pjmedia_transport};
use super::shared::{guarded, guarded_leg};
use super::{in_flight, outgoing, text, threads};
use crate::core::media_link::{RtpSink, SinkError};

/// pjlib's "not supported".
const PJ_ENOTSUP: pj_status_t = 70_012;

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

    fn open(&self, member: *mut pjmedia_transport) {
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
    fn close_to(&self, member: *mut pjmedia_transport) {
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
        // SAFETY: while the gate is open its member is attached and alive, and
        // detach and destroy wait for this mutex; the thread is registered;
        // the packet is readable for its length and copied by the transport.
        let status = unsafe {
            match (*(*member).op).send_rtp {
                Some(send) => send(member, packet.as_ptr().cast(), packet.len()),
                None => PJ_ENOTSUP,
            }
        };
        match status {
            ffi::PJ_SUCCESS => Ok(()),
            status => Err(SinkError::Refused(status)),
        }
    }
}

/// What C sees. Written once, before C gets it; read-only afterwards, but for
/// the atomic.
#[repr(C)]
struct Adapter {
    base: pjmedia_transport,
    member: *mut pjmedia_transport,
    pool: *mut pj_pool_t,
    /// The leg, see [`to_key`].
    leg: u64,
    /// Whether our offers must not carry SRTP keys.
    hides_keys: bool,
    /// Whether the member was given us as its user, and not the stream above.
    tapped: AtomicBool,
}

static OPERATIONS: ffi::pjmedia_transport_op = ffi::pjmedia_transport_op {
    get_info: Some(get_info),
    attach: None,
    detach: Some(detach),
    send_rtp: Some(swallow_rtp),
    send_rtcp: Some(send_rtcp),
    send_rtcp2: Some(send_rtcp2),
    media_create: Some(media_create),
    encode_sdp: Some(encode_sdp),
    media_start: Some(media_start),
    media_stop: Some(media_stop),
    simulate_lost: Some(simulate_lost),
    destroy: Some(destroy),
    attach2: Some(attach2),
};

/// pjsua's on_create_media_transport: wraps `member`. On any failure `member`
/// itself is returned: its call is refused for want of a leg, or ended, because
/// nothing of it would be heard.
pub unsafe extern "C" fn create(
    call: ffi::pjsua_call_id,
    _media: c_uint,
    member: *mut pjmedia_transport,
    _flags: c_uint,
) -> *mut pjmedia_transport {
    guarded("create_media_transport", Some(call), member, |shared| {
        let leg = if outgoing::is_ours(call) {
            outgoing::leg_of(shared, call)
        } else {
            shared.slots.ensure_open(call)
        };
        let Some(leg) = leg else {
            return member;
        };
        let hides_keys = outgoing::hides_keys(shared, call, leg);
        // SAFETY: pjsua hands over a live transport.
        let wrapped = unsafe { wrap(member, to_key(leg), hides_keys) };
        wrapped.unwrap_or_else(|| {
            shared.abort(leg, "no memory for its media transport");
            member
        })
    })
}

/// # Safety
/// `member` must be a live media transport that pjsua hands over.
unsafe fn wrap(
    member: *mut pjmedia_transport,
    leg: u64,
    hides_keys: bool,
) -> Option<*mut pjmedia_transport> {
    // SAFETY: the pool is pjsua's own, big enough for the struct by its
    // growth; the struct is written whole before C sees it; the reference
    // taken on the group lock is given back in `destroy`, and the handler
    // frees the pool after the last reference.
    unsafe {
        let group_lock = (*member).grp_lock;
        if group_lock.is_null() {
            return None;
        }
        let pool = ffi::pjsua_pool_create(c"adapter".as_ptr(), 512, 512);
        if pool.is_null() {
            return None;
        }
        let adapter = ffi::pj_pool_alloc(pool, size_of::<Adapter>()).cast::<Adapter>();
        if adapter.is_null() {
            ffi::pj_pool_release(pool);
            return None;
        }
        let mut base: pjmedia_transport = std::mem::zeroed();
        base.name = (*member).name;
        base.type_ = ffi::PJMEDIA_TRANSPORT_TYPE_USER;
        base.op = (&raw const OPERATIONS).cast_mut();
        base.grp_lock = group_lock;
        adapter.write(Adapter {
            base,
            member,
            pool,
            leg,
            hides_keys,
            tapped: AtomicBool::new(false),
        });
        ffi::pj_grp_lock_add_ref(group_lock);
        ffi::pj_grp_lock_add_handler(group_lock, pool, adapter.cast(), Some(free));
        Some(adapter.cast())
    }
}

/// Called by the group lock when nobody can reach the adapter any more.
unsafe extern "C" fn free(adapter: *mut c_void) {
    // SAFETY: the group lock passes the member given to add_handler; the pool
    // is the adapter's own, so nothing of it is touched afterwards.
    unsafe { ffi::pj_pool_release((*adapter.cast::<Adapter>()).pool) };
}

/// # Safety
/// `transport` must be an adapter made by [`wrap`].
unsafe fn parts(transport: *mut pjmedia_transport) -> (*mut pjmedia_transport, u64) {
    // SAFETY: the caller's promise; both fields are read-only.
    unsafe {
        let adapter = transport.cast::<Adapter>();
        ((*adapter).member, (*adapter).leg)
    }
}

unsafe extern "C" fn attach2(
    transport: *mut pjmedia_transport,
    parameters: *mut ffi::pjmedia_transport_attach_param,
) -> pj_status_t {
    // SAFETY: C calls an operation with its own adapter.
    let (member, leg) = unsafe { parts(transport) };
    let leg = from_key(leg);
    guarded_leg("attach", leg, PJ_ENOTSUP, |shared| {
        // SAFETY: the member lives as long as the adapter, and the parameter
        // block is valid for the call; the block given to the member is a copy.
        unsafe {
            let Some(attach) = (*(*member).op).attach2 else {
                return PJ_ENOTSUP;
            };
            let tapped = &(*transport.cast::<Adapter>()).tapped;
            let is_audio = (*parameters).media_type == ffi::PJMEDIA_TYPE_AUDIO;
            tapped.store(is_audio, Ordering::Release);
            if !is_audio {
                return attach(member, parameters);
            }
            let mut tap = tap_of(transport, &*parameters);
            if let Some(destination) = shared.slots.rtp_destination(leg) {
                send_to(&mut tap, destination);
            }
            let status = attach(member, &raw mut tap);
            if status == ffi::PJ_SUCCESS
                && let Some(gate) = shared.slots.gate(leg)
            {
                gate.open(member);
            }
            status
        }
    })
}

/// What to attach in place of the stream above.
fn tap_of(
    transport: *mut pjmedia_transport,
    parameters: &ffi::pjmedia_transport_attach_param,
) -> ffi::pjmedia_transport_attach_param {
    ffi::pjmedia_transport_attach_param {
        user_data: transport.cast(),
        rtp_cb: None,
        rtp_cb2: Some(on_rtp),
        // Nobody above reads RTCP: the stream sees no RTP to report on.
        rtcp_cb: None,
        ..*parameters
    }
}

/// Attaching makes the member send where the SDP says. Where RTP was found to
/// come from elsewhere, the SDP's address is of no use: nothing that is sent
/// there reaches a caller behind a NAT.
fn send_to(tap: &mut ffi::pjmedia_transport_attach_param, destination: SocketAddr) {
    let mut rtcp = destination;
    // SAFETY: both addresses lie in the block, in full.
    unsafe {
        let announced = text::socket_address(&raw const tap.rem_addr);
        let is_multiplexed =
            announced.is_some() && announced == text::socket_address(&raw const tap.rem_rtcp);
        if !is_multiplexed {
            rtcp.set_port(destination.port().saturating_add(1));
        }
        text::set_socket_address(&raw mut tap.rem_addr, destination);
        text::set_socket_address(&raw mut tap.rem_rtcp, rtcp);
    }
    let family_len = text::socket_address_len(&tap.rem_addr);
    tap.addr_len = family_len;
}

unsafe extern "C" fn detach(transport: *mut pjmedia_transport, user_data: *mut c_void) {
    // SAFETY: C calls an operation with its own adapter.
    let (member, leg) = unsafe { parts(transport) };
    close_gate(leg, member);
    // SAFETY: the member lives as long as the adapter is not destroyed. It is
    // given what was attached to it: it may compare the two.
    unsafe {
        let tapped = (*transport.cast::<Adapter>())
            .tapped
            .load(Ordering::Acquire);
        let attached = if tapped { transport.cast() } else { user_data };
        if let Some(detach) = (*(*member).op).detach {
            detach(member, attached);
        }
    }
}

unsafe extern "C" fn destroy(transport: *mut pjmedia_transport) -> pj_status_t {
    // SAFETY: C calls an operation with its own adapter.
    let (member, leg) = unsafe { parts(transport) };
    // Order: stop our own sending, then the member, then our reference; the
    // group lock frees the memory once no callback runs.
    close_gate(leg, member);
    let leg = from_key(leg);
    guarded_leg("destroy", leg, (), |shared| shared.slots.abandon(leg));
    // SAFETY: pjsua destroys an adapter once; CLOSE_MEMBER makes the member
    // ours to destroy; the group lock is alive until our reference is gone.
    unsafe {
        let group_lock = (*transport).grp_lock;
        let status = match (*(*member).op).destroy {
            Some(destroy) => destroy(member),
            None => PJ_ENOTSUP,
        };
        ffi::pj_grp_lock_dec_ref(group_lock);
        status
    }
}

fn close_gate(leg: u64, member: *mut pjmedia_transport) {
    let leg = from_key(leg);
    guarded_leg("close_gate", leg, (), |shared| {
        if let Some(gate) = shared.slots.gate(leg) {
            gate.close_to(member);
        }
    });
}

/// RTP from the network, decrypted: to the leg's driver.
unsafe extern "C" fn on_rtp(parameters: *mut ffi::pjmedia_tp_cb_param) {
    in_flight::pass(|| {
        // SAFETY: the block is valid for the call, as `take_rtp` asks.
        unsafe { take_rtp(parameters) }
    });
}

/// # Safety
/// As for [`on_rtp`]: `parameters` must be the transport's block.
unsafe fn take_rtp(parameters: *mut ffi::pjmedia_tp_cb_param) {
    // SAFETY: the transport passes a block valid for the call, with our adapter
    // as user data (null once detached), `size` readable bytes or a negative
    // error, and the source's address or null.
    let (leg, bytes, source) = unsafe {
        let parameters = &*parameters;
        let size = usize::try_from(parameters.size).unwrap_or(0);
        if parameters.user_data.is_null() || parameters.pkt.is_null() || size == 0 {
            return;
        }
        let source = text::socket_address(parameters.src_addr);
        if source.is_none() && !parameters.src_addr.is_null() {
            return;
        }
        let leg = from_key((*parameters.user_data.cast::<Adapter>()).leg);
        let bytes = std::slice::from_raw_parts(parameters.pkt.cast::<u8>(), size);
        (leg, bytes, source)
    };
    let follow = guarded_leg("rtp", leg, false, |shared| {
        let delivery = shared.slots.deliver(leg, bytes, source, Instant::now());
        shared.count_rtp(leg, delivery.outcome);
        delivery.follow
    });
    if follow {
        // SAFETY: an out-parameter of the block, which is still the transport's.
        unsafe { (*parameters).rem_switch = ffi::TRUE };
    }
}

/// SDP of ours, with SRTP keys only where they may be.
unsafe extern "C" fn encode_sdp(
    transport: *mut pjmedia_transport,
    pool: *mut pj_pool_t,
    local: *mut ffi::pjmedia_sdp_session,
    remote: *const ffi::pjmedia_sdp_session,
    media: c_uint,
) -> pj_status_t {
    // SAFETY: C calls an operation with its own adapter, whose member lives as
    // long; the session is C's own and has a line of that number.
    unsafe {
        let (member, _) = parts(transport);
        let status = match (*(*member).op).encode_sdp {
            Some(encode) => encode(member, pool, local, remote, media),
            None => PJ_ENOTSUP,
        };
        let hides_keys = (*transport.cast::<Adapter>()).hides_keys && remote.is_null();
        let lines = &(*local).media;
        let line = usize::try_from(media).ok().and_then(|at| lines.get(at));
        if let (ffi::PJ_SUCCESS, true, Some(line)) = (status, hides_keys, line)
            && media < (*local).media_count
        {
            ffi::pjmedia_sdp_media_remove_all_attr(*line, c"crypto".as_ptr());
        }
        status
    }
}

/// What the stream wants to send is not ours to send.
unsafe extern "C" fn swallow_rtp(
    _: *mut pjmedia_transport,
    _: *const c_void,
    _: usize,
) -> pj_status_t {
    ffi::PJ_SUCCESS
}

/// Defines an operation that passes to the member as it is.
macro_rules! pass_on {
    ($($name:ident($($argument:ident: $type:ty),*);)*) => {$(
        unsafe extern "C" fn $name(transport: *mut pjmedia_transport $(, $argument: $type)*) -> pj_status_t {
            // SAFETY: C calls an operation with its own adapter, whose member
            // lives as long; the arguments are C's own.
            unsafe {
                let (member, _) = parts(transport);
                match (*(*member).op).$name {
                    Some(operation) => operation(member $(, $argument)*),
                    None => PJ_ENOTSUP,
                }
            }
        }
    )*};
}

pass_on! {
    get_info(info: *mut ffi::pjmedia_transport_info);
    send_rtcp(packet: *const c_void, size: usize);
    send_rtcp2(address: *const ffi::pj_sockaddr_t, length: c_uint, packet: *const c_void, size: usize);
    media_create(pool: *mut pj_pool_t, options: c_uint, remote: *const ffi::pjmedia_sdp_session, media: c_uint);
    media_start(pool: *mut pj_pool_t, local: *const ffi::pjmedia_sdp_session, remote: *const ffi::pjmedia_sdp_session, media: c_uint);
    media_stop();
    simulate_lost(direction: ffi::pjmedia_dir, percent: c_uint);
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
