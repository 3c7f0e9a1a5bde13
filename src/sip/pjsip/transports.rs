//! Transports of pjsip: sockets and connections.

use std::marker::PhantomData;
use std::net::SocketAddr;

use super::addresses::socket_address;
use super::ffi::{self, pjsip_transport};
use crate::core::address::Transport as Kind;

/// A transport whose memory is there for `'a`.
#[derive(Clone, Copy)]
pub struct TransportRef<'a> {
    transport: *mut pjsip_transport,
    lives: PhantomData<&'a pjsip_transport>,
}

impl TransportRef<'_> {
    /// # Safety
    /// `transport` must be a transport of pjsip, whose memory stays for `'a`: while a
    /// callback has it, or a reference to its group lock is held.
    pub const unsafe fn new(transport: *mut pjsip_transport) -> Self {
        Self {
            transport,
            lives: PhantomData,
        }
    }

    /// What tells it from any other that is there.
    pub fn id(self) -> usize {
        self.transport as usize
    }

    fn flag(self) -> u32 {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        unsafe { (*self.transport).flag }
    }

    /// Whether it has no stream, such as UDP.
    pub fn is_datagram(self) -> bool {
        self.flag() & ffi::PJSIP_TRANSPORT_DATAGRAM != 0
    }

    /// UDP, TCP or TLS, by how it works.
    pub fn kind(self) -> Kind {
        if self.flag() & ffi::PJSIP_TRANSPORT_SECURE != 0 {
            Kind::Tls
        } else if self.is_datagram() {
            Kind::Udp
        } else {
            Kind::Tcp
        }
    }

    /// TCP or TLS by its type; `None` for UDP and any other.
    pub fn connection(self) -> Option<Kind> {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        let kind = unsafe { (*self.transport).key.type_ };
        match u32::try_from(kind).ok()? & !ffi::PJSIP_TRANSPORT_IPV6 {
            ffi::PJSIP_TRANSPORT_TCP => Some(Kind::Tcp),
            ffi::PJSIP_TRANSPORT_TLS => Some(Kind::Tls),
            _ => None,
        }
    }

    /// Whether we made the connection.
    pub fn is_ours(self) -> bool {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        unsafe { (*self.transport).dir == ffi::PJSIP_TP_DIR_OUTGOING }
    }

    /// Whether the other side made the connection.
    pub fn is_incoming(self) -> bool {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        unsafe { (*self.transport).dir == ffi::PJSIP_TP_DIR_INCOMING }
    }

    /// The other side of a connection.
    pub fn peer(self) -> Option<SocketAddr> {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        socket_address(unsafe { &(*self.transport).key.rem_addr })
    }

    /// Its group lock, which holds its memory; `None` where it has none.
    fn group_lock(self) -> Option<*mut ffi::pj_grp_lock_t> {
        // SAFETY: the memory is there, see `new`; written once, when it is made.
        let lock = unsafe { (*self.transport).grp_lock };
        (!lock.is_null()).then_some(lock)
    }

    /// Whether its memory can be held.
    pub fn can_be_held(self) -> bool {
        self.group_lock().is_some()
    }

    /// Holds its memory until `let_go`.
    pub fn hold(self) {
        if let Some(lock) = self.group_lock() {
            // SAFETY: the memory is there, see `new`, and its lock with it.
            unsafe { ffi::pj_grp_lock_add_ref(lock) };
        }
    }

    /// Gives back what `hold` took.
    ///
    /// # Safety
    /// Once for each `hold`; afterwards the memory may be gone.
    pub unsafe fn let_go(self) {
        if let Some(lock) = self.group_lock() {
            // SAFETY: the caller's promise: the reference is there still.
            unsafe { ffi::pj_grp_lock_dec_ref(lock) };
        }
    }

    /// Closes a connection at once.
    pub fn hang_up(self) {
        // SAFETY: the memory is there, see `new`; pjsip does nothing where it closes
        // already.
        unsafe { ffi::pjsip_transport_shutdown2(self.transport, ffi::TRUE) };
    }
}
