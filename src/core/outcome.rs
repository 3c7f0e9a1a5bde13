//! How a call ended: one closed set that serves metric label, event, API and
//! record alike.

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The caller hung up after a worker had been attached.
    CallerHungUp,
    /// The worker ended the call: `hangup`, `stop`, or a normal close.
    WorkerHungUp,
    /// The worker handed the call to another number by REFER.
    Transferred,
    /// The caller hung up or cancelled before any worker was there.
    Abandoned,
    /// No worker came in time; the caller got the fallback.
    NoWorker,
    /// The worker was lost and nobody took over.
    WorkerLost,
    /// The caller's RTP stopped without a BYE.
    MediaTimeout,
    /// `--max-call-duration` was reached.
    DurationLimit,
    /// The call was refused: no capacity, or draining.
    Refused,
    /// SIP or media failed on the way.
    Failed,
    /// The bridge was shut down.
    Shutdown,
    /// The bridge process died during the call.
    BridgeLost,
}

impl Outcome {
    /// The name used in Redis, metrics, logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller-hung-up",
            Self::WorkerHungUp => "worker-hung-up",
            Self::Transferred => "transferred",
            Self::Abandoned => "abandoned",
            Self::NoWorker => "no-worker",
            Self::WorkerLost => "worker-lost",
            Self::MediaTimeout => "media-timeout",
            Self::DurationLimit => "duration-limit",
            Self::Refused => "refused",
            Self::Failed => "failed",
            Self::Shutdown => "shutdown",
            Self::BridgeLost => "bridge-lost",
        }
    }
}

impl std::fmt::Display for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}
