//! File descriptors: the usual limit of 1,024 is reached at some 250 calls,
//! and what comes then are refused calls.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// RTP, RTCP, the worker's socket and its second handle.
const PER_CALL: u64 = 4;
/// Listeners, Redis, epoll, connections that come and go.
const SPARE: u64 = 128;

/// Raises the limit as far as the system lets us. The answer is how many calls
/// fit into it, `max_calls` at most: one more would not only fail itself, it
/// would take the descriptors that calls in progress need for another worker.
#[must_use]
pub fn raise_limit(max_calls: u32) -> u32 {
    let wanted = u64::from(max_calls) * PER_CALL + SPARE;
    let limit = getrlimit(Resource::Nofile);
    let Some(reachable) = reachable(&limit, wanted) else {
        return max_calls;
    };
    let raised = Rlimit {
        current: Some(reachable),
        maximum: limit.maximum,
    };
    let from = limit.current;
    let reached = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => reachable,
        Err(error) => {
            warn!(%error, ?from, wanted, "the limit of file descriptors cannot be raised");
            from.unwrap_or(wanted)
        }
    };
    let fit = room(reached).min(max_calls);
    if fit < max_calls {
        warn!(
            limit = reached,
            wanted,
            calls = fit,
            "too few file descriptors for --max-concurrent-calls, so many calls are taken: raise the hard limit (LimitNOFILE, ulimit -Hn)"
        );
    } else {
        debug!(?from, to = reached, "descriptor limit raised");
    }
    fit
}

/// How many calls fit into so many descriptors; one is always tried.
fn room(limit: u64) -> u32 {
    let calls = limit.saturating_sub(SPARE) / PER_CALL;
    u32::try_from(calls).unwrap_or(u32::MAX).max(1)
}

/// What to raise the limit to; `None` when it suffices.
fn reachable(limit: &Rlimit, wanted: u64) -> Option<u64> {
    let too_low = limit.current.is_some_and(|current| current < wanted);
    too_low.then(|| limit.maximum.map_or(wanted, |maximum| maximum.min(wanted)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_is_raised_as_far_as_wanted_and_allowed() {
        let limit = |current, maximum| Rlimit { current, maximum };
        assert_eq!(
            reachable(&limit(Some(1_024), Some(524_288)), 4_128),
            Some(4_128)
        );
        assert_eq!(
            reachable(&limit(Some(1_024), Some(2_048)), 4_128),
            Some(2_048)
        );
        assert_eq!(reachable(&limit(Some(1_024), None), 4_128), Some(4_128));
        assert_eq!(reachable(&limit(Some(8_192), Some(8_192)), 4_128), None);
        assert_eq!(reachable(&limit(None, None), 4_128), None);
    }

    #[test]
    fn as_many_calls_are_taken_as_there_are_descriptors_for() {
        assert_eq!(room(4_128), 1_000);
        assert_eq!(room(1_024), 224);
        assert_eq!(room(135), 1);
        assert_eq!(room(20), 1);
    }
}
