//! What `GET /health` tells: facts gathered from the rooms, when asked.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use super::logging;
use crate::api::metrics::{CallbackTotals, MetricCounters};
use crate::api::{
    CallTotals, ClusterHealth, Health, HealthSource, LineCounts, NodeHealth, RedisHealth,
};
use crate::bridge::audio_metrics::AudioMetrics;
use crate::bridge::call_store::CallStore;
use crate::bridge::context::Context;
use crate::bridge::dialling::Dialling;
use crate::bridge::overload::Monitor;
use crate::callbacks::{CallbackStats, StatusCallbacks};
use crate::cluster::ClusterHandle;
use crate::config::Config;
use crate::core::call_object::CallDirection;
use crate::fleet::{CallLimiter, LineDirectory, RegistrarHandle};
use crate::queue::{Queue, QueueStats, RedisState};
use crate::sip::engine::{EngineStats, SharedEngine};
use crate::store::CallLog;
use crate::watchdog::Pulse;

/// Where the facts are.
pub struct HealthReporter {
    node_id: String,
    calls_max: usize,
    file_mistakes: usize,
    registers: bool,
    has_ws_target: bool,
    started: Instant,
    engine: SharedEngine,
    call_limiter: Arc<CallLimiter>,
    calls: Arc<CallStore>,
    lines: LineDirectory,
    dialling: Arc<Dialling>,
    gauges: Arc<AudioMetrics>,
    queue: Option<Queue>,
    call_log: Option<CallLog>,
    registrar: RegistrarHandle,
    monitor: Arc<Monitor>,
    pulses: Vec<Pulse>,
    callbacks: StatusCallbacks,
    cluster: Option<ClusterHandle>,
}

impl HealthReporter {
    /// A reporter of a running bridge.
    #[must_use]
    pub fn new(
        config: &Config,
        file_mistakes: usize,
        context: &Context,
        registrar: RegistrarHandle,
        monitor: Arc<Monitor>,
        pulses: Vec<Pulse>,
        callbacks: StatusCallbacks,
    ) -> Self {
        Self {
            node_id: config.node_id.clone(),
            calls_max: usize::try_from(config.calls.max_calls).unwrap_or(usize::MAX),
            file_mistakes,
            registers: config.sip.register,
            has_ws_target: config.worker.ws_target.is_some() || config.voice.is_some(),
            started: Instant::now(),
            engine: context.engine.clone(),
            call_limiter: context.call_limiter.clone(),
            calls: context.calls.clone(),
            lines: context.lines.clone(),
            dialling: context.dialling.clone(),
            gauges: context.gauges.clone(),
            queue: context.queue.clone(),
            call_log: context.call_log.clone(),
            registrar,
            monitor,
            pulses,
            callbacks,
            cluster: None,
        }
    }

    /// The same of a bridge that shares its lines.
    #[must_use]
    pub fn sharing_lines(self, cluster: Option<ClusterHandle>) -> Self {
        Self { cluster, ..self }
    }

    /// For the API.
    #[must_use]
    pub fn source(self) -> HealthSource {
        HealthSource::new(move || self.health())
    }

    fn health(&self) -> Health {
        let engine = self.engine.stats();
        Health {
            node_id: self.node_id.clone(),
            uptime: self.started.elapsed(),
            draining: self.call_limiter.is_draining(),
            lines: self.lines(),
            calls_active: usize::try_from(self.call_limiter.active()).unwrap_or(usize::MAX),
            calls_max: self.calls_max,
            totals: self.totals(&engine),
            overloaded: self.call_limiter.is_overloaded(),
            readings: self.monitor.readings(),
            engine,
            redis: self
                .queue
                .as_ref()
                .map(|queue| redis(&queue.status(), queue.stats())),
            cluster: self.cluster.as_ref().map(cluster),
            has_ws_target: self.has_ws_target,
            counters: self.counters(),
        }
    }

    fn counters(&self) -> MetricCounters {
        let calls = |direction| {
            let calls = self.calls.in_progress(direction);
            u64::try_from(calls).unwrap_or(u64::MAX)
        };
        let pulses = self.pulses.iter();
        MetricCounters {
            inbound: calls(CallDirection::Inbound),
            outbound: calls(CallDirection::Outbound),
            counters: self.gauges.counters.read(),
            dials: self.dialling.dialled(),
            dials_refused: self.dialling.refused().collect(),
            registration_failures: self.registrar.failures(),
            records: self.call_log.as_ref().map(CallLog::stats),
            callbacks: Some(callbacks(self.callbacks.stats())),
            log_lines_dropped: logging::dropped_lines(),
            beats: pulses.map(|pulse| (pulse.name, (pulse.beat)())).collect(),
        }
    }

    /// What the engine refused without asking us, because all its places or
    /// queues were full, is a full bridge as well.
    fn totals(&self, engine: &EngineStats) -> CallTotals {
        let call_limiter = &self.call_limiter;
        let by_engine = engine
            .refused
            .saturating_sub(call_limiter.refused_by_admit());
        let mut refused = call_limiter.refused();
        refused.bridge_full += by_engine;
        CallTotals {
            taken: call_limiter.taken(),
            refused,
        }
    }

    fn lines(&self) -> LineCounts {
        let counts = self.registrar.counts();
        let refused = counts.refused;
        let unusable = self.file_mistakes + self.lines.unusable() + refused;
        if !self.registers {
            let unregistered = self.lines.len().saturating_sub(refused);
            return LineCounts {
                unregistered,
                unusable,
                ..LineCounts::default()
            };
        }
        LineCounts {
            registered: counts.registered,
            registering: counts.registering,
            decrypting: counts.decrypting,
            elsewhere: counts.elsewhere,
            failed: counts.failed,
            unregistered: 0,
            unusable,
        }
    }
}

fn cluster(cluster: &ClusterHandle) -> ClusterHealth {
    let nodes = cluster.nodes().into_iter();
    ClusterHealth {
        is_cut_off: cluster.is_cut_off(),
        lines_without_holder: cluster.lines_without_holder(),
        nodes: nodes
            .map(|node| NodeHealth {
                id: node.id.to_string(),
                stage: node.info.stage,
                version: node.info.version.to_string(),
                lines: node.info.lines,
                calls: node.info.calls,
            })
            .collect(),
    }
}

fn callbacks(stats: CallbackStats) -> CallbackTotals {
    CallbackTotals {
        pending: stats.waiting,
        delivered: stats.delivered,
        retried: stats.retried,
        dropped: stats.dropped + stats.given_up,
    }
}

fn redis(state: &RedisState, lost: QueueStats) -> RedisHealth {
    let (connected, since, failure) = match state {
        RedisState::Connected { since } => (true, *since, None),
        RedisState::Disconnected { since, failure } => (false, *since, Some(failure.as_str())),
    };
    let since = SystemTime::now().duration_since(since).unwrap_or_default();
    RedisHealth {
        connected,
        since,
        failure,
        lost,
    }
}
