//! What can go wrong with Redis. No message holds the URL: it may hold a password.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// A failure of the room `queue`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// `--redis-url` is no usable address.
    #[error(
        "the Redis address (--redis-url) is unusable; expected redis://[user:password@]host[:port][/db] or rediss://…"
    )]
    BadUrl,
    /// The CA file could not be used.
    #[error("cannot read CA certificates from {path}: {reason}")]
    CaFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// Redis is known to be away; nothing was sent.
    #[error("Redis is not connected ({failure}); the bridge keeps trying")]
    Disconnected {
        /// Why, as the last attempt found.
        failure: RedisFailure,
    },
    /// Redis did not answer in time. The command may still arrive.
    #[error("Redis did not answer within {} ms", after.as_millis())]
    TimedOut {
        /// The time it was given.
        after: Duration,
    },
    /// Redis or the connection failed on the command.
    #[error("Redis failed: {failure} ({text})")]
    Failed {
        /// What kind of failure.
        failure: RedisFailure,
        /// The server's or the system's words.
        text: String,
    },
    /// The Redis user may not run what sharing lines takes.
    #[error(
        "the Redis user may not do what bridges need to share lines ({text}); give it the keys ~cluster:* and ~bridge:*, the channels &bridge:*, and the commands +@read +@write +@scripting +@pubsub +time"
    )]
    NotPermitted {
        /// The server's words.
        text: String,
    },
    /// Another bridge runs under the name of this one.
    #[error(
        "another bridge runs with --node-id {node}; each bridge needs a name of its own: stop that one, or start this one with another --node-id"
    )]
    Conflict {
        /// The name.
        node: String,
    },
    /// The hash of leases holds more lines than bridges can share.
    #[error("the Redis key {key} holds more than {max} lines; remove those that no bridge has")]
    TooManyLeases {
        /// The key.
        key: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// It answers, and is of a kind that the bridge cannot work with.
    #[error("{0}")]
    Unsuitable(&'static str),
    /// The key that should hold the queue holds something else.
    #[error("the Redis key {queue} (--queue) is a {kind}, not a list; choose another name")]
    NotAList {
        /// The queue's name.
        queue: String,
        /// Its type in Redis.
        kind: String,
    },
}

impl QueueError {
    pub(super) fn failed(error: &RedisError) -> Self {
        Self::Failed {
            failure: RedisFailure::of(error),
            text: error.to_string(),
        }
    }
}

/// Why Redis cannot be used: one closed set for messages, health and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RedisFailure {
    /// The first connection is still being made.
    Connecting,
    /// No connection: refused, reset, no route, no such host, TLS failed.
    Unreachable,
    /// It does not answer.
    TimedOut,
    /// User or password are wrong or missing.
    Denied,
    /// It is a replica that takes no writes: a failover is under way.
    ReadOnly,
    /// It is loading its data, or its master is down.
    NotReady,
    /// It takes no writes for now: memory or disk is full, a script hogs it,
    /// or too few replicas follow.
    NoWrites,
    /// It refused the command: no permission, wrong type.
    Refused,
    /// Another bridge runs under the name of this one.
    Conflict,
    /// The bridge is shutting down.
    Stopped,
}

impl RedisFailure {
    /// The name used in logs and the API.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed-out",
            Self::Denied => "denied",
            Self::ReadOnly => "read-only",
            Self::NotReady => "not-ready",
            Self::NoWrites => "no-writes",
            Self::Refused => "refused",
            Self::Conflict => "node-id-conflict",
            Self::Stopped => "stopped",
        }
    }

    pub(super) fn of(error: &RedisError) -> Self {
        if error.is_timeout() {
            return Self::TimedOut;
        }
        match error.kind() {
            ErrorKind::AuthenticationFailed => Self::Denied,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Self::ReadOnly,
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::TryAgain,
            ) => Self::NotReady,
            ErrorKind::Server(_) | ErrorKind::UnexpectedReturnType => Self::Refused,
            ErrorKind::Extension => match error.code() {
                Some("NOAUTH" | "WRONGPASS") => Self::Denied,
                Some("OOM" | "MISCONF" | "NOREPLICAS" | "BUSY") => Self::NoWrites,
                _ => Self::Refused,
            },
            _ => Self::Unreachable,
        }
    }

    /// Whether a new connection may well do what the old one did not: it was
    /// dropped, or a failover is under way.
    pub(super) const fn may_pass_at_once(self) -> bool {
        matches!(self, Self::Unreachable | Self::ReadOnly | Self::NotReady)
    }

    /// Whether the connection is of no more use after this.
    pub(super) const fn breaks_connection(self) -> bool {
        !matches!(self, Self::Refused)
    }
}

impl fmt::Display for RedisFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
