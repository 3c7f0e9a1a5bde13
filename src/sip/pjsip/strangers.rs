//! Turns strangers away: before pjsip parses what they send, where the library
//! has our patch; by a module before its transactions in any case; and at the
//! door, where they connect.
//!
//! The module judges what pjsip parsed and is the judge that counts. What is
//! turned away before spares the parser, and is no more than that.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use super::access::CallSource;
#[cfg(pj_rx_filter)]
use super::addresses::socket_address;
use super::ffi::{self, pjsip_rx_data, pjsip_transport};
use super::modules::{Module, ModuleCallbacks};
use super::received::ReceivedMessage;
use super::shared::{Shared, guarded};
use super::transports::TransportRef as Connection;
#[cfg(pj_rx_filter)]
use crate::core::access::glance::{Glance, is_head_whole};
#[cfg(pj_rx_filter)]
use crate::core::access::judge_stranger;
use crate::core::access::{AccessReason, source_of};
#[cfg(pj_rx_filter)]
use crate::core::challenges::leave_digest;
use crate::sip::engine::Transport;

static MODULE: Module = Module::new(
    c"sipbridge-strangers",
    // Before the transaction layer, where not even a retransmission is answered,
    // and before whoever refuses a request for its body.
    -5,
    ModuleCallbacks {
        rx_request: Some(on_rx_request),
        ..ModuleCallbacks::NONE
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
    fn of(source: Option<SocketAddr>, transport: Connection<'_>) -> Option<Self> {
        Some(Self {
            address: source?.ip(),
            transport: transport.kind(),
            is_stream: !transport.is_datagram(),
            is_ours: transport.is_ours(),
        })
    }

    fn is_known(&self, shared: &Shared) -> bool {
        self.is_ours || shared.access.is_known(self.address)
    }
}

/// Who sent a request.
pub fn caller(shared: &Shared, request: ReceivedMessage<'_>) -> Option<CallSource> {
    let origin = Origin::of(request.source(), request.transport())?;
    Some(CallSource {
        source: source_of(origin.address),
        is_known: origin.is_known(shared) || has_token(shared, request),
    })
}

fn has_token(shared: &Shared, request: ReceivedMessage<'_>) -> bool {
    let uri = request.message().request_uri();
    let token = uri.and_then(|uri| uri.parts().line);
    token.is_some_and(|token| shared.with_lines(|lines| lines.table.is_token(&token)))
}

/// What came in, before anything of it is parsed: the place, too, to write a form
/// anew that the parser does not know.
#[cfg(pj_rx_filter)]
unsafe extern "C" fn on_rx_packet(rdata: *mut pjsip_rx_data) -> ffi::pj_bool_t {
    // After a panic the packet is dropped: its sender repeats it.
    guarded("rx_packet", None, ffi::FALSE, |shared| {
        // SAFETY: pjsip passes what a transport received, not parsed yet, which no other
        // thread touches during the call.
        let data = unsafe { &mut *rdata };
        let source = socket_address(&data.pkt_info.src_addr);
        // SAFETY: a transport lives as long as what it hands on.
        let transport = unsafe { Connection::new(data.tp_info.transport) };
        let Some(origin) = Origin::of(source, transport) else {
            return ffi::FALSE;
        };
        let length = usize::try_from(data.pkt_info.len).unwrap_or(0);
        let length = length.min(data.pkt_info.packet.len());
        let bytes = data.pkt_info.packet.as_mut_ptr().cast::<u8>();
        // SAFETY: the first bytes of the buffer, borrowed for this call.
        let packet = unsafe { std::slice::from_raw_parts_mut(bytes, length) };
        if judge_packet(shared, &origin, packet) {
            leave_digest(packet);
            return ffi::TRUE;
        }
        if origin.is_stream {
            transport.hang_up();
        }
        ffi::FALSE
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
        // SAFETY: pjsip passes a parsed request, which no other thread touches during
        // the call.
        let request = unsafe { ReceivedMessage::new(rdata) };
        let Some(origin) = Origin::of(request.source(), request.transport()) else {
            return ffi::TRUE;
        };
        let transport = request.transport();
        let access = &shared.access;
        let Err(reason) = judge_request(shared, &origin, request) else {
            if origin.is_stream && !origin.is_ours {
                access.connections().handle_message(transport.id());
            }
            return ffi::FALSE;
        };
        access.drop_stranger(origin.address, origin.transport, reason);
        if origin.is_stream {
            transport.hang_up();
        }
        ffi::TRUE
    })
}

/// Whether a request is heard at all.
fn judge_request(
    shared: &Shared,
    origin: &Origin,
    request: ReceivedMessage<'_>,
) -> Result<(), AccessReason> {
    if origin.is_known(shared) || shared.access.hears_anybody() || has_token(shared, request) {
        return Ok(());
    }
    if !request.has_to_tag() {
        return Err(AccessReason::UnknownSource);
    }
    // The tags and the Call-ID are secrets of those who are in the dialog.
    if request.is_of_dialog() {
        Ok(())
    } else {
        Err(AccessReason::UnknownDialog)
    }
}

/// A connection begins or ends.
pub unsafe extern "C" fn on_transport_state(
    transport: *mut pjsip_transport,
    state: ffi::pjsip_transport_state,
    _: *const ffi::pjsip_transport_state_info,
) {
    guarded("transport_state", None, (), |shared| {
        // SAFETY: pjsip passes a transport that lives during the call.
        let connection = unsafe { Connection::new(transport) };
        if connection.is_datagram() || !connection.is_incoming() || !connection.can_be_held() {
            return;
        }
        match state {
            ffi::PJSIP_TP_STATE_CONNECTED => open(shared, connection),
            ffi::PJSIP_TP_STATE_DESTROY => close(shared, connection),
            _ => {}
        }
    });
}

fn open(shared: &Shared, connection: Connection<'_>) {
    let Some(peer) = connection.peer() else {
        return connection.hang_up();
    };
    let access = &shared.access;
    let is_known = access.is_known(peer.ip());
    // Given back when the connection leaves the table: until then its memory stays.
    connection.hold();
    let (source, id) = (source_of(peer.ip()), connection.id());
    let opened = access
        .connections()
        .open(Instant::now(), id, source, is_known);
    if let Err(reason) = opened {
        access.drop_stranger(peer.ip(), connection.kind(), reason);
        connection.hang_up();
    }
}

fn close(shared: &Shared, connection: Connection<'_>) {
    if shared.access.connections().close(connection.id()) {
        // SAFETY: it was in the table, so that what `open` took is held still; pjsip
        // has a reference of its own during the call.
        unsafe { connection.let_go() };
    }
}

/// Closes connections that brought no whole message in time. Called often.
pub fn close_overdue(shared: &Shared) {
    let overdue = shared.access.connections().take_overdue(Instant::now());
    for (id, source) in overdue {
        // SAFETY: what `open` took keeps the memory, whatever became of the connection.
        let connection = unsafe { Connection::new(id as *mut pjsip_transport) };
        shared
            .access
            .drop_stranger(source, connection.kind(), AccessReason::Incomplete);
        connection.hang_up();
        // SAFETY: it left the table here, so that nobody else gives back what `open`
        // took; nothing is touched afterwards.
        unsafe { connection.let_go() };
    }
}
