//! Callbacks over HTTP, and the token that signs them.

use std::time::Duration;

use super::mistake::Problem;
use super::reader::Reader;
use super::url::ServiceUrl;
use crate::core::callback::Method;
use crate::core::private::Secret;

const SCHEMES: &[&str] = &["http", "https"];
const EXAMPLE: &str = "https://user:password@host/path";
/// A caller hears nothing while the incoming callback is asked.
const TIMEOUT_MAX: Duration = Duration::from_secs(60);

/// Who is told of calls, and who is asked.
#[derive(Clone, Debug)]
pub struct CallbacksConfig {
    /// `--status-callback-url`: for calls without an address of their own.
    pub status_url: Option<ServiceUrl>,
    /// `--incoming-callback-url`: asked before a call is taken.
    pub incoming_url: Option<ServiceUrl>,
    /// `--callback-method`.
    pub method: Method,
    /// `--callback-timeout`.
    pub timeout: Duration,
    /// `--auth-token`: signs callbacks and the upgrades of push mode.
    pub auth_token: Option<Secret>,
}

pub(super) fn callbacks(reader: &mut Reader) -> CallbacksConfig {
    let timeout = reader.seconds("callback-timeout", 0.1);
    if timeout > TIMEOUT_MAX {
        let problem = Problem::Seconds("0.1".into(), TIMEOUT_MAX.as_secs());
        reader.mistake("callback-timeout", problem);
    }
    CallbacksConfig {
        status_url: reader.url("status-callback-url", SCHEMES, EXAMPLE),
        incoming_url: reader.url("incoming-callback-url", SCHEMES, EXAMPLE),
        method: reader.choice(
            "callback-method",
            "POST or GET",
            [Method::Post, Method::Get],
        ),
        timeout,
        auth_token: reader.secret("auth-token"),
    }
}
