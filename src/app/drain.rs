//! Draining: no new calls, while those in progress go on as if nothing were.
//! What ends them when they take too long is `run`'s business.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::{info, warn};

use crate::core::ids::LineId;
use crate::fleet::CallLimiter;
use crate::fleet::REGISTERS_PER_SECOND;
use crate::sip::engine::{Command, SharedEngine};

/// How often the log says how many calls are left.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Returns when no call is left, or when the time is over.
pub async fn wait_for_calls(call_limiter: &CallLimiter, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let next = deadline.min(Instant::now() + TELL_EVERY);
        if timeout_at(next, call_limiter.empty()).await.is_ok() {
            info!("drained: no call is left");
            return;
        }
        let calls = call_limiter.active();
        if next == deadline {
            info!(calls, "the drain timeout is over");
            return;
        }
        let left_s = (deadline - next).as_secs();
        info!(calls, left_s, "draining");
    }
}

/// Unregisters one line after the other, no faster than they registered: the
/// registrar is not flooded, and the calls' commands wait behind none of it.
/// Dropped half way, it leaves the rest in `lines`.
pub async fn unregister_in_turn(engine: &SharedEngine, lines: &mut impl Iterator<Item = LineId>) {
    for line in lines {
        unregister(engine, line);
        sleep(Duration::from_secs(1) / REGISTERS_PER_SECOND).await;
    }
}

/// Unregisters the lines that are left once the calls are over, at the same
/// pace, as far as the time goes; then says how many are left to expire.
pub async fn unregister_rest(
    engine: &SharedEngine,
    lines: impl Iterator<Item = LineId>,
    limit: Duration,
) {
    let deadline = Instant::now() + limit;
    let mut lines = lines.peekable();
    let all = timeout_at(deadline, unregister_in_turn(engine, &mut lines)).await;
    if all.is_err() && lines.peek().is_some() {
        let lines = lines.count();
        warn!(
            lines,
            "the shutdown timeout is over: these lines are left to the SIP stack's last two seconds"
        );
    }
}

/// Takes one line off its registrar.
pub fn unregister(engine: &SharedEngine, line: LineId) {
    // A full command queue only means that pjsip does it when it is destroyed.
    let _ = engine.submit(Command::Unregister(line));
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fleet::{Limits, SharedFleet};
    use crate::sim::{AdmitAll, SimEngine};
    use std::sync::Arc;
    use tokio::time::timeout;

    const LIMIT: Duration = Duration::from_secs(300);

    fn call_limiter() -> Arc<CallLimiter> {
        CallLimiter::new(&SharedFleet::new(Limits {
            calls: 10,
            ..Limits::default()
        }))
    }

    #[tokio::test(start_paused = true)]
    async fn draining_ends_with_the_last_call_or_with_its_time() {
        let call_limiter = call_limiter();
        let started = Instant::now();
        wait_for_calls(&call_limiter, LIMIT).await;
        assert_eq!(started.elapsed(), Duration::ZERO, "nobody to wait for");

        let line = LineId::new("a");
        let [first, last] = [(); 2].map(|()| call_limiter.enter(&line).unwrap());
        call_limiter.drain();
        wait_for_calls(&call_limiter, Duration::ZERO).await;
        assert_eq!(started.elapsed(), Duration::ZERO, "0 is not at all");
        drop(first);
        wait_for_calls(&call_limiter, LIMIT).await;
        assert_eq!(started.elapsed(), LIMIT);

        let ended = tokio::spawn(async move {
            sleep(Duration::from_secs(100)).await;
            drop(last);
        });
        wait_for_calls(&call_limiter, LIMIT).await;
        assert_eq!(started.elapsed(), LIMIT + Duration::from_secs(100));
        ended.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn lines_unregister_no_faster_than_they_registered() {
        let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
        let engine: SharedEngine = sim;
        let mut lines = (0..120).map(|number| LineId::new(number.to_string()));
        let second = Duration::from_secs(1);
        let done = timeout(second, unregister_in_turn(&engine, &mut lines)).await;
        assert!(done.is_err(), "120 lines take more than a second");
        let told = std::iter::from_fn(|| events.try_recv().ok()).count();
        assert!((40..=51).contains(&told), "{told} in a second");
        assert_eq!(told + lines.count(), 120, "the rest is left, none is lost");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_unregisters_at_the_same_pace_and_no_longer_than_it_may() {
        let (sim, mut events) = SimEngine::new(Arc::new(AdmitAll));
        let engine: SharedEngine = sim;
        let lines = || (0..120).map(|number| LineId::new(number.to_string()));
        let mut told = || std::iter::from_fn(|| events.try_recv().ok()).count();
        let started = Instant::now();
        unregister_rest(&engine, lines(), Duration::from_secs(1)).await;
        assert_eq!(
            started.elapsed(),
            Duration::from_secs(1),
            "until its time is over"
        );
        assert!((40..=51).contains(&told()), "the pace of registering");
        let started = Instant::now();
        unregister_rest(&engine, lines(), LIMIT).await;
        assert_eq!(told(), 120, "all of them, where there is time");
        assert!(started.elapsed() < Duration::from_secs(3), "and no longer");
    }
}
