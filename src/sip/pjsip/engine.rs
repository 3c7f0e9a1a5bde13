//! [`PjsipEngine`]: the engine as the rest of the bridge sees it.

use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::sync::mpsc;

use super::control::ControlThread;
use super::shared::{ControlCommand, LEGS_MAX, Run, shared};
use super::stack::{self, OpenPorts};
use super::{in_flight, threads};
use crate::sip::engine::{
    Admission, COMMAND_QUEUE, Command, EngineConfig, EngineEvent, EngineStats, SipEngine,
    SubmitError, Transport,
};
use crate::sip::tls_roots::NoTlsRoots;

/// Why the engine could not be started.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PjsipError {
    /// pjsua is one per process, and one is running.
    #[error("a SIP engine is running in this process already")]
    AlreadyRunning,
    /// The library was built for less.
    #[error(
        "the linked pjproject allows {limit} {what}, {asked} were asked for; build it with vendor/pjproject.sh or ask for less"
    )]
    Limits {
        /// What is limited, with the name of the macro.
        what: &'static str,
        /// How many were asked for.
        asked: u32,
        /// How many there can be.
        limit: u32,
    },
    /// A listener could not be opened.
    #[error(
        "SIP over {transport} cannot listen on {bind} port {port}: {reason}; free the port or choose another with --sip-port"
    )]
    Transport {
        /// Which transport.
        transport: Transport,
        /// The local address asked for.
        bind: IpAddr,
        /// The port asked for.
        port: u16,
        /// What the system says.
        reason: String,
    },
    /// The library was built without IPv6.
    #[error(
        "--bind {0}: the linked pjproject is built without IPv6 (PJ_HAS_IPV6 in its config_site.h): bind an IPv4 address"
    )]
    NoIpv6(IpAddr),
    /// No SIP server could be verified.
    #[error(transparent)]
    NoTlsRoots(#[from] NoTlsRoots),
    /// The stack refused to start.
    #[error("pjsip failed at {step}: {reason}")]
    Stack {
        /// Which call failed.
        step: &'static str,
        /// What pjsip says.
        reason: String,
    },
    /// The system refused a thread.
    #[error("the SIP control thread could not be started: {0}")]
    Thread(String),
}

/// Signs of life, for the watchdog: each counter rises at least once a second
/// while its thread is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PjsipBeats {
    /// pjsua's worker thread: SIP and timers.
    pub worker: u64,
    /// Our control thread: commands.
    pub control: u64,
    /// pjsip's media threads, as far as they run through us.
    pub media: u64,
}

/// The engine on pjproject. One per process at a time.
pub struct PjsipEngine {
    orders: SyncSender<ControlCommand>,
    stopping: Arc<AtomicBool>,
    ports: Arc<OpenPorts>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl PjsipEngine {
    /// Starts the stack and its threads. Blocks until it listens.
    ///
    /// # Errors
    /// When an engine runs already, a port is taken, or pjsip refuses.
    pub fn start(
        config: EngineConfig,
        admission: Arc<dyn Admission>,
        events: mpsc::Sender<EngineEvent>,
    ) -> Result<Arc<Self>, PjsipError> {
        stack::check_limits(&config)?;
        let (orders, receiver) = sync_channel(COMMAND_QUEUE);
        let calls_max = usize::try_from(config.max_calls)
            .unwrap_or(LEGS_MAX)
            .min(LEGS_MAX);
        let run = Run {
            admission,
            events,
            orders: orders.clone(),
            servers: config.servers.clone(),
            bind: config.bind,
            calls_max,
            register_gate: config.register_gate.clone(),
        };
        if !shared().set_run(Some(run)) {
            return Err(PjsipError::AlreadyRunning);
        }
        shared().draining.store(false, Ordering::Release);
        shared().slots.set_latch(config.rtp_latch);
        shared()
            .access
            .begin(&config.access, Some(config.servers.clone()));
        shared().change_lines(|lines| lines.table.set_key(config.access.contact_key.clone()));
        let stopping = Arc::new(AtomicBool::new(false));
        let ports = Arc::new(OpenPorts::default());
        let control =
            ControlThread::new(config, receiver, Arc::clone(&stopping), Arc::clone(&ports));
        let (started, result) = sync_channel(1);
        let spawned = std::thread::Builder::new()
            .name("sip-control".into())
            .spawn(move || control.run(&started));
        let thread = match spawned {
            Ok(thread) => thread,
            Err(error) => {
                shared().set_run(None);
                return Err(PjsipError::Thread(error.to_string()));
            }
        };
        let gone = || Err(PjsipError::Thread("it ended at once".into()));
        match result.recv().unwrap_or_else(|_| gone()) {
            Ok(()) => Ok(Arc::new(Self {
                orders,
                stopping,
                ports,
                thread: Mutex::new(Some(thread)),
            })),
            Err(problem) => {
                // The thread is on its way out; its end is all that is left of it.
                let _ = thread.join();
                shared().set_run(None);
                Err(problem)
            }
        }
    }

    /// Refuses new INVITEs with 503 from now on; calls in progress go on.
    pub fn drain(&self) {
        shared().draining.store(true, Ordering::Release);
    }

    /// Makes the next hang-ups fail as if pjsip had the calls locked, for tests.
    #[doc(hidden)]
    pub fn fail_hangups(&self, count: u32) {
        shared().hangups.inject_faults(count);
    }

    /// Signs of life of pjsip's threads.
    #[must_use]
    pub fn beats(&self) -> PjsipBeats {
        let counters = &shared().counters;
        PjsipBeats {
            worker: counters.worker_beats.load(Ordering::Relaxed),
            control: counters.control_beats.load(Ordering::Relaxed),
            media: in_flight::beat(),
        }
    }
}

impl SipEngine for PjsipEngine {
    fn submit(&self, command: Command) -> Result<(), SubmitError> {
        if self.stopping.load(Ordering::Acquire) {
            return Err(SubmitError::Closed);
        }
        self.orders
            .try_send(ControlCommand::Command(command))
            .map_err(|error| match error {
                TrySendError::Full(_) => SubmitError::Full,
                TrySendError::Disconnected(_) => SubmitError::Closed,
            })
    }

    fn stats(&self) -> EngineStats {
        let shared = shared();
        let counters = &shared.counters;
        EngineStats {
            legs: u64::try_from(shared.slots.live()).unwrap_or(u64::MAX),
            unknown_line: counters.unknown_line.load(Ordering::Relaxed),
            refused: counters.refused.load(Ordering::Relaxed),
            rtp_overflow: counters.rtp_overflow.load(Ordering::Relaxed),
            rtp_foreign: counters.rtp_foreign.load(Ordering::Relaxed),
            rtp_thinned: counters.rtp_thinned.load(Ordering::Relaxed),
            challenges_refused: counters.challenges_refused.load(Ordering::Relaxed),
            lines_refused: counters.lines_refused.load(Ordering::Relaxed),
            hangups_refused: counters.hangups_refused.load(Ordering::Relaxed),
            hangups_pending: shared.hangups.pending(),
            panics: counters.panics.load(Ordering::Relaxed),
            bodies_refused: shared.bodies.counts(),
            strangers: shared.access.dropped(),
        }
    }

    fn local_port(&self, transport: Transport) -> Option<u16> {
        self.ports.get(transport)
    }

    fn register_thread(&self, name: &str) {
        threads::register(name);
    }

    fn shutdown(&self) {
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        // Once only: by now another engine may run.
        let Some(thread) = thread else {
            return;
        };
        shared().draining.store(true, Ordering::Release);
        self.stopping.store(true, Ordering::Release);
        if thread.join().is_err() {
            tracing::error!("the SIP control thread panicked while it shut down");
        }
    }
}

impl Drop for PjsipEngine {
    fn drop(&mut self) {
        self.shutdown();
    }
}
