//! How bridges that share Redis share their lines.

use std::time::Duration;

use super::config_error::FlagProblem;
use super::reader::Reader;
use super::settings::ClusterConfig;

/// Shorter leases would end in any hiccup of Redis.
const LEASE_TTL_MIN_S: f64 = 2.0;
/// Longer ones would leave the lines of a dead bridge alone for as long.
const LEASE_TTL_MAX: Duration = Duration::from_secs(300);

/// `None` without Redis, or where it is turned off.
pub(super) fn cluster(reader: &mut Reader) -> Option<ClusterConfig> {
    let is_on = reader.choice("cluster", "on or off", [true, false]);
    let config = ClusterConfig {
        lease_ttl: reader.seconds("lease-ttl", LEASE_TTL_MIN_S),
        handover_timeout: reader.seconds("handover-timeout", 0.0),
    };
    if config.lease_ttl > LEASE_TTL_MAX {
        let range = FlagProblem::Seconds(LEASE_TTL_MIN_S.to_string(), LEASE_TTL_MAX.as_secs());
        reader.mistake("lease-ttl", range);
    }
    let has_redis = reader.given.explicit("redis-url").is_some();
    for name in ["cluster", "lease-ttl", "handover-timeout"] {
        if !has_redis && reader.given.explicit(name).is_some() {
            reader.warn(name, "has no effect without --redis-url");
        }
    }
    (is_on && has_redis).then_some(config)
}
