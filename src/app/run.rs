//! Runs the bridge: the start order, and the order in which it goes down.
//!
//! Up: the API's port, the database, lines and servers, Redis, the
//! workers' port, then SIP, the pacer, the watchdog, and last the
//! registrations, so that no call comes in before everything behind it stands.
//! Lines take calls from then on; each registers as soon as its password is decrypted.
//!
//! Down, on the first SIGTERM or Ctrl+C: no new calls, lines change no more and
//! unregister, and
//! calls go on for `--drain-timeout`, with everything that they need: workers
//! dial in, jobs are pushed again. What is left then gets
//! `--shutdown-timeout`, and is hung up. Whenever no call is left, the rest
//! follows at once: Redis gets the last state, receivers the last callbacks, the database the last records; the pacer stops before pjsip
//! is destroyed, because it sends through it.
//!
//! While draining, the watchdog watches the threads as ever; from then on it
//! ends the process at the deadline whatever hangs. A second signal ends it
//! at once, and so does one while the bridge still starts: nothing is
//! registered then, and no call is in.

use std::net::SocketAddr;
use std::pin::pin;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tracing::{error, info, warn};

use super::calls_in_progress::CallsInProgress;
use super::compose::{Running, compose};
use super::start_error::StartError;
use super::{EXIT_FAILURE, announce, callbacks, database, descriptors, drain, logging};
use crate::api::{ApiListener, ApiTls};
use crate::cluster::ClusterHandle;
use crate::config::Config;
use crate::core::ids::LineId;
use crate::watchdog::{Stage, Watchdog};

/// What follows the calls' end may take this long before it counts as hung.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(8);
/// How long giving up the leases may take.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);
/// How long the other bridges are asked for.
const VIEW_LIMIT: Duration = Duration::from_secs(1);
/// How long INVITEs may still come once no registrar has our Contacts: some round trips.
const STRAGGLERS: Duration = Duration::from_millis(500);
/// How long the last records of calls may take.
const RECORDS_LIMIT: Duration = Duration::from_secs(2);
/// Exit code after a signal before the bridge is up: there was nothing to end.
const EXIT_WHILE_STARTING: i32 = 0;
/// Exit code after a second signal: 128 + SIGTERM.
const EXIT_SECOND_SIGNAL: i32 = 143;

/// Runs the bridge until it is told to stop.
pub fn run(mut config: Config) -> ExitCode {
    logging::start(config.log_format, &config.log_filter);
    config.calls.max_calls = descriptors::raise_limit(config.calls.max_calls);
    let code = match start_and_serve(config) {
        Ok(End::Told) => ExitCode::SUCCESS,
        Ok(End::Replaced) => ExitCode::from(EXIT_FAILURE),
        Err(error) => {
            error!("not started: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    };
    logging::flush();
    code
}

fn start_and_serve(config: Config) -> Result<End, StartError> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    runtime.block_on(async {
        let signals = Signals::watch().map_err(StartError::Thread)?;
        let limits = Limits {
            drain: config.drain_timeout,
            shutdown: config.shutdown_timeout,
            handover: config
                .cluster
                .map_or(Duration::ZERO, |cluster| cluster.handover_timeout),
        };
        // Before the database is touched: a bridge that is started a second
        // time on this machine by mistake ends here, and does not take the calls of
        // the one that runs for those of a dead one.
        let address = SocketAddr::new(config.api_bind, config.api_port);
        let tls = config.api_tls.as_ref();
        let tls = tls.map(|(certificate, key)| ApiTls::read(certificate, key));
        let mut listener = ApiListener::bind(address).await?;
        if let Some(tls) = tls.transpose()? {
            listener = listener.over(tls);
        }
        let (store, start) = database::prepare(&config).await?;
        announce::lines(&config, &start)?;
        let running = compose(config, start, store, listener).await?;
        let end = tokio::select! {
            () = signals.first() => End::Told,
            () = replaced(running.cluster.as_ref()) => End::Replaced,
        };
        go_down(running, &end, limits).await;
        Ok(end)
    })
}

/// Why the bridge went down.
enum End {
    /// It was told to.
    Told,
    /// Another bridge runs under its node id.
    Replaced,
}

/// Returns when another bridge turned out to run under our name.
async fn replaced(cluster: Option<&ClusterHandle>) {
    match cluster {
        Some(cluster) => cluster.conflict().await,
        None => std::future::pending().await,
    }
}

/// SIGTERM and Ctrl+C, watched by a task of their own: the start blocks now
/// and then, and a second signal waits for nothing.
struct Signals {
    /// True once the bridge is up.
    is_up: Arc<AtomicBool>,
    first: oneshot::Receiver<()>,
}

impl Signals {
    fn watch() -> std::io::Result<Self> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut next = async move || {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let (told, first) = oneshot::channel();
        let is_up = Arc::new(AtomicBool::new(false));
        tokio::spawn({
            let is_up = is_up.clone();
            async move {
                next().await;
                if !is_up.load(Ordering::Acquire) {
                    info!("told to stop while starting: down");
                    logging::exit_at_once(EXIT_WHILE_STARTING);
                }
                // Nobody listens only when the start has failed.
                let _ = told.send(());
                next().await;
                warn!("second signal: ending at once");
                logging::exit_at_once(EXIT_SECOND_SIGNAL);
            }
        });
        Ok(Self { is_up, first })
    }

    /// The bridge is up; returns at the first signal.
    async fn first(self) {
        self.is_up.store(true, Ordering::Release);
        // The task lives as long as the runtime.
        let _ = self.first.await;
    }
}

/// How long calls may go on once the bridge is told to stop.
#[derive(Clone, Copy)]
struct Limits {
    /// Undisturbed.
    drain: Duration,
    /// After that, until they are hung up.
    shutdown: Duration,
    /// How long other bridges may take to take the lines.
    handover: Duration,
}

async fn go_down(running: Running, end: &End, limits: Limits) {
    let Running {
        calls,
        pacer,
        queue,
        watchdog,
        registrar,
        cluster,
        leasing,
        registering,
        monitoring,
        intake,
        api,
        stream_server,
        engine,
        dispatcher,
        store,
        holding,
        keeping,
        forgetting,
    } = running;
    info!(
        calls = calls.count(),
        drain_timeout_s = limits.drain.as_secs(),
        shutdown_timeout_s = limits.shutdown.as_secs(),
        "shutting down: no new calls, lines unregister"
    );
    if let Some(queue) = &queue {
        queue.set_draining();
    }
    // Where another one has the name, it has the lines, and this one's part in the cluster is over.
    if let (Some(cluster), End::Told) = (&cluster, end) {
        hand_over(cluster, limits.handover).await;
    }
    calls.drain();
    let tasks = [Some(holding), keeping, forgetting];
    for task in tasks.into_iter().flatten() {
        task.abort();
        let _ = task.await;
    }
    registrar.stop();
    registering.abort();
    // One that another bridge has taken is let go when that is registered: before, nobody would be.
    let is_taken = |line: &LineId| {
        let cluster = cluster.as_ref();
        cluster.is_some_and(|cluster| cluster.is_taken(line))
    };
    let lines = registrar.lines().into_iter();
    let mut lines = lines.filter(|line| !is_taken(line));
    {
        let mut ended = pin!(calls_end(&calls, &watchdog, limits));
        tokio::select! {
            biased;
            () = &mut ended => {}
            () = drain::unregister_in_turn(&engine, &mut lines) => ended.await,
        }
    }
    drain::unregister_rest(&engine, lines, limits.shutdown).await;
    if let Some(cluster) = &cluster {
        cluster.stop(RELEASE_LIMIT).await;
    }
    if let Some(leasing) = leasing {
        leasing.abort();
        let _ = leasing.await;
    }

    watchdog.stage(Stage::Queue);
    if let Some(stream_server) = stream_server {
        stream_server.stop().await;
    }
    if let Some(queue) = queue {
        queue.stop().await;
    }
    dispatcher.stop(callbacks::STOP_LIMIT).await;
    if let Some((store, call_log)) = store {
        call_log.stop(RECORDS_LIMIT).await;
        if timeout(RECORDS_LIMIT, store.close()).await.is_err() {
            warn!("the database did not let go of its connections in time");
        }
    }

    watchdog.stage(Stage::Media);
    monitoring.abort();
    intake.abort();
    let _ = intake.await;
    let stopped = tokio::task::spawn_blocking(move || {
        pacer.stop();
        watchdog.stage(Stage::Sip);
        engine.shutdown();
        watchdog.stage(Stage::Done);
    });
    if let Err(error) = stopped.await {
        error!(%error, "the SIP stack was not shut down in order");
    }
    api.stop().await;
    info!("down");
}

/// Has other bridges take the lines, and takes calls until they have: each is registered there before it is let go
/// here, so that no caller is refused.
async fn hand_over(cluster: &ClusterHandle, limit: Duration) {
    cluster.leave();
    if cluster.has_nothing() {
        return;
    }
    // A bridge that has just started may not be known yet.
    cluster.next_view(VIEW_LIMIT).await;
    if !cluster.has_taker() {
        return;
    }
    let started = Instant::now();
    if cluster.handed_over(limit).await {
        let after_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        info!(after_ms, "other bridges have the lines");
        // What a registrar had sent here by then.
        sleep(STRAGGLERS).await;
    }
}

/// Returns when the calls are over, by themselves or hung up.
async fn calls_end(calls: &CallsInProgress, watchdog: &Watchdog, limits: Limits) {
    calls.wait(limits.drain).await;
    watchdog.shutdown_within(limits.shutdown + TEARDOWN_LIMIT);
    watchdog.stage(Stage::Calls);
    calls.end(limits.shutdown).await;
}
