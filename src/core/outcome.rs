//! How a call ended: one closed set that serves metric label, event, API and
//! record alike.

/// The outcome of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The caller hung up after a worker had been attached.
    CallerHungUp,
    /// The worker ended the call: `hangup`, `stop`, or a normal close.
    WorkerHungUp,
    /// Somebody ended the call through the API.
    ApiHungUp,
    /// The callee of a call that we placed hung up.
    CalleeHungUp,
    /// A call that we placed was ended before its answer.
    Cancelled,
    /// A call that we placed was not answered in time.
    NoAnswer,
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
    /// Refused: by us for want of capacity, or as the incoming callback said;
    /// or by the callee of a call that we placed. The SIP status says more.
    Refused,
    /// SIP or media failed on the way.
    Failed,
    /// The bridge was shut down.
    Shutdown,
    /// The bridge process died during the call.
    BridgeLost,
}

impl Outcome {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::CallerHungUp,
        Self::WorkerHungUp,
        Self::ApiHungUp,
        Self::CalleeHungUp,
        Self::Cancelled,
        Self::NoAnswer,
        Self::Transferred,
        Self::Abandoned,
        Self::NoWorker,
        Self::WorkerLost,
        Self::MediaTimeout,
        Self::DurationLimit,
        Self::Refused,
        Self::Failed,
        Self::Shutdown,
        Self::BridgeLost,
    ];

    /// The outcome of this name; `None` for a name of a later version.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == name)
    }

    /// The name used in Redis, metrics, logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::CallerHungUp => "caller-hung-up",
            Self::WorkerHungUp => "worker-hung-up",
            Self::ApiHungUp => "api-hung-up",
            Self::CalleeHungUp => "callee-hung-up",
            Self::Cancelled => "cancelled",
            Self::NoAnswer => "no-answer",
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_name_is_read_back() {
        for outcome in Outcome::ALL {
            assert_eq!(Outcome::parse(outcome.as_str()), Some(outcome));
        }
        assert_eq!(Outcome::parse("nonsense"), None);
    }
}
