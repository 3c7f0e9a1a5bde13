//! What `GET /health` says. Plain facts, filled in by `app`.

use std::time::Duration;

use serde::Serialize;
use serde_json::{Value, json};

/// Whether calls can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Everything works.
    Ok,
    /// Calls are taken, though something is wrong.
    Degraded,
    /// Shutting down: no new calls.
    Draining,
    /// No call can be taken.
    Unavailable,
}

impl HealthStatus {
    /// Whether a new call would be taken: 200, else 503.
    #[must_use]
    pub const fn takes_calls(self) -> bool {
        matches!(self, Self::Ok | Self::Degraded)
    }
}

/// Lines by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// Registered now.
    pub registered: usize,
    /// Waiting for their turn or for the registrar's answer.
    pub registering: usize,
    /// Refused or unanswered; retried with backoff.
    pub failed: usize,
    /// Not registering, by `--no-register`; their calls are taken.
    pub unregistered: usize,
    /// Mistakes in configuration or credentials.
    pub unusable: usize,
}

impl LineCounts {
    /// Lines whose calls can reach us.
    #[must_use]
    pub const fn usable(&self) -> usize {
        self.registered + self.unregistered
    }
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
    /// Redis; `None` when no `--redis-url` was given.
    pub redis: Option<RedisHealth>,
    /// Whether there is a `--ws-target` to fall back to, or to use instead.
    pub has_ws_target: bool,
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
        } else if self.lines.failed > 0
            || self.lines.unusable > 0
            || self.redis.as_ref().is_some_and(|redis| !redis.connected)
        {
            HealthStatus::Degraded
        } else {
            HealthStatus::Ok
        }
    }

    /// The JSON body. `lastError` is absent while Redis is connected.
    #[must_use]
    pub fn body(&self) -> Value {
        json!({
            "status": self.status(),
            "version": env!("CARGO_PKG_VERSION"),
            "nodeId": self.node_id,
            "uptimeS": self.uptime.as_secs(),
            "lines": self.lines,
            "calls": { "active": self.calls_active, "max": self.calls_max },
            "redis": self.redis_body(),
        })
    }

    fn redis_body(&self) -> Value {
        let Some(redis) = &self.redis else {
            return json!({ "configured": false });
        };
        let mut body = json!({
            "configured": true,
            "connected": redis.connected,
            "sinceS": redis.since.as_secs(),
        });
        if let (Some(failure), false) = (redis.failure, redis.connected) {
            body["lastError"] = failure.into();
        }
        body
    }
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
            redis: Some(RedisHealth {
                connected: true,
                since: Duration::from_secs(4),
                failure: None,
            }),
            has_ws_target: false,
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
        });
    }

    #[test]
    fn the_status_follows_from_the_facts() {
        assert_eq!(changed(|_| {}), HealthStatus::Ok);
        assert_eq!(changed(|h| h.draining = true), HealthStatus::Draining);
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
    fn the_body_names_every_fact() {
        let mut health = health();
        redis_down(&mut health);
        assert_eq!(
            health.body(),
            json!({
                "status": "unavailable",
                "version": env!("CARGO_PKG_VERSION"),
                "nodeId": "n",
                "uptimeS": 5,
                "lines": {
                    "registered": 2, "registering": 0, "failed": 0,
                    "unregistered": 0, "unusable": 0
                },
                "calls": { "active": 1, "max": 100 },
                "redis": {
                    "configured": true, "connected": false, "sinceS": 1,
                    "lastError": "unreachable"
                }
            })
        );
    }
}
