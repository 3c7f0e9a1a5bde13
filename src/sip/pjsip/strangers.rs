//! Turns strangers away: before pjsip parses what they send, where the library
//! has our patch; by a module before its transactions in any case; and at the
//! door, where they connect.
//!
//! The module judges what pjsip parsed and is the judge that counts. What is
//! turned away before spares the parser, and is no more than that.

use std::net::IpAddr;
use std::time::Instant;

use super::access::Caller;
use super::ffi::{self, pjsip_rx_data, pjsip_transport};
use super::modules::{Callbacks, Module};
use super::shared::{Shared, guarded};
use super::text;
#[cfg(pj_rx_filter)]
use crate::core::access::glance::{Glance, is_head_whole};
#[cfg(pj_rx_filter)]
use crate::core::access::judge_stranger;
use crate::core::access::{Reason, source_of};
#[cfg(pj_rx_filter)]
use crate::core::challenges::leave_digest;
use crate::sip::engine::Transport;

static MODULE: Module = Module::new(
    c"sipbridge-strangers",
    // Before the transaction layer, where not even a retransmission is answered,
    // and before whoever refuses a request for its body.
    -5,
    Callbacks {
        rx_request: Some(on_rx_request),
        ..Callbacks::NONE
    },
);

/// Puts the filters into the stack, before it is started.
pub fn register() -> ffi::pj_status_t {
    // SAFETY: pjsua is initialised and has no threads yet that read it.
    #[cfg(pj_rx_filter)]
    unsafe {
        ffi::pjsip_rx_packet_filter = Some(on_rx_packet);
    }
    MODULE.register()
}

/// Where a message came from.
#[derive(Clone, Copy)]
struct Origin {
    address: IpAddr,
    transport: Transport,
    /// A stream, such as TCP.
    is_stream: bool,
    /// Over a connection that we made.
    is_ours: bool,
}

impl Origin {
    /// # Safety
    /// `rdata` must be what a transport received.
    unsafe fn of(rdata: *mut pjsip_rx_data) -> Option<Self> {
        // SAFETY: pjsip fills both before it hands a packet on.
        unsafe {
            let transport = (*rdata).tp_info.transport;
            let source = text::socket_address(&raw const (*rdata).pkt_info.src_addr)?;
            Some(Self {
                address: source.ip(),
                transport: transport_of(transport),
                is_stream: (*transport).flag & ffi::PJSIP_TRANSPORT_DATAGRAM == 0,
                is_ours: (*transport).dir == ffi::PJSIP_TP_DIR_OUTGOING,
            })
        }
    }

    fn is_known(&self, shared: &Shared) -> bool {
        self.is_ours || shared.access.is_known(self.address)
    }
}

/// # Safety
/// `transport` must be a transport of pjsip.
unsafe fn transport_of(transport: *mut pjsip_transport) -> Transport {
    // SAFETY: the caller's promise.
    let flags = unsafe { (*transport).flag };
    if flags & ffi::PJSIP_TRANSPORT_SECURE != 0 {
        Transport::Tls
    } else if flags & ffi::PJSIP_TRANSPORT_DATAGRAM != 0 {
        Transport::Udp
    } else {
        Transport::Tcp
    }
}

/// Who sent a request.
///
/// # Safety
/// `rdata` must be a parsed request.
pub unsafe fn caller(shared: &Shared, rdata: *mut pjsip_rx_data) -> Option<Caller> {
    // SAFETY: the caller's promise.
    unsafe {
        let origin = Origin::of(rdata)?;
        Some(Caller {
            source: source_of(origin.address),
            is_known: origin.is_known(shared) || has_token(shared, rdata),
        })
    }
}

/// # Safety
/// `rdata` must be a parsed request.
unsafe fn has_token(shared: &Shared, rdata: *mut pjsip_rx_data) -> bool {
    // SAFETY: a parsed request has a request URI.
    let uri = unsafe { text::uri_parts((*(*rdata).msg_info.msg).line.req.uri.cast()) };
    let line = uri.line;
    line.is_some_and(|token| shared.with_lines(|lines| lines.table.is_token(&token)))
}

/// What came in, before anything of it is parsed: the place, too, to write a form
/// anew that the parser does not know.
#[cfg(pj_rx_filter)]
unsafe extern "C" fn on_rx_packet(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the packet is dropped: its sender repeats it.
    guarded("rx_packet", None, ffi::FALSE, |shared| {
        // SAFETY: pjsip passes what a transport received: `len` bytes, which
        // no other thread touches during the call.
        unsafe {
            let length = usize::try_from((*rdata).pkt_info.len).unwrap_or(0);
            let buffer = (&raw mut (*rdata).pkt_info.packet).cast::<u8>();
            let length = length.min(size_of_val(&(*rdata).pkt_info.packet));
            let packet = std::slice::from_raw_parts_mut(buffer, length);
            match Origin::of(rdata) {
                Some(origin) if judge_packet(shared, &origin, packet) => {
                    leave_digest(packet);
                    ffi::TRUE
                }
                Some(origin) => {
                    if origin.is_stream {
                        hang_up((*rdata).tp_info.transport);
                    }
                    ffi::FALSE
                }
                None => ffi::FALSE,
            }
        }
    })
}

/// Whether a packet may go on to pjsip's parser.
#[cfg(pj_rx_filter)]
fn judge_packet(shared: &Shared, origin: &Origin, packet: &[u8]) -> bool {
    if origin.is_known(shared) || shared.access.hears_anybody() {
        return true;
    }
    // A stream brings a message in pieces; how long it may take is judged
    // by the clock.
    if origin.is_stream && !is_head_whole(packet) {
        return true;
    }
    let glance = Glance::of(packet);
    let is_token = |text: &str| shared.with_lines(|lines| lines.table.is_token(text));
    match judge_stranger(glance.as_ref(), is_token) {
        Ok(()) => true,
        Err(reason) => {
            let access = &shared.access;
            access.drop_stranger(origin.address, origin.transport, reason);
            false
        }
    }
}

/// A request, parsed, before any transaction knows it.
unsafe extern "C" fn on_rx_request(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    guarded("strangers", None, ffi::TRUE, |shared| {
        // SAFETY: pjsip passes a parsed request and its transport.
        unsafe {
            let Some(origin) = Origin::of(rdata) else {
                return ffi::TRUE;
            };
            let transport = (*rdata).tp_info.transport;
            let Err(reason) = judge_request(shared, &origin, rdata) else {
                if origin.is_stream && !origin.is_ours {
                    shared
                        .access
                        .connections()
                        .handle_message(transport as usize);
                }
                return ffi::FALSE;
            };
            let access = &shared.access;
            access.drop_stranger(origin.address, origin.transport, reason);
            if origin.is_stream {
                hang_up(transport);
            }
            ffi::TRUE
        }
    })
}

/// Whether a request is heard at all.
///
/// # Safety
/// `rdata` must be a parsed request.
unsafe fn judge_request(
    shared: &Shared,
    origin: &Origin,
    rdata: *mut pjsip_rx_data,
) -> Result<(), Reason> {
    if origin.is_known(shared) || shared.access.hears_anybody() {
        return Ok(());
    }
    // SAFETY: the caller's promise; every request that pjsip lets through has
    // From, To and Call-ID.
    unsafe {
        if has_token(shared, rdata) {
            return Ok(());
        }
        let info = &(*rdata).msg_info;
        let (local, remote) = (&raw const (*info.to).tag, &raw const (*info.from).tag);
        if (*local).slen == 0 {
            return Err(Reason::UnknownSource);
        }
        // The tags and the Call-ID are secrets of those who are in the dialog.
        let dialog =
            ffi::pjsip_ua_find_dialog(&raw const (*info.cid).id, local, remote, ffi::FALSE);
        if dialog.is_null() {
            return Err(Reason::UnknownDialog);
        }
    }
    Ok(())
}

/// A connection begins or ends.
pub unsafe extern "C" fn on_transport_state(
    transport: *mut pjsip_transport,
    state: ffi::pjsip_transport_state,
    _: *const ffi::pjsip_transport_state_info,
) {
    guarded("transport_state", None, (), |shared| {
        // SAFETY: pjsip passes a transport that lives during the call.
        unsafe {
            if (*transport).flag & ffi::PJSIP_TRANSPORT_DATAGRAM != 0
                || (*transport).dir != ffi::PJSIP_TP_DIR_INCOMING
                || (*transport).grp_lock.is_null()
            {
                return;
            }
            match state {
                ffi::PJSIP_TP_STATE_CONNECTED => open(shared, transport),
                ffi::PJSIP_TP_STATE_DESTROY => close(shared, transport),
                _ => {}
            }
        }
    });
}

/// # Safety
/// `transport` must be an incoming connection with a group lock.
unsafe fn open(shared: &Shared, transport: *mut pjsip_transport) {
    // SAFETY: the caller's promise. The reference is given back when the
    // connection leaves the table: until then its memory stays.
    unsafe {
        let Some(peer) = text::socket_address(&raw const (*transport).key.rem_addr) else {
            return hang_up(transport);
        };
        let is_known = shared.access.is_known(peer.ip());
        ffi::pj_grp_lock_add_ref((*transport).grp_lock);
        let source = source_of(peer.ip());
        let id = transport as usize;
        let opened = shared
            .access
            .connections()
            .open(Instant::now(), id, source, is_known);
        if let Err(reason) = opened {
            let access = &shared.access;
            access.drop_stranger(peer.ip(), transport_of(transport), reason);
            hang_up(transport);
        }
    }
}

/// # Safety
/// As for [`open`].
unsafe fn close(shared: &Shared, transport: *mut pjsip_transport) {
    if shared.access.connections().close(transport as usize) {
        // SAFETY: the reference that `open` took.
        unsafe { ffi::pj_grp_lock_dec_ref((*transport).grp_lock) };
    }
}

/// Closes connections that brought no whole message in time. Called often.
pub fn close_overdue(shared: &Shared) {
    let overdue = shared.access.connections().take_overdue(Instant::now());
    for (id, source) in overdue {
        let transport = id as *mut pjsip_transport;
        // SAFETY: the reference that `open` took keeps the memory, whatever
        // became of the connection; it is given back here.
        unsafe {
            shared
                .access
                .drop_stranger(source, transport_of(transport), Reason::Incomplete);
            let group_lock = (*transport).grp_lock;
            hang_up(transport);
            ffi::pj_grp_lock_dec_ref(group_lock);
        }
    }
}

/// Closes a connection at once.
///
/// # Safety
/// `transport` must be a transport whose memory is there.
unsafe fn hang_up(transport: *mut pjsip_transport) {
    // SAFETY: the caller's promise; pjsip does nothing where it closes already.
    unsafe { ffi::pjsip_transport_shutdown2(transport, ffi::TRUE) };
}
