//! Where pjsip sends a request: it asks here instead of a resolver of its own
//! (`pjsip_endpt_set_ext_resolver`). What is known is answered at once; the
//! rest by the control thread once the name is looked up.
//!
//! # Lifetimes
//! Who asks holds its transaction and message until it is called back, once
//! (sip_util.c, sip_transaction.c). So each request is answered exactly once:
//! what still waits at the end of the stack is told that it is cancelled, and
//! from then on an unknown name is refused at once.

use std::collections::HashMap;
use std::ffi::c_void;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::addresses::{set_socket_address, socket_address_len};
use super::ffi;
use super::plain::boxed;
use super::shared::{ControlCommand, Shared, guarded};
use super::text::{self, PjStrings};
use crate::core::address::Transport;
use crate::dns::{LocateError, Servers, Target};

/// pjlib's "cannot be resolved", which pjsip makes a 502.
const PJ_ERESOLVE: ffi::pj_status_t = 70_018;
/// pjlib's "cancelled".
const PJ_ECANCELLED: ffi::pj_status_t = 70_014;
/// How many requests wait for a name at once.
const WAITING_MAX: usize = 8_192;

type Found = Result<Vec<SocketAddr>, LocateError>;

/// Requests that wait for a name.
#[derive(Default)]
pub struct Waiting(Mutex<Table>);

#[derive(Default)]
struct Table {
    next: u64,
    waiting: HashMap<u64, Request>,
    /// Looked up, and not told yet.
    found: Vec<(u64, Found)>,
    closed: bool,
}

/// What pjsip is to be told, and how.
struct Request {
    host: String,
    transport: Transport,
    /// pjsip's, which it keeps alive until it is called back.
    token: usize,
    callback:
        unsafe extern "C" fn(ffi::pj_status_t, *mut c_void, *const ffi::pjsip_server_addresses),
}

impl Waiting {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins or ends the time in which requests may wait.
    fn set_closed(&self, closed: bool) -> Vec<Request> {
        let mut table = self.table();
        table.closed = closed;
        table.found.clear();
        table.waiting.drain().map(|(_, request)| request).collect()
    }

    /// Enters a request; gives it back where it may not wait.
    fn enter(&self, request: Request) -> Result<u64, Request> {
        let mut table = self.table();
        if table.closed || table.waiting.len() >= WAITING_MAX {
            return Err(request);
        }
        table.next += 1;
        let id = table.next;
        table.waiting.insert(id, request);
        Ok(id)
    }

    fn note(&self, id: u64, found: Found) {
        let mut table = self.table();
        if table.waiting.contains_key(&id) {
            table.found.push((id, found));
        }
    }

    fn take_found(&self) -> Vec<(Request, Found)> {
        let mut table = self.table();
        let found = std::mem::take(&mut table.found);
        let taken = found.into_iter();
        taken
            .filter_map(|(id, found)| Some((table.waiting.remove(&id)?, found)))
            .collect()
    }
}

/// Has pjsip ask here. Before the stack is started.
pub fn install(shared: &Shared) -> ffi::pj_status_t {
    static RESOLVER: ffi::pjsip_ext_resolver = ffi::pjsip_ext_resolver {
        resolve: Some(resolve),
    };
    shared.resolving.set_closed(false);
    // SAFETY: no precondition; pjsua is initialised.
    let endpoint = unsafe { ffi::pjsua_get_pjsip_endpt() };
    let resolver = (&raw const RESOLVER).cast_mut();
    // SAFETY: the endpoint has no threads yet; pjsip keeps the address, which is static,
    // and only reads.
    unsafe { ffi::pjsip_endpt_set_ext_resolver(endpoint, resolver) }
}

/// Tells pjsip what was looked up meanwhile. On the control thread.
pub fn tell_found(shared: &Shared) {
    for (request, found) in shared.resolving.take_found() {
        answer(
            shared,
            &request,
            found.map_err(|error| explain(&request, &error)),
        );
    }
}

/// Nothing waits any more from here on. On the control thread, before the
/// stack is destroyed.
pub fn close(shared: &Shared) {
    for request in shared.resolving.set_closed(true) {
        answer(shared, &request, Err(PJ_ECANCELLED));
    }
}

unsafe extern "C" fn resolve(
    _resolver: *mut ffi::pjsip_resolver_t,
    _pool: *mut ffi::pj_pool_t,
    target: *const ffi::pjsip_host_info,
    token: *mut c_void,
    callback: Option<
        unsafe extern "C" fn(ffi::pj_status_t, *mut c_void, *const ffi::pjsip_server_addresses),
    >,
) {
    let Some(callback) = callback else {
        return;
    };
    // SAFETY: pjsip passes a filled target, which lives during the call.
    let target = unsafe { &*target };
    // SAFETY: the text lives as long as the target.
    let host = unsafe { text::to_string(&target.addr.host) };
    let (port, transport) = (target.addr.port, transport_of(target));
    let request = Request {
        host,
        transport,
        token: token as usize,
        callback,
    };
    // What must not unwind into C is only the decision: pjsip is called by who
    // holds none of our locks.
    let decided = guarded("resolve", None, Some(Err(PJ_ERESOLVE)), |shared| {
        decide(shared, &request, port)
    });
    let shared = super::shared::shared();
    match decided {
        Some(found) => answer(shared, &request, found),
        None => wait(shared, request, port),
    }
}

/// The transport that pjsip means; TCP where it wants a reliable one, as its
/// own resolver has it.
fn transport_of(target: &ffi::pjsip_host_info) -> Transport {
    match target.type_ & !ffi::PJSIP_TRANSPORT_IPV6 {
        ffi::PJSIP_TRANSPORT_TLS => Transport::Tls,
        ffi::PJSIP_TRANSPORT_TCP => Transport::Tcp,
        ffi::PJSIP_TRANSPORT_UNSPECIFIED if target.flag & ffi::PJSIP_TRANSPORT_SECURE != 0 => {
            Transport::Tls
        }
        ffi::PJSIP_TRANSPORT_UNSPECIFIED if target.flag & ffi::PJSIP_TRANSPORT_RELIABLE != 0 => {
            Transport::Tcp
        }
        _ => Transport::Udp,
    }
}

fn target_of(request: &Request, port: i32) -> Option<Target> {
    let host = match request.host.contains(':') && !request.host.starts_with('[') {
        true => format!("[{}]", request.host),
        false => request.host.clone(),
    };
    let server = match port {
        0 => host,
        port => format!("{host}:{port}"),
    };
    Target::parse(&server, request.transport).ok()
}

fn servers(shared: &Shared) -> Option<Servers> {
    shared.with_run(|run| run.servers.clone())
}

/// What can be answered at once.
fn decide(
    shared: &Shared,
    request: &Request,
    port: i32,
) -> Option<Result<Vec<SocketAddr>, ffi::pj_status_t>> {
    let Some(target) = target_of(request, port) else {
        tracing::debug!("a request is for a host that is none");
        return Some(Err(PJ_ERESOLVE));
    };
    let Some(servers) = servers(shared) else {
        return Some(Err(PJ_ECANCELLED));
    };
    servers.known(&target).map(Ok)
}

/// Has the name looked up; the control thread tells pjsip.
fn wait(shared: &'static Shared, request: Request, port: i32) {
    let Some((target, servers)) = target_of(&request, port).zip(servers(shared)) else {
        return answer(shared, &request, Err(PJ_ECANCELLED));
    };
    match shared.resolving.enter(request) {
        Ok(id) => servers.locate(&target, move |found| {
            shared.resolving.note(id, found);
            // A full queue is no loss: the thread looks at each beat.
            shared.with_run(|run| drop(run.orders.try_send(ControlCommand::TellResolved)));
        }),
        Err(request) => answer(shared, &request, Err(PJ_ECANCELLED)),
    }
}

fn explain(request: &Request, error: &LocateError) -> ffi::pj_status_t {
    tracing::info!(server = %request.host, transport = %request.transport, reason = %error, "a SIP server cannot be looked up");
    PJ_ERESOLVE
}

/// Calls pjsip back, on a thread of pjlib.
fn answer(shared: &Shared, request: &Request, found: Result<Vec<SocketAddr>, ffi::pj_status_t>) {
    let bind = shared.with_run(|run| run.bind);
    let found = found.and_then(|found| {
        let reached = |address: &SocketAddr| bind.is_none_or(|bind| reaches(bind, address.ip()));
        let found: Vec<SocketAddr> = found.into_iter().filter(reached).collect();
        if found.is_empty() {
            tracing::info!(server = %request.host, "a SIP server has no address of the IP version of --bind");
            return Err(PJ_ERESOLVE);
        }
        Ok(found)
    });
    let token = request.token as *mut c_void;
    let mut lent = PjStrings::default();
    match found {
        Ok(found) => {
            let addresses = server_addresses(request, &found, &mut lent);
            // SAFETY: pjsip keeps the token until this one call; it copies the
            // addresses and the names in them.
            unsafe { (request.callback)(ffi::PJ_SUCCESS, token, &raw const *addresses) };
        }
        // SAFETY: as above; without success it reads no addresses.
        Err(status) => unsafe { (request.callback)(status, token, std::ptr::null()) },
    }
}

/// Whether a socket on `bind` can send to an address.
const fn reaches(bind: IpAddr, ip: IpAddr) -> bool {
    bind.is_ipv4() == ip.is_ipv4()
}

fn server_addresses(
    request: &Request,
    found: &[SocketAddr],
    lent: &mut PjStrings,
) -> Box<ffi::pjsip_server_addresses> {
    let kind = match request.transport {
        Transport::Udp => ffi::PJSIP_TRANSPORT_UDP,
        Transport::Tcp => ffi::PJSIP_TRANSPORT_TCP,
        Transport::Tls => ffi::PJSIP_TRANSPORT_TLS,
    };
    let mut addresses: Box<ffi::pjsip_server_addresses> = boxed();
    let name = lent.lend(&request.host);
    for (entry, address) in addresses.entry.iter_mut().zip(found) {
        entry.name = name;
        entry.type_ = kind;
        if address.is_ipv6() {
            entry.type_ |= ffi::PJSIP_TRANSPORT_IPV6;
        }
        // It is zero, of no family yet.
        set_socket_address(&mut entry.addr, *address);
        let length = socket_address_len(&entry.addr);
        entry.addr_len = std::ffi::c_int::try_from(length).unwrap_or(0);
        addresses.count += 1;
    }
    addresses
}

/// The address of a STUN or TURN server, which pjsua would look up itself and
/// wait for. While the stack is not started, for a bounded time.
pub fn numeric(servers: &Servers, server: &str, bind: IpAddr) -> Option<String> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let target = Target::parse(server, Transport::Udp).ok()?;
    let (sender, receiver) = std::sync::mpsc::sync_channel(1);
    servers.locate(&target, move |found| drop(sender.try_send(found)));
    let found = receiver.recv_timeout(PATIENCE);
    let found = found.ok().and_then(Result::ok).unwrap_or_default();
    let found = found.into_iter().find(|found| reaches(bind, found.ip()));
    if found.is_none() {
        tracing::warn!(
            server,
            "the STUN or TURN server cannot be looked up and is left out: check its name, then start again"
        );
    }
    Some(found?.to_string())
}
