//! The question before a call is taken, and what its answer changes in the
//! call: its parameters, its worker, its own callback address.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;

use tokio::time::Instant;
use tracing::{info, warn};

use super::driver::Driver;
use crate::core::call::{Accepted, CallDecision};
use crate::core::call_object::CallObject;

/// Asked before a call is taken. Whatever goes wrong with the question, its
/// answer is to take the call.
pub trait IncomingAsk: Send + Sync {
    /// Whether this call is taken, and how.
    fn ask(&self, call: CallObject) -> Pin<Box<dyn Future<Output = CallDecision> + Send>>;
}

impl Driver {
    /// Puts the question; its answer comes as a pending thing.
    pub(super) fn ask_incoming(&mut self) {
        let Some(ask) = &self.context.ask else {
            return self.handle_decision(Instant::now(), CallDecision::Accept(Box::default()));
        };
        self.pending.decision = Some(ask.ask(self.publisher.call().clone()));
    }

    /// The answer is here.
    pub(super) fn handle_decision(&mut self, now: Instant, decision: CallDecision) {
        let (decision, parameters, callback_url) = match decision {
            CallDecision::Accept(accepted) => self.take_terms(*accepted),
            CallDecision::Reject(status) => {
                info!(status, "the incoming callback rejects the call");
                (decision, BTreeMap::new(), None)
            }
            CallDecision::Ignore => {
                info!("the incoming callback leaves the call to others");
                (decision, BTreeMap::new(), None)
            }
        };
        self.publisher.settled(&parameters, callback_url);
        self.call.handle_decision(now.into_std(), &decision);
    }

    /// What of the terms can be used; the call's own parameters and callback address.
    fn take_terms(
        &mut self,
        mut accepted: Accepted,
    ) -> (CallDecision, BTreeMap<String, String>, Option<String>) {
        let parameters = std::mem::take(&mut accepted.custom_params);
        match accepted
            .ws_target
            .as_ref()
            .map(|url| self.context.foreign_dialer(url.expose()))
        {
            None => {}
            Some(Ok(dialer)) => self.dialer = Some(dialer),
            Some(Err(error)) => {
                warn!(%error, "wsTarget in the incoming callback's answer is left out");
                accepted.ws_target = None;
            }
        }
        let callback_url = accepted.callback_url.take();
        let callback_url = callback_url.map(|url| url.expose().to_owned());
        let decision = CallDecision::Accept(Box::new(accepted));
        (decision, parameters, callback_url)
    }
}
