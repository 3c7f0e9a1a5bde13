//! File descriptors: the usual limit of 1,024 is reached at some 250 calls,
//! and what comes then are refused calls.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tracing::{debug, warn};

/// RTP, RTCP, the worker's socket and its second handle.
const PER_CALL: u64 = 4;
/// Listeners, Redis, epoll, connections that come and go.
const SPARE: u64 = 128;

/// Raises the limit as far as the system lets us, and says when that is too
/// little for so many calls.
pub fn raise_limit(max_calls: u32) {
    let wanted = u64::from(max_calls) * PER_CALL + SPARE;
    let limit = getrlimit(Resource::Nofile);
    let Some(reachable) = reachable(&limit, wanted) else {
        return;
    };
    let current = limit.current;
    let raised = Rlimit {
        current: Some(reachable),
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) if reachable >= wanted => {
            debug!(from = ?current, to = wanted, "descriptor limit raised")
        }
        Ok(()) => warn!(
            limit = reachable,
            wanted,
            "too few file descriptors for --max-concurrent-calls: raise the hard limit (LimitNOFILE, ulimit -Hn)"
        ),
        Err(error) => {
            warn!(%error, current, wanted, "the limit of file descriptors cannot be raised")
        }
    }
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
}
