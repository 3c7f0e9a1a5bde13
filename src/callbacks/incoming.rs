//! The question before a call is taken. Whatever goes wrong with it, the call
//! is taken: a receiver that is slow or broken costs no call.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tracing::{debug, warn};

use super::client::{Client, Reply};
use super::error::CallbackError;
use super::stats::{Counters, count};
use super::target::CallbackTarget;
use crate::core::call::{Accepted, CallDecision};
use crate::core::call_object::CallObject;
use crate::core::callback::answer::read_answer;
use crate::core::callback::event_body;
use crate::core::log_limiter::LogLimiter;

/// `event` of the question.
const EVENT: &str = "incoming";
/// How often the log says that there was no usable answer.
const TELL_EVERY: Duration = Duration::from_secs(30);

/// Asks `--incoming-callback-url`. Clones share everything.
#[derive(Clone)]
pub struct Incoming {
    client: Client,
    target: CallbackTarget,
    counters: Arc<Counters>,
    failures: Arc<Mutex<LogLimiter>>,
}

impl Incoming {
    /// Asks that receiver. What becomes of it is counted in the same place as
    /// what becomes of status callbacks.
    #[must_use]
    pub fn new(client: Client, target: CallbackTarget, status: &super::StatusCallbacks) -> Self {
        Self {
            client,
            target,
            counters: status.counters.clone(),
            failures: Arc::new(Mutex::new(LogLimiter::new(TELL_EVERY))),
        }
    }

    /// Asks whether this call is taken. Takes as long as a callback may.
    pub async fn ask(&self, call: CallObject) -> CallDecision {
        count(&self.counters.asked);
        match self.answer(&call).await {
            Ok(decision) => {
                debug!(call_id = %call.facts.id, "the incoming callback was answered");
                checked(decision)
            }
            Err(error) => {
                count(&self.counters.unanswered);
                let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
                let told = failures.count(Instant::now());
                drop(failures);
                if let Some(times) = told {
                    warn!(%error, times, "the incoming callback gave no usable answer: the call is taken");
                }
                CallDecision::Accept(Box::default())
            }
        }
    }

    async fn answer(&self, call: &CallObject) -> Result<CallDecision, CallbackError> {
        let body = event_body(call, EVENT, None, SystemTime::now());
        let reply = self.client.send(&self.target, &body.to_string()).await?;
        let host = self.target.to_string();
        match reply {
            Reply { status, .. } if !(200..300).contains(&status) => {
                Err(CallbackError::Status { host, status })
            }
            Reply { is_cut: true, .. } => Err(CallbackError::TooLong {
                host,
                max_bytes: super::client::ANSWER_BYTES_MAX,
            }),
            Reply { body, .. } => {
                read_answer(&body).map_err(|reason| CallbackError::Answer { host, reason })
            }
        }
    }
}

/// An unusable callback address is left out; `wsTarget` is checked by who dials it.
fn checked(decision: CallDecision) -> CallDecision {
    let CallDecision::Accept(accepted) = decision else {
        return decision;
    };
    let Accepted { callback_url, .. } = &*accepted;
    let parsed = callback_url
        .as_ref()
        .map(|url| CallbackTarget::parse_foreign(url.expose()));
    let Some(Err(error)) = parsed else {
        return CallDecision::Accept(accepted);
    };
    warn!(%error, "callbackUrl in the incoming callback's answer is left out");
    CallDecision::Accept(Box::new(Accepted {
        callback_url: None,
        ..*accepted
    }))
}
