//! Builds the rooms and joins them, in the order of `run`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{info, warn};

use super::callbacks::{self, CallbackListener};
use super::calls_in_progress::CallsInProgress;
use super::cluster;
use super::contact_key::contact_key;
use super::database;
use super::health::HealthReporter;
use super::logging;
use super::own_urls::stream_base_url;
use super::retention;
use super::start_error::StartError;
use super::twilio;
use crate::agents::{AgentDirectory, Voices};
use crate::api::{self, ApiListener, ApiServer, Control};
use crate::bridge::call_store::CallStore;
use crate::bridge::context::{Context, RING_WHILE_CUT_OFF, Settings};
use crate::bridge::dialling::Dialling;
use crate::bridge::drivers::Drivers;
use crate::bridge::intake::Intake;
use crate::bridge::overload::{Monitor, OverloadInputs};
use crate::bridge::place::CallPlacer;
use crate::callbacks::WebhookDispatcher;
use crate::cluster::ClusterHandle;
use crate::config::{AgentsConfig, Config, Dispatch};
use crate::core::access::contact_key::ContactKey;
use crate::core::address::Transport;
use crate::core::g711::Gain;
use crate::core::private::Secret;
use crate::core::register_gate::RegisterGate;
use crate::dns::{Files, Servers};
use crate::fleet::snapshot::LineSnapshot;
use crate::fleet::sounds::SoundLoader;
use crate::fleet::{
    CallLimiter, DatabaseWatcher, Limits, LineDirectory, LineReconciler, RegistrarHandle,
    SharedFleet,
};
use crate::media::pacer::Pacer;
use crate::media::sounds::Sounds;
use crate::queue::{LEASE_TTL, Queue, QueueConfig, RedisState, dead_after};
use crate::sip::engine::{Access, ENGINE_QUEUE_EVENTS, EngineConfig, SharedEngine};
use crate::sip::pjsip::PjsipEngine;
use crate::store::call_log::CallLogTask;
use crate::store::{CallLog, Store};
use crate::watchdog::{Pulse, Watchdog};
use crate::worker::{AttachTable as Workers, Dialer, Expected, StreamServer};

/// Most legs of the SIP engine.
const MAX_LEGS: u32 = 1_024;
/// How long the first registrations wait for Redis.
const REDIS_PATIENCE: Duration = Duration::from_secs(2);

/// The bridge, running.
pub struct Running {
    /// The calls, to be ended.
    pub calls: CallsInProgress,
    /// The clock of outgoing audio.
    pub pacer: Arc<Pacer>,
    /// Redis, in queue mode.
    pub queue: Option<Queue>,
    /// Liveness.
    pub watchdog: Watchdog,
    /// The lines' registrations.
    pub registrar: RegistrarHandle,
    /// The lines' leases, where bridges share lines.
    pub cluster: Option<ClusterHandle>,
    /// Keeps the leases.
    pub leasing: Option<JoinHandle<()>>,
    /// Keeps the lines registered.
    pub registering: JoinHandle<()>,
    /// Notices an overload.
    pub monitoring: JoinHandle<()>,
    /// Takes INVITEs.
    pub intake: JoinHandle<()>,
    /// `GET /health`.
    pub api: ApiServer,
    /// Where workers dial in, in queue mode.
    pub stream_server: Option<StreamServer>,
    /// The SIP engine.
    pub engine: SharedEngine,
    /// Delivers status callbacks.
    pub dispatcher: WebhookDispatcher,
    /// The database, and what writes records of calls into it.
    pub store: Option<(Store, CallLogTask)>,
    /// Holds the lines, and decrypts their passwords.
    pub holding: JoinHandle<()>,
    /// Keeps the lines as the database has them, where there is one.
    pub keeping: Option<JoinHandle<()>>,
    /// Deletes old records of calls, where that is wanted.
    pub forgetting: Option<JoinHandle<()>>,
}

/// Builds everything; the API answers on `listener`.
///
/// # Errors
/// When a port is in use, or something that was asked for cannot be had.
pub async fn compose(
    config: Config,
    start: LineSnapshot,
    store: Option<Store>,
    listener: ApiListener,
) -> Result<Running, StartError> {
    // TLS needs a process-wide provider; a second installation changes nothing.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let fleet = SharedFleet::new(Limits {
        calls: config.calls.max_calls,
        calls_per_second: config.calls.max_per_second,
    });
    let call_limiter = CallLimiter::new(&fleet);

    let workers = Workers::default();
    let expected = Expected::from(workers.clone());
    let (stream_server, stream_url) = open_stream_port(&config, &expected).await?;
    let queue = start_queue(&config, &stream_url)?;
    let leases = queue.as_ref().and_then(Queue::lease_store);
    if let Some(leases) = &leases {
        cluster::take_name(leases).await?;
        fleet.share_lines();
    }
    if let Some(store) = &store {
        database::end_lost_calls(store, &config.node_id).await?;
    }
    let dialer = config.worker.ws_target.as_ref();
    let dialer = dialer
        .map(|target| Dialer::new(target.expose(), None))
        .transpose()?;
    let signer = callbacks::signer(&config.callbacks);
    let outward = Arc::new(config.callbacks.outward.clone());
    let dialer = dialer.map(|dialer| dialer.signed(signer.clone()));

    let callbacks = callbacks::start(
        &config.callbacks,
        outward.clone(),
        store.as_ref(),
        &config.node_id,
    )?;
    let (call_log, store) = start_call_log(store, &config.node_id);
    let agents = store.as_ref().filter(|_| config.agents.is_some());
    let agents = agents.map(|(store, _)| AgentDirectory::new(Arc::new(store.clone())));
    let voices = voices(config.agents.as_ref())?;
    let (events, received) = mpsc::channel(ENGINE_QUEUE_EVENTS);
    let store_now = store.as_ref().map(|(store, _)| store);
    let key = contact_key(config.encryption_key.as_ref(), store_now).await;
    let servers = Servers::start(Files {
        resolv_conf: config.network.resolv_conf.clone(),
        ..Files::default()
    });
    let servers = servers.map_err(StartError::Thread)?;
    let register_gate = RegisterGate::default();
    let sip = engine_config(&config, &start, servers, key, register_gate.clone());
    let pjsip = PjsipEngine::start(sip, call_limiter.clone(), events)?;
    let engine: SharedEngine = pjsip.clone();
    let pacer = start_pacer(&engine)?;
    let watchdog = Watchdog::start(pulses(&pjsip, &pacer), logging::exit_at_once);
    let watchdog = watchdog.map_err(StartError::Thread)?;
    let shown_pulses = pulses(&pjsip, &pacer);

    let told = callbacks.status.clone();
    let context = Arc::new(Context {
        settings: settings(&config, stream_url),
        engine: engine.clone(),
        pacer: Arc::new(pacer),
        queue: queue.clone(),
        call_log,
        dialer,
        agents: agents.clone(),
        ask: callbacks.ask,
        voice_http: callbacks::voice_http(signer.clone(), outward.clone(), config.speech.as_ref())?,
        signer,
        outward,
        workers,
        call_limiter,
        gauges: Arc::default(),
        lines: LineDirectory::new(&fleet),
        calls: CallStore::new(Some(Arc::new(CallbackListener(callbacks.status)))),
        sounds: Sounds::built_in(),
        dialling: Arc::new(
            Dialling::new(config.dialling.policy.clone(), config.dialling.max_per_hour)
                .judging_workers(config.dialling.judges_workers)
                .counting_in(queue.clone()),
        ),
        shutdown: Arc::default(),
        cut_off: Arc::default(),
    });
    let drivers = Drivers::new(&context);
    let calls = CallsInProgress::new(&context);
    let registrar = RegistrarHandle::new(&fleet, queue.clone());
    let loader = SoundLoader::new(context.sounds.clone());
    let (reconciler, readings) = LineReconciler::new(
        &config,
        &fleet,
        &engine,
        &context.call_limiter,
        &registrar,
        loader,
    );
    let file_mistakes = reconciler.start(start).await?;
    let shared = leases.clone().and_then(|leases| {
        let listens = listener.local_addr();
        cluster::task(
            &config,
            leases,
            &context,
            &registrar,
            register_gate,
            listens,
        )
    });
    let (leasing, cluster) = shared.unzip();
    let monitor = Arc::new(Monitor::default());
    let health = HealthReporter::new(
        &config,
        file_mistakes,
        &context,
        registrar.clone(),
        monitor.clone(),
        shown_pulses,
        told,
    );
    let health = health.sharing_lines(cluster.clone());
    let api = listener.serve(api::routes(Arc::new(Control {
        health: health.source(),
        placer: CallPlacer::new(&context, &drivers),
        calls: context.calls.clone(),
        lines: context.lines.clone(),
        node: config.node_id.clone(),
        store: store.as_ref().map(|(store, _)| store.clone()),
        agents: agents.clone(),
        voices,
        registrar: registrar.clone(),
        nodes: cluster::other_nodes(&config, cluster.as_ref(), leases.as_ref())?,
        token: config.api_token.clone(),
        twilio_webhooks: twilio::webhooks(&config, &context, &drivers, &expected)?,
        twilio: api::twilio::Account::new(
            config.account_sid.clone(),
            config.callbacks.auth_token.clone(),
        ),
        key: config.encryption_key.clone(),
    })));
    let intake = Intake::new(&context, &drivers, registrar.clone());
    let intake = tokio::spawn(intake.run(received));
    let registering_task = tokio::spawn({
        let registrar = registrar.clone();
        let engine = engine.clone();
        // A line that is shared waits for its lease.
        let queue = queue.clone().filter(|_| leases.is_none());
        async move {
            await_redis(queue).await;
            registrar.run(engine).await;
        }
    });
    let leasing = leasing.map(|task| tokio::spawn(task.run()));
    if let Some(queue) = queue {
        tokio::spawn(calls.clone().publish(queue));
    }
    let max_late = config.calls.max_late;
    let holding = tokio::spawn(reconciler.run());
    let keeping = store.as_ref().map(|(store, _)| {
        let watcher = DatabaseWatcher::new(store, &context.lines, readings);
        tokio::spawn(watcher.run())
    });
    let forgetting = store.as_ref().zip(config.keep_records);
    let forgetting =
        forgetting.map(|((store, _), keep)| tokio::spawn(retention::run(store.clone(), keep)));
    let watched = OverloadInputs::new(&context);
    let monitoring = tokio::spawn(monitor.run(watched, max_late));
    log_start(&config, &engine, &stream_server, &api);
    Ok(Running {
        calls,
        pacer: context.pacer.clone(),
        queue: context.queue.clone(),
        watchdog,
        registrar,
        cluster,
        leasing,
        registering: registering_task,
        monitoring,
        intake,
        api,
        stream_server,
        engine,
        dispatcher: callbacks.dispatcher,
        store,
        holding,
        keeping,
        forgetting,
    })
}

fn start_queue(config: &Config, stream_url: &str) -> Result<Option<Queue>, StartError> {
    let Some(queue) = &config.queue else {
        return Ok(None);
    };
    let lease_ttl = config
        .cluster
        .map_or(LEASE_TTL, |cluster| cluster.lease_ttl);
    let queue = QueueConfig {
        url: Secret::new(queue.redis_url.expose().to_owned()),
        queue: queue.queue.clone(),
        node_id: config.node_id.clone(),
        stream_url_base: Some(stream_url.to_owned()).filter(|url| !url.is_empty()),
        ca_file: queue.redis_ca.clone(),
        dead_after: dead_after(lease_ttl),
        lease_ttl,
        shares_lines: config.cluster.is_some(),
    };
    Ok(Some(Queue::start(&queue)?))
}

/// Asks for voices, where there are agents and a provider's key.
fn voices(config: Option<&AgentsConfig>) -> Result<Option<Voices>, StartError> {
    let url = config.and_then(|config| config.elevenlabs_url.as_ref());
    let key = config.and_then(|config| config.elevenlabs_key.as_ref());
    let asked = url.zip(key);
    let voices = asked.map(|(url, key)| Voices::new(url.expose(), key));
    Ok(voices.transpose()?)
}

fn start_call_log(
    store: Option<Store>,
    node: &str,
) -> (Option<CallLog>, Option<(Store, CallLogTask)>) {
    let Some(store) = store else {
        return (None, None);
    };
    let (log, task) = CallLog::start(store.clone(), node);
    (Some(log), Some((store, task)))
}

/// Opens the port that workers of the queue dial; the answer is its server,
/// and how workers reach it.
async fn open_stream_port(
    config: &Config,
    expected: &Expected,
) -> Result<(Option<StreamServer>, String), StartError> {
    let jobs = config.queue.as_ref();
    let jobs = jobs.filter(|_| config.worker.dispatch == Dispatch::Queue);
    let Some(queue) = jobs else {
        return Ok((None, String::new()));
    };
    let address = SocketAddr::new(config.network.bind, queue.stream_port);
    let server = StreamServer::bind(address, expected.clone()).await?;
    let url = stream_base_url(config, queue, server.local_addr().port());
    Ok((Some(server), url))
}

fn start_pacer(engine: &SharedEngine) -> Result<Pacer, StartError> {
    let engine = engine.clone();
    Pacer::start(move || engine.register_thread("pacer")).map_err(StartError::Thread)
}

/// The threads that must never hang.
fn pulses(engine: &Arc<PjsipEngine>, pacer: &Pacer) -> Vec<Pulse> {
    let pacing = pacer.beat();
    let [worker, control, media] = [engine.clone(), engine.clone(), engine.clone()];
    vec![
        pulse("media pacer thread", move || pacing.load(Ordering::Relaxed)),
        pulse("pjsip worker thread", move || worker.beats().worker),
        pulse("SIP control thread", move || control.beats().control),
        pulse("pjsip media thread", move || media.beats().media),
    ]
}

fn pulse(name: &'static str, beat: impl Fn() -> u64 + Send + Sync + 'static) -> Pulse {
    Pulse {
        name,
        beat: Box::new(beat),
    }
}

/// The transport of the flags on its port, and whatever else the lines'
/// servers want on ports that the system chooses.
fn listen(config: &Config, start: &LineSnapshot) -> Vec<(Transport, u16)> {
    let mut listen = vec![(config.sip.transport, config.sip.port)];
    for transport in start.transports() {
        if !listen.iter().any(|(open, _)| *open == transport) {
            listen.push((transport, 0));
        }
    }
    listen
}

fn engine_config(
    config: &Config,
    start: &LineSnapshot,
    servers: Servers,
    key: ContactKey,
    register_gate: RegisterGate,
) -> EngineConfig {
    let path = |path: &std::path::PathBuf| path.display().to_string();
    let turn = config.network.turn_server.as_ref();
    EngineConfig {
        bind: config.network.bind,
        servers,
        listen: listen(config, start),
        public_address: config.network.public_address,
        rtp_ports: config.network.rtp_ports,
        rtp_latch: config.network.rtp_latch,
        stun_server: config
            .network
            .stun_server
            .as_ref()
            .map(|server| server.with_port(3478)),
        turn_server: turn.map(|turn| {
            (
                turn.address.with_port(3478),
                turn.username.clone(),
                turn.password.clone(),
            )
        }),
        ice: config.network.ice,
        // The fallback may need a second leg for each call.
        max_calls: (2 * config.calls.max_calls).min(MAX_LEGS),
        tls_identity: config
            .sip
            .tls_identity
            .as_ref()
            .map(|(cert, key)| (path(cert), path(key))),
        tls_ca_file: config.sip.tls_ca.as_ref().map(path),
        tls_insecure: config.sip.tls_insecure,
        // Without its version: scanners look for those that are known to be weak.
        user_agent: "sipbridge".to_owned(),
        access: Access {
            accept: config.sip.callers.accept,
            allow_from: config.sip.callers.allow_from.clone(),
            contact_key: key,
            calls_per_second: config.calls.max_per_second,
        },
        register_gate,
    }
}

fn settings(config: &Config, stream_url: String) -> Settings {
    Settings {
        answer: config.calls.answer,
        worker_timeout: config.worker.timeout,
        ring_while_cut_off: RING_WHILE_CUT_OFF,
        claim_timeout: config.worker.claim_timeout,
        max_attempts: config.worker.max_attempts,
        max_duration: config.calls.max_duration,
        media_timeout: config.calls.rtp_timeout,
        ringback: config.audio.ringback,
        rx_gain: Gain::from_factor(config.audio.rx_gain),
        tx_gain: Gain::from_factor(config.audio.tx_gain),
        account_sid: config.account_sid.clone(),
        stream_url,
        params: config.worker.params.clone(),
        sip_headers: config.worker.sip_headers.clone(),
        voice: config.voice.clone(),
        trust_privacy: config.sip.trust_privacy,
        pushes_jobs: config.worker.dispatch == Dispatch::Queue,
    }
}

/// Lines register once Redis is there, so that the first calls find their
/// queue; a Redis that is away holds nothing up.
async fn await_redis(queue: Option<Queue>) {
    let Some(queue) = queue else { return };
    let mut state = queue.watch();
    let connected = state.wait_for(|state| matches!(state, RedisState::Connected { .. }));
    if timeout(REDIS_PATIENCE, connected).await.is_err() {
        warn!("Redis is away; lines register all the same");
    }
}

fn log_start(
    config: &Config,
    engine: &SharedEngine,
    stream_server: &Option<StreamServer>,
    api: &ApiServer,
) {
    let transport = config.sip.transport;
    info!(
        version = env!("CARGO_PKG_VERSION"),
        node = %config.node_id,
        %transport,
        sip_port = engine.local_port(transport),
        stream_port = stream_server.as_ref().map(|server| server.local_addr().port()),
        api = %api.local_addr(),
        "sipbridge is up"
    );
}
