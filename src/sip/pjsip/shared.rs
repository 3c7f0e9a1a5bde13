//! What callbacks reach. C calls plain functions without a pointer of ours,
//! and pjsua is one per process, so this is the one static of the room.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::access::{AccessControl, Permit};
use super::bodies::Bodies;
use super::call_table::{CallTable, Delivered, Emitted};
use super::connections::ConnectionSet;
use super::hangups::Hangups;
use super::outgoing::PendingDials;
use super::policies::Policies;
use super::registering::Wishes;
use super::resolver::Waiting;
use crate::core::ids::{LegId, LineId};
use crate::core::log_limiter::LogLimiter;
use crate::core::register_gate::RegisterGate;
use crate::dns::{Servers, Watched};
use crate::sip::engine::{Account, Admission, Command, EngineEvent, LegEvent, Transport};
use crate::sip::matching::LineTable;
use crate::sip::uri::UriParts;

/// Most legs of an engine, whatever the library allows.
pub const LEGS_MAX: usize = 1_024;

/// How often at most one word is said about calls for which there is no room.
const FULL_SAID_EVERY: Duration = Duration::from_secs(10);

/// What the control thread is asked to do.
pub enum ControlCommand {
    /// A command of the bridge.
    Command(Command),
    /// Sends the REGISTER that waits for an account.
    Register(i32),
    /// Ends a leg that cannot go on.
    Abort { leg: LegId, why: &'static str },
    /// Tells pjsip what was looked up for it.
    TellResolved,
}

/// What lives as long as one start of the engine.
pub struct Run {
    pub admission: Arc<dyn Admission>,
    pub events: mpsc::Sender<EngineEvent>,
    pub orders: SyncSender<ControlCommand>,
    /// Where SIP servers are.
    pub servers: Servers,
    /// Local address of SIP sockets.
    pub bind: IpAddr,
    pub calls_max: usize,
    /// Asked before each REGISTER.
    pub register_gate: RegisterGate,
}

/// A line as the engine keeps it.
pub struct EngineLine {
    /// pjsua's account.
    pub account: i32,
    /// For the destination of a transfer or call.
    pub domain: String,
    /// Whether its signalling is encrypted.
    pub secure: bool,
    /// What the registrar keeps of it.
    pub binding: Binding,
    /// Where its server is; none where that is no host.
    pub server: Option<Watched>,
    /// Its server may call while the line is there.
    pub _known: Permit,
}

/// Everything that a registrar tells one registration of a line from another
/// by, and what makes a new account necessary. A line that only gets another password
/// keeps its binding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    address: (String, String),
    server: Option<String>,
    transport: Transport,
    contact: Option<String>,
    /// pjsua does not take a password away from an account.
    has_password: bool,
    registers: bool,
}

impl Binding {
    /// That of an account.
    pub fn of(account: &Account) -> Self {
        Self {
            address: (account.username.clone(), account.domain.clone()),
            server: account.server.clone(),
            transport: account.transport,
            contact: account.contact.clone(),
            has_password: account.password.is_some(),
            registers: account.register,
        }
    }

    /// Whether the account of a line can be changed into the other's: it is the
    /// same, or gets a password that it did not have.
    pub fn can_become(&self, other: &Self) -> bool {
        let has_password = self.has_password || other.has_password;
        let changed = Self {
            has_password,
            ..self.clone()
        };
        changed == *other
    }

    /// Whether a packet from there comes from the line's server, where that is
    /// given by its address: one given by name is located elsewhere.
    pub fn is_server(&self, peer: SocketAddr) -> bool {
        let server = self.server.as_ref().unwrap_or(&self.address.1);
        let host = UriParts::parse(&format!("sip:{server}")).host;
        let address: Option<IpAddr> = host.parse().ok();
        address.is_some_and(|address| address.to_canonical() == peer.ip().to_canonical())
    }

    /// Whether the line registers at all.
    pub const fn registers(&self) -> bool {
        self.registers
    }

    /// Whether both announce the same Contact.
    pub fn has_contact_of(&self, other: &Self) -> bool {
        let contact = |binding: &Self| {
            let (user, _) = &binding.address;
            (user.clone(), binding.transport, binding.contact.clone())
        };
        contact(self) == contact(other)
    }
}

/// The lines, by what names them.
#[derive(Default)]
pub struct Lines {
    pub table: LineTable<EngineLine>,
    pub by_account: HashMap<i32, LineId>,
    /// Domain of each account until it is deleted: its calls outlive the line.
    pub domains: HashMap<i32, String>,
}

/// Counters, each only rising.
#[derive(Default)]
pub struct EngineCounters {
    pub unknown_line: AtomicU64,
    pub refused: AtomicU64,
    pub rtp_overflow: AtomicU64,
    pub rtp_foreign: AtomicU64,
    pub rtp_thinned: AtomicU64,
    pub challenges_refused: AtomicU64,
    pub hangups_refused: AtomicU64,
    pub lines_refused: AtomicU64,
    pub panics: AtomicU64,
    pub worker_beats: AtomicU64,
    pub control_beats: AtomicU64,
}

/// All that a callback can reach; it lives as long as the process.
pub struct Shared {
    pub slots: CallTable,
    pub counters: EngineCounters,
    pub draining: AtomicBool,
    pub lines: RwLock<Lines>,
    pub pending_dials: PendingDials,
    pub bodies: Bodies,
    /// Connections that stand.
    pub connections: ConnectionSet,
    /// Requests that wait for the address of a name.
    pub resolving: Waiting,
    pub policies: Policies,
    pub wishes: Wishes,
    pub hangups: Hangups,
    pub access: AccessControl,
    /// By the reason.
    full: Mutex<BTreeMap<&'static str, LogLimiter>>,
    run: RwLock<Option<Run>>,
}

/// The one instance; made on first use.
pub fn shared() -> &'static Shared {
    static SHARED: OnceLock<Shared> = OnceLock::new();
    SHARED.get_or_init(|| Shared {
        slots: CallTable::new(LEGS_MAX),
        counters: EngineCounters::default(),
        draining: AtomicBool::new(false),
        lines: RwLock::default(),
        pending_dials: PendingDials::default(),
        bodies: Bodies::default(),
        connections: ConnectionSet::default(),
        resolving: Waiting::default(),
        policies: Policies::default(),
        wishes: Wishes::default(),
        hangups: Hangups::default(),
        access: AccessControl::default(),
        full: Mutex::default(),
        run: RwLock::new(None),
    })
}

impl Shared {
    /// Begins or ends a run; `false` when one is going on already.
    pub fn set_run(&self, run: Option<Run>) -> bool {
        let mut current = self.run.write().unwrap_or_else(PoisonError::into_inner);
        if run.is_some() && current.is_some() {
            return false;
        }
        *current = run;
        true
    }

    /// Reads the run, where there is one.
    pub fn with_run<T>(&self, read: impl FnOnce(&Run) -> T) -> Option<T> {
        let run = self.run.read().unwrap_or_else(PoisonError::into_inner);
        run.as_ref().map(read)
    }

    /// Whether a request that came for a line comes from the line's own server,
    /// whose word on who calls is believed.
    pub fn is_trunk(&self, line: &LineId, peer: SocketAddr) -> bool {
        self.with_lines(|lines| {
            lines.table.data(line).is_some_and(|line| {
                let located = line.server.as_ref();
                line.binding.is_server(peer)
                    || located.is_some_and(|server| server.contains(peer.ip()))
            })
        })
    }

    /// Reads the lines.
    pub fn with_lines<T>(&self, read: impl FnOnce(&Lines) -> T) -> T {
        read(&self.lines.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Changes the lines.
    pub fn change_lines<T>(&self, change: impl FnOnce(&mut Lines) -> T) -> T {
        change(&mut self.lines.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Asks the control thread to end a leg. When even its queue is full the
    /// thread is stuck, which the watchdog sees.
    pub fn abort(&self, leg: LegId, why: &'static str) {
        let asked = self.with_run(|run| run.orders.try_send(ControlCommand::Abort { leg, why }));
        if let Some(Err(_)) = asked
            && let Some(times) = self.tell_seldom("SIP command queue is full")
        {
            tracing::error!(%leg, why, times, "SIP command queue is full, a leg could not be ended");
        }
    }

    /// Tells a leg's driver; ends the leg when the driver is stuck or gone.
    pub fn emit(&self, leg: LegId, event: LegEvent) {
        if self.slots.emit(leg, event) == Emitted::DriverLost {
            self.abort(leg, "its driver does not read its events");
        }
    }

    /// Tells the engine's owner; `false` when its queue is full, or the owner
    /// listens no more, as when it shuts down.
    pub fn announce(&self, event: EngineEvent) -> bool {
        let sent = self.with_run(|run| run.events.try_send(event).is_ok());
        sent.unwrap_or(false)
    }

    /// Whether anybody listens to what [`announce`](Self::announce) tells.
    pub fn has_listener(&self) -> bool {
        let listens = self.with_run(|run| !run.events.is_closed());
        listens.unwrap_or(false)
    }

    /// Says in the log that there is no room for calls, but not for each of
    /// them: they come by the hundred when there is none.
    pub fn tell_full(&self, why: &'static str) {
        if let Some(calls) = self.tell_seldom(why) {
            tracing::warn!(calls, why, "calls are refused");
        }
    }

    /// Whether it is time to say something again that happens often, and how
    /// often it happened since.
    pub fn tell_seldom(&self, why: &'static str) -> Option<u64> {
        self.full
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(why)
            .or_insert(LogLimiter::new(FULL_SAID_EVERY))
            .count(Instant::now())
    }

    /// Counts what became of an RTP packet.
    pub fn count_rtp(&self, leg: LegId, delivered: Delivered) {
        let counter = match delivered {
            Delivered::Overflow => &self.counters.rtp_overflow,
            Delivered::Foreign => &self.counters.rtp_foreign,
            Delivered::Thinned { first } => {
                if first {
                    tracing::warn!(%leg, "the other side sends more than 200 RTP packets a second: what is too much is dropped, the call goes on");
                }
                &self.counters.rtp_thinned
            }
            Delivered::DriverLost => return self.abort(leg, "its driver is gone"),
            Delivered::Taken | Delivered::NoLeg => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

/// The shape of every callback: no panic leaves it. One that happens is
/// counted, and ends the call it happened in, where that is known.
pub fn guarded<T>(
    name: &'static str,
    call: Option<i32>,
    default: T,
    body: impl FnOnce(&'static Shared) -> T,
) -> T {
    let leg_of = |shared: &Shared| call.and_then(|index| shared.slots.current(index));
    caught(name, leg_of, default, body)
}

/// The same for a callback of a leg's media, which may be over by now.
pub fn guarded_leg<T>(
    name: &'static str,
    leg: LegId,
    default: T,
    body: impl FnOnce(&'static Shared) -> T,
) -> T {
    caught(name, |_| Some(leg), default, body)
}

fn caught<T>(
    name: &'static str,
    leg_of: impl FnOnce(&Shared) -> Option<LegId>,
    default: T,
    body: impl FnOnce(&'static Shared) -> T,
) -> T {
    let shared = shared();
    catch_unwind(AssertUnwindSafe(|| body(shared))).unwrap_or_else(|_| {
        shared.counters.panics.fetch_add(1, Ordering::Relaxed);
        let Some(leg) = leg_of(shared) else {
            tracing::error!(callback = name, "panic in a SIP callback of no call");
            return default;
        };
        tracing::error!(callback = name, %leg, "panic in a SIP callback, its call is ended");
        // Until it is, each packet would meet what the panic has left behind.
        shared.slots.deafen(leg);
        shared.abort(leg, "panic in a callback");
        default
    })
}
