//! What `GET /health` tells: facts gathered from the rooms, when asked.

use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime};

use crate::api::{Health, HealthSource, LineCounts, RedisHealth};
use crate::bridge::context::Context;
use crate::bridge::registrar::RegistrarHandle;
use crate::config::Config;
use crate::queue::RedisState;

/// The API listens before the bridge stands behind it; until then, no call
/// can be taken.
pub struct HealthReporter {
    node_id: String,
    calls_max: usize,
    unusable_lines: usize,
    registers: bool,
    has_ws_target: bool,
    started: Instant,
    bridge: OnceLock<(Arc<Context>, RegistrarHandle)>,
}

impl HealthReporter {
    /// A reporter of a bridge that is still starting.
    #[must_use]
    pub fn new(config: &Config, unusable_lines: usize) -> Arc<Self> {
        Arc::new(Self {
            node_id: config.node_id.clone(),
            calls_max: usize::try_from(config.calls.max_calls).unwrap_or(usize::MAX),
            unusable_lines,
            registers: config.sip.register,
            has_ws_target: config.worker.ws_target.is_some(),
            started: Instant::now(),
            bridge: OnceLock::new(),
        })
    }

    /// The bridge stands.
    pub fn connect(&self, context: Arc<Context>, registrar: RegistrarHandle) {
        // Called once, by `compose`.
        let _ = self.bridge.set((context, registrar));
    }

    /// For the API.
    #[must_use]
    pub fn source(self: &Arc<Self>) -> HealthSource {
        let reporter = self.clone();
        Arc::new(move || reporter.health())
    }

    fn health(&self) -> Health {
        let mut health = Health {
            node_id: self.node_id.clone(),
            uptime: self.started.elapsed(),
            draining: false,
            lines: LineCounts {
                unusable: self.unusable_lines,
                ..LineCounts::default()
            },
            calls_active: 0,
            calls_max: self.calls_max,
            redis: None,
            has_ws_target: self.has_ws_target,
        };
        if let Some((context, registrar)) = self.bridge.get() {
            health.draining = context.registry.is_draining();
            health.calls_active = usize::try_from(context.registry.active()).unwrap_or(usize::MAX);
            health.redis = context.queue.as_ref().map(|queue| redis(&queue.status()));
            self.add_lines(&mut health.lines, context, registrar);
        }
        health
    }

    fn add_lines(&self, lines: &mut LineCounts, context: &Context, registrar: &RegistrarHandle) {
        let refused = registrar.refused();
        lines.unusable += refused;
        if self.registers {
            let counts = registrar.counts();
            lines.registered = counts.registered;
            lines.registering = counts.registering;
            lines.failed = counts.failed;
        } else {
            lines.unregistered = context.lines.len().saturating_sub(refused);
        }
    }
}

fn redis(state: &RedisState) -> RedisHealth {
    let (connected, since, failure) = match state {
        RedisState::Connected { since } => (true, *since, None),
        RedisState::Disconnected { since, failure } => (false, *since, Some(failure.as_str())),
    };
    let since = SystemTime::now().duration_since(since).unwrap_or_default();
    RedisHealth {
        connected,
        since,
        failure,
    }
}
