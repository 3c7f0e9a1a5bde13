//! The media transport adapter: sits between pjsua's stream and the call's
//! real transport (UDP, ICE or SRTP, the "member") and takes over RTP in both
//! directions. Signalling operations pass through. The stream above gets no
//! RTP and what it wants to send is swallowed: the bridge is the only speaker.
//!
//! # Life
//! pjsua destroys the adapter like any transport; its memory lives in a pool
//! that the member's group lock frees when the last reference is gone, so a
//! callback under way never sees freed memory.

use std::ffi::{c_uint, c_void};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::addresses::{set_socket_address, socket_address, socket_address_at, socket_address_len};
use super::call_table::{from_key, to_key};
use super::ffi::{self, pj_pool_t, pj_status_t, pjmedia_transport, pjmedia_transport_op};
use super::plain::zeroed;
use super::rtp_gate::{PJ_ENOTSUP, operations};
use super::shared::{guarded, guarded_leg};
use super::{in_flight, outgoing};

/// What C sees: a transport of pjmedia, with what is ours behind it.
#[repr(C)]
struct Adapter {
    base: pjmedia_transport,
    ours: Ours,
}

/// Written once, before C gets the adapter; read-only afterwards, but for the atomic.
struct Ours {
    member: *mut pjmedia_transport,
    pool: *mut pj_pool_t,
    /// The leg, see [`to_key`].
    leg: u64,
    /// Whether our offers must not carry SRTP keys.
    hides_keys: bool,
    /// Whether the member was given us as its user, and not the stream above.
    tapped: AtomicBool,
}

/// What is ours of an adapter.
///
/// # Safety
/// `adapter` must be one made by [`wrap`], whose group lock holds it for `'a`: C calls
/// an operation or callback with its own adapter only, and holds it meanwhile.
unsafe fn ours<'a>(adapter: *mut c_void) -> &'a Ours {
    // SAFETY: the caller's promise; C writes to the base alone.
    unsafe { &(*adapter.cast::<Adapter>()).ours }
}

static OPERATIONS: pjmedia_transport_op = pjmedia_transport_op {
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
    // SAFETY: the caller's promise; both are written once, when the member is made.
    let name = unsafe { (*member).name };
    // SAFETY: as above.
    let group_lock = unsafe { (*member).grp_lock };
    if group_lock.is_null() {
        return None;
    }
    // SAFETY: pjsua is there while it calls back; null where there is no memory.
    let pool = unsafe { ffi::pjsua_pool_create(c"adapter".as_ptr(), 512, 512) };
    if pool.is_null() {
        return None;
    }
    // SAFETY: just made, and nobody else knows of it; it grows to what is asked.
    let adapter = unsafe { ffi::pj_pool_alloc(pool, size_of::<Adapter>()) }.cast::<Adapter>();
    if adapter.is_null() {
        // SAFETY: made above, and nothing lives in it.
        unsafe { ffi::pj_pool_release(pool) };
        return None;
    }
    let whole = Adapter {
        base: pjmedia_transport {
            name,
            type_: ffi::PJMEDIA_TRANSPORT_TYPE_USER,
            op: (&raw const OPERATIONS).cast_mut(),
            grp_lock: group_lock,
            ..zeroed()
        },
        ours: Ours {
            member,
            pool,
            leg,
            hides_keys,
            tapped: AtomicBool::new(false),
        },
    };
    // SAFETY: as many bytes were given, aligned for any C type, before C sees them.
    unsafe { adapter.write(whole) };
    // SAFETY: the member holds its lock; the reference is given back in `destroy`.
    unsafe { ffi::pj_grp_lock_add_ref(group_lock) };
    // SAFETY: as above; the handler frees the pool after the last reference.
    unsafe { ffi::pj_grp_lock_add_handler(group_lock, pool, adapter.cast(), Some(free)) };
    Some(adapter.cast())
}

/// Called by the group lock when nobody can reach the adapter any more.
unsafe extern "C" fn free(adapter: *mut c_void) {
    // SAFETY: the group lock passes what was given to add_handler.
    let pool = unsafe { ours(adapter) }.pool;
    // SAFETY: the adapter's own, so that nothing of it is touched afterwards.
    unsafe { ffi::pj_pool_release(pool) };
}

unsafe extern "C" fn attach2(
    transport: *mut pjmedia_transport,
    parameters: *mut ffi::pjmedia_transport_attach_param,
) -> pj_status_t {
    // SAFETY: C calls an operation with its own adapter.
    let ours = unsafe { ours(transport.cast()) };
    let (member, leg) = (ours.member, from_key(ours.leg));
    guarded_leg("attach", leg, PJ_ENOTSUP, |shared| {
        // SAFETY: the member lives as long as the adapter.
        let Some(attach) = (unsafe { operations(member) }).attach2 else {
            return PJ_ENOTSUP;
        };
        // SAFETY: the parameter block is valid for the call.
        let given = unsafe { *parameters };
        let is_audio = given.media_type == ffi::PJMEDIA_TYPE_AUDIO;
        ours.tapped.store(is_audio, Ordering::Release);
        if !is_audio {
            // SAFETY: the member lives as long as the adapter; the block is C's own.
            return unsafe { attach(member, parameters) };
        }
        let mut tap = tap_of(transport, &given);
        if let Some(destination) = shared.slots.rtp_destination(leg) {
            send_to(&mut tap, destination);
        }
        // SAFETY: as above; the block given to the member is a copy, which it reads.
        let status = unsafe { attach(member, &raw mut tap) };
        if status == ffi::PJ_SUCCESS
            && let Some(gate) = shared.slots.gate(leg)
        {
            gate.open(member);
        }
        status
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
    let announced = socket_address(&tap.rem_addr);
    let is_multiplexed = announced.is_some() && announced == socket_address(&tap.rem_rtcp);
    if !is_multiplexed {
        rtcp.set_port(destination.port().saturating_add(1));
    }
    set_socket_address(&mut tap.rem_addr, destination);
    set_socket_address(&mut tap.rem_rtcp, rtcp);
    tap.addr_len = socket_address_len(&tap.rem_addr);
}

unsafe extern "C" fn detach(transport: *mut pjmedia_transport, user_data: *mut c_void) {
    // SAFETY: C calls an operation with its own adapter.
    let ours = unsafe { ours(transport.cast()) };
    let member = ours.member;
    close_gate(ours.leg, member);
    // It is given what was attached to it: it may compare the two.
    let tapped = ours.tapped.load(Ordering::Acquire);
    let attached = if tapped { transport.cast() } else { user_data };
    // SAFETY: the member lives as long as the adapter is not destroyed.
    if let Some(detach) = unsafe { operations(member) }.detach {
        // SAFETY: as above.
        unsafe { detach(member, attached) };
    }
}

unsafe extern "C" fn destroy(transport: *mut pjmedia_transport) -> pj_status_t {
    // SAFETY: C calls an operation with its own adapter.
    let ours = unsafe { ours(transport.cast()) };
    let (member, leg) = (ours.member, from_key(ours.leg));
    // Order: stop our own sending, then the member, then our reference; the
    // group lock frees the memory once no callback runs.
    close_gate(ours.leg, member);
    guarded_leg("destroy", leg, (), |shared| shared.slots.abandon(leg));
    // SAFETY: C calls an operation with its own adapter, which is alive.
    let group_lock = unsafe { (*transport).grp_lock };
    // SAFETY: the member lives until it is destroyed here.
    let destroy = unsafe { operations(member) }.destroy;
    let status = destroy.map_or(PJ_ENOTSUP, |destroy| {
        // SAFETY: pjsua destroys an adapter once; CLOSE_MEMBER makes the member ours to
        // destroy.
        unsafe { destroy(member) }
    });
    // SAFETY: the lock is alive until the reference that `wrap` took is gone; nothing of
    // the adapter is touched afterwards.
    unsafe { ffi::pj_grp_lock_dec_ref(group_lock) };
    status
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
    // SAFETY: the transport passes a block valid for the call.
    let block = unsafe { &*parameters };
    // Its size is an error where it is negative; without user data it was detached.
    let size = usize::try_from(block.size).unwrap_or(0);
    if block.user_data.is_null() || block.pkt.is_null() || size == 0 {
        return;
    }
    // SAFETY: null or the address of the packet's source, as long as its family says.
    let source = unsafe { socket_address_at(block.src_addr) };
    if source.is_none() && !block.src_addr.is_null() {
        return;
    }
    // SAFETY: what `tap_of` gave as user data; the transport holds it during the call.
    let leg = from_key(unsafe { ours(block.user_data) }.leg);
    // SAFETY: as many bytes as the block says, readable during the call.
    let bytes = unsafe { std::slice::from_raw_parts(block.pkt.cast::<u8>(), size) };
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
    // SAFETY: C calls an operation with its own adapter.
    let ours = unsafe { ours(transport.cast()) };
    let member = ours.member;
    // SAFETY: the member lives as long as the adapter.
    let Some(encode) = (unsafe { operations(member) }).encode_sdp else {
        return PJ_ENOTSUP;
    };
    // SAFETY: as above; the arguments are C's own.
    let status = unsafe { encode(member, pool, local, remote, media) };
    if status != ffi::PJ_SUCCESS || !ours.hides_keys || !remote.is_null() {
        return status;
    }
    // SAFETY: the session is C's own, and lives during the call.
    let session = unsafe { &*local };
    let line = usize::try_from(media)
        .ok()
        .and_then(|at| session.media.get(at));
    if let Some(line) = line.filter(|_| media < session.media_count) {
        // SAFETY: a line of the session, since it has more than that number.
        unsafe { ffi::pjmedia_sdp_media_remove_all_attr(*line, c"crypto".as_ptr()) };
    }
    status
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
            // SAFETY: C calls an operation with its own adapter.
            let member = unsafe { ours(transport.cast()) }.member;
            // SAFETY: the member lives as long as the adapter.
            let operation = unsafe { operations(member) }.$name;
            operation.map_or(PJ_ENOTSUP, |operation| {
                // SAFETY: as above; the arguments are C's own.
                unsafe { operation(member $(, $argument)*) }
            })
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
