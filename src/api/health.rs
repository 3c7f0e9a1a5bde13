//! What `GET /health` says. Plain facts, filled in by `app`.
//!
//! The HTTP status answers one question, for load balancers: would a new call
//! be taken? `status` says how the bridge is, for people. They differ in an
//! overload: the bridge is `degraded`, since its calls go on, and the answer
//! is 503, since it takes no new ones (`takesCalls` is false).
//!
//! | field | meaning |
//! |---|---|
//! | `calls` | in progress, most, taken and refused since the start, by reason |
//! | `overload` | whether new calls are refused for it; the latest tick of pacer and runtime in five seconds; rounds of 20 ms skipped |
//! | `audio` | waiting for workers and callers now; lost since the start |
//! | `panics` | caught in callbacks of the SIP stack |
//! | `records` | of calls: written to the database, and lost |
//! | `cluster` | with `?cluster=1`: the bridges that share lines, how many lines each is registered for, lines of nobody |

use std::collections::BTreeMap;
use std::time::Duration;

use axum::Json;
use axum::extract::{RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::control::HealthSource;
use super::metrics::MetricCounters;
use crate::bridge::overload::Readings;
use crate::core::access::REASONS;
use crate::core::cluster::NodeStage;
use crate::fleet::RefusedCalls;
use crate::queue::QueueStats;
use crate::sip::engine::EngineStats;
use crate::store::CallLogStats;

/// Whether calls can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Everything works.
    Ok,
    /// Calls in progress go on, though something is wrong.
    Degraded,
    /// Shutting down: no new calls.
    Draining,
    /// No call can be taken.
    Unavailable,
}

/// Lines by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct LineCounts {
    /// Registered now.
    pub registered: usize,
    /// Waiting for their turn or for the registrar's answer.
    pub registering: usize,
    /// They take calls, and register once their passwords are decrypted.
    pub decrypting: usize,
    /// Another bridge registers them, or none yet; their calls are taken here as well.
    pub elsewhere: usize,
    /// Refused or unanswered; retried with backoff.
    pub failed: usize,
    /// Not registering, by `--no-register`; their calls are taken.
    pub unregistered: usize,
    /// Mistakes in configuration or credentials.
    pub unusable: usize,
}

impl LineCounts {
    /// Lines whose calls are taken: here, or by the bridge that is registered for them.
    #[must_use]
    pub const fn usable(&self) -> usize {
        self.registered + self.unregistered + self.elsewhere
    }
}

/// The bridges that share lines, as this one sees them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClusterHealth {
    /// Whether others may have taken our lines over.
    pub is_cut_off: bool,
    /// Lines that no living bridge is registered for.
    pub lines_without_holder: usize,
    /// The bridges that are alive.
    pub nodes: Vec<NodeHealth>,
}

/// A bridge that shares lines, as it said with its last heartbeat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeHealth {
    /// Its `--node-id`.
    pub id: String,
    /// Whether it takes lines.
    pub stage: NodeStage,
    /// Of its program.
    pub version: String,
    /// Lines that it is registered for.
    pub lines: u32,
    /// Calls in progress.
    pub calls: u32,
}

/// Redis as the queue sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisHealth {
    /// Whether jobs can be pushed.
    pub connected: bool,
    /// How long that has been so.
    pub since: Duration,
    /// Class of the last failure while not connected.
    pub failure: Option<&'static str>,
    /// What was lost on the way to it.
    pub lost: QueueStats,
}

/// Calls refused and taken since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CallTotals {
    /// Taken.
    pub taken: u64,
    /// Refused, by reason.
    pub refused: RefusedCalls,
}

/// The facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// `--node-id`.
    pub node_id: String,
    /// Time since start.
    pub uptime: Duration,
    /// Whether a shutdown has begun.
    pub draining: bool,
    /// Lines by state.
    pub lines: LineCounts,
    /// Calls in progress.
    pub calls_active: usize,
    /// Most calls at once.
    pub calls_max: usize,
    /// Calls since the start.
    pub totals: CallTotals,
    /// New calls are refused because audio is late.
    pub overloaded: bool,
    /// What the overload monitor saw last.
    pub readings: Readings,
    /// Counters of the SIP engine.
    pub engine: EngineStats,
    /// Redis; `None` when no `--redis-url` was given.
    pub redis: Option<RedisHealth>,
    /// The bridges that lines are shared with, where they are.
    pub cluster: Option<ClusterHealth>,
    /// Whether there is a `--ws-target` to fall back to, or to use instead, or a `--voice-url`.
    pub has_ws_target: bool,
    /// What only metrics tell, but for the records of calls.
    pub counters: MetricCounters,
}

impl Health {
    /// The one judgement that status code and body share.
    #[must_use]
    pub fn status(&self) -> HealthStatus {
        let redis_up = self.redis.as_ref().is_some_and(|redis| redis.connected);
        if self.draining {
            HealthStatus::Draining
        } else if self.lines.usable() == 0
            || self.calls_active >= self.calls_max
            || !(redis_up || self.has_ws_target)
        {
            HealthStatus::Unavailable
        } else if self.overloaded
            || self.lines.failed > 0
            || self.lines.unusable > 0
            || self.redis.as_ref().is_some_and(|redis| !redis.connected)
        {
            HealthStatus::Degraded
        } else {
            HealthStatus::Ok
        }
    }

    /// Whether a new call would be taken: 200, else 503.
    #[must_use]
    pub fn takes_calls(&self) -> bool {
        let takes = matches!(self.status(), HealthStatus::Ok | HealthStatus::Degraded);
        takes && !self.overloaded
    }

    /// The JSON body. `lastError` is absent while Redis is connected.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({
            "status": self.status(),
            "takesCalls": self.takes_calls(),
            "version": env!("CARGO_PKG_VERSION"),
            "nodeId": self.node_id,
            "uptimeS": self.uptime.as_secs(),
            "lines": self.lines,
            "calls": self.calls_body(),
            "overload": self.overload_body(),
            "audio": self.audio_body(),
            "panics": self.engine.panics,
            "redis": self.redis_body(),
            "records": self.records_body(),
        })
    }

    /// What `?cluster=1` adds: as far as this bridge knows, which asks no other.
    fn cluster_body(&self) -> Value {
        let Some(cluster) = &self.cluster else {
            return json!({ "configured": false });
        };
        let nodes = cluster.nodes.iter().map(NodeHealth::body);
        json!({
            "configured": true,
            "cutOff": cluster.is_cut_off,
            "nodes": nodes.collect::<Vec<_>>(),
            "linesWithoutHolder": cluster.lines_without_holder,
        })
    }

    fn calls_body(&self) -> Value {
        let mut refused = json!(self.totals.refused);
        refused["unknownLine"] = self.engine.unknown_line.into();
        let names = REASONS.iter().map(|reason| reason.as_str());
        let strangers: BTreeMap<_, _> = names.zip(self.engine.strangers).collect();
        json!({
            "active": self.calls_active,
            "max": self.calls_max,
            "taken": self.totals.taken,
            "refused": refused,
            "strangers": strangers,
        })
    }

    fn overload_body(&self) -> Value {
        let lateness = self.readings.lateness;
        json!({
            "active": self.overloaded,
            "pacerLateMaxMs": ms(lateness.pacer),
            "runtimeLateMaxMs": ms(lateness.runtime),
            "roundsSkipped": self.readings.rounds_skipped,
        })
    }

    fn audio_body(&self) -> Value {
        let audio = self.readings.audio;
        json!({
            "toWorkersMaxMs": ms(audio.to_workers_max),
            "toCallersMaxMs": ms(audio.to_callers_max),
            "toCallersSumMs": ms(audio.to_callers_sum),
            "messagesDropped": audio.messages_dropped,
            "framesTrimmed": audio.frames_trimmed,
            "marksRefused": audio.marks_refused,
            "rtpUnsent": audio.rtp_unsent,
            "rtpOverflow": self.engine.rtp_overflow,
            "rtpForeign": self.engine.rtp_foreign,
            "rtpThinned": self.engine.rtp_thinned,
        })
    }

    fn records_body(&self) -> Value {
        match self.counters.records {
            None => json!({ "configured": false }),
            Some(CallLogStats { written, dropped }) => {
                json!({ "configured": true, "written": written, "dropped": dropped })
            }
        }
    }

    fn redis_body(&self) -> Value {
        let Some(redis) = &self.redis else {
            return json!({ "configured": false });
        };
        let mut body = json!({
            "configured": true,
            "connected": redis.connected,
            "sinceS": redis.since.as_secs(),
            "eventsDropped": redis.lost.dropped_events,
            "removalsForgotten": redis.lost.forgotten_removals,
            "jobsForgotten": redis.lost.forgotten_jobs,
        });
        if let (Some(failure), false) = (redis.failure, redis.connected) {
            body["lastError"] = failure.into();
        }
        body
    }
}

impl NodeHealth {
    fn body(&self) -> Value {
        json!({
            "id": self.id,
            "state": self.stage.as_str(),
            "version": self.version,
            "lines": self.lines,
            "calls": self.calls,
        })
    }
}

/// The facts as JSON.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a schema: the body is made by hand")]
pub struct HealthBody {
    status: HealthStatus,
    /// Whether a new call would be taken now.
    #[schema(rename = "takesCalls")]
    takes_calls: bool,
    version: String,
    #[schema(rename = "nodeId")]
    node_id: String,
    #[schema(rename = "uptimeS")]
    uptime_s: u64,
    lines: LineCounts,
    /// In progress, most, taken, and refused by reason.
    calls: Value,
    overload: Value,
    audio: Value,
    /// Caught in callbacks of the SIP stack.
    panics: u64,
    redis: Value,
    /// Records of calls: written to the database, and lost.
    records: Value,
    /// With `cluster=1`: the bridges that share lines, how many lines each is registered for, and lines that no
    /// living bridge is registered for.
    cluster: Option<Value>,
}

/// Whether new calls are taken, and how the bridge is; with `cluster=1` also which bridges it shares its lines with. The
/// status is that of this bridge either way. Needs no token.
#[utoipa::path(
    get,
    path = "/health",
    tag = "health",
    operation_id = "health",
    security(()),
    params(("cluster" = Option<String>, Query, description = "1: with `cluster`.")),
    responses(
        (status = 200, description = "New calls are taken.", body = HealthBody),
        (status = 503, description = "No new calls are taken; the body says why.", body = HealthBody),
    ),
)]
pub(super) async fn answer(
    State(source): State<HealthSource>,
    RawQuery(query): RawQuery,
) -> Response {
    let health = source.health();
    let status = if health.takes_calls() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    let headers = [(header::CACHE_CONTROL, "no-store")];
    let mut body = health.body();
    // A load balancer may add parameters of its own.
    let mut asked = url::form_urlencoded::parse(query.as_deref().unwrap_or_default().as_bytes());
    if asked.any(|(name, value)| name == "cluster" && value == "1") {
        body["cluster"] = health.cluster_body();
    }
    (status, headers, Json(body)).into_response()
}

fn ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn health() -> Health {
        Health {
            node_id: "n".into(),
            uptime: Duration::from_secs(5),
            draining: false,
            lines: LineCounts {
                registered: 2,
                ..LineCounts::default()
            },
            calls_active: 1,
            calls_max: 100,
            totals: CallTotals::default(),
            overloaded: false,
            readings: Readings::default(),
            engine: EngineStats::default(),
            cluster: None,
            redis: Some(RedisHealth {
                connected: true,
                since: Duration::from_secs(4),
                failure: None,
                lost: QueueStats::default(),
            }),
            has_ws_target: false,
            counters: MetricCounters::default(),
        }
    }

    fn changed(change: impl FnOnce(&mut Health)) -> HealthStatus {
        let mut health = health();
        change(&mut health);
        health.status()
    }

    fn redis_down(health: &mut Health) {
        health.redis = Some(RedisHealth {
            connected: false,
            since: Duration::from_secs(1),
            failure: Some("unreachable"),
            lost: QueueStats {
                dropped_events: 4,
                forgotten_removals: 5,
                forgotten_jobs: 6,
            },
        });
    }

    #[test]
    fn the_status_follows_from_the_facts() {
        assert_eq!(changed(|_| {}), HealthStatus::Ok);
        assert_eq!(changed(|h| h.draining = true), HealthStatus::Draining);
        assert_eq!(changed(|h| h.overloaded = true), HealthStatus::Degraded);
        assert_eq!(changed(|h| h.lines.failed = 1), HealthStatus::Degraded);
        assert_eq!(changed(|h| h.lines.unusable = 1), HealthStatus::Degraded);
        assert_eq!(
            changed(|h| h.lines = LineCounts::default()),
            HealthStatus::Unavailable
        );
        assert_eq!(
            changed(|h| h.lines = LineCounts {
                unregistered: 1,
                ..LineCounts::default()
            }),
            HealthStatus::Ok
        );
        assert_eq!(changed(|h| h.calls_active = 100), HealthStatus::Unavailable);
        assert_eq!(changed(redis_down), HealthStatus::Unavailable);
        assert_eq!(
            changed(|h| {
                redis_down(h);
                h.has_ws_target = true;
            }),
            HealthStatus::Degraded
        );
        assert_eq!(changed(|h| h.redis = None), HealthStatus::Unavailable);
        assert_eq!(
            changed(|h| {
                h.redis = None;
                h.has_ws_target = true;
            }),
            HealthStatus::Ok
        );
    }

    #[test]
    fn an_overloaded_bridge_is_degraded_and_takes_no_calls() {
        let mut health = health();
        assert!(health.takes_calls());
        health.lines.failed = 1;
        assert!(health.takes_calls());
        health.overloaded = true;
        assert!(!health.takes_calls());
        assert_eq!(health.body()["status"], "degraded");
        assert_eq!(health.body()["takesCalls"], false);
    }

    #[test]
    fn the_cluster_is_told_node_by_node() {
        let mut health = health();
        assert_eq!(health.cluster_body(), json!({"configured": false}));
        health.cluster = Some(ClusterHealth {
            is_cut_off: true,
            lines_without_holder: 3,
            nodes: vec![NodeHealth {
                id: "one".into(),
                stage: NodeStage::Draining,
                version: "0.1.0".into(),
                lines: 4,
                calls: 5,
            }],
        });
        assert_eq!(
            health.cluster_body(),
            json!({
                "configured": true, "cutOff": true, "linesWithoutHolder": 3,
                "nodes": [{
                    "id": "one", "state": "draining", "version": "0.1.0", "lines": 4, "calls": 5
                }],
            })
        );
    }

    #[test]
    fn the_body_names_every_fact() {
        let mut health = health();
        redis_down(&mut health);
        health.totals.taken = 9;
        health.counters.records = Some(CallLogStats {
            written: 8,
            dropped: 1,
        });
        health.totals.refused.line_share = 2;
        health.engine.unknown_line = 3;
        health.engine.rtp_foreign = 6;
        health.engine.panics = 1;
        health.readings.lateness.pacer = Duration::from_micros(2_900);
        health.readings.audio.to_callers_sum = Duration::from_millis(70);
        assert_eq!(
            health.body(),
            json!({
                "status": "unavailable",
                "takesCalls": false,
                "version": env!("CARGO_PKG_VERSION"),
                "nodeId": "n",
                "uptimeS": 5,
                "lines": {
                    "registered": 2, "registering": 0, "decrypting": 0, "elsewhere": 0, "failed": 0,
                    "unregistered": 0, "unusable": 0
                },
                "calls": {
                    "active": 1, "max": 100, "taken": 9,
                    "refused": {
                        "draining": 0, "overloaded": 0, "bridgeFull": 0, "bridgeRate": 0,
                        "lineBusy": 0, "lineShare": 2, "lineRate": 0, "unknownLine": 3
                    },
                    "strangers": {
                        "connections": 0, "incomplete": 0, "source_rate": 0, "stray_response": 0,
                        "unacknowledged": 0, "unknown_dialog": 0, "unknown_source": 0, "unreadable": 0
                    }
                },
                "overload": {
                    "active": false, "pacerLateMaxMs": 2, "runtimeLateMaxMs": 0,
                    "roundsSkipped": 0
                },
                "audio": {
                    "toWorkersMaxMs": 0, "toCallersMaxMs": 0, "toCallersSumMs": 70,
                    "messagesDropped": 0, "framesTrimmed": 0, "marksRefused": 0,
                    "rtpUnsent": 0, "rtpOverflow": 0, "rtpForeign": 6, "rtpThinned": 0
                },
                "panics": 1,
                "redis": {
                    "configured": true, "connected": false, "sinceS": 1,
                    "lastError": "unreachable", "eventsDropped": 4,
                    "removalsForgotten": 5, "jobsForgotten": 6
                },
                "records": { "configured": true, "written": 8, "dropped": 1 }
            })
        );
    }
}
