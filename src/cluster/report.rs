//! What is worth telling: log lines, and `line.moved` in the stream of events.

use tracing::{error, info, warn};

use crate::core::cluster::{ClusterEvent, MoveReason, NodeId};
use crate::queue::LineMoved;

/// Logs an event; gives the entry of the stream that goes with it.
pub(super) fn report(event: ClusterEvent) -> Option<LineMoved> {
    let shown = |node: &Option<NodeId>| node.as_ref().map(ToString::to_string);
    match event {
        ClusterEvent::LineMoved {
            line,
            from,
            to,
            reason,
        } => {
            let (before, why) = (shown(&from), reason.as_str());
            match reason {
                MoveReason::Fenced => {
                    warn!(%line, %to, "the line is another bridge's: it took it over while this one was away");
                    // The one that has it tells of it.
                    return None;
                }
                _ => info!(%line, from = before, reason = why, "the line is this bridge's"),
            }
            return Some(LineMoved {
                line,
                from,
                to: Some(to),
                reason,
            });
        }
        ClusterEvent::HandoverFailed { line, by } => {
            let by = shown(&by);
            warn!(%line, by, "the line stays here: no bridge took it, or none could register it");
        }
        ClusterEvent::RedisForgot { known, found } => {
            warn!(
                known = known.0,
                found = found.0,
                "Redis has forgotten the leases: this bridge claims anew what it is registered for"
            );
        }
        ClusterEvent::NodeCame(node) => info!(%node, "a bridge is there"),
        ClusterEvent::NodeWent(node) => warn!(%node, "a bridge is gone"),
        ClusterEvent::Slept => {
            error!(
                "this process stood still for longer than its leases last: Redis is asked first"
            );
        }
    }
    None
}
