//! TCP and TLS connections to SIP servers: that one is lost is noticed at once
//! where its end is told, and within 20 s where the other side is just gone.
//! The lines that registered over it are reported, so that they register anew.

use std::collections::HashSet;
use std::ffi::{c_int, c_void};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::ffi;
use super::shared::{Lines, Shared, guarded};
use super::strangers;
use super::transports::TransportRef as Connection;
use crate::core::address::Transport;
use crate::core::ids::LineId;
use crate::sip::engine::{EngineEvent, Registration};

/// Connections that stand, by pjsip's address of them: one that never came to
/// be is the failure of its request, and told as such.
#[derive(Default)]
pub struct ConnectionSet(Mutex<HashSet<usize>>);

impl ConnectionSet {
    fn standing(&self) -> MutexGuard<'_, HashSet<usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Told by pjsip of each connection: those to the lines' servers are missed when
/// they are lost, those of callers are bounded.
pub unsafe extern "C" fn on_transport_state(
    transport: *mut ffi::pjsip_transport,
    state: ffi::pjsip_transport_state,
    info: *const ffi::pjsip_transport_state_info,
) {
    watch(transport, state);
    // SAFETY: pjsip's own arguments are passed on, for the time of the call.
    unsafe { strangers::on_transport_state(transport, state, info) };
}

/// Notices that a connection is lost that stood.
fn watch(transport: *mut ffi::pjsip_transport, state: ffi::pjsip_transport_state) {
    guarded("transport_state", None, (), |shared| {
        let id = transport as usize;
        match state {
            ffi::PJSIP_TP_STATE_CONNECTED => {
                shared.connections.standing().insert(id);
            }
            ffi::PJSIP_TP_STATE_DISCONNECTED => {
                let stood = shared.connections.standing().remove(&id);
                if stood {
                    // SAFETY: pjsip holds the transport during the call.
                    tell_lost(shared, unsafe { Connection::new(transport) });
                }
            }
            ffi::PJSIP_TP_STATE_DESTROY => {
                shared.connections.standing().remove(&id);
            }
            _ => {}
        }
    });
}

fn tell_lost(shared: &Shared, connection: Connection<'_>) {
    let Some((kind, server)) = connection.connection().zip(connection.peer()) else {
        return;
    };
    let mut lines = shared.with_lines(|lines| registered_over(lines, kind, server));
    lines.retain(|(account, _)| !shared.wishes.is_forgotten(*account));
    if lines.is_empty() {
        return;
    }
    tracing::warn!(%server, transport = %kind, lines = lines.len(), "the connection to a SIP server is lost: its lines register anew");
    let mut untold = 0;
    for (_, line) in lines {
        let state = Registration::Failed {
            status: 503,
            text: "the connection to the server was lost".into(),
            retry_after: None,
        };
        untold += usize::from(!shared.announce(EngineEvent::Registration { line, state }));
    }
    if untold > 0 {
        tracing::warn!(
            lines = untold,
            "engine event queue is full: these lines register anew only at their next refresh"
        );
    }
}

/// The lines that register at this address over this transport, and their accounts.
fn registered_over(lines: &Lines, kind: Transport, server: SocketAddr) -> Vec<(i32, LineId)> {
    let uses = |line: &LineId| {
        lines.table.data(line).is_some_and(|line| {
            let at = line
                .server
                .as_ref()
                .filter(|at| at.target().transport() == kind);
            line.binding.registers() && at.is_some_and(|at| at.is_at(server))
        })
    };
    let accounts = lines.by_account.iter();
    accounts
        .filter(|(_, line)| uses(line))
        .map(|(account, line)| (*account, line.clone()))
        .collect()
}

/// Has the kernel notice that the other side is gone: the first probe after
/// 8 s of silence, and the end after 16 s without any answer.
pub fn set_keep_alive(to: &mut ffi::pj_sockopt_params) {
    // Linux values.
    const SOL_SOCKET: c_int = 1;
    const SO_KEEPALIVE: c_int = 9;
    const IPPROTO_TCP: c_int = 6;
    const TCP_KEEPIDLE: c_int = 4;
    const TCP_KEEPINTVL: c_int = 5;
    const TCP_USER_TIMEOUT: c_int = 18;
    static ON: c_int = 1;
    static IDLE_S: c_int = 8;
    static INTERVAL_S: c_int = 4;
    static GONE_AFTER_MS: c_int = 16_000;
    let options: [(c_int, c_int, &'static c_int); 4] = [
        (SOL_SOCKET, SO_KEEPALIVE, &ON),
        (IPPROTO_TCP, TCP_KEEPIDLE, &IDLE_S),
        (IPPROTO_TCP, TCP_KEEPINTVL, &INTERVAL_S),
        (IPPROTO_TCP, TCP_USER_TIMEOUT, &GONE_AFTER_MS),
    ];
    for (slot, (level, name, value)) in to.options.iter_mut().zip(options) {
        slot.level = level;
        slot.optname = name;
        // pjsip copies the value, and only reads it.
        slot.optval = std::ptr::from_ref(value).cast_mut().cast::<c_void>();
        slot.optlen = c_int::try_from(size_of::<c_int>()).unwrap_or(4);
        to.cnt += 1;
    }
}
