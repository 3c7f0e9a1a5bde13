//! Whether the other end of a WebSocket is alive on TCP: pings it, and looks when it was last heard of.

use std::time::Duration;

use tokio::time::Instant;

use crate::worker::WorkerSocket;

/// How often the other end is pinged.
pub(super) const PING_EVERY: Duration = Duration::from_secs(10);
/// One that has not been heard of for this long is dead on TCP: at least
/// one ping of ours has gone unanswered for 8 s. Noticed within 20 s.
const DEAD_AFTER: Duration = Duration::from_secs(18);
/// When a ping that found no room is tried again.
const PING_AGAIN: Duration = Duration::from_secs(1);
/// Shortest pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(100);

/// The pings of one socket.
#[derive(Debug)]
pub(in crate::bridge) struct KeepAlive {
    ping_at: Instant,
    /// When to look again whether anything was heard.
    look_at: Instant,
}

impl KeepAlive {
    /// A socket that is up since now.
    pub(in crate::bridge) fn new(now: Instant) -> Self {
        let ping_at = now + PING_EVERY;
        Self {
            ping_at,
            look_at: ping_at,
        }
    }

    /// When [`KeepAlive::handle_time`] wants to be called.
    pub(in crate::bridge) const fn poll_timeout(&self) -> Instant {
        self.look_at
    }

    /// Pings; gives for how long nothing was heard where that means that the other end is dead.
    pub(in crate::bridge) fn handle_time(
        &mut self,
        now: Instant,
        socket: &mut WorkerSocket,
    ) -> Option<Duration> {
        if self.look_at > now {
            return None;
        }
        // While this process was stalled nobody listened: no silence of the other end.
        let stalled = now.saturating_duration_since(self.look_at);
        let silent = socket.silent_for().saturating_sub(stalled);
        if self.ping_at <= now {
            let sent = socket.ping();
            self.ping_at = now + if sent { PING_EVERY } else { PING_AGAIN };
        }
        let dead_at = now + DEAD_AFTER.saturating_sub(silent).max(LOOK_AGAIN);
        self.look_at = self.ping_at.min(dead_at);
        (silent >= DEAD_AFTER).then_some(silent)
    }
}
