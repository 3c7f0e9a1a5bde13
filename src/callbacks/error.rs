//! What can go wrong with a callback. Messages name scheme and host, never a
//! whole URL: paths, queries and user information may hold secrets.

use std::time::Duration;

use crate::core::callback::answer::AnswerError;

/// A failure of the room `callbacks`.
#[derive(Debug, thiserror::Error)]
pub enum CallbackError {
    /// No address for a callback.
    #[error("a callback's address is unusable: {0}; expected http://host/path or https://…")]
    BadTarget(&'static str),
    /// The extra CA file could not be used.
    #[error("cannot read CA certificates from {path}: {reason}")]
    CaFile {
        /// The file.
        path: std::path::PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The client cannot be made.
    #[error("callbacks cannot be sent: {0}")]
    Client(String),
    /// A call's own address that leads into the operator's network.
    #[error(
        "the callback receiver {host} is at {address}, which is no public address: allow its network with --allow-callback (ALLOW_CALLBACK) if it is yours"
    )]
    NotPermitted {
        /// Scheme, host and port.
        host: String,
        /// Where it would lead.
        address: std::net::IpAddr,
    },
    /// It could not be reached, or went away.
    #[error("the callback receiver {host} cannot be reached: {reason}")]
    Network {
        /// Scheme, host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// It took too long as a whole.
    #[error("the callback receiver {host} did not answer within {} ms (--callback-timeout)", after.as_millis())]
    Slow {
        /// Scheme, host and port.
        host: String,
        /// The time it was given.
        after: Duration,
    },
    /// It answered, with a status that is of no use.
    #[error("the callback receiver {host} answered with HTTP status {status}{}", advice(*.status))]
    Status {
        /// Scheme, host and port.
        host: String,
        /// Its HTTP status.
        status: u16,
    },
    /// The answer to the incoming callback is longer than any could be.
    #[error("the callback receiver {host} sent more than {max_bytes} bytes")]
    TooLong {
        /// Scheme, host and port.
        host: String,
        /// The limit.
        max_bytes: usize,
    },
    /// The answer to the incoming callback says nothing.
    #[error("the callback receiver {host}: {reason}")]
    Answer {
        /// Scheme, host and port.
        host: String,
        /// What is wrong with it.
        reason: AnswerError,
    },
}

fn advice(status: u16) -> &'static str {
    match status {
        300..=399 => ": redirects are not followed, give the final address",
        401 | 403 => ": see --auth-token, and user:password in the URL",
        _ => "",
    }
}
