//! Runs the bridge: the start order, and the order in which it goes down.
//!
//! Up: lines and credentials, Redis, the workers' port, the API, then SIP,
//! the pacer, the watchdog, and last the registrations, so that no call comes
//! in before everything behind it stands.
//!
//! Down, on the first SIGTERM or Ctrl+C: no new calls, lines unregister,
//! calls get `--shutdown-timeout`, then they are hung up; Redis gets the last
//! state; the pacer stops before pjsip is destroyed, because it sends through
//! it. The watchdog ends the process at the deadline whatever hangs, and a
//! second signal ends it at once.

use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;
use tracing::{error, info, warn};

use super::compose::{Running, StartError, compose};
use super::{EXIT_FAILURE, descriptors, logging, profiles};
use crate::config::Config;
use crate::sip::engine::Command;
use crate::sip::pjsip::hard_exit;
use crate::watchdog::Stage;

/// What follows the calls' end may take this long before it counts as hung.
const TEARDOWN_LIMIT: Duration = Duration::from_secs(8);
/// Kept back from the calls' time, for their BYEs to be answered.
const BYE_TIME: Duration = Duration::from_secs(1);
/// Exit code after a second signal: 128 + SIGTERM.
const EXIT_SECOND_SIGNAL: i32 = 143;

/// Runs the bridge until it is told to stop.
pub fn run(config: Config) -> ExitCode {
    logging::start(config.log_format, &config.log_filter);
    descriptors::raise_limit(config.calls.max_calls);
    match start_and_serve(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("not started: {error}");
            ExitCode::from(EXIT_FAILURE)
        }
    }
}

fn start_and_serve(config: Config) -> Result<(), StartError> {
    let lines = profiles::lines(&config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .thread_name("tokio")
        .enable_all()
        .build()
        .map_err(StartError::Thread)?;
    runtime.block_on(async {
        let mut signals = Signals::new().map_err(StartError::Thread)?;
        let shutdown_timeout = config.shutdown_timeout;
        let running = compose(config, lines).await?;
        signals.next().await;
        tokio::spawn(async move {
            signals.next().await;
            warn!("second signal: ending at once");
            hard_exit(EXIT_SECOND_SIGNAL);
        });
        go_down(running, shutdown_timeout).await;
        Ok(())
    })
}

/// SIGTERM and Ctrl+C.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

async fn go_down(running: Running, limit: Duration) {
    let Running {
        context,
        watchdog,
        registrar,
        registering,
        intake,
        api,
        stream_server,
        engine,
        line_ids,
    } = running;
    watchdog.shutdown_within(limit + TEARDOWN_LIMIT);
    watchdog.stage(Stage::Calls);
    let calls = context.registry.active();
    info!(
        calls,
        timeout_s = limit.as_secs(),
        "shutting down: no new calls, lines unregister"
    );
    context.registry.drain();
    registrar.stop();
    registering.abort();
    for line in line_ids {
        // A full command queue only means that the registrar forgets us later.
        let _ = engine.submit(Command::Unregister(line));
    }
    end_calls(&context, limit).await;

    watchdog.stage(Stage::Queue);
    if let Some(stream_server) = stream_server {
        stream_server.stop().await;
    }
    if let Some(queue) = context.queue.clone() {
        queue.stop().await;
    }

    watchdog.stage(Stage::Media);
    intake.abort();
    let _ = intake.await;
    let stopped = tokio::task::spawn_blocking(move || {
        context.pacer.stop();
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

/// Waits for the calls to end by themselves, then ends them.
async fn end_calls(context: &crate::bridge::context::Context, limit: Duration) {
    if timeout(limit.saturating_sub(BYE_TIME), context.registry.empty())
        .await
        .is_ok()
    {
        return;
    }
    warn!(
        calls = context.registry.active(),
        "the time is over: hanging up"
    );
    context.shutdown.end_calls();
    if timeout(BYE_TIME, context.registry.empty()).await.is_err() {
        warn!(
            calls = context.registry.active(),
            "calls that did not end are given up"
        );
    }
}
